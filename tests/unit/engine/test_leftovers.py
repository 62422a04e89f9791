"""Pipes that outlive their session: waited for, then hung up on. On a clock that does not wait."""

from __future__ import annotations

import asyncio

from echostream_core import RpcServer
from echostream_core.engine.leftovers import PATIENCE_S, Leftovers
from echostream_core.engine.muxed import MuxedConnection
from echostream_core.wire.limits import Limits
from echostream_core.wire.mux_frames import encode_close
from tests.support.handlers import echo
from tests.support.pairs import memory_url
from tests.unit.test_muxed import FakePipe, User

LOOPS = ("virtual",)


class StubbornPipe(FakePipe):
    """It ends when it is aborted, and not before."""

    def abort(self) -> None:
        super().abort()
        asyncio.get_running_loop().call_soon(self.end, None)


def closed_by_peer(pipe: FakePipe) -> MuxedConnection:
    """A connection whose peer has said CLOSE, while its pipe takes its time."""
    connection = MuxedConnection(pipe, "listener", limits=Limits())
    connection.start(User())
    pipe.feed(encode_close(0, ""))
    assert not connection.gone
    return connection


async def test_a_pipe_that_ends_in_time_is_waited_for() -> None:
    leftovers, pipe = Leftovers(), StubbornPipe(negotiated=True)
    leftovers.add(closed_by_peer(pipe))
    loop = asyncio.get_running_loop()
    begin = loop.time()
    loop.call_later(PATIENCE_S / 2, pipe.end, None)
    await leftovers.clear()
    assert loop.time() - begin == PATIENCE_S / 2
    assert "abort" not in pipe.log
    await leftovers.clear()


async def test_one_that_does_not_is_hung_up_on() -> None:
    leftovers, pipe = Leftovers(), StubbornPipe(negotiated=True)
    connection = closed_by_peer(pipe)
    leftovers.add(connection)
    begin = asyncio.get_running_loop().time()
    await leftovers.clear()
    assert asyncio.get_running_loop().time() - begin == PATIENCE_S
    assert pipe.log[-1] == "abort"
    assert connection.gone


async def test_what_is_gone_already_is_not_kept() -> None:
    leftovers, pipe = Leftovers(), FakePipe(negotiated=True)
    connection = closed_by_peer(pipe)
    pipe.end(None)
    assert connection.gone
    leftovers.add(connection)
    begin = asyncio.get_running_loop().time()
    await leftovers.clear()
    assert asyncio.get_running_loop().time() == begin


async def test_a_server_that_is_closed_leaves_no_pipe_behind() -> None:
    async with RpcServer(memory_url(), echo, drain_timeout=0) as server:
        pipe = StubbornPipe(negotiated=True)
        (target,) = server._targets
        server._acceptor(target)(pipe)
        pipe.feed(encode_close(0, ""))
        await asyncio.sleep(0)
        assert "close" in pipe.log and "abort" not in pipe.log
    assert "abort" in pipe.log
