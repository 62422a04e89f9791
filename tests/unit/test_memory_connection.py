"""Connections of the memory transport: the same rules as a network's, in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest

from echostream_core.builtin.memory import MemoryOptions
from echostream_core.builtin.memory_connection import MAX_DATAGRAM_BYTES
from echostream_core.errors import (
    CloseCode,
    ConnectionLost,
    EndOfStream,
    LimitExceeded,
    LocalProtocolError,
    ResourceClosed,
)
from echostream_core.types import Priority
from echostream_core.wire.datagrams import DatagramDrops
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from tests.unit.memory_ends import Ends, Reader, connect, settle


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = (await connect()).start()
    yield ends
    ends.one.abort()
    await settle()


# Bytes.


async def test_small_writes_of_a_turn_arrive_as_one_on_a_later_turn(ends: Ends) -> None:
    stream, _ = ends.open(Priority.CONTROL)
    for _ in range(10):
        assert stream.write([b"abc", b"def"])
    assert ends.peer.readers == []
    await asyncio.sleep(0)
    (there,) = ends.peer.readers
    assert there.data == b"abcdef" * 10
    assert len(there.pieces) == 1


async def test_what_arrives_is_read_only_and_large_buffers_are_not_copied(ends: Ends) -> None:
    stream, _, there = await ends.opened()
    source = bytearray(20_000)
    stream.write([b"head", source])
    await settle()
    assert all(isinstance(piece, memoryview) and piece.readonly for piece in there.pieces)
    last = there.pieces[-1]
    assert isinstance(last, memoryview)
    assert last.obj is source


async def test_both_ends_open_and_answer(ends: Ends) -> None:
    stream, reader, there = await ends.opened()
    stream.write([b"question"], True)
    there.react = lambda: there.substream.write([b"answer"], True) if "end" in there.events else None
    back = ends.other.open_substream()
    back.start(Reader(ends.peer, back))
    back.write([b"hello"])
    await settle()
    assert there.data == b"question"
    assert there.events == ["data", "end"]
    assert reader.data == b"answer"
    assert reader.events == ["data", "end"]
    assert ends.user.readers[0].data == b"hello"
    assert len(ends.one._live) == len(ends.other._live) == 1


async def test_an_answer_written_inside_a_callback_comes_on_a_later_turn(ends: Ends) -> None:
    stream, reader, there = await ends.opened()
    depth: list[str] = []

    def answer() -> None:
        depth.append("in")
        there.substream.write([b"pong"])
        depth.append("out")

    there.react = answer
    reader.react = lambda: depth.append("pong")
    stream.write([b"ping"])
    await settle()
    assert depth == ["in", "out", "pong"]


async def test_an_end_alone_opens_a_substream(ends: Ends) -> None:
    stream, _ = ends.open()
    stream.write([], True)
    await settle()
    assert ends.peer.readers[0].events == ["end"]
    with pytest.raises(ResourceClosed):
        stream.write([b"x"])


async def test_a_receiver_can_be_replaced(ends: Ends) -> None:
    stream, _, there = await ends.opened()
    second = Reader(ends.peer, there.substream)
    there.react = lambda: there.substream.start(second)
    stream.write([b"first"])
    await settle()
    stream.write([b"second"])
    await settle()
    assert [bytes(there.data), bytes(second.data)] == [b"first", b"second"]


async def test_what_is_written_before_start_waits() -> None:
    ends = await connect()
    stream = ends.one.open_substream()
    stream.write([b"x"])
    ends.start()
    await settle()
    assert ends.peer.readers == []
    stream.start(Reader(ends.user, stream))
    await settle()
    assert ends.peer.readers[0].data == b"x"


async def test_what_is_sent_to_an_end_that_is_not_started_waits() -> None:
    ends = await connect()
    ends.one.start(ends.user)
    stream, _ = ends.open()
    assert not stream.write([bytes(200_000)])
    await settle()
    ends.other.start(ends.peer)
    await settle()
    assert len(ends.peer.readers[0].data) == 200_000


async def test_callbacks_run_in_the_context_of_who_started_the_connection(ends: Ends) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="owner")
    seen: list[str] = []
    stream, reader, there = await ends.opened()
    there.react = lambda: seen.append(variable.get())
    reader.react = lambda: seen.append(variable.get())

    async def writer() -> None:
        variable.set("writer")
        stream.write([bytes(INITIAL_WINDOW_BYTES + 10_000)])

    await asyncio.create_task(writer())
    await settle()
    assert set(seen) == {"owner"}
    assert "writable" in reader.events


# Credit.


async def test_a_reader_that_never_consumes_holds_one_window_and_the_rest_comes_when_it_does(
    ends: Ends,
) -> None:
    ends.peer.consumes = False
    stream, _ = ends.open()
    stream.write([bytes(24_000_000)], True)
    await settle()
    (there,) = ends.peer.readers
    assert len(there.data) == INITIAL_WINDOW_BYTES
    consumed = 0
    while "end" not in there.events:
        there.substream.consume(len(there.data) - consumed)
        consumed = len(there.data)
        await settle()
        assert len(there.data) - consumed <= MemoryOptions().max_window_bytes
    assert len(there.data) == 24_000_000


async def test_more_cannot_be_consumed_than_was_delivered(ends: Ends) -> None:
    ends.peer.consumes = False
    _, _, there = await ends.opened()
    there.substream.consume(1)
    with pytest.raises(LocalProtocolError):
        there.substream.consume(1)


async def test_unread_substreams_do_not_stop_the_control_substream(ends: Ends) -> None:
    control, _ = ends.open(Priority.CONTROL)
    ends.peer.consumes = False
    for _ in range(20):
        ends.open()[0].write([bytes(1_000_000)])
    for _ in range(20):
        control.write([bytes(100_000)])
        await settle()
    assert max(len(reader.data) for reader in ends.peer.readers) == 2_000_000
    assert sorted(len(reader.data) for reader in ends.peer.readers)[:20] == [INITIAL_WINDOW_BYTES] * 20


async def test_a_writer_waits_above_the_high_mark_and_is_woken(ends: Ends) -> None:
    ends.peer.consumes = False
    stream, reader, there = await ends.opened()
    assert not stream.write([bytes(3 * INITIAL_WINDOW_BYTES)])
    await settle()
    assert reader.events == []
    ends.peer.consumes = True
    there.substream.consume(INITIAL_WINDOW_BYTES)
    await settle()
    assert reader.events == ["writable"]
    assert stream.write([b"x"])


async def test_windows_grow_within_the_budget_of_the_receiving_end() -> None:
    ends = (await connect(peer_options=MemoryOptions(session_window_bytes=100_000))).start()
    stream, _ = ends.open()
    stream.write([bytes(1_000_000)])
    await settle()
    twin = ends.peer.readers[0].substream
    assert twin.window.size == INITIAL_WINDOW_BYTES + 100_000  # type: ignore[attr-defined]
    stream.reset(1)
    twin.reset(1)
    await settle()
    assert ends.other._budget.left == 100_000


# Resets and stops.


async def test_a_reset_reaches_the_reader_and_drops_what_was_queued(ends: Ends) -> None:
    stream, _, there = await ends.opened()
    stream.write([b"lost"])
    stream.reset(7)
    stream.reset(8)
    assert stream.write([b"also lost"])
    await settle()
    assert there.events == [("reset", 7)]


async def test_a_reset_of_what_was_never_sent_is_never_heard_of(ends: Ends) -> None:
    stream, _ = ends.open()
    stream.write([b"x"])
    stream.reset(1)
    await settle()
    assert ends.peer.readers == []


async def test_a_stop_reaches_the_writer_and_its_reset_the_stopper(ends: Ends) -> None:
    ends.peer.consumes = False
    stream, reader, there = await ends.opened()
    stream.write([bytes(200_000)])
    await settle()
    received = len(there.data)
    there.substream.stop(5)
    there.substream.stop(6)
    await settle()
    assert reader.events == [("stop", 5)]
    assert stream.write([b"dropped"])
    stream.reset(5)
    await settle()
    assert there.events[-1] == ("reset", 5)
    assert len(there.data) == received


async def test_a_stop_inside_a_callback_ends_delivery_at_once(ends: Ends) -> None:
    stream, _, there = await ends.opened()
    there.react = lambda: there.substream.stop(1)
    stream.write([bytes(10_000), bytes(10_000)], True)
    await settle()
    assert there.events == ["data", "end"]
    assert len(there.data) == 10_000


async def test_a_stop_before_the_first_write_is_told_with_it(ends: Ends) -> None:
    stream, _ = ends.open()
    stream.stop(3)
    await settle()
    stream.write([b"x"])
    await settle()
    (there,) = ends.peer.readers
    assert there.events == ["data", ("stop", 3)]


async def test_a_write_that_ends_after_a_stop_resets_with_its_code(ends: Ends) -> None:
    stream, _, there = await ends.opened()
    there.substream.stop(5)
    await settle()
    assert stream.write([b"x"], True)
    await settle()
    assert there.events == [("reset", 5)]


async def test_substreams_beyond_the_peers_limit_wait_for_a_place() -> None:
    ends = (await connect(peer_options=MemoryOptions(max_streams=4))).start()
    streams = [ends.open()[0] for _ in range(7)]
    for number, stream in enumerate(streams):
        stream.write([bytes([number])], True)
    streams[4].reset(1)
    control, _ = ends.open(Priority.CONTROL)
    control.write([b"c"])
    await settle()
    assert [bytes(reader.data) for reader in ends.peer.readers] == [b"c", b"\0", b"\1", b"\2", b"\3"]
    ends.peer.readers[1].substream.write([], True)
    await settle()
    assert ends.peer.readers[-1].data == b"\5"
    ends.peer.readers[2].substream.reset(1)
    await settle()
    assert ends.peer.readers[-1].data == b"\6"


async def test_only_the_dialer_opens_the_control_substream_and_once(ends: Ends) -> None:
    ends.open(Priority.CONTROL)
    for connection in (ends.one, ends.other):
        with pytest.raises(LocalProtocolError):
            connection.open_substream(Priority.CONTROL)


async def test_nothing_is_kept_of_substreams_that_are_gone(ends: Ends) -> None:
    for _ in range(100):
        stream, _ = ends.open()
        stream.set_priority(Priority.BULK)
        stream.write([b"x"], True)
        await settle()
        ends.peer.readers.pop().substream.write([b"y"], True)
        await settle()
    assert not ends.one._live
    assert not ends.other._live
    assert not ends.other._accepted


# Datagrams.


async def test_datagrams_arrive_whole_and_in_a_later_turn(ends: Ends) -> None:
    assert ends.one.max_datagram_size() == MAX_DATAGRAM_BYTES
    assert ends.one.send_datagram([b"ab", b"cd"])
    assert ends.one.send_datagram([bytes(MAX_DATAGRAM_BYTES)])
    assert ends.other.send_datagram([])
    assert ends.peer.datagrams == []
    await asyncio.sleep(0)
    assert ends.peer.datagrams == [b"abcd", bytes(MAX_DATAGRAM_BYTES)]
    assert ends.user.datagrams == [b""]


async def test_a_datagram_over_the_limit_is_refused_here(ends: Ends) -> None:
    with pytest.raises(LimitExceeded) as caught:
        ends.one.send_datagram([bytes(MAX_DATAGRAM_BYTES), b"x"])
    assert (caught.value.value, caught.value.maximum) == (MAX_DATAGRAM_BYTES + 1, MAX_DATAGRAM_BYTES)


async def test_the_oldest_datagram_is_dropped_and_counted_when_the_queue_is_full() -> None:
    ends = (await connect(MemoryOptions(max_queued_datagrams=2))).start()
    assert [ends.one.send_datagram([bytes([number])]) for number in range(4)] == [True, True, False, False]
    await settle()
    assert ends.peer.datagrams == [b"\2", b"\3"]
    assert ends.one.datagram_drops == DatagramDrops(full=2)


# The end.


async def test_closing_hands_over_the_control_substream_and_the_code(ends: Ends) -> None:
    stream, _, there = await ends.opened()
    control, _ = ends.open(Priority.CONTROL)
    control.write([b"last words"])
    stream.write([b"lost"])
    ends.one.close(CloseCode.GOING_AWAY, "bye\n")
    ends.one.close(CloseCode.OK, "again")
    assert ends.user.closed == ends.peer.closed == []
    await settle()
    assert ends.user.closed == [None]
    (error,) = ends.peer.closed
    assert isinstance(error, ConnectionLost)
    assert error.close_code == CloseCode.GOING_AWAY
    assert "bye" in str(error)
    assert str(error).isprintable()
    assert ends.peer.readers[1].data == b"last words"
    assert there.events == []


async def test_an_orderly_close_is_the_end_of_the_stream(ends: Ends) -> None:
    ends.other.close(CloseCode.OK, "")
    await settle()
    assert [type(error) for error in ends.user.closed] == [EndOfStream]
    assert ends.peer.closed == [None]


async def test_an_abort_is_a_loss(ends: Ends) -> None:
    ends.one.abort()
    ends.one.abort()
    await settle()
    assert [type(error) for error in ends.peer.closed] == [ConnectionLost]
    assert ends.user.closed == [None]


async def test_after_the_end_everything_is_a_quiet_no(ends: Ends) -> None:
    stream, _, there = await ends.opened()
    unopened, _ = ends.open()
    ends.one.close(0, "")
    await settle()
    for each in (stream, unopened, there.substream):
        assert each.write([bytes(1_000_000)])
        each.stop(1)
        each.reset(1)
        each.consume(0)
    assert ends.one.send_datagram([b"x"])
    with pytest.raises(ResourceClosed):
        ends.one.open_substream()
    with pytest.raises(ResourceClosed):
        ends.other.open_substream()
    await settle()
    assert ends.user.closed == [None]
    assert len(ends.peer.closed) == 1
    assert there.events == []


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_ending_inside_a_callback_stops_delivery_at_once(ends: Ends, how: str) -> None:
    stream, _, there = await ends.opened()
    other, _, there_too = await ends.opened()
    there.react = ends.other.abort if how == "abort" else lambda: ends.other.close(0, "")
    stream.write([bytes(10_000), bytes(10_000)], True)
    other.write([b"x"])
    ends.one.send_datagram([b"x"])
    await settle()
    assert there.events == ["data"]
    assert there_too.events == []
    assert ends.peer.datagrams == []
    assert ends.peer.closed == [None]
    assert len(ends.user.closed) == 1


async def test_an_end_that_was_closed_before_its_start_is_told_after_it() -> None:
    ends = await connect()
    ends.other.start(ends.peer)
    ends.other.close(CloseCode.UNAUTHENTICATED, "no")
    await settle()
    ends.one.start(ends.user)
    assert ends.user.closed == []
    await settle()
    (error,) = ends.user.closed
    assert isinstance(error, ConnectionLost)
    assert error.close_code == CloseCode.UNAUTHENTICATED


async def test_our_own_close_before_start_is_told_after_it() -> None:
    ends = await connect()
    ends.one.close(0, "")
    await settle()
    ends.one.start(ends.user)
    await settle()
    assert ends.user.closed == [None]


async def test_a_control_substream_that_was_not_open_yet_is_handed_over_at_close(ends: Ends) -> None:
    control, _ = ends.open(Priority.CONTROL)
    control.write([b"all I had to say"])
    ends.one.close(0, "")
    await settle()
    assert ends.peer.readers[0].data == b"all I had to say"
    assert [type(error) for error in ends.peer.closed] == [EndOfStream]


async def test_a_failing_callback_ends_the_connection_and_is_logged(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug above")

    stream, _, there = await ends.opened()
    there.react = fail
    stream.write([b"x"])
    await settle()
    (error,) = ends.peer.closed
    assert error is not None
    assert isinstance(error.__cause__, ZeroDivisionError)
    (told,) = ends.user.closed
    assert isinstance(told, ConnectionLost)
    assert told.close_code == CloseCode.INTERNAL
    assert "bug" not in str(told)
    assert "a bug above" in caplog.text
