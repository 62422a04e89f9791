"""An echo of whole messages made of the frame layer, in both roles, for Autobahn's test suite.

``python -m plugins.websocket.tests.echo serve 9001`` for its fuzzing client, and
``python -m plugins.websocket.tests.echo dial ws://127.0.0.1:9002`` for its fuzzing server. Our subprotocol is not asked
for.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from echostream_core.errors import EchoStreamError
from echostream_core.transport import Connection, Pipe
from echostream_core.types import Buffer, Url
from echostream_tcp.options import TcpOptions
from echostream_tcp.transport import TcpTransport
from echostream_websocket._http import END_OF_HEAD, parse_request, parse_response
from echostream_websocket.messages import MessageSocket

MAX_MESSAGE_BYTES = 64 * 1_048_576
Message = str | bytes
OnMessage = Callable[[MessageSocket, Message], None]


class Beginning:
    """Receives the head of a request or a response, then makes the socket."""

    def __init__(self, lower: Pipe, client: ClientProtocol | None, on_message: OnMessage) -> None:
        self.ended: asyncio.Future[EchoStreamError | None] = asyncio.get_running_loop().create_future()
        self._lower = lower
        self._client = client
        self._on_message = on_message
        self._head = b""
        lower.start(self)
        if client is not None:
            lower.write((client.connect().serialize(),))

    def on_data(self, data: Buffer) -> None:
        self._head += data
        head, end, early = self._head.partition(END_OF_HEAD)
        if not end:
            return
        if self._client is None:
            response = ServerProtocol().accept(parse_request(head + end))
            self._lower.write((response.serialize(),))
        else:
            self._client.process_response(parse_response(head + end))
        MessageSocket(
            self._lower,
            client=self._client is not None,
            on_message=self._on_message,
            on_ended=self._end,
            max_message_bytes=MAX_MESSAGE_BYTES,
            early=early,
        )

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: EchoStreamError | None) -> None:
        self._end(error)

    def _end(self, error: EchoStreamError | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


def echo(socket: MessageSocket, message: Message) -> None:
    socket.send(message)


async def serve(port: int) -> None:
    """Echo to every client, for ever."""

    def accept(pipe: Connection | Pipe) -> None:
        assert isinstance(pipe, Pipe)
        Beginning(pipe, None, echo)

    listener = await TcpTransport().listen(Url("tcp", "127.0.0.1", port), TcpOptions(), accept)
    try:
        await asyncio.Event().wait()
    finally:
        await listener.close()


async def visit(url: str, on_message: OnMessage = echo) -> EchoStreamError | None:
    """Echo to one server until it ends the connection."""
    uri = parse_uri(url)
    lower = await TcpTransport().dial(Url("tcp", uri.host, uri.port), TcpOptions())
    assert isinstance(lower, Pipe)
    return await Beginning(lower, ClientProtocol(uri), on_message).ended


async def dial(url: str) -> None:
    """Go through all cases of a fuzzing server, then have it write its report."""
    counted: list[Message] = []
    await visit(f"{url}/getCaseCount", lambda _, message: counted.append(message))
    for case in range(1, int(counted[0]) + 1):
        await visit(f"{url}/runCase?case={case}&agent=echostream")
    await visit(f"{url}/updateReports?agent=echostream")


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[2])) if sys.argv[1] == "serve" else dial(sys.argv[2]))
