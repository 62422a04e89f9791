"""A peer made by hand: it speaks to a server or a client over ``memory`` in raw bytes, right or wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from echostream_core import ConnectionLost, EchoStreamError, Limits, Priority, RpcClient, Url
from echostream_core.builtin.memory import MemoryOptions, MemoryTransport
from echostream_core.transport import Connection, Listener, Pipe, Substream, SubstreamReceiver
from echostream_core.types import Buffer
from echostream_core.wire.frames import (
    CALL,
    CALL_HEAD,
    ERROR,
    PREFIX,
    RESPONSE,
    RESPONSE_HEAD,
    FrameType,
    SubstreamKind,
    encode_substream_head,
)
from echostream_core.wire.limits import MAX_INTERNED
from echostream_core.wire.message import encode_call_head
from echostream_core.wire.setup import Setup, encode_setup
from tests.support.pairs import memory_url
from tests.support.waiting import until

__all__ = [
    "JSON",
    "Frame",
    "RawPeer",
    "RawSubstream",
    "call",
    "client_by_hand",
    "dialled",
    "listen_by_hand",
    "raw_setup",
    "response",
]

JSON = 1
"""Codec id of ``json``, the only one that ``raw_setup`` lists."""


@dataclass(frozen=True)
class Frame:
    """One frame that the peer has sent."""

    kind: int
    flags: int
    aux: int
    body: bytes


@dataclass
class RawSubstream:
    """One end of a substream: what came is kept, and consumed unless ``reads`` is off."""

    substream: Substream
    reads: bool = True
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset_code: int | None = None
    stop_code: int | None = None

    def on_data(self, data: Buffer) -> None:
        self.data += data
        if self.reads:
            self.substream.consume(len(data))

    def on_end(self) -> None:
        self.ended = True

    def on_reset(self, code: int) -> None:
        self.reset_code = code

    def on_stop(self, code: int) -> None:
        self.stop_code = code
        self.substream.reset(code)

    def on_writable(self) -> None:
        pass

    def send(self, *parts: bytes, end: bool = False) -> None:
        """Write ``parts``."""
        self.substream.write(parts, end)

    def frames(self) -> list[Frame]:
        """The complete frames that have come."""
        found = []
        position = 0
        while len(self.data) - position >= PREFIX.size:
            kind, flags, aux, length = PREFIX.unpack_from(self.data, position)
            end = position + PREFIX.size + length
            if end > len(self.data):
                break
            found.append(Frame(kind, flags, aux, bytes(self.data[position + PREFIX.size : end])))
            position = end
        return found


class RawPeer:
    """One end of a memory connection. ``accepted`` are the substreams that the other side opened, in order."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.accepted: list[RawSubstream] = []
        self.closed: asyncio.Future[EchoStreamError | None] = asyncio.get_running_loop().create_future()
        self._control: RawSubstream | None = None
        connection.start(self)

    # What the connection calls.

    def on_substream(self, substream: Substream) -> SubstreamReceiver:
        raw = RawSubstream(substream)
        self.accepted.append(raw)
        return raw

    def on_datagram(self, data: Buffer) -> None:
        pass

    def on_closed(self, error: EchoStreamError | None) -> None:
        self.closed.set_result(error)

    # What tests call.

    @property
    def control(self) -> RawSubstream:
        """The control substream: ours after ``begin``, else the first that the other side opened."""
        return self._control or self.accepted[0]

    def begin(self, *first: bytes, head: bytes | None = None) -> None:
        """Open the control substream and write ``first`` behind its head."""
        substream = self.connection.open_substream(Priority.CONTROL)
        self._control = RawSubstream(substream)
        substream.start(self._control)
        self._control.send(encode_substream_head(SubstreamKind.CONTROL, 0, 0) if head is None else head, *first)

    def open(self, *first: bytes, end: bool = False) -> RawSubstream:
        """Open another substream and write ``first``."""
        raw = RawSubstream(self.connection.open_substream())
        raw.substream.start(raw)
        raw.send(*first, end=end)
        return raw

    def open_call(self, number: int, *first: bytes, end: bool = False) -> RawSubstream:
        """Open a call's substream."""
        return self.open(encode_substream_head(SubstreamKind.CALL, 2, number), *first, end=end)

    async def answered(self, count: int = 1) -> list[Frame]:
        """Wait until ``count`` responses have come in-line; all of them."""
        await until(lambda: len(self.responses()) >= count or self.closed.done())
        return self.responses()

    def responses(self) -> list[Frame]:
        """The responses that have come in-line."""
        return [frame for frame in self.control.frames() if frame.kind == RESPONSE]

    async def called(self, count: int = 1) -> list[Frame]:
        """Wait until ``count`` calls have come in-line; all of them."""
        await until(lambda: len(self.calls()) >= count or self.closed.done())
        return self.calls()

    def calls(self) -> list[Frame]:
        """The calls that have come in-line."""
        return [frame for frame in self.control.frames() if frame.kind == CALL]

    def replied_setup(self) -> bool:
        """True once the other side's SETUP has come."""
        return any(frame.kind == FrameType.SETUP for frame in self.control.frames())

    async def close_code(self) -> int | None:
        """Wait for the end; the code that the other side closed with (None when it said none)."""
        async with asyncio.timeout(60):
            error = await asyncio.shield(self.closed)
        return error.close_code if isinstance(error, ConnectionLost) else None


def raw_setup(**changes: object) -> bytes:
    """A SETUP frame that lists ``json`` only."""
    setup = Setup(codecs=("json",), max_concurrent_calls=1_024, inline_max_bytes=17_408, agent="by hand")
    return encode_setup(replace(setup, **changes), Limits())  # type: ignore[arg-type]  # names are checked by replace


def call(
    number: int, method: str = "echo", payload: bytes = b"1", *, method_id: int | None = None, timeout_ms: int = 0
) -> bytes:
    """An in-line CALL: by interned id, or with its full name (``method_id`` 0xFFFF) by default."""
    if method_id is not None and method_id < MAX_INTERNED:
        return CALL_HEAD.pack(CALL, 0, 0, 12 + len(payload), number, timeout_ms, method_id, JSON, 2) + payload
    return encode_call_head(number, timeout_ms, method.encode(), 0xFFFF, JSON, 2, b"", len(payload)) + payload


def response(number: int, payload: bytes = b"1", *, codec: int = JSON, error: bool = False) -> bytes:
    """An in-line RESPONSE."""
    return RESPONSE_HEAD.pack(RESPONSE, ERROR if error else 0, 0, 8 + len(payload), number, codec) + payload


async def dialled(url: str, *first: bytes) -> RawPeer:
    """A raw dialer, connected to the server at ``url``; with ``first`` its control substream is open."""
    transport = MemoryTransport()
    connection = await transport.dial(Url.parse(url), MemoryOptions())
    peer = RawPeer(connection)
    if first:
        peer.begin(*first)
    return peer


async def listen_by_hand(url: str, peers: list[RawPeer]) -> Listener:
    """A listener at ``url`` whose ends are made by hand; each is added to ``peers``, and says nothing by itself."""

    def accept(made: Connection | Pipe) -> None:
        assert isinstance(made, Connection)
        peers.append(RawPeer(made))

    return await MemoryTransport().listen(Url.parse(url), MemoryOptions(), accept)


@asynccontextmanager
async def client_by_hand(*handlers: object, **keywords: Any) -> AsyncIterator[tuple[RpcClient, RawPeer]]:
    """A client, and a listener made by hand that it has dialled; its SETUP has come, ours is still to be sent."""
    peers: list[RawPeer] = []
    url = memory_url()
    listener = await listen_by_hand(url, peers)
    try:
        options = {"reconnect": False, **keywords}  # a test looks at one session, not at the next
        async with RpcClient.connect(url, *handlers, **options) as client:
            await until(lambda: peers and peers[0].accepted and peers[0].replied_setup())
            yield client, peers[0]
    finally:
        await listener.close()
        for peer in peers:
            peer.connection.abort()
