"""What this machine has and lacks, looked at from within it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelhub_hpc import apptainer, config, images
from modelhub_hpc.apptainer import Containment
from modelhub_hpc.config import SiteConfig
from modelhub_hpc.doctor.check import Check
from modelhub_hpc.errors import ModelHubError

_MIN_PYTHON = (3, 10)
_MIN_APPTAINER = (1, 1)
_SCRATCH_BYTES = 2**30
_CACHE_BYTES = 2 * 2**30
_SHELL = ("/bin/sh", "-c", "true")


def checks(site: SiteConfig, image: str | None = None) -> Iterator[Check]:
    """Every check, as it is made. image: name or file of an image to try a container with; default one of the store.

    With `runtime: host` containers are not needed, and what they lack does not count.
    """
    yield _python()
    contained = site.runtime == "apptainer"
    for check in _containers(site, image):
        yield check if contained or check.ok else check.excused("host runtime")
    yield _engine_libraries(contained)
    yield _scratch(config.scratch_dir(site))
    yield _cache(config.cache_dir(site))
    yield _gpu(site)
    yield _memory(site)
    yield Check(
        "cores", True, f"{config.cores()} usable; workers unless said otherwise: {config.worker_count(site)}"
    )


def _containers(site: SiteConfig, image: str | None) -> Iterator[Check]:
    yield _apptainer()
    yield _user_namespaces()
    yield _fuse()
    yield _helper("squashfuse", ("squashfuse_ll", "squashfuse"), "mounts images without root")
    yield _helper("fuse-overlayfs", ("fuse-overlayfs",), "is needed to build from definitions only")
    yield _helper("squashfs-tools", ("unsquashfs",), "unpacks images, to convert and build them")
    yield _subuid()
    yield from _try_container(site, image)


def _python() -> Check:
    found = platform.python_version()
    good = sys.version_info >= _MIN_PYTHON
    return Check(
        "Python", good, f"{found} ({sys.executable})", "" if good else "install Python 3.10 or later"
    )


def _apptainer() -> Check:
    try:
        path, text = apptainer.program(), apptainer.version()
    except (ModelHubError, OSError) as error:
        return Check(
            "Apptainer", False, str(error).splitlines()[0], "module load apptainer, or run hpc/install.sh"
        )
    match = re.match(r"(\d+)\.(\d+)", text)
    good = bool(match) and tuple(map(int, match.groups())) >= _MIN_APPTAINER if match else False
    return Check("Apptainer", good, f"{text} ({path})", "" if good else "update it to 1.1 or later")


def _user_namespaces() -> Check:
    name, unshare = "user namespaces", config.find_program("unshare")
    if unshare is None:
        return Check(
            name, None, "not tried: there is no unshare(1) on PATH", "install util-linux to have this tried"
        )
    try:
        code, output = apptainer.try_command([unshare, "-Ur", "true"], Path("/"))
    except ModelHubError:
        return Check(name, None, "not tried: that takes Apptainer")
    if code == 0:
        return Check(name, True, "an ordinary user can make them")
    return Check(name, False, output or f"unshare ended with {code}", apptainer.NAMESPACES_MEND)


def _fuse() -> Check:
    trouble = apptainer.fuse_trouble()
    if trouble is None:
        return Check("/dev/fuse", True, "images can be mounted")
    slower = "images are unpacked at every start of a model, which is slower and takes room"
    mend = "as root: modprobe fuse; chmod 666 /dev/fuse; install the package squashfuse"
    return Check("/dev/fuse", None, f"{trouble}: {slower}", mend)


def _helper(name: str, programs: tuple[str, ...], use: str) -> Check:
    found = apptainer.find_tool(*programs)
    if found:
        return Check(name, True, found)
    return Check(name, None, f"not found; it {use}", f"install the package {name}")


def _subuid() -> Check:
    user = config.caller().user
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        lines = []
    if os.getuid() == 0 or any(line.split(":")[0] in (user, str(os.getuid())) for line in lines):
        return Check("subordinate ids", True, f"{user} can build images with --fakeroot")
    mend = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    return Check("subordinate ids", None, f"none for {user}; only building with --fakeroot needs them", mend)


def _try_container(site: SiteConfig, image: str | None) -> Iterator[Check]:
    """Start a container thrice: barely contained, without network, and under the seccomp list."""
    names = ("container starts", "network closed", "seccomp")
    try:
        path = images.find(image, site).path if image else _any_image(site)
    except ModelHubError as error:
        yield Check(names[0], False, str(error).splitlines()[0], "name an image that is there")
        return
    if path is None or config.find_program("apptainer") is None:
        yield Check(names[0], None, "not tried: no image here yet", "mh-hpc doctor --image FILE.sif")
        return
    for name, network, seccomp in zip(names, (True, False, True), (False, False, True)):
        yield _start(name, path, config.scratch_dir(site), network, seccomp)


def _any_image(site: SiteConfig) -> Path | None:
    stores = (*site.library_dirs, config.cache_dir(site) / "images")
    return next((path for store in stores for path in sorted(store.glob("*.sif"))), None)


def _start(name: str, image: Path, base: Path, network: bool, seccomp: bool) -> Check:
    where = base if base.is_dir() else None  # that it is not there is another check's to say
    with tempfile.TemporaryDirectory(prefix="mh-hpc-doctor-", dir=where) as folder:
        home, work = Path(folder) / "home", Path(folder) / "work"
        home.mkdir()
        work.mkdir()
        forbidden = apptainer.SECCOMP if seccomp else None
        inside = Containment(
            home=home,
            workdir=work,
            cwd="/",
            binds=(),
            network=network,
            seccomp=forbidden,
            unsquash=not apptainer.mounts_images(),
        )
        code, output = apptainer.try_command(apptainer.exec_command(image, _SHELL, inside), Path(folder))
    if code == 0:
        return Check(name, True, image.name)
    option = {"network closed": "--allow-network", "seccomp": "seccomp: false in mh-hpc.yaml"}.get(name)
    mend = f"ask the administrators, or do without: {option}" if option else "see the checks above"
    return Check(name, False, f"exit code {code}: {output.splitlines()[-1] if output else 'no output'}", mend)


def _engine_libraries(contained: bool) -> Check:
    missing = [name for name in ("SimpleITK", "PIL", "h5py") if importlib.util.find_spec(name) is None]
    if not missing:
        return Check("host runtime", True, "its libraries are installed")
    ok = None if contained else False
    mend = "pip install 'modelhub-hpc[host]'"
    return Check("host runtime", ok, f"{', '.join(missing)} missing; only --runtime host needs them", mend)


def _scratch(folder: Path) -> Check:
    mend = "choose a node-local folder: --scratch-dir or TMPDIR"
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return Check("scratch folder", False, f"{folder} does not exist or cannot be written", mend)
    free = shutil.disk_usage(folder).free
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        return Check("scratch folder", False, f"{detail}, mounted noexec", mend)
    good = free >= _SCRATCH_BYTES
    return Check("scratch folder", good, detail, "" if good else mend)


def _cache(folder: Path) -> Check:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    mend = "choose another folder: MH_HPC_CACHE_DIR"
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check("image store", False, f"{folder} cannot be written", mend)
    free = shutil.disk_usage(existing).free
    good = free >= _CACHE_BYTES
    return Check("image store", good or None, f"{folder}, {free / 2**30:.1f} GiB free", "" if good else mend)


def _gpu(site: SiteConfig) -> Check:
    found = config.gpus(site)
    if not found:
        return Check("GPU", None, "none; models run on the CPU")
    if not Path("/dev/nvidiactl").exists():
        mend = "use another node, or --gpu off"
        return Check("GPU", False, f"{', '.join(found)} named, but there is no /dev/nvidiactl", mend)
    tool = "" if config.find_program("nvidia-smi") else " (nvidia-smi is not on PATH)"
    return Check("GPU", True, f"{', '.join(found)}{tool}")


def _memory(site: SiteConfig) -> Check:
    lines = Path("/proc/meminfo").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    free, workers = values["MemAvailable"], config.workers_here(site)
    detail = f"{free / 2**30:.1f} of {values['MemTotal'] / 2**30:.1f} GiB available"
    needed = (site.mem_mb or 0) * 2**20 * workers
    if needed > free:
        return Check(
            "memory", None, f"{detail}, less than {workers} workers with --mem", "use fewer --workers"
        )
    return Check("memory", True, detail)
