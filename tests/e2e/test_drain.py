"""Stopping in order: nothing that was accepted is lost, nothing that was refused is in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from echostream_core import (
    CloseCode,
    ConnectFailed,
    Disconnected,
    Reconnect,
    RpcClient,
    RpcError,
    RpcServer,
    Stream,
    handler,
    stream_handler,
)
from tests.support.handlers import BASIC, Watched
from tests.support.pairs import Pair, connected
from tests.support.transports import Endpoint, endpoint
from tests.support.waiting import until

LOOPS = ("asyncio", "uvloop")


def linked(
    transport: Endpoint, *handlers: object, server: Mapping[str, Any] | None = None
) -> AbstractAsyncContextManager[Pair]:
    """A connected pair over ``transport``."""
    return connected(
        *handlers, url=transport.url, server={**transport.options, **(server or {})}, client=transport.options
    )


async def test_a_running_call_finishes_and_new_ones_are_refused(transport: Endpoint) -> None:
    watched = Watched()
    async with linked(transport, watched, *BASIC) as pair:
        calling = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        address = pair.server.addresses[0]
        closing = asyncio.ensure_future(pair.server.close(drain=30))
        await until(lambda: refused(pair))
        with pytest.raises(Disconnected) as caught:
            await pair.client.request("echo", 1)
        assert caught.value.not_processed
        assert pair.server.state == "draining"
        watched.go_on.set()
        assert await calling == "done"
        await closing
        assert pair.server.state == "stopped"
        assert pair.server.addresses == []
        await until(pair.near.closed.done)
        with pytest.raises(ConnectFailed):
            await RpcClient.connect(address, connect_timeout=0.5, **transport.options)


def refused(pair: Pair) -> bool:
    """True once the client knows that it may send no new calls."""
    return pair.near.outgoing._refusal is not None


@pytest.mark.parametrize("size", [100, 1_000_000])
async def test_calls_that_meet_a_drain_are_answered_or_known_not_to_be_processed(
    transport: Endpoint, size: int
) -> None:
    processed: set[int] = set()

    @handler("note")
    async def note(number: int, filling: str) -> str:
        processed.add(number)
        await asyncio.sleep(0)
        return filling

    async with linked(transport, note) as pair:
        await pair.ready()
        filling = "x" * size
        results: dict[int, object] = {}

        async def caller(first: int) -> None:
            for number in range(first, first + 200):
                try:
                    answer = await pair.client.request("note", {"number": number, "filling": filling}, timeout=30)
                    assert answer == filling
                    results[number] = "answered"
                except RpcError as error:
                    results[number] = error
                    return

        callers = [asyncio.ensure_future(caller(1_000 * index)) for index in range(8)]
        await until(lambda: len(processed) > 20)
        await pair.server.close(drain=30)
        await asyncio.gather(*callers)
        answered = {number for number, result in results.items() if result == "answered"}
        for number, result in results.items():
            if isinstance(result, RpcError):
                assert result.not_processed, (number, result)
        assert processed == answered


async def test_large_answers_and_streams_are_complete_before_the_connection_closes(transport: Endpoint) -> None:
    release = asyncio.Event()
    begun = asyncio.Event()

    @handler("large")
    async def large() -> str:
        begun.set()
        await release.wait()
        return "x" * 3_000_000

    @stream_handler("many")
    async def many(stream: Stream) -> None:
        await release.wait()
        for _ in range(100):
            await stream.send(bytes(20_000))

    async with linked(transport, large, many) as pair:
        calls = [asyncio.ensure_future(pair.client.request("large")) for _ in range(5)]
        stream = await pair.client.open_stream("many")
        await begun.wait()
        closing = asyncio.ensure_future(pair.server.close(drain=30))
        await until(lambda: refused(pair))
        release.set()
        received = 0
        async for item in stream:
            received += len(item)
        assert received == 2_000_000
        assert [len(answer) for answer in await asyncio.gather(*calls)] == [3_000_000] * 5
        async with asyncio.timeout(15):  # at 20 s a keep-alive would hide that nobody said that all is over
            await closing


async def test_a_client_goes_over_to_the_next_server_and_no_call_fails(transport: Endpoint, tmp_path: Path) -> None:
    """As when a new version is rolled out: calls all the time, one that runs for long, and a stream."""
    watched = Watched()
    handled: list[int] = []

    @handler("note")
    async def note(number: int) -> int:
        handled.append(number)
        return number

    following = endpoint(transport.scheme, tmp_path / "next")
    (tmp_path / "next").mkdir()
    stopping = False

    async def caller(client: RpcClient, first: int) -> int:
        made = 0
        while not stopping or made < 10:
            number = first + 100 * made
            assert await client.request("note", number) == number
            made += 1
        return made

    async with (
        RpcServer(transport.url, note, watched, *BASIC, **transport.options) as old,
        RpcServer(following.url, note, *BASIC, **following.options) as new,
        RpcClient.connect(
            [*old.addresses, *new.addresses], reconnect=Reconnect(initial_delay=0.01), **transport.options
        ) as client,
    ):
        running = asyncio.ensure_future(client.request("watched.wait"))
        callers = [asyncio.ensure_future(caller(client, first)) for first in range(20)]
        async with client.open_stream("echo_stream") as stream:
            await watched.reached(begun=1)
            closing = asyncio.ensure_future(old.close(drain=30))
            await until(lambda: new.sessions)
            await until(lambda: client.reconnects == 1)
            stopping = True
            made = await asyncio.gather(*callers)
            assert sorted(handled) == sorted(
                first + 100 * number for first, count in enumerate(made) for number in range(count)
            )
            await stream.send("still there")
            assert await stream.recv() == "still there"
        watched.go_on.set()
        assert await running == "done"
        await closing
        assert await client.request("echo", 1) == 1


async def test_a_call_that_does_not_finish_in_time_is_cut_off(
    transport: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched()
    async with linked(transport, watched) as pair:
        calling = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        await pair.server.close(drain=0.05)
        await watched.reached(cancelled=1)
        with pytest.raises(Disconnected) as caught:
            await calling
        assert caught.value.close_code == CloseCode.GOING_AWAY
        assert not caught.value.not_processed
    assert "1 calls did not finish within the drain time" in caplog.text


async def test_somebody_who_watches_the_health_does_not_hold_up_the_end(transport: Endpoint) -> None:
    async with linked(transport, *BASIC) as pair:
        seen = []

        async def watch() -> None:
            async for status in pair.client.stream("echostream.health.watch"):
                seen.append(status["status"])

        watching = asyncio.ensure_future(watch())
        await until(lambda: seen)
        async with asyncio.timeout(20):  # the drain itself may take 30
            await pair.server.close(drain=30)
        await asyncio.wait({watching})
        assert seen == ["SERVING", "NOT_SERVING"]
        assert watching.exception() is None or isinstance(watching.exception(), Disconnected)


async def test_a_server_can_be_started_again(transport: Endpoint) -> None:
    async with linked(transport, *BASIC) as pair:
        await pair.client.request("echo", 1)
        await pair.server.close()
        await pair.server.start()
        async with RpcClient.connect(pair.server.addresses[0], **transport.options) as again:
            assert await again.request("echo", 2) == 2
