"""Echo over our own frames in both roles, for Autobahn to talk to: the real handshake, the real frame layer, real TCP.

Above the frames stands ``MessageSocket`` instead of the pipe that the kernel gets, because a pipe takes no texts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from echostream_core.errors import ConnectFailed, EchoStreamError
from echostream_core.types import Buffer, Url
from echostream_tcp._log import ComplaintLog
from echostream_tcp.dial import connect_network
from echostream_tcp.listener import SocketListener
from echostream_tcp.pipe import StreamPipe
from echostream_tcp.sockets import bind_network, url_of
from echostream_tcp.transport import attach
from echostream_websocket._http import END_OF_HEAD, Question, accept_upgrade, parse_request, parse_response
from echostream_websocket._log import logger
from echostream_websocket.messages import MessageSocket
from echostream_websocket.transport import WS_CAPABILITIES

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""Autobahn's largest message has 16 MiB."""


class EchoServer:
    """Answers every message with the same message."""

    def __init__(self) -> None:
        self.url = ""
        self._open: set[MessageSocket] = set()
        self._changed = asyncio.Event()
        self._listener: SocketListener | None = None

    async def __aenter__(self) -> EchoServer:
        sockets = await bind_network(Url.parse("ws://127.0.0.1:0"), 128)
        self.url = url_of("ws", sockets[0].getsockname())
        log = ComplaintLog(self.url, logger)
        self._listener = SocketListener(sockets, (self.url,), self._make_pipe, log=log)
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._listener is not None
        await self._listener.close()
        for echo in list(self._open):
            echo.abort()
        while self._open:
            self._changed.clear()
            await self._changed.wait()

    def _make_pipe(self, connection: socket.socket, peer: Any) -> StreamPipe:
        return StreamPipe(
            capabilities=WS_CAPABILITIES,
            local_address=self.url,
            peer_address=url_of("ws", peer),
            on_ready=lambda pipe: pipe.start(Head(pipe, self._answer)),
        )

    def _answer(self, pipe: StreamPipe, head: bytes, early: bytes) -> None:
        pipe.write((accept_upgrade(parse_request(head)),))

        def send_back(echo: MessageSocket, message: str | bytes) -> None:
            echo.send(message)

        def on_ended(error: EchoStreamError | None) -> None:
            self._open.discard(echo)
            self._changed.set()

        echo = MessageSocket(
            pipe,
            client=False,
            on_message=send_back,
            on_ended=on_ended,
            max_message_bytes=MAX_MESSAGE_BYTES,
            early=early,
        )
        self._open.add(echo)


async def echo_until_closed(url: str, target: str) -> list[str | bytes]:
    """Dial ``url``, ask for ``target`` (path and query), echo until the connection ends; what came."""
    ended: asyncio.Future[EchoStreamError | None] = asyncio.get_running_loop().create_future()
    messages: list[str | bytes] = []
    parsed = Url.parse(url)
    question = Question(parsed, secure=False, headers={})

    def on_message(echo: MessageSocket, message: str | bytes) -> None:
        messages.append(message)
        echo.send(message)

    def answered(pipe: StreamPipe, head: bytes, early: bytes) -> None:
        refusal = question.refusal(parse_response(head), head)
        if refusal is not None:
            pipe.abort()
            ended.set_exception(ConnectFailed(refusal))
            return
        MessageSocket(
            pipe,
            client=True,
            on_message=on_message,
            on_ended=ended.set_result,
            max_message_bytes=MAX_MESSAGE_BYTES,
            early=early,
        )

    pipe = StreamPipe(capabilities=WS_CAPABILITIES, local_address="ws://here", peer_address=url)
    await attach(parsed, pipe, await connect_network(parsed))
    pipe.start(Head(pipe, answered))
    pipe.write((question.request.replace(b"GET / ", f"GET {target} ".encode(), 1),))
    await ended
    return messages


class Head:
    """Receives a pipe's data up to the end of a head of HTTP, then hands over to whoever starts the pipe anew."""

    def __init__(self, pipe: StreamPipe, then: Callable[[StreamPipe, bytes, bytes], None]) -> None:
        self._pipe = pipe
        self._then = then
        self._data = b""

    def on_data(self, data: Buffer) -> None:
        self._data += data
        end = self._data.find(END_OF_HEAD)
        if end >= 0:
            behind = end + len(END_OF_HEAD)
            self._then(self._pipe, self._data[:behind], self._data[behind:])

    def on_writable(self) -> None:
        """A head is small."""

    def on_closed(self, error: EchoStreamError | None) -> None:
        """Autobahn went before it asked, or has closed at the end."""
