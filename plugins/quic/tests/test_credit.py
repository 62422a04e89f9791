"""Back-pressure: a reader that does not read bounds memory at one window, and never stops the control substream."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from contextlib import AsyncExitStack

import pytest

from echostream_core.types import Priority
from plugins.quic.tests.recording import Ends, Recorder, SubstreamRecorder, connect, dial, listen

WINDOW = 65_536
UPLOAD = 24_000_000


async def quiet(recorder: SubstreamRecorder) -> int:
    """Wait until nothing more arrives; how much has."""
    size = -1
    while size != len(recorder.data):
        size = len(recorder.data)
        await asyncio.sleep(0.15)
    return size


async def test_a_reader_that_does_not_read_holds_one_window_and_the_upload_completes_once_it_reads() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_reads=False)
        near = ends.near.open()
        chunk = bytes(range(256)) * 256
        sent = 0
        while near.write(chunk):
            sent += len(chunk)
        far = await ends.far.substream(1)
        assert await quiet(far) == WINDOW
        state = far.substream.stream
        assert state is not None
        assert state.receiver._buffer == b""  # aioquic's own buffer holds nothing either

        async def upload() -> None:
            for _ in range(UPLOAD // len(chunk)):
                if not near.write(chunk):
                    near.events.clear()
                    await near.until(lambda: "writable" in near.events)
            near.write(end=True)

        writing = asyncio.create_task(upload())
        await asyncio.sleep(0.1)
        assert len(far.data) == WINDOW
        far.read_all()
        data = await far.ended()
        await writing
        assert len(data) % len(chunk) == 0
        assert data == chunk * (len(data) // len(chunk))
        assert len(data) >= UPLOAD // len(chunk) * len(chunk)
        ends.check_rules()


async def test_memory_of_a_stalled_upload_is_bounded_at_both_ends() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_reads=False)
        near = ends.near.open()
        gc.collect()
        tracemalloc.start()
        try:
            while near.write(bytes(16_384)):
                pass
            far = await ends.far.substream(1)
            await quiet(far)
            grown, _peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # 64 KiB in the receiver, as much queued at the sender above its own mark, and small change.
        assert grown < 6 * WINDOW, f"{grown} bytes"


async def test_twenty_unread_substreams_do_not_stop_small_messages_on_control() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_reads=False)
        opened = [ends.near.open() for _ in range(20)]
        for near in opened:
            near.write(bytes(4 * WINDOW))
        await ends.far.until(lambda: len(ends.far.accepted) == 21)
        assert await asyncio.gather(*map(quiet, ends.far.accepted[1:])) == [WINDOW] * 20
        # Control is consumed on arrival, whether or not its receiver says so.
        for number in range(1, 500):
            ends.control.write(bytes(5_000))
            await ends.far_control.received(5 + 5_000 * number)
        for far in ends.far.accepted[1:]:
            far.read_all()
        for far in ends.far.accepted[1:]:
            await far.received(4 * WINDOW)
        ends.check_rules()


async def test_every_substream_of_the_limit_may_be_unread_at_once() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_reads=False, far_options={"max_streams": 200, "window_bytes": 16_384})
        for _ in range(199):
            ends.near.open().write(bytes(65_536))
        await ends.far.until(lambda: len(ends.far.accepted) == 200)
        for far in ends.far.accepted[1:]:
            await far.received(16_384)
        ends.control.write(b"still here")
        await ends.far_control.received(15)
        ends.near.open().write(b"one too many")
        await asyncio.sleep(0.1)
        assert len(ends.far.accepted) == 200


async def test_a_substream_that_ended_unread_still_counts_until_it_is_consumed() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_reads=False, far_options={"max_streams": 4})
        for _ in range(3):
            ends.near.open().write(b"unread", end=True)
        for number in (1, 2, 3):
            far = await ends.far.substream(number)
            await far.ended()
            far.write(end=True)
        ends.near.open().write(b"waits")
        await asyncio.sleep(0.1)
        assert len(ends.far.accepted) == 4
        ends.far.accepted[1].read_all()
        ends.far.accepted[2].stop(0)  # giving up reading frees its place as well
        await ends.far.substream(4)


async def test_a_window_grows_while_its_reader_keeps_up_and_never_beyond_its_most() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_options={"max_window_bytes": 4 * WINDOW})
        near, far = await ends.open()
        near.write(bytes(20_000_000), end=True)
        await far.ended()
        state = far.substream.stream
        assert state is not None
        assert WINDOW < state.window.size <= 4 * WINDOW


async def test_what_windows_grow_is_bounded_for_the_connection_and_given_back() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_options={"session_window_bytes": 3 * WINDOW})
        opened = [await ends.open() for _ in range(6)]
        for near, _far in opened:
            near.write(bytes(5_000_000), end=True)
        for near, far in opened:
            await far.ended()
            grown = sum(max(0, one.substream.stream.window.size - WINDOW) for _, one in opened)
            assert grown <= 3 * WINDOW
            far.write(end=True)
            await near.ended()
        session = ends.far.connection.engine.substreams.session
        for _ in range(100):
            if session.growth_left == 3 * WINDOW:
                break
            await asyncio.sleep(0.01)
        assert session.growth_left == 3 * WINDOW


async def test_bytes_of_reset_substreams_count_as_consumed() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, far_reads=False)
        for number in range(60):
            near = ends.near.open()
            near.write(bytes(2 * WINDOW))
            far = await ends.far.substream(number + 1)
            await far.received(1)
            if number % 2:
                near.reset(1)
                await far.happens("reset")
                far.reset(1)
            else:
                far.stop(1)
                far.reset(1)
                await near.happens("stop")
        far_engine = ends.far.connection.engine
        for _ in range(200):
            if len(far_engine.substreams.by_id) == 1:
                break
            await asyncio.sleep(0.01)
        assert far_engine.substreams.session.consumed == far_engine._local_max_data.used


async def test_nothing_is_delivered_before_start_and_what_waits_is_bounded() -> None:
    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []
        listener = await listen(stack, lambda pipe: accepted.append(Recorder(pipe).start()))
        near = await dial(listener)
        while not accepted:
            await asyncio.sleep(0.01)
        for _ in range(100):
            accepted[0].open().write(bytes(WINDOW))
        await asyncio.sleep(0.3)
        held = sum(len(b"".join(state.incoming)) for state in near.engine.substreams.by_id.values())
        assert 0 < held <= 2_097_152
        recorder = Recorder(near).start()
        await recorder.until(lambda: len(recorder.accepted) == 100)
        for far in recorder.accepted:
            await far.received(WINDOW)
        recorder.abort()
        await recorder.ended()


@pytest.mark.parametrize("priority", [Priority.URGENT, Priority.NORMAL, Priority.BULK])
async def test_a_stalled_substream_of_any_class_does_not_hold_up_its_class(ends: Ends, priority: Priority) -> None:
    stalled, far_stalled = await ends.open(priority)
    far_stalled.reads = False
    stalled.write(bytes(10 * WINDOW))
    await quiet(far_stalled)
    near, far = await ends.open(priority)
    near.write(bytes(1_000_000), end=True)
    assert len(await far.ended()) == 1_000_005
