"""A server goes away and says so: its client dials the next one, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from echostream_core import (
    CloseCode,
    Context,
    DeadlineExceeded,
    Disconnected,
    EndOfStream,
    Event,
    Reconnect,
    RpcClient,
    RpcServer,
    Session,
    Stream,
    handler,
    listener,
    stream_handler,
)
from echostream_core.client_sessions import MAX_LEAVING
from echostream_core.middleware import Call, Handler, Reply
from echostream_core.wire.frames import FrameType
from tests.support.handlers import Watched, echo
from tests.support.pairs import leftovers, memory_url
from tests.support.raw_peer import RawPeer, listen_by_hand, raw_setup, response
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)

AT_ONCE = Reconnect(initial_delay=1e-9, max_delay=1e-9)


class Node:
    """One of two servers with the same handlers; it counts what it is asked."""

    def __init__(self, name: str, url: str = "", **keywords: Any) -> None:
        self.name = name
        self.url = url or memory_url()
        self.watched = Watched()
        self.handled: Counter[int] = Counter()
        self.heard: list[object] = []

        @handler("number")
        async def number(value: int) -> str:
            self.handled[value] += 1
            await asyncio.sleep(value % 7 / 1_000)
            return name

        @handler("name")
        def name_() -> str:
            return name

        @stream_handler("ticks")
        async def ticks(stream: Stream) -> None:
            async for item in stream:
                await stream.send([name, item])

        @listener("told")
        def told(event: Event) -> None:
            self.heard.append(event.payload)

        self.server = RpcServer(self.url, echo, number, name_, ticks, told, self.watched, **keywords)

    @property
    def session(self) -> Session:
        (session,) = self.server.sessions
        return session


@dataclass
class Nodes:
    """The two, and what a client dials."""

    old: Node
    new: Node

    def __post_init__(self) -> None:
        self.urls = [self.old.url, self.new.url]


@asynccontextmanager
async def nodes(**keywords: Any) -> AsyncIterator[Nodes]:
    """Two servers; nothing may be left of them and their clients."""
    made = Nodes(Node("old", **keywords), Node("new", **keywords))
    try:
        async with made.old.server, made.new.server:
            try:
                yield made
            finally:
                for node in (made.old, made.new):
                    await node.server.close(drain=0)
    finally:
        await settle()
    assert not other_tasks()


def goaway(number: int | None) -> bytes:
    """The frame, by hand."""
    body = (0 if number is None else number).to_bytes(4, "little") + int(CloseCode.GOING_AWAY).to_bytes(4, "little")
    return bytes((FrameType.GOAWAY, number is not None, 0, 0, len(body), 0, 0, 0)) + body


async def test_a_running_call_is_finished_by_the_old_one_and_new_ones_are_made_to_the_new_one() -> None:
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        before = client.session
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: before.departure.announced)
        assert await client.request("name") == "new", "it waits for the next session; nobody sees an error"
        assert client.session is not before
        assert client.connected
        assert client.reconnects == 1
        assert not running.done()
        assert not closing.done()
        both.old.watched.go_on.set()
        assert await running == "done"
        await closing
        assert before.disconnected
        assert await client.request("name") == "new"
        assert client.reconnects == 1, "the end of the old session is no loss"


@pytest.mark.parametrize("seed", range(5))
async def test_no_call_fails_and_none_is_made_twice_while_servers_are_replaced(seed: int) -> None:
    """Calls all the time, from more callers than may call at once, while servers are replaced one after the other."""
    places = [memory_url() for _ in range(2)]
    servers: list[Node] = []
    answers: Counter[str] = Counter()

    async def up(url: str, name: str) -> Node:
        node = Node(name, url, limits={"max_concurrent_calls": 128})
        await node.server.start()
        servers.append(node)
        return node

    async def caller(client: RpcClient, first: int) -> None:
        for value in range(first, 6_400, 160):
            answers[await client.request("number", value, timeout=60)] += 1
            await asyncio.sleep(0.001)

    current = await up(places[0], "0")
    async with RpcClient.connect(places, reconnect=AT_ONCE) as client:
        callers = [asyncio.ensure_future(caller(client, first)) for first in range(160)]
        for turn in range(1, 5):
            await asyncio.sleep(0.02 + seed * 0.0013)
            following = await up(places[turn % 2], str(turn))
            await current.server.close(drain=60)
            current = following
        await asyncio.gather(*callers)
        assert client.reconnects == 4
    await current.server.close()
    assert sum(answers.values()) == 6_400
    handled = sum((node.handled for node in servers), Counter[int]())
    assert set(handled) == set(range(6_400))
    assert set(handled.values()) == {1}
    assert len(answers) == 5, "each of them has answered some"
    await settle()
    assert not other_tasks()


async def test_calls_that_wait_for_a_slot_go_to_the_next_one() -> None:
    async with nodes(limits={"max_concurrent_calls": 128}) as both, RpcClient.connect(both.urls) as client:
        await client.ping()
        calls = [asyncio.ensure_future(client.request("watched.wait")) for _ in range(130)]
        stream = asyncio.ensure_future(client.open_stream("ticks").__aenter__())
        await both.old.watched.reached(begun=128)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await both.new.watched.reached(begun=2)
        for node in (both.old, both.new):
            node.watched.go_on.set()
        assert await asyncio.gather(*calls) == ["done"] * 130
        await closing
        assert (both.old.watched.finished, both.new.watched.finished) == (128, 2)
        opened = await stream
        await opened.send(1)
        assert await opened.recv() == ["new", 1]
        await opened.end()


async def test_what_a_server_has_refused_is_done_by_the_next_one_and_what_it_has_taken_is_not() -> None:
    peers: list[RawPeer] = []
    url = memory_url()
    by_hand = await listen_by_hand(url, peers)
    node = Node("new")
    async with node.server, RpcClient.connect([url, *node.server.addresses], reconnect=AT_ONCE) as client:
        await until(lambda: peers)
        (peer,) = peers
        await until(lambda: peer.accepted)
        peer.control.send(raw_setup())
        taken, *refused = [asyncio.ensure_future(client.request("number", value)) for value in range(3)]
        await peer.called(3)
        await by_hand.close()
        peer.control.send(goaway(None), goaway(2))
        assert await asyncio.gather(*refused) == ["new", "new"]
        assert dict(node.handled) == {1: 1, 2: 1}
        # The final frames of those calls still come, and are no offence.
        body = bytes.fromhex("0e00 01 00000000 00 00")
        peer.control.send(response(2, body, error=True), response(4, body, error=True))
        await settle()
        assert not peer.closed.done()
        peer.control.send(response(0, b'"taken"'))
        assert await taken == "taken"
        await until(peer.closed.done)
        assert leftovers(client.session) == {}


async def test_items_that_a_server_has_refused_come_from_the_next_one() -> None:
    peers: list[RawPeer] = []

    @handler("items")
    async def items(upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number

    url = memory_url()
    by_hand = await listen_by_hand(url, peers)
    async with (
        RpcServer(memory_url(), items) as server,
        RpcClient.connect([url, *server.addresses], reconnect=AT_ONCE) as client,
    ):
        await until(lambda: peers and peers[0].accepted)
        (peer,) = peers
        peer.control.send(raw_setup())
        stream = client.stream("items", 3)
        first = asyncio.ensure_future(anext(stream))
        opened = await client.open_stream("items", 3)
        await until(lambda: len(peer.accepted) == 3)
        await by_hand.close()
        peer.control.send(goaway(None), goaway(0))
        assert [await first] + [item async for item in stream] == [0, 1, 2]
        with pytest.raises(Disconnected) as caught:
            await opened.recv()  # what was sent in it is the application's: it has to open another one
        assert caught.value.not_processed
        await until(peer.closed.done)
        assert leftovers(client.session) == {}


async def test_a_call_that_may_have_been_processed_is_not_repeated() -> None:
    async with nodes() as both, RpcClient.connect(both.urls, reconnect=AT_ONCE) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        both.old.session.abort()
        with pytest.raises(Disconnected) as caught:
            await running
        assert not caught.value.not_processed
        assert both.new.watched.begun == 0


async def test_without_reconnecting_the_caller_is_told_at_once() -> None:
    async with nodes() as both, RpcClient.connect(both.urls, reconnect=False) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        for refused in (
            client.request("name"),
            client.open_stream("ticks").__aenter__(),
            client.stream("n").__anext__(),
        ):
            with pytest.raises(Disconnected, match="takes no new calls") as caught:
                await refused
            assert caught.value.not_processed
        both.old.watched.go_on.set()
        assert await running == "done"
        await closing


async def test_the_timeout_of_a_call_covers_the_search_for_the_next_server() -> None:
    node = Node("only")
    async with node.server, RpcClient.connect(node.server.addresses[0]) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await node.watched.reached(begun=1)
        closing = asyncio.ensure_future(node.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        begin = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded, match="not connected within 3 s") as caught:
            await client.request("name", timeout=3)
        assert asyncio.get_running_loop().time() - begin == pytest.approx(3)
        assert caught.value.not_processed
        assert client.connected, "the old session still finishes what it has begun"
        assert not running.done()
        node.watched.go_on.set()
        assert await running == "done"
        await closing


async def test_when_nobody_else_can_be_dialled_the_attempts_end_and_the_running_call_does_not() -> None:
    node = Node("only")
    again = Reconnect(attempts=3)
    async with node.server, RpcClient.connect(node.server.addresses[0], reconnect=again) as client:
        events = await client.subscribe("n")
        running = asyncio.ensure_future(client.request("watched.wait"))
        await node.watched.reached(begun=1)
        closing = asyncio.ensure_future(node.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        with pytest.raises(Disconnected, match="takes no new calls"):
            await client.request("name", timeout=None)
        assert not events.ended
        assert await node.session.emit("n", 1)
        assert (await events.recv()).payload == 1
        node.watched.go_on.set()
        assert await running == "done"
        await closing
        with pytest.raises(Disconnected):
            await client.request("name", timeout=None)
        with pytest.raises(Disconnected, match="not connected any more"):
            await events.recv()
        assert not client.connected


async def test_a_server_that_goes_away_at_once_is_passed_by() -> None:
    third = Node("third")
    async with (
        nodes() as both,
        third.server,
        RpcClient.connect([*both.urls, third.url], reconnect=AT_ONCE) as client,
    ):
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: both.new.server.sessions)
        await both.new.server.close(drain=60)
        assert await client.request("name") == "third"
        both.old.watched.go_on.set()
        assert await running == "done"
        await closing


async def test_a_session_that_is_sent_away_alone_comes_back_to_the_same_server() -> None:
    node = Node("only")
    async with node.server, RpcClient.connect(node.server.addresses[0]) as client:
        await client.ping()
        before = client.session
        await node.session.drain(60)
        assert await client.request("name") == "only"
        assert client.session is not before
        assert client.reconnects == 1


async def test_a_running_stream_goes_on_in_the_old_session_and_the_next_is_opened_in_the_new_one() -> None:
    async with nodes() as both, RpcClient.connect(both.urls) as client, client.open_stream("ticks") as stream:
        await stream.send(1)
        assert await stream.recv() == ["old", 1]
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        async with client.open_stream("ticks") as following:
            await following.send(1)
            assert await following.recv() == ["new", 1]
            await stream.send(2)
            assert await stream.recv() == ["old", 2]
            await stream.end()
            with pytest.raises(EndOfStream):
                await stream.recv()
            await closing


async def test_the_events_of_both_arrive_until_the_old_one_is_gone() -> None:
    heard: list[tuple[str, int]] = []
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        reading = await client.subscribe("n", max_queue=4)
        await client.on("n", lambda event: heard.append(tuple(event.payload)))
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        emitting = asyncio.ensure_future(emit(both.old, "n", 200))
        await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        following = asyncio.ensure_future(emit(both.new, "n", 200))
        received: list[tuple[str, int]] = [tuple((await reading.recv()).payload) for _ in range(400)]
        both.old.watched.go_on.set()
        await asyncio.gather(running, emitting, following, closing)
        for payloads in (received, heard):
            for name in ("old", "new"):
                assert [number for by, number in payloads if by == name] == list(range(200))
        assert reading.dropped == {}
        assert await both.new.server.broadcast("n", ["new", 200]) == 1
        assert (await reading.recv()).payload == ["new", 200]


async def emit(node: Node, topic: str, count: int) -> None:
    """Emit some events to the client of ``node``."""
    session = node.session
    for number in range(count):
        await session.emit(topic, [node.name, number])


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "conflate"])
async def test_what_is_dropped_of_both_is_counted(policy: Any) -> None:
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        reading = await client.subscribe("n", overflow=policy, max_queue=4)
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        await asyncio.gather(emit(both.old, "n", 50), emit(both.new, "n", 50))
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)
        await both.new.session.flush()
        received: list[object] = []
        while sum(reading.dropped.values()) + len(received) < 100:
            received.append((await reading.recv()).payload)
        assert 0 < len(received) <= 8
        assert reading.dropped == {policy: 100 - len(received)}


async def test_who_is_too_slow_and_asked_to_be_disconnected_loses_the_session_that_was_too_fast() -> None:
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        reading = await client.subscribe("n", overflow="disconnect", max_queue=4)
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        old = both.old.session
        for number in range(5):
            await old.emit("n", number)
        await until(lambda: old.disconnected)
        with pytest.raises(Disconnected):
            await running
        assert reading.ended
        assert await client.request("name") == "new"
        assert client.reconnects == 1
        both.old.watched.go_on.set()
        await closing


async def test_unsubscribing_ends_it_in_both() -> None:
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        reading = await client.subscribe("n")
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        await reading.unsubscribe()
        assert await both.new.server.broadcast("n", 1) == 0
        await both.old.server.broadcast("n", 1)  # it cannot be told any more
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)
        assert [event async for event in reading] == []


async def test_who_subscribes_meanwhile_is_subscribed_in_the_next_one() -> None:
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        reading = await client.subscribe("n")
        assert client.session.peer == both.urls[1]
        assert await both.new.server.broadcast("n", 1) == 1
        assert (await reading.recv()).payload == 1
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)


@pytest.mark.parametrize("turns", range(0, 30, 3))
async def test_a_subscription_that_is_under_way_when_the_server_leaves_is_renewed(turns: int) -> None:
    async with nodes() as both, RpcClient.connect(both.urls, reconnect=AT_ONCE) as client:
        await client.ping()
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading = await client.subscribe("n")
        await until(lambda: client.reconnects == 1)
        await until(lambda: both.new.server.sessions)
        await client.ping()
        assert await both.new.server.broadcast("n", 1) == 1
        assert (await reading.recv()).payload == 1
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)


async def test_events_of_the_client_reach_a_server_and_flush_waits_for_both() -> None:
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        for number in range(20):
            await client.emit("told", number)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        for number in range(20, 40):
            await client.emit("told", number)
        await client.flush(10)
        assert both.old.heard + both.new.heard == list(range(40))
        assert both.new.heard[-1] == 39
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)


async def test_the_callback_comes_when_the_next_session_is_there_with_its_subscriptions() -> None:
    told: list[tuple[str, int]] = []
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        await client.subscribe("n")
        client.on_reconnect(lambda: told.append((client.peer, len(client.session.events.receiver._subscriptions))))
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: told)
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)
        assert told == [(both.urls[1], 1)]


async def test_the_old_server_may_still_call_the_client_and_what_the_client_adds_is_served_to_both() -> None:
    @handler("late")
    def late() -> str:
        return "here"

    got: list[bytes] = []
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        old = both.old.session
        client.add(late)
        stop = client.on_datagram(300, lambda data: got.append(bytes(data)))
        for session in (old, both.new.session):
            assert await session.request("late") == "here"
            session.send_datagram(300, b"x")
        await until(lambda: len(got) == 2)
        stop()
        for session in (old, both.new.session):
            session.send_datagram(300, b"y")
            assert await session.request("late") == "here"
        assert got == [b"x", b"x"]
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)


async def test_middleware_of_the_client_sees_the_second_try() -> None:
    seen: list[tuple[str, bool]] = []

    async def watching(call: Call, following: Handler) -> Reply:
        try:
            reply = await following(call)
        except Disconnected:
            seen.append((call.method, False))
            raise
        seen.append((call.method, True))
        return reply

    async with nodes() as both, RpcClient.connect(both.urls, middleware=[watching]) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        assert await client.request("name", metadata={"a": "b"}) == "new"
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)
        assert seen == [("name", False), ("name", True), ("watched.wait", True)]


async def test_a_call_of_a_handler_keeps_its_deadline_in_the_next_session() -> None:
    @handler("nested")
    async def nested(ctx: Context) -> str:
        return str(await client.request("name", timeout=None))

    node = Node("only")
    async with (
        node.server,
        RpcServer(memory_url(), nested) as front,
        RpcClient.connect(node.url) as client,
        RpcClient.connect(front.addresses[0]) as caller,
    ):
        running = asyncio.ensure_future(client.request("watched.wait"))
        await node.watched.reached(begun=1)
        closing = asyncio.ensure_future(node.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        with pytest.raises(DeadlineExceeded):
            await caller.request("nested", timeout=2)
        await until(lambda: leftovers(caller.session) == {})
        node.watched.go_on.set()
        await asyncio.gather(running, closing)


async def test_closing_the_session_while_the_next_is_dialled_ends_the_client() -> None:
    node = Node("only")
    async with node.server, RpcClient.connect(node.server.addresses[0]) as client:
        reading = await client.subscribe("n")
        running = asyncio.ensure_future(client.request("watched.wait"))
        await node.watched.reached(begun=1)
        closing = asyncio.ensure_future(node.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        waiting = asyncio.ensure_future(client.request("name", timeout=None))
        await settle()
        await client.session.close()
        for call in (running, waiting):
            with pytest.raises(Disconnected):
                await call
        with pytest.raises(Disconnected):
            await reading.recv()
        await closing
        await asyncio.sleep(100)
        assert not client.connected


@pytest.mark.parametrize("flush", [0.0, 5.0])
async def test_closing_is_possible_at_each_turn_of_it(flush: float) -> None:
    for turns in range(80):
        async with nodes() as both:
            client = await RpcClient.connect(both.urls, reconnect=AT_ONCE)
            await client.subscribe("n")
            running = asyncio.ensure_future(client.request("watched.wait"))
            await both.old.watched.reached(begun=1)
            closing = asyncio.ensure_future(both.old.server.close(drain=60))
            waiting = [asyncio.ensure_future(client.request("name")) for _ in range(2)]
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.close(flush=flush)
            assert not client.connected, turns
            with pytest.raises(Disconnected):
                await running
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert outcome in {"old", "new"} or isinstance(outcome, Disconnected), turns
            await closing


@pytest.mark.parametrize("turns", range(0, 60, 4))
async def test_a_server_that_dies_while_it_goes_away_is_followed_all_the_same(turns: int) -> None:
    async with nodes() as both, RpcClient.connect(both.urls, reconnect=AT_ONCE) as client:
        reading = await client.subscribe("n")
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        session = both.old.session
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        for _ in range(turns):
            await asyncio.sleep(0)
        session.abort()
        with pytest.raises(Disconnected):
            await running
        assert await client.request("name") in {"old", "new"}
        await closing
        assert await client.request("name") == "new"
        await until(lambda: client.reconnects >= 1)
        await client.ping()
        assert await both.new.server.broadcast("n", 1) == 1
        assert (await reading.recv()).payload == 1


async def test_of_a_server_that_sends_everybody_away_and_stays_only_so_many_sessions_are_kept() -> None:
    peers: list[RawPeer] = []
    url = memory_url()
    by_hand = await listen_by_hand(url, peers)
    async with RpcClient.connect(url, reconnect=AT_ONCE) as client:
        calls = []
        for number in range(MAX_LEAVING + 3):
            await until(lambda number=number: len(peers) > number and peers[number].accepted)  # type: ignore[misc]
            peers[number].control.send(raw_setup())
            await until(lambda number=number: client.reconnects == number)  # type: ignore[misc]
            calls.append(asyncio.ensure_future(client.request("x", number)))
            await peers[number].called(1)
            assert [peer.closed.done() for peer in peers].count(False) <= MAX_LEAVING + 1
            peers[number].control.send(goaway(None))
        for call in calls[:2]:
            with pytest.raises(Disconnected) as caught:
                await call
            assert not caught.value.not_processed
        assert not any(call.done() for call in calls[2:])
    await by_hand.close()
    for call in calls[2:]:
        with pytest.raises(Disconnected):
            await call
