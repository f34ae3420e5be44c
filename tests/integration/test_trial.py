"""`mh-hpc test` with models that do in their containers what models may not do, each told by what it did."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bright import INFERENCE, PROCESSING, picture, write
from grounds import CACHE
from legacy_images import NAMES, STRIPES, Store

from modelhub_hpc import cli, images
from modelhub_hpc.contributing.verdicts import CHECKS

CODE, CONFIG = "contrib_src/inference.py", "contrib_src/model/config.json"
CALL = "self._imageProcessor.computeOutput(self._imageProcessor.loadAndPreprocess(input))"


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MH_HPC_CACHE_DIR": str(CACHE), **variables}
    command = [sys.executable, "-m", "modelhub_hpc.cli", "test", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder.parent)


def tried(folder: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """What the command answers, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = cli.main(["test", str(folder), "--json", *words])
    assert found == code, out.getvalue() + err.getvalue()
    answer: dict[str, Any] = json.loads(out.getvalue())
    assert answer["passed"] == (code == 0)
    return answer


def verdicts(answer: dict[str, Any]) -> dict[str, bool | None]:
    return {check["name"]: check["ok"] for check in answer["checks"]}


def problems(answer: dict[str, Any]) -> list[dict[str, str]]:
    return [problem for check in answer["checks"] for problem in check["problems"]]


def before(folder: Path, *lines: str) -> None:
    """Have the model do this before it answers."""
    body = "".join(f"        {line}\n" for line in lines)
    text = INFERENCE.replace("        return", f"{body}        return")
    (folder / CODE).write_text(f"import os\nimport random\n{text}")


def answering(folder: Path, expression: str) -> None:
    """Have the model answer this instead; `outputs` is what it was."""
    text = INFERENCE.replace(f"return {CALL}", f"outputs = {CALL}\n        return {expression}")
    (folder / CODE).write_text(f"import os\nimport random\nimport numpy\n{text}")


@pytest.fixture(params=["host", pytest.param("apptainer", marks=pytest.mark.apptainer)])
def where(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The words that choose the runtime."""
    if request.param == "apptainer":
        request.getfixturevalue("image")
    return ("--runtime", str(request.param))


@pytest.fixture
def bright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MH_HPC_CACHE_DIR", str(CACHE))
    monkeypatch.chdir(tmp_path)
    return write(tmp_path)


def test_a_model_that_does_all_right_is_measured(bright: Path, where: tuple[str, ...]) -> None:
    state = {path: path.read_bytes() for path in bright.rglob("*") if path.is_file()}
    answer = tried(bright, *where)
    told = verdicts(answer)
    assert tuple(told) == CHECKS
    contained = where[1] == "apptainer"
    assert told["another user"] in ((True, None) if contained else (None,))
    assert told == {
        **dict.fromkeys(CHECKS, True),
        "expected": None,
        "another user": told["another user"],
        **({} if contained else dict.fromkeys(("offline", "read-only", "no root"))),
    }
    measured = json.loads((bright / "measured.json").read_bytes())
    assert measured == answer["measured"]
    assert measured["seconds_per_case"] > 0 and measured["memory_mb"] > 0 and measured["start_s"] > 0
    assert bool(measured["image"]) == bool(measured["image_digest"]) == contained
    assert measured["machine"] and measured["date"] and measured["engine"]
    state[bright / "measured.json"] = (bright / "measured.json").read_bytes()
    assert {path: path.read_bytes() for path in bright.rglob("*") if path.is_file()} == state


def test_expected_outputs_are_written_and_then_held_to(bright: Path) -> None:
    answer = tried(bright, "--runtime", "host", "--update-expected")
    place = bright / "contrib_src/sample_data/expected"
    assert {Path(each).name for each in answer["written"]} == {*os.listdir(place), "measured.json"}
    assert verdicts(tried(bright, "--runtime", "host"))["expected"] is True
    (bright / "contrib_src/processing.py").write_text(PROCESSING.replace("/ 255", "/ 250"))
    answer = tried(bright, "--runtime", "host", code=4)
    assert {each["check"] for each in problems(answer)} == {"expected"}
    assert "the output 'brightness' is 0." in problems(answer)[0]["what"]
    assert "--update-expected" in problems(answer)[0]["mend"]


def test_a_wrong_shape_is_not_what_was_expected(bright: Path) -> None:
    tried(bright, "--runtime", "host", "--update-expected")
    for name in ("light.png", "shade.png"):
        np.save(bright / f"contrib_src/sample_data/expected/{name}.1.npy", np.zeros((7, 7), "float32"))
    (found, _) = problems(tried(bright, "--runtime", "host", code=4))
    assert found["what"] == "the output 'pixels' has the shape [8, 8] instead of [7, 7]"


ANSWERS = {
    "a wrong type": (
        "[outputs[1], outputs[1]]", "outputs", "is a label_list, but it is a float32 array of shape [8, 8]",
    ),
    "a wrong shape": (
        "[outputs[0], outputs[1].ravel()]", "outputs", "is a heatmap, but it is a float32 array of shape [64]",
    ),
    "too few": ("[outputs[1]]", "outputs", "returned 1 outputs where the configuration names 2 outputs"),
    "no probabilities": (
        "[[{'label': 'a', 'probability': float('nan')}], outputs[1]]", "outputs", "is not a finite number",
    ),
    "chance": ("[outputs[0], outputs[1] + random.random()]", "repeats", "differs in 64 of 64 values"),
    "a process": ("[outputs[0], outputs[1] + os.getpid()]", "repeats", "differs in 64 of 64 values"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_that_are_no_good(name: str, bright: Path) -> None:
    expression, check, what = ANSWERS[name]
    answering(bright, expression)
    found = problems(tried(bright, "--runtime", "host", code=4))
    assert check in {each["check"] for each in found}
    assert any(what in each["what"] and each["mend"] and each["sample"] == "light.png" for each in found)


def test_chance_is_allowed_within_a_tolerance(bright: Path) -> None:
    answering(bright, "[outputs[0], outputs[1] + numpy.float32(1e-6 * random.random())]")
    assert {each["check"] for each in problems(tried(bright, "--runtime", "host", code=4))} == {"repeats"}
    tried(bright, "--runtime", "host", "--update-expected")
    answer = tried(bright, "--runtime", "host")
    assert verdicts(answer)["repeats"] is verdicts(answer)["expected"] is True
    assert "within the tolerance" in json.dumps(answer)


def test_a_model_that_does_not_start_is_told_why(bright: Path) -> None:
    (bright / CODE).write_text("import no_such_module\n")
    answer = tried(bright, "--runtime", "host", code=4)
    (found,) = problems(answer)
    assert found["check"] == "starts" and "no_such_module" in found["evidence"]
    assert {ok for name, ok in verdicts(answer).items() if name != "starts"} == {None}
    assert not (bright / "measured.json").exists()


def test_a_model_that_crashes_fails_by_the_sample(bright: Path) -> None:
    before(bright, "os._exit(3)")
    (found,) = problems(tried(bright, "--runtime", "host", code=4))
    assert (found["check"], found["sample"]) == ("predicts", "light.png")
    assert "exit code 3" in found["what"]


def test_a_model_on_the_host_may_not_write_beside_its_code(bright: Path) -> None:
    before(bright, "open('model/cache.txt', 'w').close()")
    (found,) = problems(tried(bright, "--runtime", "host", code=4))
    assert found["check"] == "read-only" and "it wrote to model/cache.txt" in found["what"]


# what containers forbid: the check that fails, and what is said
DEEDS = {
    "a folder in the root": ("os.mkdir('/weights')", "read-only", "may write to: /weights"),
    "a file beside the code": ("open('model/cache.txt', 'w')", "read-only", "may write to: model/cache.txt"),
    "the network": (
        "__import__('urllib.request').request.urlopen('http://example.org/weights', timeout=5)",
        "offline", "it phones home",
    ),
    "root": ("open('/tmp/a', 'w').close(); os.chown('/tmp/a', 12345, 12345)", "no root", "it needs root"),
}  # fmt: skip


@pytest.mark.apptainer
@pytest.mark.parametrize("name", DEEDS)
def test_what_a_container_forbids_is_told_by_its_name(name: str, bright: Path, image: images.Image) -> None:
    deed, check, what = DEEDS[name]
    before(bright, deed)
    answer = tried(bright, code=4)
    found = next(each for each in problems(answer) if each["check"] == check)
    assert what in found["what"] and found["sample"] == "light.png" and found["mend"]
    assert verdicts(answer)["starts"] is True and verdicts(answer)["predicts"] is False


@pytest.mark.apptainer
def test_a_model_that_phones_home_to_start_is_told_so(bright: Path, image: images.Image) -> None:
    fetch = "__import__('urllib.request').request.urlopen('http://example.org/weights', timeout=5)"
    (bright / CODE).write_text(INFERENCE.replace("    def infer", f"        {fetch}\n\n    def infer"))
    answer = tried(bright, code=4)
    assert [each["check"] for each in problems(answer)] == ["starts", "offline"]
    assert problems(answer)[1]["what"].startswith("it phones home")
    assert verdicts(answer)["predicts"] is None


@pytest.mark.apptainer
def test_what_works_for_one_user_alone_is_found_out(bright: Path, image: images.Image) -> None:
    if verdicts(tried(bright))["another user"] is None:
        pytest.skip("no other user can be had here")
    before(bright, "open('model/closed').close()")
    (bright / "contrib_src/model/closed").write_text("")
    (bright / "contrib_src/model/closed").chmod(0o600)
    found = next(each for each in problems(tried(bright, code=4)) if each["check"] == "another user")
    assert "works for you, but not for another user" in found["what"] and "model/closed" in found["what"]


@pytest.mark.apptainer
def test_port_80_is_not_to_be_had(bright: Path, image: images.Image) -> None:
    before(bright, "__import__('socket').socket().bind(('', 80))")
    found = problems(tried(bright, code=4))
    assert any("a port that is only for root, such as port 80" in each["what"] for each in found)


@pytest.mark.apptainer
def test_a_model_of_2018_in_its_own_python(legacy_store: Store, tmp_path: Path) -> None:
    stripes = tmp_path / "stripes"
    shutil.copytree(STRIPES, stripes)
    (stripes / "README.md").write_text("# stripes\n")
    done = legacy_store.run("validate", stripes)
    assert done.returncode == 0 and "stripes: nothing is wrong; its code was judged by Python 2.7." in done.stdout
    (stripes / "contrib_src/later.py").write_text("def later(*, number):\n    return f'{number}'\n")
    done = legacy_store.run("validate", stripes)
    assert done.returncode == 4
    assert f"contrib_src/later.py, line 1: is not valid in Python 2.7.18 in {NAMES['2.7']}" in done.stderr
    done = legacy_store.run("test", stripes, "--update-expected", "--json")
    assert done.returncode == 0, done.stderr
    assert verdicts(json.loads(done.stdout))["repeats"] is True
    done = legacy_store.run("test", stripes, "--json")
    assert verdicts(json.loads(done.stdout))["expected"] is True


def test_without_apptainer_the_exit_code_is_5(bright: Path) -> None:
    done = run(bright, PATH="/nonexistent")
    assert done.returncode == 5 and "Apptainer is not installed" in done.stderr


def test_without_samples_there_is_nothing_to_try(bright: Path) -> None:
    for path in (bright / "contrib_src/sample_data").iterdir():
        path.unlink()
    done = run(bright, "--runtime", "host")
    assert done.returncode == 4 and "has no samples" in done.stderr


def test_the_table_names_what_failed(bright: Path) -> None:
    before(bright, "raise ValueError('no good')")
    done = run(bright, "--runtime", "host")
    assert done.returncode == 4
    assert "✘  predicts" in done.stdout and done.stdout.rstrip().endswith("bright: 1 check failed.")
    assert done.stderr.count("predicts, light.png, shade.png: ValueError: no good") == 1 and "    | " in done.stderr
    assert "of 6" in done.stderr  # it says how it goes on


def test_hostile_names_of_samples(bright: Path, where: tuple[str, ...]) -> None:
    for name in ("a\nb.png", "-rf.png", "ü ?*.png", os.fsdecode(b"\xff.png")):
        picture(bright / "contrib_src/sample_data" / name, 100)
    done = run(bright, *where)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 samples" in done.stdout
