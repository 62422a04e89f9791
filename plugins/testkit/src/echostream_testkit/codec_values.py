"""The value model as data: values to send, how deep they nest, and when two of them are the same."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Final, Literal, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from echostream_core.value_model import MAX_INT, MIN_INT

__all__ = ["FLOATS", "INTEGERS", "NOT_FINITE", "TEXTS", "describe", "for_each", "nested", "same", "values"]

T = TypeVar("T")

INTEGERS: Final = tuple(
    sorted(
        {0, 23, 24, -24, -25, MIN_INT, MAX_INT}
        | {
            sign * (2**bits) + step
            for bits in (5, 7, 8, 15, 16, 31, 32, 53, 62, 63)
            for sign in (1, -1)
            for step in (-1, 0, 1)
            if sign * (2**bits) + step >= MIN_INT
        }
    )
)
"""Both sides of each border at which a format may change its form, and the ends of the model."""

FLOATS: Final = (
    *(0.0, -0.0, 1.0, -1.0, 1.5, 0.1, 1e16, 1e22, 3.0e38, 65504.0, 65520.0, 2.0**53, 2.0**63, 2.0**64, 1e300),
    *(
        5e-324,
        -5e-324,
        2.2250738585072009e-308,
        2.2250738585072014e-308,
        1.7976931348623157e308,
        5.9604644775390625e-08,
    ),
    1.401298464324817e-45,
)
"""Whole ones, subnormals (also those of 16 and 32 bits), the largest, and what a shorter float would round."""

NOT_FINITE: Final = (float("nan"), float("inf"), float("-inf"))

TEXTS: Final = (
    "",
    "\0",
    "a\0b",
    'quote " backslash \\ slash /',
    "\t\r\n\x0b\x1f\x7f\x80\x9f",
    "é and e\N{COMBINING ACUTE ACCENT}",
    "ﬁ Å \N{ANGSTROM SIGN} \N{KELVIN SIGN}",
    "\u2028\u2029\ufeff\ufffe\uffff\ue000",
    "\N{GRINNING FACE}\U0010ffff\U00010000",
    "👩\N{ZERO WIDTH JOINER}🚀 عربى 漢字",
    "true",
    "12",
    "x" * 31,
    "x" * 32,
    "é" * 128,
    "x" * 65_536,
)
"""Composed and decomposed, astral, empty, with NUL, and both sides of the usual length prefixes."""


def values(*, carries_bytes: bool, finite: bool, max_leaves: int = 25) -> st.SearchStrategy[object]:
    """Any value of the model, as hypothesis draws it. ``finite``: no NaN and no infinities."""
    scalars: st.SearchStrategy[object] = (
        st.none()
        | st.booleans()
        | st.integers(MIN_INT, MAX_INT)
        | st.sampled_from(INTEGERS)
        | st.floats(allow_nan=not finite, allow_infinity=not finite)
        | st.text()
    )
    if carries_bytes:
        scalars |= st.binary()
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
        max_leaves=max_leaves,
    )


def for_each(strategy: st.SearchStrategy[T], examples: int, check: Callable[[T], None], *, shrink: bool = True) -> None:
    """Run ``check`` with the same ``examples`` values on every run; hypothesis shrinks the one that fails."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
        phases=[phase for phase in Phase if shrink or phase not in (Phase.shrink, Phase.explain)],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(strategy)
    def example(value: T) -> None:
        check(value)

    example()


def nested(depth: int, shape: Literal["list", "map", "both"] = "both") -> object:
    """1 inside of ``depth`` lists, maps, or lists and maps in turn."""
    value: object = 1
    for level in range(depth):
        value = {"a": value} if shape == "map" or (shape == "both" and level % 2 == 0) else [value]
    return value


def same(left: object, right: object) -> bool:
    """Equal, with equal types all the way down: 1 is not 1.0 and not True, NaN is NaN, zeros have one sign.

    The order of a map's keys is no part of the value. Does not recurse: the values may nest deeper than the stack.
    """
    pairs = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        kind = type(one)
        if kind is not type(other):
            return False
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys() or any(type(key) is not str for key in one):
                return False
            pairs.extend((one[key], other[key]) for key in one)
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            pairs.extend(zip(one, other, strict=True))
        elif isinstance(one, float) and isinstance(other, float):
            if one != other and not (math.isnan(one) and math.isnan(other)):
                return False
            if one == 0 and struct.pack("<d", one) != struct.pack("<d", other):
                return False
        elif one != other:
            return False
    return True


def describe(value: object) -> str:
    """``value`` for a message: its type and the first characters of it."""
    try:
        text = repr(value)
    except RecursionError:
        text = "deeply nested"
    return f"{type(value).__name__} {text if len(text) <= 200 else f'{text[:160]}... ({len(text)} characters)'}"
