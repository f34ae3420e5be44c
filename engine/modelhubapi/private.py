"""Folders that models write to by name, private to this process where a read-only image has none to offer."""

import collections
import os

PLACES = ("/output", "/working", "/temp")

# mounted: the folders that are private now; closed: those that can't be written, because the system forbids it
Places = collections.namedtuple("Places", "mounted closed")

_NEW_USER_AND_MOUNTS = 0x10000000 | 0x00020000  # CLONE_NEWUSER, CLONE_NEWNS
_NO_SETUID_NO_DEVICES = 2 | 4  # MS_NOSUID, MS_NODEV
_CAPABILITIES_3 = 0x20080522


def make_private(places=PLACES):
    """Lay an empty folder in memory over each of places that is there and can't be written.

    Only this process and its children see them, and they are gone when these end. Call it before there are
    threads.
    """
    lacking = [place for place in places if os.path.isdir(place) and not is_writable(place)]
    if lacking and _works(lacking):
        _mount(lacking)
        return Places(lacking, [])
    return Places([], lacking)


def mend_environment():
    """Let HOME and TMPDIR, which libraries write to, lead to where this process can write."""
    if not is_writable(os.environ.get("HOME", "")) and is_writable("/temp"):
        os.environ["HOME"] = "/temp"
    if not is_writable(os.environ.get("TMPDIR", "/tmp")):
        os.environ.pop("TMPDIR", None)
        if not is_writable("/tmp") and is_writable("/temp"):
            os.environ["TMPDIR"] = "/temp"


def is_writable(folder):
    """True if this process may put files into folder."""
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def hint(message, closed):
    """Return what to do about an error that names one of the closed places; "" for any other."""
    named = [place for place in closed if place in message]
    binds = " ".join("--bind FOLDER:%s" % place for place in named)
    return "%s cannot be written here: apptainer run %s ..." % (", ".join(named), binds) if named else ""


def _works(places):
    """Try it in a child: a process that got only half of the way there would own nothing any more."""
    try:
        import ctypes  # noqa: F401, here so that it is there in both processes
    except ImportError:
        return False
    child = os.fork()
    if child == 0:
        try:
            _mount(places)
        except (AttributeError, EnvironmentError):
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _mount(places):
    """Enter namespaces of this process's own and mount there; needs no rights, where the kernel allows it."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    _check(ctypes, libc.unshare(_NEW_USER_AND_MOUNTS))
    _tell("/proc/self/setgroups", "deny")
    _tell("/proc/self/uid_map", "%d %d 1" % (user, user))
    _tell("/proc/self/gid_map", "%d %d 1" % (group, group))
    for place in places:
        target = place.encode("ascii")
        _check(ctypes, libc.mount(b"tmpfs", target, b"tmpfs", _NO_SETUID_NO_DEVICES, b"mode=700"))
    # The new namespace came with every right in it: back to none, so that read-only files stay read-only.
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    _check(ctypes, libc.capset(header, none))


def _check(ctypes, result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _tell(path, text):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
