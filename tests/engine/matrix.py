"""Run the engine's tests on every Python that this machine has, and on a private 2.7 where it has none.

    python matrix.py --work DIR [INTERPRETER ...]

Each interpreter gets a folder of its own with the libraries of its time, as wheels; nothing is installed
anywhere else. Prints a table; the exit code is 1 if tests failed anywhere, or ran nowhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parent.parent / "engine"

# What the images of that age hold, or the newest that still has a wheel. Newer versions take what is current.
PINS: dict[str, list[str]] = {
    "3.6": ["pytest==7.0.1", "waitress==2.0.0", "numpy==1.15.4", "Pillow==5.1.0", "h5py==2.8.0",
            "SimpleITK==1.1.0", "Flask==1.1.2", "Werkzeug==1.0.1", "Jinja2==2.11.3", "MarkupSafe==2.0.1",
            "itsdangerous==2.0.1"],
    "3.7": ["pytest==7.4.4", "waitress==2.1.2", "numpy==1.21.6", "Pillow==9.5.0", "h5py==3.8.0",
            "SimpleITK==2.2.1", "Flask==2.2.5"],
    "3.8": ["pytest==8.3.5", "waitress==3.0.0", "numpy==1.24.4", "Pillow==10.4.0", "h5py==3.11.0",
            "SimpleITK==2.4.1", "Flask==3.0.3"],
}
CURRENT = ["pytest", "waitress", "numpy", "Pillow", "h5py", "SimpleITK", "Flask"]
PURE = ["--implementation", "py", "--abi", "none", "--platform", "any"]  # pip's words for such wheels
PIP_FOR_OLD = "pip==21.3.1"  # the last for 3.6; what comes with 3.6 can't choose versions

# No resolver runs for 2.7, so that these are complete lists.
BINARY_27 = ["numpy==1.16.6", "Pillow==6.2.2", "h5py==2.10.0", "SimpleITK==1.2.4", "MarkupSafe==1.1.1"]
PYTEST_27 = ["six==1.16.0", "setuptools==44.1.1", "pytest==4.6.11", "py==1.11.0", "attrs==21.4.0",
             "pluggy==0.13.1", "atomicwrites==1.4.0", "more-itertools==5.0.0", "packaging==20.9",
             "pyparsing==2.4.7", "wcwidth==0.2.5", "zipp==1.2.0", "importlib-metadata==2.1.3",
             "contextlib2==0.6.0.post1", "pathlib2==2.3.5", "configparser==4.0.2",
             "funcsigs==1.0.2", "backports.functools-lru-cache==1.6.4", "waitress==1.4.4"]
FLASK_27 = ["Flask==0.12.5", "Werkzeug==0.16.1", "Jinja2==2.11.3", "itsdangerous==1.1.0", "click==7.1.2"]
SOURCE_27 = "scandir==1.10.0"  # has no wheel; its one module works without its extension
DEBIAN_27 = "bullseye"  # the last Debian with a Python 2.7
PACKAGES_27 = ["python2.7-minimal", "python2.7", "libpython2.7-minimal", "libpython2.7-stdlib",
               "libffi7", "libssl1.1"]
WANTED = ("2.7", "3.6", "3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


class Unavailable(Exception):
    """Something that the tests need can't be had on this machine."""


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """One Python to test with: version "3.11", command, and what its processes need in their environment."""

    version: str
    command: str
    library_path: str = ""

    def environment(self, *python_path: Path) -> dict[str, str]:
        """Return the environment for a process of this interpreter."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        joined = os.pathsep.join(str(path) for path in python_path)
        more = {"PYTHONPATH": joined, "PYTHONDONTWRITEBYTECODE": "1"}
        if self.library_path:
            more["LD_LIBRARY_PATH"] = self.library_path
        return {**kept, **more}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. result: passed, failed, or not run."""

    version: str
    result: str
    detail: str
    libraries: str = ""


def main() -> int:
    """Test everything that can be tested; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for libraries and logs, kept")
    parser.add_argument("interpreters", nargs="*", help="commands; default: all that are found")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    found = {python.version: python for python in find(options.interpreters)}
    versions = list(found) if options.interpreters else list(WANTED)
    rows = []
    for version in versions:
        rows.append(row_for(version, found.get(version), work))
        print(show(rows[-1]), flush=True)
    print("\n" + "\n".join(["%-6s %-8s %s" % ("python", "result", "detail"), *map(show, rows)]))
    results = {row.result for row in rows}
    return 0 if "passed" in results and "failed" not in results else 1


def show(row: Row) -> str:
    """Return one line of the table."""
    libraries = f"  [{row.libraries}]" if row.libraries else ""
    return "%-6s %-8s %s%s" % (row.version, row.result, row.detail, libraries)


def find(commands: list[str]) -> Iterator[Interpreter]:
    """Yield the interpreters named, or those on PATH and of pyenv."""
    for command in commands or list(candidates()):
        probe = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([command, "-c", probe], capture_output=True, text=True)
        if done.returncode == 0:
            yield Interpreter(done.stdout.strip(), command)
        elif commands:
            raise SystemExit(f"{command} does not run: {done.stderr.strip()}")


def candidates() -> Iterator[str]:
    """Yield commands that may be interpreters; where two are of one version, the later one is used."""
    for version in WANTED:
        command = shutil.which("python" + version)
        if command and "shims" not in command:
            yield command
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for folder in sorted((root / "versions").glob("*")):
        if (folder / "bin" / "python").exists():
            yield str(folder / "bin" / "python")


def row_for(version: str, python: Interpreter | None, work: Path) -> Row:
    """Set up one interpreter and run the tests on it."""
    try:
        if python is None and version == "2.7":
            python = private_27(work)
        if python is None:
            return Row(version, "not run", "no such interpreter on this machine")
        libraries = work / ("lib-" + version)
        if not (libraries / "complete").exists():
            shutil.rmtree(libraries, ignore_errors=True)
            install(python, libraries, work)
            (libraries / "complete").touch()
        return run_tests(python, libraries, work)
    except Unavailable as error:
        return Row(version, "not run", str(error))


def install(python: Interpreter, libraries: Path, work: Path) -> None:
    """Put pytest and the engine's libraries for python into the folder libraries. Raises Unavailable."""
    libraries.mkdir(parents=True)
    if python.version == "2.7":
        return install_27(libraries, work)
    pip = [*pip_for(python), "install", "-q"]
    pip_path: list[Path] = []
    if python.version in PINS:
        pip_path = [work / "pip-for-old"]
        if not pip_path[0].exists():
            call([*pip, "--target", str(pip_path[0]), PIP_FOR_OLD], "pip")
    call([*pip, "--only-binary", ":all:", "--target", str(libraries), *PINS.get(python.version, CURRENT)],
         "wheels", python.environment(*pip_path))
    return None


def pip_for(python: Interpreter) -> list[str]:
    """The interpreter's own pip; where it has none, as Debian's, this interpreter's works for it."""
    own = [python.command, "-m", "pip"]
    has_pip = subprocess.run([*own, "--version"], capture_output=True).returncode == 0
    return own if has_pip else [sys.executable, "-m", "pip", "--python", python.command]


def install_27(libraries: Path, work: Path) -> None:
    """The same for 2.7, for which no pip of today runs: this interpreter's pip fetches for it."""
    binary = ["--implementation", "cp", "--abi", "cp27mu",
              "--platform", "manylinux1_x86_64", "--platform", "manylinux2010_x86_64"]
    fetch("2.7", libraries, *binary, *BINARY_27)
    fetch_pytest_27(libraries, work)
    fetch("2.7", libraries, *PURE, *FLASK_27)


def fetch_pytest_27(libraries: Path, work: Path) -> None:
    """Put pytest for 2.7 and all that it needs into the folder libraries. Raises Unavailable."""
    fetch("2.7", libraries, *PURE, *PYTEST_27)
    sources = work / "source-2.7"
    source = ["download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(sources), SOURCE_27]
    call([sys.executable, "-m", "pip", *source], SOURCE_27)
    with tarfile.open(next(sources.glob("scandir-*.tar.gz"))) as archive:
        member = next(name for name in archive.getnames() if name.endswith("/scandir.py"))
        stream = archive.extractfile(member)
        assert stream is not None
        (libraries / "scandir.py").write_bytes(stream.read())


def fetch(version: str, libraries: Path, *what: str) -> None:
    """Put wheels for another Python into the folder libraries; what: options and names for pip."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:", "--upgrade"]
    call([*pip, "--python-version", version, "--target", str(libraries), *what], "wheels of " + version)


def run_tests(python: Interpreter, libraries: Path, work: Path) -> Row:
    """Compile the engine and run its tests; the log is work/log-VERSION."""
    copy = work / ("engine-" + python.version)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ENGINE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    environment = python.environment(libraries) | {"MODELHUB_TEST_ENGINE": str(copy)}
    compiled = run(python, ["compileall", "-q", str(copy)], environment, work)
    tested = run(python, ["pytest", *pytest_options(python, work), str(HERE)], environment, work)
    log = work / ("log-" + python.version)
    log.write_text(compiled.stdout + compiled.stderr + tested.stdout + tested.stderr)
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?)\b", tested.stdout)
    detail = ", ".join(counts) or "pytest did not run"
    if compiled.returncode:
        detail += "; compileall failed"
    if compiled.returncode or tested.returncode:
        return Row(python.version, "failed", f"{detail}; see {log}")
    return Row(python.version, "passed", detail, versions_of(python, environment))


def pytest_options(python: Interpreter, work: Path) -> list[str]:
    """Return options that keep the project's own pytest settings, and all that is written, out of the way."""
    ini = work / "pytest.ini"
    ini.write_text("[pytest]\n")
    return ["-q", "-p", "no:cacheprovider", "-c", str(ini), "--confcutdir", str(HERE),
            "--basetemp", str(work / ("tmp-" + python.version))]


def run(python: Interpreter, module: list[str], environment: dict[str, str],
        work: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` without the user's own packages; return what it said."""
    return subprocess.run([python.command, "-s", "-m", *module], env=environment, cwd=work,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")


def versions_of(python: Interpreter, environment: dict[str, str]) -> str:
    """Return the versions of the libraries that the tests ran with."""
    code = ("import numpy, PIL, h5py, SimpleITK\n"
            "print('numpy %s, Pillow %s, h5py %s, SimpleITK %s' % (numpy.__version__, PIL.__version__,\n"
            "      h5py.__version__, SimpleITK.Version.VersionString()))")
    command = [python.command, "-s", "-W", "ignore", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()


def private_27(work: Path) -> Interpreter:
    """Unpack Debian's last Python 2.7 into work, leaving the system as it is. Raises Unavailable."""
    root = work / "debian-2.7"
    command = root / "usr" / "bin" / "python2.7"
    if not command.exists():
        if not shutil.which("apt-get"):
            raise Unavailable("no python2.7 here, and no apt-get to fetch one")
        apt = private_apt(work / "apt")
        call([*apt, "update", "-qq"], "package lists")
        for package in PACKAGES_27:
            call([*apt, "download", "-qq", package], package, cwd=work / "apt")
        for archive in (work / "apt").glob("*.deb"):
            call(["dpkg-deb", "-x", str(archive), str(work / "unpacked")], archive.name)
        (work / "unpacked").rename(root)
    return Interpreter("2.7", str(command), str(root / "usr" / "lib" / "x86_64-linux-gnu"))


def private_apt(folder: Path) -> list[str]:
    """Return an apt-get that keeps everything in folder and takes packages of Debian's older release."""
    for name in ("lists/partial", "cache/archives/partial", "none"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    sources = folder / "sources.list"
    lines = [f"deb [signed-by={key}] {uri} {DEBIAN_27} main\n" for uri, key in debian_mirrors()]
    sources.write_text("".join(lines))
    options = {"Dir::Etc::SourceList": sources, "Dir::Etc::SourceParts": folder / "none",
               "Dir::State::Lists": folder / "lists", "Dir::State::Status": folder / "status",
               "Dir::Cache": folder / "cache", "APT::Sandbox::User": "root", "Debug::NoLocking": "true"}
    return ["apt-get", *[word for key, value in options.items() for word in ("-o", f"{key}={value}")]]


def debian_mirrors() -> list[tuple[str, str]]:
    """Return (address, key ring) of this machine's own sources of Debian. Raises Unavailable."""
    ring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text() for path in files if path.is_file())
    named = re.findall(r"^(?:URIs:|deb (?:\[[^]]*\] )?)\s*(\S+/debian)/?(?:\s|$)", text, re.MULTILINE)
    if not named or not Path(ring).exists():
        raise Unavailable("no python2.7 here, and this machine has no source of Debian packages")
    return [(uri, ring) for uri in dict.fromkeys(named)]


def call(command: list[str], what: str, environment: dict[str, str] | None = None,
         cwd: Path | None = None) -> None:
    """Run command; raises Unavailable with the last line it said when it fails."""
    done = subprocess.run(command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Unavailable(f"{what} cannot be had: {said[-1] if said else 'no reason given'}")


if __name__ == "__main__":
    sys.exit(main())
