"""What a peer's code and reason become on this side."""

from __future__ import annotations

from typing import Final

from echostream_core.errors import CloseCode, ConnectionLost, EchoStreamError, EndOfStream

__all__ = ["closed_by_peer"]

_SHOWN_SIGNS: Final = 200


def closed_by_peer(peer_address: str, code: int, reason: str) -> EchoStreamError:
    """The error for a connection that the peer closed with ``code``: EndOfStream when that was in order.

    Otherwise ConnectionLost with ``close_code``. The reason is the peer's text: it is escaped and cut.
    """
    name = CloseCode(code).name if code in _KNOWN else "unknown"
    said = repr(reason)[1:-1]
    if len(said) > _SHOWN_SIGNS:
        said = said[:_SHOWN_SIGNS] + "…"
    message = f"closed by the peer {peer_address} with code {code} ({name})" + (f": {said}" if said else "")
    if code == CloseCode.OK:
        return EndOfStream(message)
    error = ConnectionLost(message)
    error.close_code = code
    return error


_KNOWN: Final = frozenset(CloseCode)
