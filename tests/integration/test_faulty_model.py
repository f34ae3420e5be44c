"""One run over a model's every way to go wrong: each fault stays with its case, and all other cases are done."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from driving import Ended, Site
from grounds import OBEDIENT

from modelhub_hpc.record import CaseResult, RunPaths, load_array

GOOD = 10
MEMORY_MB = 500
CASE_S = 6
CRASHES = {
    "SEGV": "killed by SIGSEGV",
    "ABORT": "killed by SIGABRT",
    "EXIT 0": "os._exit or sys.exit?",
    "EXIT 3": "exit code 3",
    "KILL": "killed by SIGKILL",
}
HANGS = ("HANG", "GILHANG")
RAISES = {
    "FAIL": ("model", "told to fail"),
    "QUIT": ("model", "told to quit"),
    "OBJECT": ("output", "object"),
    "OBJECTS": ("output", "object"),
    "NOSUCHCOMMAND": ("model", "nosuchcommand"),
}
LIVES = ("SHOUT 100", "NAN", "NANARRAY", "FORGE", "FORK", "ARRAY 7", "BIG 300")
FAULTS = (*CRASHES, *HANGS, "LEAK", *RAISES)


def name_of(order: str) -> str:
    return order.lower().replace(" ", "_")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Site, Ended]]:
    """The run of each runtime, made once for all the tests that look at it."""
    return {}


@pytest.fixture
def world(runtime: str, worlds: dict[str, tuple[Site, Ended]], tmp_path_factory: pytest.TempPathFactory) -> Site:
    if runtime not in worlds:
        site = Site(tmp_path_factory.mktemp(f"faulty-{runtime}"), runtime, "local")
        write_orders(site)
        limits = ("--case-timeout", str(CASE_S), "--mem", f"{MEMORY_MB}M", "--chunk-size", "8", "--workers", "2")
        worlds[runtime] = site, site.submit(*limits, limit_s=240)
    return worlds[runtime][0]


@pytest.fixture
def ended(world: Site, runtime: str, worlds: dict[str, tuple[Site, Ended]]) -> Ended:
    return worlds[runtime][1]


def write_orders(site: Site) -> None:
    """Good cases between the bad ones, so that each fault has a neighbour to harm."""
    orders = [*FAULTS, *LIVES]
    for number, order in enumerate(orders):
        site.order(f"{number:02d}_{name_of(order)}", order)
        if number < GOOD:
            site.order(f"{number:02d}_z_good", f"OK {number}")


def result_of(site: Site, order: str) -> CaseResult:
    ending = f"_{name_of(order)}"
    (found,) = [r for r in site.results() if r.case_id.endswith(ending)]
    return found


def array_of(site: Site, order: str) -> np.ndarray:
    return load_array(RunPaths(site.outdir), result_of(site, order).outputs[0])


def test_the_run_ends_well_and_says_what_failed(world: Site, ended: Ended) -> None:
    assert ended.code == 3, ended.text
    assert f"failed   {len(FAULTS)}" in ended.out
    counts = world.record()["counts"]
    assert counts == {
        "cases": len(FAULTS) + len(LIVES) + GOOD,
        "done": len(LIVES) + GOOD,
        "failed": len(FAULTS),
        "pending": 0,
        "retried": len(CRASHES) + len(HANGS) + 1,
    }


def test_all_other_cases_are_done(world: Site) -> None:
    good = [r for r in world.results() if r.case_id.endswith("_z_good")]
    expected = [[float(n), 2.0 * n] for n in range(GOOD)]
    assert [r.outputs[0].prediction for r in good] == expected
    assert {r.attempts for r in good} == {1}


@pytest.mark.parametrize("order", CRASHES)
def test_a_crash_is_tried_twice_and_carries_its_evidence(world: Site, order: str) -> None:
    result = result_of(world, order)
    assert result.error is not None and result.error.kind == "crash" and result.attempts == 2
    assert CRASHES[order] in result.error.message
    for fact in ("exit code ", " on host ", "\ncommand: ", "\nlog: "):
        assert fact in result.error.evidence


@pytest.mark.parametrize("order", HANGS)
def test_a_hang_ends_at_the_time_limit(world: Site, order: str) -> None:
    result = result_of(world, order)
    assert result.error is not None and result.error.kind == "timeout" and result.attempts == 2
    assert f"no answer within {CASE_S} s" in result.error.message


def test_a_leak_ends_at_the_memory_limit(world: Site) -> None:
    result = result_of(world, "LEAK")
    assert result.error is not None and result.error.kind == "memory" and result.attempts == 2
    assert f"{MEMORY_MB} MiB" in result.error.message and "--mem" in result.error.message


@pytest.mark.parametrize("order", RAISES)
def test_an_error_of_the_model_is_tried_once(world: Site, order: str) -> None:
    result = result_of(world, order)
    kind, words = RAISES[order]
    assert result.error is not None and result.error.kind == kind and result.attempts == 1
    assert words in result.error.message.lower()


def test_a_model_that_shouts_succeeds_and_its_log_is_bounded(world: Site) -> None:
    assert result_of(world, "SHOUT 100").status == "done"
    sizes = [path.stat().st_size for path in (world.outdir / "logs").iterdir()]
    assert max(sizes) < 65 * 2**20
    logs = [path for path in (world.outdir / "logs").iterdir() if path.stat().st_size > 2**25]
    assert logs and all(b"more bytes were dropped" in path.read_bytes()[-100:] for path in logs)


def test_nan_is_null_in_json_and_kept_in_arrays(world: Site) -> None:
    plain = result_of(world, "NAN")
    assert plain.outputs[0].prediction == [1.0, None, None] and "null" in plain.notes[0]
    array = array_of(world, "NANARRAY")
    assert array[0] == 1.0 and np.isnan(array[1])
    for shard in (world.outdir / "shards").glob("*.jsonl"):
        assert b"NaN" not in shard.read_bytes() and b"Infinity" not in shard.read_bytes()


def test_arrays_arrive_whole(world: Site) -> None:
    assert np.array_equal(array_of(world, "ARRAY 7"), np.full((4, 5), 7.0, "float32"))
    big = array_of(world, "BIG 300")
    assert big.shape == (300, 2**20) and big.dtype == np.uint8 and not big.any()


def test_what_a_model_prints_or_forks_is_no_answer(world: Site) -> None:
    assert result_of(world, "FORGE").outputs[0].prediction == [2.0, 4.0]
    assert result_of(world, "FORK").outputs[0].prediction == [3.0, 6.0]


def test_failures_csv_lists_exactly_the_failed(world: Site) -> None:
    with open(world.outdir / "failures.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case_id"] for row in rows] == [r.case_id for r in world.results() if r.error]
    assert all(row["kind"] and row["message"] for row in rows)


def test_nothing_is_left_behind(world: Site) -> None:
    assert world.leaves_nothing(), world.leftovers()


def test_an_output_above_the_limit_fails_its_case(runtime: str, tmp_path: Path) -> None:
    site = Site(tmp_path, runtime, "inline")
    site.order("a", "BIG 300")
    site.order("b", "OK 1")
    assert site.submit("--max-output", "256M").code == 3
    big, good = site.results()
    assert big.error is not None and big.error.kind == "output" and "--max-output" in big.error.message
    assert "300 MiB" in big.error.message and good.status == "done"
    assert not list((site.outdir / "shards").glob("*.h5"))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_retry_failed_tries_exactly_the_failed(tmp_path: Path) -> None:
    site = Site(tmp_path, "host", "inline")
    for number, order in enumerate(["OK 0", "FAIL", "ARRAY 2", "QUIT", "OK 4"]):
        site.order(f"n{number}", order)
    assert site.submit("--chunk-size", "2").code == 3
    before, results = digests(site.outdir / "shards"), site.by_name()
    again = site.submit("--retry-failed")
    after = digests(site.outdir / "shards")
    assert again.code == 3 and "3 of 5 done, 2 failed, 0 to go and 2 to try again" in again.text
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["c000001.g1.jsonl", "c000002.g1.jsonl"]
    new = site.by_name()
    assert all(new[name] == results[name] for name in ("n0", "n2", "n4"))
    assert all(new[name].started > results[name].started for name in ("n1", "n3"))


def test_retry_failed_heals_what_is_mended(tmp_path: Path) -> None:
    """The model needs a folder that is made only for the second try."""
    model = forgiving_model(tmp_path)
    site = Site(tmp_path, "host", "inline", model)
    for number in range(4):
        site.order(f"n{number}", "OK 1")
    door = tmp_path / "door"
    assert site.submit().code == 3
    assert all("closed" in (r.error.message if r.error else "") for r in site.results())
    door.mkdir()
    assert site.submit("--retry-failed").code == 0
    assert [r.outputs[0].prediction for r in site.results()] == [[1.0]] * 4
    assert site.record()["counts"]["failed"] == 0


def forgiving_model(folder: Path) -> Path:
    source = folder / "forgiving/contrib_src"
    (source / "model").mkdir(parents=True)
    (folder / "forgiving/init").mkdir()
    (folder / "forgiving/init/init.json").write_text(json.dumps({"docker_id": "none/none:1"}))
    config = json.loads((OBEDIENT / "contrib_src/model/config.json").read_text())
    config["meta"]["name"] = "forgiving"
    (source / "model/config.json").write_text(json.dumps(config))
    (source / "inference.py").write_text(FORGIVING.format(door=str(folder / "door")))
    return folder / "forgiving"


FORGIVING = """
import os
from modelhublib.model import ModelBase

class Model(ModelBase):
    def infer(self, input):
        if not os.path.isdir({door!r}):
            raise RuntimeError("closed")
        return [1.0]
"""


@pytest.mark.parametrize(("flags", "failed"), [(("--max-failures", "2"), 3), (("--fail-fast",), 1)])
def test_too_many_failures_stop_the_run_and_it_can_go_on(tmp_path: Path, flags: tuple[str, ...], failed: int) -> None:
    site = Site(tmp_path, "host", "inline")
    for number in range(12):
        site.order(f"n{number:02d}", "FAIL" if number % 2 else f"OK {number}")
    stopped = site.submit("--chunk-size", "1", *flags)
    assert stopped.code == 3, stopped.text
    counts = site.record()["counts"]
    assert counts["failed"] == failed and counts["pending"] == 12 - 2 * failed
    assert "mh-hpc resume" in stopped.err and "failed" in site.record()["stopped"]
    resumed = site.submit()
    assert resumed.code == 3, resumed.text
    assert f"{failed} failed, {12 - 2 * failed} to go" in resumed.text
    assert site.record()["counts"] == {"cases": 12, "done": 6, "failed": 6, "pending": 0, "retried": 0}
