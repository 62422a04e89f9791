"""Streams, over every transport that is installed and on both event loops."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from echostream_core import (
    Disconnected,
    RemoteError,
    RpcError,
    StatusCode,
    Stream,
    StreamReset,
    handler,
    stream_handler,
)
from tests.support.handlers import BASIC, Watched
from tests.support.pairs import Pair, connected
from tests.support.transports import Endpoint
from tests.support.waiting import settle, until

LOOPS = ("asyncio", "uvloop")

MIB = 1 << 20
CHUNK = 16_384
TOTAL = 24 * MIB


def linked(
    transport: Endpoint, *handlers: object, server: Mapping[str, Any] | None = None
) -> AbstractAsyncContextManager[Pair]:
    """A connected pair over ``transport``."""
    return connected(
        *handlers, url=transport.url, server={**transport.options, **(server or {})}, client=transport.options
    )


@stream_handler("digest")
async def digest(stream: Stream) -> list[object]:
    """The length and the hash of everything."""
    total = 0
    summary = hashlib.sha256()
    async for item in stream:
        total += len(item)
        summary.update(item)
    return [total, summary.hexdigest()]


async def test_items_raw_and_typed_in_both_directions(transport: Endpoint) -> None:
    items: list[Any] = [b"", b"raw", "text", 5, None, [1, [2]], {"a": "b"}, bytes(70_000), b"x" * 300_000]
    async with linked(transport, *BASIC) as pair:
        async with pair.client.open_stream("echo_stream") as stream:
            for item in items:
                await stream.send(item)
                assert await stream.recv() == item
            await stream.end()
            assert [item async for item in stream] == []
        await pair.at_rest()


async def test_an_upload_arrives_as_it_was(transport: Endpoint) -> None:
    data = bytes(range(256)) * 16_384
    async with linked(transport, digest) as pair:
        async with pair.client.open_stream("digest") as stream:
            for position in range(0, len(data), 50_000):
                await stream.send(data[position : position + 50_000])
            await stream.end()
            assert await stream.recv() == [len(data), hashlib.sha256(data).hexdigest()]
        await pair.at_rest()


async def test_a_generator_arrives_and_early_leave_ends_it(transport: Endpoint) -> None:
    ended = asyncio.Event()

    @handler("source")
    async def source() -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            ended.set()

    async with linked(transport, source, *BASIC) as pair:
        assert [item async for item in pair.client.stream("count", 500)] == list(range(500))
        async for item in pair.client.stream("source"):
            if item == 100:
                break
        gc.collect()
        await ended.wait()
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_stream_that_is_given_up_at_any_moment_leaves_nothing(transport: Endpoint, size: int) -> None:
    async def use(pair: Pair) -> None:
        async with pair.client.open_stream("echo_stream") as stream:
            for _ in range(5):
                await stream.send(bytes(size))
                await stream.recv()
            await stream.end()
            async for _ in stream:
                pass

    async with linked(transport, *BASIC) as pair:
        await pair.ready()
        for turns in range(0, 40, 3):
            using = asyncio.ensure_future(use(pair))
            await settle(turns)
            using.cancel()
            await asyncio.wait({using})
        await pair.at_rest()


async def test_resets_both_ways(transport: Endpoint) -> None:
    watched = Watched()

    @stream_handler("reset")
    async def reset(stream: Stream) -> None:
        await stream.recv()
        stream.reset(4_711)

    async with linked(transport, watched, reset, *BASIC) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await stream.send(b"x")
        await watched.reached(begun=1)
        stream.reset(99)
        await watched.reached(cancelled=1)
        other = await pair.client.open_stream("reset")
        await other.send(b"x")
        with pytest.raises(StreamReset) as caught:
            await other.recv()
        assert caught.value.code == 4_711
        await pair.at_rest()


async def test_who_sends_is_told_what_the_handler_has_raised(transport: Endpoint) -> None:
    @stream_handler("full")
    async def full(stream: Stream) -> None:
        for _ in range(3):
            await stream.recv()
        raise RpcError(StatusCode.RESOURCE_EXHAUSTED, "the disk is full")

    async with linked(transport, full) as pair:
        for _ in range(5):
            with pytest.raises(RemoteError, match="the disk is full") as caught:
                async with pair.client.open_stream("full") as stream:
                    while True:
                        await stream.send(bytes(20_000))
            assert caught.value.code == StatusCode.RESOURCE_EXHAUSTED
        await pair.at_rest()


async def test_a_handlers_exception_comes_after_its_items(transport: Endpoint) -> None:
    @stream_handler("fails")
    async def fails(stream: Stream) -> None:
        for _ in range(10):
            await stream.send(bytes(20_000))
        raise RpcError(StatusCode.DATA_LOSS, "disk full", details=[("Disk", {"name": "sda"})])

    async with linked(transport, fails) as pair:
        stream = await pair.client.open_stream("fails")
        received = 0
        with pytest.raises(RemoteError) as caught:
            async for item in stream:
                received += len(item)
        assert received == 200_000
        assert caught.value.code is StatusCode.DATA_LOSS
        assert caught.value.details == (("Disk", {"name": "sda"}),)
        await pair.at_rest()


async def test_an_unread_upload_is_held_back_and_completes_when_it_is_read(transport: Endpoint) -> None:
    """24 MB to a handler that does not read: one window there, bounded queues on the way, and small calls go on."""
    watched = Watched()
    async with linked(transport, watched, *BASIC) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        sent = 0

        async def upload() -> None:
            nonlocal sent
            while sent < TOTAL:
                await stream.send(bytes(CHUNK))
                sent += CHUNK
            await stream.end()

        uploading = asyncio.ensure_future(upload())
        # Nothing moves any more when several round trips bring no progress.
        quiet = 0
        while quiet < 20:
            before = sent
            assert await pair.client.request("echo", 1) == 1
            quiet = quiet + 1 if sent == before else 0
        assert not uploading.done()
        assert unread(pair) <= 65_536
        assert sent <= 512 * 1024, f"{sent} bytes were taken from a sender that nobody reads"
        watched.go_on.set()
        await uploading
        assert await stream.recv() == TOTAL
        await pair.at_rest()


def unread(pair: Pair) -> int:
    """Bytes that lie unread in the server's streams."""
    streams: Any = (pair.far._streams or {}).values()
    found = [entry[0] if isinstance(entry, tuple) else entry for entry in streams]
    return sum(len(item[1]) for stream in found for item in stream._inbox or ())


async def test_twenty_unread_streams_do_not_stop_calls(transport: Endpoint) -> None:
    watched = Watched()
    async with linked(transport, watched, *BASIC) as pair:
        streams = [await pair.client.open_stream("watched.stream") for _ in range(20)]
        await watched.reached(begun=20)

        async def flood(stream: Stream) -> None:
            while True:
                await stream.send(bytes(CHUNK))

        floods = [asyncio.ensure_future(flood(stream)) for stream in streams]
        for _ in range(30):
            answers = await asyncio.gather(*(pair.client.request("echo", number) for number in range(10)))
            assert answers == list(range(10))
        assert len(await pair.client.request("echo", "x" * MIB, timeout=30)) == MIB
        assert unread(pair) <= 20 * 65_536
        for stream in streams:
            stream.reset()
        await asyncio.gather(*floods, return_exceptions=True)
        await watched.reached(cancelled=20)
        await pair.at_rest()


async def test_many_streams_are_open_at_once(transport: Endpoint) -> None:
    count = 1_000 if transport.scheme == "memory" else 100
    async with linked(transport, *BASIC) as pair:
        streams = [await pair.client.open_stream("echo_stream") for _ in range(count)]
        for number, stream in enumerate(streams):
            await stream.send(number)
        assert [await stream.recv() for stream in streams] == list(range(count))
        for stream in streams:
            await stream.end()
        for stream in streams:
            assert [item async for item in stream] == []
        await pair.at_rest()


async def test_more_streams_than_the_transport_allows_wait_or_are_refused(transport: Endpoint) -> None:
    """Never a hang, never a leak: each stream works or says that it was not processed."""
    limits = {"max_streams": 8, "max_concurrent_calls": 200}
    options: dict[str, Any] = {"limits": limits}
    if not transport.muxed:
        options["transport"] = {transport.scheme: {"max_streams": 8}}
    async with linked(transport, *BASIC, server=options) as pair:
        await pair.ready()

        async def use(number: int) -> object:
            try:
                async with pair.client.open_stream("echo_stream", timeout=20) as stream:
                    await stream.send(number)
                    return await stream.recv()
            except (RpcError, StreamReset) as error:
                return error

        results = await asyncio.gather(*(use(number) for number in range(60)))
        worked = [result for number, result in enumerate(results) if result == number]
        refused = [result for result in results if isinstance(result, RpcError)]
        assert len(worked) >= 8
        assert len(worked) + len(refused) == 60, [result for result in results if isinstance(result, StreamReset)]
        assert all(error.not_processed for error in refused)
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


async def test_streams_one_after_the_other_leave_nothing(transport: Endpoint) -> None:
    count = 2_500 if transport.scheme == "memory" else 400
    async with linked(transport, *BASIC) as pair:
        for number in range(count):
            async with pair.client.open_stream("collect") as stream:
                await stream.send(b"abc")
                if number % 3:
                    await stream.end()
                    assert await stream.recv() == 3
        await pair.at_rest()


async def test_the_end_of_the_server_ends_the_streams(transport: Endpoint) -> None:
    watched = Watched()
    async with linked(transport, watched) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        receiving = asyncio.ensure_future(stream.recv())
        await pair.server.close(drain=0)
        with pytest.raises(Disconnected):
            await receiving
        await watched.reached(cancelled=1)
        await until(pair.near.closed.done)
