"""The listener's dialect: answer requests, and make a session of the one that asks for it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

from echostream_quic.connection import QuicConnection
from echostream_quic.dialect import Ending, printable
from echostream_quic.tenants import Tenant
from echostream_webtransport.codes import H3, name_of
from echostream_webtransport.dialect import WebTransport, is_orderly
from echostream_webtransport.headers import TooLarge
from echostream_webtransport.options import WebTransportOptions
from echostream_webtransport.streams import RequestStream

__all__ = ["ServerDialect", "is_admitted"]

PROTOCOLS: Final = frozenset({"webtransport", "webtransport-h3"})
"""What ``:protocol`` may say; the second is that of the latest drafts."""

MAX_REQUESTS: Final = 256
"""Requests of one connection. A visitor with a browser makes two or three; who makes more gets none answered."""

PAGE: Final = b"""<!doctype html>
<title>EchoStream</title>
<p>This port speaks EchoStream over WebTransport. There are no pages here: open a session from a page of yours with
<code>new WebTransport(url)</code>, or with the EchoStream client.</p>
"""

_TEXTS: Final = {
    401: b"authorization is missing, or not the one that is demanded\n",
    403: b"this origin is not admitted\n",
    404: b"nobody listens at this path\n",
    405: b"this port answers GET, HEAD, and CONNECT for WebTransport\n",
    429: b"there is a session on this connection already\n",
    431: b"the headers are too large\n",
    501: b"CONNECT is answered for :protocol webtransport only\n",
}


class ServerDialect(WebTransport):
    """One accepted connection."""

    route_settings = frozenset({"origins", "authorization", "origin", "headers"})

    def __init__(self) -> None:
        super().__init__(WebTransportOptions())
        self._requests = 0
        self._refused = ""

    def handshaken(self, connection: QuicConnection) -> None:
        """QUIC's handshake is complete."""
        tenant = connection.tenant
        if tenant is not None and isinstance(tenant.options, WebTransportOptions):
            self.configure(tenant.options)
        super().handshaken(connection)

    def on_headers(self, stream: RequestStream, block: bytes) -> bool:
        """A request."""
        self._requests += 1
        if self._requests > MAX_REQUESTS:
            stream.give_up(H3.REQUEST_REJECTED)
            return True
        try:
            request = self.codec.request(stream.state.stream_id, block)
        except TooLarge:
            self._refuse(stream, 431)
            return True
        self._answer(stream, request)
        return True

    def _answer(self, stream: RequestStream, request: Mapping[str, str]) -> None:
        method = request[":method"]
        if method == "CONNECT":
            self._answer_connect(stream, request)
        elif method in ("GET", "HEAD"):
            lines = [("content-type", "text/html; charset=utf-8")]
            if method == "HEAD":  # without its length: aioquic's client would wait for so many bytes
                self._respond(stream, 200, lines, b"")
            else:
                self._respond(stream, 200, [*lines, ("content-length", str(len(PAGE)))], PAGE)
        else:
            self._refuse(stream, 405)

    def _answer_connect(self, stream: RequestStream, request: Mapping[str, str]) -> None:
        if request.get(":protocol") not in PROTOCOLS:
            self._refuse(stream, 501)
            return
        path = unquote(request.get(":path", "/").partition("?")[0]) or "/"
        tenant = self.routes().get(path)
        if tenant is None:
            self._refuse_session(stream, 404, f"nobody listens at the path {path}")
            return
        status = self._check(tenant, request)
        if status == 403:
            self._refuse_session(stream, status, f"the setting origins does not admit {request.get('origin')}")
        elif status:
            self._refuse_session(stream, status, "its authorization is missing, or not the one that is demanded")
        elif self._connect is not None:
            self._refuse(stream, 429)
        else:
            self._open_session(stream, tenant)

    def _check(self, tenant: Tenant, request: Mapping[str, str]) -> int:
        """The status with which ``request`` is refused; 0: it is not."""
        options = tenant.options
        assert isinstance(options, WebTransportOptions), "who listens for this protocol has its options"
        if not is_admitted(request.get("origin"), request.get(":authority", ""), options.origins):
            return 403
        shown = request.get("authorization", "").encode("latin-1")
        if options.authorization and not hmac.compare_digest(shown, options.authorization.encode("latin-1")):
            return 401
        return 0

    def _open_session(self, stream: RequestStream, tenant: Tenant) -> None:
        connection = self.connection
        connection.tenant = tenant
        connection.local_address += tenant.url.path
        self.begin_session(stream)
        self._respond(stream, 200, [("sec-webtransport-http3-draft", "draft02")])
        # A datagram in the flight of the 200 is dropped by Chromium: none goes before the 200 is acknowledged.
        connection.hold_datagrams()
        connection.before_transmit = self._release_datagrams
        connection.ready()

    def _release_datagrams(self) -> None:
        outgoing = self._connect.state.outgoing if self._connect is not None else None
        if outgoing is None or not (outgoing.queued_bytes or outgoing.in_flight or outgoing.lost):
            self.connection.before_transmit = None
            self.connection.release_datagrams()

    def _refuse_session(self, stream: RequestStream, status: int, why: str) -> None:
        """Refuse with ``status``; the listener's log tells ``why`` when the visitor has left."""
        self._refused = f"refused with HTTP status {status}: {printable(why)}"
        self._refuse(stream, status)

    def _refuse(self, stream: RequestStream, status: int) -> None:
        body = _TEXTS[status]
        self._respond(stream, status, [("content-type", "text/plain"), ("content-length", str(len(body)))], body)

    def _respond(
        self, stream: RequestStream, status: int, lines: list[tuple[str, str]], body: bytes | None = None
    ) -> None:
        """Answer; ``body`` None: the stream stays open."""
        block = self.codec.encode(stream.state.stream_id, [(":status", str(status)), *lines])
        stream.send_headers(block, end=body == b"")
        if body:
            stream.send_data(body, end=True)

    def never_ready(self, ending: Ending) -> str:
        """A visitor without a session is no failure, unless it wanted one or broke the rules."""
        if ending.by_peer or is_orderly(ending):
            return self._refused
        return f"{name_of(ending.code)}: {printable(ending.reason)}" if ending.application else str(ending)


_PORTS: Final = {"http": ":80", "https": ":443"}


def is_admitted(origin: str | None, authority: str, origins: tuple[str, ...]) -> bool:
    """Whether a page of ``origin`` may open a session; who shows none is no browser, and is not asked."""
    if origin is None or "*" in origins:
        return True
    if origins:
        return _plain(origin) in map(_plain, origins)
    try:
        host = urlsplit(origin).hostname
        return host is not None and host == urlsplit(f"//{authority}").hostname
    except ValueError:
        return False


def _plain(origin: str) -> str:
    """``origin`` as browsers write it: in small letters, without the port that its scheme has anyway."""
    origin = origin.lower()
    return origin.removesuffix(_PORTS.get(origin.partition(":")[0], ""))
