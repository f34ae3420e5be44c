"""An image and a contribution as published in 2018, through the whole product: Python 2.7, and all below /root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import Site
from grounds import REPO
from legacy_images import LABELS, LIMIT_S, NAMES, STRIPES, Store, archive, convert, mh_hpc, weave

from modelhub_hpc import apptainer
from modelhub_hpc.launch import SessionSpec, Stranger
from modelhub_hpc.record import RunPaths, load_array
from modelhub_hpc.session import Session
from modelhub_hpc.wire import Request

pytestmark = [pytest.mark.apptainer, pytest.mark.slow]
COUNT = 20
SAMPLES = STRIPES / "contrib_src/sample_data"
PRIVATE = ("/root", "/root/weights/w.npy", "/usr/local/lib/python2.7/dist-packages/six.py")

# case -> probability of each label, and the array
Answers = Mapping[str, tuple[dict[str, float], Any]]


@pytest.fixture(scope="module")
def legacy(legacy_store: Store) -> Store:
    return legacy_store


@pytest.fixture(scope="module")
def woven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder of pictures, and what each shows."""
    folder = tmp_path_factory.mktemp("woven")
    return folder, weave(folder, COUNT)


@pytest.fixture(scope="module")
def answers(
    legacy: Store, woven: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Answers:
    """What `mh-hpc run` says to the pictures."""
    arrays = tmp_path_factory.mktemp("run") / "arrays"
    done = legacy.run("run", STRIPES, woven[0], "--json", "-o", arrays)
    assert done.returncode == 0, done.stderr
    return dict(told(json.loads(done.stdout), arrays))


def test_it_is_mended_and_certified(legacy: Store) -> None:
    certificate = legacy.answer["certificate"]
    assert certificate["certified"], certificate
    states = {finding["code"]: finding["state"] for finding in certificate["audit"]["findings"]}
    assert states["unreadable"] == "mended" and "open" not in states.values()
    assert certificate["audit"]["interpreter"] == legacy.answer["image"]["interpreter"] == "python"
    assert certificate["audit"]["python"].startswith("2.7")
    assert certificate["audit"]["cwd"] == "/contrib_src"
    checks = {check["name"]: check for check in certificate["checks"]}
    assert checks["numpy"]["detail"] == "1.16.6" and checks["SimpleITK"]["detail"] == "1.2.4"


def test_what_was_private_is_open_and_what_was_hidden_is_gone(legacy: Store) -> None:
    look = [*("stat", "-c", "%a %n"), *PRIVATE, "/usr/local/bin/start-model", "/etc/apt"]
    bare = ["apptainer", "-s", "exec", "--containall", "--no-home", str(legacy.sif), *look]
    done = subprocess.run(bare, cwd="/", capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 1 and "/etc/apt" in done.stderr
    modes = [line.split()[0] for line in done.stdout.splitlines()]
    assert modes == ["755", "644", "644", "755"]


def test_run_knows_the_patterns(answers: Answers, woven: tuple[Path, dict[str, str]]) -> None:
    best = {case: max(labels, key=lambda each: labels[each]) for case, (labels, _) in answers.items()}
    assert best == woven[1]
    for labels, responses in answers.values():
        assert sum(labels.values()) == pytest.approx(1, abs=1e-5)
        scores = 20 * np.abs(responses.sum(axis=(1, 2)))
        expected = np.exp(scores) / np.exp(scores).sum()
        assert [labels[name] for name in LABELS] == pytest.approx(list(expected), abs=1e-5)


def test_submit_says_the_same(
    legacy: Store, woven: tuple[Path, dict[str, str]], answers: Answers, tmp_path: Path
) -> None:
    site = Site(tmp_path, "apptainer", "local", STRIPES)
    site.inputs = woven[0]
    ended = site.submit("--workers", "2", variables={"MH_HPC_CACHE_DIR": str(legacy.cache)})
    assert ended.code == 0, ended.text
    given = {}
    for result in site.results():
        pattern, responses = result.outputs
        given[result.case_id] = (labels_of(pattern.prediction), load_array(RunPaths(site.outdir), responses))
    assert_same(given, answers)
    assert any(b"loading the network" in log.read_bytes() for log in (site.outdir / "logs").iterdir())
    assert site.leaves_nothing()


def test_a_deployment_image_says_the_same(
    legacy: Store, woven: tuple[Path, dict[str, str]], answers: Answers, tmp_path: Path
) -> None:
    sif, arrays = tmp_path / "stripes.sif", tmp_path / "arrays"
    built = legacy.run("build", STRIPES, "-o", sif)
    assert built.returncode == 0, built.stderr
    places = ["--bind", f"{woven[0]}:/pictures:ro", "--bind", f"{tmp_path}:/results"]
    pictures = [f"/pictures/{path.name}" for path in sorted(woven[0].iterdir())]
    command = ["apptainer", "-s", "run", *places, str(sif), "-o", "/results/arrays", *pictures]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    assert_same(dict(told(json.loads(done.stdout), arrays)), answers)
    tried = subprocess.run(
        ["apptainer", "-s", "test", str(sif)], cwd="/", capture_output=True, timeout=LIMIT_S
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_without_mending_it_does_not_start(tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may read everything")
    sif = tmp_path / "plain.sif"
    apptainer.build(sif, f"docker-archive:{archive('2.7')}", tmp_path)
    done = mh_hpc("run", STRIPES, SAMPLES / "checks.png", "--image", sif)
    assert done.returncode != 0
    assert "Permission denied: '/root/weights/w.npy'" in done.stderr


def test_a_library_that_nobody_may_write_to(legacy: Store, tmp_path: Path) -> None:
    library = tmp_path / "library"
    shutil.copytree(legacy.cache, library, copy_function=os.link)
    folders = [library, *(path for path in library.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        places = {"MH_HPC_LIBRARY_DIRS": str(library), "MH_HPC_CACHE_DIR": str(tmp_path / "empty")}
        done = mh_hpc("run", STRIPES, SAMPLES, "--json", **places)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3


def test_another_user_of_the_machine(legacy: Store, scratch: Path) -> None:
    """The weights are read, and the model's own folders written to, by who is neither their owner nor root."""
    session_of = SessionSpec(
        runtime="apptainer",
        image=legacy.sif,
        interpreter="python",
        contrib_src=STRIPES / "contrib_src",
        roots=(),
        gpus=(),
        threads=1,
        scratch=scratch,
        logs=None,
        start_timeout_s=60.0,
        case_timeout_s=20.0,
        mem_mb=0,
        max_log_mb=1,
        network=False,
        seccomp=True,
        stranger=stranger(),
    )
    request = Request("checks", (("single", "/contrib_src/sample_data/checks.png"),))
    with Session(session_of) as session:
        (labels,) = [labels_of(reply.outputs[0].prediction) for reply in session.predict([request])]
    assert labels["checks"] > 0.99


def test_python_36_below_root(tmp_path: Path) -> None:
    """Another interpreter of that age, of which not even the program itself was readable."""
    newer = convert("3.6", tmp_path / "cache")
    certificate = newer.answer["certificate"]
    assert certificate["certified"], certificate
    assert certificate["audit"]["python"].startswith("3.6")
    model = tmp_path / "mean"
    shutil.copytree(REPO / "tests/contributions/mean", model)
    (model / "init/init.json").write_text(
        json.dumps({"docker_id": NAMES["3.6"], "external_contrib_files": []})
    )
    done = newer.run("run", model, SAMPLES / "checks.png", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"][0]["prediction"] == [128.0]


def told(
    facts: Iterable[Mapping[str, Any]], arrays: Path
) -> Iterator[tuple[str, tuple[dict[str, float], Any]]]:
    """What the JSON of `mh-hpc run` and of a deployment image says; arrays: their folder on this side."""
    for case in facts:
        assert case["status"] == "done", case
        pattern, responses = case["output"]
        found = arrays / Path(responses["file"]).relative_to(Path(responses["file"]).parents[1])
        yield case["case"], (labels_of(pattern["prediction"]), np.load(found))


def labels_of(prediction: Any) -> dict[str, float]:
    return {each["label"]: each["probability"] for each in prediction}


def assert_same(given: Answers, expected: Answers) -> None:
    assert given.keys() == expected.keys()
    for case, (labels, responses) in given.items():
        assert labels == expected[case][0]
        assert responses.dtype == np.float32 and np.array_equal(responses, expected[case][1])


def stranger() -> Stranger:
    """Another user to the kernel; skips where none is to be had."""
    if os.getuid() == 0:
        other = Stranger(65534, ("unshare", "--mount", "--propagation", "private"))
    else:
        ids = ("--map-auto", "--map-user=0", "--map-group=0")
        other = Stranger(1000, ("unshare", "--user", "--mount", *ids))
    if subprocess.run([*other.namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine gives this user no other user's id")
    return other
