"""Draining: a listener that closes takes nothing new and loses nothing old; a server keeps to its deadline."""

from __future__ import annotations

import asyncio
import random

from echostream_core import Disconnected, EchoStreamError, handler
from echostream_core.errors import ConnectFailed
from echostream_testkit.checks import needs
from echostream_testkit.transport.comparing import difference
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["DrainingChecks"]


class DrainingChecks(TransportSubject):
    """``Listener.close``, and ``RpcServer.close`` above it."""

    @needs("streams")
    @staged
    async def test_draining_listener_keeps_its_connections(self, stage: Stage) -> None:
        """After ``Listener.close`` what was accepted carries on, both ways, new substreams included."""
        pair = await stage.pair()
        near, far = await stage.line(pair)
        await pair.listener.close()
        near.write(b"there")
        far.write(b"and back")
        assert await stage.received(far, 5) == b"there"
        assert await stage.received(near, 8) == b"and back"
        await stage.round_trips(await stage.echo_line(pair), 10)
        assert not (pair.near.closed or pair.far.closed)

    @needs("streams")
    @staged
    async def test_draining_listener_loses_nothing(self, stage: Stage) -> None:
        """What is on its way when the listener closes arrives, in both directions."""
        pair = await stage.pair()
        sent = random.Random(7).randbytes(4 * 1_048_576)
        near, far = await stage.line(pair)
        near.write(sent)
        far.write(sent)
        await pair.listener.close()
        assert not difference(await stage.received(far, len(sent)), sent)
        assert not difference(await stage.received(near, len(sent)), sent)

    @needs("streams")
    @staged
    async def test_draining_listener_takes_nobody_new(self, stage: Stage) -> None:
        """Who dials after ``Listener.close`` is ConnectFailed, although a connection that was accepted goes on."""
        pair = await stage.pair()
        await pair.listener.close()
        line = await stage.echo_line(pair)
        dialling = asyncio.ensure_future(stage.dial(pair.listener.addresses[0]))
        while not dialling.done():  # a carrier without refusals can only time out: the connection is used meanwhile
            await stage.round_trips(line, 1)
            await asyncio.sleep(0.02)
        await stage.refused(dialling, ConnectFailed, "dialling a closed listener")
        await stage.round_trips(line, 3)

    @needs("streams")
    @staged
    async def test_draining_server_finishes_running_calls(self, stage: Stage) -> None:
        """``RpcServer.close`` lets a call that runs finish: its caller gets the answer."""
        begun, go = asyncio.Event(), asyncio.Event()

        @handler("slow")
        async def slow() -> str:
            begun.set()
            await go.wait()
            return "done"

        server, client = await stage.rpc(slow)
        call = asyncio.ensure_future(client.request("slow"))
        await begun.wait()
        closing = asyncio.ensure_future(server.close(drain=self.patience_s))
        await stage.settle()
        assert not closing.done(), "the server did not wait for a call that runs"
        go.set()
        assert await call == "done"
        await closing

    @needs("streams")
    @staged
    async def test_draining_server_keeps_its_deadline(self, stage: Stage) -> None:
        """A call that does not finish in time is ended: ``close`` returns, and the caller gets an error of ours."""
        begun = asyncio.Event()

        @handler("endless")
        async def endless() -> None:
            begun.set()
            await asyncio.Event().wait()

        server, client = await stage.rpc(endless)
        call = asyncio.ensure_future(client.request("endless", timeout=None))
        await begun.wait()
        await server.close(drain=0.05)
        error = await stage.refused(call, EchoStreamError, "a call that the server's end cut short")
        assert isinstance(error, Disconnected) or getattr(error, "code", None) is not None
