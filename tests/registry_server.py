"""A real container registry on loopback, ways to get at it that break, and a server that issues its tokens.

with RegistryServer(folder) as registry:
    digest = registry.push(layout, "lab/net", "1")        # of save_layout(): docker://{registry.address}/lab/net:1
    with Proxy(registry.port) as proxy:                   # the same through docker://{proxy.address}/lab/net:1
        proxy.cut_after = 100_000
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import requests
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from grounds import REPO

from modelhub_hpc.digests import file_digest

USER, PASSWORD = "tester", "correct horse"
_BCRYPT = "$2b$04$Q.ajF7raO8Ej1FoUsZnKKud4KWhU7m508jXfj58RdL5Ejd5.sgbRy"  # of that password
_PROGRAM = "docker-registry"
_START_S = 20.0
_BLOCK = 1 << 16


def program() -> str:
    """The registry, of this machine or of `tests/tools.sh build/tools`; without it the test is skipped."""
    found = shutil.which(_PROGRAM, path=f"{os.environ.get('PATH', '')}:{REPO / 'build/tools/bin'}")
    if found:
        return found
    reason = "needs docker-registry: tests/tools.sh build/tools"
    if os.environ.get("MH_TEST_REQUIRE_APPTAINER"):
        pytest.fail(reason)
    pytest.skip(reason)


def basic(user: str = USER, password: str = PASSWORD) -> str:
    """A login in the form of Docker's configuration file."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


class RegistryServer:
    """Debian's registry. login: asks for USER and PASSWORD; tokens: lets them in with tokens; tls: speaks TLS."""

    def __init__(
        self, folder: Path, login: bool = False, tokens: Tokens | None = None, tls: Certificate | None = None
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._url = f"{'https' if tls else 'http'}://{self.address}"
        self._tokens = tokens
        self._verify: str | bool = str(tls.certificate) if tls else True
        self._config = folder / "config.yml"
        self._config.write_text(yaml.safe_dump(self._settings(login, tls)))

    def __enter__(self) -> RegistryServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [program(), "serve", str(self._config)], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, (
                self.folder / "log"
            ).read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        with self._process:
            self._process.kill()

    def push(self, layout: Path, repository: str, tag: str) -> str:
        """Push all that an OCI layout holds; the digest of what it names, which gets the tag."""
        top = json.loads((layout / "index.json").read_bytes())["manifests"][0]
        self._push_manifest(layout / "blobs/sha256", repository, top, tag)
        return str(top["digest"])

    def stored(self, digest: str) -> Path:
        """The file in which the registry keeps a blob."""
        name = digest.removeprefix("sha256:")
        return self.folder / f"storage/docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"

    def _push_manifest(self, blobs: Path, repository: str, entry: dict[str, Any], tag: str) -> None:
        data = (blobs / entry["digest"][7:]).read_bytes()
        manifest = json.loads(data)
        for child in manifest.get("manifests", ()):
            self._push_manifest(blobs, repository, child, child["digest"])
        for blob in (*manifest.get("layers", ()), *filter(None, [manifest.get("config")])):
            self._push_blob(blobs / blob["digest"][7:], repository)
        url = f"{self._url}/v2/{repository}/manifests/{tag}"
        kind = {"Content-Type": manifest.get("mediaType", entry["mediaType"])}
        self._asked("PUT", url, repository, data=data, headers=kind)

    def _push_blob(self, path: Path, repository: str) -> None:
        place = self._asked("POST", f"{self._url}/v2/{repository}/blobs/uploads/", repository).headers[
            "Location"
        ]
        where = urllib.parse.urljoin(self._url, place)
        where += f"{'&' if '?' in where else '?'}digest=sha256:{file_digest(path)}"
        with open(path, "rb") as stream:
            kind = {"Content-Type": "application/octet-stream"}
            self._asked("PUT", where, repository, data=stream, headers=kind)

    def _asked(self, method: str, url: str, repository: str, **options: Any) -> requests.Response:
        login = {} if self._tokens else {"auth": (USER, PASSWORD)}
        if self._tokens:
            token = self._tokens.token(repository, ["pull", "push"])
            options["headers"] = {**options.get("headers", {}), "Authorization": f"Bearer {token}"}
        answer = requests.request(method, url, verify=self._verify, timeout=30, **login, **options)
        assert answer.ok, answer.text
        return answer

    def _answers(self) -> bool:
        try:
            requests.get(f"{self._url}/v2/", verify=self._verify, timeout=5)
        except requests.ConnectionError:
            return False
        return True

    def _settings(self, login: bool, tls: Certificate | None) -> dict[str, Any]:
        where: dict[str, Any] = {"addr": self.address}
        if tls:
            where["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
        keep = {"filesystem": {"rootdirectory": str(self.folder / "storage")}}
        settings = {"version": 0.1, "log": {"level": "warn"}, "storage": keep, "http": where}
        if login:
            (self.folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
            settings["auth"] = {"htpasswd": {"realm": "here", "path": str(self.folder / "htpasswd")}}
        if self._tokens:
            settings["auth"] = {"token": self._tokens.settings()}
        return settings


class Certificate:
    """A certificate for 127.0.0.1, signed by itself, and its key."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
        now = datetime.datetime.now(datetime.timezone.utc)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = x509.CertificateBuilder(name, name, self.private.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(hours=1)).add_extension(address, critical=False)
        authority = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.signed = authority.not_valid_after(now + datetime.timedelta(days=1)).sign(
            self.private, hashes.SHA256()
        )
        self.certificate.write_bytes(self.signed.public_bytes(serialization.Encoding.PEM))
        plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        self.key.write_bytes(self.private.private_bytes(serialization.Encoding.PEM, *plain))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    owner: Any


class Answers:
    """An HTTP server on loopback whose answers a test decides: overwrite `answer`. Remembers what it was asked."""

    def __init__(self, handler: type[Ask] | None = None) -> None:
        self._server = _Server(("127.0.0.1", 0), handler or Ask)
        self._server.owner = self
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __enter__(self) -> Any:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        return 404, {}, b""


class Ask(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.owner.asked.append((self.path, headers))
        status, more, body = self.server.owner.answer(self.path, headers)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Tokens(Answers):
    """Issues tokens for a registry: to USER, and to everybody for repositories below public/."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._identity = Certificate(folder)

    def settings(self) -> dict[str, str]:
        bundle = str(self._identity.certificate)
        return {
            "realm": f"{self.url}/token",
            "service": "registry",
            "issuer": "tests",
            "rootcertbundle": bundle,
        }

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        _, repository, _ = asked["scope"][0].split(":")
        known = headers.get("authorization") == f"Basic {basic()}"
        if "authorization" in headers and not known:
            return 401, {}, b"{}"
        allowed = ["pull"] if known or repository.startswith("public/") else []
        return (
            200,
            {"Content-Type": "application/json"},
            json.dumps({"token": self.token(repository, allowed)}).encode(),
        )

    def token(self, repository: str, actions: list[str]) -> str:
        der = self._identity.signed.public_bytes(serialization.Encoding.DER)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        now = int(time.time())
        access = [{"type": "repository", "name": repository, "actions": actions}]
        times = {"exp": now + 300, "nbf": now - 10, "iat": now - 10, "jti": str(now)}
        claims = {"iss": "tests", "sub": USER, "aud": "registry", **times, "access": access}
        text = ".".join(_text(json.dumps(part).encode()) for part in (head, claims))
        signature = self._identity.private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_text(signature)}"


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Proxy:
    """Passes bytes on to a port of loopback and counts them, until a test has it misbehave.

    cut_after: bytes of answers after which a connection is cut; stall_after: after which nothing comes on it any
    more; end_after: on all connections together, after which every one is cut; None: never. answered: bytes passed on
    so far, on all connections.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.end_after: int | None = None
        self.answered = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Proxy:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        # a closed socket does not wake who waits on it: he would take connections of whoever gets its number next
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                asker, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(asker,), daemon=True).start()

    def _serve(self, asker: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            asker,
            socket.create_connection(("127.0.0.1", self._target)) as answerer,
        ):
            threading.Thread(target=self._ask, args=(asker, answerer), daemon=True).start()
            passed = 0
            while (block := answerer.recv(_BLOCK)) and (allowed := self._allowed(passed, len(block))):
                asker.sendall(block[:allowed])
                passed += allowed
            if self.stall_after is not None and passed >= self.stall_after:
                self._closed.wait()
            asker.shutdown(socket.SHUT_RDWR)

    def _ask(self, asker: socket.socket, answerer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := asker.recv(_BLOCK):
                answerer.sendall(block)
            answerer.shutdown(socket.SHUT_RDWR)

    def _allowed(self, passed: int, size: int) -> int:
        """How many of the next bytes go on, after so many on this connection."""
        limits = [limit - passed for limit in (self.cut_after, self.stall_after) if limit is not None]
        with self._lock:
            if self.end_after is not None:
                limits.append(self.end_after - self.answered)
            allowed = max(0, min([size, *limits]))
            self.answered += allowed
        return allowed


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
