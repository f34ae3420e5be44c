"""File names as the interpreter, the operating system and ITK each want them, on Python 2 and 3."""

import os
import re
import sys

PY2 = sys.version_info[0] == 2
TEXT_TYPES = (str,) if not PY2 else (str, type(u""))  # what may stand for a path or a word

# Python 2 writes the escaped byte 0xNN, U+DCNN, as three bytes; these are they.
_ESCAPED_BYTE = re.compile(b"\xed([\xb2\xb3])([\x80-\xbf])")


def is_path(value):
    """True for what names a file: text, or an object with __fspath__."""
    return isinstance(value, TEXT_TYPES) or hasattr(value, "__fspath__")


def native_path(path):
    """Return path as the `str` that open() takes, whatever the locale says.

    path: text as it came out of JSON, in which bytes that are no UTF-8 stand as U+DC80 to U+DCFF.
    On Python 2 contributions were always given byte strings; they still are.
    """
    if hasattr(path, "__fspath__"):
        path = path.__fspath__()
    if not PY2:
        return os.fsdecode(path if isinstance(path, bytes) else path.encode("utf-8", "surrogateescape"))
    if isinstance(path, str):
        return path
    return _ESCAPED_BYTE.sub(_unescape_byte, path.encode("utf-8"))


def itk_path(path):
    """Return path as the `str` that SimpleITK takes; raise IOError for a name it would abort on."""
    path = native_path(path)
    raw = path if PY2 else os.fsencode(path)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise IOError("SimpleITK cannot open a name that is not UTF-8: %r" % raw)
    return raw if PY2 else text


def _unescape_byte(match):
    offset = 0 if match.group(1) == b"\xb2" else 0x40
    return chr(ord(match.group(2)) + offset)
