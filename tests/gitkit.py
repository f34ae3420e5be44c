"""Real git repositories on this machine, made without the configuration of whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
import urllib.parse
from pathlib import Path

_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": "tester@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


class Repository:
    """A repository with a working tree. url: where it is fetched from."""

    def __init__(self, folder: Path, branch: str = "master") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"file://{urllib.parse.quote(str(folder))}"
        self("init", "--quiet", f"--initial-branch={branch}")

    def __call__(self, *words: str, text: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.folder, env=_ENVIRONMENT, input=text, capture_output=True, check=True
        )
        return done.stdout.decode().strip()

    def commit(self, **files: str) -> str:
        """Write these files, commit all there is, and tell its id."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self("add", "--all", "--force")
        self("commit", "--quiet", "--allow-empty", "-m", "a change")
        return self("rev-parse", "HEAD")

    def commit_tree(self, listing: bytes) -> str:
        """Commit a tree that no working tree could have: lines of `git mktree`."""
        tree = self("mktree", "--missing", text=listing)
        made = self("commit-tree", tree, "-m", "odd")
        self("update-ref", "refs/heads/master", made)
        return made
