"""Substreams over real sockets: data both ways, ends, resets, stops, and the rules of the contract."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import pytest

from echostream_core.errors import LocalProtocolError, ResourceClosed
from echostream_core.types import Priority
from plugins.quic.tests.recording import Ends, SubstreamRecorder, connect


async def test_bytes_arrive_in_order_both_ways(ends: Ends) -> None:
    near, far = await ends.open()
    payload = os.urandom(3_000_000)
    near.write(payload, end=True)
    far.write(payload[::-1], end=True)
    assert await far.ended() == b"hello" + payload
    assert await near.ended() == payload[::-1]


async def test_either_end_opens_substreams(ends: Ends) -> None:
    opened = ends.far.open()
    opened.write(b"from the listener", end=True)
    accepted = await ends.near.substream(0)
    assert await accepted.ended() == b"from the listener"
    accepted.write(b"and back", end=True)
    assert await opened.ended() == b"and back"


async def test_one_direction_ends_while_the_other_goes_on(ends: Ends) -> None:
    near, far = await ends.open()
    near.write(end=True)
    assert await far.ended() == b"hello"
    for number in range(5):
        far.write(bytes([number]))
        await near.received(number + 1)
    far.write(end=True)
    assert await near.ended() == bytes(range(5))


async def test_many_buffers_of_one_write_arrive_joined_in_order(ends: Ends) -> None:
    near, far = await ends.open()
    pieces = [os.urandom(size) for size in (0, 1, 7, 1_400, 0, 70_000, 3)]
    near.write(*pieces[:3], bytearray(pieces[3]), memoryview(pieces[4]), memoryview(pieces[5]), pieces[6], end=True)
    assert await far.ended() == b"hello" + b"".join(pieces)


async def test_what_was_written_before_the_first_start_waits_for_it(ends: Ends) -> None:
    substream = ends.near.connection.open_substream()
    substream.write([b"early"])
    await asyncio.sleep(0.05)
    assert len(ends.far.accepted) == 1  # control alone
    SubstreamRecorder(substream, ends.near.violations).start()
    assert await (await ends.far.substream(1)).received(5) == b"early"


async def test_a_new_receiver_gets_what_comes_next(ends: Ends) -> None:
    near, far = await ends.open()
    second = SubstreamRecorder(far.substream, ends.far.violations)
    far.hook = lambda recorder, data: second.start()
    near.write(b"first")
    await far.received(10)
    near.write(b"second", end=True)
    assert await second.ended() == b"second"
    assert bytes(far.data) == b"hellofirst"
    assert "end" not in far.events


async def test_a_reset_brings_its_code_and_no_end(ends: Ends) -> None:
    near, far = await ends.open()
    near.reset(0xFFFF_FFFE)
    near.reset(1)
    await far.until(lambda: "reset" in far.events)
    assert far.reset_code == 0xFFFF_FFFE
    assert far.events.count("reset") == 1
    assert "end" not in far.events
    far.write(b"the other direction goes on", end=True)
    assert await near.ended() == b"the other direction goes on"


async def test_a_reset_drops_what_is_queued_and_writes_after_it_are_ignored(ends: Ends) -> None:
    near, far = await ends.open()
    near.write(bytes(5_000_000))
    near.reset(7)
    assert near.write(b"late") is True
    await far.until(lambda: "reset" in far.events)
    assert far.reset_code == 7
    assert len(far.data) < 5_000_000


async def test_a_stop_brings_its_code_and_the_answering_reset(ends: Ends) -> None:
    near, far = await ends.open()
    far.stop(99)
    far.stop(100)
    await near.until(lambda: "stop" in near.events)
    assert near.stop_code == 99
    await far.until(lambda: "reset" in far.events)
    assert far.reset_code == 99  # nobody named another code
    assert near.write(bytes(100_000)) is True
    near.write(b"", end=True)


async def test_the_receiver_of_a_stop_may_answer_with_a_code_of_its_own(ends: Ends) -> None:
    near, far = await ends.open()
    near.on_stop = lambda code: (near.happened("stop"), near.substream.reset(code + 1))
    far.stop(41)
    await far.until(lambda: "reset" in far.events)
    assert far.reset_code == 42


async def test_after_a_stop_no_data_comes_and_the_writer_is_not_held_up(ends: Ends) -> None:
    near, far = await ends.open()
    far.stop(5)
    seen = len(far.data)
    near.write(bytes(200_000), end=True)
    await near.until(lambda: "stop" in near.events)
    await asyncio.sleep(0.05)
    assert len(far.data) == seen
    assert "end" not in far.events


async def test_a_stop_before_anything_was_written_is_sent_with_the_first_bytes(ends: Ends) -> None:
    near = ends.near.open()
    near.stop(3)
    near.write(b"only this way")
    far = await ends.far.substream(1)
    await far.until(lambda: "stop" in far.events)
    assert far.stop_code == 3


async def test_a_substream_given_up_before_its_first_bytes_is_never_heard_of(ends: Ends) -> None:
    given_up = ends.near.open()
    given_up.reset(1)
    near, _far = await ends.open()
    assert near.substream.stream is not None
    assert near.substream.stream.stream_id == 4  # the number was not spent
    assert len(ends.far.accepted) == 2


async def test_writing_after_the_end_is_our_own_mistake(ends: Ends) -> None:
    near, far = await ends.open()
    near.write(b"!", end=True)
    with pytest.raises(ResourceClosed, match="after end"):
        near.write(b"more")
    assert await far.ended() == b"hello!"


async def test_consuming_more_than_was_delivered_is_our_own_mistake(ends: Ends) -> None:
    near, _far = await ends.open()
    with pytest.raises(LocalProtocolError, match=r"consume\(1\)"):
        near.substream.consume(1)


async def test_write_answers_false_above_the_high_water_mark_and_tells_of_room(ends: Ends) -> None:
    near, far = await ends.open()
    assert near.write(bytes(65_536)) is True
    assert near.write(bytes(1)) is False
    await near.until(lambda: "writable" in near.events)
    assert near.events.count("writable") == 1
    assert near.write(bytes(10)) is True
    await far.received(5 + 65_536 + 11)


async def test_the_dialer_alone_opens_control_and_only_once(ends: Ends) -> None:
    with pytest.raises(LocalProtocolError, match="the dialer opens the control substream, once"):
        ends.near.open(Priority.CONTROL)
    with pytest.raises(LocalProtocolError, match="the dialer opens the control substream, once"):
        ends.far.open(Priority.CONTROL)
    near, _far = await ends.open()
    with pytest.raises(LocalProtocolError, match="open it as that"):
        near.substream.set_priority(Priority.CONTROL)
    near.substream.set_priority(Priority.BULK)
    near.substream.set_priority(Priority.URGENT)


async def test_control_is_the_first_substream_even_when_another_is_written_first() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, control=False)
        control = ends.near.open(Priority.CONTROL)
        other = ends.near.open()
        other.write(b"other")
        control.write(b"SETUP")
        await ends.far.until(lambda: len(ends.far.accepted) == 2 and all(far.data for far in ends.far.accepted))
        by_id = {far.substream.stream.stream_id: bytes(far.data) for far in ends.far.accepted if far.substream.stream}
        assert by_id == {0: b"SETUP", 4: b"other"}
        ends.check_rules()


async def test_urgent_bytes_overtake_bulk(ends: Ends) -> None:
    bulk, far_bulk = await ends.open(Priority.BULK)
    urgent, far_urgent = await ends.open(Priority.URGENT)
    bulk.write(bytes(20_000_000))
    await far_bulk.received(1_000_000)
    before = len(far_bulk.data)
    urgent.write(b"x" * 1_000, end=True)
    await far_urgent.ended()
    assert len(far_bulk.data) - before < 4_000_000


async def test_a_thousand_substreams_at_once(ends: Ends) -> None:
    ends.far.hook = lambda recorder, data: recorder.write(data)
    opened = [ends.near.open() for _ in range(1_000)]
    for number, near in enumerate(opened):
        near.write(number.to_bytes(4) * 100)
    for number, near in enumerate(opened):
        assert await near.received(400) == number.to_bytes(4) * 100
    for near in opened:
        near.write(end=True)
    for far in ends.far.accepted[1:]:
        await far.ended()
        far.write(end=True)
    for near in opened:
        await near.ended()


async def test_substreams_beyond_the_peers_limit_wait_for_their_turn() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_options={"max_streams": 8})
        held = [await ends.open() for _ in range(7)]  # with control: eight
        waiting = [ends.near.open(priority) for priority in (Priority.BULK, Priority.URGENT)]
        for near in waiting:
            near.write(b"me too")
        given_up = ends.near.open()
        given_up.write(b"not any more")
        given_up.reset(1)
        await asyncio.sleep(0.1)
        assert len(ends.far.accepted) == 8
        for near, far in held:
            near.write(end=True)
            await far.ended()
            far.write(end=True)
            await near.ended()
        await ends.far.until(lambda: len(ends.far.accepted) == 10)
        assert waiting[1].substream.stream is not None
        assert waiting[0].substream.stream is not None
        assert waiting[1].substream.stream.stream_id < waiting[0].substream.stream.stream_id  # urgent first
        ends.check_rules()


@pytest.mark.timeout(120)
async def test_ten_thousand_substreams_one_after_the_other_leave_nothing(ends: Ends) -> None:
    ends.far.hook = lambda recorder, data: recorder.write(data, end=True)
    for _ in range(10_000 // 50):
        batch = [ends.near.open() for _ in range(50)]
        for near in batch:
            near.write(b"call", end=True)
        for near in batch:
            assert await near.ended() == b"call"
        ends.far.accepted.clear()
    for recorder in (ends.near, ends.far):
        engine = recorder.connection.engine
        for _ in range(100):
            if len(engine.substreams.by_id) == 1:
                break
            await asyncio.sleep(0.01)
        assert list(engine.substreams.by_id) == [0]  # control
        assert not engine._streams_queue
        assert len(engine._loss.spaces[2].sent_packets) < 1_000
        assert engine.substreams.session.growth_left == 16_777_216
