"""MessagePack for EchoStream: the hook implementation; the codec itself stands in ``codec.py``."""

from __future__ import annotations

import msgspec

from echostream_codec_msgpack.codec import MsgpackCodec
from echostream_codec_msgpack.options import MsgpackOptions
from echostream_core.codec import Codec, CodecSpec
from echostream_core.hookspecs import hookimpl

__all__ = ["MsgpackCodec", "MsgpackOptions", "echostream_codecs"]


def _make(options: msgspec.Struct) -> Codec:
    assert isinstance(options, MsgpackOptions)
    return MsgpackCodec(options)


@hookimpl
def echostream_codecs() -> tuple[CodecSpec, ...]:
    """The one codec of this distribution."""
    return (
        CodecSpec(
            name="msgpack",
            factory=_make,
            priority=100,
            options=MsgpackOptions,
            summary="MessagePack: small, fast, carries bytes",
        ),
    )
