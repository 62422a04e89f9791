"""Compressed messages between a server and a client, over every transport and with every compression installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from echostream_core import (
    Context,
    Event,
    LimitExceeded,
    RpcClient,
    RpcServer,
    Session,
    Stream,
    handler,
    listener,
    stream_handler,
)
from echostream_core.engine import event_sender
from tests.support.compression import Watched, compressions, watched
from tests.support.pairs import Pair, connected
from tests.support.transports import Endpoint

LOOPS = ("asyncio", "uvloop")
SIZES = [0, 1, 1_021, 1_022, 1_023, 2_000, 2_100, 8_191, 8_192, 17_406, 17_500, 66_000, 1_000_000]
"""Of texts, which JSON makes two bytes longer: around ``min_bytes`` (1,024), and around the limits of each way."""


def noise(size: int) -> bytes:
    """Bytes that no compression makes fewer, the same each time."""
    state, found = 0x2545F491, bytearray()
    while len(found) < size:
        state = state * 6364136223846793005 + 1442695040888963407 & 0xFFFF_FFFF_FFFF_FFFF
        found += (state >> 32).to_bytes(4, "little")
    return bytes(found[:size])


@handler("echo")
async def echo(value: object) -> object:
    return value


@handler("size")
async def size(value: Any) -> int:
    return len(value)


@handler("make")
async def make(length: int, ctx: Context) -> str:
    return "a" * length


@stream_handler("back")
async def back(opening: object, stream: Stream) -> None:
    async for item in stream:
        await stream.send(item)


@handler("repeat")
async def repeat(length: int, times: int) -> AsyncIterator[str]:
    for _ in range(times):
        yield "a" * length


HANDLERS = (echo, size, make, back, repeat)


class Both:
    """A pair, and the compression of each end."""

    def __init__(self, pair: Pair, far: Watched, near: Watched) -> None:
        self.pair = pair
        self.client = pair.client
        self.far = far
        self.near = near


@asynccontextmanager
async def linked(
    transport: Endpoint, name: str, *targets: object, client_targets: tuple[object, ...] = (), **limits: float
) -> AsyncIterator[Both]:
    """Both ends may compress with ``name``; JSON, so that sizes are known."""
    far, near = watched(name), watched(name)
    options = {**transport.options, "codecs": ["json"], "limits": limits}
    async with connected(
        *HANDLERS,
        *targets,
        url=transport.url,
        client_handlers=client_targets,
        server={**options, "compression": [far]},
        client={**options, "compression": [near]},
    ) as pair:
        await pair.ready()
        yield Both(pair, far, near)
        await pair.at_rest()


@pytest.fixture(params=compressions())
def name(request: pytest.FixtureRequest) -> str:
    """One of the compressions."""
    return str(request.param)


async def test_calls_of_every_size_come_back_as_they_went(transport: Endpoint, name: str) -> None:
    async with linked(transport, name) as both:
        for length in SIZES:
            text = "a" * length
            assert await both.client.request("echo", text) == text
        worth = [length + 2 for length in SIZES if length + 2 >= 1_024]
        assert [before for before, _ in both.near.compressed] == worth
        assert [before for before, _ in both.far.compressed] == worth
        assert [after for _, after in both.far.decompressed] == worth
        assert both.near.decompressed == [(after, before) for before, after in both.far.compressed]
        assert not both.near.kept and not both.far.kept


async def test_a_body_below_min_bytes_is_not_compressed(transport: Endpoint, name: str) -> None:
    async with linked(transport, name) as both:
        await both.client.request("echo", "a" * 1_021)
        assert not both.near.compressed and not both.far.compressed
        await both.client.request("echo", "a" * 1_022)
        assert len(both.near.compressed) == len(both.far.compressed) == 1


async def test_what_does_not_get_smaller_is_sent_as_it_is(transport: Endpoint, name: str) -> None:
    async with linked(transport, name) as both:
        for length in (1_500, 9_000, 20_000, 200_000):
            async with both.client.open_stream("back") as stream:
                item = noise(length)
                await stream.send(item)
                assert await stream.recv() == item
                await stream.end()
        assert both.near.kept == both.far.kept == [1_500, 9_000, 20_000, 200_000]
        assert not both.near.compressed and not both.near.decompressed and not both.far.decompressed


async def test_calls_in_flight_together_do_not_mix(transport: Endpoint, name: str) -> None:
    async with linked(transport, name) as both:
        texts = [chr(97 + number % 26) * (600 + 97 * number) for number in range(100)]
        assert await asyncio.gather(*(both.client.request("echo", text) for text in texts)) == texts


async def test_a_server_calls_its_client_compressed(transport: Endpoint, name: str) -> None:
    async with linked(transport, name, client_targets=(echo,)) as both:
        assert await both.pair.far.request("echo", "b" * 5_000) == "b" * 5_000
        assert len(both.far.compressed) == len(both.near.compressed) == 1


async def test_items_of_a_stream_are_compressed_both_ways(transport: Endpoint, name: str) -> None:
    items = ["a" * 3_000, b"b" * 5_000, {"k": "c" * 100_000}, "short", b"", b"d" * 300_000]
    async with linked(transport, name) as both:
        async with both.client.open_stream("back", {"opening": "o" * 2_000}) as stream:
            for item in items:
                await stream.send(item)
                assert await stream.recv() == item
            await stream.end()
        assert len(both.near.compressed) == 1 + 4
        assert len(both.far.compressed) == 4
        assert [item async for item in both.client.stream("repeat", {"length": 70_000, "times": 5})] == [
            "a" * 70_000
        ] * 5
        assert len(both.far.compressed) == 4 + 5


async def test_events_are_compressed(transport: Endpoint, name: str) -> None:
    heard: list[object] = []

    @listener("log.*")
    def on_log(event: Event) -> None:
        heard.append(event.payload)

    async with linked(transport, name, on_log) as both:
        payloads = ["a" * length for length in SIZES] + [[1, 2]]
        for payload in payloads:
            await both.client.emit("log.line", payload)
        await both.client.flush()
        assert heard == payloads
        assert len(both.near.compressed) == len(both.far.decompressed) == sum(length >= 1_022 for length in SIZES)


async def test_an_event_is_compressed_once_for_all_who_want_it_so(transport: Endpoint, name: str) -> None:
    mine = watched(name)
    options = {**transport.options, "codecs": ["json"]}
    heard: dict[int, list[object]] = {}
    ends: dict[int, Watched] = {}
    payloads = ["s" * 100, "a" * 1_021, "b" * 1_022, "c" * 3_000, "d" * 50_000, "d" * 50_000]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            RpcServer(transport.url, drain_timeout=0, compression=[mine], **options)
        )
        for number in range(6):
            kept = heard[number] = []
            end = ends[number] = watched(name)
            client = await stack.enter_async_context(
                RpcClient.connect(
                    server.addresses[0], reconnect=False, compression=[end] if number % 2 else [], **options
                )
            )
            await client.on("news", partial(keep, kept))
        for payload in payloads:
            assert await server.broadcast("news", payload) == 6
        for session in server.sessions:
            await session.flush()
    assert all(kept == payloads for kept in heard.values())
    assert [before for before, _ in mine.compressed] == [1_024, 3_002, 50_002, 50_002]
    for number, end in ends.items():
        assert [after for _, after in end.decompressed] == ([1_024, 3_002, 50_002, 50_002] if number % 2 else [])


def keep(kept: list[object], event: Event) -> None:
    """Write the payload down."""
    kept.append(event.payload)


async def test_an_event_whose_topic_has_no_number_is_compressed_too(
    transport: Endpoint, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_sender, "MAX_INTERNED", 0)
    topic = f"rare.{transport.scheme}.{name}"
    heard: list[object] = []

    @listener(topic)
    def on_rare(event: Event) -> None:
        heard.append(event.payload)

    async with linked(transport, name, on_rare) as both:
        payloads = ["a" * length for length in SIZES]
        for payload in payloads:
            await both.client.emit(topic, payload)
        await both.client.flush()
        assert heard == payloads
        assert [before for before, _ in both.near.compressed] == [size + 2 for size in SIZES if size + 2 >= 1_024]


async def test_a_slow_subscriber_gets_its_held_events_compressed(transport: Endpoint, name: str) -> None:
    heard: list[object] = []
    gate = asyncio.Event()

    async def slow(event: Event) -> None:
        await gate.wait()
        heard.append(event.payload)

    async with linked(transport, name) as both:
        await both.client.on("news", slow, max_queue=2)
        await both.client.on("*", lambda event: heard.append("*"))
        emitting = asyncio.create_task(emit_many(both.pair.far, 40))
        await both.client.ping()
        gate.set()
        await emitting
        await both.pair.far.flush()
        assert [payload for payload in heard if payload != "*"] == [f"{number:02}" * 1_000 for number in range(40)]
        assert heard.count("*") == 40
        assert len(both.far.compressed) == 40


async def emit_many(session: Session, count: int) -> None:
    """Events with different payloads, one after the other."""
    for number in range(count):
        await session.emit("news", f"{number:02}" * 1_000)


@pytest.mark.parametrize("which", ["server", "client"])
async def test_one_end_alone_compresses_nothing(transport: Endpoint, name: str, which: str) -> None:
    one = watched(name)
    options = {**transport.options, "codecs": ["json"]}
    ends: dict[str, dict[str, Any]] = {"server": dict(options), "client": dict(options)}
    ends[which]["compression"] = [one]
    heard: list[object] = []
    async with connected(*HANDLERS, url=transport.url, server=ends["server"], client=ends["client"]) as pair:
        await pair.ready()
        await pair.client.on("news", lambda event: heard.append(event.payload))
        assert await pair.client.request("echo", "a" * 5_000) == "a" * 5_000
        assert await pair.client.request("echo", "a" * 500_000) == "a" * 500_000
        async with pair.client.open_stream("back") as stream:
            await stream.send(b"b" * 9_000)
            assert await stream.recv() == b"b" * 9_000
            await stream.end()
        await pair.far.emit("news", "n" * 4_000)
        await pair.far.flush()
        await pair.at_rest()
    assert heard == ["n" * 4_000]
    assert not one.compressed and not one.kept and not one.decompressed


async def test_a_call_with_credentials_and_its_answer_are_not_compressed(transport: Endpoint, name: str) -> None:
    async with linked(transport, name) as both:
        for metadata in ({"authorization": "Bearer x"}, {"cookie-bin": b"x"}, {"tenant": "a", "x-api-key": "k"}):
            assert await both.client.request("echo", "a" * 5_000, metadata=metadata) == "a" * 5_000
            assert await both.client.request("make", 50_000, metadata=metadata) == "a" * 50_000
            async with both.client.open_stream("back", "o" * 5_000, metadata=metadata) as stream:
                await stream.send("a" * 5_000)
                assert await stream.recv() == "a" * 5_000
                await stream.end()
        assert not both.near.compressed and not both.far.compressed
        assert await both.client.request("echo", "a" * 5_000, metadata={"tenant": "a"}) == "a" * 5_000
        assert len(both.near.compressed) == len(both.far.compressed) == 1


async def test_the_sender_measures_before_it_compresses(transport: Endpoint, name: str) -> None:
    heard: list[int] = []

    @listener("log")
    def on_log(event: Event) -> None:
        heard.append(len(event.payload))

    async with linked(transport, name, on_log, max_message_bytes=50_000, assembly_bytes=100_000) as both:
        assert await both.client.request("size", "a" * 49_998) == 49_998
        with pytest.raises(LimitExceeded, match="the payload has 50001 bytes"):
            await both.client.request("size", "a" * 49_999)
        with pytest.raises(Exception, match="the answer has 50002 bytes"):
            await both.client.request("make", 50_000)
        async with both.client.open_stream("back") as stream:
            with pytest.raises(LimitExceeded, match="an item of 50001 bytes"):
                await stream.send(b"a" * 50_001)
            await stream.send(b"a" * 50_000)
            assert await stream.recv() == b"a" * 50_000
            await stream.end()
        for _ in range(2):  # the second finds the event encoded
            with pytest.raises(LimitExceeded, match="an event of 50002 bytes"):
                await both.client.emit("log", "a" * 50_000)
        await both.client.emit("log", "a" * 49_998)
        await both.client.flush()
        assert heard == [49_998]


async def test_fewer_bytes_travel_in_line(transport: Endpoint, name: str) -> None:
    async with linked(transport, name) as both:
        opened = []
        connection: Any = both.pair.near.connection
        original = connection.open_substream

        def open_substream(*arguments: Any) -> Any:
            opened.append(arguments)
            return original(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(connection), "open_substream", lambda _, *arguments: open_substream(*arguments))
            assert await both.client.request("size", "a" * 40_000) == 40_000
        assert opened == []
