"""Errors as text that is safe to join, on Python 2 as well."""

import traceback


def error_line(error):
    """Return "Type: message" of an exception, as text; also of one whose message can't be printed."""
    return as_text("".join(traceback.format_exception_only(type(error), error)).strip())


def explain(link, error):
    """Return why one link of a chain failed, as `str`."""
    line = "".join(traceback.format_exception_only(type(error), error)).strip()
    return "%s: %s" % (type(link).__name__, line)


def as_text(value):
    """Return value as unicode text; bytes that are no UTF-8 become a replacement sign."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
