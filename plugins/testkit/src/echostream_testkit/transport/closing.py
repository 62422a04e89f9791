"""The end of a connection: closed by us, ended by the peer, broken by the network, and what each is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from echostream_core.errors import ConnectionLost, EchoStreamError, EndOfStream, ResourceClosed
from echostream_testkit.checks import needs
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["ClosingChecks"]

_CODES: Final = (1, 4, 6, 300, 0x4000_0000, 2**32 - 1)
_REASON: Final = "why\n\x1b[2J" + "ü" * 150


class ClosingChecks(TransportSubject):
    """``Connection.close``, ``abort`` and ``on_closed``."""

    @staged
    async def test_closed_by_us_is_none(self, stage: Stage) -> None:
        """Our own ``close`` or ``abort`` is ``on_closed(None)`` for us, on either side."""
        for side in ("near", "far"):
            for method in ("close", "abort"):
                pair = await stage.pair()
                end = getattr(pair, side)
                getattr(end, method)()
                error = await stage.closed(end)
                assert error is None, f"{side}.{method}() was told as {error!r}"

    @staged
    async def test_ended_by_the_peer_is_end_of_stream(self, stage: Stage) -> None:
        """``close(0)`` at one side is EndOfStream at the other."""
        for side, other in (("near", "far"), ("far", "near")):
            pair = await stage.pair()
            getattr(pair, side).close(0, "done")
            error = await stage.closed(getattr(pair, other))
            assert isinstance(error, EndOfStream), f"the peer's orderly close was told as {error!r}"

    @staged
    async def test_code_of_the_peer_arrives_exactly(self, stage: Stage) -> None:
        """``close(code, reason)`` is ConnectionLost with that ``close_code``; the reason is quoted, escaped and cut."""
        for number, code in enumerate(_CODES):
            pair = await stage.pair()
            closing, told = pair.ends if number % 2 else pair.ends[::-1]
            closing.close(code, _REASON)
            error = await stage.closed(told)
            assert isinstance(error, ConnectionLost), f"close({code}) was told as {error!r}"
            assert error.close_code == code, f"close({code}) arrived as {error.close_code}"
            text = str(error)
            assert "why" in text, f"the peer's reason is not told: {text}"
            assert text.isprintable(), f"the peer's reason is not escaped: {text!r}"
            assert len(text) < 500, f"the peer's reason is not cut: {len(text)} characters"

    @staged
    async def test_abort_is_connection_lost_at_the_peer(self, stage: Stage) -> None:
        """``abort`` is no orderly end: the peer gets ConnectionLost."""
        for side, other in (("near", "far"), ("far", "near")):
            pair = await stage.pair()
            getattr(pair, side).abort()
            error = await stage.closed(getattr(pair, other))
            assert isinstance(error, ConnectionLost), f"the peer of an abort was told {error!r}"

    @needs("wire")
    @needs("streams")
    @staged
    async def test_broken_by_the_network_is_connection_lost(self, stage: Stage) -> None:
        """A path that breaks is ConnectionLost without a code: nobody has closed anything."""
        relay = await stage.relay()
        pair = await stage.pair(relay=relay)
        line = await stage.echo_line(pair)
        await stage.round_trips(line, 1)
        relay.cut()
        line.write(b"is anybody there")
        error = await stage.closed(pair.near)
        assert isinstance(error, ConnectionLost), f"a broken path was told as {error!r}"
        assert error.close_code is None, f"a broken path has the code {error.close_code}"

    @needs("wire")
    @needs("streams")
    @staged
    async def test_foreign_errors_stay_inside(self, stage: Stage) -> None:
        """Under disturbance nothing is told or raised but errors of our tree."""
        relay = await stage.relay()
        pair = await stage.pair(relay=relay)
        lines = [pair.near.open() for _ in range(4)]
        for line in lines:
            line.write(bytes(200_000))
        await stage.accepted_line(pair.far, 3)
        relay.cut()
        while not pair.near.closed:
            for line in lines:
                line.write(bytes(1_000))
                line.substream.consume(0)
            await stage.settle(5)
            stage.waiting_for = "on_closed"
        told = pair.near.closed[0]
        assert isinstance(told, EchoStreamError), f"on_closed was given {told!r}"
        if await stage.carrier() == "tcp":  # the system has said what happened
            assert told.__cause__ is not None, f"the system's error is not chained as the cause of {told!r}"
        for call in (lambda: pair.near.close(1, "late"), pair.near.abort, lambda: lines[0].write(b"late")):
            call()
        try:
            await stage.connect(relay.address)
        except EchoStreamError:
            return
        raise AssertionError("a dial through a path that is cut succeeded")

    @needs("streams")
    @staged
    async def test_close_sends_what_the_control_substream_has(self, stage: Stage) -> None:
        """What was written to the control substream before ``close`` arrives before ``on_closed``; from either side."""
        for side, other in (("near", "far"), ("far", "near")):
            pair = await stage.pair()
            writer, reader = getattr(pair, side), getattr(pair, other)
            before = len(reader.control.data)
            writer.control.write(b"last words, " * 1_000)
            writer.close(0, "")
            await stage.closed(reader)
            said = bytes(reader.control.data[before:])
            assert said == b"last words, " * 1_000, f"{len(said)} of 12000 bytes arrived before the end"

    @staged
    async def test_close_is_idempotent(self, stage: Stage) -> None:
        """``close`` and ``abort`` may be called again, also long after the end; the first code counts."""
        pair = await stage.pair()
        pair.near.close(5, "first")
        pair.near.close(6, "second")
        error = await stage.closed(pair.far)
        assert isinstance(error, ConnectionLost) and error.close_code == 5, f"told {error!r}, not code 5"
        await stage.closed(pair.near)
        for end in pair.ends:
            end.close(7, "third")
            end.abort()
            end.abort()
        await stage.settle()
        assert [len(end.closed) for end in pair.ends] == [1, 1]

    @needs("streams")
    @staged
    async def test_open_substream_after_close_is_resource_closed(self, stage: Stage) -> None:
        """``open_substream`` raises ResourceClosed at once after our close, and after the peer's."""
        pair = await stage.pair()
        pair.near.close()
        _is_closed(pair.near.connection.open_substream)
        await stage.closed(pair.near)
        await stage.closed(pair.far)
        for end in pair.ends:
            _is_closed(end.connection.open_substream)

    @needs("streams")
    @staged
    async def test_write_after_close_is_a_no_op(self, stage: Stage) -> None:
        """``write`` and ``consume`` on substreams of a connection that has ended neither raise nor arrive."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        far.reads = False
        near.write(b"unread")
        await stage.received(far, 6)
        pair.near.close()
        near.write(b"too late")
        await stage.closed(pair.far)
        await stage.closed(pair.near)
        near.write(b"much too late")
        far.write(b"an answer")
        far.substream.consume(0)
        await stage.settle()
        assert far.data == b"unread"
        assert not (near.over or far.over), "a substream was called back about the end of its connection"
        stage.rules.check()


def _is_closed(call: Callable[[], object]) -> None:
    try:
        call()
    except ResourceClosed:
        return
    raise AssertionError("open_substream after the end did not raise ResourceClosed")
