"""Images in a real registry: what a name stands for, what stands in the way, and who is let in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from dockerimages import save_layout
from pulling import (
    BYTES,
    HASTY,
    HERE,
    NOISE,
    QUICK,
    Place,
    fetching,
    home,
    image,
    layout,
    log_in,
    place,
    refused,
    registry,
    resolve,
)
from registry_server import (
    PASSWORD,
    USER,
    Answers,
    Certificate,
    Proxy,
    RegistryServer,
    Tokens,
    basic,
    refusing,
)

from modelhub_hpc import apptainer, sources
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, UsageError
from modelhub_hpc.sources import credentials, reference
from modelhub_hpc.sources.distribution import Remote
from modelhub_hpc.sources.web import PatientSession

__all__ = ["home", "layout", "place", "registry"]

pytestmark = pytest.mark.usefixtures("home")


def test_a_tag_is_resolved_and_pulled(registry: RegistryServer, layout: Path, place: Place) -> None:
    source = f"docker://{registry.address}/lab/net:1"
    origin = sources.resolve(source, https=False)
    assert origin.digest == json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    assert origin.pinned == f"{source}@{origin.digest}"
    assert origin.config is not None and origin.config.cmd == ("/bin/true",)
    assert 2 * BYTES < origin.bytes < 10 * BYTES
    made = place.fetch(origin)
    whole = sum(layer.size for layer in origin.layers)
    assert place.seen[-1] == (whole, whole) and [done for done, _ in place.seen] == sorted(
        d for d, _ in place.seen
    )
    assert place.names() == {layer.hex for layer in origin.layers}
    assert sources.resolve(origin.pinned, https=False).digest == origin.digest
    sources.forget(origin, place.blobs)
    assert not place.names() and all((made / "blobs/sha256" / layer.hex).is_file() for layer in origin.layers)


@pytest.mark.apptainer
@pytest.mark.parametrize("packing", ["plain", "gzip"])
def test_apptainer_unpacks_it(registry: RegistryServer, tmp_path: Path, packing: str) -> None:
    """In a workspace whose path would mislead it, and with Docker's own names for the kinds of files."""
    if not shutil.which("apptainer") and not os.environ.get("MH_TEST_REQUIRE_APPTAINER"):
        pytest.skip("needs Apptainer")
    made = save_layout([image(compressed=packing == "gzip")], tmp_path / "made")
    work = tmp_path / "a: b,$c@sha256:0"
    work.mkdir()
    place = Place(work)
    registry.push(_as_docker(made), f"docker/{packing}", "1")
    oci = place.fetch(resolve(registry.address, f"docker/{packing}:1"))
    apptainer.unpack(work / "tree", f"oci:{oci}", work)
    assert (work / "tree/etc/one").read_bytes() == NOISE
    assert not (work / "tree/etc/two").exists() and (work / "tree/etc/three").is_file()


def _as_docker(layout: Path) -> Path:
    """The same image with the media types of Docker's schema 2."""
    index = json.loads((layout / "index.json").read_bytes())
    entry = index["manifests"][0]
    text = (layout / "blobs/sha256" / entry["digest"][7:]).read_text()
    for mine, docker in (
        ("oci.image.manifest.v1", "docker.distribution.manifest.v2"),
        ("oci.image.config.v1", "docker.container.image.v1"),
        ("oci.image.layer.v1.tar+gzip", "docker.image.rootfs.diff.tar.gzip"),
        ("oci.image.layer.v1.tar", "docker.image.rootfs.diff.tar"),
    ):
        text = text.replace(mine, docker)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (layout / "blobs/sha256" / digest).write_text(text)
    entry |= {"digest": f"sha256:{digest}", "size": len(text), "mediaType": json.loads(text)["mediaType"]}
    (layout / "index.json").write_text(json.dumps(index))
    return layout


def test_of_several_platforms_this_machines(registry: RegistryServer, tmp_path: Path, place: Place) -> None:
    both = save_layout([image("s390x"), image()], tmp_path / "both")
    index = registry.push(both, "lab/both", "1")
    origin = resolve(registry.address, "lab/both:1")
    assert origin.config is not None and origin.config.architecture == HERE and origin.digest != index
    assert resolve(registry.address, f"lab/both@{index}").digest == origin.digest
    assert resolve(registry.address, f"lab/both:gone@{origin.digest}").digest == origin.digest
    place.fetch(origin)
    registry.push(save_layout([image("s390x"), image("riscv64")], tmp_path / "none"), "lab/none", "1")
    assert f"it has only s390x, riscv64; this machine is {HERE}" in refused(
        registry.address, InvalidError, "lab/none:1"
    )


def test_a_tag_that_moves_is_another_image(registry: RegistryServer, tmp_path: Path) -> None:
    first = registry.push(save_layout([image()], tmp_path / "a"), "lab/moving", "1")
    second = registry.push(save_layout([image(compressed=False)], tmp_path / "b"), "lab/moving", "1")
    assert resolve(registry.address, "lab/moving:1").digest == second != first
    assert resolve(registry.address, f"lab/moving:1@{first}").digest == first


def test_what_the_registry_does_not_have(registry: RegistryServer) -> None:
    assert "has no image" in refused(registry.address, InvalidError, "lab/other:1")
    assert f"{registry.address}/lab/net:2 (manifest unknown" in refused(
        registry.address, InvalidError, "lab/net:2"
    )
    assert "has no image" in refused(registry.address, InvalidError, f"lab/net@sha256:{'0' * 64}")


def test_nobody_there() -> None:
    with refusing() as address:
        message = refused(address, TryAgainError)
    assert address in message and "Connection refused" in message and "HTTPS_PROXY" in message
    assert "nowhere.invalid" in refused("nowhere.invalid", TryAgainError)


def test_a_registry_that_does_not_answer(registry: RegistryServer) -> None:
    with Proxy(registry.port) as proxy:
        proxy.stall_after = 0
        with pytest.raises(TryAgainError, match=f"{proxy.address} does not answer"):
            resolve(proxy.address, patience=HASTY)


def test_a_proxy_that_is_not_there(registry: RegistryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as address:
        monkeypatch.setenv("http_proxy", f"http://me:{PASSWORD}@{address}")
        assert "through the proxy" in refused(registry.address, TryAgainError)


def test_plain_http_where_tls_is_expected_and_the_other_way_round(
    registry: RegistryServer, tmp_path: Path
) -> None:
    assert "--no-https" in refused(registry.address, InvalidError, https=True)
    with RegistryServer(tmp_path, tls=Certificate(tmp_path)) as safe:
        message = refused(safe.address, InvalidError)
    assert "HTTP status 400" in message and "leave out --no-https" in message


def test_a_certificate_of_the_sites_own(
    tmp_path: Path, layout: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Certificate(tmp_path)
    with RegistryServer(tmp_path, tls=certificate) as safe:
        safe.push(layout, "lab/net", "1")
        message = refused(safe.address, InvalidError, https=True)
        assert "not trusted" in message and "REQUESTS_CA_BUNDLE" in message
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.certificate))
        place.fetch(resolve(safe.address, https=True), https=True)


@pytest.mark.parametrize(
    "wait, said", [("90", "in 90 s"), ("Mon, 23 Nov 2026", "after Mon, 23 Nov 2026,"), ("", "later")]
)
def test_a_registry_that_limits_pulls(wait: str, said: str) -> None:
    with Busy(wait) as server:
        message = refused(server.address, TryAgainError)
    assert said in message and "(slow down)" in message and len(server.asked) == 1


class Busy(Answers):
    def __init__(self, wait: str) -> None:
        super().__init__()
        self._wait = {"Retry-After": wait} if wait else {}

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        return 429, self._wait, b'{"errors": [{"message": "slow down"}]}'


class Talkative(Answers):
    """Answers with more than anybody wants, or with what is no manifest."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__()
        self._said = status, body

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        return self._said[0], {}, self._said[1]


@pytest.mark.parametrize(
    "status, body, kind, said",
    [
        (200, b" " * 9 * 2**20, InvalidError, "far too much"),
        (200, b"<html>log in</html>", InvalidError, "not valid JSON"),
        (200, b'{"layers": []}', InvalidError, "no manifest of an image"),
        (500, b"\xff" * 2**20, TryAgainError, "HTTP status 500"),
        (503, b'{"errors": []}', TryAgainError, "HTTP status 503"),
        (418, b'{"errors": [{"message": "tea\\u001b[2J"}]}', InvalidError, "418 (tea\\x1b[2J)"),
        (401, b"", InvalidError, "of a kind that mh-hpc has not"),
    ],
)
def test_strange_answers(status: int, body: bytes, kind: type[ModelHubError], said: str) -> None:
    with Talkative(status, body) as server:
        assert said in refused(server.address, kind)


def test_a_configuration_that_is_not_what_was_asked_for(tmp_path: Path, layout: Path) -> None:
    with RegistryServer(tmp_path) as server:
        server.push(layout, "lab/net", "1")
        settings = resolve(server.address).settings
        assert settings is not None
        stored = server.stored(settings.digest)
        stored.write_bytes(stored.read_bytes().replace(b"/bin/true", b"/bin/evil"))
        assert f"it should be {settings.digest}" in refused(server.address, InvalidError).replace("\n", " ")


def test_a_manifest_that_is_not_what_was_asked_for() -> None:
    wanted = f"sha256:{'0' * 64}"
    with Talkative(200, b"{}") as server:
        assert f"should be {wanted}" in refused(server.address, InvalidError, f"lab/net@{wanted}")


@pytest.fixture(scope="module", params=["password", "token"])
def locked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, layout: Path
) -> Iterator[RegistryServer]:
    """A registry that asks who is there, in both ways that there are."""
    folder = tmp_path_factory.mktemp("locked")
    if request.param == "password":
        with RegistryServer(folder, login=True) as server:
            server.push(layout, "lab/net", "1")
            yield server
    else:
        with Tokens(folder) as tokens, RegistryServer(folder, tokens=tokens) as server:
            server.push(layout, "lab/net", "1")
            yield server


def test_nobody_without_a_login(locked: RegistryServer, home: Path) -> None:
    message = refused(locked.address, InvalidError)
    assert "to nobody without a login" in message
    assert f"{home}/.apptainer/docker-config.json, {home}/.docker/config.json" in message
    assert "apptainer registry login" in message and "docker login" in message


@pytest.mark.parametrize("key", ["{}", "http://{}", "https://{}"])
@pytest.mark.parametrize("file", [".docker/config.json", ".apptainer/docker-config.json"])
def test_logins_in_files(locked: RegistryServer, home: Path, place: Place, file: str, key: str) -> None:
    log_in(home / file, key.format(locked.address))
    place.fetch(resolve(locked.address))


def test_logins_in_files_elsewhere(
    locked: RegistryServer, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(tmp_path / "docker/config.json", locked.address)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    place.fetch(resolve(locked.address))


def test_a_login_in_the_environment(
    locked: RegistryServer, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPTAINER_DOCKER_USERNAME", USER)
    monkeypatch.setenv("APPTAINER_DOCKER_PASSWORD", PASSWORD)
    place.fetch(resolve(locked.address))


def test_a_login_that_another_program_keeps(
    locked: RegistryServer, home: Path, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker-credential-test"
    answer = json.dumps({"Username": USER, "Secret": PASSWORD})
    program.write_text(f"#!/bin/sh\ngrep -qxF '{locked.address}' && echo '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config = home / ".docker/config.json"
    config.parent.mkdir()
    for settings in ({"credHelpers": {locked.address: "test"}}, {"credsStore": "test"}):
        config.write_text(json.dumps(settings))
        resolve(locked.address)
    program.write_text("#!/bin/sh\necho 'no json'\n")
    assert f"the credential helper of {config}" in refused(locked.address, InvalidError)
    config.write_text(json.dumps({"credsStore": "absent"}))
    assert "to nobody without a login" in refused(locked.address, InvalidError)


def test_a_server_that_hangs_up_is_asked_once_more() -> None:
    class HangsUp(Answers):
        def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
            if len(self.asked) < int(path[1:]):
                raise ConnectionAbortedError
            return 200, {}, b"here"

    with HangsUp() as server, PatientSession(QUICK) as session:
        assert session.get(f"{server.url}/2").content == b"here"
    with HangsUp() as server, PatientSession(QUICK) as session, pytest.raises(requests.ConnectionError):
        session.get(f"{server.url}/3")


def test_a_wrong_login(locked: RegistryServer, home: Path, tmp_path: Path) -> None:
    config = home / ".docker/config.json"
    log_in(config, locked.address, basic(password="wrong horse"))
    message = refused(locked.address, InvalidError)
    assert f"the user of {config}" in message and "Log in with" in message
    assert "wrong horse" not in message and basic(password="wrong horse") not in message
    command = fetching(f"docker://{locked.address}/lab/net:1", tmp_path)
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (4, message, "")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"auths": [1]}', '{"auths": {"x": 3}}', '{"credHelpers": "secret"}']
)
def test_a_broken_file_of_logins(locked: RegistryServer, home: Path, text: str) -> None:
    config = home / ".docker/config.json"
    config.parent.mkdir()
    config.write_text(text)
    message = refused(locked.address, UsageError)
    assert str(config) in message and "secret" not in message


def test_netrc_is_of_no_account(locked: RegistryServer, home: Path, place: Place) -> None:
    """requests would send it instead of the registry's own login, and to whatever host it is redirected to."""
    (home / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password wrong\n")
    (home / ".netrc").chmod(0o600)
    log_in(home / ".docker/config.json", locked.address)
    place.fetch(resolve(locked.address))


def test_everybody_may_have_what_is_public(tmp_path: Path, layout: Path, place: Place) -> None:
    with Tokens(tmp_path) as tokens, RegistryServer(tmp_path, tokens=tokens) as server:
        server.push(layout, "public/net", "1")
        place.fetch(resolve(server.address, "public/net:1"))
        assert len(tokens.asked) >= 1 and not any("authorization" in headers for _, headers in tokens.asked)


class Redirecting(Answers):
    """A registry that wants a password, and keeps its files elsewhere, as the large ones do."""

    def __init__(self, elsewhere: str) -> None:
        super().__init__()
        self._elsewhere = elsewhere

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if "authorization" not in headers:
            return 401, {"Www-Authenticate": 'Basic realm="here"', "Set-Cookie": "session=1"}, b""
        return 307, {"Location": f"{self._elsewhere}{path}"}, b""


class Elsewhere(Answers):
    def __init__(self, registry: RegistryServer) -> None:
        super().__init__()
        self._registry = registry

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        return 307, {"Location": f"http://{self._registry.address}{path}"}, b""


def test_a_login_stays_with_its_host(registry: RegistryServer, home: Path, place: Place) -> None:
    (home / ".netrc").write_text("default login somebody password else\n")
    (home / ".netrc").chmod(0o600)
    with Elsewhere(registry) as elsewhere, Redirecting(elsewhere.url) as server:
        log_in(home / ".docker/config.json", server.address)
        place.fetch(resolve(server.address))
        assert sum("authorization" in headers for _, headers in server.asked) >= 5
        assert not any("cookie" in headers for _, headers in server.asked)
        assert len(elsewhere.asked) >= 5 and not any(
            "authorization" in headers for _, headers in elsewhere.asked
        )


class Tempting(Answers):
    """Sends for tokens to where it likes."""

    realm = ""

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        return 401, {"Www-Authenticate": f'Bearer realm="{self.realm}",service="x"'}, b""


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "ftp://x"])
def test_tokens_come_from_safe_places(home: Path, realm: str) -> None:
    with Tempting() as server:
        server.realm = realm
        log_in(home / ".docker/config.json", server.address)
        assert "where a password would not be safe" in refused(server.address, InvalidError)


def test_a_token_that_is_none() -> None:
    with Talkative(200, b"[]") as nonsense, Tempting() as server:
        server.realm = f"{nonsense.url}/token"
        assert f"What {server.address} has for a token is none" in refused(server.address, InvalidError)


@pytest.mark.parametrize("name", ["", *credentials.DOCKER_HUB_NAMES])
def test_the_hub_has_several_names(name: str) -> None:
    wanted = reference.parse(f"{name}/net:1".removeprefix("/"))
    assert Remote(wanted, True, QUICK).host == credentials.DOCKER_HUB_HOST not in credentials.DOCKER_HUB_NAMES
