"""The mux's frames: eight bytes of header, then a body. Nothing here keeps state.

``u32 head, u32 stream`` (little-endian), then the body. The low 24 bits of head are the body's length; the
high 8 are the type byte, whose low nibble is the kind and whose high nibble holds flags. Source:
docs/wire/mux.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, Literal

from echostream_core.types import Buffer
from echostream_core.wire.limits import MAX_MUX_FRAME_BYTES

__all__ = [
    "CLOSE",
    "CREDIT",
    "DATA",
    "DATAGRAM",
    "END",
    "GREASE",
    "HEADER",
    "HEADER_BYTES",
    "IGNORABLE",
    "MAX_REASON_BYTES",
    "OPEN",
    "PREAMBLE",
    "RESERVED",
    "RESET",
    "STOP",
    "Role",
    "encode_close",
    "encode_credit",
    "encode_data",
    "encode_datagram",
    "encode_reset",
    "encode_stop",
    "encode_unknown",
]

Role = Literal["dialer", "listener"]
"""Which side of the connection: the dialer opens even substreams, the listener odd ones."""

PREAMBLE: Final = b"ESTREAM1"
"""How each direction begins on a pipe without negotiation; the last sign is the major version."""

DATA: Final = 1
CREDIT: Final = 2
RESET: Final = 3
STOP: Final = 4
CLOSE: Final = 5
DATAGRAM: Final = 6
GREASE: Final = 15

OPEN: Final = 0x10
"""Flag of DATA: the first frame of a substream."""
END: Final = 0x20
"""Flag of DATA: the last frame of this direction."""
RESERVED: Final = 0x40
"""Flag without a meaning yet."""
IGNORABLE: Final = 0x80
"""Flag of an unknown kind: skip it. Without it, an unknown kind ends the session."""

HEADER: Final = Struct("<II")
HEADER_BYTES: Final = 8
MAX_REASON_BYTES: Final = 1_024
"""UTF-8 bytes of the reason in CLOSE."""

_CREDIT: Final = Struct("<IIQ")
_CODE: Final = Struct("<III")


def encode_data(stream: int, body: Buffer, *, opens: bool = False, ends: bool = False) -> bytes:
    """One DATA frame. The mux itself packs only the header and leaves the body where it is."""
    return _frame(DATA | (OPEN if opens else 0) | (END if ends else 0), stream, body)


def encode_credit(stream: int, limit: int) -> bytes:
    """CREDIT: the receiver of this frame may have sent ``limit`` bytes on ``stream`` in all."""
    return _CREDIT.pack(CREDIT << 24 | 8, stream, limit)


def encode_datagram(data: Sequence[Buffer], size: int) -> bytes:
    """DATAGRAM: ``data`` joined, ``size`` bytes in all. The header comes with the one copy that is made anyway."""
    return b"".join((HEADER.pack(DATAGRAM << 24 | size, 0), *data))


def encode_reset(stream: int, code: int) -> bytes:
    """RESET: we give up our direction."""
    return _CODE.pack(RESET << 24 | 4, stream, code)


def encode_stop(stream: int, code: int) -> bytes:
    """STOP: we read no more."""
    return _CODE.pack(STOP << 24 | 4, stream, code)


def encode_close(code: int, reason: str) -> bytes:
    """CLOSE: the connection ends. A reason over ``MAX_REASON_BYTES`` is cut between two characters."""
    text = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore").encode()
    return _CODE.pack(CLOSE << 24 | 4 + len(text), 0, code) + text


def encode_unknown(kind: int, stream: int, body: Buffer, *, flags: int = IGNORABLE) -> bytes:
    """A frame of any ``kind``: what a later version may send, and what tests do."""
    return _frame(kind | flags, stream, body)


def _frame(type_byte: int, stream: int, body: Buffer) -> bytes:
    if len(body) > MAX_MUX_FRAME_BYTES:
        raise ValueError(f"a frame's body has at most {MAX_MUX_FRAME_BYTES} bytes, not {len(body)}")
    return b"".join((HEADER.pack(type_byte << 24 | len(body), stream), body))
