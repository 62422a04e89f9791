"""The rules of callbacks: when they may come, and what becomes of one that fails."""

from __future__ import annotations

import random
from typing import Final

from echostream_core.transport import Connection, Pipe
from echostream_testkit.checks import needs
from echostream_testkit.transport.comparing import difference
from echostream_testkit.transport.recording import PipeEnd
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["CallbackChecks"]

_ENDINGS: Final = (
    "near.close",
    "near.abort",
    "far.close",
    "far.abort",
    "near.close far.close",
    "near.close near.abort",
    "near.abort far.abort",
    "near.close near.close far.abort",
)


class CallbackChecks(TransportSubject):
    """What ``ConnectionReceiver`` and ``SubstreamReceiver`` may rely on."""

    @needs("streams")
    @staged
    async def test_no_callback_runs_inside_a_call(self, stage: Stage) -> None:
        """What open, write, consume, close and abort cause is delivered on a later turn, at either end."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        far.reads = False
        for size in (0, 1, 1_000, 100_000, 1_000_000):
            near.write(bytes(size), bytes(10))
            far.write(bytes(size))
        await stage.until(lambda: len(near.data) >= 1_101_001, "bytes")
        far.consume_all()
        await stage.until(lambda: len(far.data) >= 1_101_051, "bytes")
        await stage.round_trips(await stage.echo_line(pair), 5)  # an echo writes inside of on_data
        other = await stage.pair()
        pair.near.close()
        other.near.abort()
        for end in (*pair.ends, *other.ends):
            await stage.closed(end)
        stage.rules.check()

    @needs("streams")
    @staged
    async def test_data_before_start_waits(self, stage: Stage) -> None:
        """What the peer has sent before our ``start`` is delivered after it, on a later turn, and whole."""
        sent = random.Random(8).randbytes(25_600)  # a pattern would look right in a buffer that is used again
        accepted: list[Connection | Pipe] = []

        def accept(made: Connection | Pipe) -> None:
            accepted.append(made)
            if isinstance(made, Pipe):  # bare: the kernel's mux lets no listener speak first
                PipeEnd(made, stage.rules).start().write(sent)
            else:
                stage.end(made, "listener").start().open().write(sent)

        made = await stage.dial((await stage.listen(accept=accept)).addresses[0])
        await stage.until(lambda: accepted, "the listener to accept the connection")
        await stage.settle()
        arrived: list[bytearray] = []
        if isinstance(made, Pipe):
            arrived.append(PipeEnd(made, stage.rules).start().data)
        else:
            near = stage.end(made, "dialer")
            near.hook = lambda line: arrived.append(line.data)
            near.start()
        await stage.until(lambda: arrived and len(arrived[0]) >= len(sent), "what was sent before start")
        assert not difference(arrived[0], sent)
        stage.rules.check()

    @staged
    async def test_end_before_start_is_told(self, stage: Stage) -> None:
        """A connection that has ended before ``start`` still gets its one ``on_closed``, on a later turn."""
        listener = await stage.listen()
        made = await stage.dial(listener.addresses[0])
        await stage.until(lambda: stage.accepted, "the listener to accept the connection")
        stage.accepted[0].abort()
        await stage.closed(stage.accepted[0])
        await stage.settle()
        near = stage.end(made, "dialer").start()
        assert not near.closed, "on_closed came inside of start"
        assert await stage.closed(near) is not None, "the peer ended the connection, and we are said to have closed it"
        await stage.settle()
        assert len(near.closed) == 1

    @needs("streams")
    @staged
    async def test_failing_callback_ends_only_its_connection(self, stage: Stage) -> None:
        """An ``on_data`` that raises ends its connection; others, of the same listener too, go on."""
        pair = await stage.pair()
        other = await stage.connect(pair.listener.addresses[0])
        near, far = await stage.line(pair)
        line = other[0].open()
        line.write(b"x")
        answering = await stage.accepted_line(other[1])
        answering.echoes = True

        def fail(data: bytes) -> None:
            raise RuntimeError("this callback fails on purpose")

        far.hook = fail
        near.write(b"boom")
        await stage.closed(pair.near, "on_closed at the peer of a session whose callback failed")
        await stage.closed(pair.far, "on_closed for a session whose callback failed")
        await stage.round_trips(line, 3)
        assert not other[0].closed and not other[1].closed

    @staged
    async def test_on_closed_comes_once_and_last(self, stage: Stage) -> None:
        """However a connection is ended, and by how many at once: one ``on_closed`` for each side, nothing after it."""
        for order in _ENDINGS:
            pair = await stage.pair()
            if pair.near.control is not None and pair.far.control is not None:
                pair.near.control.write(bytes(100_000))
                pair.far.control.write(bytes(100_000))
            for call in order.split():
                side, _, method = call.partition(".")
                getattr(getattr(pair, side), method)()
            for end in pair.ends:
                await stage.closed(end, f"on_closed after {order}")
            await stage.settle()
            assert [len(end.closed) for end in pair.ends] == [1, 1], f"after {order}"
        stage.rules.check()
