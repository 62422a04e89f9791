"""CBOR for EchoStream: the hook implementation; the codec itself stands in ``codec.py``."""

from __future__ import annotations

import msgspec

from echostream_codec_cbor.codec import CborCodec
from echostream_codec_cbor.options import CborOptions
from echostream_core.codec import Codec, CodecSpec
from echostream_core.hookspecs import hookimpl

__all__ = ["CborCodec", "CborOptions", "echostream_codecs"]


def _make(options: msgspec.Struct) -> Codec:
    assert isinstance(options, CborOptions)
    return CborCodec(options)


@hookimpl
def echostream_codecs() -> tuple[CodecSpec, ...]:
    """The one codec of this distribution."""
    return (
        CodecSpec(
            name="cbor",
            factory=_make,
            priority=50,
            options=CborOptions,
            summary="CBOR (RFC 8949): a binary internet standard, carries bytes",
        ),
    )
