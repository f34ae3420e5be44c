"""Who may come in, from which pages, and what every answer says."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from servekit import Endpoint, serving

PAGE = {"Accept": "text/html"}
ELSEWHERE = "https://elsewhere.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    words = ("digits-cnn", "--origin", ELSEWHERE, "--host-name", "models.example", "--max-upload", "1")
    with serving(tmp_path_factory.mktemp("guarded"), *words) as found:
        yield found


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with serving(tmp_path_factory.mktemp("open"), "digits-cnn", "--no-auth") as found:
        yield found


@pytest.fixture(scope="module")
def cookie(server: Endpoint) -> dict[str, str]:
    """What a browser keeps of its first visit."""
    first = server.get(f"/?token={server.token}&q=digits", headers=PAGE)
    assert first.status_code == 303 and first.headers["Location"] == "/?q=digits"
    set_cookie = first.headers["Set-Cookie"]
    assert "HttpOnly" in set_cookie and "SameSite=Lax" in set_cookie and "Path=/" in set_cookie
    assert server.token and server.token not in set_cookie
    return {"Cookie": set_cookie.partition(";")[0]}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer \xe9"},
        {"Authorization": "Basic wrong"},
        {"Cookie": "mh-hpc=wrong"},
    ],
)
def test_who_does_not_know_the_token_stays_out(server: Endpoint, headers: dict[str, str]) -> None:
    for path in ("/", "/api/get_config", "/jobs", "/metrics", "/static/nothing", "/nothing"):
        refused = server.get(path, headers=headers)
        assert refused.status_code == 401, path
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "digits" not in refused.text


def test_the_token_opens_by_header_by_query_and_by_cookie(server: Endpoint, cookie: dict[str, str]) -> None:
    assert server.get("/api/get_config").status_code == 200
    assert server.get(f"/api/get_config?token={server.token}", headers={}).status_code == 200
    assert server.get("/api/get_config", headers=cookie).status_code == 200
    assert server.get("/", headers={**cookie, **PAGE}).status_code == 200


def test_the_query_sets_no_cookie_for_programs(server: Endpoint) -> None:
    assert "Set-Cookie" not in server.get(f"/api/get_config?token={server.token}", headers={}).headers


def test_a_cookie_alone_changes_nothing(server: Endpoint, cookie: dict[str, str]) -> None:
    """A page of another site has the browser's cookie too, but not the token of our forms."""
    refused = server.post("/api/predict", headers=cookie, files={"file": ("a.png", b"x")})
    assert refused.status_code == 403 and "Load the page again" in refused.text
    wrong = server.post("/api/predict", headers={**cookie, "X-CSRF-Token": "wrong"}, files={"file": ("a.png", b"x")})
    assert wrong.status_code == 403


def test_a_form_of_ours_is_taken(server: Endpoint, cookie: dict[str, str]) -> None:
    page = server.get("/models/digits-cnn/try", headers={**cookie, **PAGE})
    match = re.search(r'name="csrf_token"[^>]*value="([0-9a-f]+)"', page.text)
    assert match, page.text[:2000]
    taken = server.post(
        "/api/predict", headers=cookie, data={"csrf_token": match[1]}, files={"file": ("a.png", b"x")}
    )
    assert taken.status_code == 400 and "Incorrect file type" in taken.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_pages_of_other_sites_are_refused(open_server: Endpoint, headers: dict[str, str]) -> None:
    for ask in (open_server.get, open_server.post):
        refused = ask("/api/predict", headers=headers)
        assert refused.status_code == 403
        assert "Access-Control-Allow-Origin" not in refused.headers


def test_anybody_may_link_here(open_server: Endpoint) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", **PAGE}
    assert open_server.get("/", headers=followed).status_code == 200
    assert open_server.post("/jobs", headers=followed).status_code == 403


def test_without_a_token_a_browser_still_needs_a_form_of_ours(open_server: Endpoint) -> None:
    own = {"Origin": open_server.url}
    assert open_server.post("/api/predict", headers=own, files={"file": ("a.png", b"x")}).status_code == 403
    assert open_server.post("/api/predict", headers={}, files={"file": ("a.png", b"x")}).status_code == 400


def test_listed_origins_may_use_it_with_the_token(server: Endpoint) -> None:
    asked = {"Origin": ELSEWHERE, "Access-Control-Request-Method": "POST"}
    before = server.ask("OPTIONS", "/api/predict", headers=asked)
    assert before.status_code == 204 and before.headers["Access-Control-Allow-Origin"] == ELSEWHERE
    assert "Authorization" in before.headers["Access-Control-Allow-Headers"]
    got = server.get("/api/get_config", headers={"Origin": ELSEWHERE, **server.headers})
    assert got.status_code == 200 and got.headers["Access-Control-Allow-Origin"] == ELSEWHERE
    assert got.headers["Vary"] == "Origin" and "Access-Control-Allow-Credentials" not in got.headers
    assert server.get("/api/get_config", headers={"Origin": ELSEWHERE}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::2]", "localhost.evil:80", ""])
def test_names_of_others_are_refused(server: Endpoint, host: str) -> None:
    """What a browser sends once evil.example has been made to point here."""
    refused = server.get("/api/get_config", headers={"Host": host, **server.headers})
    assert refused.status_code in (400, 403) and "meta" not in refused.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:99", "[::1]:1", "models.example"])
def test_its_own_names_are_known(server: Endpoint, host: str) -> None:
    assert server.get("/api/get_config", headers={"Host": host, **server.headers}).status_code == 200


def test_every_answer_is_armoured(server: Endpoint) -> None:
    for path in ("/", "/api/get_config", "/nothing", "/healthz"):
        headers = server.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "same-origin"
        assert re.fullmatch("[0-9a-f]{16}", headers["X-Request-Id"])
        assert "Server" not in headers


def test_requests_are_found_in_the_log_by_their_number(server: Endpoint) -> None:
    answer = server.get("/api/get_config?secret=hush", headers={"X-Request-Id": "forged", **server.headers})
    assert answer.headers["X-Request-Id"] != "forged"
    line = f"{answer.headers['X-Request-Id']} 127.0.0.1 GET /api/get_config 200"
    assert line in server.log.read_text() and "hush" not in server.log.read_text()


def test_the_log_cannot_be_forged(server: Endpoint) -> None:
    server.get("/a%0AINFO:%20forged%1b[31m")
    assert not [line for line in server.log.read_text().splitlines() if line.startswith("INFO: forged")]
    assert "\x1b" not in server.log.read_text()


def test_errors_are_pages_for_people_and_json_for_programs(server: Endpoint, cookie: dict[str, str]) -> None:
    page = server.get("/nothing", headers={**cookie, **PAGE})
    assert page.status_code == 404 and page.headers["Content-Type"].startswith("text/html")
    assert "error" in server.get("/nothing").json()
    assert "error" in server.get("/api/nothing", headers={**server.headers, **PAGE}).json()


def test_health_is_public_and_tells_nothing(server: Endpoint) -> None:
    answer = server.get("/healthz", headers={})
    assert answer.status_code == 200 and "digits" not in answer.text


def raw(server: Endpoint, head: str, body: bytes = b"", wait: bool = True) -> tuple[bytes, socket.socket]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    line = socket.create_connection((host, int(port)), 20)
    line.sendall(head.replace("\n", "\r\n").encode("latin-1") + body)
    answer = b""
    while wait:
        try:
            piece = line.recv(65536)
        except ConnectionResetError:
            break
        answer += piece
        if not piece or b"\r\n\r\n" in answer:
            break
    return answer, line


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\n"])
def test_no_body_is_received_from_who_does_not_know_the_token(server: Endpoint, expect: str) -> None:
    """The answer comes before the body does: nobody fills the disk of a login node."""
    head = f"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Length: 900000\n{expect}\n"
    answer, line = raw(server, head)
    line.close()
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\n"])
def test_a_body_that_is_too_large_is_refused_before_it_comes(server: Endpoint, expect: str) -> None:
    head = "POST /api/predict HTTP/1.1\nHost: localhost\nAuthorization: Bearer {}\nContent-Length: 10737418240\n{}\n"
    answer, line = raw(server, head.format(server.token, expect))
    line.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_is_cut_off_at_the_limit(server: Endpoint) -> None:
    head = "POST /api/predict HTTP/1.1\nHost: localhost\nAuthorization: Bearer {}\nTransfer-Encoding: chunked\n\n"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    answer, line = raw(server, head.format(server.token), chunk * 17)
    line.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_what_follows_a_refused_body_is_not_a_request(server: Endpoint) -> None:
    """The body of one request must not be taken for the next one, which a proxy may have let in for somebody else."""
    inner = f"GET /api/get_config HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.token}\r\n\r\n".encode()
    head = f"POST /api/predict HTTP/1.1\nHost: localhost\nContent-Length: {len(inner)}\n\n"
    answer, line = raw(server, head, inner)
    with line:
        try:
            while piece := line.recv(65536):  # until the server closes, which it must
                answer += piece
        except ConnectionResetError:
            pass
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.startswith(b"HTTP/1.1 401 ")


def test_stalled_clients_do_not_keep_others_out(server: Endpoint) -> None:
    stalled = [raw(server, "POST /api/predict HTTP/1.1\nHost: local", wait=False)[1] for _ in range(60)]
    try:
        # one that had a thread for each would not answer before they are dropped, which is later
        assert server.get("/api/get_config", timeout=15).status_code == 200
    finally:
        for line in stalled:
            line.close()
