"""The built-in codec ``json``: every installation has it, every peer can read it. The module is a plugin like any
other.

Its theory: msgspec does the work in C, but is more generous than the value model. It writes sets as arrays, NaN as null
and integers of any size, and keeps the last of two equal keys. Each of these is asked in its cheapest form first (one
look at exact types, one count of colons); the form that says where and why comes after a failure.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

import msgspec

from echostream_core.codec import Codec, CodecSpec
from echostream_core.hookspecs import hookimpl
from echostream_core.types import Buffer
from echostream_core.value_model import (
    CONTAINERS,
    HIGHEST_MAX_DEPTH,
    MAX_INT,
    MIN_INT,
    SCALARS,
    fits,
    malformed,
    outside,
    refuse,
)

__all__ = ["JsonCodec", "JsonOptions", "echostream_codecs"]

_SPACED_COLONS: Final = (b" :", b"\t:", b"\n:", b"\r:")


class JsonOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The schema of ``[codec.json]``. The defaults suit peers that nobody vouches for."""

    max_depth: Annotated[int, msgspec.Meta(ge=1, le=HIGHEST_MAX_DEPTH)] = 64
    """How deep lists and maps may nest, in both directions. ``[[1]]`` is 2 deep."""
    duplicate_keys: Literal["reject", "last"] = "reject"
    """A map that names a key twice: refuse the message, or keep the last as most JSON readers do."""


class JsonCodec(Codec):
    """JSON (RFC 8259) by msgspec, held to the value model.

    Bytes go out as base64 text and arrive as that text. NaN and the infinities are refused: JSON has no word for
    them.
    """

    name = "json"

    def __init__(self, options: JsonOptions | None = None) -> None:
        """Without ``options``: the defaults."""
        options = options or JsonOptions()
        self._max_depth = options.max_depth
        self._unique_keys = options.duplicate_keys == "reject"
        self._write = msgspec.json.Encoder().encode
        self._read = msgspec.json.Decoder().decode

    def encode(self, value: object) -> bytes:
        """See :meth:`Codec.encode`."""
        kind = type(value)
        cause = None
        try:
            if kind in SCALARS or (
                fits(value, self._max_depth, SCALARS) if kind in CONTAINERS else fits((value,), 1, SCALARS)
            ):
                return self._write(value)
        except (ValueError, RecursionError, BufferError) as error:
            cause = error
        refuse("json", value, self._max_depth, cause, finite=True)

    def decode(self, data: Buffer) -> object:
        """See :meth:`Codec.decode`."""
        try:
            value = self._read(data)
            kind = type(value)
            if kind is dict or kind is list:
                pairs = _count_pairs(value, self._max_depth)
                if pairs and self._unique_keys:
                    _require_unique_keys(bytes(data), pairs)
            elif kind is int and not MIN_INT <= value <= MAX_INT:
                raise _OutsideModel
        except _OutsideModel:
            raise outside("json", value, self._max_depth) from None
        except (ValueError, RecursionError) as error:
            raise malformed("json", error) from error
        return value


class _OutsideModel(Exception):
    """What was read is well-formed, but no value of the model."""


def _count_pairs(value: Any, depth: int) -> int:
    """How many key-value pairs ``value`` has at all levels; _OutsideModel for what the model cannot hold."""
    if depth <= 0:
        raise _OutsideModel
    pairs, items = (len(value), value.values()) if type(value) is dict else (0, value)
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:
            pairs += _count_pairs(item, depth - 1)
        elif kind is int and not MIN_INT <= item <= MAX_INT:
            raise _OutsideModel
    return pairs


def _require_unique_keys(data: bytes, pairs: int) -> None:
    """Raise ValueError if a map in ``data``, valid JSON of which a reader kept ``pairs`` pairs, repeats a key.

    Each pair has one colon outside of strings: as many colons as pairs means that none was dropped. Colons inside
    of strings (times, URLs) call for a second count, of ``":``, which is at least the pairs where nobody writes
    white space before colons. What neither count explains is read again by a parser that shows pairs, ten times
    slower.
    """
    if data.count(b":") == pairs:
        return
    if data.count(b'":') == pairs and not any(space in data for space in _SPACED_COLONS):
        return
    json.loads(data, object_pairs_hook=_require_unique)


def _require_unique(pairs: list[tuple[str, object]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"the key {key[:40]!a} appears twice in one map")
        seen.add(key)


def _make(options: msgspec.Struct) -> Codec:
    assert isinstance(options, JsonOptions)
    return JsonCodec(options)


@hookimpl
def echostream_codecs() -> tuple[CodecSpec, ...]:
    """The one codec of this module."""
    return (
        CodecSpec(
            name="json",
            factory=_make,
            priority=0,
            options=JsonOptions,
            carries_bytes=False,
            summary="JSON (RFC 8259): readable everywhere; bytes travel as base64 text",
        ),
    )
