"""Readers that do not read: memory stays within one window per stream, and everybody else goes on."""

from __future__ import annotations

import asyncio
from itertools import count

from echostream_core import RpcServer, Stream, handler, stream_handler
from echostream_core.wire.frames import SubstreamKind, encode_substream_head
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from echostream_core.wire.message import encode_call_head, encode_data_head
from tests.support.handlers import BASIC, Watched
from tests.support.pairs import connected, memory_url
from tests.support.raw_peer import JSON, RawPeer, RawSubstream, dialled, raw_setup
from tests.support.waiting import settle, until

LOOPS = ("virtual",)

MIB = 1 << 20
CHUNK = 16_384
TOTAL = 24 * MIB


async def upload(stream: Stream, sent: list[int]) -> None:
    for _ in range(TOTAL // CHUNK):
        await stream.send(bytes(CHUNK))
        sent[0] += CHUNK
    await stream.end()


async def test_an_unread_upload_stops_at_one_window_and_completes_when_it_is_read() -> None:
    watched = Watched()
    async with connected(watched, *BASIC) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        sent = [0]
        uploading = asyncio.ensure_future(upload(stream, sent))
        await settle(3_000)
        # One window is there, at most as much again is in the queue here.
        assert sent[0] <= 2 * INITIAL_WINDOW_BYTES + 2 * CHUNK
        assert unread(pair.far) <= INITIAL_WINDOW_BYTES
        for number in range(20):
            assert await pair.client.request("echo", number) == number
        watched.go_on.set()
        await uploading
        assert await stream.recv() == TOTAL
        await pair.at_rest()


def unread(session: object) -> int:
    """Bytes that lie in the inboxes of a session's streams."""
    total = 0
    for entry in session._streams.values():  # type: ignore[attr-defined]  # the tests look inside here only
        stream = entry[0] if isinstance(entry, tuple) else entry
        total += sum(len(item[1]) for item in stream._inbox or ())
    return total


async def test_an_unread_download_stops_at_one_window_too() -> None:
    produced = count()
    last = 0

    @stream_handler("download")
    async def download(stream: Stream) -> None:
        nonlocal last
        for _ in range(TOTAL // CHUNK):
            await stream.send(bytes(CHUNK))
            last = next(produced) + 1

    async with connected(download, *BASIC) as pair:
        stream = await pair.client.open_stream("download")
        await settle(3_000)
        assert last * CHUNK <= 2 * INITIAL_WINDOW_BYTES + 2 * CHUNK
        assert unread(pair.near) <= INITIAL_WINDOW_BYTES
        assert await pair.client.request("echo", 1) == 1
        received = 0
        async for item in stream:
            received += len(item)
        assert received == TOTAL
        await pair.at_rest()


async def test_twenty_unread_streams_do_not_stop_calls_of_any_size() -> None:
    watched = Watched()
    async with connected(watched, *BASIC) as pair:
        streams = [await pair.client.open_stream("watched.stream") for _ in range(20)]
        await watched.reached(begun=20)
        sent = [[0] for _ in streams]
        uploads = [asyncio.ensure_future(upload(stream, each)) for stream, each in zip(streams, sent, strict=True)]
        await settle(500)
        assert unread(pair.far) <= 20 * INITIAL_WINDOW_BYTES
        answers = await asyncio.gather(*(pair.client.request("echo", number) for number in range(100)))
        assert answers == list(range(100))
        assert len(await pair.client.request("echo", "x" * MIB)) == MIB
        for stream in streams:
            stream.reset()
        await asyncio.gather(*uploads, return_exceptions=True)
        await watched.reached(cancelled=20)
        await pair.at_rest()


class Opened:
    """A stream opened by hand."""

    def __init__(self, peer: RawPeer, number: int, method: bytes) -> None:
        head = encode_substream_head(SubstreamKind.STREAM, 2, number)
        opening = encode_call_head(number, 0, method, 0xFFFF, JSON, 2, b"", 4) + b"null"
        self.raw: RawSubstream = peer.open(head, opening)


async def test_a_peer_that_ignores_its_credit_cannot_make_us_hold_more() -> None:
    """Memory enforces credit below the session: what is sent beyond it waits at the sender's end."""
    watched = Watched()
    async with RpcServer(memory_url(), watched, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        opened = Opened(peer, 0, b"watched.stream")
        await watched.reached(begun=1)
        for _ in range(500):
            opened.raw.send(encode_data_head(0, CHUNK) + bytes(CHUNK))
        await settle(200)
        (session,) = server.sessions
        assert unread(session) <= INITIAL_WINDOW_BYTES
        watched.go_on.set()
        opened.raw.send(end=True)
        await until(lambda: opened.raw.ended)
        assert opened.raw.frames()[0].body == str(500 * CHUNK).encode()
        peer.connection.close(0, "")


async def test_large_items_that_nobody_reads_reserve_no_budget() -> None:
    """An item beyond the window reserves memory only while a reader waits for it."""
    watched = Watched()
    async with connected(watched, *BASIC) as pair:
        streams = [await pair.client.open_stream("watched.stream") for _ in range(30)]
        await watched.reached(begun=30)
        sending = [asyncio.ensure_future(stream.send(bytes(3 * MIB))) for stream in streams]
        await settle(200)
        assert pair.far.budget.used == 0
        assert len(await pair.client.request("echo", "x" * (3 * MIB))) == 3 * MIB
        watched.go_on.set()
        await asyncio.gather(*sending)
        for stream in streams:
            await stream.end()
        totals = await asyncio.gather(*(stream.recv() for stream in streams))
        assert totals == [3 * MIB] * 30
        await pair.at_rest()


async def test_a_reader_that_stops_in_the_middle_holds_one_window() -> None:
    taken: list[int] = []
    go_on = asyncio.Event()

    @stream_handler("slow")
    async def slow(stream: Stream) -> int:
        async for item in stream:
            taken.append(len(item))
            if len(taken) == 200:
                await go_on.wait()
        return sum(taken)

    @handler("echo")
    async def small(value: object) -> object:
        return value

    async with connected(slow, small) as pair:
        stream = await pair.client.open_stream("slow")
        sent = [0]
        uploading = asyncio.ensure_future(upload(stream, sent))
        await until(lambda: len(taken) == 200)
        await settle(500)
        window = 1_048_576  # what it may have grown to for a busy reader
        assert sent[0] - 200 * CHUNK <= window + 2 * INITIAL_WINDOW_BYTES
        assert await pair.client.request("echo", 1) == 1
        go_on.set()
        await uploading
        assert await stream.recv() == TOTAL
        await pair.at_rest()
