"""Zstandard for EchoStream: the hook implementation; the compression itself stands in ``compression.py``."""

from __future__ import annotations

import msgspec

from echostream_compression_zstd.compression import ZstdCompression
from echostream_compression_zstd.options import ZstdOptions
from echostream_core.compression import Compression, CompressionSpec
from echostream_core.hookspecs import hookimpl

__all__ = ["ZstdCompression", "ZstdOptions", "echostream_components"]


def _make(options: msgspec.Struct) -> Compression:
    assert isinstance(options, ZstdOptions)
    return ZstdCompression(options)


@hookimpl
def echostream_components() -> tuple[CompressionSpec, ...]:
    """The one compression of this distribution."""
    return (
        CompressionSpec(
            name="zstd",
            factory=_make,
            options=ZstdOptions,
            summary="Zstandard: strong and quick, from about 1 KiB on",
        ),
    )
