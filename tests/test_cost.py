"""What a case takes beside time: measured by real sessions, stored with the result, told in the record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from grounds import IMAGE, OBEDIENT, REPO
from runkit import Here, Site, local_run
from shardkit import PLAN, RUN, paths, result

from modelhub_hpc.gpumeter import GpuMeter
from modelhub_hpc.record import Cost, RunPaths, ShardWriter, makers
from modelhub_hpc.wire import Answers

__all__ = ["paths"]

LITTLE_MB = 12.0  # what a process may need more from one case to the next
ORDERS = {
    "a": "OK 1",
    "b": "NEEDS 90",
    "c": "OK 2",
    "d": "NEEDSINVAIN 40",
    "e": "SEGV",
    "f": "OK 3",
    "g": "NOISE 20 1",
}


def rises(site: Site) -> None:
    """The peak of each case is its own: it rises with what the model needs, and falls again."""
    found = site.by_name()
    peaks = {name: found[name].cost.peak_mb for name in "abcdf"}
    usual = peaks["a"]
    assert usual is not None and 10 < usual < 400
    more = {name: peak - usual for name, peak in peaks.items() if peak is not None}
    expected = {"a": 0, "b": 90, "c": 0, "d": 40, "f": 0}
    assert {name: abs(more[name] - mb) < LITTLE_MB for name, mb in expected.items()} == dict.fromkeys("abcdf", True)
    assert (found["d"].status, found["e"].status) == ("failed", "failed")
    assert found["e"].cost == Cost()  # its process died, and with it what it knew


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A run of cases that need more and less, and of one that ends its process."""
    made = local_run(tmp_path_factory.mktemp("cost"), **ORDERS)
    assert made.submit().code == 3
    return made


def test_each_case_has_the_peak_of_its_own(site: Site) -> None:
    rises(site)


@pytest.mark.apptainer
def test_the_same_in_a_container(image: object, tmp_path: Path) -> None:
    site = Site(tmp_path, "apptainer", "inline")
    for name, order in ORDERS.items():
        site.order(name, order)
    assert site.submit("--image", IMAGE).code == 3
    rises(site)


def test_the_record_says_what_was_measured_and_why_not_the_rest(site: Site) -> None:
    cost, found = site.record()["cost"], site.by_name()
    peaks = [each.cost.peak_mb for each in found.values() if each.cost.peak_mb is not None]
    assert cost["peak_mb"] == pytest.approx({
        "cases": 6, "mean": sum(peaks) / 6, "median": sum(sorted(peaks)[2:4]) / 2, "max": max(peaks), "total": None})
    assert cost["model_seconds"] == pytest.approx(sum(each.seconds for each in found.values()))
    assert (cost["gpu_peak_mb"], cost["gpu_energy_j"]) == (None, None)
    assert cost["missing"] == {"gpu_peak_mb": "no GPU was used", "gpu_energy_j": "no GPU was used"}


def test_results_tell_the_cost_of_each_case(site: Site, tmp_path: Path) -> None:
    told = {each["case"]: each["cost"] for each in Here(tmp_path).json("results", site.outdir)}
    assert told["b"]["peak_mb"] == site.by_name()["b"].cost.peak_mb
    assert told["e"] == {"peak_mb": None, "gpu_peak_mb": None, "gpu_energy_j": None}


def test_stages_are_told_apart(site: Site) -> None:
    stages = site.record()["seconds_per_stage"]
    assert list(stages) == ["start", "read", "model", "write", "chunk"]
    assert stages["read"] > 0 and stages["write"] > 0 and stages["chunk"] > stages["start"] + stages["write"]


def test_shards_of_before_tell_the_stages_that_they_know(paths: RunPaths) -> None:
    before = {"worker": None, "node": "n1", "job": None, "seconds": {"start": 1.0, "model": 2.0, "chunk": 4.0}}
    with ShardWriter(paths, RUN, PLAN, 0, by=lambda: before) as shard:
        shard.add(result(0))
        assert shard.publish()
    (maker,) = makers(paths)
    assert maker.seconds == {"start": 1.0, "model": 2.0, "chunk": 4.0} and maker.cpu_model is None


def test_a_gpu_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1")
    ended = site.submit("--gpu", "on", variables={"CUDA_VISIBLE_DEVICES": "0"})
    if ended.code == 0 and site.results()[0].cost.gpu_peak_mb is not None:
        pytest.skip("this machine has a GPU: benchmarks/gpu.py measures it")
    assert ended.code == 0, ended.text
    missing = site.record()["cost"]["missing"]
    assert missing["gpu_peak_mb"] == missing["gpu_energy_j"] == site.record()["workers"][0]["unmeasured"]["gpu_peak_mb"]
    assert "NVML" in missing["gpu_peak_mb"]


def test_a_gpu_that_workers_share_is_not_measured() -> None:
    meter = GpuMeter(("0",), shared=True)
    assert set(meter.missing) == {"gpu_peak_mb", "gpu_energy_j"}
    meter.begin()
    assert meter.answered(1) == (None, None)
    meter.close()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that knows the obedient model."""
    entry = json.loads((REPO / "registry/models/phantom-brats.json").read_bytes())
    entry.update(name="obedient", id=json.loads((OBEDIENT / "contrib_src/model/config.json").read_bytes())["id"])
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "models").mkdir()
    (folder / "models/obedient.json").write_text(json.dumps(entry))
    return folder


def test_what_past_runs_of_a_model_took(site: Site, shelf: Path, tmp_path: Path) -> None:
    """Two runs of it, in a folder of runs with one that has not ended, one of another model, and what is no run."""
    for number in (1, 2):
        shutil.copytree(site.outdir, tmp_path / f"runs/{number}")
    slower = json.loads((tmp_path / "runs/2/record.json").read_bytes())
    slower["seconds_per_case"].update(median=7.0, p95=8.0)
    slower["counts"]["done"] = 50
    slower["cost"].update(gpu_peak_mb={"cases": 4, "max": 900.0}, gpu_energy_j={"cases": 4, "total": 10.0})
    (tmp_path / "runs/2/record.json").write_text(json.dumps(slower))
    shutil.copytree(site.outdir, tmp_path / "runs/unfinished", ignore=shutil.ignore_patterns("record.json"))
    for name, record in (("other", {**slower, "model": {"id": "x"}}), ("odd", {"model": slower["model"], "cost": 1})):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "run.json").touch()
        (tmp_path / "runs" / name / "record.json").write_text(json.dumps(record))
    here = Here(tmp_path)
    told = here.json("show", "obedient", "--measured", "--registry", shelf)
    worker = site.record()["workers"][0]
    known, odd = sorted(told["measured"], key=lambda each: each["hardware"] == "not recorded")
    assert worker["cpu_model"] and known == {
        "hardware": worker["cpu_model"], "version": slower["model"]["version"], "runs": 2, "cases": 55,
        "seconds": 7.0, "p95_s": 8.0, "peak_mb": site.record()["cost"]["peak_mb"]["max"], "gpu_peak_mb": 900.0,
        "gpu_energy_j": 2.5}
    assert (odd["runs"], odd["cases"], odd["seconds"], odd["peak_mb"]) == (1, 0, None, None)
    assert told["stated"]["seconds_per_case"] is not None
    one = here.json("show", "obedient", "--measured", "--in", "runs/1", "--registry", shelf)["measured"]
    assert [(each["runs"], each["cases"], each["gpu_energy_j"]) for each in one] == [(1, 5, None)]


def test_measured_for_people(site: Site, shelf: Path, tmp_path: Path) -> None:
    here, asked = Here(tmp_path), ("show", "obedient", "--registry", shelf)
    head, row, says = here(*asked, "--measured", "--in", site.outdir).out.splitlines()
    assert head.startswith("hardware") and f"  {site.record()['model']['version']}  " in row
    assert row.split()[-2:] == ["-", "-"] and says.startswith("The registry says: ")
    assert "lies in runs. Others:  --in DIR" in here(*asked, "--measured").out
    missing = here(*asked, "--measured", "--in", "nowhere")
    assert missing.code == 2 and "there is no folder nowhere" in missing.err
    assert here(*asked, "--in", ".").code == 2


def reply(**fields: Any) -> float | None:
    line = json.dumps({"type": "done", "id": "a", "outputs": [], **fields})
    return Answers().reply(json.loads(line), OBEDIENT, 1).peak_mb


def test_an_engine_may_know_no_peak() -> None:
    assert (reply(), reply(peak_mb=None), reply(peak_mb=12), reply(peak_mb=0.5)) == (None, None, 12.0, 0.5)


@pytest.mark.parametrize("given", [0, -1, True, "12", [1], {}, 1e300, 10**400], ids=lambda each: repr(each)[:9])
def test_a_peak_that_is_no_amount_of_memory_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="no amount of memory"):
        reply(peak_mb=given)
