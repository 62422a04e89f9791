"""Going away in order: calls finish, events arrive, and nobody waits longer than it was told to."""

from __future__ import annotations

import asyncio

import pytest

from echostream_core import Context, Disconnected, EndOfStream, Event, RpcServer, handler, listener
from echostream_core.wire.frames import FrameType
from tests.support.handlers import Watched
from tests.support.pairs import Pair, connected, memory_url
from tests.support.raw_peer import dialled, raw_setup
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)


def now() -> float:
    return asyncio.get_running_loop().time()


async def emit_slowly(pair: Pair) -> None:
    """So slowly that a pause is heard of in between."""
    far = pair.far
    for number in range(20):
        await far.emit("n", number)
        await asyncio.sleep(0.01)


async def test_without_anything_to_wait_for_it_takes_no_time() -> None:
    async with connected() as pair:
        await pair.ready()
        begin = now()
        await pair.server.close(drain=60)
        assert now() - begin < 1


async def test_a_running_call_is_answered_and_a_new_one_refused() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        running = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        closing = asyncio.ensure_future(pair.server.close(drain=60))
        await settle()
        with pytest.raises(Disconnected) as caught:
            await pair.client.request("watched.wait")
        assert caught.value.not_processed
        watched.go_on.set()
        assert await running == "done"
        begin = now()
        await closing
        assert now() - begin < 1


async def test_what_the_server_emitted_before_it_drains_arrives() -> None:
    async with connected() as pair:
        reading = await pair.client.subscribe("n", max_queue=100_000)
        for number in range(20_000):
            await pair.far.emit("n", number)
        await pair.server.close(drain=60)
        received = []
        with pytest.raises((Disconnected, EndOfStream)):
            while True:
                received.append((await reading.recv()).payload)
        assert received == list(range(20_000))


async def test_what_a_handler_emits_before_it_returns_arrives_also_when_it_is_the_first_event() -> None:
    go_on = asyncio.Event()

    @handler("work")
    async def work(ctx: Context) -> str:
        await go_on.wait()
        for number in range(1_000):
            await ctx.session.emit("progress", [number, "x" * 500])
        return "done"

    async with connected(work) as pair:
        heard: list[int] = []
        await pair.client.on("progress", lambda event: heard.append(event.payload[0]))
        working = asyncio.ensure_future(pair.client.request("work"))
        await settle()
        closing = asyncio.ensure_future(pair.server.close(drain=60))
        await settle()
        go_on.set()
        assert await working == "done"
        await closing
        assert heard == list(range(1_000))


async def test_what_the_client_emitted_before_the_server_drains_arrives() -> None:
    heard: list[object] = []

    @listener("n")
    async def on_n(event: Event) -> None:
        await asyncio.sleep(0.0001)
        heard.append(event.payload)

    async with connected(on_n) as pair:
        await pair.ready()
        for number in range(3_000):
            await pair.client.emit("n", number)
        begin = now()
        await pair.server.close(drain=60)
        assert heard == list(range(3_000))
        assert now() - begin < 2


async def test_a_subscriber_that_does_not_read_costs_the_drain_time_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected() as pair:
        await pair.client.subscribe("n", max_queue=1)
        emitting = asyncio.ensure_future(emit_slowly(pair))
        await asyncio.sleep(1)
        begin = now()
        await pair.server.close(drain=7)
        assert 7 <= now() - begin < 8
        assert "events were not taken within the drain time" in caplog.text
        with pytest.raises(Disconnected):
            await emitting


async def test_a_subscriber_that_unsubscribes_meanwhile_lets_it_end() -> None:
    async with connected() as pair:
        reading = await pair.client.subscribe("n", max_queue=1)
        emitting = asyncio.ensure_future(emit_slowly(pair))
        await asyncio.sleep(1)
        begin = now()
        closing = asyncio.ensure_future(pair.server.close(drain=60))
        await asyncio.sleep(3)
        assert not closing.done()
        assert (await reading.recv()).payload == 0
        await reading.unsubscribe()
        await closing
        emitting.cancel()
        assert now() - begin < 4


async def test_listeners_that_never_got_an_event_do_not_hold_it_up() -> None:
    @listener("n")
    def on_n(event: Event) -> None: ...

    async with connected(on_n, client_handlers=(on_n,)) as pair:
        await pair.ready()
        begin = now()
        await pair.server.close(drain=60)
        assert now() - begin < 1


async def test_a_peer_that_never_closes_is_closed() -> None:
    async with RpcServer(memory_url(), drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup(listeners=(("n", 0, 5),)))
        await until(lambda: server.sessions)
        closing = asyncio.ensure_future(server.close(drain=20))
        await settle()
        pings = [frame for frame in peer.control.frames() if frame.kind == FrameType.PING]
        assert len(pings) == 1
        begin = now()
        await closing
        assert now() - begin <= 21
        assert peer.closed.done()
    await settle()
    assert not other_tasks()


async def test_broadcasting_while_it_drains_reaches_those_who_are_still_there() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        reading = await pair.client.subscribe("n")
        running = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        closing = asyncio.ensure_future(pair.server.close(drain=60))
        await settle()
        assert await pair.server.broadcast("n", 1) == 1
        watched.go_on.set()
        await running
        await closing
        assert (await reading.recv()).payload == 1
        assert await pair.server.broadcast("n", 2) == 0
