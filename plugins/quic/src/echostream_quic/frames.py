"""The few QUIC frames that this plugin writes itself, as bytes (RFC 9000 sections 16 and 19)."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ACK",
    "DATAGRAM",
    "MAX_DATA",
    "MAX_STREAMS",
    "MAX_STREAMS_UNI",
    "MAX_STREAM_DATA",
    "PING",
    "RESET_STREAM",
    "STOP_SENDING",
    "frame",
    "read_stream",
    "stream_header",
    "varint",
    "varint_size",
]

PING: Final = b"\x01"
ACK: Final = 0x02
RESET_STREAM: Final = 0x04
STOP_SENDING: Final = 0x05
MAX_DATA: Final = 0x10
MAX_STREAM_DATA: Final = 0x11
MAX_STREAMS: Final = 0x12
MAX_STREAMS_UNI: Final = 0x13
DATAGRAM: Final = 0x31
_MASKS: Final = (0x3F, 0x3FFF, 0x3FFF_FFFF, 0x3FFF_FFFF_FFFF_FFFF)
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(64))


def varint(value: int) -> bytes:
    """``value`` as a QUIC variable-length integer; OverflowError from 2**62 on."""
    if value < 0x40:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2)
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4)
    if value >= 1 << 62:
        raise OverflowError(f"{value} does not fit a QUIC integer")
    return (value | 0xC000_0000_0000_0000).to_bytes(8)


def frame(frame_type: int, *fields: int) -> bytes:
    """A frame of nothing but integers."""
    return b"".join((_ONE_BYTE[frame_type], *[varint(value) for value in fields]))


def stream_header(id_bytes: bytes, offset: int, size: int, end: bool) -> bytes:
    """What stands before ``size`` bytes of the substream ``id_bytes`` in a packet. ``size`` is written in two bytes."""
    if offset:
        return b"".join(
            (
                _ONE_BYTE[0x0F if end else 0x0E],
                id_bytes,
                (offset | 0x8000_0000).to_bytes(4) if 0x3FFF < offset < 0x4000_0000 else varint(offset),
                (size | 0x4000).to_bytes(2),
            )
        )
    return b"".join((_ONE_BYTE[0x0B if end else 0x0A], id_bytes, (size | 0x4000).to_bytes(2)))


def varint_size(value: int) -> int:
    """How many bytes ``varint`` has."""
    if value < 0x40:
        return 1
    if value < 0x4000:
        return 2
    return 4 if value < 0x4000_0000 else 8


def read_stream(payload: bytes) -> tuple[int, int, int, bytes] | None:
    """Type, substream, offset and data of a payload that is one STREAM frame with a length, and nothing else.

    None for anything else, also for what is malformed: the general reader then says what is wrong with it.
    """
    frame_type = payload[0] if payload else 0
    if frame_type & 0xFA != 0x0A:
        return None
    try:
        first = payload[1]
        at = 1 + (1 << (first >> 6))
        stream_id = first if first < 0x40 else int.from_bytes(payload[1:at]) & _MASKS[first >> 6]
        offset = 0
        if frame_type & 4:
            first = payload[at]
            end = at + (1 << (first >> 6))
            offset = int.from_bytes(payload[at:end]) & _MASKS[first >> 6]
            at = end
        first = payload[at]
        end = at + (1 << (first >> 6))
        if end + (int.from_bytes(payload[at:end]) & _MASKS[first >> 6]) != len(payload):
            return None
    except IndexError:
        return None
    return frame_type, stream_id, offset, payload[end:]
