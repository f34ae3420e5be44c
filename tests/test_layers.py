"""The import table of ARCHITECTURE.md, and who may do what, held by reading the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from grounds import REPO

PACKAGE = REPO / "modelhub_hpc"
MODULES = sorted(PACKAGE.rglob("*.py"))

# modules that may do what others may not
ALLOWED = {
    "subprocess": {"apptainer", "git", "kept", "processes", "session", "slurm"},
    "os.environ": {"config"},
    "dask": {"executors"},
    "distributed": {"executors"},
    "SimpleITK": {"evaluation"},  # it crashes on names and invents voxels: it is given arrays, and no files
    "pynvml": {"gpumeter"},
    "pickle": set(),
}


def table() -> list[set[str]]:
    """The layers of ARCHITECTURE.md, lowest first; modules of one layer do not import each other."""
    text = (REPO / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(r"```layers\n(.*?)```", text, re.DOTALL)
    assert block, "ARCHITECTURE.md has no block ```layers"
    return [set(line.split("#")[0].split()) for line in block[1].splitlines() if line.split("#")[0].strip()]


def name_of(path: Path) -> str:
    """The module of the table that a file belongs to: a top-level module or package."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> Iterator[str]:
    """Everything a file imports, dotted, imports inside functions too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level_of(name: str) -> int:
    return next((level for level, names in enumerate(table()) if name in names), -1)


def test_every_module_is_in_the_table() -> None:
    listed = set().union(*table())
    assert listed == {name_of(path) for path in MODULES} - {"__init__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward_only(path: Path) -> None:
    mine = name_of(path)
    for dotted in imports(path):
        if dotted.startswith("modelhub_hpc."):
            other = dotted.split(".")[1]
            if other != mine and level_of(other) >= 0:
                assert level_of(other) < level_of(mine), f"{mine} imports {dotted}"


@pytest.mark.parametrize("what", ALLOWED)
def test_only_some_may(what: str) -> None:
    pattern = re.compile(rf"^\s*(?:import|from)\s+{what}\b", re.MULTILINE)
    if "." in what:
        pattern = re.compile(re.escape(what))
    users = {name_of(path) for path in MODULES if pattern.search(path.read_text(encoding="utf-8"))}
    assert users <= ALLOWED[what]


def test_only_the_command_line_prints_and_exits() -> None:
    for path in MODULES:
        if name_of(path) not in ("cli", "keeper"):
            calls = {
                ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Call)
            }
            assert not calls & {"print", "sys.exit", "os._exit", "exit"}, path


def test_the_keeper_needs_nothing_but_the_standard_library() -> None:
    import sys

    assert {dotted.split(".")[0] for dotted in imports(PACKAGE / "keeper.py")} <= sys.stdlib_module_names


def test_host_and_engine_share_no_code() -> None:
    engine = {dotted for path in (REPO / "engine").rglob("*.py") for dotted in imports(path)}
    assert not any(dotted.startswith("modelhub_hpc") for dotted in engine)
    host = {dotted for path in MODULES for dotted in imports(path)}
    assert not any(dotted.startswith(("modelhubapi", "modelhublib")) for dotted in host)
    # but for the routes of the REST interface
    loads = {path.relative_to(PACKAGE) for path in MODULES if 'import_module(f"modelhub' in path.read_text()}
    assert loads == {Path("service/rest.py")}


def test_no_module_is_over_500_lines() -> None:
    long = {
        str(path): n for path in MODULES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 500
    }
    assert not long
