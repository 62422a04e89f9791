"""Compares what arrived with what was sent, and says where they differ, in a few words.

A plain ``==`` in an assertion makes pytest explain a failure in full where it runs unattended: for a megabyte that
differs in one byte it takes a minute.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["difference", "difference_in_lists"]


def difference(found: bytes | bytearray, expected: bytes | bytearray) -> str:
    """Where ``found`` differs from ``expected``; "" when it does not."""
    if found == expected:
        return ""
    size = min(len(found), len(expected))
    low, high = 0, size  # the first difference is in [low, high]
    while low < high:
        middle = (low + high) // 2
        if found[low : middle + 1] == expected[low : middle + 1]:
            low = middle + 1
        else:
            high = middle
    if low == size:
        return f"{len(found)} bytes came, {len(expected)} were sent; the first {size} are right"
    return f"of {len(found)} bytes that came (sent were {len(expected)}), byte {low} is the first wrong one"


def difference_in_lists(found: Sequence[bytes], expected: Sequence[bytes]) -> str:
    """The same for a list of messages."""
    for place, (one, other) in enumerate(zip(found, expected, strict=False)):
        if wrong := difference(one, other):
            return f"message {place}: {wrong}"
    return "" if len(found) == len(expected) else f"{len(found)} messages came, {len(expected)} were sent"
