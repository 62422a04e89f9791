"""A peer that talks and does not listen: what waits for it has a bound, and its session ends in time.

Over the kernel's mux and a pipe that takes a little and then nothing more, as a socket does whose peer does not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from echostream_core import Capabilities, Limits, Session
from echostream_core.builtin.json_codec import JsonCodec
from echostream_core.engine.handlers import collect_routes
from echostream_core.engine.muxed import MuxedConnection
from echostream_core.engine.pipeline import Pipeline
from echostream_core.transport import Pipe, PipeReceiver
from echostream_core.types import Buffer
from echostream_core.wire.frames import SubstreamKind, encode_ping, encode_substream_head
from echostream_core.wire.mux_frames import PREAMBLE, encode_data
from tests.support.handlers import BASIC
from tests.support.raw_peer import call, raw_setup
from tests.support.waiting import other_tasks, settle

LOOPS = ("virtual",)

KIB = 1_024


class FullPipe(Pipe):
    """Takes one write and answers False for ever."""

    def __init__(self) -> None:
        self.capabilities = Capabilities(streams="none")
        self.local_address = "full://here"
        self.peer_address = "full://deaf"
        self.receiver: PipeReceiver | None = None
        self.taken = 0
        self.ended = False

    def start(self, receiver: PipeReceiver) -> None:
        self.receiver = receiver

    def write(self, buffers: Sequence[Buffer]) -> bool:
        self.taken += sum(map(len, buffers))
        return False

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        """The peer does not read: it never gets to the end."""

    def abort(self) -> None:
        if not self.ended and self.receiver is not None:
            self.ended = True
            asyncio.get_running_loop().call_soon(self.receiver.on_closed, None)

    def hear(self, data: bytes) -> None:
        """The peer says ``data``."""
        if not self.ended:
            assert self.receiver is not None
            self.receiver.on_data(data)


class Deaf:
    """A session whose peer does not read."""

    def __init__(self, limits: Limits) -> None:
        self.pipe = FullPipe()
        self.connection = MuxedConnection(self.pipe, "listener", limits=limits)
        pipeline = Pipeline(routes=collect_routes(BASIC), codecs=(JsonCodec(),), limits=limits)
        self.session = Session(self.connection, pipeline, dialer=False)
        self.session.start()
        head = encode_substream_head(SubstreamKind.CONTROL, 0, 0)
        self.pipe.hear(PREAMBLE + encode_data(0, head + raw_setup(), opens=True))

    def say(self, *frames: bytes) -> None:
        """The peer says ``frames`` on the control substream."""
        self.pipe.hear(encode_data(0, b"".join(frames)))

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent."""
        control = self.connection.mux.control
        return control.queued if control is not None else 0

    async def end(self) -> None:
        """Nothing may be left, however deaf the peer."""
        self.session.abort()
        await self.session.closed
        await settle()
        assert not other_tasks()


async def test_pongs_do_not_pile_up() -> None:
    """Within the limit of frames per second, for an hour: newer answers replace those that still wait, or it ends."""
    deaf = Deaf(Limits(max_control_frames_per_s=200, keepalive_interval_s=0.0))
    await settle()
    for number in range(36_000):
        deaf.say(*(encode_ping(10 * number + each) for each in range(10)))
        await asyncio.sleep(0.1)
        if deaf.session.closed.done() or number > 3_000:
            break
    assert deaf.waiting <= 256 * KIB, f"{deaf.waiting // KIB} KiB of PONGs wait for a peer that reads none"
    await deaf.end()


@pytest.mark.parametrize("payload", [b"1", b'"' + b"x" * 16_000 + b'"'], ids=["small", "in-line limit"])
async def test_answers_that_are_not_read_hold_their_slots(payload: bytes) -> None:
    limits = Limits(max_concurrent_calls=128, keepalive_interval_s=0.0)
    deaf = Deaf(limits)
    await settle()
    number = 0
    for _ in range(100):
        if deaf.session.closed.done():
            break
        for _ in range(3):
            deaf.say(call(2 * number, "echo", payload))
            number += 1
        await settle(5)
    assert deaf.waiting <= 2 * 128 * (len(payload) + 512)
    await deaf.end()


async def test_a_deaf_peer_is_given_up_by_the_keep_alive() -> None:
    deaf = Deaf(Limits(keepalive_interval_s=5.0, keepalive_timeout_s=5.0))
    await asyncio.wait_for(asyncio.shield(deaf.session.closed), 60)
    assert "no sign of life" in str(deaf.session.closed.result())
    await deaf.end()


async def test_closing_to_a_deaf_peer_ends_all_the_same() -> None:
    deaf = Deaf(Limits(keepalive_interval_s=0.0))
    await settle()
    await asyncio.wait_for(deaf.session.close(), 60)
    await deaf.end()


async def test_draining_to_a_deaf_peer_ends_with_its_time() -> None:
    deaf = Deaf(Limits(keepalive_interval_s=0.0))
    await settle()
    await asyncio.wait_for(deaf.session.drain(3), 60)
    await deaf.end()
