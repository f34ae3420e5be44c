"""Run things in Apptainer; nothing else here knows its flags."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelhub_hpc import config, resources
from modelhub_hpc.errors import InvalidError, ModelHubError, TryAgainError, UnfitError, shown

log = logging.getLogger(__name__)

# where site installs and their helpers (squashfuse, fuse-overlayfs) live when a job's PATH is bare
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
# where Apptainer's own packages keep the programs that they bring along
BUNDLES = (
    "/usr/libexec/apptainer/bin",
    "/usr/local/libexec/apptainer/bin",
    "/usr/lib/x86_64-linux-gnu/apptainer/bin",
)
# by its default configuration; a minimal system may lack the first, and then no container starts
_BOUND_BY_DEFAULT = ("/etc/localtime", "/etc/hosts")
_FUSE = 10, 229  # the numbers of its device
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
NAMESPACES_MEND = (
    "An administrator mends it:  sysctl -w user.max_user_namespaces=15000\n"
    "and, where these exist:     sysctl -w kernel.unprivileged_userns_clone=1 "
    "kernel.apparmor_restrict_unprivileged_userns=0"
)
SECCOMP = resources.folder("hpc") / "seccomp.json"
_NOT_FATAL = 2  # of unsquashfs: what only root may make, such as device nodes, was left out
_BUILD_TIMEOUT_S = 3600.0
_ASK_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Bind:
    """A host file or folder shown at `target` inside the container, read-only unless said otherwise."""

    source: Path
    target: str
    writable: bool = False

    def mount(self) -> str:
        """The value of --mount; its CSV quoting takes the commas, colons and quotes that -B breaks on."""
        line = io.StringIO()
        fields = ["type=bind", f"src={self.source}", f"dst={self.target}"] + ([] if self.writable else ["ro"])
        csv.writer(line, lineterminator="").writerow(fields)
        return line.getvalue()


@dataclass(frozen=True)
class Containment:
    """What a container may see and do: nothing but this.

    seccomp: a list of forbidden system calls (SECCOMP); unsquash: unpack the image anew instead of mounting it.
    """

    home: Path
    workdir: Path
    cwd: str
    binds: tuple[Bind, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False
    network: bool = False
    seccomp: Path | None = None
    unsquash: bool = False


def exec_command(image: Path, argv: Sequence[str], inside: Containment) -> list[str]:
    """The command that runs argv in the image, on this machine; --dry-run shows it."""
    return [
        *(program(), "-q", "exec"),
        # a mount, process and IPC namespace of its own; no host environment, HOME, /tmp or working folder
        *("--containall", "--cleanenv", "--no-privs", "--no-eval"),
        *("--uts", "--hostname", "model"),
        *(word for path in _BOUND_BY_DEFAULT if not os.path.exists(path) for word in ("--no-mount", path)),
        # --containall leaves the host's network in place, services on loopback included
        *(() if inside.network else ("--net", "--network", "none")),
        *(("--security", f"seccomp:{inside.seccomp}") if inside.seccomp else ()),
        *(("--nv",) if inside.gpu else ()),
        *(("--unsquash",) if inside.unsquash else ()),
        # --no-home would leave HOME pointing nowhere; --workdir lifts the 64 MiB limit off /tmp
        *("--home", f"{inside.home}:/home/model", "--workdir", str(inside.workdir), "--pwd", inside.cwd),
        *(word for bind in inside.binds for word in ("--mount", bind.mount())),
        *(word for name, value in inside.env.items() for word in ("--env", f"{name}={value}")),
        str(image),
        *argv,
    ]


def mounts_images() -> bool:
    """Whether Apptainer can mount a SIF here, by FUSE or as a setuid program; else it has to unpack it."""
    return fuse_trouble() is None or any(_is_setuid(f"{folder}/starter-suid") for folder in BUNDLES)


def fuse_trouble() -> str | None:
    """Why an ordinary user cannot mount images with FUSE; None if one can."""
    try:
        found = os.stat("/dev/fuse")
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(*_FUSE):
        return "/dev/fuse is something else"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "this user may not read and write /dev/fuse"
    return None if find_tool("squashfuse_ll", "squashfuse") else "there is no squashfuse"


def find_tool(*names: str) -> str | None:
    """The first of these programs that Apptainer would find: on PATH, or where its packages keep their own."""
    places = (config.find_program(name, ":".join((_SYSTEM_PATH, *BUNDLES))) for name in names)
    return next((place for place in places if place), None)


def _is_setuid(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_ISUID)
    except OSError:
        return False


def environment(scratch: Path) -> dict[str, str]:
    """The environment for apptainer itself, built from empty.

    APPTAINER_BIND, APPTAINERENV_*, SINGULARITYENV_* and proxies (with their passwords) of the caller would
    pierce every containment flag.
    """
    return {
        "PATH": f"{Path(program()).parent}:{_SYSTEM_PATH}",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "APPTAINER_CONFIGDIR": str(scratch / ".apptainer"),
        "APPTAINER_CACHEDIR": str(scratch / ".apptainer/cache"),
        "LANG": "C.UTF-8",
    }


def program() -> str:
    """The path of apptainer, or of the compatible singularity; UnfitError without either."""
    for name in ("apptainer", "singularity"):
        path = config.find_program(name)
        if path:
            return path
    raise UnfitError(
        """
        Apptainer is not installed, or not on PATH.
        On a cluster, try:        module load apptainer
        On a machine of your own: hpc/install.sh
        Without containers, for development only: --runtime host"""
    )


def version() -> str:
    return _output([program(), "--version"]).split()[-1]


def unpack(target: Path, source: str, scratch: Path) -> None:
    """Unpack `source` into the new folder `target` as a tree of files that belong to this user.

    source: what `apptainer build` takes, such as oci:FOLDER or a folder. Apptainer follows links in the tree when it
    writes files of its own there: unpacked.unpack keeps it from doing harm.
    Raises InvalidError with apptainer's reason, UnfitError or TryAgainError where this machine is the reason.
    """
    # --fix-perms: the owner may read all and enter everywhere, without which nobody could look at or mend the tree
    _build(["--sandbox", "--fix-perms", str(target), source], source, scratch)


def unsquash(target: Path, image: Path, offset: int, scratch: Path) -> None:
    """Unpack the squashfs that begins `offset` bytes into `image` into the new folder `target`.

    With squashfs-tools, which Apptainer itself needs. Raises InvalidError, UnfitError or TryAgainError.
    """
    tool = find_tool("unsquashfs")
    if tool is None:
        raise UnfitError("unsquashfs is not installed, or not on PATH.\nInstall the package squashfs-tools.")
    # no attributes, since those of the system are for root to set
    command = [tool, "-no-progress", "-no-xattrs", "-offset", str(offset), "-dest", str(target), str(image)]
    done = _run(command, scratch, _BUILD_TIMEOUT_S, umask=0)  # which it would take from the files' modes
    if done.returncode not in (0, _NOT_FATAL):
        raise _build_error(str(image), done.returncode, _plain(done.stderr)[-2000:], scratch)


def build(target: Path, source: str, scratch: Path, *, fakeroot: bool = False) -> None:
    """Pack `source` (a folder that `unpack` made, a definition, ...) into the SIF `target`, rootless.

    fakeroot: play root while building, which a definition with a %post section needs. What a definition names is
    relative to the caller's folder, as for `apptainer build`.
    The target is written in place by apptainer and may be partial when this raises, as `unpack` does.
    """
    # zstd packs in a third of the time of the default gzip, to the same size, and starts faster
    packing = ["--mksquashfs-args", "-comp zstd -Xcompression-level 3"]
    flags = [*packing, *(["--fakeroot"] if fakeroot else [])]
    folder = Path(source)
    if folder.is_dir():
        # by its name alone: Apptainer writes what it is given into the image's labels, for everybody to read
        _build([*flags, str(target), f"./{folder.name}"], source, scratch, cwd=folder.parent)
    else:
        _build([*flags, str(target), source], source, scratch)


def _build(arguments: Sequence[str], source: str, scratch: Path, cwd: Path | None = None) -> None:
    # its cache would be a compressed copy of every layer, and fails when several processes fill it
    command = [program(), "-q", "--nocolor", "build", "--disable-cache", *arguments]
    log.info("%s", shlex.join(command))
    done = _run(command, scratch, _BUILD_TIMEOUT_S, cwd=cwd)
    if done.returncode:
        raise _build_error(source, done.returncode, _plain(done.stderr)[-2000:], scratch)


def _build_error(source: str, code: int, words: str, scratch: Path) -> ModelHubError:
    """The error that a failed build means, by what Apptainer said."""
    if mend(words):
        return UnfitError(f"Apptainer cannot build here.\n{mend(words)}\n{words}")
    if re.search("no space left on device|disk quota exceeded", words, re.IGNORECASE):
        free = shutil.disk_usage(scratch).free / 1e6
        return TryAgainError(
            f"No room to convert {shown(source)}: {free:.0f} MB free in {shown(scratch)}.\n{words}"
        )
    if code < 0:
        return TryAgainError(f"Apptainer was killed by signal {-code} while it converted {shown(source)}.")
    return InvalidError(f"{shown(source)} could not be converted (exit code {code}).\n{words}")


def mend(words: str) -> str:
    """What an administrator can do about what Apptainer said, where its words tell; else ""."""
    if re.search("user namespace", words, re.IGNORECASE):
        return f"Apptainer may not make user namespaces on this machine.\n{NAMESPACES_MEND}"
    return ""


def labels(image: Path) -> dict[str, str]:
    """The labels of a SIF or of an unpacked tree. Raises InvalidError if it is neither."""
    answer = json.loads(_output([program(), "inspect", "--json", "--labels", str(image)]))
    found: dict[str, str] = answer["data"]["attributes"]["labels"] or {}
    return found


def embed(image: Path, name: str, data: bytes, scratch: Path) -> None:
    """Add a JSON object to a SIF, beside its file system, which does not change."""
    part = scratch / name
    part.write_bytes(data)
    # group 1 is that of the file system: one signature covers both
    kind = ["--datatype", "6", "--groupid", "1", "--filename", name]
    _output([program(), "sif", "add", *kind, str(image), str(part)])


def start_argv(image: Path) -> tuple[str, ...]:
    """The image's own start command as Docker recorded it, e.g. ("python", "run.py"); () if none."""
    script = _output([program(), "inspect", "--runscript", str(image)])
    parts = (re.search(rf"^{name}='(.*)'$", script, re.MULTILINE) for name in ("OCI_ENTRYPOINT", "OCI_CMD"))
    return tuple(word for part in parts if part for word in shlex.split(part[1]))


@dataclass(frozen=True)
class Signatures:
    """What Apptainer says of the signatures of a SIF.

    valid: there is one, and all of them, of known keys, suit every object; signers: fingerprints of the keys whose
    signature suits the file system; reason: Apptainer's, where not valid.
    """

    valid: bool
    signers: tuple[str, ...]
    reason: str


def secret_keys() -> tuple[str, ...]:
    """The fingerprints of this user's secret PGP keys, in Apptainer's order."""
    listed = _output([program(), "key", "list", "--secret", "--keysdir", str(config.caller().apptainer_keys)])
    return tuple(re.findall(r"^\s*F\w*:\s*([0-9A-F]{40,})$", listed, re.MULTILINE))


def sign(image: Path, fingerprint: str) -> None:
    """Sign all objects of a SIF, in place, with one of `secret_keys`.

    Apptainer asks for the passphrase on the caller's terminal. Raises InvalidError if it does not sign.
    """
    number = str(secret_keys().index(fingerprint))
    keys = {"APPTAINER_KEYSDIR": str(config.caller().apptainer_keys)}
    # the prompt is written to stdout, where answers of ours may go
    done = subprocess.run(
        [program(), "-q", "--nocolor", "sign", "--keyidx", number, str(image)],
        env={**environment(Path("/nonexistent")), **keys},
        stdout=2,
        stderr=subprocess.PIPE,
    )
    if done.returncode:
        raise InvalidError(f"Apptainer did not sign with the key {fingerprint}.\n{_plain(done.stderr)}")


def verify(image: Path) -> Signatures:
    """Check all signatures of a SIF with the public keys that this user and this machine have; no network."""
    command = [program(), "--nocolor", "verify", "--json", "--local", str(image)]
    with tempfile.TemporaryDirectory() as empty:
        # without a keyring Apptainer would make one, even where HOME is read-only
        keys = config.caller().apptainer_keys
        own = {"APPTAINER_KEYSDIR": str(keys if keys.is_dir() else empty)}
        done = _run(command, Path(empty), _BUILD_TIMEOUT_S, {**environment(Path(empty)), **own})
    reasons = [line for line in _plain(done.stderr).splitlines() if line.startswith("FATAL")]
    reason = " ".join(reasons).removeprefix("FATAL:").strip()
    try:
        found = [each["Signer"] for each in json.loads(done.stdout)["SignerKeys"] or ()]
    except (ValueError, KeyError, TypeError):
        return Signatures(False, (), reason or "Apptainer gave no answer that can be read")
    good = {
        s["Fingerprint"].upper() for s in found if s["Partition"] == "FS" and s["KeyCheck"] and s["DataCheck"]
    }
    return Signatures(done.returncode == 0, tuple(sorted(good - {""})), reason)


def try_command(command: Sequence[str], scratch: Path, timeout_s: float = 60.0) -> tuple[int, str]:
    """Run a command that may fail; its exit code and output, for `mh-hpc doctor`."""
    try:
        done = _run(command, scratch, timeout_s)
    except TryAgainError as error:
        return 124, str(error)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace").strip()


def _output(command: Sequence[str]) -> str:
    done = _run(command, Path("/nonexistent"), _ASK_TIMEOUT_S)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise InvalidError(f"`{shlex.join(command)}` failed with exit code {done.returncode}.\n{message}")
    return done.stdout.decode(errors="replace")


def _plain(text: bytes) -> str:
    return _COLOUR.sub("", text.decode(errors="replace")).strip()


def _run(
    command: Sequence[str],
    scratch: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    umask: int = -1,
) -> subprocess.CompletedProcess[bytes]:
    """The one place where a command is run to its end; TryAgainError if that takes too long."""
    try:
        return subprocess.run(
            command,
            env=env or environment(scratch),
            cwd=cwd,
            umask=umask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise TryAgainError(f"`{shlex.join(command)}`: no answer within {timeout_s:.0f} s.") from None
