"""Real deployment images, built and run as people will: by others, anywhere, with nothing but Apptainer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounds import CACHE, REPO

from modelhub_hpc.images import Image

pytestmark = [pytest.mark.apptainer, pytest.mark.slow]

DIGITS = REPO / "registry/contributions/digits-cnn"
SAMPLES = DIGITS / "contrib_src/sample_data"
LIMIT_S = 300.0
# writes where ModelHub's models have always written, prints on stdout, and gives an array and a vector
WRITER = """
from __future__ import print_function
import os
import tempfile
import numpy

class Model(object):
    def infer(self, input):
        print("printed by the model")
        os.mkdir("/temp/x")
        os.rmdir("/temp/x")
        with open("/working/copy", "wb") as stream, open(input, "rb") as given:
            stream.write(given.read())
        with open("/output/result", "w") as stream:
            stream.write(os.environ["HOME"])
        with tempfile.NamedTemporaryFile(dir=os.environ["HOME"]):
            pass
        size = os.path.getsize(os.path.join("/working", *os.listdir("/working")))
        return [numpy.full((2, 3), size, "uint8"), [0.5, 1.5]]
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Ground:
    """A folder that everybody may enter, with the built images in it."""

    folder: Path
    digits: Path
    writer: Path
    built: Ran


def ran(argv: list[object], cwd: Path = Path("/"), typed: str = "", **variables: str) -> Ran:
    """Run a command with next to no environment but what is given."""
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.path.expanduser("~"), **variables}
    words = [os.fsencode(str(word)) for word in argv]
    done = subprocess.run(words, cwd=cwd, env=env, input=typed.encode(), capture_output=True, timeout=LIMIT_S)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))


def run(*words: object, cwd: Path = Path("/"), **variables: str) -> Ran:
    return ran(["apptainer", "-q", "run", *words], cwd, "", **variables)


def mh_hpc(folder: Path, *words: object, umask: str = "077") -> list[object]:
    """The command line of this checkout as a user with a tight umask, with a store of its own to work in."""
    script = f'umask {umask}; cd "$1"; shift; exec "$@"'
    site = [f"MH_HPC_CACHE_DIR={folder / 'cache'}", f"MH_HPC_LIBRARY_DIRS={CACHE / 'images'}"]
    variables = [*site, f"PYTHONPATH={REPO}", "PYTHONDONTWRITEBYTECODE=1"]
    return [
        "env",
        *variables,
        "sh",
        "-c",
        script,
        "sh",
        folder,
        sys.executable,
        "-m",
        "modelhub_hpc.cli",
        *words,
    ]


@pytest.fixture(scope="module")
def ground(image: Image) -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="mh-deployment-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        digits = ran(mh_hpc(folder, "build", DIGITS, "--json"))
        assert digits.code == 0, digits.err
        writer = folder / "writer of files.sif"
        built = ran(
            mh_hpc(folder, "build", writing_contribution(folder), "-o", writer, "--image", image.path)
        )
        assert built.code == 0, built.err
        for path in (folder / "digits-cnn.sif", writer):
            path.chmod(0o755)  # the umask is for the image's files; who may open the SIF, its owner says
        yield Ground(folder, folder / "digits-cnn.sif", writer, digits)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def writing_contribution(folder: Path) -> Path:
    """A flat configuration without licence and samples, and with files that only their owner may read."""
    source = folder / "Wri\nter/contrib_src"
    (source / "model").mkdir(parents=True, mode=0o700)
    (source / "inference.py").write_text(WRITER)
    (source / "inference.py").chmod(0o600)
    outputs = [{"name": "mask of $(id)", "type": "mask_image"}, {"name": "scores", "type": "vector"}]
    io = {"input": {"format": ["image/png"], "dim_limits": []}, "output": outputs}
    meta = {"name": 'Wri"ter\n%post'}
    (source / "model/config.json").write_text(json.dumps({"id": "w", "meta": meta, "model": {"io": io}}))
    (source.parent / "init").mkdir()
    (source.parent / "init/init.json").write_text('{"docker_id": "a/b:1"}')
    return source.parent


@pytest.fixture
def inputs(ground: Ground) -> Iterator[Path]:
    """A folder that everybody may write to, with two digits in it, one with a name that needs care."""
    folder = Path(tempfile.mkdtemp(prefix="inputs ", dir=ground.folder))
    folder.chmod(0o777)
    shutil.copy(SAMPLES / "digit-0898.png", folder / "a b.png")
    shutil.copy(SAMPLES / "digit-0900.png", folder / "c.png")
    yield folder


def top(answer: Any) -> str:
    labels = answer["output"][0]["prediction"]
    return str(max(labels, key=lambda entry: entry["probability"])["label"])


# -- the answer --------------------------------------------------------------------------------------


def test_it_answers_as_mh_hpc_run_does(ground: Ground, inputs: Path) -> None:
    words = [inputs / "a b.png", inputs / "c.png"]
    bare = run(ground.digits, *words)
    ours = ran(mh_hpc(ground.folder, "run", "--json", DIGITS, *words))
    assert (bare.code, bare.err, ours.code) == (0, "", 0), bare.err + ours.err
    assert [forget_seconds(each) for each in bare.answer] == [forget_seconds(each) for each in ours.answer]
    assert [top(each) for each in bare.answer] == ["eight", "four"]


def forget_seconds(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer.pop("seconds") > 0
    return answer


def test_relative_paths_are_the_callers(ground: Ground, inputs: Path) -> None:
    done = run("../digits-cnn.sif", "--csv", "./a b.png", "gone.png", cwd=inputs)
    lines = done.out.splitlines()
    assert done.code == 3 and len(lines) == 1 + 10 + 1
    assert lines[-1].startswith("gone,,error,input,") and f"{inputs}/gone.png is not there" in done.err


def test_a_model_may_write_where_models_write(ground: Ground, inputs: Path) -> None:
    done = run(ground.writer, "-o", "out", "a b.png", cwd=inputs)
    assert (done.code, done.err) == (0, "printed by the model\n")
    mask, scores = done.answer["output"]
    assert np.load(mask["file"]).tolist() == [[232] * 3] * 2
    assert Path(mask["file"]).relative_to(inputs / "out").name == "mask_of___id_.npy"
    assert scores["prediction"] == [0.5, 1.5] and (mask["dtype"], mask["shape"]) == ("uint8", [2, 3])


def test_where_the_system_allows_no_private_folders(ground: Ground, inputs: Path) -> None:
    forbid = ["--security", f"seccomp:{REPO / 'hpc/seccomp.json'}"]
    refused = run(*forbid, ground.writer, "c.png", cwd=inputs)
    assert refused.code == 3 and refused.answer["error"]["kind"] == "model"
    assert "/temp cannot be written here: apptainer run --bind FOLDER:/temp ..." in refused.err
    places = [f"--bind={inputs / name}:/{name}" for name in ("temp", "working", "output")]
    for name in ("temp", "working", "output"):
        (inputs / name).mkdir()
    bound = run(*forbid, *places, ground.writer, "c.png", cwd=inputs)
    assert bound.code == 0 and (inputs / "working/copy").exists(), bound.err


def test_arrays_are_not_lost_in_the_container(ground: Ground, inputs: Path) -> None:
    lost = run(ground.writer, "-o", "/output/x", "a b.png", cwd=inputs)
    assert (lost.code, lost.out) == (2, "") and "--bind FOLDER:/output" in lost.err
    (inputs / "mine").mkdir()
    bound = run("--bind", f"{inputs}/mine:/output", ground.writer, "-o", "/output/x", "a b.png", cwd=inputs)
    assert bound.code == 0 and len(list((inputs / "mine/x").glob("*/*.npy"))) == 1, bound.err


# -- anywhere, for anybody -----------------------------------------------------------------------------


def test_another_user_without_a_home(ground: Ground, inputs: Path) -> None:
    """One of this user's subordinate ids, a stranger to the kernel; the image was built with umask 077."""
    ids = [] if os.geteuid() == 0 else ["--user", "--map-auto", "--map-user=0", "--map-group=0"]
    become = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all"]
    stranger: list[object] = ["unshare", *ids, "--mount", *become]
    if ran([*stranger, "true"]).code:
        pytest.skip("there are no subordinate ids to become another user with")
    for sif in (ground.digits, ground.writer):
        words = [*stranger, "apptainer", "-q", "run", sif, inputs / "a b.png"]
        done = ran(words, inputs, HOME="/nonexistent")
        assert done.code == 0 and done.answer["status"] == "done", done.err


def test_a_home_that_cannot_be_written(ground: Ground, inputs: Path) -> None:
    home = inputs / "home"
    home.mkdir(mode=0o500)
    done = run("--home", home, ground.writer, inputs / "a b.png", cwd=inputs)
    assert done.code == 0, done.err


def test_a_folder_that_is_not_shown(ground: Ground, inputs: Path) -> None:
    done = run("--no-mount", "cwd,tmp", ground.digits, "a b.png", cwd=inputs)
    assert done.code == 3 and "is not there, as seen from inside the container" in done.err
    assert "--bind FOLDER" in done.err
    shown = run("--no-mount", "cwd,tmp", "--bind", inputs, ground.digits, inputs / "c.png", cwd=inputs)
    assert top(shown.answer) == "four"


def test_contained_and_offline(ground: Ground, inputs: Path) -> None:
    words = ["--containall", "--net", "--network", "none", "--bind", inputs]
    for sif in (ground.digits, ground.writer):
        done = run(*words, sif, "-o", f"{inputs}/{sif.stem}", f"{inputs}/a b.png")
        assert done.code == 0 and done.answer["status"] == "done", done.err


def test_what_the_host_has_for_its_own_python(ground: Ground, inputs: Path) -> None:
    """A module of each kind of place that the host's Python would look at, each of which would end it."""
    home = inputs / "home"
    site = home / f".local/lib/python{'.'.join(map(str, sys.version_info[:2]))}/site-packages"
    for folder in (inputs, site, inputs / "lib"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("json", "numpy", "sitecustomize", "usercustomize", "inference"):
            (folder / f"{name}.py").write_text("raise SystemExit('the host leaks in')\n")
    variables = {"PYTHONPATH": str(inputs / "lib"), "PYTHONHOME": "/usr", "PYTHONSTARTUP": str(inputs / "json.py"),
                 "LD_PRELOAD": "/gone.so", "PYTHONOPTIMIZE": "2", "LC_ALL": "C", "TMPDIR": "/gone"}  # fmt: skip
    inside = {f"APPTAINERENV_{name}": value for name, value in variables.items() if name != "LD_PRELOAD"}
    for env in (variables, {}):
        done = run("--home", home, ground.digits, "a b.png", cwd=inputs, **env)
        assert done.code == 0 and top(done.answer) == "eight", done.err
        assert "the host leaks in" not in done.err
    # what somebody sets for the container itself is meant
    assert run("--home", home, ground.digits, "a b.png", cwd=inputs, **inside).code != 0


# -- what it says of itself ------------------------------------------------------------------------------


def test_its_samples(ground: Ground) -> None:
    done = ran(["apptainer", "-q", "test", ground.digits])
    assert done.code == 0 and done.out.splitlines()[-1].startswith("10 of 10 samples"), done.err
    assert "ok    digit-0898.png" in done.out
    none = ran(["apptainer", "-q", "test", ground.writer])
    assert none.code == 0 and "without samples" in none.out


def test_its_card_and_labels(ground: Ground) -> None:
    text = ran(["apptainer", "-q", "run-help", ground.digits]).out
    assert text.startswith("digits-cnn 1.0.0\n") and "Apache-2.0" in text and "apptainer test" in text
    labels = json.loads(ran(["apptainer", "-q", "inspect", "--json", "--labels", ground.digits]).out)
    found = labels["data"]["attributes"]["labels"]
    assert ground.built.answer["labels"].items() <= found.items()
    assert found["org.opencontainers.image.title"] == "digits-cnn"
    assert "serve" in ran(["apptainer", "-q", "inspect", "--list-apps", ground.digits]).out
    hostile = ran(["apptainer", "-q", "run-help", ground.writer]).out
    assert hostile.startswith('Wri"ter %post\n') and "no licence given" in hostile


def test_nothing_in_it_is_closed_to_others(ground: Ground) -> None:
    places = ["/contrib_src", "/framework", "/scif", "/.singularity.d"]
    look = ["find", *places, "!", "-type", "l", "!", "-perm", "-o=r"]
    for sif in (ground.digits, ground.writer):
        assert ran(["apptainer", "-q", "exec", sif, *look]).out == ""
        found = ran(["apptainer", "-q", "exec", sif, "find", "/contrib_src", "/framework", "-name", "*.pyc"])
        assert "inference" in found.out and "standalone" in found.out
        assert ran(["apptainer", "-q", "exec", sif, "stat", "-c", "%a", "/contrib_src"]).out == "755\n"


# -- apps ------------------------------------------------------------------------------------------------


def test_the_server(ground: Ground) -> None:
    command = ["apptainer", "-q", "run", "--app", "serve", str(ground.digits), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            assert line.startswith("digits-cnn is served at http://127.0.0.1:"), line
            address = line.split()[4]
            answer = json.loads(fetched(f"{address}api/predict_sample?filename=digit-0900.png"))
            assert top(answer) == "four"
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def fetched(address: str) -> bytes:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as reply:
                return bytes(reply.read())
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_sandbox_needs_jupyter(ground: Ground, inputs: Path) -> None:
    done = run("--app", "sandbox", ground.digits, cwd=inputs)
    assert done.code == 5 and "no Jupyter" in done.err and "--app shell" in done.err


def test_the_shell(ground: Ground, inputs: Path) -> None:
    code = "import os; from modelapi import model; print(os.getcwd(), len(model.get_samples()['files']))"
    done = run("--app", "shell", ground.digits, "python3", "-c", code, cwd=inputs)
    assert done.out == "/contrib_src 10\n", done.err
    shell = ["apptainer", "-q", "run", "--app", "shell", ground.digits]
    typed = ran(shell, inputs, typed="pwd; touch /temp/x && echo ok\n")
    assert typed.out.split() == ["/contrib_src", "ok"] and "from modelapi import model" in typed.err


# -- building --------------------------------------------------------------------------------------------


def test_building_is_whole_or_not_at_all(ground: Ground, tmp_path: Path) -> None:
    """Killed while it packs; then again, while a container runs from the file that is replaced."""
    target, build = tmp_path / "m.sif", mh_hpc(tmp_path, "build", DIGITS, "-o", tmp_path / "m.sif")
    with subprocess.Popen([str(word) for word in build], start_new_session=True) as killed:
        while not list(tmp_path.glob(".mh-hpc-*.part")):
            assert killed.poll() is None
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
    assert not target.exists()

    shutil.copy(ground.digits, target)
    before = target.stat().st_ino
    refused = ran(build)
    assert refused.code == 2 and "--force" in refused.err and target.stat().st_ino == before
    with running(target) as container:
        replaced = ran([*build, "--force"])
        assert replaced.code == 0 and target.stat().st_ino != before, replaced.err
        out, _ = container.communicate("exec python3 -c 'import onnxruntime; print(1)'\n")
    assert out == "1\n" and container.returncode == 0
    assert os.listdir(tmp_path / "cache/images") == []  # the workspace of the killed build went too


@contextlib.contextmanager
def running(sif: Path) -> Iterator[subprocess.Popen[str]]:
    command = ["apptainer", "-q", "exec", str(sif), "sh"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as container:
        time.sleep(0.5)
        yield container


def test_a_dry_run_writes_nothing(ground: Ground, tmp_path: Path) -> None:
    done = ran(mh_hpc(tmp_path, "build", "digits-cnn", "--dry-run", "--json"))
    facts = done.answer
    assert done.code == 0 and facts["built"] is False and facts["path"] == str(tmp_path / "digits-cnn.sif")
    assert "inference.py" in facts["files"] and facts["labels"]["org.modelhub-hpc.model.name"] == "digits-cnn"
    assert os.listdir(tmp_path) == []
