"""Reset and stop: one direction of one substream is given up with a code, the rest goes on."""

from __future__ import annotations

from functools import partial
from typing import Final

from echostream_testkit.checks import capability, needs
from echostream_testkit.transport.refusing import refuses
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["CODES", "ResetChecks"]

CODES: Final = (0, 1, 8, 0x8000_0000, 2**32 - 1)
"""Codes are unsigned 32-bit integers; these are where an encoding goes wrong."""


class ResetChecks(TransportSubject):
    """The flag ``reset``."""

    @capability("reset")
    @needs("streams")
    @staged
    async def test_reset_code_arrives_exactly(self, stage: Stage) -> None:
        """``reset(code)`` is ``on_reset(code)`` at the peer, once and without ``on_end``; from either side."""
        pair = await stage.pair()
        for code in CODES:
            near, far = await stage.line(pair)
            near.reset(code)
            await stage.over(far, f"on_reset({code})")
            far.reset(code ^ 1)
            await stage.over(near, f"on_reset({code ^ 1})")
            await stage.settle(5)
            assert (far.resets, far.ends) == ([code], 0)
            assert (near.resets, near.ends) == ([code ^ 1], 0)

    @capability("reset")
    @needs("streams")
    @staged
    async def test_reset_stop_code_arrives_exactly(self, stage: Stage) -> None:
        """``stop(code)`` is ``on_stop(code)`` at the peer, once; from either side."""
        pair = await stage.pair()
        for code in CODES:
            near, far = await stage.line(pair)
            near.stop(code)
            await stage.stopped(far, f"on_stop({code})")
            far.stop(code ^ 1)
            await stage.stopped(near, f"on_stop({code ^ 1})")
            await stage.settle(5)
            assert (far.stops, near.stops) == ([code], [code ^ 1])

    @capability("reset")
    @needs("streams")
    @staged
    async def test_reset_leaves_the_rest_alone(self, stage: Stage) -> None:
        """The other direction of a substream that was reset goes on, and so do all other substreams."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        other_near, other_far = await stage.line(pair)
        near.reset(7)
        await stage.until(lambda: far.resets, "on_reset")
        far.write(b"back")
        other_near.write(b"there")
        other_far.write(b"and back")
        assert await stage.received(near, 4) == b"back"
        assert await stage.received(other_far, 5) == b"there"
        assert await stage.received(other_near, 8) == b"and back"
        assert not (near.over or other_near.over or other_far.over or pair.near.closed or pair.far.closed)

    @capability("reset")
    @needs("streams")
    @staged
    async def test_reset_makes_writes_a_no_op(self, stage: Stage) -> None:
        """``write`` after our reset, and after the peer's stop, neither raises nor arrives."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        near.write(b"before")
        await stage.received(far, 6)
        near.reset(1)
        near.write(b"after")
        await stage.until(lambda: far.resets, "on_reset")
        near.write(b"and later")
        stopped, stopper = await stage.line(pair)
        stopper.stop(1)
        await stage.until(lambda: stopped.stops, "on_stop")
        stopped.write(b"into the void")
        last, read = await stage.line(pair)
        last.write(b"last")
        await stage.received(read, 4)
        assert far.data == b"before" and not stopper.data

    @capability("reset")
    @needs("streams")
    @staged
    async def test_reset_is_idempotent(self, stage: Stage) -> None:
        """``reset`` and ``stop`` twice, also later: the peer is told once, and of the first code."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        near.reset(5)
        near.reset(6)
        near.stop(7)
        near.stop(8)
        await stage.until(lambda: far.resets and far.stops, "on_reset and on_stop")
        near.reset(9)
        near.stop(10)
        await stage.round_trips(await stage.echo_line(pair), 2)
        assert (far.resets, far.stops) == ([5], [7])

    @capability("reset")
    @needs("streams")
    @staged
    async def test_reset_drops_what_is_queued(self, stage: Stage) -> None:
        """What still waits when we reset is not delivered: the reset does not queue up behind it."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        size = 16 * 1_048_576
        near.write(bytes(size))
        near.reset(3)
        await stage.until(lambda: far.over, "on_reset past a full queue")
        assert far.resets == [3]
        assert len(far.data) < size // 2, f"{len(far.data)} bytes were delivered before the reset"

    @capability("reset")
    @needs("streams")
    @staged
    async def test_reset_stop_silences_the_reader(self, stage: Stage) -> None:
        """After ``stop`` comes no ``on_data``, and exactly one ``on_end`` or ``on_reset`` when the peer gives up."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        near.write(bytes(100_000))
        await stage.received(far, 1)
        far.stop(4)
        size = len(far.data)
        await stage.until(lambda: near.stops, "on_stop")
        near.write(bytes(1_000))
        near.reset(4)
        await stage.until(lambda: far.over, "the one callback that says that the peer's direction is over")
        await stage.settle()
        assert len(far.data) == size, f"{len(far.data) - size} bytes were delivered after stop"
        assert far.over == 1

    @capability("reset")
    @needs("streams")
    @staged
    async def test_reset_calls_back_later(self, stage: Stage) -> None:
        """``on_reset`` and ``on_stop`` come on a later turn than the call, and no data of that direction after them."""
        pair = await stage.pair()
        for first in ("near", "far"):
            lines = dict(zip(("near", "far"), await stage.line(pair), strict=True))
            one = lines.pop(first)
            (other,) = lines.values()
            one.write(bytes(50_000))
            one.reset(1)
            one.stop(2)
            await stage.over(other)
            await stage.stopped(other)
            other.reset(2)
            other.stop(1)
            await stage.over(one)
        await stage.settle()
        stage.rules.check()

    @capability("reset", claimed=False)
    @needs("streams")
    @staged
    async def test_reset_absent_is_a_capability_error(self, stage: Stage) -> None:
        """``reset`` and ``stop`` raise CapabilityError that names ``reset``, at once, on either side."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        for line in (near, far):
            refuses(partial(line.reset, 1), "reset")
            refuses(partial(line.stop, 1), "reset")
        near.write(b"still open")
        assert (await stage.received(far, 10))[-10:] == b"still open"
