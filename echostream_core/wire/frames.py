"""The frames: their types, flags and fixed headers, and the writers of the frames that are not hot.

Every frame begins with eight bytes, little-endian: ``type u8, flags u8, aux u16, length u32``; ``length`` counts what
follows them. CALL and RESPONSE carry on with fixed fields, so that one ``Struct.unpack_from`` reads prefix and fields
together (73 ns on the machine of the first measurements). Source: docs/wire.md section 4.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

__all__ = [
    "CALL",
    "CALL_HEAD",
    "COMPRESSED",
    "DATA",
    "ERROR",
    "FINAL",
    "FULL_NAME",
    "IGNORABLE",
    "NAMED",
    "PACKED",
    "PREFIX",
    "RAW",
    "RESPONSE",
    "RESPONSE_HEAD",
    "SUBSTREAM_HEAD",
    "FrameType",
    "SubstreamKind",
    "encode_cancel",
    "encode_goaway",
    "encode_ping",
    "encode_pong",
    "encode_substream_head",
    "grease_frame",
]


class SubstreamKind(IntEnum):
    """What a substream carries: the first byte that its opener writes."""

    CONTROL = 1
    """SETUP, in-line calls and all the rest; the dialer opens exactly one, first."""
    CALL = 2
    """One call: CALL from the opener, RESPONSE back."""
    STREAM = 3
    """One stream: CALL opens it, then DATA both ways, RESPONSE is its final status."""
    EVENTS = 4
    """Events of the opener, all of them, in order: EVENT and its companions. The other direction is empty."""
    EXTENSION = 5
    """Reserved for extensions."""
    RESPONSE = 6
    """RESPONSE to an in-line call, when it is too large for the control substream."""


class FrameType(IntEnum):
    """The first byte of a frame."""

    SETUP = 0x01
    CALL = 0x02
    RESPONSE = 0x03
    CANCEL = 0x04
    PING = 0x05
    PONG = 0x06
    GOAWAY = 0x07
    EVENT = 0x08
    TOPIC = 0x09
    DATA = 0x0B
    SYNC = 0x0C
    FLOW = 0x0D
    SYNCED = 0x0E
    DROPPED = 0x0F


CALL: Final = 0x02
RESPONSE: Final = 0x03
DATA: Final = 0x0B
# Plain integers beside the enum: an IntEnum member costs an attribute lookup and a slow comparison per frame.

IGNORABLE: Final = 0x80
"""Flag of every frame: a receiver that does not know the type skips it. Without it an unknown type ends the session."""
NAMED: Final = 0x01
"""Flag of CALL: the method's name stands before the payload; it is interned unless the id is ``FULL_NAME``."""
ERROR: Final = 0x01
"""Flag of RESPONSE: the payload is an error body."""
COMPRESSED: Final = 0x02
"""Flag of CALL, RESPONSE, DATA and EVENT: the payload is compressed, as both SETUPs settled."""
PACKED: Final = 0x1_0000
"""What the readers add to a codec's id where the payload is compressed. No table of decoders is that long, so the test
that the usual case needs anyway finds it."""
FINAL: Final = 0x01
"""Flag of GOAWAY: the number is the true one."""
RAW: Final = 0
"""Codec id of bytes that no codec has touched."""
FULL_NAME: Final = 0xFFFF
"""Method id of a name that is not interned."""

PREFIX: Final = Struct("<BBHI")
"""type, flags, aux, length."""
CALL_HEAD: Final = Struct("<BBHIIIHBB")
"""prefix (aux: length of the metadata), call id, timeout in ms (0: none), method id, codec id, class."""
RESPONSE_HEAD: Final = Struct("<BBHIIB3x")
"""prefix (aux: 0), call id, codec id, three reserved bytes."""
SUBSTREAM_HEAD: Final = Struct("<BBHI")
"""kind, class, reserved (0), id of the call or stream (0 for the control substream)."""

_CANCEL: Final = Struct("<BBHII")
_PING: Final = Struct("<BBHIQ")
_GOAWAY: Final = Struct("<BBHIII")


def encode_substream_head(kind: int, priority: int, number: int) -> bytes:
    """The eight bytes that open a substream."""
    return SUBSTREAM_HEAD.pack(kind, priority, 0, number)


def encode_cancel(call_id: int) -> bytes:
    """CANCEL of the in-line call ``call_id``."""
    return _CANCEL.pack(FrameType.CANCEL, 0, 0, 4, call_id)


def encode_ping(value: int) -> bytes:
    """PING with 64 bits that the PONG repeats."""
    return _PING.pack(FrameType.PING, 0, 0, 8, value)


def encode_pong(value: int) -> bytes:
    """PONG, the answer to PING(value)."""
    return _PING.pack(FrameType.PONG, 0, 0, 8, value)


def encode_goaway(number: int | None, code: int, reason: str) -> bytes:
    """GOAWAY: calls of the receiver numbered ``number`` and above are not processed; None: the number comes later."""
    text = reason.encode(errors="replace")[:1024].decode(errors="ignore").encode()
    flags, value = (0, 0) if number is None else (FINAL, number)
    return _GOAWAY.pack(FrameType.GOAWAY, flags, 0, 8 + len(text), value, code) + text


def grease_frame(draw: int) -> bytes:
    """An ignorable frame of a reserved type (0x1A, 0x2A, …, 0x7A) with a few bytes; ``draw`` is a random 32-bit number.

    Sent now and then so that peers keep skipping what they do not know (RFC 8701's idea).
    """
    kind = 0x1A + 0x10 * (draw % 7)
    body = draw.to_bytes(4, "little")[: draw % 5]
    return PREFIX.pack(kind, IGNORABLE, 0, len(body)) + body
