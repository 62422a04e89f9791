"""A first packet for which nobody is here any more gets one packet back that says so."""

from __future__ import annotations

import os
from typing import Final

from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicHeader, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from echostream_quic.options import MIN_DATAGRAM_BYTES
from echostream_quic.packets import CID_BYTES

__all__ = ["refusal"]

REASON: Final = b"nobody listens here any more"


def refusal(header: QuicHeader, version: int) -> bytes:
    """The answer to the first packet of a handshake, ``header`` being that packet's: CONNECTION_REFUSED.

    It is smaller than what it answers, and nothing is kept for it (RFC 9000 section 5.2.2 allows servers this).
    """
    pair = CryptoPair()
    pair.setup_initial(cid=header.destination_cid, is_client=False, version=version)
    builder = QuicPacketBuilder(
        host_cid=os.urandom(CID_BYTES),
        is_client=False,
        max_datagram_size=MIN_DATAGRAM_BYTES,
        packet_number=0,
        peer_cid=header.source_cid,
        version=version,
    )
    builder.start_packet(QuicPacketType.INITIAL, pair)
    frame = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=32 + len(REASON))
    frame.push_uint_var(QuicErrorCode.CONNECTION_REFUSED)
    frame.push_uint_var(QuicFrameType.PADDING)
    frame.push_uint_var(len(REASON))
    frame.push_bytes(REASON)
    datagrams, _ = builder.flush()
    return datagrams[0]
