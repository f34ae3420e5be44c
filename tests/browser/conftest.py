"""A real browser, Debian's Chromium, on the pages of a real server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servekit import Endpoint, serving
from visiting import MODELS, Enter, Visit, is_here

# Chromium's own sandbox needs what containers of CI rarely allow; it is shown pages of this machine only
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"]


@pytest.fixture(scope="module")  # while it lives its event loop is the main thread's, which other tests need
def chromium() -> Iterator[Any]:
    """Where there is none the tests are skipped, unless this machine is meant to have it."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        if os.environ.get("MH_TEST_REQUIRE_BROWSER"):
            pytest.fail("no Chromium: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("pages")
    with serving(folder, *MODELS, "--jobs-folder", folder / "jobs", "--max-upload", 1, "--waiting", 1) as endpoint:
        yield endpoint


@pytest.fixture
def jobs(server: Endpoint) -> Path:
    """The folder with the server's runs."""
    return server.log.parent / "jobs"


@pytest.fixture
def enter(chromium: Any, server: Endpoint) -> Iterator[Enter]:
    """enter(width=400, scheme="dark", scripts=False): a window of that kind, let in by the token.

    Afterwards every window must have asked this server alone, without a complaint of any script.
    """
    visits = list[Visit]()

    def begin(width: int = 1280, scheme: str = "light", scripts: bool = True, known: bool = True) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        context.set_default_timeout(15_000)
        page = context.new_page()
        visit = Visit(page, server)
        context.on("request", lambda request: visit.went.append(request.url))
        page.on("pageerror", lambda error: visit.said.append(str(error)))
        page.on("console", lambda message: message.type == "error" and visit.said.append(message.text))
        visits.append(visit)
        if known:
            page.goto(f"{server.url}/?token={server.token}")
            assert "token" not in page.url  # nor in the history
        return visit

    yield begin
    for visit in visits:
        visit.page.context.close()
        elsewhere = {url for url in visit.went if not is_here(url, server.url)}
        assert not elsewhere, "a page asked another host"
        assert not [said for said in visit.said if "status of 4" not in said]


@pytest.fixture
def visit(enter: Enter) -> Visit:
    return enter()
