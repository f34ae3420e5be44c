"""Run the engine's tests inside images, by the Python and the libraries that these hold.

    python inside_image.py --work DIR IMAGE ...

The tests see what a session's model sees: the same flags of Apptainer, no network, a read-only image, and the
engine at /framework. Only pytest and what it needs is added. An image is named as for `mh-hpc run --image`. Prints
a table; the exit code is 1 if tests failed in an image, or ran in none.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from matrix import ENGINE, HERE, PURE, Row, Unavailable, fetch, fetch_pytest_27, show

sys.path.insert(0, str(ENGINE.parent))

from modelhub_hpc import apptainer, config, images  # noqa: E402
from modelhub_hpc.apptainer import Bind, Containment  # noqa: E402
from modelhub_hpc.errors import ModelHubError  # noqa: E402

PYTEST_36 = ["pytest==7.0.1", "attrs==22.2.0", "iniconfig==1.1.1", "packaging==21.3", "pluggy==1.0.0",
             "py==1.11.0", "pyparsing==3.0.7", "tomli==1.2.3", "importlib-metadata==4.8.3", "zipp==3.6.0",
             "typing-extensions==4.1.1", "waitress==2.0.0"]
COUNTS = re.compile(r"\d+ (?:passed|failed|skipped|errors?)\b")
VERSIONS = ("import sys, numpy, PIL, h5py, SimpleITK\n"
            "print('%d.%d' % sys.version_info[:2])\n"
            "print('numpy %s, Pillow %s, h5py %s, SimpleITK %s' % (numpy.__version__, PIL.__version__,\n"
            "      h5py.__version__, SimpleITK.Version.VersionString()))")
LIMIT_S = 600


def main() -> int:
    """Test in every image; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for pytest and logs, kept")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="NAME of an image in the store, or FILE.sif")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = [row_for(name, options.work.resolve()) for name in options.images]
    print("\n".join(["%-6s %-8s %s" % ("python", "result", "detail"), *map(show, rows)]))
    results = {row.result for row in rows}
    return 0 if "passed" in results and "failed" not in results else 1


def row_for(name: str, work: Path) -> Row:
    """Find an image and run the tests in it."""
    try:
        image = images.find(name, config.load())
        return test(image, work)
    except (Unavailable, ModelHubError) as error:
        return Row("?", "not run", f"{name}: {str(error).splitlines()[0]}")


def test(image: images.Image, work: Path) -> Row:
    """Run the tests in one image; the log is work/log-inside-VERSION. Raises Unavailable."""
    asked = run(image, ["-c", VERSIONS], ())
    if asked.returncode:
        return Row("?", "failed", f"{image.name}: {asked.stderr.strip()}")
    version, libraries = asked.stdout.splitlines()[:2]
    binds = [Bind(HERE, "/tests"), Bind(pytest_for(version, work), "/libraries")]
    options = ["-q", "-p", "no:cacheprovider", "-c", "/libraries/pytest.ini", "--confcutdir", "/tests"]
    done = run(image, ["-s", "-m", "pytest", *options, "/tests"], binds)
    log = work / f"log-inside-{version}"
    log.write_text(done.stdout + done.stderr)
    detail = ", ".join(COUNTS.findall(done.stdout)) or "pytest did not run"
    if done.returncode:
        return Row(version, "failed", f"{detail}; see {log}")
    return Row(version, "passed", detail, libraries)


def pytest_for(version: str, work: Path) -> Path:
    """The folder with pytest for that Python. Raises Unavailable."""
    folder = work / ("pytest-" + version)
    if not (folder / "pytest.ini").exists():
        folder.mkdir(exist_ok=True)
        if version == "2.7":
            fetch_pytest_27(folder, work)
        elif version == "3.6":
            fetch(version, folder, *PURE, *PYTEST_36)
        else:
            raise Unavailable(f"no list of what pytest needs for Python {version}")
        (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def run(image: images.Image, arguments: Sequence[str], binds: Sequence[Bind]) -> subprocess.CompletedProcess[str]:
    """Run the image's Python as a session would; return what it said."""
    settings = {"PYTHONPATH": "/libraries", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8",
                "MODELHUB_TEST_ENGINE": "/framework"}
    with tempfile.TemporaryDirectory(prefix="mh-hpc-inside-") as name:
        scratch = Path(name)
        for folder in ("home", "work"):
            (scratch / folder).mkdir()
        inside = Containment(home=scratch / "home", workdir=scratch / "work", cwd="/tmp",
                             binds=(Bind(ENGINE, "/framework"), *binds), env=settings, seccomp=apptainer.SECCOMP)
        return subprocess.run(apptainer.exec_command(image.path, [image.interpreter, *arguments], inside),
                              env=apptainer.environment(scratch), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace", timeout=LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
