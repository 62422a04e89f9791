"""Packets with short headers, built a batch at a time (RFC 9000 section 17.3, RFC 9001 section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

__all__ = ["CID_BYTES", "LEAST_PACKET_BYTES", "OVERHEAD_BYTES", "PacketBatch"]

CID_BYTES: Final = 8
TAG_BYTES: Final = 16
PACKET_NUMBER_BYTES: Final = 2
"""Shown of each number: enough while fewer than 32,768 packets are on their way."""

OVERHEAD_BYTES: Final = 1 + CID_BYTES + PACKET_NUMBER_BYTES + TAG_BYTES
"""What a packet costs besides its frames, when the peer's connection ids are as long as ours."""

LEAST_PACKET_BYTES: Final = 1 + CID_BYTES + 4 + 16
"""A shorter one has no sample for its header protection."""


class PacketBatch:
    """The packets of one turn under one key. ``prefix`` is their first byte, unprotected, and the connection id."""

    __slots__ = ("_iv", "_prefix", "_seal", "bodies", "overhead", "shown")

    def __init__(self, prefix: bytes, iv: int, seal: Callable[[bytes, bytes, bytes], bytes]) -> None:
        self._prefix = prefix
        self._iv = iv
        self._seal = seal
        self.overhead = len(prefix) + PACKET_NUMBER_BYTES + TAG_BYTES
        self.shown: list[bytes] = []
        """The packet numbers, as much of them as is sent."""
        self.bodies: list[bytes] = []
        """What stands behind the headers, encrypted."""

    def seal(self, number: int, payload: bytes) -> int:
        """Encrypt one packet; its size."""
        if len(payload) < 2:
            payload += b"\0"  # or there would be too little to sample for the header protection
        shown = (number & 0xFFFF).to_bytes(2)
        self.shown.append(shown)
        self.bodies.append(self._seal((self._iv ^ number).to_bytes(12), payload, self._prefix + shown))
        return self.overhead + len(payload)

    def samples(self) -> list[bytes]:
        """What the header protection's masks are made of: 16 bytes per packet."""
        return [body[2:18] for body in self.bodies]

    def protect(self, masks: bytes, address: Any, sent: list[tuple[bytes, Any]]) -> None:
        """Hide the packet numbers with ``masks`` and append the datagrams to ``sent``."""
        first, cid = self._prefix[0], self._prefix[1:]
        at = 0
        for shown, body in zip(self.shown, self.bodies, strict=True):
            head = bytes((first ^ (masks[at] & 0x1F),))
            hidden = bytes((shown[0] ^ masks[at + 1], shown[1] ^ masks[at + 2]))
            sent.append((b"".join((head, cid, hidden, body)), address))
            at += 16
