"""Half-close: one direction of a substream ends, the other goes on."""

from __future__ import annotations

import random

from echostream_core.errors import ResourceClosed
from echostream_testkit.checks import capability, needs
from echostream_testkit.transport.comparing import difference
from echostream_testkit.transport.refusing import refuses
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["HalfCloseChecks"]


class HalfCloseChecks(TransportSubject):
    """The flag ``half_close``."""

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_ends_our_direction_only(self, stage: Stage) -> None:
        """After ``write(end=True)`` the peer gets ``on_end`` once, and what it writes still reaches us."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        near.write(b"all", end=True)
        await stage.until(lambda: far.ends, "on_end")
        assert far.data == b"all"
        for number in range(5):
            far.write(b"%d" % number)
            await stage.received(near, number + 1)
        assert not near.over
        far.write(b"!", end=True)
        await stage.until(lambda: near.ends, "on_end of the other direction")
        assert near.data == b"01234!"
        await stage.settle()
        assert (near.ends, far.ends, near.resets, far.resets) == (1, 1, [], [])

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_from_the_accepting_side(self, stage: Stage) -> None:
        """The side that did not open the substream may end its direction first."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        far.write(b"done", end=True)
        await stage.until(lambda: near.ends, "on_end")
        assert near.data == b"done" and not far.over
        near.write(b"still here")
        assert await stage.received(far, 10) == b"still here"

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_without_data(self, stage: Stage) -> None:
        """A substream that ends without a byte is announced, and ended; in both directions."""
        pair = await stage.pair()
        near = pair.near.open()
        near.write(end=True)
        far = await stage.accepted_line(pair.far)
        await stage.until(lambda: far.ends, "on_end of an empty substream")
        far.write(b"", end=True)
        await stage.until(lambda: near.ends, "on_end of the answer")
        assert not near.data and not far.data

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_comes_behind_all_data(self, stage: Stage) -> None:
        """1 MiB and the end in one write: every byte, then ``on_end``."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        sent = random.Random(3).randbytes(1_048_576)
        near.write(sent, end=True)
        await stage.until(lambda: far.ends, "on_end behind 1 MiB")
        assert not difference(far.data, sent)
        assert far.order[-1] == "on_end"

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_write_after_the_end_is_resource_closed(self, stage: Stage) -> None:
        """``write`` after ``end=True`` raises ResourceClosed at once, and nothing of it arrives."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        near.write(b"last", end=True)
        for end in (False, True):
            try:
                near.write(b"too late", end=end)
            except ResourceClosed:
                continue
            raise AssertionError(f"write(end={end}) after the end did not raise ResourceClosed")
        await stage.until(lambda: far.ends, "on_end")
        assert far.data == b"last"

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_calls_back_later(self, stage: Stage) -> None:
        """``on_end`` comes on a later turn than the call that caused it, and nothing of that direction after it."""
        pair = await stage.pair()
        for size in (0, 1, 100_000):
            near = pair.near.open()
            near.write(bytes(size), end=True)
            far = await stage.accepted_line(pair.far, len(pair.far.lines))
            await stage.over(far, "on_end")
            far.write(b"answer", end=True)
            await stage.over(near, "on_end of the answer")
        for number in range(2):  # nothing but the end, and nothing waits that it could stand behind
            line = await stage.line(pair)
            await stage.settle()
            line[number].write(end=True)
            await stage.over(line[1 - number], "on_end")
        await stage.settle()
        stage.rules.check()

    @capability("half_close", claimed=False)
    @needs("streams")
    @staged
    async def test_half_close_absent_is_a_capability_error(self, stage: Stage) -> None:
        """``write(end=True)`` raises CapabilityError that names ``half_close``, at once, on either side."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        refuses(lambda: near.write(b"", end=True), "half_close")
        refuses(lambda: far.write(b"x", end=True), "half_close")
        near.write(b"still open")
        assert (await stage.received(far, 10))[-10:] == b"still open"
