"""A run repeated from its record, and what is refused because it is no longer the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import digitruns
import hostile
import pytest
from grounds import REPO
from runkit import Here

from modelhub_hpc.images import Image

OPTIONS = ("--nan", "keep", "--case-timeout", "77", "--chunk-size", "2")


@pytest.fixture
def here(tmp_path: Path) -> Here:
    """A folder with a run, "run", of a model, "model", over scans in "scans"."""
    made = Here(tmp_path)
    model = shutil.copytree(digitruns.DIGITS, tmp_path / "model")
    scans = digitruns.inputs(tmp_path / "scans", ["a", "b", "c d"])
    digitruns.submit(made, tmp_path / "run", scans, *OPTIONS, model=model)
    return made


def loaded(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_a_run_is_repeated_with_its_options(here: Here) -> None:
    done = here("rerun", "run", "--outdir", "again", "--case-timeout", "88")
    assert done.code == 0, done.text
    first, again = (loaded(here.folder / name / "run.json") for name in ("run", "again"))
    assert again["repeats"] == first["run_id"] != again["run_id"] and "repeats" not in first
    assert again["site"] == {**first["site"], "case_timeout_s": 88.0}
    assert {name: again[name] for name in ("plan", "model", "roots", "cases", "image")} == {
        name: first[name] for name in ("plan", "model", "roots", "cases", "image")
    }
    assert loaded(here.folder / "again/record.json")["repeats"] == first["run_id"]
    crate = {each["@id"]: each for each in loaded(here.folder / "again/ro-crate-metadata.json")["@graph"]}
    assert crate["./"]["isBasedOn"] == {"@id": "#repeated"} and crate["#repeated"]["name"] == first["run_id"]
    assert first["run_id"] in (here.folder / "again/methods.md").read_text()
    assert here("diff", "run", "again").code == 0
    assert (here.folder / "again/results.csv").read_bytes() == (here.folder / "run/results.csv").read_bytes()


def test_a_repeated_run_goes_on_like_any_other(here: Here) -> None:
    assert here("rerun", "run", "--outdir", "again").code == 0
    (here.folder / "again/shards/c000001.jsonl").unlink()
    assert here("resume", "again").code == 0 and here("diff", "run", "again").code == 0
    again = here("rerun", "again", "--outdir", "third")
    assert again.code == 0
    assert loaded(here.folder / "third/run.json")["repeats"] == loaded(here.folder / "again/run.json")["run_id"]
    there = here("rerun", "run", "--outdir", "again")
    assert there.code == 2 and "mh-hpc resume" in there.err


def test_nothing_is_written_by_a_dry_run(here: Here) -> None:
    facts = here.json("rerun", "run", "--outdir", "again", "--dry-run")
    assert facts["cases"] == 3 and not (here.folder / "again").exists()


def test_another_model_is_refused(here: Here, tmp_path: Path) -> None:
    shutil.rmtree(here.folder / "model")
    digitruns.altered(here.folder / "model")
    done = here("rerun", "run", "--outdir", "again")
    # where it was there is another one, and the one that ships is the same
    assert done.code == 0 and loaded(here.folder / "again/run.json")["model"]["path"] == str(digitruns.DIGITS)
    refused = here("rerun", "run", "--outdir", "other", "--model", here.folder / "model")
    then = loaded(here.folder / "run/run.json")["model"]["digest"]
    assert refused.code == 4 and "not the one of that run" in refused.err and then in refused.err
    assert "--changed-model" in refused.err and not (here.folder / "other").exists()
    taken = here("rerun", "run", "--outdir", "other", "--model", here.folder / "model", "--changed-model")
    assert taken.code == 0, taken.text
    assert here("diff", "run", "other").code == 3


def test_a_model_that_is_nowhere(here: Here) -> None:
    shutil.rmtree(here.folder / "model")
    record = loaded(here.folder / "run/run.json")
    record["model"]["name"] = "nowhere-net"
    (here.folder / "run/run.json").write_text(json.dumps(record))
    done = here("rerun", "run")
    assert done.code == 4 and "There is no model 'nowhere-net'" in done.err
    assert here("rerun", "run", "--outdir", "again", "--model", "digits-cnn").code == 0


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda scan: scan.unlink(), "missing"),
        (lambda scan: scan.write_bytes(scan.read_bytes() + b"\0"), "bytes instead of"),
        (lambda scan: os.utime(scan, (1, 1)), "another time of change"),
    ],
)
def test_changed_inputs_are_refused(here: Here, change: Any, words: str) -> None:
    change(here.folder / "scans/b.png")
    done = here("rerun", "run", "--outdir", "again")
    assert done.code == 4 and "1 case" in done.err and words in done.err and "--changed-inputs" in done.err
    assert not (here.folder / "again").exists()
    taken = here("rerun", "run", "--outdir", "again", "--changed-inputs")
    assert taken.code == (3 if words == "missing" else 0), taken.text


def test_digests_tell_a_touched_input_from_a_changed_one(here: Here) -> None:
    assert here("record", "run", "--hash-inputs").code == 0
    scan = here.folder / "scans/b.png"
    os.utime(scan, (1, 1))
    assert here("rerun", "run", "--outdir", "again").code == 0
    assert here("diff", "run", "again").code == 0
    data = bytearray(scan.read_bytes())
    data[-1] ^= 1
    scan.write_bytes(data)
    done = here("rerun", "run", "--outdir", "third")
    assert done.code == 4 and "another content" in done.err


def test_an_archive_is_repeated_elsewhere(here: Here) -> None:
    assert here("record", "run", "--hash-inputs", "--zip", "run.zip").code == 0
    elsewhere = here.folder / "elsewhere"
    shutil.unpack_archive(here.folder / "run.zip", elsewhere / "run")
    shutil.copytree(here.folder / "scans", elsewhere / "data", copy_function=shutil.copyfile)  # with other times
    for name in ("run", "scans"):
        shutil.rmtree(here.folder / name)
    done = here("rerun", elsewhere / "run", "--outdir", "again")
    assert done.code == 4 and "missing" in done.err and "--inputs-root" in done.err
    moved = f"{here.folder / 'scans'}={elsewhere / 'data'}"
    done = here("rerun", elsewhere / "run", "--outdir", "again", "--inputs-root", moved)
    assert done.code == 0, done.text
    assert here("diff", elsewhere / "run", "again").code == 0
    assert str(elsewhere / "data/c d.png") in (here.folder / "again/manifest.csv").read_text()
    assert here("rerun", elsewhere / "run", "--inputs-root", "nonsense").code == 2


def test_series_that_share_a_folder_are_repeated(tmp_path: Path) -> None:
    here = Here(tmp_path)
    hostile.dicom_series(str(tmp_path / "scans/both"), "1.2.3", 3)
    hostile.dicom_series(str(tmp_path / "scans/both"), "1.2.4", 2)
    digitruns.submit(here, tmp_path / "run", tmp_path / "scans", model=REPO / "tests/contributions/mean")
    assert here.json("record", "run", "--hash-inputs")["inputs"]["files"] == 5
    done = here("rerun", "run", "--outdir", "again")
    assert done.code == 0, done.text
    assert here.json("diff", "run", "again")["cases"] == {"same": 2}


@pytest.mark.apptainer
def test_the_image_has_to_be_the_same(here: Here, image: Image) -> None:
    scans, how = here.folder / "scans", ("--gpu", "off", "--executor", "inline")
    done = here("-q", "submit", "--model", "digits-cnn", "--inputs", scans / "a.png", "--outdir", "contained", *how)
    assert done.code == 0, done.text
    assert here("rerun", "contained", "--outdir", "again").code == 0
    assert here("diff", "contained", "again").code == 0
    text = (here.folder / "contained/methods.md").read_text()
    assert f"SHA-256 {image.sha256}" in text and "Apptainer " in text and "[@singularity-2017]" in text
    host = here("rerun", "contained", "--outdir", "host", "--runtime", "host")
    assert host.code == 4 and "here: none (--runtime host)" in host.err
    assert here("rerun", "contained", "--outdir", "host", "--runtime", "host", "--changed-image").code == 0
    record = loaded(here.folder / "contained/run.json")
    record["image"] |= {"sha256": "0" * 64, "digest": "", "tree": ""}
    (here.folder / "contained/run.json").write_text(json.dumps(record))
    other = here("rerun", "contained", "--outdir", "other")
    assert other.code == 4 and "0" * 64 in other.err and image.sha256 in other.err and "--changed-image" in other.err
