"""The value model that all codecs share, as checks that a codec makes of a value to be sent or just received.

:func:`fits` is fast and answers yes or no; :func:`find_problem` is slow and says where and why, for the failure path.
The errors made of it are worded the same for every codec.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final, NoReturn

import msgspec

from echostream_core.errors import DecodeError, EncodeError

__all__ = [
    "CONTAINERS",
    "HIGHEST_MAX_DEPTH",
    "MAX_INT",
    "MIN_INT",
    "SCALARS",
    "Problem",
    "find_problem",
    "fits",
    "malformed",
    "outside",
    "refuse",
]

HIGHEST_MAX_DEPTH: Final = 256
"""The largest ``max_depth`` a codec may be given: the walks recurse, and Python's stack holds 1000 frames."""

MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**64 - 1
SCALARS: Final = frozenset({type(None), bool, str, bytes, bytearray, memoryview})
CONTAINERS: Final = frozenset({dict, list, tuple})
_MAX_TEXT: Final = 160
"""Characters of a foreign message or path that go into an error: they may quote the peer."""
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")
_OFFSET: Final = re.compile(r"\(byte (\d+)\)\Z")


def fits(value: Any, depth: int, known: frozenset[type]) -> bool:
    """Whether a dict, list or tuple lies inside the value model and nests at most ``depth`` deep, itself included.

    ``known`` are the scalar types that need no look. ``int`` and ``float`` are looked at when they are missing
    there: integers must have 64 bits, floats must be finite. Only exact types pass: an enum is not the int that
    it looks like. Surrogates inside of text are left to the library that encodes it.

    25 ns per item of a long list, 85 per field of small nested maps. Tried and no faster: ``known.issuperset(
    map(type, items))``, and the same for all maps of a list at once.
    """
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                return False
            kind = type(item)
            if kind in known:
                continue
            if kind in CONTAINERS:
                if depth < 2 or not fits(item, depth - 1, known):
                    return False
            elif kind is int:
                if not MIN_INT <= item <= MAX_INT:
                    return False
            elif kind is not float or not isfinite(item):
                return False
    else:  # the same loop once more: a loop of its own for the keys makes small maps a fifth slower
        for item in value:
            kind = type(item)
            if kind in known:
                continue
            if kind in CONTAINERS:
                if depth < 2 or not fits(item, depth - 1, known):
                    return False
            elif kind is int:
                if not MIN_INT <= item <= MAX_INT:
                    return False
            elif kind is not float or not isfinite(item):
                return False
    return depth > 0


class Problem(msgspec.Struct, frozen=True):
    """What keeps a value out of the model: ``path`` is where (``$.items[3].when``), ``reason`` what it is."""

    path: str
    reason: str


def find_problem(value: Any, max_depth: int, *, finite: bool = False, path: str = "$") -> Problem | None:
    """The first thing in ``value`` that the value model excludes, or None. Slow: for the failure path only.

    ``finite``: NaN and the infinities are excluded as well. ``path`` is where ``value`` itself stands.
    """
    kind = type(value)
    if kind is str:
        return _find_surrogate(value, path)
    if kind is int:
        return None if MIN_INT <= value <= MAX_INT else Problem(path, "an integer of more than 64 bits")
    if kind is float:
        return Problem(path, f"the number {value}") if finite and not isfinite(value) else None
    if kind is memoryview and not value.c_contiguous:
        return Problem(path, "a memoryview that is not contiguous")
    if kind in SCALARS:
        return None
    if kind not in CONTAINERS:
        return Problem(path, f"a value of type {_type_name(kind)}")
    if max_depth <= 0:
        return Problem(path, "a list or map nested deeper than max_depth")
    for key, item in value.items() if kind is dict else enumerate(value):
        if kind is not dict:
            below = f"{path}[{key}]"
        elif type(key) is not str:
            return Problem(path, f"a map key of type {_type_name(type(key))}")
        elif _WORD.match(key):
            below = f"{path}.{key}"
        else:
            below = f"{path}[{key[:40]!a}]"
            if surrogate := _find_surrogate(key, below):
                return surrogate
        if found := find_problem(item, max_depth - 1, finite=finite, path=below):
            return found
    return None


def _find_surrogate(text: str, path: str) -> Problem | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return Problem(path, f"text with a lone surrogate (character {error.start})")
    return None


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 43]}...{text[-40:]}"


def refuse(
    codec: str, value: object, max_depth: int, cause: Exception | None = None, *, finite: bool = False
) -> NoReturn:
    """Raise the EncodeError that says what in ``value`` the codec named ``codec`` cannot carry, and where."""
    try:
        found = find_problem(value, max_depth, finite=finite) or Problem("", f"this value: {cause}")
    except RecursionError:  # the caller has used up the stack already
        found = Problem("", "this value: no stack is left to look at it")
    where = f" at {_cut(found.path)}" if found.path else ""
    raise EncodeError(f"{codec} cannot carry {found.reason}{where}", path=found.path) from cause


def outside(codec: str, value: object, max_depth: int) -> DecodeError:
    """The error for ``value``, which the peer has sent and the value model excludes."""
    try:
        found = find_problem(value, max_depth) or Problem("$", "what the value model excludes")
    except RecursionError:
        found = Problem("$", "what there is no stack left to look at")
    return DecodeError(f"{codec}: {found.reason} at {_cut(found.path)}")


def malformed(codec: str, error: BaseException, offset: int | None = None) -> DecodeError:
    """The error for bytes at which a library failed with ``error``, whose text may quote the peer."""
    text = _cut(str(error) or type(error).__name__)
    if not (text.isascii() and text.isprintable()):
        text = ascii(text)[1:-1]
    if offset is None and (at := _OFFSET.search(text)):
        offset = int(at[1])
    return DecodeError(f"{codec}: {text}", offset=offset)
