"""One accepted connection until it has become a WebSocket, or has been answered and seen off."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Final, Protocol

from echostream_core.errors import EchoStreamError
from echostream_core.types import Buffer, Url
from echostream_tcp._log import printable
from echostream_tcp.pipe import StreamPipe
from echostream_tcp.tls_pipe import TlsPipe
from echostream_websocket._http import END_OF_HEAD, MAX_HEAD_BYTES, BadHead, Request, parse_request
from echostream_websocket._log import logger
from echostream_websocket.routing import Decision, Route, refusal, refused_head

__all__ = ["Host", "Visitor"]

_CONNECTING: Final = 0
_READING: Final = 1
_LEAVING: Final = 2
_GONE: Final = 3

GRACE_S: Final = 1.0
"""How long after its time somebody is still counted of whom the event loop may have nothing more to say."""

PIECE_BYTES: Final = 65_536
"""How much of a page is handed to the connection at once: a peer that does not read it costs no more memory, and one
that reads slowly has ``handshake_timeout_s`` for each."""

_TLS_BEGINNING: Final = b"\x16\x03"
_METHOD_SIGNS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Host(Protocol):
    """The port that a visitor has come to."""

    timeout_s: float

    def decide(self, request: Request) -> Decision:
        """What to do with a request."""

    def admit(self, visitor: Visitor, route: Route, request: Request, early: bytes) -> None:
        """The visitor's connection is a WebSocket now."""

    def complain(self, visitor: Visitor, text: str) -> None:
        """Tell the log why a visitor is turned away."""

    def gone(self, visitor: Visitor) -> None:
        """The visitor need not be thought of any more."""


class Visitor:
    """Receives what a connection sends before it is a WebSocket. Bounded in bytes, and in time by one deadline."""

    __slots__ = ("_head", "_loop", "_phase", "_port", "_timer", "_unsent", "address", "host", "lower")

    def __init__(self, port: Host, address: str) -> None:
        """``address`` is that of the socket's other end, as URL."""
        self._port = port
        self.address = address
        self.host = Url.parse(address).host
        self.lower: StreamPipe | None = None
        self._phase = _CONNECTING
        self._head = b""
        self._unsent = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(port.timeout_s, self._too_late)

    # --- called by the pipe

    def connected(self, pipe: StreamPipe) -> None:
        """TCP, and TLS where there is any, are done: the request comes next."""
        if self._phase != _CONNECTING:
            pipe.abort()
            return
        self._phase = _READING
        pipe.start(self)

    def tls_failed(self, pipe: TlsPipe, what: str, cause: Exception | None) -> None:
        """TLS came to nothing; the pipe has closed itself."""
        if pipe.manner == "left":  # as load balancers do every few seconds, to see whether we are there
            logger.debug("%s: %s %s", pipe.local_address, self.address, what)
        else:
            self._port.complain(self, f"it {what}")
        self._phase = _LEAVING
        pipe.start(self)

    def on_data(self, data: Buffer) -> None:
        """A part of the request."""
        if self._phase != _READING:
            return
        searched = max(0, len(self._head) - len(END_OF_HEAD) + 1)
        self._head += data
        end = self._head.find(END_OF_HEAD, searched, MAX_HEAD_BYTES)
        if end >= 0:
            behind = end + len(END_OF_HEAD)
            self._answer(self._head[:behind], self._head[behind:])
        elif self._head[0] not in _METHOD_SIGNS or self._head.startswith(b"ESTREAM"):
            self._refuse_stranger()
        elif len(self._head) >= MAX_HEAD_BYTES:
            self.leave(
                refusal(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"The request has more than {MAX_HEAD_BYTES} bytes.",
                    f"its request has more than {MAX_HEAD_BYTES} bytes: it began with {printable(self._head, 48)}",
                )
            )

    def on_writable(self) -> None:
        """Who reads a page gets the next piece."""
        if self._phase == _LEAVING:
            self._send_rest()

    def on_closed(self, error: EchoStreamError | None) -> None:
        """The connection is gone."""
        if self._phase == _READING:
            what = "during its request" if self._head else "without a word"
            logger.debug("%s has closed the connection %s", self.address, what)
        self._be_gone()

    # --- called by the port

    def shut(self) -> None:
        """The port closes: who is in the middle of a request is told so, everybody else is cut off."""
        assert self.lower is not None
        if self._phase == _READING and self._head:
            self.leave(refusal(HTTPStatus.SERVICE_UNAVAILABLE, "This server is closing."))
            return
        self._phase = _LEAVING
        self.lower.abort()
        self.lower.start(self)  # for those still in the TLS handshake: to be told of the end

    def leave(self, decision: Decision, *, without_body: bool = False) -> None:
        """Send the answer and end the connection; a peer that does not read it is cut off after a while."""
        assert self.lower is not None and decision.answer is not None
        if decision.complaint:
            self._port.complain(self, decision.complaint)
        self._phase = _LEAVING
        self._head = b""
        answer = decision.answer
        body = memoryview(b"" if without_body else answer.body)
        self._unsent = body[PIECE_BYTES:]
        room = self.lower.write((answer.head() + body[:PIECE_BYTES],))
        self._send_rest(room=room)

    # --- inside

    def _send_rest(self, *, room: bool = True) -> None:
        """Send more of the answer while there is room, and close behind its end."""
        assert self.lower is not None
        self._timer.cancel()
        self._timer = self._loop.call_later(self._port.timeout_s, self._too_late)
        while self._unsent and room:
            room = self.lower.write((self._unsent[:PIECE_BYTES],))
            self._unsent = self._unsent[PIECE_BYTES:]
        if not self._unsent:
            self.lower.close()

    def _answer(self, head: bytes, early: bytes) -> None:
        try:
            request = parse_request(head)
        except BadHead as error:
            self.leave(refused_head(error))
            return
        decision = self._port.decide(request)
        if decision.route is None:
            self.leave(decision, without_body=request.method == "HEAD")
            return
        assert self.lower is not None
        self._head = b""
        self.lower.write((decision.upgraded,))
        self._port.admit(self, decision.route, request, early)
        self._be_gone()

    def _refuse_stranger(self) -> None:
        if self._head.startswith(_TLS_BEGINNING):
            what = "speaks TLS: its URL must begin with ws://, or this listener's with wss://"
        elif self._head.startswith(b"ESTREAM"):
            what = "speaks EchoStream without WebSocket: its URL must begin with ws://"
        else:
            what = f"does not speak HTTP: it began with {printable(self._head, 48)}"
        self.leave(refusal(HTTPStatus.BAD_REQUEST, "This port speaks HTTP and WebSocket.", f"it {what}"))

    def _too_late(self) -> None:
        """The deadline has passed."""
        if self._phase == _READING:
            what = "did not finish its request" if self._head else "said nothing"
            text = f"it {what} within {self._port.timeout_s:g} s"
            self.leave(refusal(HTTPStatus.REQUEST_TIMEOUT, "The request came too slowly.", text))
        elif self._phase == _LEAVING and self.lower is not None:
            self.lower.abort()
            self._timer = self._loop.call_later(GRACE_S, self._be_gone)
        else:  # in the TLS handshake, which is about to give up by itself; or lost while it was accepted
            self._timer = self._loop.call_later(GRACE_S, self._never_came)

    def _never_came(self) -> None:
        if self._phase == _CONNECTING:
            self._be_gone()
        else:
            self._too_late()

    def _be_gone(self) -> None:
        if self._phase != _GONE:
            self._phase = _GONE
            self._timer.cancel()
            self._port.gone(self)
