"""Take files out of git repositories that nobody vouches for; nothing else here knows git's flags.

Commits are fetched into a bare repository, and files are written by this module: no hook, filter, attribute or
submodule of a repository has a say, and git asks nobody for a password.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelhub_hpc import config
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, UnfitError, shown
from modelhub_hpc.runfolder import drop, storage

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
_BRANCH = re.compile(r"[^\s~^:?*\[\\\-/][^\s~^:?*\[\\]*")
_ADDRESS = re.compile(r"(?:https|ssh|file)://\S.*|[\w.-]+@[\w.-]+:\S.*|http://(?:127\.0\.0\.1|localhost)(?::\d+)?/.*")
_ADDRESS_NO_TLS = re.compile(r"(?:http|git)://\S.*")
_SAFE = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "gc.auto=0",
    "fetch.unpackLimit=1",  # a pack appears whole; single objects would not
    "maintenance.auto=false",
    "protocol.version=2",
    "protocol.allow=never",  # but for the one of the address, so that no server redirects to another
    "http.followRedirects=initial",
    # bytes a second, and for how many seconds fewer may come
    "http.lowSpeedLimit=500",
    "http.lowSpeedTime=60",
)
_TIMEOUT_S = 3600.0
_BLOCK = 1 << 20
_WORDS = 600  # characters of what git has to say
_UNADVERTISED = ("not our ref", "unadvertised object", "expected shallow", "no such remote ref", "bad object")
_LOCKED = ("could not read username", "terminal prompts disabled", "authentication failed")
# nothing that time mends
_FINAL = (
    "not found",
    "does not exist",
    "not appear to be a git repository",
    *_LOCKED,
    "permission denied",
    "couldn't find remote ref",
    "not a valid object name",
    "dubious ownership",
    "not allowed",
)
_LINK, _SUBMODULE = "120000", "160000"
_UNFIT_NAMES = frozenset({"", ".", "..", ".git"})


@dataclass(frozen=True)
class Checkout:
    """A working copy of its user's own, and the commit that it stands at.

    url: of the remote that its branch follows, else of origin, without a login in it; "" without a remote. branch: ""
    where there is none.
    """

    top: Path
    url: str
    branch: str
    commit: str


@dataclass(frozen=True)
class _File:
    """A file of a commit. path: as bytes of any encoding may be, with surrogates."""

    path: str
    mode: str
    object: str
    bytes: int


def fetch(repository: str, branch: str, commit: str | None, folder: Path, https: bool = True) -> str:
    """Have a commit of the repository in the bare repository `folder`, which is made if it is not there; its id.

    Nobody else may use the folder at the time: what a fetch that was killed has left there is cleared away.
    commit: full; None for the newest of the branch or tag, or of HEAD where branch is "". A commit that is there
    already is not fetched again. https: False to allow servers that encrypt nothing. Raises InvalidError (not in that
    repository, no access, no such address), UnfitError (no git here), or TryAgainError (not now).
    """
    _require_plain(repository, branch, commit, https)
    for left in (*folder.glob("**/*.lock"), *folder.glob("objects/pack/tmp_*")):
        drop(left)
    if not (folder / "HEAD").exists():
        _run(folder, "init", "--quiet", "--bare", "--template=")
    if commit and _has(folder, commit):
        return commit
    if commit is None:
        _fetch(folder, repository, branch or "HEAD", shallow=True)
        return _run(folder, "rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}").decode().strip()
    try:
        _fetch(folder, repository, commit, shallow=True)
    except InvalidError as error:
        if not isinstance(error, _Unadvertised):
            raise
        _fetch(folder, repository, "+refs/*:refs/*", shallow=False)
    if not _has(folder, commit):
        raise InvalidError(f"{shown(repository)} has no commit {commit}: its history may have been rewritten.")
    return commit


def export(
    folder: Path, commit: str, within: Sequence[str], target: Path, most_bytes: int, below: str = ""
) -> None:
    """Write the files of a commit below the named folders into the new folder `target`.

    below: the folder of the commit in which those are; "" for its top. Links are written as they are, whatever they
    lead to; no file is written through one. Raises InvalidError for submodules, for names that no checkout could have,
    and for more than most_bytes.
    """
    files = list(_files(folder, f"{commit}:{below}", within))
    for each in files:
        if each.mode == _SUBMODULE:
            raise InvalidError(f"{shown(each.path)} is a submodule, which is not fetched: its files must be in git.")
        if _UNFIT_NAMES & set(each.path.lower().split("/")):
            raise InvalidError(f"The commit holds a file whose name no checkout could have: {shown(each.path)}")
    total = sum(each.bytes for each in files)
    if total > most_bytes:
        raise InvalidError(f"The commit holds {total / 1e6:,.0f} MB, more than the {most_bytes / 1e6:,.0f} allowed.")
    with storage(target, total):
        target.mkdir()
        # links last: no file can then be written through one
        _write(folder, sorted(files, key=lambda each: each.mode == _LINK), target)


def checkout(folder: Path) -> Checkout | None:
    """The working copy that a folder lies in, None if it lies in none.

    Raises InvalidError for one that git does not trust, and for one without a commit.
    """
    if not any((place / ".git").exists() for place in (folder, *folder.parents)):
        return None
    top = Path(os.fsdecode(_run(folder, "rev-parse", "--show-toplevel", own=True).rstrip(b"\n")))
    branch = _run(folder, "branch", "--show-current", own=True).decode(errors="replace").strip()
    remotes = _run(folder, "remote", own=True)
    url = _run(folder, "ls-remote", "--get-url", own=True).decode(errors="replace").strip() if remotes else ""
    try:
        commit = _run(folder, "rev-parse", "--verify", "--quiet", "HEAD", own=True).decode().strip()
    except TryAgainError as error:
        raise InvalidError(f"{shown(top)} has no commit yet.") from error
    return Checkout(top, _plain_address(url, top), branch, commit)


def _plain_address(url: str, top: Path) -> str:
    """An address that others can use too, as far as that is possible: no login, no path."""
    if url and not _ADDRESS.fullmatch(url) and "://" not in url:
        return (top / url).resolve().as_uri()
    return re.sub("^(https?://)[^/@]*@", r"\1", url)


class _Unadvertised(InvalidError):
    """The server gives only what its branches and tags name."""


def _require_plain(repository: str, branch: str, commit: str | None, https: bool) -> None:
    if not (_ADDRESS.fullmatch(repository) or (not https and _ADDRESS_NO_TLS.fullmatch(repository))):
        raise InvalidError(
            f"'{shown(repository)}' is no address of a git repository that may be used: "
            "https://..., ssh://..., user@host:path or file:///...\n"
            "With --no-https also http://... and git://..., which anybody on the way can change."
        )
    if branch and not _BRANCH.fullmatch(branch):
        raise InvalidError(f"'{shown(branch)}' can be no branch of a git repository.")
    if commit is not None and not _COMMIT.fullmatch(commit):
        raise InvalidError(f"'{shown(commit)}' is no full id of a commit: 40 hexadecimal digits.")


def _has(folder: Path, commit: str) -> bool:
    """Whether the commit is here with all its files; a fetch that broke off leaves nothing."""
    try:
        _run(folder, "cat-file", "-e", f"{commit}^{{commit}}")
    except ModelHubError:
        return False
    return True


def _fetch(folder: Path, repository: str, what: str, shallow: bool) -> None:
    depth = ["--depth=1"] if shallow else []
    scheme = repository.partition("://")[0] if "://" in repository else "ssh"
    words = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--force", *depth, "--", repository, what)
    _run(folder, "-c", f"protocol.{scheme}.allow=always", *words)


def _files(folder: Path, tree: str, within: Sequence[str]) -> Iterator[_File]:
    listed = _run(folder, "ls-tree", "-r", "-l", "-z", "--full-tree", tree, "--", *within)
    for line in listed.split(b"\0")[:-1]:
        facts, _, path = line.partition(b"\t")
        mode, _, name, size = facts.decode("ascii").split()
        yield _File(os.fsdecode(path), mode, name, int(size) if size.isdigit() else 0)


def _write(folder: Path, files: Sequence[_File], target: Path) -> None:
    with _started(folder, ["cat-file", "--batch"], stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        try:
            for each in files:
                process.stdin.write(f"{each.object}\n".encode("ascii"))
                process.stdin.flush()
                _write_one(process.stdout, each, target / each.path)
        except FileExistsError as error:
            raise InvalidError(f"The commit holds something twice: {shown(each.path)}") from error
        finally:
            process.kill()


def _write_one(answer: IO[bytes], file: _File, path: Path) -> None:
    header = answer.readline().split()
    if header[1:] != [b"blob", str(file.bytes).encode("ascii")]:
        raise TryAgainError(f"git does not give {shown(file.path)}: the copy of its repository is damaged.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.mode == _LINK:
        os.symlink(answer.read(file.bytes), os.fsencode(path))
    else:
        with open(path, "xb") as stream:
            left = file.bytes
            while left:
                block = answer.read(min(left, _BLOCK))
                if not block:
                    raise TryAgainError(f"git broke off in {shown(file.path)}.")
                left -= len(block)
                stream.write(block)
        path.chmod(0o755 if file.mode == "100755" else 0o644)
    answer.read(1)


def _run(folder: Path, *words: str, own: bool = False) -> bytes:
    """The answer of a git command. own: the folder lies in a user's working copy, and is no bare repository."""
    with _started(folder, words, own=own) as process:
        try:
            answer, said = process.communicate(timeout=_TIMEOUT_S)
        except BaseException as error:
            process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TryAgainError(f"git {_verb(words)} has not ended after {_TIMEOUT_S:.0f} s.") from error
            raise
    if process.returncode:
        raise _refusal(words, said.decode(errors="replace").strip(), folder)
    return answer


def _started(
    folder: Path, words: Sequence[str], stdin: int = subprocess.DEVNULL, own: bool = False
) -> subprocess.Popen[bytes]:
    program = config.find_program("git")
    if not program:
        raise UnfitError(
            "git is not installed here, or not on the PATH. Without it a model can only be taken from a folder "
            "that lies here: --from FOLDER"
        )
    settings = [word for each in _SAFE for word in ("-c", each)]
    place = [] if own else [f"--git-dir={folder.absolute()}"]
    with storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [program, *settings, *place, *words],
            cwd=folder,
            env=config.git_environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def _refusal(words: Sequence[str], said: str, folder: Path) -> ModelHubError:
    low = said.lower()
    if "no space left" in low or "quota exceeded" in low:
        code = errno.ENOSPC if "no space left" in low else errno.EDQUOT
        with storage(folder / _verb(words)):
            raise OSError(code, os.strerror(code))
    kind: type[ModelHubError] = TryAgainError
    if any(sign in low for sign in _UNADVERTISED):
        kind = _Unadvertised
    elif any(sign in low for sign in _FINAL):
        kind = InvalidError
    text = "\n".join(shown(line) for line in said[-_WORDS:].splitlines())
    return kind(f"git {_verb(words)} has failed:\n{text}{_mend(low, kind)}")


def _mend(said: str, kind: type[ModelHubError]) -> str:
    if any(sign in said for sign in _LOCKED):
        return "\nIt does not exist, or is private: git knows no login for it here, and nobody is asked for one."
    if kind is TryAgainError and "unable to access" in said:
        return "\nCheck the network and the proxies (HTTPS_PROXY), then run the same command again."
    return ""


def _verb(words: Sequence[str]) -> str:
    return words[2] if words[0] == "-c" else words[0]
