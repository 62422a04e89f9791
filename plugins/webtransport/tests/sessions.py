"""Listening and dialling for the tests; the recorders are those of the QUIC plugin's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from echostream_core.transport import Acceptor, Connection, Listener, Pipe
from echostream_core.types import Priority, Url
from echostream_quic.connection import QuicConnection
from echostream_quic.listener import QuicListener
from echostream_webtransport.options import WebTransportOptions
from echostream_webtransport.transport import WebTransportTransport
from plugins.quic.tests.recording import Ends, Recorder

URL = "wt://127.0.0.1:0/session"


def options(**given: Any) -> WebTransportOptions:
    """Options as they would stand in a file."""
    return msgspec.convert({"tls": {"dev": True}, **given}, WebTransportOptions)


async def end(*recorders: Recorder) -> None:
    """End what is still open."""
    for recorder in recorders:
        recorder.abort()
    for recorder in recorders:
        await recorder.ended()


async def listen(stack: AsyncExitStack, accept: Acceptor | None = None, url: str = URL, **given: Any) -> QuicListener:
    """A listener, closed with ``stack``. Without ``accept``, what it accepts is started, and aborted in the end."""

    def record(connection: Connection | Pipe) -> None:
        stack.push_async_callback(end, Recorder(connection).start())

    listener = await WebTransportTransport().listen(Url.parse(url), options(**given), accept or record)
    assert isinstance(listener, QuicListener)
    stack.push_async_callback(listener.close)
    return listener


async def dial(url: str | Listener, **given: Any) -> QuicConnection:
    """Dial with ``given`` options."""
    address = url if isinstance(url, str) else url.addresses[0]
    connection = await WebTransportTransport().dial(Url.parse(address), options(**given))
    assert isinstance(connection, QuicConnection)
    return connection


class Server:
    """A listener that keeps what it accepts."""

    def __init__(self, listener: QuicListener, accepted: list[Recorder]) -> None:
        self.listener = listener
        self.url = listener.addresses[0]
        self.accepted = accepted
        self.more = asyncio.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        url = Url.parse(self.url)
        assert url.port is not None
        return url.host, url.port

    async def session(self, number: int = 0) -> Recorder:
        """The ``number``-th session."""
        while len(self.accepted) <= number:
            self.more.clear()
            await self.more.wait()
        return self.accepted[number]


async def serve(
    stack: AsyncExitStack,
    url: str = URL,
    *,
    echo: bool = False,
    prepare: Callable[[Recorder], None] | None = None,
    **given: Any,
) -> Server:
    """A server whose sessions are recorded, after ``prepare``; with ``echo`` it writes back what comes."""
    accepted: list[Recorder] = []
    made: list[Server] = []

    def accept(connection: Connection | Pipe) -> None:
        recorder = Recorder(connection)
        if prepare is not None:
            prepare(recorder)
        if echo:
            recorder.hook = lambda far, data: far.write(data)
        accepted.append(recorder.start())
        stack.push_async_callback(end, recorder)
        made[0].more.set()

    made.append(Server(await listen(stack, accept, url, **given), accepted))
    return made[0]


async def connect(stack: AsyncExitStack, **given: Any) -> Ends:
    """Listen, dial, start both ends and open the control substream."""
    server = await serve(stack, **given)
    near = Recorder(await dial(server.listener, **given)).start()
    stack.push_async_callback(end, near)
    ends = Ends(near, await server.session(), server.listener)
    ends.control, ends.far_control = await ends.open(Priority.CONTROL, b"SETUP")
    return ends
