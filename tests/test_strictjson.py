"""JSON that is read and written fast says what Python's own would."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelhub_hpc import strictjson

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=()))  # halves of characters too
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_both_ways_agree_with_python(value: Any) -> None:
    text = strictjson.dumps(value)
    assert text.isascii() and "\n" not in text
    assert same(json.loads(text), value)
    assert same(strictjson.loads(json.dumps(value).encode()), value)


def same(found: Any, value: Any) -> bool:
    return found == value and repr(found) == repr(value)


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**30])
def test_large_whole_numbers_stay_whole(number: int) -> None:
    assert same(strictjson.loads(b"[%d]" % number), [number])
    assert strictjson.dumps([number]) == f"[{number}]"


def test_the_digits_of_a_fraction_are_no_whole_number() -> None:
    assert not strictjson._LONG_NUMBER.search(b"[0.0001234567890123456789, -1.2345678901234567e-05]")
    assert strictjson._LONG_NUMBER.search(b"[-1234567890123456789012]")


@pytest.mark.parametrize(
    "text", [b"NaN", b"-Infinity", b"1e999", b"-1e999", b"[1,]", b"", b"\xff", b"1" + b"0" * 400 + b".0"]
)
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        strictjson.loads(text)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_lacks_is_not_written(number: float) -> None:
    with pytest.raises(ValueError):
        strictjson.dumps({"null": None, "deep": [{"value": number}]})
