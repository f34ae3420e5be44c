"""Somebody's window on the pages, and what it was told."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grounds import OBEDIENT, REPO
from servekit import Endpoint

SHOTS = Path(os.environ.get("MH_TEST_SCREENSHOTS", REPO / "build/screenshots"))
MODELS = "digits-cnn", "digits-embedding", "phantom-brats", "phantom-lesion", str(OBEDIENT)


@dataclass
class Visit:
    """Somebody's window. went: every address that it asked for; said: what scripts complained of."""

    page: Any
    server: Endpoint
    went: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(self.server.url + path)

    def shoot(self, name: str) -> None:
        """A picture of the whole page, to be looked at by people."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_load_state("networkidle")
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def settle(self) -> None:
        """Until all pictures that were asked for are there and drawn."""
        self.page.wait_for_load_state("networkidle")
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


Enter = Callable[..., Visit]


def is_here(url: str, server: str) -> bool:
    """Whether an address leads to the server, or nowhere."""
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob") or f"{parts.scheme}://{parts.netloc}" == server
