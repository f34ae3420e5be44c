"""Processes and their folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelhub_hpc.processes import ended_folders, private_folder


def left_behind(base: Path, count: int) -> list[Path]:
    """Folders of processes that have ended, as far as their names say."""
    mine = private_folder(base, "kind")
    prefix = mine.name.rsplit("-", 3)[0]
    mine.rmdir()
    folders = [base / f"{prefix}-{2**22 + number}-1-x" for number in range(count)]
    for folder in folders:
        folder.mkdir()
    return folders


def test_a_folder_that_goes_away_while_others_are_swept_is_no_error(tmp_path: Path) -> None:
    folders = left_behind(tmp_path, 3)
    found = ended_folders(tmp_path, "kind")
    first = next(found)
    for folder in set(folders) - {first}:
        shutil.rmtree(folder)
    assert list(found) == []


def test_the_folders_of_the_living_stay(tmp_path: Path) -> None:
    mine = private_folder(tmp_path, "kind")
    folders = left_behind(tmp_path, 2)
    assert sorted(ended_folders(tmp_path, "kind")) == folders and mine.exists()
