"""One end of a stream: items both ways, credit only for what was taken, and every way to end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from echostream_core import (
    CloseCode,
    Context,
    DeadlineExceeded,
    Disconnected,
    EndOfStream,
    LimitExceeded,
    ResourceBusy,
    ResourceClosed,
    RpcError,
    StatusCode,
    Stream,
    StreamReset,
    stream_handler,
)
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from tests.support.handlers import BASIC, Watched, collect, echo, echo_stream
from tests.support.pairs import Pair, connected
from tests.support.waiting import settle, until

LOOPS = ("virtual",)

WINDOW = INITIAL_WINDOW_BYTES


# Items


ITEMS: list[Any] = [b"", b"raw", "text", 5, 0.5, None, True, [1, [2]], {"a": {"b": None}}, "ü" * 1000, bytes(50_000)]


async def test_items_arrive_in_order_as_what_they_were() -> None:
    async with connected(echo_stream) as pair:
        async with pair.client.open_stream("echo_stream") as stream:
            for item in ITEMS:
                await stream.send(item)
            await stream.end()
            assert [item async for item in stream] == ITEMS
        await pair.at_rest()


async def test_bytes_are_not_touched_by_a_codec() -> None:
    """Not even by json, which has no bytes."""
    async with connected(echo_stream, server={"codecs": ["json"]}, client={"codecs": ["json"]}) as pair:
        async with pair.client.open_stream("echo_stream") as stream:
            for item in (b"\x00\xff", bytearray(b"array"), memoryview(b"view")):
                await stream.send(item)
                assert await stream.recv() == bytes(item)
        await pair.at_rest()


async def test_a_buffer_may_be_changed_after_it_was_sent() -> None:
    async with connected(echo_stream) as pair, pair.client.open_stream("echo_stream") as stream:
        buffer = bytearray(b"before")
        await stream.send(buffer)
        buffer[:] = b"after!"
        assert await stream.recv() == b"before"


async def test_an_item_that_cannot_be_sent_harms_no_other() -> None:
    async with connected(echo_stream) as pair, pair.client.open_stream("echo_stream") as stream:
        with pytest.raises(RpcError, match="cannot be sent"):
            await stream.send(object())
        with pytest.raises(LimitExceeded, match="max_message_bytes"):
            await stream.send(bytes(5_000_000))
        await stream.send("fine")
        assert await stream.recv() == "fine"


SIZES = [1, 1_000, WINDOW // 2 - 8, WINDOW // 2, WINDOW // 2 + 1, 50_000, WINDOW - 80, WINDOW - 8, WINDOW, 200_000]


@pytest.mark.parametrize("first", [0, 20_000, 32_000])
@pytest.mark.parametrize("size", SIZES)
async def test_items_of_any_size_arrive_whatever_went_before(first: int, size: int) -> None:
    async with connected(echo_stream) as pair:
        async with pair.client.open_stream("echo_stream") as stream:
            for item in (bytes(first), bytes(size), bytes(size), b"last"):
                await stream.send(item)
                assert await stream.recv() == item
        await pair.at_rest()


@pytest.mark.parametrize("size", [WINDOW // 2 + 1, WINDOW, 1_000_000])
async def test_items_larger_than_the_window_may_queue_before_anybody_reads(size: int) -> None:
    watched = Watched()
    async with connected(watched) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        sending = asyncio.ensure_future(send_all(stream, [bytes(size)] * 5))
        await settle()
        watched.go_on.set()
        await sending
        assert await stream.recv() == 5 * size
        await pair.at_rest()


async def send_all(stream: Stream, items: list[Any]) -> None:
    for item in items:
        await stream.send(item)
    await stream.end()


# Back-pressure


async def test_send_waits_until_the_peers_reader_has_taken_earlier_items() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while sent < 100 * 16_384:
                await stream.send(bytes(16_384))
                sent += 16_384
            await stream.end()

        flooding = asyncio.ensure_future(flood())
        await settle(500)
        assert not flooding.done()
        assert sent <= 3 * WINDOW, "one window there, one queue here"
        watched.go_on.set()
        await flooding
        assert await stream.recv() == 100 * 16_384


async def test_send_nowait_says_whether_there_was_room() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        accepted = 0
        for _ in range(1_000):
            accepted += stream.send_nowait(bytes(16_384))
            await asyncio.sleep(0)
        assert 0 < accepted < 20
        watched.go_on.set()
        await until(lambda: stream.send_nowait(b"x"))
        await stream.end()
        assert await stream.recv() == accepted * 16_384 + 1


async def test_a_cancelled_send_has_sent_its_item_once_or_not_at_all() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        tries = 0
        while True:
            sending = asyncio.ensure_future(stream.send(bytes(16_384)))
            await settle()
            tries += 1
            if not sending.done():
                sending.cancel()
                break
        await settle()
        assert sending.cancelled()
        watched.go_on.set()
        await stream.send(b"last")
        await stream.end()
        total = await stream.recv()
        assert total in (tries * 16_384 + 4, (tries - 1) * 16_384 + 4)


async def test_several_tasks_may_send_at_once() -> None:
    async with connected(collect) as pair, pair.client.open_stream("collect") as stream:
        await asyncio.gather(*(stream.send(bytes(30_000)) for _ in range(20)))
        await stream.end()
        assert await stream.recv() == 600_000


async def test_two_tasks_cannot_receive_at_once() -> None:
    async with connected(echo_stream) as pair, pair.client.open_stream("echo_stream") as stream:
        first = asyncio.ensure_future(stream.recv())
        await settle()
        with pytest.raises(ResourceBusy):
            await stream.recv()
        await stream.send(1)
        assert await first == 1


async def test_a_cancelled_recv_loses_no_item() -> None:
    async with connected(echo_stream) as pair, pair.client.open_stream("echo_stream") as stream:
        for number in range(20):
            receiving = asyncio.ensure_future(stream.recv())
            await stream.send(number)
            await settle(number)
            receiving.cancel()
            await asyncio.wait({receiving})
            if receiving.cancelled():
                assert await stream.recv() == number
            else:
                assert receiving.result() == number


async def test_a_cancelled_recv_of_a_large_item_loses_nothing_and_holds_nothing() -> None:
    async with connected(echo_stream) as pair:
        async with pair.client.open_stream("echo_stream") as stream:
            for turns in range(0, 60, 3):
                sending = asyncio.ensure_future(stream.send(bytes(300_000)))
                receiving = asyncio.ensure_future(stream.recv())
                await settle(turns)
                if not receiving.done():
                    receiving.cancel()
                    await settle(3)
                    if receiving.cancelled():
                        assert len(await stream.recv()) == 300_000
                        await sending
                        continue
                assert len(receiving.result()) == 300_000
                await sending
        await pair.at_rest()


# Ending


async def test_recv_after_the_end_is_an_end_again_and_again() -> None:
    async with connected(collect) as pair:
        async with pair.client.open_stream("collect") as stream:
            await stream.end()
            assert await stream.recv() == 0
            for _ in range(3):
                with pytest.raises(EndOfStream):
                    await stream.recv()
            assert [item async for item in stream] == []
        await pair.at_rest()


async def test_nothing_can_be_sent_after_end_but_reading_goes_on() -> None:
    async with connected(collect) as pair, pair.client.open_stream("collect") as stream:
        await stream.send(b"abc")
        await stream.end()
        await stream.end()
        with pytest.raises(ResourceClosed, match=r"after end\(\)"):
            await stream.send(b"more")
        with pytest.raises(ResourceClosed):
            stream.send_nowait(b"more")
        assert await stream.recv() == 3


async def test_a_reset_here_ends_both_directions_and_cancels_the_handler() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        receiving = asyncio.ensure_future(stream.recv())
        await settle()
        stream.reset()
        stream.reset()
        with pytest.raises(ResourceClosed, match="reset here"):
            await receiving
        for use in (stream.send(b"x"), stream.recv()):
            with pytest.raises(ResourceClosed, match="reset here"):
                await use
        await stream.end()
        await watched.reached(cancelled=1)
        await pair.at_rest()


async def test_a_reset_wakes_a_sender_that_waits() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        sending = asyncio.ensure_future(send_all(stream, [bytes(30_000)] * 20))
        await settle()
        stream.reset()
        with pytest.raises(ResourceClosed):
            await sending
        await pair.at_rest()


async def test_a_handler_that_resets_is_seen_with_its_code() -> None:
    @stream_handler("reset")
    async def reset(stream: Stream) -> None:
        await stream.recv()
        stream.reset(1234)

    async with connected(reset, echo) as pair:
        stream = await pair.client.open_stream("reset")
        await stream.send(b"x")
        with pytest.raises(StreamReset) as caught:
            await stream.recv()
        assert caught.value.code == 1234
        with pytest.raises((StreamReset, ResourceClosed)):
            for _ in range(100):
                await stream.send(b"x")
                await settle()
        await pair.at_rest()


async def test_a_reader_in_the_handler_sees_the_openers_reset_with_its_code() -> None:
    seen: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    @stream_handler("read")
    async def read(stream: Stream) -> None:
        try:
            while True:
                await stream.recv()
        except BaseException as error:
            seen.set_result(error)
            raise

    async with connected(read) as pair:
        stream = await pair.client.open_stream("read")
        await stream.send(b"x")
        await settle()
        stream.reset(77)
        error = await seen
        assert isinstance(error, asyncio.CancelledError) or (isinstance(error, StreamReset) and error.code == 77)
        await pair.at_rest()


async def test_a_deadline_ends_the_stream_on_both_sides() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        stream = await pair.client.open_stream("watched.stream", timeout=3)
        await watched.reached(begun=1)
        assert watched.contexts[0].remaining() == pytest.approx(3.0, abs=0.01)
        with pytest.raises(DeadlineExceeded):
            await stream.recv()
        with pytest.raises(DeadlineExceeded):
            await stream.send(b"x")
        await watched.reached(cancelled=1)
        await pair.at_rest()


async def test_the_end_of_the_session_ends_its_streams() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        stream = await pair.client.open_stream("watched.stream")
        await watched.reached(begun=1)
        receiving = asyncio.ensure_future(stream.recv())
        sending = asyncio.ensure_future(send_all(stream, [bytes(30_000)] * 20))
        await settle()
        pair.far.abort()
        for task in (receiving, sending):
            with pytest.raises(Disconnected):
                await task
        with pytest.raises(Disconnected):
            await stream.recv()
        await watched.reached(cancelled=1)


async def test_a_stream_that_was_complete_survives_the_end_of_its_session() -> None:
    @stream_handler("three")
    async def three(stream: Stream) -> None:
        for number in range(3):
            await stream.send(number)

    async with connected(three) as pair:
        await pair.ready()
        stream = await pair.client.open_stream("three")
        await stream.end()
        await settle()
        await pair.server.close()
        await pair.near.closed
        assert [item async for item in stream] == [0, 1, 2]


# The final status


async def test_a_returned_value_is_the_last_item() -> None:
    async with connected(collect) as pair:
        async with pair.client.open_stream("collect") as stream:
            await stream.send(b"abc")
            await stream.end()
            assert [item async for item in stream] == [3]
        await pair.at_rest()


async def test_an_exception_of_the_handler_comes_after_its_items() -> None:
    @stream_handler("fails")
    async def fails(stream: Stream) -> None:
        await stream.send(1)
        await stream.send(2)
        raise RpcError(StatusCode.DATA_LOSS, "disk", details=[("Disk", {"name": "sda"})])

    async with connected(fails) as pair:
        stream = await pair.client.open_stream("fails")
        assert [await stream.recv(), await stream.recv()] == [1, 2]
        for _ in range(2):
            with pytest.raises(RpcError) as caught:
                await stream.recv()
            assert caught.value.code is StatusCode.DATA_LOSS
            assert caught.value.details == (("Disk", {"name": "sda"}),)
        await pair.at_rest()


@pytest.mark.parametrize("error", [ValueError("secret"), RpcError(StatusCode.ABORTED, "x", details=[("d", object())])])
async def test_a_broken_handler_is_a_status_and_never_a_hang(error: Exception) -> None:
    @stream_handler("broken")
    async def broken(stream: Stream) -> None:
        raise error

    async with connected(broken) as pair:
        stream = await pair.client.open_stream("broken")
        with pytest.raises(RpcError) as caught:
            await stream.recv()
        assert caught.value.code in (StatusCode.INTERNAL, StatusCode.ABORTED)
        assert "secret" not in str(caught.value)
        await pair.at_rest()


async def test_an_unsendable_last_item_is_a_status() -> None:
    @stream_handler("odd")
    async def odd(stream: Stream) -> object:
        return object()

    async with connected(odd) as pair:
        stream = await pair.client.open_stream("odd")
        with pytest.raises(RpcError) as caught:
            await stream.recv()
        assert caught.value.code is StatusCode.INTERNAL
        await pair.at_rest()


async def test_a_handler_may_end_its_items_and_return() -> None:
    @stream_handler("ends")
    async def ends(stream: Stream) -> None:
        await stream.send(1)
        await stream.end()

    async with connected(ends) as pair:
        async with pair.client.open_stream("ends") as stream:
            assert [item async for item in stream] == [1]
        await pair.at_rest()


async def test_a_handler_may_end_its_items_and_go_on_reading() -> None:
    read: list[object] = []

    @stream_handler("ends")
    async def ends(stream: Stream) -> None:
        await stream.send("ready")
        await stream.end()
        async for item in stream:
            read.append(item)

    async with connected(ends) as pair:
        async with pair.client.open_stream("ends") as stream:
            assert [item async for item in stream] == ["ready"]
            for number in range(3):
                await stream.send(number)
        await until(lambda: len(read) == 3)
        await pair.at_rest()


async def test_a_handler_that_returns_without_reading_frees_the_opener() -> None:
    @stream_handler("deaf")
    async def deaf(stream: Stream) -> str:
        return "no, thank you"

    async with connected(deaf) as pair:
        async with pair.client.open_stream("deaf") as stream:
            with pytest.raises((StreamReset, ResourceClosed)):
                for _ in range(10_000):
                    await stream.send(bytes(10_000))
            assert await stream.recv() == "no, thank you"
        await pair.at_rest()


async def test_metadata_and_context_are_there() -> None:
    @stream_handler("who")
    async def who(stream: Stream, payload: object, ctx: Context) -> list[object]:
        return [payload, stream.metadata, ctx.metadata, ctx.method, stream.method]

    async with connected(who) as pair, pair.client.open_stream("who", {"a": 1}, metadata={"k": "v"}) as stream:
        assert await stream.recv() == [{"a": 1}, {"k": "v"}, {"k": "v"}, "who", "who"]


async def test_a_wrong_opening_payload_is_refused_with_its_path() -> None:
    @stream_handler("typed")
    async def typed(stream: Stream, count: int, name: str) -> None: ...

    async with connected(typed) as pair:
        stream = await pair.client.open_stream("typed", {"count": 1, "name": 2})
        with pytest.raises(RpcError) as caught:
            await stream.recv()
        assert caught.value.code is StatusCode.INVALID_ARGUMENT
        assert caught.value.details[0][1] == {"path": "$.name", "problem": "Expected `str`, got `int` - at `$.name`"}
        await pair.at_rest()


@pytest.mark.parametrize(
    ("method", "text"),
    [("colect", "did you mean 'collect'?"), ("echo", "is a call: use request()"), ("zzz", "no method")],
)
async def test_a_stream_to_what_is_none_is_refused(method: str, text: str) -> None:
    async with connected(*BASIC) as pair:
        stream = await pair.client.open_stream(method)
        with pytest.raises(RpcError) as caught:
            await stream.recv()
        assert caught.value.code is StatusCode.UNIMPLEMENTED
        assert text in caught.value.message
        await pair.at_rest()


# Both directions, and leaving a block


async def test_the_server_opens_streams_to_the_client() -> None:
    async with connected(client_handlers=(echo_stream, collect)) as pair:
        await pair.ready()
        async with pair.far.open_stream("echo_stream") as stream:
            await stream.send("hello")
            assert await stream.recv() == "hello"
        await pair.at_rest()


async def test_leaving_the_block_in_order_delivers_what_was_sent() -> None:
    totals: list[int] = []

    @stream_handler("note")
    async def note(stream: Stream) -> None:
        total = 0
        async for item in stream:
            total += len(item)
        totals.append(total)

    async with connected(note) as pair:
        async with pair.client.open_stream("note") as stream:
            for _ in range(100):
                await stream.send(bytes(10_000))
        await until(lambda: totals)
        assert totals == [1_000_000]
        await pair.at_rest()


async def test_leaving_the_block_with_items_unread_frees_both_ends() -> None:
    @stream_handler("talk")
    async def talk(stream: Stream) -> None:
        for _ in range(1_000):
            await stream.send(bytes(10_000))

    async with connected(talk) as pair:
        async with pair.client.open_stream("talk") as stream:
            assert await stream.recv() == bytes(10_000)
        await pair.at_rest()


async def test_leaving_the_block_by_an_exception_resets_the_stream() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        with pytest.raises(KeyError):
            async with pair.client.open_stream("watched.stream") as stream:
                await stream.send(b"x")
                await watched.reached(begun=1)
                raise KeyError("anything")
        await watched.reached(cancelled=1)
        await pair.at_rest()


async def test_being_cancelled_inside_the_block_resets_the_stream() -> None:
    watched = Watched()

    async def use(pair: Pair) -> None:
        async with pair.client.open_stream("watched.stream") as stream:
            await stream.recv()

    async with connected(watched) as pair:
        using = asyncio.ensure_future(use(pair))
        await watched.reached(begun=1)
        using.cancel()
        await watched.reached(cancelled=1)
        assert using.cancelled()
        await pair.at_rest()


async def test_the_close_code_of_a_reset_is_cancelled_by_default() -> None:
    codes: list[int] = []

    @stream_handler("reset")
    async def reset(stream: Stream) -> None:
        stream.reset()

    async with connected(reset) as pair:
        stream = await pair.client.open_stream("reset")
        try:
            await stream.recv()
        except StreamReset as error:
            codes.append(error.code)
        assert codes == [CloseCode.CANCELLED]
        await pair.at_rest()
