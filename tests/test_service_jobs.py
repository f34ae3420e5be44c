"""Jobs over HTTP, with a real server: what is asked for is computed once, found again, and ended."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import requests
from grounds import OBEDIENT, REPO, processes
from runkit import Cluster, eventually
from servekit import Endpoint, serving

from modelhub_hpc import contribution, run
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.service import jobs
from modelhub_hpc.service.refused import Refused

PAIR = REPO / "tests/contributions/pair"
DIGITS = REPO / "registry/contributions/digits-cnn/contrib_src/sample_data"
LIMIT_S = 60.0
OVER = ("succeeded", "failed", "canceled")


class Client:
    """A client of one server, whose jobs name files in the folder `data`."""

    def __init__(self, server: Endpoint, data: Path, runs: Path) -> None:
        self.server, self.data, self.runs = server, data, runs

    def begin(self, *commands: str, key: str | None = None, **options: Any) -> requests.Response:
        """A job of the obedient model, which does what it is told in this order."""
        paths = [str(self.order(text, at)) for at, text in enumerate(commands)]
        body = {"model": "obedient", "inputs": paths, **({"options": options} if options else {})}
        return self.post(body, key)

    def post(self, body: Any, key: str | None = None) -> requests.Response:
        headers = {**self.server.headers, **({"Idempotency-Key": key} if key is not None else {})}
        return self.server.post("/jobs", json=body, headers=headers)

    def order(self, text: str, at: int = 0) -> Path:
        path = self.data / f"{at}-{text.replace(' ', '-').lower()}.npy"
        if not path.exists():  # a job that still reads it would find it changed
            path.write_bytes(obey(text))
        return path

    def job(self, job_id: str) -> Any:
        reply = self.server.get(f"/jobs/{job_id}")
        assert reply.status_code == 200, reply.text
        return reply.json()

    def over(self, begun: requests.Response) -> Any:
        """The job once it is over."""
        assert begun.status_code in (200, 201), begun.text
        job_id = begun.json()["id"]
        assert eventually(lambda: self.job(job_id)["state"] in OVER, LIMIT_S), self.job(job_id)
        return self.job(job_id)

    def results(self, job: Any, **query: Any) -> list[Any]:
        reply = self.server.get(job["links"]["results"], params=query)
        assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/jsonl")
        return [json.loads(line) for line in reply.text.splitlines()]

    def state(self, job_id: str) -> str:
        return str(self.job(job_id)["state"])


def problem(reply: requests.Response, status: int) -> str:
    """The detail of a problem, whose form is looked at."""
    assert reply.status_code == status, reply.text
    assert reply.headers["Content-Type"] == "application/problem+json"
    told = reply.json()
    assert told["status"] == status and told["detail"] == told["error"] and told["title"] and told["type"]
    assert "Traceback" not in reply.text
    return str(told["detail"])


Start = Callable[..., Endpoint]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("jobs")
    for name in ("data", "runs"):
        (made / name).mkdir()
    return made


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    words = ("digits-cnn", OBEDIENT, PAIR, "--allow-root", folder / "data", "--allow-root", DIGITS)
    with serving(folder, *words, "--max-upload", "64", MH_HPC_WORKERS="1") as server:
        yield Client(server, folder / "data", folder / "runs")
        for job in server.get("/jobs?limit=500").json()["jobs"]:
            # those that a test that failed has left: they would outlive the server
            if job["state"] not in OVER:
                server.ask("DELETE", job["links"]["self"])


# ---- what a job is


def test_a_job_is_a_run_that_others_see_too(client: Client) -> None:
    begun = client.post({"model": "digits-cnn", "inputs": [str(DIGITS)]})
    assert begun.status_code == 201 and begun.headers["Location"] == f"/jobs/{begun.json()['id']}"
    assert begun.json()["state"] == "starting" and begun.json()["cases"]["to_go"] == 10
    job = client.over(begun)
    assert (job["state"], job["cases"]) == ("succeeded", {"total": 10, "done": 10, "failed": 0, "to_go": 0})
    assert job["model"] == {"name": "digits-cnn", "version": "1.0.0"}
    assert job["ended"] >= job["created"] and job["reason"] is None
    told = subprocess.run(
        [sys.executable, "-m", "modelhub_hpc.cli", "status", client.runs / job["id"], "--json"],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    seen = json.loads(told.stdout)
    assert (seen["run_id"], seen["state"], seen["done"]) == (job["id"], "complete", 10)


def test_results_come_in_pages_that_are_the_table_together(client: Client) -> None:
    job = client.over(client.post({"model": "digits-cnn", "inputs": [str(DIGITS)]}))
    whole = client.results(job)
    pages, cursor = [], "0"
    while cursor is not None:
        reply = client.server.get(job["links"]["results"], params={"cursor": cursor, "limit": 4})
        pages += [json.loads(line) for line in reply.text.splitlines()]
        cursor = reply.headers.get("X-Next-Cursor")
        assert (cursor is None) == ("Link" not in reply.headers)
    assert pages == whole and [each["index"] for each in whole] == list(range(10))
    best = [max(each["outputs"][0]["prediction"], key=lambda entry: entry["probability"]) for each in whole]
    table = client.server.get(f"{job['links']['files']}/results.csv").text
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["probabilities"] for row in rows] == [entry["label"] for entry in best]
    parts = [client.server.get(f"{job['links']['results']}?format=csv&limit=6&cursor={at}").text for at in (0, 6)]
    assert parts[0] + parts[1].partition("\n")[2] == table


def test_a_case_that_fails_is_told_and_the_job_succeeds(client: Client) -> None:
    job = client.over(client.begin("OK 1", "FAIL", "OK 2"))
    assert (job["state"], job["cases"]["done"], job["cases"]["failed"]) == ("succeeded", 2, 1)
    assert [(each["case"], each["kind"]) for each in job["failures"]] == [("1-fail", "model")]
    failed = next(each for each in client.results(job) if each["status"] == "failed")
    assert (failed["case"], failed["error"]["kind"]) == ("1-fail", "model")
    assert "told to fail" in failed["error"]["message"]


def test_a_job_whose_cases_all_fail_has_failed(client: Client) -> None:
    job = client.over(client.begin("FAIL"))
    assert (job["state"], job["reason"]) == ("failed", "every case has failed")


def test_a_job_stops_at_its_limit_of_failures(client: Client) -> None:
    job = client.over(client.begin("FAIL", "QUIT", "OK 3", "SLEEP 0 4", chunk_size=1, max_failures=0))
    assert job["state"] == "failed" and "more than 0 cases failed" in job["reason"] and "resume" in job["reason"]
    assert job["cases"]["to_go"] > 0


def test_arrays_are_files_of_the_job(client: Client) -> None:
    job = client.over(client.begin("ARRAY 7", "OK 8", "ARRAY 9"))
    listed = client.server.get(job["links"]["files"]).json()
    arrays = [each for each in listed["files"] if "case" in each]
    assert [each["name"] for each in arrays] == ["000000-0.npy", "000000.h5", "000002-0.npy", "000002.h5"]
    assert {each["name"] for each in listed["files"]} > {"results.csv", "failures.csv", "record.json"}
    for at, number in ((0, 7), (2, 9)):
        result = client.results(job, cursor=at, limit=1)[0]
        output = result["outputs"][0]
        reply = client.server.get(f"{job['links']['files']}/{output['file']}")
        assert reply.headers["Content-Length"] == str(len(reply.content))
        array = np.load(io.BytesIO(reply.content), allow_pickle=False)
        assert array.dtype == output["dtype"] and np.array_equal(array, np.full((4, 5), number, "float32"))
        with h5py.File(io.BytesIO(client.server.get(f"{job['links']['files']}/{at:06d}.h5").content)) as file:
            assert np.array_equal(file[f"{result['case']}/{output['name']}"][()], array)


def test_large_arrays_arrive_as_they_were(client: Client) -> None:
    job = client.over(client.begin("NOISE 9 3", "BIG 6"))
    noise = client.server.get(f"{job['links']['files']}/000000-0.npy").content
    assert np.load(io.BytesIO(noise)).tobytes() == np.random.RandomState(3).bytes(9 * 2**20)
    zeros = np.load(io.BytesIO(client.server.get(f"{job['links']['files']}/000001-0.npy").content))
    assert zeros.shape == (6, 2**20) and not zeros.any()


def test_a_run_of_the_command_line_is_a_job_too_and_is_not_removed(client: Client) -> None:
    folder = client.runs / "by-hand"
    model, order = str(OBEDIENT), str(client.order("OK 5"))
    words = ["submit", "--model", model, "--inputs", order, "--outdir", str(folder), "--runtime", "host", "--executor"]
    subprocess.run([sys.executable, "-m", "modelhub_hpc.cli", *words, "inline"], check=True, capture_output=True)
    assert client.state("by-hand") == "succeeded"
    assert "by-hand" in [each["id"] for each in client.server.get("/jobs").json()["jobs"]]
    assert "not begun here" in problem(client.server.ask("DELETE", "/jobs/by-hand?remove=true"), 403)
    assert (folder / "results.csv").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "site": {"new": 1}}', '{"format": 9}']
)
def test_a_run_that_cannot_be_read_harms_no_other(client: Client, text: str) -> None:
    strange = client.runs / "strange"
    strange.mkdir(parents=True, exist_ok=True)
    (strange / "run.json").write_text(text)
    try:
        assert "cannot be read" in problem(client.server.get("/jobs/strange"), 409)
        assert "strange" not in [each["id"] for each in client.server.get("/jobs").json()["jobs"]]
        problem(client.server.get("/jobs/strange/results"), 422)
        assert client.server.get("/metrics").status_code == 200
    finally:
        (strange / "run.json").unlink()


def test_a_run_that_nobody_drives_yet_is_no_failure(client: Client, tmp_path: Path) -> None:
    site = SiteConfig(runtime="host", scratch_dir=tmp_path)
    asked = run.Asked(str(OBEDIENT), (str(client.order("OK 6")),), site, client.runs / "written-down")
    run.begin(run.plan(asked))
    assert client.state("written-down") == "starting"
    os.utime(client.runs / "written-down/run.json", (1e9, 1e9))
    job = client.job("written-down")
    assert (job["state"], job["reason"].partition(";")[0]) == ("failed", "its driver has never begun")


def test_jobs_are_listed_newest_first_in_pages(client: Client) -> None:
    ids = [client.begin(f"OK {number}").json()["id"] for number in range(3)]
    pages, cursor = [], None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        found = client.server.get("/jobs", params=query).json()
        pages += [each["id"] for each in found["jobs"]]
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert pages[:3] == ids[::-1] and len(pages) == len(set(pages))


# ---- files that are sent


def sent(client: Client, model: str, *files: tuple[str, str, bytes], **form: str) -> requests.Response:
    parts = [(field, (name, content)) for field, name, content in files]
    return client.server.post("/jobs", data={"model": model, **form}, files=parts)


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values))
    return stream.getvalue()


def obey(text: str) -> bytes:
    return npy(np.frombuffer(text.encode("ascii"), np.uint8))


def test_files_that_are_sent_are_cases_and_go_with_the_job(client: Client) -> None:
    names = ["a b.npy", "a b.npy", "../../etc/passwd.npy", "-rf.npy", "ü\n\"x.npy", ".npy", "x" * 300 + ".npy"]
    job = client.over(sent(client, "obedient", *[("inputs", n, obey(f"OK {i}")) for i, n in enumerate(names)]))
    assert job["cases"] == {"total": 7, "done": 7, "failed": 0, "to_go": 0}
    found = client.results(job)
    assert [each["outputs"][0]["prediction"] for each in found] == [[float(i), 2.0 * i] for i in range(7)]
    assert len({each["case"] for each in found}) == 7 and "passwd" in [each["case"] for each in found]
    folder = client.runs / job["id"]
    uploads = list((folder / ".mh-hpc/uploads").iterdir())
    assert len(uploads) == 7 and all(path.name.startswith("input-") for path in uploads)
    assert client.server.ask("DELETE", f"{job['links']['self']}?remove=true").status_code == 204
    assert not folder.exists() and not [path for path in client.runs.iterdir() if job["id"] in path.name]
    problem(client.server.get(job["links"]["self"]), 404)


def test_several_inputs_of_a_case_are_sent_by_their_keys(client: Client) -> None:
    files = [(f"inputs.{key}", f"{key}.npy", npy([number])) for number in (1.0, 2.0) for key in ("first", "second")]
    files[3] = ("inputs.second", "second.npy", npy([20.0]))
    assert "2 of first, 1 of second" in problem(sent(client, "pair", files[0], files[1], files[2]), 422)
    job = client.over(sent(client, "pair", *files))
    assert [each["outputs"][0]["prediction"] for each in client.results(job)] == [[1.0, 1.0], [2.0, 20.0]]
    for wrong in ("inputs", "inputs.third", "file", "inputs."):
        assert "inputs.first, inputs.second" in problem(sent(client, "pair", (wrong, "a.npy", npy([1]))), 422)


def test_several_inputs_of_a_case_are_named_by_their_keys(client: Client) -> None:
    for name, value in (("one", 1.0), ("two", 2.0)):
        np.save(client.data / f"{name}.npy", [value])
    one, two = (str(client.data / f"{name}.npy") for name in ("one", "two"))
    cases = [{"first": one, "second": two}, {"first": two, "second": one}]
    job = client.over(client.post({"model": "pair", "inputs": cases}))
    assert [each["outputs"][0]["prediction"] for each in client.results(job)] == [[1.0, 2.0], [2.0, 1.0]]
    assert "first, second" in problem(client.post({"model": "pair", "inputs": [{"first": one, "third": two}]}), 422)


def test_what_the_model_does_not_take_is_refused_and_leaves_nothing(client: Client) -> None:
    before = sorted(client.runs.iterdir())
    problem(sent(client, "digits-cnn", ("inputs", "x.png", b"%PDF-1.4 no picture")), 400)
    no_files = client.server.post("/jobs", files={"model": (None, "digits-cnn")})
    assert "has no files" in problem(no_files, 422)
    problem(sent(client, "obedient", ("inputs", "x.npy", obey("OK 1")), options='{"workers": 0}'), 422)
    problem(sent(client, "obedient", ("inputs", "x.npy", obey("OK 1")), options="{"), 400)
    assert "no such model" in problem(sent(client, "nobody", ("inputs", "x.npy", obey("OK 1"))), 422)
    assert sorted(client.runs.iterdir()) == before


# ---- the same request twice


def test_a_request_that_is_sent_again_finds_its_job(client: Client) -> None:
    first = client.begin("OK 11", key="once")
    again = client.begin("OK 11", key="once")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"] != client.begin("OK 11").json()["id"]
    assert "Another request" in problem(client.begin("OK 12", key="once"), 422)
    assert "Another request" in problem(client.begin("OK 11", key="once", chunk_size=3), 422)
    job = client.over(first)
    client.server.ask("DELETE", f"{job['links']['self']}?remove=true")
    assert client.begin("OK 12", key="once").status_code == 201


def test_sent_files_make_a_request_another(client: Client) -> None:
    headers = {**client.server.headers, "Idempotency-Key": "sent"}

    def send(text: str) -> requests.Response:
        files = {"inputs": ("a.npy", obey(text))}
        return client.server.post("/jobs", data={"model": "obedient"}, files=files, headers=headers)

    assert [send(text).status_code for text in ("OK 1", "OK 1", "OK 2")] == [201, 200, 422]


def test_the_same_request_at_the_same_time_begins_one_job(client: Client) -> None:
    def begin(_: int) -> requests.Response:
        return client.post({"model": "digits-cnn", "inputs": [str(DIGITS)]}, key="at-once")

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(begin, range(8)))
    codes = [reply.status_code for reply in replies]
    assert codes.count(201) == 1 and set(codes) <= {200, 201, 409}
    assert len({reply.json()["id"] for reply in replies if reply.status_code < 300}) == 1
    for reply in replies:
        assert reply.status_code != 409 or reply.headers["Retry-After"]


# ---- the end of a job


def test_a_job_is_canceled_while_it_runs_and_what_is_done_stays(client: Client) -> None:
    begun = client.begin("OK 1", "HANG", chunk_size=1)
    job_id = begun.json()["id"]
    assert eventually(lambda: client.job(job_id)["cases"]["done"] == 1, LIMIT_S)
    reply = client.server.ask("DELETE", f"/jobs/{job_id}")
    assert reply.status_code == 200, reply.text
    job = client.over(reply)
    assert (job["state"], job["cases"]["done"], job["cases"]["to_go"]) == ("canceled", 1, 1)
    assert client.server.ask("DELETE", f"/jobs/{job_id}").json()["state"] == "canceled"
    assert eventually(lambda: not [each for each in processes() if each.mentions([job_id])], LIMIT_S)


def test_a_job_that_waits_is_canceled_before_it_begins(client: Client) -> None:
    hanging = [client.begin("HANG").json()["id"] for _ in range(2)]
    waiting = client.begin("OK 2").json()["id"]
    assert client.job(waiting)["reason"] == "other jobs go first"
    assert client.server.ask("DELETE", f"/jobs/{waiting}").json()["state"] == "canceled"
    for job_id in hanging:
        assert client.server.ask("DELETE", f"/jobs/{job_id}?remove=true").status_code == 204
    assert client.state(waiting) == "canceled" and not (client.runs / waiting / "progress.json").exists()


def test_a_job_whose_driver_dies_has_failed_and_can_be_resumed(client: Client) -> None:
    job_id = client.begin("OK 1", "SLEEP 600 2", chunk_size=1).json()["id"]
    assert eventually(lambda: client.job(job_id)["cases"]["done"] == 1, LIMIT_S)
    owner = json.loads(sorted((client.runs / job_id / ".mh-hpc").glob("owner.??????"))[-1].read_bytes())
    os.kill(owner["pid"], signal.SIGKILL)
    assert eventually(lambda: client.state(job_id) == "failed", LIMIT_S)
    reason = client.job(job_id)["reason"]
    assert "its driver ended without a word why" in reason and "mh-hpc resume" in reason
    client.order("SLEEP 600 2", 1).write_bytes(obey("SLEEP 0.0 2"))
    done = subprocess.run(
        [sys.executable, "-m", "modelhub_hpc.cli", "resume", client.runs / job_id], capture_output=True
    )
    assert done.returncode in (0, 3), done.stderr  # 3: the input is not what it was
    assert client.state(job_id) == "succeeded"


# ---- following a job


def events(reply: requests.Response) -> Iterator[tuple[str, Any]]:
    kind = ""
    for line in reply.iter_lines(decode_unicode=True):
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def test_events_follow_a_job_to_its_end(client: Client) -> None:
    job = client.begin("OK 1", "SLEEP 1.5 2", "OK 3", chunk_size=1).json()
    reply = client.server.get(job["links"]["events"], stream=True)
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    told = list(events(reply))
    assert [kind for kind, _ in told] == ["progress"] * (len(told) - 1) + ["end"] and len(told) > 2
    done = [data["cases"]["done"] for _, data in told]
    assert done == sorted(done) and done[-1] == 3 and told[-1][1] == client.job(job["id"])
    again = client.server.get(job["links"]["events"], stream=True)
    assert [kind for kind, _ in events(again)] == ["end"]


def test_streams_have_a_limit_and_who_leaves_makes_room(client: Client) -> None:
    job = client.begin("HANG").json()
    for _ in range(20):  # who asks for the head alone leaves at once
        assert client.server.ask("HEAD", job["links"]["events"]).status_code == 200
    streams: list[requests.Response] = []

    def opened() -> bool:
        """Whether there was room for one more; who has left may keep his place for a moment."""
        reply = client.server.get(job["links"]["events"], stream=True)
        if reply.status_code == 200:
            streams.append(reply)
        return reply.status_code == 200

    for _ in range(8):
        assert eventually(opened, LIMIT_S)
    reply = client.server.get(job["links"]["events"], stream=True)
    assert "Too many streams" in problem(reply, 503) and reply.headers["Retry-After"]
    assert client.state(job["id"]) in ("starting", "processing")
    for each in streams:
        each.close()
    assert eventually(opened, LIMIT_S)
    with streams[-1] as last:
        following = events(last)
        next(following)
        client.server.ask("DELETE", job["links"]["self"])
        assert [data["state"] for kind, data in following if kind == "end"] == ["canceled"]


# ---- many, and again after a restart


def test_twenty_jobs_at_once_each_have_their_own_answer(client: Client) -> None:
    def ask(number: int) -> Any:
        files = {"inputs": ("a.npy", obey(f"OK {number}"))}
        return client.over(client.server.post("/jobs", data={"model": "obedient"}, files=files))

    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(ask, range(20)))
    assert {job["state"] for job in done} == {"succeeded"} and len({job["id"] for job in done}) == 20
    answers = [client.results(job)[0]["outputs"][0]["prediction"] for job in done]
    assert answers == [[float(number), 2.0 * number] for number in range(20)]


def test_a_server_that_was_killed_finds_its_jobs_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    words = (OBEDIENT, "--allow-root", data)
    with serving(tmp_path, *words, MH_HPC_WORKERS="1") as server:
        client = Client(server, data, tmp_path / "runs")
        running = [client.begin("SLEEP 4 1", key=f"running-{at}").json()["id"] for at in range(2)]
        waiting = [client.begin(f"OK {at}", key=f"waiting-{at}").json()["id"] for at in range(3)]
        assert eventually(lambda: all(client.state(each) == "processing" for each in running), LIMIT_S)
        server.process.kill()
    left = tmp_path / "runs/job-0123456789abcdef/.mh-hpc/uploads"
    left.mkdir(parents=True)  # of a request that was being received
    with serving(tmp_path, *words, MH_HPC_WORKERS="1") as server:
        client = Client(server, data, tmp_path / "runs")
        assert not left.parent.parent.exists()
        assert [each["id"] for each in server.get("/jobs").json()["jobs"]] == [*running, *waiting][::-1]
        again = client.begin("OK 1", key="waiting-1")
        assert (again.status_code, again.json()["id"]) == (200, waiting[1])
        for job_id in (*running, *waiting):
            assert eventually(lambda: client.state(job_id) in OVER, LIMIT_S)
        found = [client.job(each) for each in (*running, *waiting)]
        assert [(job["state"], job["reason"]) for job in found] == [("succeeded", None)] * 5
        owners = [len(list((tmp_path / "runs" / each / ".mh-hpc").glob("owner.??????"))) for each in running]
        assert owners == [2, 2]  # who has written it down and one driver


def test_a_server_that_is_killed_while_it_receives_jobs_begins_each_once(tmp_path: Path) -> None:
    ids: dict[int, set[str]] = {number: set() for number in range(8)}

    def send(server: Endpoint) -> None:
        """All of them, as a client does that repeats what was not answered."""
        for number in ids:
            headers = {**server.headers, "Idempotency-Key": f"number-{number}"}
            files = {"inputs": (f"{number}.npy", obey(f"OK {number}"))}
            try:
                reply = server.post("/jobs", data={"model": "obedient"}, files=files, headers=headers)
            except requests.ConnectionError:
                return
            assert reply.status_code in (200, 201), reply.text
            ids[number].add(reply.json()["id"])

    for begun in (2, 5):
        with serving(tmp_path, OBEDIENT, MH_HPC_WORKERS="1") as server, ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send, server)
            assert eventually(lambda: sum(map(bool, ids.values())) >= begun, LIMIT_S)
            server.process.kill()
            sending.result()
    with serving(tmp_path, OBEDIENT, MH_HPC_WORKERS="1") as server:
        client = Client(server, tmp_path, tmp_path / "runs")
        send(server)
        assert {len(found) for found in ids.values()} == {1}
        for number, (job_id,) in ids.items():
            assert eventually(lambda: client.state(job_id) == "succeeded", LIMIT_S), client.job(job_id)
            (result,) = client.results(client.job(job_id))
            assert result["outputs"][0]["prediction"] == [float(number), 2.0 * number]
        assert {path.name for path in client.runs.iterdir()} == {job_id for (job_id,) in ids.values()}


DIES_AS_IT_HAS_WRITTEN_A_JOB_DOWN = """
import os, sys
from pathlib import Path
from modelhub_hpc import contribution, owner
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.service.jobs import Jobs, NewJob
owner.Owner.release = lambda self: os._exit(9)
model, inputs, runs = sys.argv[1:]
jobs = Jobs(Path(runs), SiteConfig(runtime="host"), {"obedient": contribution.read(Path(model))}, [Path(inputs)])
jobs.begin(NewJob("obedient", (inputs,)), "key")
"""


def test_a_job_whose_server_died_as_it_had_written_it_down_is_driven_by_the_next(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.npy").write_bytes(obey("OK 1"))
    dies = [sys.executable, "-c", DIES_AS_IT_HAS_WRITTEN_A_JOB_DOWN, OBEDIENT, data, tmp_path / "runs"]
    assert subprocess.run(dies).returncode == 9
    (job_id,) = (path.name for path in (tmp_path / "runs").iterdir())
    with serving(tmp_path, OBEDIENT, MH_HPC_WORKERS="1") as server:
        client = Client(server, data, tmp_path / "runs")
        assert eventually(lambda: client.state(job_id) in OVER, LIMIT_S)
        assert client.state(job_id) == "succeeded"


def test_a_server_that_is_stopped_ends_streams_and_leaves_drivers_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with serving(tmp_path, OBEDIENT, "--allow-root", data, MH_HPC_WORKERS="1") as server:
        client = Client(server, data, tmp_path / "runs")
        job = client.begin("SLEEP 3 1").json()
        assert eventually(lambda: client.state(job["id"]) == "processing", LIMIT_S)
        with server.get(job["links"]["events"], stream=True) as stream:
            following = events(stream)
            assert next(following)[0] == "progress"
            assert server.stop() == 0
    record = tmp_path / "runs" / job["id"] / "record.json"
    assert not record.exists() and eventually(record.exists, LIMIT_S)
    assert json.loads(record.read_bytes())["counts"]["done"] == 1


def test_only_so_many_jobs_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelhub_hpc.service.jobs.MOST_WAITING", 0)
    models = {"obedient": contribution.read(OBEDIENT)}
    waiting = jobs.Jobs(tmp_path / "runs", SiteConfig(runtime="host"), models, [tmp_path])
    with pytest.raises(Refused, match="Too many jobs are waiting") as refused:
        waiting.begin(jobs.NewJob("obedient", (str(tmp_path),)))
    waiting.close()
    assert (refused.value.status, refused.value.retry_after_s is not None) == (429, True)
    assert not (tmp_path / "runs").exists()


# ---- what is refused


def test_files_outside_of_the_allowed_folders_are_refused(client: Client, tmp_path: Path) -> None:
    secret = tmp_path / "secret.npy"
    secret.write_bytes(obey("OK 1"))
    inside = client.order("OK 1")
    link, folder_link = client.data / "link.npy", client.data / "linked"
    link.symlink_to(secret)
    folder_link.symlink_to(tmp_path)
    table = client.data / "table.csv"
    table.write_text(f"case_id,input\na,{inside}\nb,{secret}\n")
    listed = client.data / "list.json"
    listed.write_text(json.dumps([{"single": {"fileurl": str(secret)}}]))
    mixed = client.data / "mixed"
    mixed.mkdir()
    (mixed / "a.npy").symlink_to(secret)
    before = sorted(client.runs.iterdir())
    wrong = [
        str(secret), str(link), str(folder_link), str(folder_link / "secret.npy"), str(table), str(listed), str(mixed),
        f"{client.data}/../secret.npy", f"{client.data}/./../data/{inside.name}", "/", "/etc/passwd", "etc/passwd", "",
        "~/x", f"{client.data}-other/x.npy", f"{client.data}\n/etc/passwd", f"{inside}\0", "\ud800", "-", "*",
        f"{client.data}/*.npy", f"{tmp_path}/*", str(client.data / "nothing.npy"), "docker://x", "https://x/y.npy",
        "/proc/self/environ", "/dev/zero", f"{client.data}/" + "x/" * 2000,
    ]  # fmt: skip
    for path in wrong:
        reply = client.server.post("/jobs", data=json.dumps({"model": "obedient", "inputs": [path]}), headers={
            **client.server.headers, "Content-Type": "application/json"
        })  # fmt: skip
        assert problem(reply, 422), path
    assert sorted(client.runs.iterdir()) == before
    for each in (link, folder_link, table, listed):
        each.unlink()


def test_hostile_names_of_jobs_and_files_are_not_found(client: Client) -> None:
    job = client.over(client.begin("ARRAY 1"))
    (client.runs / "not a run").mkdir()
    (client.runs / "linked").symlink_to(client.runs / job["id"])
    strange = ("%2e%2e", "..%2f..", "x%00", "x%0a", "not%20a%20run", "linked", "-x", "a" * 300, "%F0%9F")
    for name in strange:
        assert client.server.get(f"/jobs/{name}").status_code in (404, 308), name
        assert client.server.ask("DELETE", f"/jobs/{name}?remove=true").status_code in (404, 405, 308), name
    wrong = [
        "run.json", "manifest.csv", ".mh-hpc", "..%2frun.json", "shards", "c000000.h5", "000000-1.npy", "000001-0.npy",
        "000001.h5", "00000-0.npy", "000000-0.npy%00", "000000-0.npy%0a", "999999999-0.npy", "0000000000000-0.npy",
        "%2fetc%2fpasswd", "logs", "٠٠٠٠٠٠-0.npy",
    ]  # fmt: skip
    for name in wrong:
        assert client.server.get(f"{job['links']['files']}/{name}").status_code == 404, name
    assert (client.runs / job["id"]).is_dir() and (client.runs / "linked").is_symlink()
    (client.runs / "linked").unlink()


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "ü", "a\tb"])
def test_hostile_keys_are_refused(client: Client, key: str) -> None:
    headers = {**client.server.headers, "Idempotency-Key": key.encode()}
    reply = client.server.post("/jobs", json={"model": "obedient", "inputs": ["/x"]}, headers=headers)
    assert reply.status_code in (400, 422) and reply.json()["error"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=-1", "limit=1e3", "limit=٣", "limit=", "limit=9" + "9" * 30, "cursor=../x",
     "cursor=%00", "cursor=job-0000000000000000", "limit=%0a1"],
)  # fmt: skip
def test_hostile_cursors_of_the_list_are_refused(client: Client, query: str) -> None:
    problem(client.server.get(f"/jobs?{query}"), 400)


def test_hostile_cursors_of_results_are_refused(client: Client) -> None:
    job = client.over(client.begin("OK 1"))
    for query in ("cursor=-1", "cursor=x", "cursor=1.5", "limit=0", "limit=10001", "format=xml", "cursor=%0a"):
        problem(client.server.get(f"{job['links']['results']}?{query}"), 400)
    assert client.results(job, cursor=10**9) == []
    assert client.server.get(f"{job['links']['results']}?format=csv&cursor=5").status_code == 200
    for text in ("1", "yes", ""):
        problem(client.server.ask("DELETE", f"{job['links']['self']}?remove={text}"), 400)


@pytest.mark.parametrize(
    "body, status",
    [
        ("", 400), ("{", 400), ("[]", 422), ("null", 422), ("[" * 100_000, 400), ('{"model": NaN, "inputs": []}', 400),
        ('{"model": "obedient"}', 422), ('{"model": "obedient", "inputs": []}', 422),
        ('{"model": "obedient", "inputs": "/x"}', 422), ('{"model": 1, "inputs": ["/x"]}', 422),
        ('{"model": "../obedient", "inputs": ["/x"]}', 422), ('{"model": "obedient", "inputs": [1]}', 422),
        ('{"model": "obedient", "inputs": [{}]}', 422), ('{"model": "obedient", "inputs": [{"single": 1}]}', 422),
        ('{"model": "obedient", "inputs": ["/x"], "more": 1}', 422),
        ('{"model": "obedient", "inputs": ["/x"], "options": {"runtime": "host"}}', 422),
        ('{"model": "obedient", "inputs": ["/x"], "options": {"scratch_dir": "/"}}', 422),
        ('{"model": "obedient", "inputs": ["/x"], "options": {"workers": 9999}}', 422),
        ('{"model": "obedient", "inputs": ["/x"], "options": {"case_timeout_s": 1e9}}', 422),
        ('{"model": "obedient", "inputs": ["/x"], "options": {"chunk_size": true}}', 422),
    ],
)  # fmt: skip
def test_hostile_bodies_are_refused(client: Client, body: str, status: int) -> None:
    headers = {**client.server.headers, "Content-Type": "application/json"}
    problem(client.server.post("/jobs", data=body, headers=headers), status)


def test_requests_that_are_too_large_are_refused(client: Client) -> None:
    before = sorted(client.runs.iterdir())
    many = [("inputs", f"{number}.npy", b"") for number in range(1001)]
    problem(sent(client, "obedient", *many), 413)
    problem(sent(client, "obedient", ("inputs", "a.npy", b""), options=" " * (2**20 + 1)), 413)
    problem(sent(client, "obedient", ("inputs", "a.npy", bytes(2**26))), 413)
    headers = {**client.server.headers, "Content-Type": "application/json"}
    chunked = client.server.post("/jobs", data=iter([b" " * 2**20] * 3 + [b"{}"]), headers=headers)
    assert chunked.status_code in (411, 413, 422)
    assert sorted(client.runs.iterdir()) == before and client.server.get("/healthz").status_code == 200


def test_other_types_and_methods_are_refused(client: Client) -> None:
    headers = {**client.server.headers, "Content-Type": "text/plain"}
    problem(client.server.post("/jobs", data="x", headers=headers), 415)
    problem(client.server.ask("PUT", "/jobs"), 405)
    problem(client.server.get("/jobs/x/y"), 404)
    assert problem(client.server.get("/jobs", headers={}), 401)


# ---- the server's own


def test_health_needs_no_token_and_metrics_do(client: Client) -> None:
    assert client.server.get("/healthz", headers={}).json() == {"status": "ok"}
    problem(client.server.get("/metrics", headers={}), 401)


def test_metrics_count_what_happened(client: Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    job = client.over(client.begin("OK 1"))
    client.server.get(f"/jobs/{job['id']}x")
    reply = client.server.get("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain")
    samples = [each for family in text_string_to_metric_families(reply.text) for each in family.samples]

    def value(name: str, **labels: str) -> float:
        return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())

    assert value("mh_hpc_requests_total", route="/jobs/<job_id>", status="404") >= 1
    assert value("mh_hpc_requests_total", route="/jobs", method="POST", status="201") >= 1
    assert value("mh_hpc_request_seconds_count", route="/jobs") >= 1
    assert value("mh_hpc_jobs", state="succeeded") >= 1 and value("mh_hpc_jobs_waiting") == 0
    assert {each.labels["model"] for each in samples if each.name == "mh_hpc_sessions_warm"} == {
        "digits-cnn", "obedient", "pair"
    }  # fmt: skip
    assert job["id"] not in reply.text


@pytest.mark.apptainer
def test_a_job_in_a_container(image: Any, tmp_path: Path) -> None:
    with serving(tmp_path, "digits-cnn", runtime="apptainer", MH_HPC_WORKERS="1") as server:
        client = Client(server, tmp_path, tmp_path / "runs")
        names = sorted(DIGITS.glob("*.png"))[:2]
        job = client.over(sent(client, "digits-cnn", *[("inputs", path.name, path.read_bytes()) for path in names]))
        assert (job["state"], job["cases"]["done"]) == ("succeeded", 2)
        assert [each["case"] for each in client.results(job)] == [path.stem for path in names]


@pytest.mark.parametrize("executor", ["slurm", "slurm-array"])
def test_jobs_on_slurm_are_jobs_of_slurm(cluster: Cluster, tmp_path: Path, executor: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    options = {"EXECUTOR": executor, "TIME": "10", "MEM_MB": "1024", "WORKERS": "1", "POLL_S": "1", "DRAIN_S": "2"}
    variables = {f"MH_HPC_{name}": value for name, value in options.items()}
    with serving(tmp_path, OBEDIENT, "--allow-root", data, **cluster.environment(), **variables) as server:
        client = Client(server, data, tmp_path / "runs")
        begun = client.begin("OK 1", "FAIL", key="on-slurm")
        job = client.over(begun)
        assert (job["state"], job["cases"]["done"], job["cases"]["failed"]) == ("succeeded", 1, 1), job
        assert client.begin("OK 1", "FAIL", key="on-slurm").json()["id"] == job["id"]
        noted = client.runs / job["id"] / ".mh-hpc/jobs"
        assert len(list(noted.glob("*.json"))) >= 2
        endless = client.begin("HANG").json()["id"]
        assert eventually(lambda: f"mh-{endless}" in cluster.run("squeue", "--noheader", "--format=%j"), LIMIT_S)
        ended = server.ask("DELETE", f"/jobs/{endless}")
        assert ended.status_code in (200, 202), ended.text
        assert eventually(lambda: client.state(endless) == "canceled", LIMIT_S), client.job(endless)["state"]
        assert eventually(lambda: f"mh-{endless}" not in cluster.run("squeue", "--noheader", "--format=%j"), LIMIT_S)
        problem(client.begin("OK 1", workers=2), 422)
