"""The whole stack on this transport: servers and clients as applications use them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from echostream_core import Context, Disconnected, LimitExceeded, ResourceBusy, Stream, handler, stream_handler
from echostream_testkit.checks import capability, needs
from echostream_testkit.transport.comparing import difference
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["FullStackChecks"]

_LARGE: Final = 1_048_576
_AT_ONCE: Final = 64
_TURNS: Final = (0, 1, 2, 3, 5, 8, 13, 30)


@handler("echo")
async def echo(value: object) -> object:
    """Answer with what came."""
    return value


class FullStackChecks(TransportSubject):
    """``RpcServer`` and ``RpcClient``. Small calls need the control substream only, larger ones half-close."""

    @needs("streams")
    @staged
    async def test_calls_go_both_ways(self, stage: Stage) -> None:
        """The client calls the server, and the server the client, on one session."""

        @handler("ask")
        async def ask(number: int, ctx: Context) -> object:
            return await ctx.session.request("answer", number + 1)

        @handler("answer")
        async def answer(number: int) -> int:
            return number * 10

        _, client = await stage.rpc(ask, on_client=(answer,))
        assert await client.request("ask", 4) == 50

    @needs("streams")
    @staged
    async def test_calls_at_once_are_all_answered(self, stage: Stage) -> None:
        """64 small calls in flight get each its own answer."""
        _, client = await stage.rpc(echo)
        answers = await asyncio.gather(*(client.request("echo", number) for number in range(_AT_ONCE)))
        assert answers == list(range(_AT_ONCE))

    @needs("streams")
    @staged
    async def test_pending_call_is_told_of_the_end(self, stage: Stage) -> None:
        """A call that waits when the connection ends is Disconnected, at once."""
        begun = asyncio.Event()

        @handler("endless")
        async def endless() -> None:
            begun.set()
            await asyncio.Event().wait()

        server, client = await stage.rpc(endless)
        call = asyncio.ensure_future(client.request("endless", timeout=None))
        await begun.wait()
        for session in server.sessions:
            session.abort()
        await stage.refused(call, Disconnected, "a call whose connection was aborted")

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_carries_large_messages(self, stage: Stage) -> None:
        """A request and an answer of 1 MiB, larger than any window."""
        _, client = await stage.rpc(echo)
        text = "0123456789abcdef" * (_LARGE // 16)
        assert not difference((await client.request("echo", text)).encode(), text.encode())

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_ends_a_stream_in_order(self, stage: Stage) -> None:
        """A server's stream arrives item by item, in order, then ends."""

        @handler("count")
        async def count(upto: int) -> AsyncIterator[int]:
            for number in range(upto):
                yield number

        _, client = await stage.rpc(count)
        assert [item async for item in client.stream("count", 500)] == list(range(500))

    @capability("half_close")
    @needs("streams")
    @staged
    async def test_half_close_limits_messages(self, stage: Stage) -> None:
        """A message over ``max_message_bytes`` is LimitExceeded, and the session goes on."""
        _, client = await stage.rpc(echo, limits={"max_message_bytes": 65_536})
        await client.ping()  # the server's SETUP is here, and with it the limit
        call = client.request("echo", "x" * 100_000)
        await stage.refused(call, LimitExceeded, "a message of 100,000 bytes where 65,536 are allowed")
        assert await client.request("echo", "y" * 60_000) == "y" * 60_000

    @capability("half_close")
    @capability("reset")
    @needs("streams")
    @staged
    async def test_half_close_busy_end_is_resource_busy(self, stage: Stage) -> None:
        """A second reader of one stream is ResourceBusy; the first one gets what comes."""

        @stream_handler("mirror")
        async def mirror(stream: Stream) -> None:
            async for item in stream:
                await stream.send(item)

        _, client = await stage.rpc(mirror)
        async with client.open_stream("mirror") as stream:
            first = asyncio.ensure_future(stream.recv())
            await stage.settle()
            await stage.refused(stream.recv(), ResourceBusy, "reading a stream that somebody else reads")
            await stream.send(b"item")
            assert await first == b"item"
            await stream.end()

    @capability("reset")
    @capability("half_close")
    @needs("streams")
    @staged
    async def test_reset_cancels_a_call_mid_write(self, stage: Stage) -> None:
        """A large request that is cancelled after any number of turns leaves a session that works."""
        _, client = await stage.rpc(echo)
        text = "0123456789abcdef" * (_LARGE // 8)
        for turns in _TURNS:
            call = asyncio.ensure_future(client.request("echo", text))
            await stage.settle(turns)
            call.cancel()
            await asyncio.wait({call})
        assert await client.request("echo", "small") == "small"
        assert not difference((await client.request("echo", text)).encode(), text.encode())
