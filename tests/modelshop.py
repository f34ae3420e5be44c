"""A registry with one model: its git repository and its files on a server of loopback, and `mh-hpc pull` for it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gitkit import Repository
from grounds import OBEDIENT, REPO
from registry_server import Answers
from runkit import Ended, Here

from modelhub_hpc import cli

WEIGHTS = bytes(range(256)) * 4000
PLACE = "contrib_src/model/weights.bin"


class FileServer(Answers):
    """Serves `files` by path with ranges and a validator. page: for all else; block: what is withheld of an answer."""

    def __init__(self, **files: bytes) -> None:
        super().__init__()
        self.files = {f"/{name}": data for name, data in files.items()}
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.validate = True
        self.ranges = True
        self.status = 404

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if path in self.redirects:
            return 302, {"Location": self.redirects[path]}, b""
        if path not in self.files:
            return self.status, {}, b""
        data = self.files[path]
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        more = {**({"ETag": tag} if self.validate else {}), **self.headers}
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if wanted and self.ranges and headers.get("if-range") == tag:
            start = int(wanted[1])
            return 206, {**more, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:]
        return 200, more, data

    def ranges_asked(self, path: str) -> list[str]:
        return [headers.get("range", "") for asked, headers in self.asked if asked == path]


class Shop:
    """source: the repository; version: the entry's only one, to be changed before publish()."""

    def __init__(self, folder: Path, server: FileServer) -> None:
        self.folder = folder
        self.server = server
        self.cache = folder / "cache"
        self.registry = folder / "registry"
        (self.registry / "models").mkdir(parents=True)
        self.source = Repository(folder / "source")
        for name in ("init", "contrib_src"):
            shutil.copytree(OBEDIENT / name, self.source.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.entry: dict[str, Any] = json.loads((REPO / "registry/models/squeezenet.json").read_bytes())
        self.entry["name"] = "toy"
        self.version: dict[str, Any] = self.entry["versions"][0]
        self.version["source"] = {"repository": self.source.url, "branch": "master", "commit": None, "folder": "."}
        self.version["image"]["name"] = "modelhub-hpc/onnxruntime:1"
        (folder / "mh-hpc.yaml").write_text(json.dumps({"registries": [str(self.registry)]}))
        self.here = Here(folder, {"MH_HPC_CACHE_DIR": str(self.cache)})

    @property
    def place(self) -> Path:
        return self.cache / "models/toy/1.0.0"

    def file(self, name: str = "weights.bin", path: str = PLACE, known: bool = True, **facts: Any) -> dict[str, Any]:
        """Add an external file to the entry."""
        data = self.server.files.get(f"/{name}", b"")
        digest = hashlib.sha256(data).hexdigest() if known else None
        made = {"url": f"{self.server.url}/{name}", "path": path, "sha256": digest, "bytes": None, **facts}
        self.version["files"].append(made)
        return made

    def publish(self, agree: bool = True, pin: bool = False) -> str:
        """Write init.json as the entry has it, commit all, and write the entry; the commit."""
        if agree:
            self.write_init(*((each["url"], f"/{each['path']}") for each in self.version["files"]))
        commit = self.source.commit()
        if pin:
            self.version["source"]["commit"] = commit
        (self.registry / "models/toy.json").write_text(json.dumps(self.entry))
        return commit

    def write_init(self, *named: tuple[str, str]) -> None:
        listed = [{"src_url": url, "dest_file_path": place} for url, place in named]
        init = {"docker_id": self.version["image"]["name"], "external_contrib_files": listed}
        (self.source.folder / "init/init.json").write_text(json.dumps(init))

    def pull(self, *more: object, code: int = 0, image: bool = False, model: str = "toy") -> Ended:
        """Pull in this process, which is ten times as fast as in one of its own."""
        words = ["pull", model, *([] if image else ["--no-image"]), *map(str, more)]
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.chdir(self.folder)
            patch.setenv("MH_HPC_CACHE_DIR", str(self.cache))
            done = Ended(cli.main(words), out.getvalue(), err.getvalue())
        assert done.code == code, done.text
        return done

    def lock(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place / "lock.json").read_bytes())
        return found

    def start(self) -> subprocess.Popen[str]:
        return self.here.start("pull", "toy", "--no-image")

    def names(self) -> set[str]:
        """All files of the pulled model."""
        return {str(path.relative_to(self.place)) for path in self.place.rglob("*") if not path.is_dir()}
