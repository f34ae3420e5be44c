"""Strict JSON, read and written fast where it is long: answers of a thousand labels for every case.

A fast library does the work wherever it says the same as Python's own, which does it elsewhere.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

_LONG = 19  # digits of a number that may need more than 64 bits
_ZEROS = bytes(ord("0") if chr(byte).isascii() and chr(byte).isdigit() else ord(" ") for byte in range(256))
_LONG_NUMBER = re.compile(rb"(?<![.\d])\d{%d}" % _LONG)  # no digits of a fraction


def loads(text: bytes) -> Any:
    """What the text says, whole numbers of any size. Raises ValueError for NaN, infinities and anything not JSON."""
    if not _may_be_too_long(text):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass  # half characters, say, are JSON; what is none is refused here in better words
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def dumps(value: object) -> str:
    """Compact ASCII. Raises ValueError for NaN and infinities, TypeError for what JSON has no type for."""
    try:
        text = orjson.dumps(value)
    except TypeError:
        text = b"null"
    if b"null" in text or not text.isascii():  # NaN becomes null there
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.decode("ascii")


def _may_be_too_long(text: bytes) -> bool:
    """Whether there may be an integer that the library would make a float."""
    # in long texts a search for any digit is slow
    return b"0" * _LONG in text.translate(_ZEROS) and _LONG_NUMBER.search(text) is not None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is more than a number can be")
    return number
