"""Measure runs beside the ways in use today: `python benchmarks/rivals.py --help`; README.md says what is compared."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from bench import REPO, inputs, models, ways
from bench.slurm import own_cluster
from bench.ways import Setting
from bench.words import describe, machine, say, spread, table, write_json
from testcluster import Cluster, find

WORKERS = 2
VENV = REPO / "build/benchmarks/rivals"
PEERS = REPO / "benchmarks/peers"
# the libraries are those of the image, since dask's workers run without it
PACKAGES = ("submitit", "dask", "distributed", "dask-jobqueue", "cryptography", "onnxruntime==1.22.1", "numpy",
            "pillow", "snakemake", "snakemake-executor-plugin-slurm")
# Snakemake asks squeue, which has to know of jobs that have ended for as long
SHAPE = {"nodes": 1, "cpus": WORKERS, "settings": {"MinJobAge": "300"}}
START_S = 60.0
RIVAL_S = 600.0


@dataclass(frozen=True)
class Taken:
    """What one way took: seconds from the start of its command to its last result.

    slope: seconds per case from the first result to the last, of ways that are measured on a part of the cases only.
    """

    cases: int
    seconds: float
    slope: float | None = None

    @property
    def per_case(self) -> float:
        return self.seconds / self.cases if self.slope is None else self.slope


@dataclass(frozen=True)
class Way:
    """text: for the table; beside: the way of ours that it is compared with; goal: the ratio that is wanted."""

    text: str
    run: Callable[[Ground, Path], Taken]
    beside: str | None = None
    goal: float | None = None
    needs: str | None = None


@dataclass(frozen=True)
class Ground:
    """What all ways share. few: of how many cases each is a job of its own."""

    setting: Setting
    cluster: Cluster
    cases: list[str]
    few: int
    python: Path

    def task(self, folder: Path, **more: Any) -> Path:
        """The file that says to a rival's script what to do."""
        setting = self.setting
        predict = setting.inside("predict.py", setting.engine, setting.source)
        facts = {"predict": predict, "folder": str(folder), "workers": setting.workers, "cases": self.cases,
                 "engine": str(REPO / "engine"), "source": str(setting.model / "contrib_src"), **more}
        path = folder / "task.json"
        path.write_text(json.dumps(facts))
        return path

    def run(self, folder: Path, *command: object) -> float:
        """Run a rival in its folder; when it was begun."""
        begun = time.time()
        env = {**self.setting.environment(), **self.cluster.environment()}
        env["PATH"] = f"{folder}/bin:{self.python.parent}:{env['PATH']}"
        words = [str(word) for word in command]
        with (folder / "log").open("wb") as log:
            try:
                code = subprocess.run(words, cwd=folder, env=env, timeout=RIVAL_S, stdout=log, stderr=log).returncode
            except subprocess.TimeoutExpired:
                raise Failure(f"not within {RIVAL_S:.0f} s", _read(folder / "log")) from None
        if code:
            raise Failure(f"exit code {code}", _read(folder / "log"))
        return begun


def _read(log: Path) -> str:
    return log.read_text(errors="replace")


class Failure(Exception):
    """A rival that did not do it. The second argument is its log."""


# ---- the ways -----------------------------------------------------------------------------------


def bare(ground: Ground, folder: Path) -> Taken:
    return _taken(ways.bare(ground.setting, ground.cases))


def local(ground: Ground, folder: Path) -> Taken:
    return _taken(ways.submit(ground.setting, ground.setting.inputs, folder / "run"))


def slurm(ground: Ground, folder: Path) -> Taken:
    # the driver beside the workers' jobs and not in one, as those of the rivals
    options = ("--executor", "slurm", "--controller", "login", "--wait", "-t", "30")
    env = ground.cluster.environment()
    return _taken(ways.submit(ground.setting, ground.setting.inputs, folder / "run", options, env))


def _taken(passage: ways.Passage) -> Taken:
    return Taken(passage.cases, passage.seconds)


def array(ground: Ground, folder: Path) -> Taken:
    cases = ground.cases[: ground.few]
    (folder / "cases").write_text("\n".join(cases) + "\n")
    predict = ground.setting.inside("predict.py", ground.setting.engine, ground.setting.source)
    options = ["--wait", f"--array=1-{len(cases)}%{WORKERS}", "--output=/dev/null", "--cpus-per-task=1", "--time=30"]
    begun = ground.run(folder, "sbatch", *options, PEERS / "array.sh", folder / "cases", *predict)
    return _each(begun, folder / "ended", len(cases))


def submitit(ground: Ground, folder: Path) -> Taken:
    chunk = -(-len(ground.cases) // (4 * WORKERS))
    begun = ground.run(folder, ground.python, PEERS / "submitit_chunks.py", ground.task(folder, chunk=chunk))
    ended = max(path.stat().st_mtime for path in folder.glob("*_result.pkl"))
    return Taken(len(ground.cases), ended - begun)


def dask(ground: Ground, folder: Path) -> Taken:
    begun = ground.run(folder, ground.python, PEERS / "dask_tasks.py", ground.task(folder))
    return Taken(len(ground.cases), (folder / "results.jsonl").stat().st_mtime - begun)


def snakemake(ground: Ground, folder: Path) -> Taken:
    return _snakemake(ground, folder, ground.cases[: ground.few])


def snakemake_grouped(ground: Ground, folder: Path) -> Taken:
    cases = ground.cases[: 4 * ground.few]
    return _snakemake(ground, folder, cases, "--group-components", f"images={len(cases) // (2 * WORKERS)}")


def _snakemake(ground: Ground, folder: Path, cases: list[str], *options: str) -> Taken:
    _show_srun(folder / "bin", ground.cluster)
    command: list[object] = ["--snakefile", PEERS / "Snakefile", "--executor", "slurm", "--jobs", "100", "--cores", "1"]
    command += ["--slurm-status-command", "squeue"]  # not every cluster has accounting
    task = ground.task(folder, cases=cases)
    begun = ground.run(folder, ground.python.with_name("snakemake"), *command, *options, "--config", f"task={task}")
    return _each(begun, folder / "ended", len(cases))


def _show_srun(folder: Path, cluster: Cluster) -> None:
    """Snakemake's jobs lose the variable that leads to this cluster, which elsewhere has a place known to all."""
    folder.mkdir()
    (folder / "srun").write_text(f"#!/bin/sh\nSLURM_CONF={cluster.conf} exec {find('srun')} \"$@\"\n")
    (folder / "srun").chmod(0o755)


def rest(ground: Ground, folder: Path) -> Taken:
    """A server per worker, and a client for each that posts one image after the other."""
    begun = time.time()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(WORKERS) as threads:
        addresses = [stack.enter_context(_server(ground.setting)) for _ in range(WORKERS)]
        shares = [ground.cases[number::WORKERS] for number in range(WORKERS)]
        files = [folder / f"{number}.jsonl" for number in range(WORKERS)]
        list(threads.map(_post, addresses, shares, files))
        return Taken(len(ground.cases), time.time() - begun)


@contextlib.contextmanager
def _server(setting: Setting) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = setting.inside("serve.py", setting.engine, setting.source, str(port))
    server = subprocess.Popen(command, env=setting.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait(START_S)


def _post(address: str, cases: list[str], results: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            requests.get(f"{address}/get_config", timeout=START_S).raise_for_status()
            break
        except requests.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    with results.open("w") as stream:
        for path in cases:
            with open(path, "rb") as file:
                answer = requests.post(f"{address}/predict", files={"file": file}, timeout=START_S)
            answer.raise_for_status()
            stream.write(answer.text.strip() + "\n")


def _each(begun: float, times: Path, count: int) -> Taken:
    """times: a file with a line for each result, when it came; the first ones of all workers are not counted."""
    ended = sorted(map(float, times.read_text().split()))
    if len(ended) != count:
        raise Failure(f"{len(ended)} of {count} results", "")
    rest = ended[WORKERS - 1 :]
    return Taken(count, ended[-1] - begun, (rest[-1] - rest[0]) / (len(rest) - 1))


WAYS = {
    "bare": Way("bare loop", bare),
    "local": Way("mh-hpc, this machine alone", local, "bare"),
    "slurm": Way("mh-hpc on SLURM", slurm, "bare"),
    "array": Way("apptainer exec per image in a job array", array, "slurm", 60.0),
    "submitit": Way("submitit with a chunk loop by hand", submitit, "slurm", 1.0, "submitit"),
    "dask": Way("dask-jobqueue, a task per image, no container", dask, "slurm", 1.0, "dask_jobqueue"),
    "snakemake": Way("Snakemake, a job per image", snakemake, "slurm", None, "snakemake_executor_plugin_slurm"),
    "grouped": Way("Snakemake, images in four groups", snakemake_grouped, "slurm", None,
                   "snakemake_executor_plugin_slurm"),
    "rest": Way("Flask's development server, a POST per image", rest, "local", 1.5),
}


# ---- a run --------------------------------------------------------------------------------------


def main() -> int:
    options = parse()
    python = VENV / "bin/python"
    if options.install:
        install()
    found = machine()
    say(describe(found))
    missing = {name: why for name in options.ways if (why := lacks(WAYS[name], python))}
    chosen = [name for name in WAYS if name in options.ways and name not in missing]
    with tempfile.TemporaryDirectory(prefix="mh-rivals-") as name, own_cluster(**SHAPE) as cluster:
        folder = Path(name)
        cases = [str(path) for path in inputs.photos(folder / "inputs", options.cases)]
        setting = Setting(models.make("squeezenet", folder / "models"), folder / "inputs", ways.image("apptainer"),
                          WORKERS)
        ground = Ground(setting, cluster, cases, options.few, python)
        failed: dict[str, str] = {}
        rounds = [turn(ground, chosen, folder / f"round{number}", failed) for number in range(options.repeats)]
    ratios = report(options, rounds, {**missing, **failed})
    kept = [{name: {**asdict(taken), "per_case": taken.per_case} for name, taken in each.items()} for each in rounds]
    write_json(options, {"machine": found, "ratios": ratios, "missing": {**missing, **failed}, "rounds": kept})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="SqueezeNet over JPEGs by the ways in use today and by ours, turn about, two workers each, on a "
                    "SLURM of one's own with one node of two CPUs.")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="[all]")
    parser.add_argument("--cases", type=int, default=2_000, help="images [%(default)s]")
    parser.add_argument("--few", type=int, default=20, help="images for ways that start a job for each of them, whose "
                        "time per image is taken from these; four times as many where they are grouped [%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="medians of as many rounds are given [%(default)s]")
    parser.add_argument("--install", action="store_true", help=f"first install the rivals into {VENV}, by pip")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser.parse_args()


def install() -> None:
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    for package in PACKAGES:  # one at a time: what can't be had costs only itself
        subprocess.run([str(VENV / "bin/pip"), "install", "--quiet", package], check=False)


def lacks(way: Way, python: Path) -> str | None:
    """Why this way can't be measured here, if it can't."""
    if way.needs is None:
        return None
    if not python.exists():
        return "not installed: --install"
    found = subprocess.run([str(python), "-c", f"import {way.needs}"], capture_output=True, text=True)
    return "could not be installed" if found.returncode else None


def turn(ground: Ground, chosen: list[str], folder: Path, failed: dict[str, str]) -> dict[str, Taken]:
    taken = {}
    for name in chosen:
        place = folder / name
        place.mkdir(parents=True)
        try:
            taken[name] = WAYS[name].run(ground, place)
        except Failure as failure:
            failed[name] = str(failure.args[0])
            sys.stderr.write(f"{WAYS[name].text}: {failed[name]}\n{failure.args[1][-2000:]}\n")
        shutil.rmtree(place)
    return taken


def report(options: argparse.Namespace, rounds: list[dict[str, Taken]], missing: dict[str, str]) -> dict[str, float]:
    """Print the table; the ratios, by way."""
    ratios = {}
    say()
    say(f"squeezenet over {options.cases:,} JPEGs, {WORKERS} workers; medians of {len(rounds)} rounds")
    for name in (name for name in WAYS if name in options.ways):
        way, mine = WAYS[name], [each[name] for each in rounds if name in each]
        if name in missing or not mine:
            table([(way.text, f"     {missing.get(name, 'failed')}")])
            continue
        part = f", of {mine[0].cases} images" if mine[0].slope is not None else ""
        table([(way.text, f"{spread([1e3 * each.per_case for each in mine])} ms per image{part}")])
        beside = [each[way.beside] for each in rounds if name in each and way.beside in each]
        if beside:
            found = [theirs.per_case / ours.per_case for theirs, ours in zip(mine, beside)]
            ratios[name] = statistics.median(found)
            goal = f"   wanted: {way.goal:g} or more" if way.goal else ""
            table([(f"  times as long as {WAYS[way.beside or ''].text}", f"{spread(found)}{goal}")])
    return ratios


if __name__ == "__main__":
    sys.exit(main())
