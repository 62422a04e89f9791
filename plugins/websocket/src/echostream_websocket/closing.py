"""What a WebSocket's close code means to the session, and the other way round. The table is in docs/websocket.md."""

from __future__ import annotations

from typing import Final

from echostream_core.errors import CloseCode, ConnectionLost, EchoStreamError, EndOfStream
from echostream_tcp._log import printable
from echostream_websocket.frames import GOING_AWAY, NO_STATUS, NORMAL

__all__ = ["closed_by_peer"]

SHOWN_SIGNS: Final = 120

_MEANINGS: Final[dict[int, tuple[str, CloseCode | None]]] = {
    1002: ("we broke the WebSocket protocol, it says", CloseCode.PROTOCOL),
    1003: ("it does not take such data", CloseCode.PROTOCOL),
    1007: ("we sent invalid data, it says", CloseCode.PROTOCOL),
    1008: ("against its policy", None),
    1009: ("a message was too big for it", CloseCode.LIMIT),
    1010: ("it demands an extension", CloseCode.PROTOCOL),
    1011: ("it failed", CloseCode.INTERNAL),
    1012: ("it restarts", CloseCode.GOING_AWAY),
    1013: ("it has too much to do, try later", CloseCode.GOING_AWAY),
    1014: ("a gateway on the way got no good answer", CloseCode.INTERNAL),
}


def closed_by_peer(peer_address: str, code: int, reason: str) -> EchoStreamError:
    """The error for a connection that the peer closed with the WebSocket ``code``; its ``reason`` is escaped and cut.

    EndOfStream where that was in order (1000, 1001, and no code at all); else ConnectionLost, whose ``close_code`` is
    the one of ours that comes nearest, None where none does (1008, and 3000-4999, an application's own).
    """
    if code in (NORMAL, GOING_AWAY, NO_STATUS):
        return EndOfStream(f"{peer_address} has closed the connection")
    meaning, ours = _MEANINGS.get(code, ("a code of its own", None))
    said = f": {printable(reason, SHOWN_SIGNS)}" if reason else ""
    error = ConnectionLost(f"{peer_address} has closed the WebSocket with code {code} ({meaning}){said}")
    error.close_code = ours
    return error
