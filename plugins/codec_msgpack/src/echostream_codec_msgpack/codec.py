"""The codec ``msgpack``: three pieces of C, each for what it does best, held to the value model.

The bytes are the same whichever library writes them, so the choice is by speed and safety. In ns, on CPython 3.11,
msgspec 0.22 and msgpack 1.2.4; map: ``{"message": 22 characters}``; record: 8 fields, 2 of them containers::

                                   32 bytes     map  record  100 records
    msgspec, write                       49      52     280       21,500
    msgpack.Packer, write, strict        60      96     500       45,600
    this codec, write                   115     320   1,460      126,000
    msgspec, read                        35     105     610       61,700
    msgpack.unpackb, read               250     420   1,430      112,000
    the same with a hook for pairs      260     700   2,260      195,000
    this codec, read                    113     550   2,310      243,000

* **Writing: msgspec.** It also writes what the value model excludes (sets, datetimes, enums, keys of any type, any
  depth), so a container is looked through first, in Python, which is most of the time. A strict ``Packer`` does a part
  of that in C, but lets keys of any type and any depth pass: the same look would still be needed.
* **Reading: msgspec up to** ``_SMALL_BYTES``, **msgpack above.** msgspec accepts lists as map keys and makes tuples of
  them, whose hashes a stranger can make collide: a map of n such keys costs n² comparisons (80 KB: 0.3 s, 1 MB: a
  minute). msgpack refuses other keys than text and bytes before they are hashed (those hash with a secret).
* **Repeated keys** are lost in a dict. A hook that sees the pairs costs a Python call per map; cheaper is to write
  the value again and compare: what comes out equal has lost nothing. A peer that does not write the shortest forms,
  as all usual libraries do, is read a second time, with the hook.
"""

from __future__ import annotations

from functools import partial
from typing import Final, NoReturn

import msgpack
import msgspec

from echostream_codec_msgpack.options import MsgpackOptions
from echostream_core.codec import Codec
from echostream_core.types import Buffer
from echostream_core.value_model import fits, malformed, outside, refuse

__all__ = ["MsgpackCodec"]

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes, bytearray, memoryview})
_CONTAINERS: Final = frozenset({dict, list, tuple})

_SMALL_BYTES: Final = 1_024
"""Up to here colliding keys are harmless: one takes about 13 bytes, 80 of them cost 0.2 ms."""

_TIMESTAMP_AS_DATETIME: Final = 3


class MsgpackCodec(Codec):
    """MessagePack, held to the value model. See :class:`MsgpackOptions` for what it takes from peers."""

    name = "msgpack"

    def __init__(self, options: MsgpackOptions | None = None) -> None:
        """Without ``options``: the defaults."""
        options = options or MsgpackOptions()
        self._max_depth = options.max_depth
        self._unique_keys = options.duplicate_keys == "reject"
        self._timestamps = options.timestamps == "text"
        on_ext = _ext_as_bytes if options.ext_types == "bytes" else _refuse_ext
        self._write = msgspec.msgpack.Encoder().encode
        self._read_small = msgspec.msgpack.Decoder(ext_hook=on_ext).decode
        self._read = partial(msgpack.unpackb, ext_hook=on_ext, timestamp=_TIMESTAMP_AS_DATETIME, strict_map_key=True)

    def encode(self, value: object) -> bytes:
        """See :meth:`Codec.encode`."""
        kind = type(value)
        cause = None
        try:
            if kind in _SCALARS or (kind in _CONTAINERS and fits(value, self._max_depth, _SCALARS)):
                return self._write(value)
        except (ValueError, OverflowError, RecursionError, BufferError) as error:
            cause = error
        refuse("msgpack", value, self._max_depth, cause)

    def decode(self, data: Buffer) -> object:
        """See :meth:`Codec.decode`."""
        try:
            value = self._read_small(data) if len(data) <= _SMALL_BYTES else self._read(data)
            kind = type(value)
            if kind in _SCALARS:
                return value
            if kind in _CONTAINERS and fits(value, self._max_depth, _SCALARS):
                if not self._unique_keys or self._write(value) == (
                    data if type(data) is bytes else bytes(data)  # the comparison of a memoryview is slow
                ):
                    return value
                return self._read(data, object_pairs_hook=_unique)
            if self._timestamps:
                return self._decode_timestamps(data)
        except _FAILURES as error:
            raise malformed("msgpack", error) from error
        raise outside("msgpack", value, self._max_depth)

    def _decode_timestamps(self, data: Buffer) -> object:
        """``data`` again, with timestamps as text; it may still be outside the model for another reason."""
        read = self._read(data, object_pairs_hook=_unique) if self._unique_keys else self._read(data)
        value: object = msgspec.to_builtins(read, builtin_types=(bytes,))
        kind = type(value)
        if kind in _SCALARS or (kind in _CONTAINERS and fits(value, self._max_depth, _SCALARS)):
            return value
        raise outside("msgpack", value, self._max_depth)


_FAILURES: Final = (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException)
"""What the two libraries raise for bytes that they do not like. TypeError: a map as a map key."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:40]!a} appears twice in one map")
            seen.add(key)
    return found


def _refuse_ext(code: int, data: object) -> NoReturn:
    raise ValueError(f"a value of extension type {code}")


def _ext_as_bytes(code: int, data: bytes | memoryview) -> bytes:
    return bytes(data)
