"""Real git repositories on this machine, made without the configuration of whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
import urllib.parse
from pathlib import Path

from registry_server import Answers, Ask

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


class SmartServer(Answers):
    """Git's own HTTP server for the repositories below a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(_Backend)
        self.folder = folder


class _Backend(Ask):
    """Hands requests to `git http-backend`, as web servers do."""

    def do_GET(self) -> None:
        self._serve("GET", b"")

    def do_POST(self) -> None:
        self._serve("POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _serve(self, method: str, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        self.server.owner.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        environment = {
            **_ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.server.owner.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REQUEST_METHOD": method,
            "PATH_INFO": urllib.parse.unquote(path),
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in {**fields, "Content-Length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)
