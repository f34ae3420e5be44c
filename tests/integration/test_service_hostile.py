"""Requests that mean harm: each is answered with 4xx, the server goes on, and nothing of them stays or gets out."""

from __future__ import annotations

import io
import json
import os
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hostile
import numpy as np
import pytest
import requests
from grounds import REPO
from servekit import Endpoint, serving

SECRET = "the secret of this machine"
GOOD = REPO / "registry/contributions/digits-cnn/contrib_src/sample_data"
PREDICT = "/models/digits-cnn/api/predict"
MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """One that fetches from addresses too; a secret lies beside its folder."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret.png").write_text(SECRET)
    words = ("digits-cnn", REPO / "tests/contributions/pair", REPO / "tests/contributions/mean")
    more = ("--url-inputs", "--max-upload", "2", "--mem", "1000", "--receive", "3")
    with serving(folder, *words, *more, TMPDIR=str(folder / "scratch")) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def aftermath(server: Endpoint) -> Iterator[None]:
    """After all of them: the server answers, and its folder holds what it held."""
    before = files(server)
    yield
    assert server.process.poll() is None
    sample = next(GOOD.glob("*.png"))
    answer = server.get("/models/digits-cnn/api/predict_sample", params={"filename": sample.name})
    assert answer.status_code == 200
    deadline = time.monotonic() + 30  # of those who hung up, one may still be computed
    while files(server) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert files(server) == before
    assert "Traceback" not in server.log.read_text()


def files(server: Endpoint) -> set[str]:
    """What lies in the server's place, but for what the live sessions have."""
    root, sessions = server.log.parent, f"scratch/mh-hpc-{os.getuid()}-"
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(sessions)}


def refused(response: requests.Response, *statuses: int) -> None:
    expected = statuses or (400,)
    assert response.status_code in expected, (response.status_code, response.text[:500])
    assert SECRET not in response.text and "root:" not in response.text and "Traceback" not in response.text
    assert "/pytest-" not in response.text, "a path of this machine"


# Files

BAD = [name for name, (_, kind, _) in hostile.MAKERS.items() if kind is not None]
NO_FILES = ("missing", "folder_named_png", "fifo", "link_dangling", "link_loop", "mode_000", "nii_pair_without_img")
ONLY_MISNAMED = ("nii_plain_named_gz", "nii_gz_named_plain")  # which content decides here


@pytest.mark.parametrize("name", [name for name in BAD if name not in (*NO_FILES, *ONLY_MISNAMED)])
def test_files(server: Endpoint, name: str, tmp_path: Path) -> None:
    """Bombs, pickles, truncated and forged files: of every kind that `hostile` knows."""
    made = hostile.make(name, tmp_path)
    if os.path.isdir(made.path):
        pytest.skip("a folder cannot be uploaded")
    with open(made.path, "rb") as stream:
        data = stream.read()
    upload = {"file": (os.path.basename(made.path), data)}
    refused(server.post("/models/mean/api/predict", files=upload), 400, 413)


def test_an_array_that_runs_code_when_it_is_unpickled(server: Endpoint, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    upload = {"file": ("a.npy", stream.getvalue())}
    refused(server.post("/models/mean/api/predict", files=upload))
    both = {"first": upload["file"], "second": upload["file"]}
    refused(server.post("/models/pair/api/predict", files=both))
    assert not marker.exists()


def test_an_archive_with_names_that_climb(server: Endpoint) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../../../tmp/climbed.npy", b"x")
        archive.writestr("/tmp/climbed.npy", b"x")
    for name in ("a.zip", "a.npz", "a.png"):
        refused(server.post("/models/digits-cnn/api/predict", files={"file": (name, stream.getvalue())}))
        refused(server.post("/models/mean/api/predict", files={"file": (name, stream.getvalue())}))
    assert not Path("/tmp/climbed.npy").exists()


# Names

CLIMBING = ["../../secret.png", "..%2f..%2fsecret.png", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "....//secret.png",
            "..\\..\\secret.png", "%00", "a%00.png", ".", "..", "", "%c0%ae%c0%ae/etc/passwd", "~root",
            "file:///etc/passwd", "a" * 5000]  # fmt: skip


@pytest.mark.parametrize("name", CLIMBING)
@pytest.mark.parametrize("place", ["samples", "thumbnail", "output"])
def test_names_in_addresses(server: Endpoint, place: str, name: str) -> None:
    answer = raw(server, f"GET /models/digits-cnn/api/{place}/{name} HTTP/1.1\r\nHost: localhost\r\n{key(server)}\r\n")
    assert status(answer) in (400, 404, 414, 308), answer[:300]
    assert SECRET.encode() not in answer and b"root:" not in answer


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "..", "a\0b", "../model/config.json"])
def test_names_of_samples(server: Endpoint, name: str) -> None:
    refused(server.get("/models/digits-cnn/api/predict_sample", params={"filename": name}), 404)


@pytest.mark.parametrize("name", ["../../evil.npy", "/tmp/evil.npy", "a\0.npy", "\r\nX-Evil: 1.npy", "-rf.npy", ".npy",
                                  "x" * 3000 + ".npy", "\u202e.npy", "$(touch evil).npy", "; touch evil;"])  # fmt: skip
def test_names_of_uploads(server: Endpoint, name: str) -> None:
    """They say of what kind a file may be, and name nothing."""
    stream = io.BytesIO()
    np.save(stream, np.ones((2, 3)))
    answer = server.post("/models/mean/api/predict", files={"file": (name, stream.getvalue())})
    assert answer.status_code in (200, 400)
    assert "X-Evil" not in answer.headers
    assert not list(server.log.parent.rglob("*evil*"))


# JSON


@pytest.mark.parametrize(
    "text",
    [
        '{"first": {"fileurl": "/etc/passwd"}, "second": {"fileurl": "/etc/passwd"}}',
        '{"first": {"fileurl": "../../../secret.png"}, "second": {"fileurl": "sample_data/../../secret.png"}}',
        '{"first": {"fileurl": "file:///etc/passwd"}, "second": {"fileurl": "FILE:/etc/passwd"}}',
        '{"first": {"fileurl": ["/etc/passwd"]}, "second": {"fileurl": {"a": 1}}}',
        '{"first": {"fileurl": "\\u0000"}, "second": {"fileurl": "\\ud800"}}',
        '{"first": "/etc/passwd", "second": null}',
        '{"first": {}, "second": {}}',
        "[]", "null", "1e999", '"x"', "{", "", "\ufeff{}", '{"a":' * 3000,
        '{"first": {"fileurl": "http://127.0.0.1/"}, "second": {"fileurl": "http://[::1]/"}}',
    ],
)  # fmt: skip
def test_lists_of_inputs(server: Endpoint, text: str) -> None:
    upload = {"file": ("inputs.json", text.encode("utf-8", "surrogatepass"))}
    refused(server.post("/models/pair/api/predict", files=upload))


def test_a_json_of_many_megabytes_of_brackets(server: Endpoint) -> None:
    refused(server.post("/models/pair/api/predict", files={"file": ("a.json", b"[" * MIB)}))


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/healthz", "http://localhost:{port}/healthz", "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/", "http://[::ffff:7f00:1]:{port}/", "http://2130706433:{port}/",
        "http://0x7f000001:{port}/", "http://0177.0.0.1:{port}/", "http://127.1:{port}/", "http://0:{port}/",
        "http://169.254.169.254/latest/meta-data/", "http://[fe80::1%25lo]/", "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/", "http://10.0.0.1/", "http://192.168.0.1/", "http://100.64.0.1/",
        "http://user:pass@127.0.0.1:{port}/", "http://example.org@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}#@example.org/",
        "HTTP://LOCALHOST:{port}/", "http://", "http://:80", "http://[", "http://127.0.0.1:99999/",
        "https://127.0.0.1:{port}/",
        "file:///etc/passwd", "gopher://127.0.0.1:{port}/_GET", "ftp://127.0.0.1/", "data:image/png;base64,AAAA",
        "http://127.0.0.1:{port}/\r\nX-Evil: 1", "http://\udcff/", "//127.0.0.1:{port}/", "http:/127.0.0.1/",
    ],
)  # fmt: skip
def test_addresses_inside(server: Endpoint, url: str) -> None:
    """Other networks than the internet are not asked, however they are spelled. Redirects and names that change
    their address are tested where addresses are fetched (tests/engine/test_engine_fetch.py)."""
    named = url.format(port=urlsplit(server.url).port)
    before = server.log.read_text().count("/healthz")
    query = {"fileurl": named.encode("utf-8", "surrogateescape")}
    refused(server.get("/models/digits-cnn/api/predict", params=query))
    assert server.log.read_text().count("/healthz") == before


# HTTP itself


def key(server: Endpoint) -> str:
    return f"Authorization: Bearer {server.token}\r\n"


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def raw(server: Endpoint, head: str, body: bytes = b"") -> bytes:
    """What the server answers until it closes, or has said a whole head."""
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), 60) as line:
        try:
            line.sendall(head.encode("latin-1") + body)
            answer = b""
            while b"\r\n\r\n" not in answer and (piece := line.recv(65536)):
                answer += piece
        except ConnectionResetError:
            pass  # it had said all that it wanted to, before we had
        return answer


def multipart(server: Endpoint, body: bytes, kind: str = "multipart/form-data; boundary=b", more: str = "") -> bytes:
    head = f"POST /models/digits-cnn/api/predict HTTP/1.1\r\nHost: localhost\r\n{key(server)}Content-Type: {kind}\r\n"
    return raw(server, f"{head}Content-Length: {len(body)}\r\n{more}\r\n", body)


PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\nx\r\n'
FORMS: dict[str, Callable[[Endpoint], bytes]] = {
    "no boundary": lambda s: multipart(s, PART, "multipart/form-data"),
    "never closed": lambda s: multipart(s, PART[:-10]),
    "garbage": lambda s: multipart(s, bytes(range(256)) * 10),
    "30,000 parts": lambda s: multipart(
        s, b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 30000 + b"--b--"
    ),
    "a field of a megabyte": lambda s: multipart(
        s, b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * (MIB + 9) + b"\r\n--b--"
    ),
    "a header of a megabyte in a part": lambda s: multipart(s, b"--b\r\nX: " + b"x" * MIB + b"\r\n\r\n\r\n--b--"),
    "urlencoded": lambda s: multipart(s, b"file=%2Fetc%2Fpasswd", "application/x-www-form-urlencoded"),
    "json": lambda s: multipart(s, b'{"file": "/etc/passwd"}', "application/json"),
    "an odd charset": lambda s: multipart(s, PART + b"--b--", "multipart/form-data; boundary=b; charset=utf-99"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(server: Endpoint, form: str) -> None:
    answer = FORMS[form](server)
    assert status(answer) in (400, 413, 415), answer[:300]


HEADS = {
    "10 GB": "POST {path} HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 10737418240\r\n\r\n",
    "negative length": "POST {path} HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: -1\r\n\r\n",
    "length that is none": "POST {path} HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 1e9\r\n\r\n",
    "two lengths": "POST {path} HTTP/1.1\r\nHost: localhost\r\n{key}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "broken chunks": "POST {path} HTTP/1.1\r\nHost: localhost\r\n{key}Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
    "no host": "GET {path}?fileurl=x HTTP/1.1\r\n{key}\r\n",
    "another host": "GET {path} HTTP/1.1\r\nHost: evil.example\r\n{key}\r\n",
    "wrong token": "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: 0\r\n\r\n",
    "injected header": "GET {path}?fileurl=a%0d%0aX-Evil:%201 HTTP/1.1\r\nHost: localhost\r\n{key}\r\n",
    "injected token": "GET /?token=a%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n",
    "bare line feed": "GET {path} HTTP/1.1\nHost: localhost\nX: a\rX-Evil: 1\n\n",
    "a head of a megabyte": "GET {path} HTTP/1.1\r\nHost: localhost\r\n{key}X: " + "x" * MIB + "\r\n\r\n",
    "40,000 headers": "GET {path} HTTP/1.1\r\nHost: localhost\r\n{key}" + "X: y\r\n" * 40000 + "\r\n",
    "no method": " {path} HTTP/1.1\r\nHost: localhost\r\n{key}\r\n",
    "a method of its own": "EVIL {path} HTTP/1.1\r\nHost: localhost\r\n{key}\r\n",
    "TRACE": "TRACE {path} HTTP/1.1\r\nHost: localhost\r\n{key}\r\n",
    "a proxy's request": "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n{key}\r\n",
    "CONNECT": "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: localhost\r\n{key}\r\n",
    "another site's form": "POST {path} HTTP/1.1\r\nHost: localhost\r\n{key}Origin: https://evil.example\r\n"
    "Content-Length: 0\r\n\r\n",
    "no HTTP": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS)
def test_heads(server: Endpoint, head: str) -> None:
    answer = raw(server, HEADS[head].format(path=PREDICT, key=key(server)))
    assert 400 <= status(answer) < 500, answer[:300]
    assert b"X-Evil" not in answer.partition(b"\r\n\r\n")[0] and b"a=b" not in answer


def test_a_body_that_never_comes_to_an_end(server: Endpoint) -> None:
    """Answered once its time is over, while others are served."""
    place = urlsplit(server.url)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n{key(server)}Content-Length: 1000\r\n\r\n"
    with socket.create_connection((place.hostname, place.port), 60) as line:
        line.sendall(head.encode())
        line.settimeout(1)
        answer = b""
        for _ in range(60):
            try:
                line.sendall(b"x")
                answer += line.recv(65536)
            except TimeoutError:
                assert server.get("/models/digits-cnn/api/get_config", timeout=15).status_code == 200
                continue
            except OSError:
                break
            if answer:
                break
    assert status(answer) == 408, answer[:300]


def test_a_client_that_hangs_up_meanwhile(server: Endpoint) -> None:
    upload = next(GOOD.glob("*.png")).read_bytes()
    body = PART.replace(b"x", upload) + b"--b--"
    place = urlsplit(server.url)
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\n{key(server)}Content-Length: {len(body)}\r\n"
    for _ in range(5):
        with socket.create_connection((place.hostname, place.port), 60) as line:
            line.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body)
    assert json.loads(server.get("/models/digits-cnn/api/get_config").content)
