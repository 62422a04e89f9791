"""Substreams: many at once, from both sides, whatever is written to them, and in order."""

from __future__ import annotations

import random
from typing import Final

from echostream_testkit.checks import needs
from echostream_testkit.transport.comparing import difference, difference_in_lists
from echostream_testkit.transport.recording import Line
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["SubstreamChecks"]

_MANY: Final = 100
_LARGE: Final = 8 * 1_048_576


class SubstreamChecks(TransportSubject):
    """What every transport with substreams does, native ones or the kernel's."""

    @needs("streams")
    @staged
    async def test_hundred_substreams_at_once(self, stage: Stage) -> None:
        """A hundred concurrent substreams carry their own data both ways, and nothing is mixed up."""
        pair = await stage.pair()
        pair.far.echoes = True
        lines = [pair.near.open() for _ in range(_MANY)]
        sent = [random.Random(number).randbytes(2_000 + number) for number in range(_MANY)]
        for line, data in zip(lines, sent, strict=True):
            line.write(data[:1_000])
        for line, data in zip(lines, sent, strict=True):
            line.write(data[1_000:])
        await stage.until(
            lambda: all(len(line.data) >= len(data) for line, data in zip(lines, sent, strict=True)), "100 echoes"
        )
        assert not difference_in_lists([bytes(line.data) for line in lines], sent)
        assert len(pair.far.lines) == _MANY
        assert not difference_in_lists(sorted(bytes(line.data) for line in pair.far.lines), sorted(sent))

    @needs("streams")
    @staged
    async def test_accepting_side_opens_substreams(self, stage: Stage) -> None:
        """Substreams that the listener's side opens work both ways, beside those of the dialer."""
        pair = await stage.pair()
        near, far = await stage.line(pair, b"from the dialer")
        opened = pair.far.open()
        opened.write(b"from the listener")
        answering = await stage.accepted_line(pair.near)
        assert await stage.received(answering, 17) == b"from the listener"
        answering.write(b"answer")
        near.write(b"more")
        assert await stage.received(opened, 6) == b"answer"
        assert await stage.received(far, 4) == b"more"

    @needs("streams")
    @staged
    async def test_substream_is_announced_with_its_first_bytes(self, stage: Stage) -> None:
        """``open_substream`` and ``start`` say nothing to the peer; the first write does."""
        pair = await stage.pair()
        first, second = pair.near.open(), pair.near.open()
        second.write(b"second")
        announced = await stage.accepted_line(pair.far)
        assert await stage.received(announced, 6) == b"second"
        await stage.settle()
        assert len(pair.far.lines) == 1, "a substream without bytes was announced"
        first.write(b"first")
        assert await stage.received(await stage.accepted_line(pair.far, 1), 5) == b"first"

    @needs("streams")
    @staged
    async def test_bytes_arrive_in_order(self, stage: Stage) -> None:
        """Writes of many sizes are one sequence of bytes, in the order of the writes."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        chance = random.Random(1)
        sent = bytearray()
        for size in (0, 1, 2, 7, 511, 512, 513, 8_191, 8_192, 16_384, 65_535, 65_536, 65_537, 200_000, 1, 0, 3):
            piece = chance.randbytes(size)
            sent += piece
            near.write(piece)
        assert not difference(await stage.received(far, len(sent)), sent)
        await stage.settle()
        assert len(far.data) == len(sent)

    @needs("streams")
    @staged
    async def test_buffers_of_every_kind(self, stage: Stage) -> None:
        """bytes, bytearray, memoryview, slices of a larger buffer and empty ones, alone and together."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        whole = bytes(range(256)) * 1_000
        view = memoryview(whole)
        kinds = (b"bytes", bytearray(b"bytearray"), memoryview(b"view"), view[10:90_000], memoryview(bytearray(b"rw")))
        sent = b""
        for kind in kinds:
            near.write(kind)
            sent += kind
        near.write(b"", bytearray(), memoryview(b""), *kinds, b"")
        sent += b"".join(kinds)
        near.write()
        near.write(b"last")
        sent += b"last"
        assert not difference(await stage.received(far, len(sent)), sent)

    @needs("streams")
    @staged
    async def test_many_small_buffers_in_one_write(self, stage: Stage) -> None:
        """10,000 buffers of a few bytes, in one call of ``write``."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        pieces = [b"%d," % number for number in range(10_000)]
        near.write(*pieces)
        sent = b"".join(pieces)
        assert not difference(await stage.received(far, len(sent)), sent)

    @needs("streams")
    @staged
    async def test_eight_mebibytes_in_one_write(self, stage: Stage) -> None:
        """One buffer of 8 MiB arrives whole, while its reader consumes."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        sent = random.Random(2).randbytes(_LARGE)
        near.write(sent)
        assert not difference(await stage.received(far, _LARGE), sent)

    @needs("streams")
    @staged
    async def test_new_receiver_takes_over(self, stage: Stage) -> None:
        """``Substream.start`` again replaces the receiver; nothing is lost or told twice."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        near.write(b"for the first")
        await stage.received(far, 13)
        second = Line(pair.far, far.substream).start()
        near.write(b"for the second")
        assert await stage.received(second, 14) == b"for the second"
        assert far.data == b"for the first"

    @needs("streams")
    @staged
    async def test_control_substream_needs_no_credit(self, stage: Stage) -> None:
        """1 MiB on ``Priority.CONTROL`` arrives without a single ``consume``, whatever else is unread."""
        pair = await stage.pair()
        assert pair.near.control is not None and pair.far.control is not None
        pair.far.control.reads = False
        already = len(pair.far.control.data)
        pair.near.control.write(bytes(1_048_576))
        await stage.received(pair.far.control, already + 1_048_576)
