"""The report of a run: that it holds what it must, flags what was planted, and cannot be made to do anything else."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from markupsafe import escape
from PIL import Image
from grounds import OBEDIENT, REPO
from runkit import Here

sys.path.insert(0, str(REPO / "benchmarks"))

from bench import cohort  # noqa: E402

from modelhub_hpc import report  # noqa: E402
from modelhub_hpc.contribution import OutputSpec  # noqa: E402
from modelhub_hpc.plan import Case  # noqa: E402
from modelhub_hpc.record import (  # noqa: E402
    ArrayOutput,
    CaseError,
    CaseResult,
    Cost,
    RunPaths,
    ShardWriter,
    load_volume,
)
from modelhub_hpc.report import charts, mosaic, outliers  # noqa: E402
from modelhub_hpc.report.failures import Failures  # noqa: E402
from modelhub_hpc.report.measures import Measuring  # noqa: E402
from modelhub_hpc.report.survey import survey  # noqa: E402
from modelhub_hpc.runs import reading  # noqa: E402

ODD = REPO / "tests/contributions/odd"
MODELS = REPO / "registry/contributions"
HOSTILE = "<img src=x onerror=document.title='taken'> & \"co\""
HALF = os.fsdecode(b"half\xff\xfe")
LARGE, EMPTY, CROPPED, APART, NAN_HEAT, NAN_SCORE = "large", "empty", "cropped", "apart", "nan-heat", "nan-score"
_VOID = {"meta", "input", "br", "img", "hr", "link", "source", "base", "embed", "wbr"}
_ALLOWED_URLS = ("#", "data:image/webp;base64,")


class Page(HTMLParser):
    """A page as a browser takes it apart: its elements, their text, and whether they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        kept = {"script": self.scripts, "style": self.styles}.get(self._open[-1] if self._open else "", self.texts)
        kept.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def classed(self, word: str) -> list[dict[str, str | None]]:
        return [given for _, given in self.elements if word in (given.get("class") or "").split()]


def submit(model: Path, outdir: Path, *more: object, code: int = 0) -> Path:
    here = Here(outdir.parent)
    how = ("--outdir", outdir, "--runtime", "host", "--executor", "inline")
    done = here("-q", "submit", "--model", model, *more, *how)
    assert done.code == code, done.text
    return outdir


def page_of(run: Path, *more: object) -> tuple[Page, dict[str, Any]]:
    """What the command writes, and what it answers; every page is looked at for what none may have."""
    said = Here(run.parent).json("report", run, *more)
    text = Path(said["report"]).read_text("utf-8")
    assert len(text.encode()) == said["bytes"]
    page = Page(text)
    assert text.isprintable() or set(text) - {"\n", "\t"} == set(filter(str.isprintable, text))
    nothing_from_elsewhere(page)
    return page, said


def nothing_from_elsewhere(page: Page) -> None:
    """No address of anywhere, no script but ours, and a policy under which the browser agrees."""
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "link", "base", "form", "audio", "video", "img"), tag
        assert not any(name.startswith("on") or name in ("style", "srcdoc") for name in attributes), attributes
        for name in ("src", "href", "xlink:href", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(_ALLOWED_URLS), value
    (policy,) = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; ")
    assert len(page.scripts) == 1 and len(page.styles) == 1
    for part, content in (("script-src", page.scripts[0]), ("style-src", page.styles[0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{part} 'sha256-{digest}';" in policy
    assert "url(" not in page.styles[0] and "@import" not in page.styles[0]


def counts(page: Page) -> list[str]:
    """The figures at the top: of cases, done, failed, quarantined, without a result."""
    words = [text.strip() for text in page.texts if text.strip()]
    names = ("cases", "done", "failed", "quarantined", "without a result yet")
    return [words[words.index(name) + 1] for name in names]


# -- runs to report on -------------------------------------------------------------------------------------------------


def ball(radius: float, wish: int = 0, size: tuple[int, int, int] = (26, 26, 20)) -> np.ndarray:
    """x, y, z: an organ with a lesion in it, both of the radius's size; the first voxel tells the model what to do."""
    axes = np.indices(size) - np.reshape(size, (3, 1, 1, 1)) / 2
    away = np.sqrt((axes**2).sum(axis=0))
    voxels = np.where(away < radius, 150, 20) + np.where(away < 0.7 * radius, 100, 0)
    voxels[0, 0, 0] = wish
    return voxels.astype(np.int16)


def write(path: Path, voxels: np.ndarray, shift: float = 0.0) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[0, 3] = shift
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ordinary cases, one of each kind that has to be noticed, and one that fails with a hostile message."""
    folder = tmp_path_factory.mktemp("planted")
    cases = {f"plain-{number:02d}": ball(7.0 + number % 5 / 5) for number in range(12)}
    cases |= {LARGE: ball(12.0), EMPTY: ball(0.0), APART: ball(7.3)}
    cases |= {name: ball(7.3, wish) for wish, name in enumerate((CROPPED, NAN_HEAT, NAN_SCORE, HOSTILE), 1)}
    cases[HALF] = ball(7.3, 4)
    for name, voxels in cases.items():
        write(folder / "inputs" / name / "ct.nii", voxels)
        write(folder / "inputs" / name / "pet.nii", voxels, shift=1.0 if name == APART else 0.0)
    return submit(ODD, folder / "run", "--inputs", folder / "inputs", code=3)


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> cohort.Cohort:
    """Sixty cases in two processes: two fail, and one ends the model's process."""
    return cohort.brains(tmp_path_factory.mktemp("brains"), 60, size=(20, 20, 16))


Told = tuple[Page, dict[str, Any]]


@pytest.fixture(scope="module")
def of_brains(brains: cohort.Cohort) -> Told:
    return page_of(brains.run)


@pytest.fixture(scope="module")
def of_planted(planted: Path) -> Told:
    return page_of(planted)


# -- what must be there ------------------------------------------------------------------------------------------------


def test_failures_come_first_and_say_why(brains: cohort.Cohort, of_brains: Told) -> None:
    page, said = of_brains
    assert [said[name] for name in ("cases", "done", "failed", "quarantined", "pending")] == [60, 57, 2, 1, 0]
    assert counts(page) == ["60", "57", "2", "1", "0"]
    text = page.text
    order = ["Failures", "Quarantined: 1 case, 1.7 %", "Failed: 2 cases, 3.3 %", "Quality", "Pictures of", "Time",
             "Resources", "What was run"]  # fmt: skip
    places = [text.rindex(words) if words in ("Failures", "Quality", "Time", "Resources", "What was run") else
              text.index(words) for words in order]  # fmt: skip
    assert places == sorted(places)
    for case in (*brains.failing, *brains.crashing):
        assert case in text
    assert "killed by SIGABRT" in text and "its gzip data ends too early" in text
    assert "Traceback (most recent call last)" in text and "flair does not lie on the grid of t1" in text


def test_volumes_of_every_structure_are_told_in_ml(brains: cohort.Cohort, of_brains: Told) -> None:
    page, _ = of_brains
    run = reading.read(brains.run)
    (given,) = survey(run, 5, lambda cases: None).outputs
    assert given.masks == 57 and set(given.structures) == {"1", "2", "4"}
    expected = []  # by another way
    for result in run.results():
        if result.status == "done":
            volume = load_volume(run.paths, result.outputs[0])
            assert volume.geometry is not None
            expected.append(float((volume.voxels == 2).sum() * np.prod(volume.geometry.spacing) / 1000))
    _, found, unit = given.structures["2"].measure()
    assert unit == "ml" and found == pytest.approx(expected)
    for name in ("core", "oedema", "enhancing"):
        assert f"{name}, ml" in page.text
    assert all(word in page.text for word in ("median absolute deviation", "|z| > 3.5"))


def test_where_time_went_and_what_was_run(brains: cohort.Cohort, of_brains: Told) -> None:
    page, _ = of_brains
    run, record = reading.read(brains.run).request, json.loads((brains.run / "record.json").read_bytes())
    for words in ("Seconds in the model per case", "Throughput", "Slowest cases", "Tried more than once: 1 case",
                  "Workers", "Nodes", run.model.digest, run.model.id, run.engine, run.plan, run.command,
                  f"phantom-brats {run.model.version}", record["nodes"][0], "none: it ran on"):  # fmt: skip
        assert words in page.text, words
    assert "Energy of its GPUs not measured" in page.text
    for name in ("methods.md", "CITATION.bib"):
        assert " ".join((brains.run / name).read_text("utf-8").split()) in page.text
    assert "not as built in: runtime, " in page.text


def test_jobs_workers_and_gpus_have_their_rows(planted: Path, tmp_path: Path) -> None:
    """As on a cluster with GPUs and accounts: the same results, with other signatures and costs."""
    run = tmp_path / "run"
    shutil.copytree(planted, run)
    before = reading.read(planted)
    results = list(before.results())
    shutil.rmtree(run / "shards")
    (run / "shards").mkdir()
    bounds = [[0, 9], [9, 11]]
    (run / "chunks.json").write_text(json.dumps({"format": 1, "plan": before.request.plan, "chunks": bounds}))
    seconds = {"start": 2.0, "read": 1.0, "model": 60.0, "write": 3.0, "chunk": 75.0}
    for number, (first, count) in enumerate(bounds):
        by = {"worker": f"w{number}", "node": f"node-{number}", "job": "4711", "gpus": [f"GPU-{number}"],
              "gpu_models": ["A<100>"], "seconds": seconds, "unmeasured": {"gpu_energy_j": "it <does> not tell"}}
        plan = before.request.run_id, before.request.plan
        with ShardWriter(RunPaths(run), *plan, number, by=lambda by=by: by) as shard:  # type: ignore[misc]
            for result in results[first : first + count]:
                outputs = tuple(each for each in result.outputs if each.dataset is None)
                here = {"host": f"node-{number}", "cost": Cost(100.0 + number, 2000.0, None)}
                shard.add(dataclasses.replace(result, outputs=outputs, **here))
            assert shard.publish()
    record = json.loads((run / "record.json").read_bytes())
    used = {"state": "COMPLETED", "node": "node-0", "cpu_hours": 1.25, "gpu_hours": None, "peak_mb": 900}
    jobs = [{"id": "4711", "kind": "worker", "used": used}, {"id": "4712", "kind": "driver", "used": None}]
    record |= {"jobs": jobs, "usage": {"cpu_hours": 1.25, "gpu_hours": None, "peak_mb": 900}}
    (run / "record.json").write_text(json.dumps(record))
    page, _ = page_of(run)
    for words in ("node-0 GPU-0 A<100> 1 1 min 0 s", "2 s 1 min 0 s 3 s 10 s 1 s node-1 11",
                  "w1 node-1 4711 GPU-1 1 2 s 1 min 0 s 3 s 10 s 1 s",
                  "Peak memory of its GPUs 20 2,000 MiB 2,000 MiB -", "101 MiB",
                  "Energy of its GPUs not measured: it <does> not tell", "4711 worker COMPLETED node-0 1.25 - 900",
                  "4712 driver - - - - -", "1.25 CPU hours, no figure for GPU hours, 900 MiB at most"):  # fmt: skip
        assert words in page.text, words


def test_a_report_is_the_same_each_time(brains: cohort.Cohort, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("one.html", "two.html"))
    run = reading.read(brains.run)
    for path in (first, second):
        report.write(run, path, 9)
    one, two = (re.sub(r"was made [^.]+\.", "", path.read_text()) for path in (first, second))
    assert one == two
    rows = survey(run, 9, lambda cases: None).rows
    assert len(rows) == 9 and rows != sorted(rows)[:9] and max(rows) > 9


def test_pictures_are_a_sample_that_is_said_and_bounds_the_size(brains: cohort.Cohort, tmp_path: Path) -> None:
    run, sizes = reading.read(brains.run), {}
    for sample in (0, 4, 40):
        made = report.write(run, tmp_path / "x.html", sample)
        page = Page(made.path.read_text("utf-8"))
        assert len(page.classed("tile")) == made.shown == sample
        assert ("A sample:" in page.text) == (sample > 0)
        sizes[sample] = made.bytes
    assert sizes[0] < sizes[4] < sizes[40] < 2_000_000
    grown = list(mosaic.tiles(run, range(40), 20_000))
    assert 0 < len(grown) < 40 and sum(tile.bytes for tile in grown) <= 20_000


def test_what_is_planted_is_flagged_and_nothing_else(planted: Path, of_planted: Told) -> None:
    page, said = of_planted
    assert said["flagged"] == {"missing": 2, "trouble": 1, "apart": 1, "empty": 1, "outlier": 1}
    found = survey(reading.read(planted), 60, lambda cases: None)
    assert {kind: sorted({flag.case for flag in flags}) for kind, flags in found.flags.items()} == {
        "missing": [NAN_HEAT, NAN_SCORE],
        "trouble": [CROPPED],
        "apart": [APART],
        "empty": [EMPTY],
        "outlier": [LARGE],
    }
    for words in ("mask: the array is 26 x 26 x 19 voxels in x, y, z, the grid of the input 26 x 26 x 20",
                  "pet (26 x 26 x 20) on another grid than ct (26 x 26 x 20)", "heat: 3 of them", "class: 1 of them",
                  "mask marks nothing", "organ: "):  # fmt: skip
        assert words in page.text, words
    assert "never there 0 18 in no case" in page.text and "organ 17 1 " in page.text


def test_flagged_cases_are_among_the_pictures(planted: Path, tmp_path: Path) -> None:
    page, _ = page_of(planted, "--sample", 12, "--to", tmp_path / "x.html")
    assert len(page.classed("flagged")) == 6 and len(page.classed("tile")) == 12
    assert "mask: nothing marked" in page.text and "it is shown by itself" in page.text


def test_labels_and_scores_are_counted(tmp_path: Path) -> None:
    run = submit(MODELS / "digits-cnn", tmp_path / "run", "--inputs", MODELS / "digits-cnn/contrib_src/sample_data")
    page, said = page_of(run)
    assert (said["done"], said["failed"], said["pictures"]) == (10, 0, 10)
    text = page.text
    assert "No case failed." in text and "Probability of the first label" in text and "10 values from" in text
    assert all(f"{word} 1" in text for word in ("zero", "four", "nine"))
    assert len(page.all("image")) == 10  # the digit, and nothing over it
    assert "All cases that are done." in text


def test_slices_are_shown_with_mask_and_outline(tmp_path: Path) -> None:
    lesion = MODELS / "phantom-lesion"
    making = [sys.executable, "-B", lesion / "make_samples.py", tmp_path / "slices", "--count", "7"]
    subprocess.run(making, check=True, capture_output=True, cwd=tmp_path)
    run = submit(lesion, tmp_path / "run", "--inputs", tmp_path / "slices")
    page, said = page_of(run)
    assert said["done"] == 7 and said["flagged"]["trouble"] == 0
    assert 0 < said["flagged"]["empty"] < 7  # every third has no lesion
    assert "lesion, mm²" in page.text and "Largest value" in page.text
    paths = [each for each in page.classed("over") if "d" in each]
    assert len(paths) == 7 - said["flagged"]["empty"]


def test_the_order_of_axes_does_not_matter_and_an_unknown_one_is_no_fault(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"inputs/n{number}.nii", ball(7.0 + number))
    threshold = REPO / "tests/contributions/threshold"
    run = reading.read(submit(threshold, tmp_path / "run", "--inputs", tmp_path / "inputs"))
    found = survey(run, 5, lambda cases: None)
    mask, turned, shares, silent, truth = found.outputs
    volumes, unit = mask.structures["2"].measure()[1:]
    assert unit == "ml" and volumes.tolist() == turned.structures["2"].measure()[1].tolist()
    assert volumes == pytest.approx([(ball(7.0 + number) > 200).sum() * 2 * 2 * 3 / 1000 for number in range(3)])
    assert silent.structures["2"].measure()[2] == "voxels" and truth.structures["1"].measure()[2] == "ml"
    assert len(shares.scores) == 3 and not found.flagged.total()


def test_a_case_counts_once_however_many_of_its_masks_are_empty(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"inputs/n{number}.nii", ball(0.0 if number < 3 else 8.0))
    threshold = REPO / "tests/contributions/threshold"
    run = reading.read(submit(threshold, tmp_path / "run", "--inputs", tmp_path / "inputs"))
    found = survey(run, 4, lambda cases: None)
    assert found.flagged["empty"] == 3 and len(found.flags["empty"]) == 12  # four masks each
    assert sorted(found.chosen(4)) == [0, 1, 2, 3] and len(found.chosen(2)) == 2


def test_pictures_of_another_size_than_their_masks_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(path)
    paths = RunPaths(tmp_path / "run")
    paths.create()
    case = Case("photo", (("single", str(path)),), (), 1, 1)
    masks = {"good": np.zeros((10, 20), np.uint8), "turned": np.ones((20, 10), np.uint8)}
    with ShardWriter(paths, "r", "p", 0) as shard:
        arrays = {name: ArrayOutput(mask, "mask_image", "", {"axes": "y,x"}) for name, mask in masks.items()}
        result = shard.add(CaseResult("photo", 0, "done", (), 0.1, 1, None, (), "here", 1.0), arrays)
        assert shard.publish()
    good, turned = Measuring(paths, [OutputSpec(name, "mask_image", "", "y,x") for name in masks])(case, result).outputs
    assert (good.trouble, good.voxels) == ("", {}) and turned.voxels == {"1": 200}
    assert turned.trouble == "the array is 10 x 20 pixels, the picture 20 x 10"


def test_a_run_of_failures_only(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for number in range(3):
        np.save(inputs / f"n{number}.npy", np.frombuffer(b"FAIL", np.uint8))
    (inputs / "n3.npy").write_bytes(b"")
    page, said = page_of(submit(OBEDIENT, tmp_path / "run", "--inputs", inputs, code=3))
    assert (said["done"], said["failed"], said["pictures"]) == (0, 4, 0)
    assert "model ValueError: told to fail 3 cases" in page.text and "empty" in page.text
    assert "No case is done: there is nothing to judge." in page.text
    assert "refused before the model saw it" in page.text


def test_a_run_that_has_not_begun(brains: cohort.Cohort, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(brains.run, run)
    paths = RunPaths(run)
    for each in (*paths.shards.iterdir(), paths.record_json, paths.chunks_json):
        each.unlink()
    page, said = page_of(run)
    assert (said["cases"], said["done"], said["pending"]) == (60, 0, 60)
    assert counts(page) == ["60", "0", "0", "0", "60"]
    assert "No case has a result yet." in page.text and "not yet" in page.text


def test_inputs_that_have_changed_or_gone_are_not_shown(planted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(planted.parent / "inputs", folder / "inputs")
    run = submit(ODD, folder / "run", "--inputs", folder / "inputs", code=3)
    shutil.rmtree(folder / "inputs/plain-00")
    write(folder / "inputs/plain-01/ct.nii", ball(9.0))
    page, said = page_of(run)
    assert "The input is not there any more." in page.text and "The input has changed since the run" in page.text
    assert said["pictures"] == said["done"] == 18 and "Inputs of 1 case cannot be read any more" in page.text


# -- hostile text ------------------------------------------------------------------------------------------------------


def test_nothing_that_a_case_says_becomes_part_of_the_page(of_planted: Told) -> None:
    page, _ = of_planted  # which holds one script, no image from elsewhere, and no attribute that runs
    text = page.text
    assert HOSTILE in text and "<b>told</b> to fail: \\x1b[31mxxx<script>document.title = 'taken'</script>" in text
    assert "</script><i>odd</i>\\x07" in text and "lesion <em>" in text
    assert "half\\udcff\\udcfe" in text
    assert not {"i", "b", "em"} & {tag for tag, _ in page.elements}


def test_evidence_may_be_enormous(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    model = tmp_path / "model"
    shutil.copytree(OBEDIENT, model)
    with open(model / "contrib_src/inference.py", "a") as stream:
        stream.write("\n    def rant(self, letter):\n        raise ValueError(letter * 200000 + 'the end')\n")
    for number in range(30):
        letter = "abcdefghijklmnopqrstuvwxyz<&>/"[number]
        np.save(inputs / f"n{number:02d}.npy", np.frombuffer(f"RANT {letter}".encode(), np.uint8))
    page, said = page_of(submit(model, tmp_path / "run", "--inputs", inputs, code=3))
    assert said["failed"] == 30 and said["bytes"] < 1_500_000
    assert "characters …" in page.text and "the end" in page.text


def test_many_failures_of_many_kinds_share_the_room() -> None:
    """Evidence that grows fivefold on a page, from more cases and causes than it can hold."""
    found = Failures()
    for number in range(20_000):
        cause = "abcdefghij"[number % 10] * (1 + number % 97)
        error = CaseError("crash" if number % 7 == 0 else "model", f"cause {cause}", '<"\x1b\udcff">' * 2000)
        case = Case(f"case-{number:05d}", (("single", f"/data/{'<' * 600}/{number}.png"),), (), 1, 1)
        result = CaseResult(case.id, number, "failed", (), 0.0, 2, error, (), "node", 1.0)
        found.add(case, result)
    groups = found.groups()
    assert sum(group.count for group in groups) == 20_000 and len(groups) <= 42
    assert [group.quarantined for group in groups] == sorted((group.quarantined for group in groups), reverse=True)
    assert all(group.cases and group.cases[0].evidence for group in groups)
    assert not all(case.evidence for group in groups for case in group.cases)
    words = "".join(case.inputs + case.message + (case.evidence or "") for group in groups for case in group.cases)
    assert len(str(escape(words)).encode("unicode_escape")) < 6_000_000


def test_a_folder_may_be_called_anything(planted: Path, tmp_path: Path) -> None:
    run = tmp_path / f"a run\n{HOSTILE}{HALF}"
    shutil.copytree(planted, run)
    made = report.write(reading.read(run), run / "report.html", 0)
    page = Page(made.path.read_text("utf-8"))
    nothing_from_elsewhere(page)
    assert f"a run {HOSTILE}half\\udcff\\udcfe" in page.text


def test_the_command_says_what_is_wrong(planted: Path, tmp_path: Path) -> None:
    here = Here(tmp_path)
    assert here("report", tmp_path).code == 2
    done = here("report", planted, "--to", tmp_path / "none/x.html")
    assert done.code == 2 and "not a file in a folder that exists" in done.err
    damaged = tmp_path / "run"
    shutil.copytree(planted, damaged)
    (damaged / "report.html").write_text("the old one")
    shard = next(path for path in sorted((damaged / "shards").iterdir()) if path.suffix == ".jsonl")
    shard.write_bytes(shard.read_bytes()[:-40])
    done = here("report", damaged)
    assert done.code == 75 and "Resume the run" in done.err
    assert (damaged / "report.html").read_text() == "the old one"
    plain = here("report", planted)
    assert plain.code == 0 and "18 cases done, 2 failed, 0 quarantined" in plain.out
    assert "Empty mask: 1 case" in plain.out


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volumes", "expected"),
    [
        ([10.0, 11.0, 9.0, 10.5, 9.5, 100.0], [False] * 5 + [True]),
        ([10.0, 11.0, 9.0, 10.5, 9.5, 1.0], [False] * 5 + [True]),  # as odd as ten times too much
        ([10.0] * 9 + [100.0], [False] * 9 + [True]),  # no spread but this one
        ([10.0] * 9, [False] * 9),
        ([1.0, 1.0, 1.0, 1000.0], [False] * 4),  # too few to say
        ([], []),
    ],
)
def test_outliers_are_far_from_the_median_of_logarithms(volumes: list[float], expected: list[bool]) -> None:
    z = outliers.robust_z(np.array(volumes))
    assert (np.abs(z) > outliers.LIMIT).tolist() == expected


def test_robust_z_is_the_textbooks() -> None:
    volumes = np.exp(np.random.default_rng(1).normal(2, 0.5, 101))
    logs = np.log(volumes)
    expected = 0.6745 * (logs - np.median(logs)) / np.median(np.abs(logs - np.median(logs)))
    assert outliers.robust_z(volumes) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.0], [-5.0, 5.0], [1e-9, 1e9], [float("nan"), 3.0],
                                    [1e300, 2e300], [-1e-300, 0.0], [-1e308, 1e308]])  # fmt: skip
def test_histograms_hold_every_finite_value(values: Sequence[float]) -> None:
    chart = charts.histogram(values)
    assert chart is not None and chart.bars and chart.ticks
    assert all(0 <= x <= x + width <= charts.WIDTH and 0 < high <= charts.HEIGHT for x, width, high in chart.bars)
    assert all(-1e-6 <= x <= charts.WIDTH + 1e-6 for x, _ in chart.ticks)


def test_histograms_of_nothing() -> None:
    assert charts.histogram([]) is None and charts.histogram([float("nan")]) is None
    assert charts.timeline([5.0]) is None and charts.timeline([5.0, 5.0]) is None


@pytest.mark.parametrize("seconds", [0.5, 3.0, 90.0, 86_400.0, 4e6])
def test_time_lines_have_times_below_them(seconds: float) -> None:
    chart = charts.timeline(np.linspace(1.7e9, 1.7e9 + seconds, 50))
    assert chart is not None and len(chart.bars) <= 48 and len(chart.ticks) >= (seconds > 1)
