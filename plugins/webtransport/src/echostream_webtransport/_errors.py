"""The border: what HTTP/3 reports, in the words and the tree of EchoStream."""

from __future__ import annotations

from echostream_core.errors import ConnectFailed, ConnectionLost, EchoStreamError
from echostream_core.wire.closing import closed_by_peer
from echostream_quic.dialect import Ending, printable
from echostream_webtransport.codes import H3, code_from_wire, is_application, name_of

__all__ = ["Http3Error", "StreamError", "connection_closed", "ended_before_ready"]


class Http3Error(Exception):
    """The peer broke the rules of HTTP/3: the connection ends with ``code``. Never leaves the plugin."""

    def __init__(self, code: H3, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamError(Exception):
    """One request is not in order: its stream is given up with ``code``. Never leaves the plugin."""

    def __init__(self, code: H3, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def connection_closed(peer: str, ending: Ending) -> EchoStreamError:
    """Why the session has ended: the peer closed the connection with an error of HTTP/3's, or with one of ours."""
    if ending.code in (0, H3.NO_ERROR) or is_application(ending.code):
        # 0 is no error of HTTP/3's, but what some stacks send when nobody named one.
        return closed_by_peer(peer, code_from_wire(ending.code) if ending.code else 0, ending.reason)
    said = f": {printable(ending.reason)}" if ending.reason else ""
    return ConnectionLost(f"{peer} ended the HTTP/3 connection with {name_of(ending.code)}{said}")


def ended_before_ready(url: str, ending: Ending) -> ConnectFailed:
    """The peer closed the connection before there was a session."""
    said = f": {printable(ending.reason)}" if ending.reason else ""
    return ConnectFailed(f"the peer at {url} ended the connection with {name_of(ending.code)}{said}")
