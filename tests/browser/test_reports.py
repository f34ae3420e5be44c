"""The report of a run as people see it: in a window without a server, and from the page of its run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grounds import REPO
from visiting import SHOTS, Visit

sys.path.insert(0, str(REPO / "benchmarks"))

from bench import cohort  # noqa: E402

from modelhub_hpc import report  # noqa: E402
from modelhub_hpc.runs import reading  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a hundred cases, of which three fail and one is quarantined, with its report."""
    made = cohort.brains(tmp_path_factory.mktemp("reported"), 100, size=(24, 24, 18)).run
    report.write(reading.read(made), made / "report.html", 24)
    return made


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_a_report_is_beautiful_in_itself(chromium: Any, run: Path, scheme: str, width: int) -> None:
    """Or at least accessible, as wide as the window, and clear about failures before anybody scrolls."""
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: request.url.startswith(("data:", "file:")) or said.append(request.url))
    page.goto(f"file://{run}/report.html")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"report-{scheme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first = page.locator(".count.failed dd, .count.quarantined dd, .groups h3")
    figures = ["3 3.0 %", "1 1.0 %", "Quarantined: 1 case, 1.0 %", "Failed: 3 cases, 3.0 %"]
    for words, box in zip(figures, first.all(), strict=True):
        seen = " ".join(box.inner_text().split())
        assert seen.replace(" ", "").startswith(words.replace(" ", ""))
        place = box.bounding_box()
        assert place is not None and place["y"] + place["height"] <= 800, words
    wrong = Axe().run(page, options={"iframes": False}).response["violations"]
    assert not {each["id"]: each["nodes"][0]["html"][:200] for each in wrong}
    assert page.evaluate("[...document.images, ...document.querySelectorAll('image')].length") >= 24
    assert not said
    context.close()


def test_failures_can_be_searched_and_read_without_scripts(chromium: Any, run: Path) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"file://{run}/report.html")
    page.get_by_label("Find").fill("SIGABRT")
    page.get_by_text("1 of 4 listed").wait_for()
    assert page.locator(".case:visible").count() == 1 and page.locator(".group:visible").count() == 1
    page.get_by_label("Find").fill("")
    assert page.locator(".group:visible").count() == 3
    context.close()
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{run}/report.html")
    assert not page.get_by_label("Find").is_visible()
    page.locator(".group").first.locator("> summary").click()
    page.locator(".case").first.locator("> summary").click()
    assert "exit code" in page.locator(".case pre").first.inner_text()
    page.get_by_label("Show what the model marks").uncheck()
    assert page.locator(".over").first.is_hidden()
    context.close()


def test_a_run_page_shows_the_report_of_its_run(visit: Visit, jobs: Path, run: Path) -> None:
    folder = jobs / "reported"
    shutil.copytree(run, folder)
    (folder / "report.html").unlink()
    visit.open("/runs/reported")
    command = visit.page.locator("code", has_text="mh-hpc report").inner_text()
    assert command == f"mh-hpc report {folder}"
    subprocess.run([sys.executable, "-m", "modelhub_hpc.cli", *command.split()[1:]], check=True, capture_output=True)
    visit.page.reload()
    visit.page.get_by_role("link", name="Report").click()
    visit.page.get_by_role("heading", name="Quarantined: 1 case").wait_for()
    visit.page.get_by_label("Find").fill("gzip")
    visit.page.get_by_text("of 4 listed").wait_for()
    pictures = visit.page.locator("image").all()
    assert pictures and visit.page.evaluate("origin") == "null"  # in a sandbox: it reaches nothing of this server
