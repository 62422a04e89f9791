"""Credit: a reader that does not consume stops the writer of its substream, and nobody else."""

from __future__ import annotations

from typing import Final

from echostream_testkit.checks import capability, needs
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["CreditChecks"]

_PIECE: Final = 32_768
_PLENTY: Final = 8 * 1_048_576
_STALLED: Final = 16


class CreditChecks(TransportSubject):
    """The flag ``flow_control``."""

    @capability("flow_control")
    @needs("streams")
    @staged
    async def test_flow_control_write_answers_false(self, stage: Stage) -> None:
        """While nobody reads, ``write`` answers False before it has taken ``max_unread_bytes``."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        far.reads = False
        accepted = 0
        while near.write(bytes(_PIECE)):
            accepted += _PIECE
            assert accepted <= self.max_unread_bytes, f"{accepted} bytes were accepted, and write still answers True"
            await stage.settle(2)

    @capability("flow_control")
    @needs("streams")
    @staged
    async def test_flow_control_bounds_unread_bytes(self, stage: Stage) -> None:
        """However much is written, no more than ``max_unread_bytes`` are delivered without a ``consume``."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        far.reads = False
        for _ in range(_PLENTY // _PIECE):
            near.write(bytes(_PIECE))
        await stage.received(far, 1)
        await stage.round_trips(await stage.echo_line(pair), 20)
        assert len(far.data) <= self.max_unread_bytes, f"{len(far.data)} bytes were delivered, none was consumed"

    @capability("flow_control")
    @needs("streams")
    @staged
    async def test_flow_control_goes_on_with_consume(self, stage: Stage) -> None:
        """Once the reader consumes, ``on_writable`` follows the False, and every byte arrives."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        far.reads = False
        sent = 0
        while near.write(bytes([sent // _PIECE % 251]) * _PIECE):
            sent += _PIECE
            assert sent <= _PLENTY, "write never answers False"
            await stage.settle(2)
        sent += _PIECE
        await stage.round_trips(await stage.echo_line(pair), 5)
        assert not near.writables, "on_writable came, and nobody has consumed"
        far.consume_all()
        await stage.until(lambda: near.writables, "on_writable after consume")
        near.write(b"and on")
        got = await stage.received(far, sent + 6)
        assert got == b"".join(bytes([n % 251]) * _PIECE for n in range(sent // _PIECE)) + b"and on"

    @capability("flow_control")
    @needs("streams")
    @staged
    async def test_flow_control_stalled_substream_stops_no_other(self, stage: Stage) -> None:
        """Sixteen full, unread substreams stop neither another substream nor the control substream."""
        pair = await stage.pair()
        for _ in range(_STALLED):
            near, far = await stage.line(pair)
            far.reads = False
            near.write(bytes(1_048_576))
        await stage.round_trips(await stage.echo_line(pair), 50)
        assert pair.near.control is not None and pair.far.control is not None
        size = len(pair.far.control.data)
        pair.near.control.write(bytes(10_000))
        await stage.received(pair.far.control, size + 10_000, "bytes on the control substream")

    @capability("flow_control", claimed=False)
    @needs("streams")
    @staged
    async def test_flow_control_absent_delivers_without_credit(self, stage: Stage) -> None:
        """Without ``flow_control`` a reader that does not consume holds nobody up: 8 MiB arrive."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        far.reads = False
        near.write(bytes(_PLENTY))
        await stage.received(far, _PLENTY, "bytes without a consume")
