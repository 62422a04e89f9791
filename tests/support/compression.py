"""A compression of the standard library, so that the kernel is tested without a plugin, and one that can be watched."""

from __future__ import annotations

import zlib

from echostream_core import DecodeError, Kernel
from echostream_core.compression import Compression, DecompressedTooLarge
from echostream_core.types import Buffer

__all__ = ["Deflate", "Watched", "compressions", "watched"]


class Deflate(Compression):
    """zlib (RFC 1950) as a compression."""

    def __init__(self, name: str = "deflate", min_bytes: int = 1_024) -> None:
        self.name = name
        self.min_bytes = min_bytes

    def compress(self, data: Buffer) -> bytes | None:
        packed = zlib.compress(data)
        return packed if len(packed) < len(data) else None

    def decompress(self, data: Buffer, max_bytes: int) -> bytes:
        inflate = zlib.decompressobj()
        try:
            content = inflate.decompress(data, max_bytes + 1)
        except zlib.error as error:
            raise DecodeError(f"damaged: {error}") from error
        if len(content) > max_bytes:
            raise DecompressedTooLarge(f"more than {max_bytes} bytes")
        if not inflate.eof or inflate.unused_data:
            raise DecodeError("cut off, or something behind it")
        return content


class Watched(Compression):
    """Another compression, and a record of what went through it: (length before, length after) each time."""

    def __init__(self, inner: Compression) -> None:
        self.inner = inner
        self.name = inner.name
        self.min_bytes = inner.min_bytes
        self.compressed: list[tuple[int, int]] = []
        self.kept: list[int] = []
        """What was not worth it."""
        self.decompressed: list[tuple[int, int]] = []

    def compress(self, data: Buffer) -> bytes | None:
        packed = self.inner.compress(data)
        if packed is None:
            self.kept.append(len(data))
        else:
            self.compressed.append((len(data), len(packed)))
        return packed

    def decompress(self, data: Buffer, max_bytes: int) -> bytes:
        content = self.inner.decompress(data, max_bytes)
        self.decompressed.append((len(data), len(content)))
        return content


def compressions() -> list[str]:
    """``deflate``, and the names of those that plugins offer."""
    return ["deflate", *Kernel().known("compression")]


def watched(name: str) -> Watched:
    """A fresh one of ``compressions()`` with its default options."""
    if name == "deflate":
        return Watched(Deflate())
    kernel = Kernel()
    spec = kernel.component("compression", name)
    made = spec.factory(kernel.build_options(spec, {}, key=f"compression.{name}"))
    assert isinstance(made, Compression)
    return Watched(made)
