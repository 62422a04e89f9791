"""The dialer's dialect: ask for a session, and say in plain words why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from echostream_core.errors import ConnectFailed, EchoStreamError
from echostream_core.types import Priority, Url
from echostream_quic.connection import QuicConnection
from echostream_quic.dialect import Ending, printable
from echostream_quic.outgoing import Outgoing
from echostream_quic.tls import in_ascii
from echostream_webtransport._errors import Http3Error, StreamError, ended_before_ready
from echostream_webtransport.codes import H3
from echostream_webtransport.dialect import WebTransport
from echostream_webtransport.headers import TooLarge
from echostream_webtransport.options import WebTransportOptions
from echostream_webtransport.settings import has_webtransport
from echostream_webtransport.streams import RequestStream

__all__ = ["ClientDialect"]

SAFE_IN_PATHS: Final = "/:@!$&'()*+,;=-._~"

_STATUS: Final = {
    401: "the server wants authorization: set authorization",
    403: "the server does not admit this origin: see its setting origins, and our setting origin",
    404: "nobody listens at this path: compare it with the path of the server's URL",
    429: "the server has a session on this connection already",
    431: "the headers are larger than the server takes (max_header_bytes)",
}


class ClientDialect(WebTransport):
    """One dialled connection."""

    dials = True

    def __init__(self, url: Url, options: WebTransportOptions) -> None:
        super().__init__(options)
        self._url = url
        self._shaken = False
        self.path = url.path

    def handshaken(self, connection: QuicConnection) -> None:
        """QUIC's handshake is complete: from now on somebody is there."""
        self._shaken = True
        super().handshaken(connection)

    def on_settings(self, settings: Mapping[int, int]) -> None:
        """The server has said what it can do: ask for the session."""
        super().on_settings(settings)
        connection = self.connection
        if not has_webtransport(settings):
            self._fail("the server speaks HTTP/3 but offers no WebTransport: is it the right port?")
            return
        if connection.engine.streams_left() < 1:
            self._fail("the server allows no requests")
            return
        stream = RequestStream(
            self, self._own(connection.engine.open_substream(Outgoing(Priority.NORMAL), connection.now()))
        )
        self._requested = stream
        stream.send_headers(self.codec.encode(stream.state.stream_id, self._request()))

    def _request(self) -> list[tuple[str, str]]:
        url, options = self._url, self.options
        host = f"[{url.host}]" if ":" in url.host else in_ascii(url.host)
        lines = [
            (":method", "CONNECT"),
            (":protocol", "webtransport"),
            (":scheme", "https"),
            (":authority", f"{host}:{url.port}"),
            (":path", quote(url.path or "/", safe=SAFE_IN_PATHS)),
            ("sec-webtransport-http3-draft02", "1"),
        ]
        if options.origin:
            lines.append(("origin", options.origin))
        if options.authorization:
            lines.append(("authorization", options.authorization))
        return lines + [(name.lower(), value) for name, value in options.headers.items()]

    def on_headers(self, stream: RequestStream, block: bytes) -> bool:
        """The server's answer."""
        try:
            answer = self.codec.response(stream.state.stream_id, block)
        except TooLarge as error:
            raise Http3Error(H3.EXCESSIVE_LOAD, "an answer with larger headers than max_header_bytes") from error
        status = int(answer[":status"])
        if 100 <= status < 200:
            return False
        if 200 <= status < 300:
            self.begin_session(stream)
            self.connection.ready()
        else:
            self._fail(f"HTTP status {status}{': ' + _STATUS[status] if status in _STATUS else ''}")
        return True

    def on_malformed(self, error: StreamError) -> None:
        """The server's answer is none."""
        if self._connect is None:
            self._fail(f"the server's answer is malformed: {printable(error.reason)}")

    def on_over(self, stream: RequestStream, code: int | None) -> None:
        """The server has ended its answer, or given it up."""
        super().on_over(stream, code)
        if self._connect is None:
            self._fail("the server gave up the request" if code is not None else "the server gave no answer")

    def failure(self, reason: str) -> EchoStreamError:
        """Before there is a session, everything is a failure to connect."""
        if self._connect is not None:
            return super().failure(reason)
        return ConnectFailed(f"no session with {self._url}: {printable(reason)}")

    def _fail(self, why: str) -> None:
        self.connection.end_with(H3.NO_ERROR, "", ConnectFailed(f"no session with {self._url}: {why}"))

    def connect_failed(self, url: str, ending: Ending, *, patience_s: float) -> ConnectFailed:
        """Why there is no session, where QUIC's own handshake failed or the server broke it off."""
        if ending.no_protocol:
            return ConnectFailed(
                f"the peer at {url} speaks QUIC but not {self.alpn} (HTTP/3): does it listen on {self._url.scheme}://?"
            )
        if ending.silent and self._shaken:
            return ConnectFailed(f"no session with {url}: the server has not answered within {patience_s:g} s")
        if ending.by_peer and ending.application:
            return ended_before_ready(url, ending)
        return super().connect_failed(url, ending, patience_s=patience_s)
