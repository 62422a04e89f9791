"""Dialling: failures in words of ours, and nothing left of what was given up."""

from __future__ import annotations

import asyncio
from typing import Final

from echostream_core.errors import ConnectFailed, EchoStreamError
from echostream_core.transport import Connection, Pipe
from echostream_core.types import Url
from echostream_testkit.checks import needs
from echostream_testkit.transport.stage import Stage, descriptors, nothing_unclosed
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["DialChecks"]

_AT_ONCE: Final = 16
_TURNS: Final = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 25, 40, 80, 200, 600)
"""After how many turns of the loop a dial is given up."""


class DialChecks(TransportSubject):
    """``Transport.dial``."""

    @staged
    async def test_dial_without_a_listener_is_connect_failed(self, stage: Stage) -> None:
        """Where nobody listens, a dial is ConnectFailed that names the address."""
        address = await stage.nobody_listens()
        error = await stage.refused(stage.dial(address), ConnectFailed, "dialling where nobody listens")
        url = Url.parse(address)
        assert str(url.port or url.host or url.path) in str(error), f"the error does not name the address: {error}"

    @needs("wire")
    @staged
    async def test_failed_dial_chains_its_cause(self, stage: Stage) -> None:
        """The system's or library's own error is the ``__cause__`` of ConnectFailed, for whoever has to debug it."""
        address = await stage.nobody_listens()
        error = await stage.refused(stage.dial(address), ConnectFailed, "dialling where nobody listens")
        assert error.__cause__ is not None, "ConnectFailed has no cause chained"
        assert not isinstance(error.__cause__, EchoStreamError) or error.__cause__.__cause__ is not None

    @staged
    async def test_cancelled_dial_leaves_nothing_behind(self, stage: Stage) -> None:
        """A dial that is cancelled after any number of turns leaves no task, no descriptor and no connection."""
        await stage.warmed()
        listener = await stage.listen()
        accepted = len(stage.accepted)
        tasks, files = asyncio.all_tasks(), descriptors()
        with nothing_unclosed():
            for turns in _TURNS:
                await _give_up(stage, listener.addresses[0], turns)
                await stage.no_more_tasks_than(tasks)
            for end in stage.accepted[accepted:]:
                await stage.closed(end, "on_closed of a connection whose dialer gave up")
            await stage.no_more_descriptors_than(files)

    @staged
    async def test_dials_at_once_all_succeed(self, stage: Stage) -> None:
        """Sixteen dials at the same time are sixteen connections."""
        address = (await stage.listen()).addresses[0]
        made = await asyncio.gather(*(stage.dial(address) for _ in range(_AT_ONCE)))
        ends = [stage.end(one, "dialer").start() for one in made]
        await stage.until(lambda: len(stage.accepted) == _AT_ONCE, "every connection to be accepted")
        assert len({id(end.connection) for end in ends}) == _AT_ONCE
        for number, end in enumerate(ends):
            end.close(1_000 + number)
        codes = {getattr(await stage.closed(end), "close_code", None) for end in stage.accepted}
        assert codes == set(range(1_000, 1_000 + _AT_ONCE)), "not every connection is a pair of its own"

    @staged
    async def test_failing_acceptor_drops_only_its_connection(self, stage: Stage) -> None:
        """An acceptor that raises ends the connection that it was given; the listener takes the next one."""
        calls: list[str] = []

        def accept(made: Connection | Pipe) -> None:
            calls.append("accept")
            if len(calls) == 1:
                raise RuntimeError("this acceptor fails on purpose")
            stage.accept(made)

        address = (await stage.listen(accept=accept)).addresses[0]
        try:
            first = stage.end(await stage.dial(address), "dialer").start()
        except ConnectFailed:
            pass
        else:
            error = await stage.closed(first, "on_closed of a connection that was not accepted")
            assert isinstance(error, EchoStreamError), f"what was not accepted ended with {error!r}"
        await stage.connect(address)
        assert len(stage.accepted) == 1


async def _give_up(stage: Stage, address: str, turns: int) -> None:
    """Dial, and cancel it after some turns of the loop; what it has brought by then is aborted."""
    dialling: asyncio.Task[Connection | Pipe] = asyncio.ensure_future(stage.dial(address))
    await stage.settle(turns)
    dialling.cancel()
    await asyncio.wait({dialling})
    if not dialling.cancelled():
        dialling.result().abort()
