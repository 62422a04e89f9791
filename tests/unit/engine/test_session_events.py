"""Events of one session: subscribing as a call, what middleware may refuse, flushing, and hostile peers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from echostream_core import (
    CloseCode,
    Context,
    Disconnected,
    Event,
    RemoteError,
    ResourceBusy,
    RpcError,
    RpcServer,
    StatusCode,
    handler,
    listener,
)
from echostream_core.engine.session_events import SUBSCRIBE
from echostream_core.middleware import Call, Handler, Reply
from echostream_core.wire.events import encode_dropped, encode_event, encode_flow, encode_sync, encode_topic
from echostream_core.wire.frames import SubstreamKind, encode_substream_head
from tests.support.handlers import BASIC, echo
from tests.support.pairs import connected, memory_url
from tests.support.raw_peer import RawPeer, call, dialled, raw_setup
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)
EVENTS = encode_substream_head(SubstreamKind.EVENTS, 2, 0)


async def guard(call: Call, following: Handler) -> Reply:
    """A middleware that lets nobody subscribe to secrets."""
    payload: Any = call.payload
    await asyncio.sleep(0)
    if call.method == SUBSCRIBE and payload["pattern"].startswith(("secret", "*")):
        raise RpcError(StatusCode.PERMISSION_DENIED, "not for you")
    return await following(call)


async def test_middleware_sees_a_subscription_and_may_refuse_it() -> None:
    async with connected(server={"middleware": [guard]}) as pair:
        with pytest.raises(RemoteError, match="not for you"):
            await pair.client.subscribe("secret.*")
        with pytest.raises(RemoteError, match="not for you"):
            await pair.client.on("**", print)
        async with pair.client.subscribe("public") as reading:
            assert await pair.server.broadcast("secret.plan", 1) == 0
            assert await pair.server.broadcast("public", 2) == 1
            assert (await reading.recv()).payload == 2
        assert pair.near.events.receiver._subscriptions == {}


async def test_middleware_may_refuse_what_a_peer_listens_to_from_the_beginning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[object] = []

    @listener("secret.*")
    @listener("public")
    def on_event(event: Event) -> None:
        heard.append(event.payload)

    async with connected(server={"middleware": [guard]}, client_handlers=(on_event,)) as pair:
        await pair.ready()
        await until(lambda: pair.far.events.sender is not None)
        assert await pair.server.broadcast("secret.plan", 1) == 0
        assert await pair.server.broadcast("public", 2) == 1
        await pair.far.flush()
        assert heard == [2]
        assert "its listener of 'secret.*' is refused" in caplog.text


async def test_a_middleware_that_fails_on_a_listener_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(call: Call, following: Handler) -> Reply:
        if call.method == SUBSCRIBE:
            raise KeyError("as planned")
        return await following(call)

    @listener("n")
    def on_event(event: Event) -> None: ...

    async with connected(*BASIC, server={"middleware": [broken]}, client_handlers=(on_event,)) as pair:
        assert await pair.client.request("echo", 1) == 1
        assert await pair.server.broadcast("n", 2) == 0
        assert "a middleware failed" in caplog.text


async def test_more_listeners_than_the_peer_takes_are_refused_and_the_others_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[object] = []

    @listener("a")
    @listener("b")
    @listener("c")
    def on_event(event: Event) -> None:
        heard.append(event.topic)

    limits = {"max_subscriptions": 2}
    async with connected(server={"limits": limits}, client_handlers=(on_event,)) as pair:
        await pair.ready()
        assert [await pair.server.broadcast(topic) for topic in "abc"] == [0, 1, 1]
        await pair.far.flush()
        assert heard == ["b", "c"]
        assert "max_subscriptions is 2" in caplog.text


async def test_before_the_authenticator_has_answered_nothing_is_sent() -> None:
    answered = asyncio.Event()

    async def authenticate(credentials: object, peer: object) -> str:
        await answered.wait()
        raise RpcError(StatusCode.UNAUTHENTICATED, "no")

    async with RpcServer(memory_url(), authenticator=authenticate, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup(listeners=(("**", 0, 10),)))
        await settle()
        assert await server.broadcast("n", 1) == 0
        (session,) = server._sessions
        assert session.events.sender is None
        answered.set()
        assert await peer.close_code() == CloseCode.UNAUTHENTICATED
        assert len(peer.accepted) == 0


async def test_emit_lets_the_loop_run_also_when_nobody_listens() -> None:
    async with connected() as pair:
        await pair.ready()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        for _ in range(1_000):
            assert not await pair.client.emit("nobody")
        counting.cancel()
        assert turns > 20


async def test_a_subscription_is_made_once() -> None:
    async with connected() as pair:
        subscribing = pair.client.subscribe("n")
        async with subscribing:
            with pytest.raises(ResourceBusy):
                await subscribing
        with pytest.raises(ResourceBusy):
            await subscribing


async def test_a_refused_subscription_can_be_tried_again() -> None:
    refused = 0

    async def once(call: Call, following: Handler) -> Reply:
        nonlocal refused
        if call.method == SUBSCRIBE and not refused:
            refused += 1
            raise RpcError(StatusCode.UNAVAILABLE, "later")
        return await following(call)

    async with connected(server={"middleware": [once]}) as pair:
        subscribing = pair.client.subscribe("n")
        with pytest.raises(RemoteError, match="later"):
            await subscribing
        reading = await subscribing
        assert await pair.server.broadcast("n", 1) == 1
        assert (await reading.recv()).payload == 1


async def test_a_subscription_that_is_given_up_leaves_nothing_at_the_peer() -> None:
    async with connected() as pair:
        await pair.ready()
        for turns in range(12):
            subscribing = asyncio.ensure_future(pair.client.subscribe("n").__aenter__())
            for _ in range(turns):
                await asyncio.sleep(0)
            if subscribing.done():
                await subscribing.result().unsubscribe()
            subscribing.cancel()
            await asyncio.wait({subscribing})
            await pair.client.ping()
            await until(lambda: pair.far.events.sender is None or not pair.far.events.sender.interests)
            assert pair.near.events.receiver._subscriptions == {}


async def test_unsubscribing_that_is_given_up_is_done_all_the_same() -> None:
    async with connected() as pair:
        for turns in range(12):
            reading = await pair.client.subscribe("n")
            leaving = asyncio.ensure_future(reading.unsubscribe())
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait({leaving})
            if turns:  # before its first step nothing has begun
                await until(lambda: pair.far.events.sender is None or not pair.far.events.sender.interests)
            await reading.unsubscribe()
            await until(lambda: pair.far.events.sender is None or not pair.far.events.sender.interests)


async def test_ten_thousand_subscriptions_one_after_the_other_leave_nothing() -> None:
    async with connected() as pair:
        await pair.ready()
        for _ in range(10_000):
            await (await pair.client.subscribe("n")).unsubscribe()
        sender = pair.far.events.sender
        assert sender is not None
        assert (sender.interests, sender.held, sender._full) == ({}, 0, set())
        assert pair.near.events.receiver._subscriptions == {}
        assert pair.client._sessions.subscriptions == []
        await pair.at_rest()
        assert not pair.near._closing_tasks


async def test_a_thousand_subscriptions_at_once_each_get_theirs() -> None:
    async with connected() as pair:
        readings = await asyncio.gather(*(pair.client.subscribe(f"t.{n}").__aenter__() for n in range(1_000)))
        for number in range(1_000):
            assert await pair.server.broadcast(f"t.{number}", number) == 1
        assert [(await one.recv()).payload for one in readings] == list(range(1_000))


async def test_callbacks_may_emit_subscribe_and_call() -> None:
    heard: list[object] = []

    @listener("ask")
    async def on_ask(event: Event) -> None:
        await event.session.emit("answer", event.payload + 1)

    async with connected(on_ask, *BASIC) as pair:

        async def on_answer(event: Event) -> None:
            heard.append(event.payload)
            heard.append(await pair.client.request("echo", "called"))
            reading = await pair.client.subscribe("more")
            await pair.far.emit("more", "subscribed")
            heard.append((await reading.recv()).payload)
            await reading.unsubscribe()

        await pair.client.on("answer", on_answer)
        await pair.client.emit("ask", 1)
        await until(lambda: len(heard) == 3)
        assert heard == [2, "called", "subscribed"]


@pytest.mark.parametrize("how", ["session", "client"])
async def test_a_callback_may_close_what_it_belongs_to_without_waiting_for_itself(how: str) -> None:
    async with connected() as pair:
        loop = asyncio.get_running_loop()
        took: list[float] = []

        async def callback(event: Event) -> None:
            begin = loop.time()
            await (pair.near.close() if how == "session" else pair.client.close())
            took.append(loop.time() - begin)

        await pair.client.on("n", callback)
        await pair.server.broadcast("n", 1)
        await until(lambda: took)
        assert took[0] < 1
        assert pair.near.closed.done()


async def test_emitting_while_it_closes_is_an_error_or_reaches_nobody() -> None:
    async with connected() as pair:
        await pair.client.subscribe("n", max_queue=1)
        outcomes: list[object] = []

        async def emit() -> None:
            try:
                while True:
                    outcomes.append(await pair.far.emit("n", 1))
            except Disconnected as error:
                outcomes.append(type(error))

        far = pair.far
        emitting = asyncio.ensure_future(emit())
        await settle()
        assert not emitting.done(), "it waits for the reader"
        await far.close()
        await emitting
        assert outcomes[-1] is Disconnected


async def test_flush_without_an_answer_ends_with_its_time_or_the_session() -> None:
    go_on = asyncio.Event()

    @listener("n")
    async def on_n(event: Event) -> None:
        await go_on.wait()

    async with connected(on_n) as pair:
        await pair.client.emit("n", 1)
        with pytest.raises(TimeoutError):
            await pair.client.flush(1.0)
        assert pair.near.events._syncs == {}
        flushing = asyncio.ensure_future(pair.client.flush())
        await settle()
        await pair.near.close()
        with pytest.raises(Disconnected):
            await flushing
        go_on.set()


async def test_events_emitted_right_before_the_client_closes_arrive() -> None:
    heard: list[object] = []

    @listener("n")
    async def on_n(event: Event) -> None:
        await asyncio.sleep(0.001)
        heard.append(event.payload)

    async with connected(on_n) as pair:
        for number in range(500):
            await pair.client.emit("n", number)
        await pair.client.close()
        assert heard == list(range(500))


async def test_a_server_that_never_handles_the_last_events_delays_closing_only_so_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @listener("n")
    async def on_n(event: Event) -> None:
        await asyncio.Event().wait()

    async with connected(on_n) as pair:
        loop = asyncio.get_running_loop()
        await pair.client.emit("n", 1)
        begin = loop.time()
        await pair.client.close(flush=2.0)
        assert 2 <= loop.time() - begin < 8
        assert "were not handled within 2 s" in caplog.text
        for task in other_tasks():
            if "_work" in repr(task):
                task.cancel()


# A peer made by hand, which breaks rules or bends them.


async def hostile(server: RpcServer, **setup: Any) -> RawPeer:
    return await dialled(server.addresses[0], raw_setup(**setup))


def subscribe(call_number: int, number: object, pattern: object = "n", **more: object) -> bytes:
    return call(call_number, SUBSCRIBE, json.dumps({"number": number, "pattern": pattern, **more}).encode())


async def test_ten_thousand_subscriptions_of_one_peer_meet_the_limit() -> None:
    async with RpcServer(memory_url(), drain_timeout=0) as server:
        peer = await hostile(server)
        for start in range(0, 10_000, 500):
            peer.control.send(*(subscribe(2 * n, n, f"t.{n}") for n in range(start, start + 500)))
            await settle(10)
        refused = [frame for frame in peer.responses() if b"max_subscriptions is 1024" in frame.body]
        assert len(refused) == 10_000 - 1_024
        (session,) = server.sessions
        assert session.events.sender is not None
        assert len(session.events.sender.interests) == 1_024
        peer.connection.abort()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"number": -1}, b"no number"),
        ({"number": 1 << 32}, b"no number"),
        ({"number": "1"}, b"number"),
        ({"pattern": "a..b"}, b"no pattern"),
        ({"pattern": 1}, b"pattern"),
        ({"policy": "fastest"}, b"no overflow policy"),
        ({"policy": None}, b"policy"),
        ({"max_queue": "many"}, b"max_queue"),
        ({"key": "x" * 256, "policy": "conflate"}, b"255 bytes"),
    ],
    ids=str,
)
async def test_a_subscription_that_makes_no_sense_is_answered_and_the_session_goes_on(
    arguments: dict[str, object], text: bytes
) -> None:
    async with RpcServer(memory_url(), echo, drain_timeout=0) as server:
        peer = await hostile(server)
        peer.control.send(subscribe(0, **{"number": 65_536, **arguments}))
        (answer,) = await peer.answered()
        assert text in answer.body
        peer.control.send(call(2))
        assert len(await peer.answered(2)) == 2
        peer.connection.abort()


async def test_floods_of_frames_that_cost_nothing_end_the_session() -> None:
    floods = {
        "flow": lambda number: encode_flow(number, paused=bool(number % 2)),
        "sync": encode_sync,
    }
    for name, frame in floods.items():
        limits = {"max_control_frames_per_s": 1_000}
        async with RpcServer(memory_url(), limits=limits, drain_timeout=0) as server:
            peer = await hostile(server)
            await until(lambda server=server: server.sessions)  # type: ignore[misc]  # bound in this turn
            frames = [frame(number) for number in range(1_001)]
            if name == "flow":
                peer.control.send(*frames)
            else:
                peer.open(EVENTS, *frames)
            assert await peer.close_code() == CloseCode.LIMIT, name


async def test_a_hundred_thousand_dropped_for_nobody_change_nothing() -> None:
    async with RpcServer(memory_url(), echo, drain_timeout=0) as server:
        peer = await hostile(server)
        await until(lambda: server.sessions)
        substream = peer.open(EVENTS)
        for _ in range(100):
            substream.send(encode_dropped(5, 1, 1) * 1_000)
            await settle(3)
        peer.control.send(call(0))
        assert len(await peer.answered()) == 1
        peer.connection.abort()


async def test_a_second_events_substream_breaks_the_rules() -> None:
    async with RpcServer(memory_url(), drain_timeout=0) as server:
        peer = await hostile(server)
        peer.open(EVENTS)
        peer.open(EVENTS)
        assert await peer.close_code() == CloseCode.PROTOCOL


async def test_a_peer_that_does_not_heed_a_pause_loses_its_session() -> None:
    limits = {"max_message_bytes": 65_536, "max_window_bytes": 65_536}

    @listener("n", max_queue=10)
    async def on_n(event: Event) -> None:
        await stuck.wait()

    stuck = asyncio.Event()
    async with RpcServer(memory_url(), on_n, limits=limits, drain_timeout=0) as server:
        peer = await hostile(server)
        substream = peer.open(EVENTS, encode_topic(b"n", 0))
        for _ in range(200):
            if peer.closed.done():
                break
            substream.send(encode_event(b"", 0, 1, b'"' + b"x" * 30_000 + b'"'))
            await settle(5)
        assert await peer.close_code() == CloseCode.LIMIT
        stuck.set()
        await settle()


async def test_a_subscriber_that_reads_nothing_stops_a_publisher_only_so_long() -> None:
    limits = {"event_stall_s": 3.0}
    async with RpcServer(memory_url(), limits=limits, drain_timeout=0) as server:
        peer = await hostile(server)
        peer.control.send(subscribe(0, 65_536, "n", max_queue=1))
        await peer.answered()
        peer.control.send(encode_flow(65_536, paused=True))
        await settle()
        begin = asyncio.get_running_loop().time()
        for number in range(3):
            await server.broadcast("n", number)
        assert asyncio.get_running_loop().time() - begin < 4
        assert await peer.close_code() == CloseCode.SLOW


async def test_a_handler_may_subscribe_for_its_caller_only() -> None:
    @handler("me")
    async def me(ctx: Context) -> None:
        await ctx.session.emit("hello", "you")

    async with connected(me) as pair, pair.client.subscribe("hello") as reading:
        await pair.client.request("me")
        assert (await reading.recv()).payload == "you"
