"""The bytes of a packet: a small reliable protocol of this transport's own, between two ends of one simulation.

Every packet begins with its kind and the number of the connection, which the dialer has chosen. HELLO and WELCOME are
the handshake, GONE says that the sender knows no such connection, and PACKET carries frames::

    PACKET   [kind u8][connection u32][number u32][settled u32] frames …
    HELLO    [kind u8][connection u32][version u16][max_streams u32]      WELCOME has the same shape
    GONE     [kind u8][connection u32]

Packet numbers begin at 1 and are never used twice. ``settled`` is the lowest number that the sender still wants to hear
of: what lies below has been acknowledged or given up, so nobody needs to remember it. All integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

__all__ = [
    "ACK",
    "ACK_HEAD",
    "ACK_RANGE",
    "CLOSE",
    "CLOSE_HEAD",
    "CREDIT",
    "CREDIT_BODY",
    "DATA",
    "DATAGRAM",
    "DATAGRAM_HEAD",
    "DATA_END",
    "DATA_HEAD",
    "GONE",
    "HEADER",
    "HEADER_BYTES",
    "HELLO",
    "MAX_REASON_BYTES",
    "MAX_STREAMS",
    "MAX_STREAMS_BODY",
    "ORDER_BODY",
    "PACKET",
    "PING",
    "RESET",
    "SHAKE",
    "SHORT",
    "STOP",
    "VERSION",
    "WELCOME",
    "encode_ack",
]

VERSION: Final = 1

# Kinds of packets
HELLO: Final = 1
WELCOME: Final = 2
PACKET: Final = 3
GONE: Final = 4

HEADER: Final = Struct("<BIII")
"""Kind, connection, number, settled."""
HEADER_BYTES: Final = HEADER.size
SHAKE: Final = Struct("<BIHI")
"""Kind, connection, version, how many substreams the peer may have open."""
SHORT: Final = Struct("<BI")
"""Kind, connection: what all packets begin with."""

# Types of frames
PING: Final = 1
ACK: Final = 2
DATA: Final = 3
DATA_END: Final = 4
CREDIT: Final = 5
RESET: Final = 6
STOP: Final = 7
MAX_STREAMS: Final = 8
DATAGRAM: Final = 9
CLOSE: Final = 10

ACK_HEAD: Final = Struct("<BIB")
"""Type, delay in microseconds, how many ranges follow."""
ACK_RANGE: Final = Struct("<II")
"""The first number of a range, and the first behind it. The highest range comes first."""
DATA_HEAD: Final = Struct("<BIQH")
"""Type, substream, offset, size; the data follow. DATA_END: our direction ends behind them."""
CREDIT_BODY: Final = Struct("<BIQ")
"""Type, substream, the offset up to which the peer may send."""
ORDER_BODY: Final = Struct("<BII")
"""Type (RESET or STOP), substream, code."""
MAX_STREAMS_BODY: Final = Struct("<BI")
"""Type, how many substreams the peer may open over the connection's whole life."""
DATAGRAM_HEAD: Final = Struct("<BH")
"""Type, size; the data follow."""
CLOSE_HEAD: Final = Struct("<BIQH")
"""Type, code, where the control substream ends, size of the reason, which follows in UTF-8."""

MAX_REASON_BYTES: Final = 128
"""The farewell has to fit the smallest packet."""


def encode_ack(delay_s: float, ranges: Sequence[tuple[int, int]], most: int) -> bytes:
    """An ACK frame of the highest ``ranges`` (ascending, ends exclusive) that fit ``most`` bytes."""
    count = min(len(ranges), 255, max(1, (most - ACK_HEAD.size) // ACK_RANGE.size))
    pieces = [ACK_HEAD.pack(ACK, min(int(delay_s * 1_000_000), 0xFFFF_FFFF), count)]
    pieces += [ACK_RANGE.pack(*ranges[at]) for at in range(-1, -count - 1, -1)]
    return b"".join(pieces)
