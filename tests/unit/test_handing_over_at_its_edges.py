"""What can go wrong while a client goes over: refusals that are none, servers that die, callers who give up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream_core import (
    CloseCode,
    ConnectionLost,
    DeadlineExceeded,
    Disconnected,
    EchoStreamError,
    EndOfStream,
    RemoteError,
    RpcClient,
    RpcServer,
    StatusCode,
    Stream,
    handler,
    stream_handler,
)
from echostream_core.engine.session_events import SUBSCRIBE, UNSUBSCRIBE
from echostream_core.middleware import Call, Handler, Reply
from tests.support.handlers import echo
from tests.support.pairs import leftovers, memory_url
from tests.support.raw_peer import RawPeer, listen_by_hand, raw_setup, response
from tests.support.waiting import other_tasks, settle, until
from tests.unit.test_handing_over import AT_ONCE, Node, emit, goaway, nodes

LOOPS = ("virtual",)


async def test_what_middleware_calls_not_processed_is_no_refusal_of_the_session() -> None:
    """It would be repeated at full speed, and the loop never run again."""
    tries = 0

    async def gone(call: Call, following: Handler) -> Reply:
        nonlocal tries
        tries += 1
        if call.method == "name":
            if tries > 50:
                raise AssertionError("the same session is asked again and again")
            raise Disconnected("the token server is gone", not_processed=True)
        return await following(call)

    async with nodes() as both, RpcClient.connect(both.urls, middleware=[gone], reconnect=AT_ONCE) as client:
        await client.subscribe("n")
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        calls = []
        while client.reconnects == 0:
            tries = 0
            calls.append(asyncio.ensure_future(client.request("name")))
            await asyncio.sleep(0)
        for call in calls:
            tries = 0
            with pytest.raises(Disconnected, match="token server"):
                await call
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)


async def test_a_call_is_not_repeated_when_middleware_fails_behind_its_answer() -> None:
    async def audited(call: Call, following: Handler) -> Reply:
        reply = await following(call)
        if call.method == "number":
            session = client.session
            if both.old.handled[1]:
                closing.append(asyncio.ensure_future(both.old.server.close(drain=60)))
                await until(lambda: session.departure.announced)
                await session.request("name")
        return reply

    closing: list[asyncio.Future[None]] = []
    async with nodes() as both, RpcClient.connect(both.urls, middleware=[audited], reconnect=AT_ONCE) as client:
        with pytest.raises(Disconnected):
            await client.request("number", 1)
        assert both.old.handled[1] + both.new.handled[1] == 1
        await asyncio.gather(*closing)


@pytest.mark.parametrize("turns", range(0, 24, 2))
async def test_who_gives_up_subscribing_meanwhile_leaves_nothing_behind(turns: int) -> None:
    async with nodes() as both, RpcClient.connect(both.urls, reconnect=AT_ONCE) as client:
        await client.ping()
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        subscribing = asyncio.ensure_future(client.subscribe("n").__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        if not subscribing.done():
            subscribing.cancel()
        await asyncio.wait({subscribing})
        await until(lambda: client.reconnects == 1)
        await settle()
        kept = 0 if subscribing.cancelled() else 1
        assert len(client._sessions.subscriptions) == kept
        assert await both.new.server.broadcast("n", 1) == kept
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)


async def test_an_event_that_is_emitted_while_the_old_session_closes_goes_to_the_next_one() -> None:
    url = memory_url()
    old, new = Node("old", url), Node("new", url)
    await old.server.start()
    async with RpcClient.connect(url, reconnect=AT_ONCE) as client:
        await client.ping()
        await client.emit("told", 1)
        session = client.session
        closing = asyncio.ensure_future(old.server.close(drain=60))
        await until(lambda: session.disconnected)
        assert not session.closed.done()
        emitting = asyncio.ensure_future(client.emit("told", 2))
        await closing
        await client.flush()  # what it has emitted until now was handled before the session ended
        async with new.server:
            assert await emitting
            await client.flush()
            assert (old.heard, new.heard) == ([1], [2])


async def test_a_call_is_not_given_to_a_next_server_that_never_speaks() -> None:
    peers: list[RawPeer] = []
    dead = memory_url()
    listening = await listen_by_hand(dead, peers)
    old, new = Node("old"), Node("new")
    async with old.server, new.server, RpcClient.connect([old.url, dead, new.url], reconnect=AT_ONCE) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await old.watched.reached(begun=1)
        closing = asyncio.ensure_future(old.server.close(drain=60))
        await until(lambda: peers and peers[0].accepted)
        call = asyncio.ensure_future(client.request("name"))
        events = asyncio.ensure_future(client.emit("told", 1))
        await settle()
        peers[0].connection.abort()
        await listening.close()
        assert await call == "new"
        await events
        old.watched.go_on.set()
        await asyncio.gather(running, closing)
        await client.flush()
        assert old.heard + new.heard == [1]


async def test_items_that_are_refused_before_the_last_goaway_is_read_come_from_the_next_one_too() -> None:
    """The final status travels on the stream's own substream, and may overtake."""
    peers: list[RawPeer] = []

    @handler("items")
    async def items(upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number

    url = memory_url()
    listening = await listen_by_hand(url, peers)
    async with (
        RpcServer(memory_url(), items) as server,
        RpcClient.connect([url, *server.addresses], reconnect=AT_ONCE) as client,
    ):
        await until(lambda: peers and peers[0].accepted)
        (peer,) = peers
        peer.control.send(raw_setup())
        first = asyncio.ensure_future(anext(client.stream("items", 3)))
        await until(lambda: len(peer.accepted) == 2)
        await listening.close()
        peer.control.send(goaway(None))
        await settle(4)
        body = bytes.fromhex("0e00 03 00000000 00 00")
        peer.accepted[1].send(response(0, body, error=True), end=True)
        await settle(4)
        peer.control.send(goaway(0))
        assert await first == 0
        await until(peer.closed.done)


async def test_a_stream_that_is_closed_while_it_waits_for_the_next_server_is_never_opened() -> None:
    node = Node("only")
    opened: list[Stream] = []

    @stream_handler("endless")
    async def endless(stream: Stream) -> None:
        opened.append(stream)
        while True:
            await stream.send(1)

    url = memory_url()
    async with RpcServer(url, endless, node.watched) as first:
        client = await RpcClient.connect(url, reconnect=AT_ONCE)
        running = asyncio.ensure_future(client.request("watched.wait"))
        await node.watched.reached(begun=1)
        closing = asyncio.ensure_future(first.close(drain=60))
        await until(lambda: client.session.departure.announced)
        items = client.stream("endless")
        taking = asyncio.ensure_future(anext(items))
        await settle()
        await items.aclose()
        node.watched.go_on.set()
        await asyncio.gather(running, closing)
        async with RpcServer(url, endless):
            with pytest.raises((StopAsyncIteration, EndOfStream)):
                await taking
            await client.ping()
            await settle()
            assert leftovers(client.session) == {}
            await client.close()


async def test_what_send_raises_keeps_its_cause() -> None:
    peers: list[RawPeer] = []
    url = memory_url()
    listening = await listen_by_hand(url, peers)
    async with RpcClient.connect(url, reconnect=False) as client:
        await until(lambda: peers and peers[0].accepted)
        (peer,) = peers
        peer.control.send(raw_setup())
        stream = await client.open_stream("x")
        await until(lambda: len(peer.accepted) == 2)
        peer.accepted[1].substream.stop(7)
        await settle()
        sending = asyncio.ensure_future(stream.send(1))
        await settle()
        assert not sending.done(), "it waits for the reason"
        peer.connection.abort()
        for failing in (sending, stream.recv()):
            with pytest.raises(Disconnected) as caught:
                await failing
            assert isinstance(caught.value.__cause__, ConnectionLost)
    await listening.close()


async def test_who_gives_up_subscribing_in_the_next_session_is_not_subscribed_in_the_old_one_either() -> None:
    answer = {name: asyncio.Event() for name in ("old", "new")}

    def slow(name: str) -> Any:
        async def slowly(call: Call, following: Handler) -> Reply:
            if call.method == SUBSCRIBE:
                await answer[name].wait()
            return await following(call)

        return slowly

    old, new = (Node(name, middleware=[slow(name)]) for name in ("old", "new"))
    async with old.server, new.server, RpcClient.connect([old.url, new.url], reconnect=AT_ONCE) as client:
        await client.ping()
        running = asyncio.ensure_future(client.request("watched.wait"))
        await old.watched.reached(begun=1)
        subscribing = asyncio.ensure_future(client.subscribe("n").__aenter__())
        await settle()
        closing = asyncio.ensure_future(old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        session = old.session
        answer["old"].set()
        await settle()
        assert not subscribing.done(), "the new server has not answered yet"
        subscribing.cancel()
        await asyncio.wait({subscribing})
        answer["new"].set()
        await settle()
        assert client._sessions.subscriptions == []
        assert all(len(one.events.receiver._subscriptions) == 0 for one in client._sessions.all)
        assert await new.server.broadcast("n", 1) == 0
        for _ in range(3_000):
            await asyncio.wait_for(session.emit("n", 1), 1)
        old.watched.go_on.set()
        await asyncio.gather(running, closing)


async def test_a_next_server_that_answers_a_paused_subscription_and_dies_is_followed_by_another() -> None:
    peers: list[RawPeer] = []
    dying = memory_url()
    listening = await listen_by_hand(dying, peers)
    old, new = Node("old"), Node("new")
    async with old.server, new.server, RpcClient.connect([old.url, dying, new.url], reconnect=AT_ONCE) as client:
        reading = await client.subscribe("n", max_queue=2)
        running = asyncio.ensure_future(client.request("watched.wait"))
        await old.watched.reached(begun=1)
        emitting = asyncio.ensure_future(emit(old, "n", 50))
        await settle()
        closing = asyncio.ensure_future(old.server.close(drain=60))
        await until(lambda: peers and peers[0].accepted)
        (peer,) = peers
        peer.control.send(raw_setup())
        await peer.called(1)
        assert await old.session.emit("n", ["old", 50])
        await until(lambda: reading._paused)
        peer.control.send(response(0, b"2"))
        peer.connection.close(CloseCode.INTERNAL, "")
        await listening.close()
        await until(lambda: client.reconnects == 1)
        received = [(await reading.recv()).payload[1] for _ in range(51)]
        assert received == list(range(51))
        old.watched.go_on.set()
        await asyncio.gather(running, emitting, closing)


async def test_an_unsubscribed_reader_that_was_behind_does_not_keep_the_old_server() -> None:
    async with nodes() as both, RpcClient.connect(both.urls, reconnect=AT_ONCE) as client:
        other = await client.subscribe("m")
        reading = await client.subscribe("n", max_queue=2)
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        await emit(both.old, "n", 50)
        await settle()
        emitting = asyncio.ensure_future(emit(both.old, "n", 50))
        await until(lambda: both.old.session.events.sender.held)  # type: ignore[union-attr]
        await reading.unsubscribe()
        begin = asyncio.get_running_loop().time()
        both.old.watched.go_on.set()
        await asyncio.gather(running, emitting, closing)
        assert asyncio.get_running_loop().time() - begin < 10
        assert await both.new.server.broadcast("m", 1) == 1
        assert (await other.recv()).payload == 1


async def test_what_the_next_server_has_against_unsubscribing_does_not_keep_it_at_the_old_one() -> None:
    async def refusing(call: Call, following: Handler) -> Reply:
        if call.method == UNSUBSCRIBE:
            raise RemoteError(StatusCode.PERMISSION_DENIED, "never")
        return await following(call)

    old, new = Node("old"), Node("new", middleware=[refusing])
    async with old.server, new.server, RpcClient.connect([old.url, new.url], reconnect=AT_ONCE) as client:
        reading = await client.subscribe("n", max_queue=2)
        running = asyncio.ensure_future(client.request("watched.wait"))
        await old.watched.reached(begun=1)
        closing = asyncio.ensure_future(old.server.close(drain=60))
        await until(lambda: client.reconnects == 1)
        with pytest.raises(RemoteError):
            await reading.unsubscribe()
        assert all(len(one.events.receiver._subscriptions) == 0 for one in client._sessions.all)
        old.watched.go_on.set()
        await asyncio.gather(running, closing)


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_next_server_that_refuses_who_we_are_ends_the_client_but_not_what_runs(when: str) -> None:
    peers: list[RawPeer] = []
    strict = memory_url()
    listening = await listen_by_hand(strict, peers)
    old = Node("old")
    async with old.server, RpcClient.connect([old.url, strict], reconnect=AT_ONCE) as client:
        reading = await client.subscribe("n")
        running = asyncio.ensure_future(client.request("watched.wait"))
        await old.watched.reached(begun=1)
        closing = asyncio.ensure_future(old.server.close(drain=60))
        await until(lambda: client.session.departure.announced)
        waiting = asyncio.ensure_future(client.request("name", timeout=None))
        await until(lambda: peers and peers[0].accepted)
        if when == "later":
            peers[0].control.send(raw_setup())
            await peers[0].called(1)
        peers[0].connection.close(CloseCode.UNAUTHENTICATED, "who are you?")
        for failing in (waiting, reading.recv(), client.request("name", timeout=None)):
            with pytest.raises(Disconnected, match="who are you"):
                await failing
        old.watched.go_on.set()
        assert await running == "done"
        await closing
        await asyncio.sleep(100)
        assert len(peers) == 1
        assert not client.connected
    await listening.close()


async def test_a_server_that_goes_away_as_soon_as_it_is_there_is_not_dialled_at_full_speed() -> None:
    peers: list[RawPeer] = []
    url = memory_url()
    listening = await listen_by_hand(url, peers)
    async with RpcClient.connect(url) as client:
        call = asyncio.ensure_future(client.request("x", timeout=20))
        loop = asyncio.get_running_loop()
        end = loop.time() + 20
        served = 0
        while loop.time() < end:
            await asyncio.sleep(0.001)
            for peer in peers[served:]:
                if peer.accepted:
                    peer.control.send(raw_setup(), goaway(None), goaway(0))
                    served += 1
        with pytest.raises(DeadlineExceeded):
            await call
        assert 2 < len(peers) < 200
        assert [peer.closed.done() for peer in peers].count(False) <= 2
    await listening.close()


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_who_gives_up_at_any_turn_leaves_nothing_behind(turns: int) -> None:
    async with nodes() as both, RpcClient.connect(both.urls, reconnect=AT_ONCE) as client:
        await client.ping()
        running = asyncio.ensure_future(client.request("watched.wait"))
        await both.old.watched.reached(begun=1)
        before = client.session
        closing = asyncio.ensure_future(both.old.server.close(drain=60))
        work: list[asyncio.Future[Any]] = []
        for turn in range(turns + 1):
            if turn % 4 == 0:
                work.append(asyncio.ensure_future(client.request("number", turn)))
                work.append(asyncio.ensure_future(anext(client.stream("ticks"))))
                work.append(asyncio.ensure_future(client.open_stream("ticks").__aenter__()))
                work.append(asyncio.ensure_future(client.emit("told", turn)))
            await asyncio.sleep(0)
        for one in work:
            one.cancel()
        allowed = (bool, asyncio.CancelledError, Disconnected, StopAsyncIteration)
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, Stream):
                outcome.reset()
            else:
                assert outcome in {"old", "new"} or isinstance(outcome, allowed)
        both.old.watched.go_on.set()
        await asyncio.gather(running, closing)
        await client.ping()
        await settle()
        assert leftovers(before) == leftovers(client.session) == {}
        assert client._sessions._gate is None or not client._sessions._gate.waiting
        await until(lambda: not leftovers(both.new.session))


async def test_what_is_added_while_the_next_server_is_dialled_is_served_to_it_too() -> None:
    peers: list[RawPeer] = []
    url = memory_url()
    listening = await listen_by_hand(url, peers)
    old = Node("old")
    async with old.server, RpcClient.connect([old.url, url], reconnect=AT_ONCE) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await old.watched.reached(begun=1)
        closing = asyncio.ensure_future(old.server.close(drain=60))
        forget = client.on_datagram(301, print)
        await until(lambda: peers and peers[0].accepted)
        client.on_datagram(300, print)
        forget()
        client.add(echo)
        peers[0].control.send(raw_setup())
        await until(lambda: client.reconnects == 1)
        assert set(client.session.datagrams._handlers) == {300}
        assert "echo" in client.session.pipeline.routes
        old.watched.go_on.set()
        await asyncio.gather(running, closing)
    await listening.close()


@pytest.mark.parametrize("how", ["client", "session"])
async def test_closing_while_the_next_server_has_not_spoken_yet_hangs_up_on_it(how: str) -> None:
    peers: list[RawPeer] = []
    url = memory_url()
    listening = await listen_by_hand(url, peers)
    old = Node("old")
    async with old.server, RpcClient.connect([old.url, url], reconnect=AT_ONCE) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await old.watched.reached(begun=1)
        closing = asyncio.ensure_future(old.server.close(drain=60))
        await until(lambda: peers and peers[0].accepted)
        waiting = asyncio.ensure_future(client.request("name", timeout=None))
        await settle()
        coming = client._sessions.all[0]
        assert coming is not client.session
        await (client.close() if how == "client" else client.session.close())
        for call in (running, waiting):
            with pytest.raises(Disconnected):
                await call
        if how == "client":
            assert coming.closed.done()
        await closing
    await settle()
    assert peers[0].closed.done()
    await listening.close()
    assert not other_tasks()


@pytest.mark.parametrize("failure", [KeyError("token"), Disconnected("no token server")], ids=["foreign", "ours"])
async def test_a_middleware_that_fails_on_one_subscription_does_not_end_the_going_over_of_the_others(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    async def broken(call: Call, following: Handler) -> Reply:
        asked: Any = call.payload
        if call.method == SUBSCRIBE and client.session.peer == both.urls[1] and asked["pattern"] == "bad":
            raise failure
        return await following(call)

    async with nodes() as both, RpcClient.connect(both.urls, middleware=[broken], reconnect=AT_ONCE) as client:
        bad = await client.subscribe("bad")
        good = await client.subscribe("good")
        client.on_reconnect(lambda: told.append(client.peer))
        await both.old.server.close(drain=60)
        await until(lambda: client.reconnects == 1)
        assert told == [both.urls[1]]
        assert await both.new.server.broadcast("good", 1) == 1
        assert (await good.recv()).payload == 1
        with pytest.raises(EchoStreamError, match="token"):
            await bad.recv()
    assert "could not be renewed" in caplog.text


async def test_what_a_server_says_on_leaving_cannot_forge_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with nodes() as both, RpcClient.connect(both.urls) as client:
        await client.ping()
        await both.old.session.drain(60, "bye\nERROR\x1b[31m forged")
        await until(lambda: client.reconnects == 1)
    lines = [record.getMessage() for record in caplog.records if "going away" in record.getMessage()]
    assert lines and all(line.isprintable() for line in lines)
    assert r"'bye\nERROR\x1b[31m forged'" in lines[0]
