"""The network breaks after each byte of an exchange in turn: typed errors, never a hang, and nothing stays behind.

On the virtual loop a hang is an error at once, so every byte can be tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from echostream_core import EchoStreamError, RpcClient, RpcError, RpcServer, Session, Stream, handler, stream_handler
from tests.support.pairs import leftovers, memory_url
from tests.support.relay import Relay, relayed
from tests.support.waiting import other_tasks, settle

LOOPS = ("virtual",)


@handler("echo")
async def echo(value: object) -> object:
    await asyncio.sleep(0)
    return value


@handler("fail")
async def fail() -> None:
    raise ValueError("as planned")


@handler("count")
async def count(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        yield number


@stream_handler("talk")
async def talk(stream: Stream) -> int:
    total = 0
    async for item in stream:
        await stream.send(item)
        total += 1
    return total


LARGE = "x" * 2_100
"""Just over what travels in-line on native streams."""


async def exchange(client: RpcClient) -> list[object]:
    """Something of everything; each part ends with a result or a typed error."""
    results: list[object] = []

    async def attempt(work: Callable[[], object]) -> None:
        try:
            results.append(await work())  # type: ignore[misc]  # all are coroutine functions
        except EchoStreamError as error:
            results.append(error)

    async def stream() -> object:
        async with client.open_stream("talk", timeout=20) as opened:
            await opened.send("hello")
            first = await opened.recv()
            await opened.send(b"bytes")
            await opened.end()
            return [first, *[item async for item in opened]]

    async def items() -> object:
        return [item async for item in client.stream("count", 3, timeout=20)]

    await asyncio.gather(
        attempt(lambda: client.request("echo", 1, timeout=10)),
        attempt(lambda: client.request("echo", LARGE, timeout=10, metadata={"k": "v"})),
        attempt(lambda: client.request("fail", timeout=10)),
        attempt(stream),
        attempt(items),
        attempt(lambda: client.request("no such", timeout=10)),
    )
    return results


async def run_with(relay: Relay) -> tuple[list[object], list[Session]]:
    """One exchange through ``relay``; its results and both sessions, after everything was closed."""
    sessions: list[Session] = []
    async with RpcServer(memory_url(), echo, fail, count, talk, drain_timeout=0) as server:
        async with relayed(server.addresses[0], relay) as url:
            sessions += server._sessions
            async with RpcClient.connect(url) as client:
                sessions.append(client.session)
                results = await exchange(client)
                await settle()
        await settle()
    return results, sessions


async def lengths() -> dict[str, int]:
    relay = Relay()
    results, _ = await run_with(relay)
    failed = [result for result in results if isinstance(result, EchoStreamError)]
    assert len(failed) == 2, "uncut, only the calls that must fail do so"
    return relay.passed


def abort(relay: Relay) -> None:
    relay.abort()


def close_in_order(relay: Relay) -> None:
    for side in relay.sides:
        side.connection.close(0, "")


def stall(relay: Relay) -> None:
    """Nothing passes any more, and nobody is told: only the deadlines are left."""


@pytest.mark.parametrize("how", [abort, close_in_order, stall])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_an_exchange_that_is_cut_anywhere_ends_in_typed_errors(
    direction: str, how: Callable[[Relay], None], caplog: pytest.LogCaptureFixture
) -> None:
    total = (await lengths())[direction]
    assert total > 300
    step = 1 if how is abort else 3
    for after in [*range(0, 400, step), *range(400, total, 97)]:
        results, sessions = await run_with(Relay(direction, after, how))
        for result in results:
            assert not isinstance(result, Exception) or isinstance(result, EchoStreamError), (after, result)
            if isinstance(result, RpcError):
                assert result.message, (after, result)
        for session in sessions:
            assert leftovers(session) == {}, (after, leftovers(session))
            assert session.closed.done(), after
        assert not other_tasks(), after
        caplog.clear()
