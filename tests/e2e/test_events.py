"""Events between a server and its clients, the same over every transport that is installed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from echostream_core import (
    CloseCode,
    ConfigError,
    Context,
    Disconnected,
    Event,
    LimitExceeded,
    RemoteError,
    RpcClient,
    RpcServer,
    StatusCode,
    Subscription,
    handler,
    listener,
    service,
)
from tests.support.pairs import Pair, connected
from tests.support.transports import Endpoint
from tests.support.waiting import until

LOOPS = ("asyncio", "uvloop")


@dataclass
class Joined:
    """A typed payload."""

    who: str
    age: int = 0


@asynccontextmanager
async def linked(
    transport: Endpoint, *targets: object, client_targets: tuple[object, ...] = (), **limits: float
) -> AsyncIterator[Pair]:
    """A pair over ``transport`` with ``targets`` on the server."""
    options = {**transport.options, "limits": limits}
    async with connected(
        *targets, url=transport.url, client_handlers=client_targets, server=options, client=options
    ) as pair:
        await pair.ready()
        yield pair


@asynccontextmanager
async def crowd(transport: Endpoint, count: int) -> AsyncIterator[tuple[RpcServer, list[RpcClient]]]:
    """A server and ``count`` clients."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(RpcServer(transport.url, drain_timeout=0, **transport.options))
        clients = [
            await stack.enter_async_context(
                RpcClient.connect(server.addresses[0], reconnect=False, **transport.options)
            )
            for _ in range(count)
        ]
        for client in clients:
            await client.ping()
        yield server, clients


async def test_an_event_reaches_the_listeners_that_match(transport: Endpoint) -> None:
    heard: list[tuple[str, str, object]] = []

    @listener("chat.*")
    async def one_segment(event: Event) -> None:
        heard.append(("*", event.topic, event.payload))

    @listener("chat.**")
    def more(event: Event) -> None:
        heard.append(("**", event.topic, event.payload))

    async with linked(transport, one_segment, more) as pair:
        assert await pair.client.emit("chat.joined", {"who": "ada"})
        assert await pair.client.emit("chat.lobby.joined", {"who": "bob"})
        assert not await pair.client.emit("news", "nobody listens")
        await pair.client.flush()
    assert sorted(heard, key=str) == [
        ("*", "chat.joined", {"who": "ada"}),
        ("**", "chat.joined", {"who": "ada"}),
        ("**", "chat.lobby.joined", {"who": "bob"}),
    ]


async def test_events_arrive_once_and_in_their_order(transport: Endpoint) -> None:
    heard: list[tuple[str, object]] = []

    @listener("a")
    async def on_a(event: Event) -> None:
        await asyncio.sleep(0)
        heard.append((event.topic, event.payload))

    @listener("*")
    def on_any(event: Event) -> None:
        heard.append(("any", event.payload))

    async with linked(transport, on_a, on_any) as pair:
        for number in range(2_000):
            await pair.client.emit("ab"[number % 2], number)
        await pair.client.flush()
    assert [payload for topic, payload in heard if topic == "a"] == list(range(0, 2_000, 2))
    assert [payload for topic, payload in heard if topic == "any"] == list(range(2_000))


async def test_a_payload_is_bound_and_checked_as_a_call_is(
    transport: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []

    @listener("one")
    async def one(joined: Joined, event: Event) -> None:
        heard.append((joined, event.topic))

    @service("svc")
    class Service:
        @listener("two")
        def two(self, x: int, y: int = 1) -> None:
            heard.append(x * y)

    async with linked(transport, one, Service()) as pair:
        await pair.client.emit("one", {"who": "ada", "age": 36})
        await pair.client.emit("one", {"who": 1})
        await pair.client.emit("two", {"x": 6, "y": 7})
        await pair.client.emit("two", {"x": "six"})
        await pair.client.flush()
    assert sorted(heard, key=str) == sorted([(Joined("ada", 36), "one"), 42], key=str)
    assert sum("is not what" in record.message for record in caplog.records) == 2


async def test_one_listener_that_fails_does_not_stop_the_others(
    transport: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []

    async def broken(event: Event) -> None:
        raise ValueError("as planned")

    def broken_too(event: Event) -> None:
        raise KeyError("as planned")

    async with linked(transport) as pair:
        near = [
            await pair.client.on("x", broken),
            await pair.client.on("x", broken_too),
            await pair.client.on("x", lambda event: heard.append(event.payload)),
        ]
        for number in range(3):
            assert await pair.server.broadcast("x", number) == 1
        await pair.far.flush()
        assert [subscription.failures for subscription in near] == [3, 3, 0]
    assert heard == [0, 1, 2]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 6
    assert all(record.exc_info for record in errors)


async def test_nothing_is_sent_that_nobody_asked_for(transport: Endpoint) -> None:
    async with crowd(transport, 3) as (server, clients):
        assert await server.broadcast("news", 1) == 0
        async with clients[1].subscribe("news") as news:
            assert await server.broadcast("news", 2) == 1
            assert (await news.recv()).payload == 2
            assert await server.broadcast("olds", 3) == 0
        assert await server.broadcast("news", 4) == 0
        await news.unsubscribe()
        assert [event async for event in news] == []


async def test_both_ends_emit_and_subscribe(transport: Endpoint) -> None:
    @handler("watch")
    async def watch(ctx: Context) -> list[object]:
        seen = []
        async with ctx.session.subscribe("count") as counts:
            await ctx.session.emit("ready")
            async for event in counts:
                seen.append(event.payload)
                if len(seen) == 5:
                    break
        return seen

    async with linked(transport, watch) as pair:
        async with pair.client.subscribe("ready") as ready:
            watching = asyncio.ensure_future(pair.client.request("watch"))
            await ready.recv()
            for number in range(5):
                assert await pair.client.emit("count", number)
            assert await watching == [0, 1, 2, 3, 4]
        assert not await pair.client.emit("count", 5)


async def test_large_events_arrive_whole(transport: Endpoint) -> None:
    async with linked(transport) as pair:
        async with pair.client.subscribe("blob", max_queue=2) as blobs:
            for size in (0, 1, 8_191, 8_193, 70_000, 1_000_000):
                await pair.server.broadcast("blob", bytes(size))
                event = await blobs.recv()
                value = event.payload
                assert len(value) in (size, -(-size // 3) * 4), "as bytes, or as base64 text in JSON"
        with pytest.raises(LimitExceeded, match="max_message_bytes"):
            async with pair.client.subscribe("blob"):
                await pair.server.broadcast("blob", bytes(5_000_000))


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "conflate"])
async def test_a_reader_that_does_not_read_loses_what_its_policy_says_and_is_told_how_much(
    transport: Endpoint, overflow: str
) -> None:
    total = 3_000
    async with crowd(transport, 2) as (server, clients):
        options = {"overflow": overflow, "max_queue": 10}
        slow = await clients[0].subscribe("n", **options)  # type: ignore[arg-type]
        quick: list[object] = []
        await clients[1].on("n", lambda event: quick.append(event.payload))
        for number in range(total):
            await server.broadcast("n", number)
        for session in server.sessions:
            await session.flush()
        kept = await everything_in(slow)
        assert quick == list(range(total))
        assert sum(slow.dropped.values()) == total - len(kept)
        assert set(slow.dropped) == {overflow}
        assert (
            kept
            == {
                "drop_oldest": list(range(total - 10, total)),
                "drop_newest": list(range(10)),
                "conflate": [total - 1],
            }[overflow]
        )


async def everything_in(subscription: Subscription) -> list[object]:
    """What waits in ``subscription`` when no more comes."""
    await subscription.unsubscribe()
    return [event.payload async for event in subscription]


async def test_with_block_nothing_is_lost_and_the_emitter_waits(transport: Endpoint) -> None:
    async with linked(transport) as pair:
        slow = await pair.client.subscribe("n", max_queue=5)
        emitting = asyncio.ensure_future(emit_all(pair, 30_000))
        await until(lambda: pair.far.events.sender is not None and pair.far.events.sender.interests)
        sender = pair.far.events.sender
        assert sender is not None
        (interest,) = sender.interests.values()
        await until(lambda: len(interest.queue) > 5)
        await asyncio.sleep(0.05)
        assert len(interest.queue) == 6
        assert not emitting.done()
        received = [(await slow.recv()).payload for _ in range(30_000)]
        await emitting
        assert received == list(range(30_000))
        assert slow.dropped == {}


async def emit_all(pair: Pair, count: int) -> None:
    for number in range(count):
        await pair.far.emit("n", number)


async def test_with_disconnect_the_slow_one_is_gone_and_the_others_are_not(transport: Endpoint) -> None:
    async with crowd(transport, 2) as (server, clients):
        slow = await clients[0].subscribe("n", overflow="disconnect", max_queue=10)
        quick: list[object] = []
        await clients[1].on("n", lambda event: quick.append(event.payload))
        for number in range(2_000):
            await server.broadcast("n", number)
        await until(lambda: len(quick) == 2_000)
        received = []
        with pytest.raises((LimitExceeded, Disconnected)) as caught:
            while True:
                received.append((await slow.recv()).payload)
        assert received == list(range(len(received)))
        if isinstance(caught.value, Disconnected):
            assert caught.value.close_code == CloseCode.SLOW
        await until(lambda: len(server.sessions) == 1)


async def test_a_wrong_subscription_is_refused_with_its_reason(transport: Endpoint) -> None:
    async with linked(transport, max_subscriptions=2) as pair:
        for pattern in ("", "a..b", "a.**.b", "x*", "a b"):
            with pytest.raises(ConfigError, match="no pattern"):
                await pair.client.subscribe(pattern)
        for topic in ("", "a.*", "a..b"):
            with pytest.raises(ConfigError, match="no topic"):
                await pair.server.broadcast(topic)
        for _ in range(2):
            await pair.client.subscribe("x")
        with pytest.raises(LimitExceeded, match="max_subscriptions is 2"):
            await pair.client.subscribe("x")
        with pytest.raises(RemoteError) as caught:
            await pair.client.request("echostream.events.subscribe", {"number": 9, "pattern": "y"})
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED


async def test_the_end_of_the_session_ends_its_subscriptions(transport: Endpoint) -> None:
    async with linked(transport) as pair:
        subscription = await pair.client.subscribe("x")
        await pair.far.emit("x", 1)
        await pair.far.flush()
        await pair.far.close()
        assert (await subscription.recv()).payload == 1
        with pytest.raises(Disconnected):
            await subscription.recv()
        with pytest.raises(Disconnected):
            await pair.client.emit("x", 2)
