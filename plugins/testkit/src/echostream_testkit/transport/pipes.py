"""Pipes: what the kernel's mux stands on, looked at without it."""

from __future__ import annotations

import random
from typing import Final

from echostream_core.errors import ConnectionLost, EndOfStream
from echostream_core.transport import Connection, Pipe
from echostream_testkit.checks import capability
from echostream_testkit.transport.comparing import difference
from echostream_testkit.transport.refusing import refuses
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["PipeChecks"]

_PIECE: Final = 65_536
_BOUND: Final = 16 * 1_048_576
"""What may be on its way to a paused pipe: the system's buffers between the two ends are beyond its control."""


class PipeChecks(TransportSubject):
    """The flag ``streams``: what is yielded, and for ``muxed`` what the pipe below does."""

    @capability("streams=native")
    @staged
    async def test_streams_native_yield_connections(self, stage: Stage) -> None:
        """``native``: both sides are handed a Connection."""
        near, far = await _yielded(stage)
        assert isinstance(near, Connection), f"dial yielded a {type(near).__name__}, which is no Connection"
        assert isinstance(far, Connection), f"the acceptor was given a {type(far).__name__}, which is no Connection"

    @capability("streams=muxed")
    @staged
    async def test_streams_muxed_yield_pipes(self, stage: Stage) -> None:
        """``muxed``: both sides are handed a Pipe, of which the kernel makes substreams."""
        near, far = await _yielded(stage)
        assert isinstance(near, Pipe), f"dial yielded a {type(near).__name__}, which is no Pipe"
        assert isinstance(far, Pipe), f"the acceptor was given a {type(far).__name__}, which is no Pipe"

    @capability("streams", claimed=False)
    @staged
    async def test_streams_none_refuse_substreams(self, stage: Stage) -> None:
        """Without ``streams``, ``open_substream`` raises CapabilityError that names them, at once."""
        pair = await stage.pair()
        for end in pair.ends:
            refuses(end.connection.open_substream, "streams")

    @capability("streams=muxed")
    @staged
    async def test_streams_muxed_pipe_keeps_order(self, stage: Stage) -> None:
        """Buffers of every kind and size are one sequence of bytes, in both directions at once."""
        near, far, _ = await stage.pipes()
        near.start()
        chance = random.Random(4)
        pieces = [chance.randbytes(size) for size in (1, 0, 5, 512, 16_384, 65_537, 1_000_000)]
        for end in (near, far):
            for piece in pieces:
                end.write(piece[:1], bytearray(piece[1:100]), memoryview(piece)[100:])
            end.write(*[b"ab"] * 5_000)
        sent = b"".join(pieces) + b"ab" * 5_000
        assert not difference(await stage.received(far, len(sent)), sent)
        assert not difference(await stage.received(near, len(sent)), sent)

    @capability("streams=muxed")
    @staged
    async def test_streams_muxed_pipe_write_answers_false(self, stage: Stage) -> None:
        """While the peer is paused ``write`` soon answers False; later comes ``on_writable``, and nothing is lost."""
        near, far, _ = await stage.pipes()
        near.start()
        far.pause()
        sent = 0
        while near.write(bytes([sent // _PIECE % 251]) * _PIECE):
            sent += _PIECE
            assert sent <= _BOUND, f"{sent} bytes were accepted although the peer is paused, and write answers True"
            await stage.settle(1)
        sent += _PIECE
        near.write(bytes([sent // _PIECE % 251]) * _PIECE)  # pressure is no reason to take nothing
        sent += _PIECE
        assert not near.writables
        far.resume()
        await stage.until(lambda: near.writables, "on_writable")
        near.write(b"end")
        got = await stage.received(far, sent + 3)
        assert got == b"".join(bytes([n % 251]) * _PIECE for n in range(sent // _PIECE)) + b"end"

    @capability("streams=muxed")
    @staged
    async def test_streams_muxed_pipe_pause_stops_delivery(self, stage: Stage) -> None:
        """Between ``pause`` and ``resume`` comes no data; both may be called twice; what waited comes afterwards."""
        near, far, _ = await stage.pipes()
        near.start()
        near.write(b"1")
        await stage.received(far, 1)
        for round_number in range(3):
            far.pause()
            far.pause()
            near.write(b"2" * 1_000)
            far.write(b"x")
            await stage.received(near, round_number + 1)  # the other direction is not paused
            await stage.settle()
            assert len(far.data) == 1 + 1_000 * round_number, "data was delivered to a paused pipe"
            far.resume()
            far.resume()
            await stage.received(far, 1 + 1_000 * (round_number + 1))
        stage.rules.check()

    @capability("streams=muxed")
    @staged
    async def test_streams_muxed_pipe_close_sends_what_is_queued(self, stage: Stage) -> None:
        """``close`` right behind a large write: the peer gets every byte, then EndOfStream; we get None."""
        near, far, _ = await stage.pipes()
        near.start()
        sent = random.Random(5).randbytes(4 * 1_048_576)
        near.write(sent)
        near.close()
        near.close()
        error = await stage.closed(far)
        assert not difference(far.data, sent)
        assert isinstance(error, EndOfStream), f"the peer of an orderly end was told {error!r}"
        assert await stage.closed(near) is None

    @capability("streams=muxed")
    @staged
    async def test_streams_muxed_pipe_abort_is_connection_lost(self, stage: Stage) -> None:
        """``abort`` is None for us and, where the carrier can tell it from an end, ConnectionLost at the peer."""
        near, far, _ = await stage.pipes()
        near.start()
        near.write(b"before")
        await stage.received(far, 6)
        near.abort()
        near.abort()
        error = await stage.closed(far)
        ends = (ConnectionLost, EndOfStream) if await stage.carrier() == "unix" else ConnectionLost
        assert isinstance(error, ends), f"the peer of an abort was told {error!r}"
        assert await stage.closed(near) is None
        await stage.settle()
        assert len(near.closed) == len(far.closed) == 1

    @capability("streams=muxed")
    @staged
    async def test_streams_muxed_pipe_ignores_writes_after_the_end(self, stage: Stage) -> None:
        """``write``, ``pause``, ``resume``, ``close`` and ``abort`` after the end neither raise nor call back."""
        near, far, _ = await stage.pipes()
        near.start()
        near.write(b"all")
        near.close()
        near.write(b"too late")
        await stage.closed(far)
        await stage.closed(near)
        for end in (near, far):
            assert end.write(b"much too late") in {True, False}
            end.pause()
            end.resume()
            end.close()
            end.abort()
        await stage.settle()
        assert far.data == b"all"
        assert len(near.closed) == len(far.closed) == 1

    @capability("streams=muxed")
    @staged
    async def test_streams_muxed_pipe_calls_back_later(self, stage: Stage) -> None:
        """No callback of a pipe comes inside of a call, ``resume`` with data waiting and ``start`` included."""
        near, far, _ = await stage.pipes()
        far.write(b"early")
        await stage.settle()
        assert not near.data, "data was delivered before start"
        near.start()
        await stage.received(near, 5)
        far.pause()
        sent = _PIECE
        while near.write(bytes(_PIECE)) and sent < _BOUND:  # until on_writable is due
            sent += _PIECE
            await stage.settle(1)
        far.resume()
        await stage.received(far, sent)
        near.close()
        await stage.closed(far)
        await stage.closed(near)
        other, another, _ = await stage.pipes()
        other.start()
        other.abort()
        await stage.closed(other)
        await stage.closed(another)
        stage.rules.check()


async def _yielded(stage: Stage) -> tuple[object, object]:
    accepted: list[object] = []

    def accept(made: Connection | Pipe) -> None:
        accepted.append(made)
        stage.accept(made)

    listener = await stage.listen(accept=accept)
    made = await stage.dial(listener.addresses[0])
    stage.end(made, "dialer").start()
    await stage.until(lambda: accepted, "the listener to accept the connection")
    return made, accepted[0]
