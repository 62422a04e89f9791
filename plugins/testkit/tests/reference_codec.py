"""A codec in plain Python that keeps the contract: small enough that each fault can be put into one method of it.

A letter says what follows: ``n`` null, ``t`` true, ``f`` false, ``i`` and ``u`` an integer, ``d`` a float, ``s`` text,
``b`` bytes, ``l`` a list, ``m`` a map. Numbers have 8 bytes, big-endian; text, bytes and keys begin with their length,
lists and maps with their count, 4 bytes.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec

from echostream_core.codec import Codec, CodecSpec
from echostream_core.types import Buffer
from echostream_core.value_model import HIGHEST_MAX_DEPTH, fits, malformed, refuse

__all__ = ["SPEC", "ReferenceCodec", "ReferenceOptions", "make_spec"]

_KNOWN: Final = frozenset({type(None), bool, float, str, bytes, bytearray, memoryview})
_LENGTH: Final = struct.Struct(">I")
_INTEGER: Final = struct.Struct(">q")
_LARGE: Final = struct.Struct(">Q")
_FLOAT: Final = struct.Struct(">d")


class ReferenceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of the reference codec."""

    max_depth: Annotated[int, msgspec.Meta(ge=1, le=HIGHEST_MAX_DEPTH)] = 64


class ReferenceCodec(Codec):
    """See the module's docstring. Mutations override one method."""

    name = "reference"

    def __init__(self, options: ReferenceOptions) -> None:
        self.max_depth = options.max_depth

    def encode(self, value: object) -> bytes:
        self.check_value(value)
        out: list[bytes] = []
        try:
            self.write(out, value)
        except (UnicodeEncodeError, BufferError) as error:
            refuse("reference", value, self.max_depth, error)
        return b"".join(out)

    def check_value(self, value: object) -> None:
        container = type(value) in (dict, list, tuple)
        if not fits(value if container else (value,), self.max_depth if container else 1, _KNOWN):
            refuse("reference", value, self.max_depth)

    def write(self, out: list[bytes], value: object) -> None:
        if value is None:
            out.append(b"n")
        elif isinstance(value, bool):
            out.append(b"t" if value else b"f")
        elif isinstance(value, int):
            self.write_integer(out, value)
        elif isinstance(value, float):
            self.write_float(out, value)
        elif isinstance(value, str):
            out.append(b"s")
            self.write_text(out, value)
        elif isinstance(value, bytes | bytearray | memoryview):
            self.write_bytes(out, value)
        elif isinstance(value, dict):
            self.write_map(out, value)
        elif isinstance(value, list | tuple):
            out.append(b"l" + _LENGTH.pack(len(value)))
            for item in value:
                self.write(out, item)

    def write_integer(self, out: list[bytes], value: int) -> None:
        out.append(b"i" + _INTEGER.pack(value) if value < 2**63 else b"u" + _LARGE.pack(value))

    def write_float(self, out: list[bytes], value: float) -> None:
        out.append(b"d" + _FLOAT.pack(value))

    def write_text(self, out: list[bytes], value: str) -> None:
        data = value.encode()
        out.append(_LENGTH.pack(len(data)) + data)

    def write_bytes(self, out: list[bytes], value: bytes | bytearray | memoryview) -> None:
        if isinstance(value, memoryview) and not value.c_contiguous:
            raise BufferError("not contiguous")
        data = bytes(value)
        out.append(b"b" + _LENGTH.pack(len(data)) + data)

    def write_map(self, out: list[bytes], value: dict[str, object]) -> None:
        out.append(b"m" + _LENGTH.pack(len(value)))
        for key, item in value.items():
            self.write_text(out, key)
            self.write(out, item)

    def decode(self, data: Buffer) -> object:
        view = memoryview(data)
        try:
            value, end = self.read(view, 0, self.max_depth)
            self.check_end(view, end)
        except (IndexError, ValueError, struct.error) as error:
            raise malformed("reference", error) from error
        return value

    def check_end(self, data: memoryview, end: int) -> None:
        if end != len(data):
            raise ValueError(f"{len(data) - end} bytes behind the value")

    def read(self, data: memoryview, at: int, depth: int) -> tuple[object, int]:
        """The value that begins at ``at``, and where it ends."""
        kind = data[at]
        at += 1
        match chr(kind):
            case "n":
                return None, at
            case "t":
                return True, at
            case "f":
                return False, at
            case "i":
                return _INTEGER.unpack_from(data, at)[0], at + 8
            case "u":
                number = _LARGE.unpack_from(data, at)[0]
                if number < 2**63:
                    raise ValueError("an integer in the longer form")
                return number, at + 8
            case "d":
                return self.read_float(data, at)
            case "s":
                return self.read_text(data, at)
            case "b":
                return self.read_bytes(data, at)
            case "l":
                self.check_depth(depth)
                return self.read_list(data, at, depth)
            case "m":
                self.check_depth(depth)
                return self.read_map(data, at, depth)
        raise ValueError(f"a value of kind {kind}")

    def check_depth(self, depth: int) -> None:
        if depth <= 0:
            raise ValueError("nested deeper than max_depth")

    def read_float(self, data: memoryview, at: int) -> tuple[object, int]:
        return _FLOAT.unpack_from(data, at)[0], at + 8

    def read_text(self, data: memoryview, at: int) -> tuple[str, int]:
        content, at = self.cut(data, at)
        return str(content, "utf-8"), at

    def read_bytes(self, data: memoryview, at: int) -> tuple[object, int]:
        content, at = self.cut(data, at)
        return bytes(content), at

    def cut(self, data: memoryview, at: int) -> tuple[memoryview, int]:
        """The bytes behind the length that stands at ``at``, and where they end."""
        begin = at + 4
        end = begin + _LENGTH.unpack_from(data, at)[0]
        if end > len(data):
            raise ValueError(f"{end - len(data)} bytes are missing")
        return data[begin:end], end

    def read_list(self, data: memoryview, at: int, depth: int) -> tuple[list[object], int]:
        items: list[object] = []
        count = _LENGTH.unpack_from(data, at)[0]
        at += 4
        for _ in range(count):
            item, at = self.read(data, at, depth - 1)
            items.append(item)
        return items, at

    def read_map(self, data: memoryview, at: int, depth: int) -> tuple[dict[str, object], int]:
        found: dict[str, object] = {}
        count = _LENGTH.unpack_from(data, at)[0]
        at += 4
        for _ in range(count):
            key, at = self.read_text(data, at)
            item, at = self.read(data, at, depth - 1)
            self.put(found, key, item)
        return found, at

    def put(self, found: dict[str, object], key: str, item: object) -> None:
        if key in found:
            raise ValueError(f"the key {key[:40]!a} appears twice in one map")
        found[key] = item


def make_spec(codec: type[ReferenceCodec], *, carries_bytes: bool = True) -> CodecSpec:
    """A spec that makes ``codec``."""

    def make(options: msgspec.Struct) -> Codec:
        assert isinstance(options, ReferenceOptions)
        return codec(options)

    return CodecSpec(
        name="reference",
        factory=make,
        priority=1,
        options=ReferenceOptions,
        carries_bytes=carries_bytes,
        summary="The codec that the suite is tested with",
    )


SPEC = make_spec(ReferenceCodec)
