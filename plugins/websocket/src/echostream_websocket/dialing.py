"""Dialling: connect, perhaps through a proxy, shake hands, and say in plain words what stood in the way."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError, ConnectFailed, EchoStreamError, EndOfStream
from echostream_core.transport import Pipe
from echostream_core.types import Buffer, Url
from echostream_tcp._errors import caused_by, name_not_found
from echostream_tcp._log import printable
from echostream_tcp.dial import connect_network
from echostream_tcp.options import TlsTransportOptions
from echostream_tcp.pipe import StreamPipe
from echostream_tcp.tls_transport import TlsDialer
from echostream_tcp.transport import attach, ends_of
from echostream_websocket._http import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    BadHead,
    Question,
    Response,
    parse_response,
    quoted_path,
)
from echostream_websocket.options import WsOptions, WssOptions
from echostream_websocket.pipe import WebSocketPipe
from echostream_websocket.proxies import connect_through, is_loopback, proxy_for, stays_here

__all__ = ["dial_websocket"]

SHOWN_BODY: Final = 120

_REDIRECTIONS: Final = frozenset({301, 302, 303, 307, 308})
_LATER: Final = frozenset({429, 500, 502, 503, 504})


async def dial_websocket(url: Url, options: WsOptions, capabilities: Capabilities, tls: TlsDialer | None) -> Pipe:
    """A WebSocket to ``url``, ready to be started; ``tls`` is None for ``ws://``. Raises ConnectFailed, ConfigError."""
    secure = tls is not None
    try:
        question = Question(url, secure=secure, headers=_headers(options))
    except UnicodeError as error:
        raise name_not_found(url, error) from error
    proxy = proxy_for(url, options.proxy, secure=secure)
    if not secure:
        _check_secrets(url, options, proxy)

    async def connect() -> socket.socket:
        if proxy is None:
            return await connect_network(url)
        return await connect_through(proxy, url, secure=secure, timeout_s=options.handshake_timeout_s)

    lower: StreamPipe
    if tls is not None:
        assert isinstance(options, WssOptions)
        settings = TlsTransportOptions(tls=options.tls, handshake_timeout_s=options.handshake_timeout_s)
        lower = await tls.dial(url, settings, capabilities, connect)
    else:
        sock = await connect()
        local, peer = ends_of(url, sock)
        lower = StreamPipe(capabilities=capabilities, local_address=local, peer_address=peer)
        await attach(url, lower, sock)
    handshake = Handshake(lower, url, options, capabilities, question, through_proxy=proxy is not None)
    try:
        return await handshake.result
    except asyncio.CancelledError:
        lower.abort()
        raise


def _headers(options: WsOptions) -> dict[str, str]:
    headers = dict(options.headers)
    if options.authorization:
        headers["Authorization"] = options.authorization
    return headers


def _check_secrets(url: Url, options: WsOptions, proxy: str | None) -> None:
    """ConfigError when secrets would leave this machine in the clear, to the server or to the proxy before it."""
    if not (options.authorization or options.headers) or options.insecure_authorization:
        return
    if is_loopback(url.host) and (proxy is None or stays_here(proxy)):
        return
    raise ConfigError(
        f"{url}: authorization and headers would be readable on the way; dial wss://, "
        "or set transport.ws.insecure_authorization = true",
        key="authorization" if options.authorization else "headers",
    )


class Handshake:
    """Receives what comes before the WebSocket; ``result`` is the pipe, or ConnectFailed once nothing is left."""

    def __init__(
        self,
        lower: StreamPipe,
        url: Url,
        options: WsOptions,
        capabilities: Capabilities,
        question: Question,
        *,
        through_proxy: bool,
    ) -> None:
        """Ask."""
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Pipe] = loop.create_future()
        self._lower = lower
        self._url = url
        self._options = options
        self._capabilities = capabilities
        self._through_proxy = through_proxy
        self._head = b""
        self._failure: ConnectFailed | None = None
        self._question = question
        self._timer = loop.call_later(options.handshake_timeout_s, self._too_late)
        lower.start(self)
        lower.write((self._question.request,))

    # --- called by the pipe

    def on_data(self, data: Buffer) -> None:
        """A part of the answer."""
        if self._failure is not None:
            return
        self._head += data
        while self._failure is None:
            if not b"HTTP/".startswith(self._head[:5]):
                self._fail(f"does not speak HTTP: it began with {printable(self._head, 48)}{self._tls_hint()}")
                return
            end = self._head.find(END_OF_HEAD, 0, MAX_HEAD_BYTES)
            if end < 0:
                if len(self._head) >= MAX_HEAD_BYTES:
                    self._fail(f"answers with a head of more than {MAX_HEAD_BYTES} bytes")
                return
            behind = end + len(END_OF_HEAD)
            head, self._head = self._head[:behind], self._head[behind:]
            if self._answered(head):
                return

    def on_writable(self) -> None:
        """The request is small."""

    def on_closed(self, error: EchoStreamError | None) -> None:
        """The connection is gone before it was a WebSocket."""
        self._timer.cancel()
        if self._failure is None:
            if error is None or isinstance(error, EndOfStream):
                self._failure = self._failed(
                    "closed the connection instead of answering the WebSocket handshake", error
                )
            else:
                self._failure = caused_by(ConnectFailed(f"{self._url}: {error}"), error)
        if not self.result.done():
            self.result.set_exception(self._failure)

    # --- inside

    def _answered(self, head: bytes) -> bool:
        """The head of an answer is here; False: only an interim one."""
        try:
            response = parse_response(head)
        except BadHead as error:
            self._fail(f"does not answer in HTTP: {printable(str(error), 160)[1:-1]}", error)
            return True
        status = response.status_code
        if status < 200 and status != HTTPStatus.SWITCHING_PROTOCOLS:
            return False
        if status != HTTPStatus.SWITCHING_PROTOCOLS:
            self._fail(refused(response, self._head, self._url, self._options))
            return True
        refusal = self._question.refusal(response, head)
        if refusal is not None:
            self._fail(printable(refusal, 240)[1:-1])
            return True
        self._timer.cancel()
        if self.result.done():  # cancelled
            self._lower.abort()
            return True
        base = str(replace(self._url, path="")) if self._through_proxy else self._lower.peer_address
        pipe = WebSocketPipe(
            self._lower,
            client=True,
            capabilities=self._capabilities,
            peer_address=base + (quoted_path(self._url) if self._url.path else ""),
            local_address=self._lower.local_address,
            max_message_bytes=self._options.max_message_bytes,
            early=self._head,
            ping_interval_s=self._options.ping_interval_s,
        )
        self.result.set_result(pipe)
        return True

    def _tls_hint(self) -> str:
        speaks_tls = self._url.scheme == "ws" and self._head[:1] in (b"\x15", b"\x16")
        return "; it speaks TLS: its URL begins with wss://" if speaks_tls else ""

    def _too_late(self) -> None:
        self._fail(f"did not answer the WebSocket handshake within {self._options.handshake_timeout_s:g} s")

    def _failed(self, what: str, cause: BaseException | None) -> ConnectFailed:
        return caused_by(ConnectFailed(f"the server at {self._url} {what}"), cause)

    def _fail(self, what: str, cause: BaseException | None = None) -> None:
        """Remember what went wrong; it is told when the connection is gone, so that nothing is left behind."""
        self._timer.cancel()
        self._failure = self._failed(what, cause)
        self._lower.abort()


def refused(response: Response, body: bytes, url: Url, options: WsOptions) -> str:
    """What a status other than 101 means, as what follows "the server at …"; ``body`` is what is there of it."""
    status = response.status_code
    section = f"transport.{url.scheme}"
    named = f"{status} {response.reason_phrase}".rstrip()[:60]
    if status in _REDIRECTIONS:
        target = _first(response.headers.get_all("Location")) or "nowhere"
        why = (
            f"redirects to {printable(target, 200)} ({status}): redirections are not followed, dial that if it is right"
        )
        return why
    if status == HTTPStatus.UNAUTHORIZED:
        why = (
            f"does not accept our authorization: is {section}.authorization right?"
            if options.authorization
            else f"demands an authorization: set {section}.authorization"
        )
    elif status == HTTPStatus.FORBIDDEN:
        why = "refuses us: does its option origins, or something before it, keep us out?"
    elif status == HTTPStatus.NOT_FOUND:
        why = f"knows no path {printable(url.path or '/')}: write the one that it listens at into the URL"
    elif status == HTTPStatus.UPGRADE_REQUIRED:
        why = "wants another version of WebSocket, or a proxy on the way removes the header Upgrade"
    elif status < 300:
        why = "is a web server that does not change to WebSocket: are port and path right?"
    elif status in _LATER:
        why = "cannot serve us now: try again later"
    else:
        why = "refuses the WebSocket handshake"
    text = body.strip().split(b"\n")[0].strip()
    said = f": {printable(text, SHOWN_BODY)}" if text and b"<" not in text[:1] else ""
    return f"{why} ({printable(named)[1:-1]}{said})"


def _first(values: list[str]) -> str:
    return values[0] if values else ""
