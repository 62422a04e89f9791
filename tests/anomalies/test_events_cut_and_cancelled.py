"""Events when the network breaks after each byte, and when each of their coroutines is cancelled at each turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from echostream_core import Context, EchoStreamError, Event, RpcClient, RpcServer, Session, handler, listener
from tests.anomalies.test_cancel_at_each_await import cancelled_after
from tests.anomalies.test_cut_at_each_byte import abort, close_in_order, stall
from tests.support.pairs import Pair, connected, leftovers, memory_url
from tests.support.relay import Relay, relayed
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)
QUIET = {"keepalive_interval_s": 2.0, "keepalive_timeout_s": 2.0}


class Exchange:
    """Events both ways, through a relay; what was received, what was emitted, and how each part ended."""

    def __init__(self) -> None:
        self.up: list[object] = []
        self.down: list[object] = []
        self.ends: list[object] = []

    async def attempt(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            self.ends.append(await work)
        except (EchoStreamError, TimeoutError) as error:
            self.ends.append(error)

    async def run(self, client: RpcClient, server: RpcServer) -> None:
        async def subscribe() -> None:
            reading = await client.subscribe("down.*", max_queue=2)
            await client.on("down.*", lambda event: None, overflow="conflate", key="n")
            for number in range(6):
                await server.broadcast(f"down.{number % 2}", {"n": number})
            for _ in range(6):
                self.down.append((await reading.recv()).payload["n"])
            await reading.unsubscribe()

        async def emit() -> None:
            for number in range(6):
                await client.emit("up", {"n": number, "x": "x" * 10})
            await client.flush(20)

        async with asyncio.timeout(30):
            await asyncio.gather(self.attempt(subscribe()), self.attempt(emit()))


async def run_with(relay: Relay) -> tuple[Exchange, list[Session]]:
    exchange = Exchange()

    @listener("up")
    async def on_up(event: Event) -> None:
        await asyncio.sleep(0)
        exchange.up.append(event.payload["n"])

    sessions: list[Session] = []
    async with RpcServer(memory_url(), on_up, drain_timeout=0, limits=QUIET) as server:
        async with relayed(server.addresses[0], relay) as url:
            sessions += server._sessions
            async with RpcClient.connect(url, reconnect=False, limits=QUIET) as client:
                sessions.append(client.session)
                await exchange.attempt(exchange.run(client, server))
                await settle()
        await settle()
    await settle()
    return exchange, sessions


@pytest.mark.parametrize("how", [abort, close_in_order, stall], ids=lambda how: how.__name__)
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_events_that_are_cut_anywhere_are_a_beginning_and_a_typed_error(
    direction: str, how: Callable[[Relay], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole = Relay()
    exchange, _ = await run_with(whole)
    assert exchange.up == exchange.down == list(range(6))
    assert exchange.ends == [None, None, None]
    total = whole.passed[direction]
    assert total > 300
    for after in range(0, total, 1 if how is abort else 5):
        exchange, sessions = await run_with(Relay(direction, after, how))
        for received in (exchange.up, exchange.down):
            assert received == list(range(len(received))), (after, received)
        for session in sessions:
            assert session.closed.done(), after
            assert leftovers(session) == {}, after
            sender = session.events.sender
            assert sender is None or (sender.held, sender.held_bytes, sender._full) == (0, 0, set()), after
            assert session.events._syncs == {}, after
        assert not other_tasks(), (after, other_tasks())
        caplog.clear()


async def emit_much(pair: Pair) -> None:
    for number in range(300):
        await pair.client.emit("n", number)


async def emit_and_flush(pair: Pair) -> None:
    await pair.client.emit("n", 1)
    await pair.client.flush()


async def subscribe_and_leave(pair: Pair) -> None:
    async with pair.client.subscribe("n"):
        await pair.client.ping()


async def listen_and_leave(pair: Pair) -> None:
    async with await pair.client.on("n", lambda event: None):
        await pair.client.ping()


async def read(pair: Pair) -> None:
    async with pair.client.subscribe("n", max_queue=1) as reading:
        await pair.client.request("say", 5)
        for _ in range(5):
            await reading.recv()


async def broadcast_to_a_slow_one(pair: Pair) -> None:
    async with pair.client.subscribe("n", max_queue=1) as reading:

        async def take() -> None:
            for _ in range(40):
                await reading.recv()

        taking = asyncio.ensure_future(take())
        try:
            for number in range(40):
                await pair.server.broadcast("n", number)
            await taking
        finally:
            taking.cancel()
            await asyncio.wait({taking})


WORK = [emit_much, emit_and_flush, subscribe_and_leave, listen_and_leave, read, broadcast_to_a_slow_one]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
async def test_what_is_cancelled_anywhere_leaves_no_subscription_and_no_event(
    work: Callable[[Pair], Coroutine[Any, Any, object]],
) -> None:
    @handler("say")
    async def say(count: int, ctx: Context) -> None:
        for number in range(count):
            await ctx.session.emit("n", number)

    heard: list[int] = []

    @listener("n")
    async def on_n(event: Event) -> None:
        await asyncio.sleep(0)
        heard.append(event.payload)

    for turns in range(600):
        heard.clear()
        async with connected(say, on_n) as pair:
            await pair.ready() if turns % 2 else None  # before and after the peer's SETUP
            cancelled = await cancelled_after(turns, work(pair))
            await pair.ready()
            sender = pair.far.events.sender
            await until(lambda sender=sender: sender is None or not (sender.interests or sender.held))  # type: ignore[misc]  # bound in this turn
            assert sender is None or (sender.held_bytes, sender._full) == (0, set()), turns
            await until(lambda pair=pair: not pair.near.events.receiver._subscriptions)  # type: ignore[misc]  # bound in this turn
            assert pair.client._sessions.subscriptions == [], turns
            await pair.at_rest()
            await pair.client.flush()
            assert heard == sorted(heard), turns
        await settle()
        assert not other_tasks(), (turns, other_tasks())
        if not cancelled:
            break
    else:
        pytest.fail("the work never came to its end")
    assert turns > 1
