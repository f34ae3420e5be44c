"""The environment module that ships, loaded by Lmod itself."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from grounds import REPO

from modelhub_hpc import __version__

MODULES = REPO / "hpc/modulefiles"
FILE = MODULES / f"modelhub-hpc/{__version__}.lua"
PLACES = (Path(os.environ.get("LMOD_PKG", "/nowhere")), Path("/usr/share/lmod/lmod"), Path("/opt/lmod/lmod"))
INIT = next((place / "init/bash" for place in PLACES if (place / "init/bash").is_file()), None)

needs_lmod = pytest.mark.skipif(
    INIT is None and not os.environ.get("MH_TEST_REQUIRE_LMOD"), reason="needs Lmod (Debian: apt-get install lmod)"
)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installation."""
    program = tmp_path / "the prefix/bin/mh-hpc"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m modelhub_hpc.cli "$@"\n')
    program.chmod(0o755)
    return program.parent.parent


def module(home: Path, commands: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run shell commands where `module` is Lmod's."""
    assert INIT is not None, "Lmod is not installed"
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    environment = {"HOME": str(home), "PATH": os.defpath, "PYTHONPATH": path, "LMOD_PAGER": "none", **more}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", f". {INIT}\nset -e\n{commands}"],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_is_of_this_version() -> None:
    assert sorted(path.name for path in FILE.parent.iterdir()) == [FILE.name]
    assert f'whatis("Version: {__version__}")' in FILE.read_text(encoding="utf-8")


@needs_lmod
def test_it_finds_the_installation_that_it_lies_in_and_goes_without_a_trace(tmp_path: Path, prefix: Path) -> None:
    # where pip puts it
    inside = prefix / "lib/python3/site-packages/modelhub_hpc/hpc/modulefiles"
    shutil.copytree(MODULES, inside)
    done = module(
        tmp_path,
        f"module use {shlex.quote(str(inside))}; before=$PATH\n"
        "module load modelhub-hpc; command -v mh-hpc; mh-hpc --version\n"
        'module unload modelhub-hpc; test "$PATH" = "$before"',
    )
    assert (done.returncode, done.stdout) == (0, f"{prefix}/bin/mh-hpc\nmh-hpc {__version__}\n"), done.stderr


@needs_lmod
def test_a_variable_names_the_installation(tmp_path: Path, prefix: Path) -> None:
    commands = f"module use {MODULES}; module load modelhub-hpc; command -v mh-hpc"
    done = module(tmp_path, commands, MODELHUB_HPC_PREFIX=str(prefix))
    assert (done.returncode, done.stdout) == (0, f"{prefix}/bin/mh-hpc\n"), done.stderr


@needs_lmod
def test_without_an_installation_it_says_what_to_set_and_can_still_be_listed(tmp_path: Path) -> None:
    shutil.copytree(MODULES, tmp_path / "modules")
    use = f"module use {tmp_path}/modules\n"
    refused = module(tmp_path, f"{use} module load modelhub-hpc")
    assert refused.returncode != 0
    said = " ".join(refused.stderr.split())  # Lmod breaks lines
    assert "has bin/mh-hpc" in said and "Set MODELHUB_HPC_PREFIX to the installation" in said
    listed = module(tmp_path, f"{use} module spider modelhub-hpc; module whatis modelhub-hpc; module help modelhub-hpc")
    assert listed.returncode == 0
    assert "without root" in listed.stderr and "mh-hpc submit" in listed.stderr and "error" not in listed.stderr


@needs_lmod
@pytest.mark.parametrize("loaded_before", [False, True])
def test_apptainer_is_loaded_where_it_is_a_module(tmp_path: Path, prefix: Path, loaded_before: bool) -> None:
    shutil.copytree(MODULES, tmp_path / "modules")
    (tmp_path / "modules/apptainer").mkdir()
    (tmp_path / "modules/apptainer/1.4.lua").write_text('prepend_path("PATH", "/opt/apptainer/bin")\n')
    first = "module load apptainer\n" if loaded_before else ""
    show = "module -t list 2>&1; echo\n"
    done = module(
        tmp_path,
        f"module use {tmp_path}/modules\n{first}module load modelhub-hpc\n{show}module unload modelhub-hpc\n{show}",
        MODELHUB_HPC_PREFIX=str(prefix),
    )
    together, alone = done.stdout.split("\n\n")[:2]
    assert {"apptainer/1.4", f"modelhub-hpc/{__version__}"} == set(together.split()), done.stderr
    assert alone.split() == ["apptainer/1.4"]
