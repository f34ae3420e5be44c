"""Configuration files for clusters: those that `mh-hpc site init` makes, and those that ship as examples."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grounds import REPO
from hypothesis import given, settings
from hypothesis import strategies as st
from slurm_cluster import StartCluster

from modelhub_hpc import cli, config, sitefile, slurm
from modelhub_hpc.config import OPTIONS, SiteConfig
from modelhub_hpc.errors import UnfitError, UsageError
from modelhub_hpc.sitefile import Machine, Profile, make
from modelhub_hpc.slurm import Cluster, Partition

EXAMPLES = sorted((REPO / "hpc/sites").glob("*.yaml"))
CLUSTER = Cluster("big", "23.11.4", "head1", 1001, 10000, True)
LOGIN = Machine(False, True, ("eno1", "ib1"), "/tmp", ("/scratch",))
CPU = Partition("cpu", True, True, "1:00:00", "2-00:00:00", 90, 48, 190000, "", "avx2")
GPU = Partition("gpu", False, True, "n/a", "3-00:00:00", 10, 64, 515000, "gpu:a100:4(S:0-1),nvme:1", "")
OLD = dataclasses.replace(GPU, nodes=2, cpus=20, memory_mb=90000, gres="gpu:v100:4")

Load = Callable[[str], SiteConfig]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without configuration, which is also the working folder."""
    for name in [name for name in os.environ if name.startswith("MH_HPC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "etc"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(home: Path) -> Load:
    """What mh-hpc makes of a configuration file's text."""

    def loaded(text: str) -> SiteConfig:
        (home / "mh-hpc.yaml").write_text(text, encoding="utf-8")
        return config.load()

    return loaded


def plain(site: SiteConfig) -> dict[str, Any]:
    """The options that differ from their defaults."""
    defaults = config.to_json(SiteConfig())
    return {name: value for name, value in config.to_json(site).items() if value != defaults[name]}


def uncommented(text: str) -> str:
    """The file with every option that it offers."""
    return re.sub(r"(?m)^#(?=[a-z_]+: )", "", text)


def comments(made: Profile) -> str:
    """All comments as one line."""
    return " ".join(line[2:].strip() for line in made.text.splitlines() if line.startswith("# "))


# -- the partition, and what a worker gets of it


def test_a_whole_profile(load: Load) -> None:
    made = make([CPU, GPU, OLD], CLUSTER, LOGIN)
    assert made.options == {
        "executor": "slurm",
        "partition": "gpu",
        "gres": "gpu:1",
        "threads": 5,  # of the smallest kind of nodes
        "mem_mb": 22500,
        "controller_partition": "cpu",
        "controller_time": "2-00:00:00",  # workers may have 3 days there
    }
    assert plain(load(made.text)) == made.options
    for text in (
        "the default partition, cpu, has no GPUs, and this one has the most GPUs (48)",
        "gpu: 2 x 20 CPUs, 90000 MiB, gpu:v100:4; at most 3-00:00:00",
        "cpu (default): 90 x 48 CPUs, 190000 MiB, no devices, features avx2; at most 2-00:00:00",
        "Types here: a100, v100; gpu:a100:1 asks for one of them.",
        "keeps accounts of its jobs",
        "apptainer is not on PATH here, but there are modules",
        "reaches slurmctld (head1). This machine has eno1, ib1.",
        "This machine also has /scratch",
    ):
        assert text in comments(made)
    assert '\n#job_prologue: ["module load apptainer"]\n' in made.text
    assert "\n#interface: ib1\n" in made.text
    assert all(len(line) <= 120 for line in made.text.splitlines())


@pytest.mark.parametrize(
    ("kinds", "wanted", "partition", "why"),
    [
        ([CPU, GPU], None, "gpu", "the default partition, cpu, has no GPUs"),
        ([CPU, GPU], "cpu", "cpu", "asked for with --partition"),
        ([CPU], None, "cpu", "it is the default partition, and none here has GPUs"),
        ([GPU, dataclasses.replace(GPU, name="a", default=True, nodes=1)], None, "a", "it is the default partition"),
        ([dataclasses.replace(CPU, up=False), GPU], None, "gpu", "no default partition is up, and this one has"),
        ([GPU, dataclasses.replace(OLD, name="old", nodes=11)], None, "old", "the most GPUs (44)"),
        ([dataclasses.replace(CPU, default=False)], None, "cpu", "the most nodes (90)"),
        ([CPU, dataclasses.replace(GPU, nodes=0)], None, "cpu", "none here has GPUs"),
        ([CPU, dataclasses.replace(GPU, up=False)], "gpu", "gpu", "asked for"),
    ],
)
def test_the_partition_is_chosen_for_a_reason(
    load: Load, kinds: list[Partition], wanted: str | None, partition: str, why: str
) -> None:
    made = make(kinds, CLUSTER, LOGIN, wanted)
    assert (made.partition, load(made.text).partition) == (partition, partition)
    assert why in made.why and made.why in comments(made)
    assert ("It is down now" in comments(made)) == any(each.name == partition and not each.up for each in kinds)


@pytest.mark.parametrize(
    ("default", "longest", "line"),
    [
        ("4:00:00", "1-00:00:00", "time: 4:00:00"),
        ("30:00", "1-00:00:00", "time: 30:00"),
        ("2-12:00:00", "infinite", "time: 2-12:00:00"),
        ("n/a", "1-00:00:00", "#time: 4:00:00"),
        ("n/a", "30:00", "#time: 30:00"),
        ("n/a", "infinite", "#time: 4:00:00"),
        ("infinite", "infinite", "#time: 4:00:00"),
    ],
)
def test_a_walltime_is_said_where_the_partition_has_one(load: Load, default: str, longest: str, line: str) -> None:
    made = make([dataclasses.replace(GPU, default_time=default, longest_time=longest)], CLUSTER, LOGIN)
    assert f"\n{line}\n" in made.text
    assert load(made.text).time == (None if line.startswith("#") else default)
    assert ("no time limit" if longest == "infinite" else f"at most {longest}") in comments(made)


def test_whole_nodes_are_used_by_a_worker_for_each_gpu(load: Load) -> None:
    whole = dataclasses.replace(GPU, exclusive=True, default_time="1:00:00")
    site = load(make([whole], CLUSTER, LOGIN).text)
    assert (config.workers_per_job(site), site.gres) == (4, "gpu:4")
    assert slurm.worker_options(site) == [
        "--partition=gpu",
        "--time=1:00:00",
        "--mem=515000M",
        "--cpus-per-task=64",
        "--gres=gpu:4",
        "--signal=B:USR2@60",
    ]


def test_whole_nodes_without_gpus_are_cut_into_workers(load: Load) -> None:
    site = load(make([dataclasses.replace(CPU, exclusive=True)], CLUSTER, LOGIN).text)
    assert (site.workers_per_job, site.threads, site.mem_mb) == (12, 4, 190000 // 12)
    shared = load(make([CPU], CLUSTER, LOGIN).text)
    assert (shared.workers_per_job, shared.threads, shared.mem_mb, shared.gres) == (None, 4, 190000 // 12, None)


def test_memory_that_slurm_does_not_know_is_not_asked_for(load: Load) -> None:
    made = make([dataclasses.replace(GPU, memory_mb=1)], CLUSTER, LOGIN)
    assert load(made.text).mem_mb is None
    assert "SLURM does not know how much its nodes have" in comments(made)


@pytest.mark.parametrize(
    ("cpu", "partition", "time"),
    [
        ({}, "cpu", "2-00:00:00"),
        ({"longest_time": "3-00:00:00"}, "cpu", None),
        ({"longest_time": "infinite"}, "cpu", None),
        ({"longest_time": "30:00"}, None, None),  # it would end before its workers
        ({"up": False}, None, None),
        ({"exclusive": True}, None, None),  # a driver alone on a node
        ({"gres": "gpu:1"}, None, None),
    ],
)
def test_the_driver_goes_where_no_gpus_are(
    load: Load, cpu: dict[str, Any], partition: str | None, time: str | None
) -> None:
    made = make([dataclasses.replace(CPU, **cpu), GPU], CLUSTER, LOGIN, "gpu")
    site = load(made.text)
    assert (site.controller_partition, site.controller_time) == (partition, time)
    assert slurm.driver_options(config.load({"time": "10"}))[0] == f"--partition={partition or 'gpu'}"


@pytest.mark.parametrize(
    ("gres", "count"),
    [
        ("gpu:2", 2),
        ("gpu", 1),
        ("gpu:a100:4(S:0,2)", 4),
        ("gpu:a100:4(S:0-1),gpu:1g.10gb:7,nvme:1", 11),
        ("gpu:no_consume:3,gpu:h100:no_consume:2", 5),
        ("gpu:1080:2", 2),
        ("nvme:9,gpumem:80G,shard:8", 0),
        ("craynetwork:4,lustre:1", 0),
        ("", 0),
    ],
)
def test_gpus_of_a_node_are_counted(gres: str, count: int) -> None:
    assert sitefile.gpu_count(dataclasses.replace(GPU, gres=gres)) == count


# -- what names may hold


def test_a_partition_that_is_not_there_is_refused_with_those_that_are() -> None:
    odd = [dataclasses.replace(CPU, name=name) for name in ("null", "a b", "-x", "~")]
    for wanted in ("gpus", "null", "a b", "\x1b[31m"):
        with pytest.raises(UsageError, match=r"There are: cpu, gpu\.$") as caught:
            make([CPU, GPU, *odd], CLUSTER, LOGIN, wanted)
        assert "\x1b" not in str(caught.value)
    for kinds in ([], [dataclasses.replace(CPU, up=False)], odd):
        with pytest.raises(UnfitError, match="No partition of this cluster is up and has nodes for you"):
            make(kinds, CLUSTER, LOGIN)


@pytest.mark.parametrize("name", ["we:ird", "a:", "a#b", '"q"', "'", "[x", "{x}", "*x", "yes", "1e3", "ü", "&a"])
def test_odd_names_of_partitions_survive(load: Load, name: str) -> None:
    driver = dataclasses.replace(CPU, name=f"{name}2")
    site = load(make([dataclasses.replace(GPU, name=name), driver], CLUSTER, LOGIN).text)
    assert (site.partition, site.controller_partition) == (name, f"{name}2")


_text = st.text(st.characters(), max_size=20)  # surrogates too: bytes that are no UTF-8
_count = st.integers(0, 2**40)
_time = st.one_of(_text, st.sampled_from(["n/a", "infinite", "1:00:00", "30:00", "0:00", "1-00:00:00", "UNLIMITED"]))
_gres = st.one_of(_text, st.from_regex(r"\A(gpu(:[a-z0-9_.]{1,4})?(:[0-9]{1,3})?(\(S:0,1\))?,?){0,3}\Z"))
_name = st.one_of(st.sampled_from(["gpu", "cpu", "a#b"]), st.text(st.characters(min_codepoint=33), min_size=1), _text)
_kinds = st.lists(
    st.builds(
        Partition,
        name=_name,
        default=st.booleans(),
        up=st.sampled_from([True, True, False]),
        default_time=_time,
        longest_time=_time,
        nodes=st.integers(0, 9),
        cpus=_count,
        memory_mb=_count,
        gres=_gres,
        features=_text,
        exclusive=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
_clusters = st.builds(Cluster, _text, _text, _text, _count, _count, st.booleans())


@settings(max_examples=300, deadline=None)
@given(_kinds, _clusters, st.one_of(st.none(), _name))
def test_whatever_slurm_says_the_profile_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[Partition], cluster: Cluster, wanted: str | None
) -> None:
    """Every option as it was meant, none from a comment; and the options that are offered load, too."""
    try:
        made = make(kinds, cluster, LOGIN, wanted)
    except (UsageError, UnfitError):
        return
    assert set(made.options) <= set(OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp() / "fuzz"
        folder.mkdir(exist_ok=True)
        for name in [each for each in os.environ if each.startswith(config.PREFIX)]:
            patch.delenv(name)
        for name in ("HOME", "XDG_CONFIG_DIRS", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(folder))
        patch.chdir(folder)
        Path("mh-hpc.yaml").write_text(made.text, encoding="utf-8")
        assert plain(config.load()) == made.options
        Path("mh-hpc.yaml").write_text(uncommented(made.text), encoding="utf-8")
        config.load()


# -- the command


def test_without_slurm_it_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(home))
    assert cli.main(["site", "init"]) == 5
    assert "sinfo is not on PATH" in capsys.readouterr().err
    assert not list(home.iterdir())


@pytest.fixture
def asking(home: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which commands of SLURM ask the test cluster."""
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    return home


def test_init_writes_a_profile_that_slurm_accepts(asking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["site", "init"]) == 0
    assert "mh-hpc.yaml: written, for partition main (it is the default partition)." in capsys.readouterr().out
    site = config.load()
    assert plain(site) == {
        "executor": "slurm",
        "partition": "main",
        "time": "1:00:00",
        "gres": "gpu:1",
        "threads": 2,
        "mem_mb": 4000,
    }
    for options in (slurm.worker_options(site), slurm.driver_options(site)):
        assert accepted(options), options
    assert not accepted([*slurm.worker_options(site), "--gres=gpu:3"])  # such a test can fail


def accepted(options: list[str]) -> bool:
    """Whether sbatch would take such a job."""
    command = ["sbatch", "--test-only", *options, "--wrap=true"]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def test_init_knows_partitions_without_gpus_and_whole_nodes(
    home: Path, start_cluster: StartCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = start_cluster(nodes=2)
    monkeypatch.setenv("SLURM_CONF", made.environment()["SLURM_CONF"])
    made.run("scontrol", "update", "NodeName=node2", "Gres=")
    made.run("scontrol", "create", "PartitionName=cpu", "Nodes=node2", "MaxTime=2-00:00:00", "State=UP")
    made.run("scontrol", "create", "PartitionName=empty", "State=UP")
    made.run("scontrol", "update", "PartitionName=hi", "OverSubscribe=EXCLUSIVE")
    assert cli.main(["site", "init", "--partition", "hi"]) == 0
    site = config.load()
    assert (site.gres, config.workers_per_job(site), site.controller_partition) == ("gpu:2", 2, "cpu")
    assert accepted(slurm.worker_options(site)) and accepted(slurm.driver_options(site))
    capsys.readouterr()
    assert cli.main(["site", "init", "--partition", "empty", "--force"]) == 2
    assert "There are: main, hi, cpu." in capsys.readouterr().err


def test_init_writes_over_nothing_unless_told(asking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, elsewhere = asking / "mh-hpc.yaml", asking / "elsewhere.yaml"
    elsewhere.write_text("workers: 3\n")
    mine.symlink_to(elsewhere)
    assert cli.main(["site", "init"]) == 2
    assert "exists, and is left as it is" in capsys.readouterr().err
    assert elsewhere.read_text() == "workers: 3\n"
    assert cli.main(["site", "init", "--force"]) == 0
    assert mine.is_symlink() and "partition: main" in elsewhere.read_text()
    for bad, message in (("absent/x.yaml", "there is no folder"), (".", "is no file"), ("/dev/null", "is no file")):
        assert cli.main(["site", "init", "--force", "--output", bad]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in asking.iterdir()) == ["elsewhere.yaml", "mh-hpc.yaml"]


def test_init_prints_and_answers_with_what_it_found(asking: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["site", "init", "--output", "-"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out.startswith("# The cluster 'testcluster' (SLURM ")
    assert cli.main(["site", "init", "--json", "-o", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["file"], facts["text"]) == (None, printed.out)
    assert facts["options"]["gres"] == "gpu:1"
    assert {each["name"] for each in facts["partitions"]} >= {"main", "hi"}
    assert facts["cluster"]["name"] == "testcluster"
    assert not list(asking.iterdir())
    assert cli.main(["site", "init", "--json"]) == 0
    answer = capsys.readouterr()
    assert json.loads(answer.out)["file"] == str(asking / "mh-hpc.yaml")
    assert "written, for partition main" in answer.err


# -- the examples


def test_there_are_examples() -> None:
    assert {"gpu-partition", "gpus-per-node", "whole-nodes", "cpu-only", "testcluster"} < {p.stem for p in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_loads_and_says_what_sbatch_takes(load: Load, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ") and all(len(line) <= 120 for line in text.splitlines())
    assert plain(load(uncommented(text)))
    site = load(text)
    if config.on_slurm(site):
        assert any(option.startswith("--time=") for option in slurm.worker_options(site))
        assert "--cpus-per-task=1" in slurm.driver_options(site)


def test_the_example_of_whole_nodes_asks_for_a_whole_node(load: Load) -> None:
    site = load((REPO / "hpc/sites/whole-nodes.yaml").read_text())
    options = slurm.worker_options(site)
    assert config.workers_per_job(site) == 4
    assert {"--gres=gpu:4", "--cpus-per-task=128", f"--mem={4 * 110 * 1024}M", "--exclusive"} <= set(options)


def test_the_example_of_the_test_cluster_is_accepted_by_it(asking: Path, load: Load) -> None:
    site = load((REPO / "hpc/sites/testcluster.yaml").read_text())
    assert (site.partition, site.gres, site.time, site.poll_s) == ("main", "gpu:1", "60", 2.0)
    assert accepted(slurm.worker_options(site)) and accepted(slurm.driver_options(site))
