"""Opening streams, and the items of a generator: early leave, deadlines, slots, and refusals."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from echostream_core import (
    CloseCode,
    DeadlineExceeded,
    Disconnected,
    LimitExceeded,
    Limits,
    RemoteError,
    RpcError,
    StatusCode,
    Stream,
    StreamReset,
    handler,
    stream_handler,
)
from echostream_core.wire.frames import ERROR, SubstreamKind, encode_substream_head
from echostream_core.wire.message import encode_call_head, encode_data_head, encode_response_head
from echostream_core.wire.metadata import encode_error
from tests.support.handlers import Watched, collect, count_up, echo
from tests.support.pairs import connected, leftovers
from tests.support.raw_peer import RawSubstream, client_by_hand, dialled, raw_setup
from tests.support.waiting import settle, until

LOOPS = ("virtual",)


class Source:
    """A generator whose life a test can watch."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.yielded = 0
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def handler(self) -> object:
        @handler("source")
        async def source() -> AsyncIterator[bytes]:
            try:
                while True:
                    self.yielded += 1
                    yield bytes(self.size)
            except BaseException as error:
                self.ended.set_result(type(error).__name__)
                raise

        return source


async def test_items_of_a_generator_arrive_and_end() -> None:
    async with connected(count_up) as pair:
        assert [item async for item in pair.client.stream("count", 5)] == [0, 1, 2, 3, 4]
        assert [item async for item in pair.client.stream("count", 0)] == []
        assert [item async for item in pair.client.stream("count", 3, returns=int)] == [0, 1, 2]
        await pair.at_rest()


async def test_many_items_arrive() -> None:
    async with connected(count_up) as pair:
        total = 0
        async for item in pair.client.stream("count", 20_000):
            total += item
        assert total == 20_000 * 19_999 // 2
        await pair.at_rest()


async def test_a_generator_goes_no_faster_than_its_reader() -> None:
    source = Source(10_000)
    async with connected(source.handler()) as pair:
        items = pair.client.stream("source")
        await anext(items)
        await settle(500)
        assert source.yielded < 40
        for _ in range(100):
            await anext(items)
        assert source.yielded < 160
        await items.aclose()
        await source.ended
        await pair.at_rest()


@pytest.mark.parametrize("turns", range(8))
async def test_a_stream_that_is_given_up_at_once_is_over_at_both_ends(turns: int) -> None:
    """Also in the turn in which the handler's task was made, before its first step."""
    source = Source()
    async with connected(source.handler(), collect) as pair:
        await pair.ready()
        reading = asyncio.ensure_future(anext(pair.client.stream("source")))
        stream = await pair.client.open_stream("collect")
        await settle(turns)
        reading.cancel()
        stream.reset()
        await asyncio.wait({reading})
        await pair.at_rest()


async def test_leaving_the_loop_ends_the_generator() -> None:
    source = Source()
    async with connected(source.handler()) as pair:
        async for _ in pair.client.stream("source"):
            break
        gc.collect()
        assert await source.ended in ("CancelledError", "GeneratorExit")
        await pair.at_rest()


async def test_closing_or_leaving_the_block_ends_the_generator() -> None:
    for leave in ("aclose", "block", "error"):
        source = Source()
        async with connected(source.handler()) as pair:
            items = pair.client.stream("source")
            if leave == "aclose":
                await anext(items)
                await items.aclose()
                await items.aclose()
            else:
                try:
                    async with items:
                        await anext(items)
                        if leave == "error":
                            raise KeyError(leave)
                except KeyError:
                    pass
            await source.ended
            with pytest.raises(StopAsyncIteration):
                await anext(items)
            await pair.at_rest()


async def test_a_stream_that_was_never_begun_opens_nothing() -> None:
    source = Source()
    async with connected(source.handler()) as pair:
        items = pair.client.stream("source")
        await items.aclose()
        del items
        async with pair.client.stream("source"):
            pass
        await pair.at_rest()
        assert source.yielded == 0


async def test_cancelling_the_reader_ends_the_generator() -> None:
    source = Source()

    async with connected(source.handler()) as pair:

        async def read() -> None:
            async for _ in pair.client.stream("source"):
                await asyncio.sleep(0)

        reading = asyncio.ensure_future(read())
        await until(lambda: source.yielded > 3)
        reading.cancel()
        await source.ended
        assert reading.cancelled()
        gc.collect()
        await pair.at_rest()


async def test_a_generators_exception_comes_after_its_items() -> None:
    @handler("fails")
    async def fails() -> AsyncIterator[int]:
        yield 1
        raise RpcError(StatusCode.OUT_OF_RANGE, "that was all")

    async with connected(fails) as pair:
        received = []
        with pytest.raises(RemoteError, match="that was all"):
            async for item in pair.client.stream("fails"):
                received.append(item)
        assert received == [1]
        await pair.at_rest()


async def test_a_generator_stops_at_its_deadline() -> None:
    source = Source()

    async with connected(source.handler()) as pair:
        items = pair.client.stream("source", timeout=2)
        with pytest.raises(DeadlineExceeded):
            async for _ in items:
                await asyncio.sleep(0.1)
        await source.ended
        await pair.at_rest()


async def test_a_wrong_item_names_its_path_and_frees_the_stream() -> None:
    async with connected(count_up) as pair:
        with pytest.raises(RpcError, match="not what returns= expects"):
            async for _ in pair.client.stream("count", 3, returns=str):
                pass
        gc.collect()
        await pair.at_rest()


async def test_opening_counts_as_a_call() -> None:
    watched = Watched()
    async with connected(watched, collect, server={"limits": {"max_concurrent_calls": 128}}) as pair:
        await pair.ready()
        streams = [await pair.client.open_stream("watched.stream") for _ in range(128)]
        await watched.reached(begun=128)
        with pytest.raises(DeadlineExceeded, match="no free slot"):
            await pair.client.open_stream("collect", timeout=1)
        waiting = asyncio.ensure_future(pair.client.request("watched.wait", timeout=None))
        await settle()
        streams[0].reset()
        await watched.reached(begun=129)
        for stream in streams:
            stream.reset()
        watched.go_on.set()
        assert await waiting == "done"
        await pair.at_rest()


async def test_a_cancelled_opening_leaves_nothing() -> None:
    watched = Watched()
    async with connected(watched, server={"limits": {"max_concurrent_calls": 128}}) as pair:
        await pair.ready()
        streams = [await pair.client.open_stream("watched.stream") for _ in range(128)]
        opening = asyncio.ensure_future(pair.client.session.open_stream("watched.stream")._open())
        await settle()
        opening.cancel()
        await settle()
        assert opening.cancelled()
        for stream in streams:
            stream.reset()
        await pair.at_rest()


async def test_an_opening_payload_over_the_limit_is_refused_here() -> None:
    async with connected(collect, server={"limits": {"max_message_bytes": 50_000}}) as pair:
        await pair.ready()
        with pytest.raises(LimitExceeded):
            await pair.client.open_stream("collect", "x" * 60_000)
        with pytest.raises(RpcError, match="cannot be sent"):
            await pair.client.open_stream("collect", object())
        await pair.at_rest()


async def test_an_opening_without_time_opens_nothing() -> None:
    async with connected(collect) as pair:
        for timeout in (0, -1):
            with pytest.raises(DeadlineExceeded) as caught:
                await pair.client.open_stream("collect", timeout=timeout)
            assert caught.value.not_processed
        await pair.at_rest()


async def test_a_stream_inside_a_handler_inherits_its_deadline() -> None:
    inner = Watched()

    @handler("outer")
    async def outer() -> None:
        stream = await pair.far.open_stream("watched.stream")
        await stream.recv()

    async with connected(outer, client_handlers=(inner,)) as pair:
        with pytest.raises(DeadlineExceeded):
            await pair.client.request("outer", timeout=4)
        assert inner.contexts[0].deadline == pytest.approx(4.0, abs=0.01)
        await inner.reached(cancelled=1)


# A peer that ends streams in its own ways


class RawStream:
    """What a listener made by hand sees of one stream that a client opens."""

    def __init__(self, raw: RawSubstream, number: int) -> None:
        self.raw = raw
        self.number = number

    def item(self, data: bytes = b"item") -> bytes:
        return encode_data_head(0, len(data)) + data

    def final(self, body: bytes = b"", flags: int = 0) -> bytes:
        return encode_response_head(self.number, flags, 1, len(body)) + body


async def test_an_end_without_a_final_status_is_no_success() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        raw = RawStream(peer.accepted[1], 0)
        raw.raw.send(raw.item(), end=True)
        with pytest.raises((RpcError, StreamReset), match="without a final status"):
            for _ in range(2):
                assert await stream.recv() == b"item"
        stream.reset()
        await settle()
        assert leftovers(client.session) == {}


@pytest.mark.parametrize("first", ["stop", "status"])
async def test_who_sends_is_told_the_handlers_error(first: str) -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        raw = RawStream(peer.accepted[1], 0)
        body = encode_error(RpcError(StatusCode.PERMISSION_DENIED, "no"), [], Limits())
        if first == "status":
            raw.raw.send(raw.final(body, flags=1), end=True)
        raw.raw.substream.stop(CloseCode.CANCELLED)
        await settle()
        sending = asyncio.ensure_future(stream.send(b"x"))
        await settle()
        if first == "stop":
            assert not sending.done()
            raw.raw.send(raw.final(body, flags=1), end=True)
        for again in (sending, stream.send(b"x"), stream.recv()):
            with pytest.raises(RemoteError, match="no") as caught:
                await again
            assert caught.value.code == StatusCode.PERMISSION_DENIED
        assert leftovers(client.session) == {}


async def test_who_sends_to_a_peer_that_only_stops_to_read_is_told_that_after_a_while() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        raw = RawStream(peer.accepted[1], 0)
        raw.raw.substream.stop(77)
        await settle()
        for unread in (False, True):
            if unread:  # what says why may stand behind it, and wait for credit
                raw.raw.send(raw.item())
                await settle()
            begin = client.session.loop.time()
            with pytest.raises(StreamReset) as caught:
                await stream.send(b"x")
            assert caught.value.code == 77
            assert client.session.loop.time() - begin == pytest.approx(0 if unread else 2)
        assert await stream.recv() == b"item"
        stream.reset()
        await settle()
        assert leftovers(client.session) == {}


async def test_a_sender_that_waits_for_the_reason_is_told_when_the_session_ends() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        peer.accepted[1].substream.stop(77)
        await settle()
        sending = asyncio.ensure_future(stream.send(b"x"))
        await settle()
        peer.connection.abort()
        with pytest.raises(Disconnected):
            await sending


async def test_a_reset_frees_the_slot_without_the_users_doing() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        raw = peer.accepted[1]
        raw.substream.reset(5)
        raw.substream.stop(5)
        with pytest.raises(StreamReset) as caught:
            await stream.recv()
        assert caught.value.code == 5
        await settle()
        assert leftovers(client.session) == {}


async def test_a_final_status_frees_the_slot_without_the_users_doing() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        raw = RawStream(peer.accepted[1], 0)
        raw.raw.send(raw.item(), raw.final(), end=True)
        await settle()
        assert client.session.outgoing.slots.used == 0
        assert [item async for item in stream] == [b"item"]
        await stream.end()
        await settle()
        assert leftovers(client.session) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(encode_response_head(2, 0, 1, 0), id="the number of another"),
        pytest.param(encode_response_head(0, ERROR, 1, 1) + b"\x05", id="an error that is cut off"),
        pytest.param(b"\x02\x00\x00\x00\x00\x00\x00\x00", id="a call"),
        pytest.param(b"\x7e\x00\x00\x00\x00\x00\x00\x00", id="an unknown frame"),
        pytest.param(encode_data_head(9, 1) + b"x", id="an item in a codec never listed"),
    ],
)
async def test_a_peer_that_breaks_the_rules_on_a_stream_ends_the_session(wrong: bytes) -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        peer.accepted[1].send(wrong)
        with pytest.raises((RpcError, StopAsyncIteration)):
            for _ in range(3):
                await stream.__anext__()
        assert await peer.close_code() in (2, 3)


@pytest.mark.parametrize("behind", [encode_data_head(0, 1) + b"x", encode_response_head(0, 0, 1, 0)])
async def test_what_comes_behind_the_final_status_is_not_seen(behind: bytes) -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        raw = RawStream(peer.accepted[1], 0)
        raw.raw.send(raw.item(), raw.final(), behind)
        assert [item async for item in stream] == [b"item"]
        await settle()
        assert leftovers(client.session) == {}


async def test_ignorable_frames_on_a_stream_cost_no_credit() -> None:
    """Several windows of frames that nobody knows go by, and the items between them arrive."""
    async with connected(collect) as pair:
        await pair.ready()
        peer = await dialled(pair.server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        head = encode_substream_head(SubstreamKind.STREAM, 2, 0)
        raw = peer.open(head, encode_call_head(0, 0, b"collect", 0xFFFF, 1, 2, b"", 4) + b"null")
        unknown = b"\x7a\x80\x00\x00" + (30_000).to_bytes(4, "little") + bytes(30_000)
        for _ in range(10):
            raw.send(unknown, encode_data_head(0, 4) + b"item")
        raw.send(end=True)
        await until(lambda: raw.ended)
        assert raw.frames()[0].body == b"40"
        peer.connection.close(0, "")


@pytest.mark.parametrize("turns", range(1, 12, 2))
async def test_a_large_item_that_nobody_takes_gives_its_memory_back(turns: int) -> None:
    """The handler stops waiting for an item in the middle of it, the rest of it and the end come, and it returns."""
    go_on = asyncio.Event()

    @stream_handler("fickle")
    async def fickle(stream: Stream) -> str:
        receiving = asyncio.ensure_future(stream.recv())
        while not pair.far.budget.used and not receiving.done():
            await asyncio.sleep(0)
        await settle(turns)
        receiving.cancel()
        await asyncio.wait({receiving})
        await go_on.wait()
        return "never mind"

    async with connected(fickle) as pair:
        await pair.ready()
        stream = await pair.client.open_stream("fickle")
        sending = asyncio.ensure_future(stream.send(bytes(500_000)))
        await asyncio.wait({sending}, timeout=1)
        await stream.end()
        await settle(200)
        go_on.set()
        await asyncio.wait({sending})
        assert await stream.recv() == "never mind"
        await pair.at_rest()


async def test_a_stream_number_that_is_in_use_ends_the_session() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        peer = await dialled(pair.server.addresses[0], raw_setup())
        head = encode_substream_head(SubstreamKind.STREAM, 2, 0)
        opening = encode_call_head(0, 0, b"watched.stream", 0xFFFF, 1, 2, b"", 4) + b"null"
        peer.open(head, opening)
        await watched.reached(begun=1)
        peer.open(head, opening)
        assert await peer.close_code() == 2
        await watched.reached(cancelled=1)


async def test_the_session_ends_under_a_generator() -> None:
    source = Source()
    async with connected(source.handler()) as pair:
        items = pair.client.stream("source")
        await anext(items)
        pair.far.abort()
        with pytest.raises(Disconnected):
            async for _ in items:
                pass
        await source.ended


async def test_a_stream_handler_cannot_tell_its_opener_to_try_again() -> None:
    @stream_handler("outer")
    async def outer(stream: Stream) -> object:
        return await pair.far.request("no_such_method")

    async with connected(outer, echo) as pair:
        stream = await pair.client.open_stream("outer")
        with pytest.raises(RpcError) as caught:
            await stream.recv()
        assert caught.value.code is StatusCode.INTERNAL
        assert not caught.value.not_processed
