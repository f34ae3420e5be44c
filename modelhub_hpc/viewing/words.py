"""How numbers and values are written for people, on pages and in reports."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

_MOST_CHARS = 20_000  # of JSON that is shown


def number(value: Any) -> str:
    """Four digits that count, and no more zeros than needed.

    >>> number(1234567), number(0.00012345), number(12.0), number(None), number(float("nan"))
    ('1,234,567', '0.0001234', '12', '-', 'not a number')
    """
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("infinity" if value > 0 else "-infinity")
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.1f}"


def percent(value: float) -> str:
    """
    >>> percent(0.99937), percent(0.5), percent(1e-7), percent(float("nan"))
    ('99.9 %', '50.0 %', '< 0.1 %', 'not a number')
    """
    if not math.isfinite(value):
        return number(value)
    return "< 0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def size(count: float) -> str:
    """Bytes.

    >>> size(120), size(135063), size(3.2e9)
    ('120 B', '135 kB', '3.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float | None) -> str:
    """
    >>> duration(0.00212), duration(0.56), duration(75), duration(7260), duration(None)
    ('2.1 ms', '560 ms', '1 min 15 s', '2 h 1 min', '-')
    """
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(seconds: float) -> str:
    """Seconds since 1970, as everybody on this machine reads them."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def utc(seconds: float) -> str:
    """Seconds since 1970, as everybody reads them.

    >>> utc(0)
    '1970-01-01 00:00:00 UTC'
    """
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def as_json(value: Any) -> str:
    """For people: indented, and cut off where it is longer than a page."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}\n… ({len(text):,} characters in all)"


def cell(value: Any) -> str:
    """A word, a number, or a few of them."""
    return ", ".join(map(number, value)) if isinstance(value, list) else number(value)


FILTERS: Mapping[str, Callable[..., str]] = {
    "number": number,
    "percent": percent,
    "bytes": size,
    "duration": duration,
    "moment": moment,
    "utc": utc,
    "as_json": as_json,
    "cell": cell,
}
