"""Options: one list, one precedence, and messages that name what is known."""

from __future__ import annotations

import configparser
import dataclasses
import doctest
import importlib
import os
from pathlib import Path

import pytest
import yaml

from modelhub_hpc import config
from modelhub_hpc.cli.options import FOR_ONE_OFFS, FOR_RUNS, site_flags
from modelhub_hpc.config import OPTIONS, SiteConfig
from modelhub_hpc.errors import UsageError

REPO = Path(__file__).resolve().parent.parent
SITE_FILE = REPO / "hpc/site.yaml"
RESOURCES = tuple(f"modelhub_hpc.{name}" for name in ("engine", "hpc", "recipes", "registry", "slurm"))
MODULES_WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")
    for path in (REPO / "modelhub_hpc").rglob("*.py")
    if "    >>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without configuration, which is also the working folder."""
    for name in [name for name in os.environ if name.startswith("MH_HPC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "etc"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def offered() -> dict[str, tuple[str, str]]:
    """The options in hpc/site.yaml: name -> (text above it, value as written)."""
    found, text = {}, ""
    for line in SITE_FILE.read_text().splitlines():
        if line.startswith("# "):
            text = f"{text} {line[2:]}".strip()
        elif line.startswith("#"):
            name, _, value = line[1:].partition(": ")
            found[name], text = (text, value), ""
        else:
            text = ""
    return found


def test_the_site_file_offers_every_option_with_its_help_and_default(home: Path) -> None:
    found = offered()
    assert list(found) == list(OPTIONS)
    assert {name: text for name, (text, _) in found.items()} == {
        n: f.metadata["help"] for n, f in OPTIONS.items()
    }
    write(home / "mh-hpc.yaml", "".join(f"{name}: {value}\n" for name, (_, value) in found.items()))
    assert config.load() == SiteConfig()
    assert yaml.safe_load(SITE_FILE.read_text()) is None  # as it is shipped it changes nothing


def test_every_flag_is_an_option() -> None:
    assert set(FOR_RUNS) | set(FOR_ONE_OFFS) <= set(OPTIONS)


def test_later_sources_win(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [home / "etc/mh-hpc/config.yaml", home / ".config/mh-hpc/config.yaml", home / "mh-hpc.yaml"]
    assert [path.absolute() for path in config.files()] == sources
    assert config.load().workers is None
    for number, path in enumerate(sources, 1):
        write(path, f"workers: {number}\n")
        assert config.load().workers == number
    monkeypatch.setenv("MH_HPC_WORKERS", "4")
    assert config.load().workers == 4
    assert config.load({"workers": "5", "threads": None}).workers == 5


def test_every_value_has_one_origin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, own, here = home / "etc/mh-hpc/config.yaml", home / ".config/mh-hpc/config.yaml", home / "mh-hpc.yaml"
    write(system, "workers: 1\nnan: keep\nthreads: 1\nqos: low\n")
    write(own, "workers: 2\nthreads: 2\nqos: null\n")
    write(here, "workers: 3\n")
    monkeypatch.setenv("MH_HPC_MEM_MB", "4G")
    monkeypatch.setenv("MH_HPC_GPU", "off")
    flags = {"gpu": "auto", "chunk_size": None}
    site, origins = config.load_with_origins(flags)
    assert site == config.load(flags)
    assert list(origins) == list(OPTIONS)
    assert {name: origin for name, origin in origins.items() if origin != config.DEFAULT} == {
        "nan": str(system),
        "threads": str(own),
        "qos": str(own),  # an option that a file takes back comes from that file
        "workers": str(here),
        "mem_mb": "MH_HPC_MEM_MB",
        "gpu": config.COMMAND_LINE,  # though it is the default
    }
    unchanged = {name for name, origin in origins.items() if origin == config.DEFAULT}
    assert all(getattr(site, name) == getattr(SiteConfig(), name) for name in unchanged)


def test_each_source_adds_to_the_others(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".config/mh-hpc/config.yaml", "mem_mb: 4G\n")
    write(home / "mh-hpc.yaml", "# nothing\n")
    monkeypatch.setenv("MH_HPC_NAN", "keep")
    found = config.load({"gpu": "off"})
    assert (found.mem_mb, found.nan, found.gpu) == (4096, "keep", "off")


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("mem_mb", "4G", 4096),
        ("mem_mb", "1500", 1500),
        ("max_output_mb", "1T", 2**20),
        ("case_timeout_s", "1.5", 1.5),
        ("allow_network", "yes", True),
        ("allow_network", False, False),
        ("seccomp", "0", False),
        ("gpu", True, "on"),  # what YAML makes of a bare on
        ("gpu", False, "off"),
        ("max_failures", "0", 0),
        ("scratch_dir", "~/scratch", None),
        ("library_dirs", "/a:/b c", (Path("/a"), Path("/b c"))),
        ("library_dirs", ["/a"], (Path("/a"),)),
        ("workers", None, None),
    ],
)
def test_values_become_their_types(home: Path, name: str, given: object, value: object) -> None:
    expected = home / "scratch" if name == "scratch_dir" else value
    assert getattr(config.load({name: given}), name) == expected


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("workers", "many", "a whole number"),
        ("workers", "1.5", "a whole number"),
        ("workers", True, "a number"),
        ("workers", "0", "a positive number"),
        ("workers", "-1", "a positive number"),
        ("case_timeout_s", "nan", "a positive number"),
        ("case_timeout_s", "inf", "a positive number"),
        ("mem_mb", "4 parsecs", "an amount of memory such as 4096 or 4G"),
        ("runtime", "docker", "one of apptainer, host"),
        ("allow_network", "perhaps", "yes or no"),
        ("library_dirs", 7, "a list"),
        ("require_signature", "cafe", "a fingerprint of 40 hexadecimal digits (apptainer key list)"),
        ("scratch_dir", "", "a path"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(name: str, given: object, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        config.load({name: given})
    assert str(caught.value) == f"Option '{name}' in the command line: {given!r} is not {expected}."


@pytest.mark.parametrize("source", ["file", "variable"])
def test_an_unknown_option_is_refused_with_the_nearest(
    home: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "file":
        write(home / "mh-hpc.yaml", "wrokers: 3\n")
    else:
        monkeypatch.setenv("MH_HPC_WROKERS", "3")
    with pytest.raises(UsageError) as caught:
        config.load()
    where = "mh-hpc.yaml" if source == "file" else "the variable MH_HPC_WROKERS"
    assert f"Unknown option 'wrokers' in {where}. Did you mean 'workers'?\nKnown: runtime, " in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- a\n- b\n", "must hold 'option: value' lines, not a list"),
        ("\x00", "YAML"),
        ("workers: " + "[" * 9999, "is not valid YAML: it is nested too deeply"),
        ("workers: [3]", "is not a whole number"),
        ("workers: {three: 3}", "is not a whole number"),
        ("? [workers]\n: 3", "is not valid YAML"),
        ("partition: 'a b'", "is not a word without spaces"),
        ("partition: -x", "is not a word without spaces"),
        ('job_prologue: ["a\\nb"]', "is not one line of shell"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(home: Path, text: str, message: str) -> None:
    write(home / "mh-hpc.yaml", text)
    with pytest.raises(UsageError, match="mh-hpc.yaml") as caught:
        config.load()
    assert message in str(caught.value)


def test_a_file_that_is_closed_is_named(home: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("nothing is closed to root")
    write(home / ".config/mh-hpc/config.yaml", "workers: 3\n")
    for closed in (home / ".config/mh-hpc/config.yaml", home / ".config"):
        closed.chmod(0)
        try:
            with pytest.raises(UsageError, match="config.yaml cannot be read: Permission denied"):
                config.load()
        finally:
            closed.chmod(0o700)


def test_options_survive_the_run_record() -> None:
    changed = SiteConfig(
        workers=3,
        scratch_dir=Path("/s p"),
        library_dirs=(Path("/a"),),
        allow_network=True,
        max_failures=0,
        mem_mb=5,
    )
    assert config.from_json(config.to_json(changed)) == changed
    assert set(config.to_json(changed)) == {field.name for field in dataclasses.fields(SiteConfig)}


def test_gpus_come_from_the_job_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-77")
    assert config.gpus(SiteConfig()) == ("2", "GPU-77")
    assert config.worker_count(SiteConfig()) == 2
    assert config.worker_count(SiteConfig(workers=5)) == 5
    assert config.gpus(SiteConfig(gpu="off")) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert config.gpus(SiteConfig()) == ()
    assert config.worker_count(SiteConfig()) == max(1, config.cores() // 2)


def test_workers_may_share_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-77")
    site = SiteConfig(sessions_per_gpu=3)
    assert (config.worker_count(site), config.workers_here(site)) == (6, 6)
    assert config.thread_count(site) == max(1, config.cores() // 6)
    assert config.worker_count(dataclasses.replace(site, workers=5)) == 5
    assert config.worker_count(dataclasses.replace(site, executor="inline")) == 1
    job = dataclasses.replace(site, executor="slurm", gpus_per_node="a100:4")
    assert (config.workers_per_job(job), config.workers_here(job)) == (12, 12)
    assert config.workers_per_job(dataclasses.replace(job, workers_per_job=2)) == 2


def test_without_gpus_there_is_nothing_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here = SiteConfig(sessions_per_gpu=2)
    job = dataclasses.replace(here, executor="slurm", gres="lustre:1")
    assert config.worker_count(here) == config.worker_count(SiteConfig()) and config.workers_per_job(job) == 1
    assert config.shares_no_gpu(here) and config.shares_no_gpu(job)
    assert not config.shares_no_gpu(SiteConfig())
    assert not config.shares_no_gpu(dataclasses.replace(job, gres="gpu:1"))


def test_the_wheel_takes_every_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPO / "setup.cfg")
    listed = {name for name in setup["options"]["packages"].split() if not name.startswith(RESOURCES)}
    here = {path.parent.relative_to(REPO) for path in (REPO / "modelhub_hpc").rglob("__init__.py")}
    assert listed == {".".join(folder.parts) for folder in here}


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_an_inline_run_has_the_whole_machine() -> None:
    local = config.SiteConfig(executor="local", workers=config.cores())
    assert config.worker_count(local) == config.cores() and config.thread_count(local) == 1
    inline = dataclasses.replace(local, executor="inline")
    assert config.worker_count(inline) == 1 and config.thread_count(inline) == config.cores()


@pytest.mark.parametrize(
    ("given", "workers", "min_workers"), [("6", 6, None), ("2:6", 6, 2), ("0:6", 6, 0)]
)
def test_workers_may_be_given_as_a_range(given: str, workers: int, min_workers: int | None) -> None:
    site = config.load(site_flags({"workers": given, "partition": None, "sbatch_args": ()}))
    assert (site.workers, site.min_workers) == (workers, min_workers)


@pytest.mark.parametrize("given", ["2:", ":6", "2:many", "a:b"])
def test_half_a_range_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="workers"):
        config.load(site_flags({"workers": given}))
