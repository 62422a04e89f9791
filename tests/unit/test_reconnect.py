"""A client whose session is lost dials again, and its subscriptions go on. On a clock that does not wait."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from echostream_core import (
    CloseCode,
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    Disconnected,
    EndOfStream,
    Event,
    Reconnect,
    RemoteProtocolError,
    ResourceBusy,
    RpcClient,
    RpcError,
    RpcServer,
    StatusCode,
    Url,
    handler,
    listener,
)
from echostream_core.builtin.memory import MemoryOptions, MemoryTransport
from echostream_core.middleware import Call, Handler, Reply
from echostream_core.reconnect import is_permanent
from echostream_core.transport import Connection, Pipe
from tests.support.handlers import echo
from tests.support.pairs import memory_url
from tests.support.raw_peer import RawPeer, client_by_hand, raw_setup, response
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)


class Place:
    """A server that can be stopped and started under one URL."""

    def __init__(self, *handlers: object, **keywords: Any) -> None:
        self.url = memory_url()
        self._handlers = handlers
        self._keywords = keywords
        self.server: RpcServer | None = None

    async def up(self) -> RpcServer:
        self.server = RpcServer(self.url, echo, *self._handlers, drain_timeout=0, **self._keywords)
        await self.server.start()
        return self.server

    async def down(self) -> None:
        if self.server is not None:
            await self.server.close(drain=0)
            self.server = None


@asynccontextmanager
async def place(*handlers: object, **keywords: Any) -> AsyncIterator[Place]:
    """A running server; nothing may be left of it and its clients."""
    made = Place(*handlers, **keywords)
    await made.up()
    try:
        yield made
    finally:
        await made.down()
    await settle()
    assert not other_tasks()


def test_the_pauses_grow_from_the_first_to_the_longest_and_are_drawn() -> None:
    highest = Reconnect(initial_delay=1, max_delay=5, attempts=5)
    ceilings = []

    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0
            ceilings.append(b)
            return b

    assert list(highest.delays(Highest())) == [1, 2, 4, 5, 5]
    assert ceilings == [1, 2, 4, 5, 5]
    drawn = [next(Reconnect().delays(random.Random(seed))) for seed in range(50)]
    assert len(set(drawn)) == 50
    assert all(0 <= delay <= 0.5 for delay in drawn)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"initial_delay": 0}, "initial_delay"),
        ({"initial_delay": 2, "max_delay": 1}, "max_delay"),
        ({"attempts": 0}, "attempts must be 1 or more"),
    ],
    ids=["no pause", "first above longest", "no attempt"],
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Reconnect(**arguments)


@pytest.mark.parametrize("code", list(CloseCode), ids=lambda code: code.name)
def test_only_who_we_are_and_what_we_speak_is_permanent(code: CloseCode) -> None:
    lost = ConnectionLost("x")
    lost.close_code = code
    expected = code in (CloseCode.UNAUTHENTICATED, CloseCode.VERSION, CloseCode.PROTOCOL)
    assert is_permanent(lost) is expected
    assert is_permanent(RemoteProtocolError("x", close_code=code)) is expected
    assert not is_permanent(None)


async def test_a_lost_session_is_followed_by_another_and_requests_wait_for_it() -> None:
    async with place() as there, RpcClient.connect(there.url) as client:
        await client.ping()
        before = client.session
        await there.down()
        await until(lambda: not client.connected)
        assert client.session is before, "while there is none it is the one that was"
        waiting = asyncio.ensure_future(client.request("echo", 1))
        emitting = asyncio.ensure_future(client.emit("nobody.listens"))
        await asyncio.sleep(1)
        assert not waiting.done()
        await there.up()
        assert await waiting == 1
        assert not await emitting
        assert client.connected
        assert client.session is not before
        assert client.reconnects == 1


async def test_subscriptions_go_on_in_the_next_session() -> None:
    heard: list[object] = []
    async with place() as there, RpcClient.connect(there.url) as client:
        reading = await client.subscribe("n", max_queue=5)
        await client.on("n", lambda event: heard.append(event.payload))
        assert there.server is not None
        await there.server.broadcast("n", 1)
        assert (await reading.recv()).payload == 1
        await there.down()
        await until(lambda: not client.connected)
        server = await there.up()
        await until(lambda: client.reconnects == 1)
        for number in range(2, 20):
            sending = asyncio.ensure_future(server.broadcast("n", number))
            assert (await reading.recv()).payload == number
            assert await sending == 1
        assert heard == list(range(1, 20))
        assert reading.dropped == {}


async def test_a_thousand_subscriptions_are_renewed_at_once() -> None:
    async with place() as there, RpcClient.connect(there.url) as client:
        subscriptions = [await client.subscribe(f"topic.{number}") for number in range(1_000)]
        await there.down()
        await until(lambda: not client.connected)
        server = await there.up()
        await until(lambda: client.reconnects == 1)
        for number in (0, 500, 999):
            assert await server.broadcast(f"topic.{number}", number) == 1
            assert (await subscriptions[number].recv()).payload == number


async def test_what_is_subscribed_and_unsubscribed_without_a_session_holds_in_the_next_one() -> None:
    async with place() as there, RpcClient.connect(there.url) as client:
        old = await client.subscribe("old")
        kept = await client.subscribe("kept")
        await there.down()
        await until(lambda: not client.connected)
        subscribing = asyncio.ensure_future(client.subscribe("new").__aenter__())
        await asyncio.sleep(0.1)
        await old.unsubscribe()
        assert [event async for event in old] == []
        server = await there.up()
        new = await subscribing
        assert await server.broadcast("old") == 0
        assert await server.broadcast("new", 1) == 1
        await until(lambda: client.reconnects == 1)
        assert await server.broadcast("kept", 2) == 1
        assert (await new.recv()).payload == 1
        assert (await kept.recv()).payload == 2


async def test_one_subscribing_makes_one_subscription_also_while_the_session_is_lost() -> None:
    async with place() as there, RpcClient.connect(there.url) as client:
        subscribing = client.subscribe("n")
        reading = await subscribing
        await there.down()
        await until(lambda: not client.connected)
        with pytest.raises(ResourceBusy, match="subscribe again"):
            await subscribing
        server = await there.up()
        await until(lambda: client.reconnects == 1)
        assert await server.broadcast("n", 1) == 1
        await server.sessions[0].flush()
        assert (await reading.recv()).payload == 1
        assert not reading._queue


async def test_a_session_that_is_lost_while_it_is_renewed_is_followed_by_another() -> None:
    cut = 2

    async def middleware(call: Call, following: Handler) -> Reply:
        nonlocal cut
        if call.method == "echostream.events.subscribe" and there.refusing and cut:
            cut -= 1
            assert call.context is not None
            call.context.session.abort()
            await asyncio.sleep(1)
        return await following(call)

    class Cutting(Place):
        refusing = False

    there = Cutting(middleware=[middleware])
    await there.up()
    async with RpcClient.connect(there.url) as client:
        reading = await client.subscribe("n")
        await there.down()
        await until(lambda: not client.connected)
        early = asyncio.ensure_future(client.request("echo", 1, timeout=None))
        await asyncio.sleep(0)
        there.refusing = True
        server = await there.up()
        await until(lambda: client.reconnects == 1)
        assert cut == 0
        try:
            assert await early == 1
        except Disconnected:  # it went out with a session that was lost
            assert early.done()
        assert await server.broadcast("n", 1) == 1
        assert (await reading.recv()).payload == 1
    await there.down()
    await settle()
    assert not other_tasks()


async def test_who_waits_is_told_when_it_takes_too_long() -> None:
    async with place() as there, RpcClient.connect(there.url) as client:
        await client.ping()
        await there.down()
        await until(lambda: not client.connected)
        with pytest.raises(DeadlineExceeded, match=r"not connected within 0\.2 s") as caught:
            await client.request("echo", 1, timeout=0.2)
        assert caught.value.not_processed
        with pytest.raises(DeadlineExceeded, match="not connected within 30 s"):
            await client.emit("x")


async def test_after_so_many_attempts_it_is_given_up() -> None:
    async with place() as there, RpcClient.connect(there.url, reconnect=Reconnect(attempts=3)) as client:
        reading = await client.subscribe("n")
        await there.down()
        await until(lambda: not client.connected)
        waiting = asyncio.ensure_future(client.request("echo", 1, timeout=None))
        with pytest.raises(Disconnected, match="not connected any more"):
            await reading.recv()
        with pytest.raises(Disconnected):
            await waiting
        with pytest.raises(Disconnected):
            await client.emit("n")
        assert not client.connected
        assert client.reconnects == 0


async def test_a_server_that_accepts_and_says_nothing_is_no_success() -> None:
    """As a proxy with nobody behind it: the attempts run out, and their pauses grow."""
    async with place() as there, RpcClient.connect(there.url, reconnect=Reconnect(attempts=3)) as client:
        await client.ping()
        await there.down()
        accepted: list[RawPeer] = []

        def accept(made: Connection | Pipe) -> None:
            assert isinstance(made, Connection)
            accepted.append(RawPeer(made))
            made.close(CloseCode.GOING_AWAY, "nobody home")

        proxy = await MemoryTransport().listen(Url.parse(there.url), MemoryOptions(), accept)
        with pytest.raises(Disconnected):
            await client.request("echo", 1, timeout=None)
        await proxy.close()
        assert len(accepted) == 3
        assert client.reconnects == 0


async def test_a_refusal_for_good_ends_it_and_the_subscriptions_with_it() -> None:
    allowed = True

    async def authenticate(credentials: object, peer: object) -> str:
        if not allowed:
            raise RpcError(StatusCode.UNAUTHENTICATED, "no more")
        return "ada"

    async with place(authenticator=authenticate) as there, RpcClient.connect(there.url) as client:
        reading = await client.subscribe("n")
        await there.down()
        await until(lambda: not client.connected)
        waiting = asyncio.ensure_future(client.request("echo", 1, timeout=None))
        allowed = False
        await there.up()
        with pytest.raises(Disconnected):
            await reading.recv()
        with pytest.raises(Disconnected):
            await waiting
        await asyncio.sleep(100)
        assert client.reconnects == 0
        assert not client.connected


async def test_a_session_that_we_have_closed_ourselves_is_not_replaced() -> None:
    async with place() as there, RpcClient.connect(there.url) as client:
        reading = await client.subscribe("n")
        await client.session.close()
        with pytest.raises(Disconnected):
            await reading.recv()
        await asyncio.sleep(100)
        assert not client.connected
        with pytest.raises(Disconnected):
            await client.request("echo", 1)


async def test_a_server_that_drains_is_followed_to_its_next_start() -> None:
    async with place() as there, RpcClient.connect(there.url) as client:
        reading = await client.subscribe("n")
        assert there.server is not None
        await there.server.close(drain=5)
        server = await there.up()
        await until(lambda: client.reconnects == 1)
        assert await server.broadcast("n", 1) == 1
        assert (await reading.recv()).payload == 1


@pytest.mark.parametrize("moment", [0, 0.01, 0.3, 3])
async def test_closing_while_it_dials_again_ends_everything(moment: float) -> None:
    there = Place()
    await there.up()
    client = await RpcClient.connect(there.url)
    reading = await client.subscribe("n")
    await there.down()
    await until(lambda: not client.connected)
    waiting = asyncio.ensure_future(client.request("echo", 1, timeout=None))
    subscribing = asyncio.ensure_future(client.subscribe("m").__aenter__())
    await asyncio.sleep(moment)
    if moment == 3:
        await there.up()
    await client.close()
    if moment < 3:
        for task in (waiting, subscribing):
            with pytest.raises(Disconnected, match="closed"):
                await task
    else:
        await asyncio.gather(waiting, subscribing, return_exceptions=True)
    with pytest.raises(EndOfStream):
        await reading.recv()
    with pytest.raises(Disconnected):
        await client.request("echo", 1)
    await there.down()
    await settle()
    assert not other_tasks()


async def test_closing_is_possible_at_each_turn_of_a_reconnection() -> None:
    for turns in range(60):
        there = Place()
        await there.up()
        client = await RpcClient.connect(there.url, reconnect=Reconnect(initial_delay=1e-9, max_delay=1e-9))
        await client.subscribe("n")
        await client.subscribe("m")
        assert there.server is not None
        for session in there.server.sessions:
            session.abort()
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()
        assert not client.connected
        await there.down()
        await settle()
        assert not other_tasks(), turns


async def test_what_was_added_is_served_in_the_next_session_too() -> None:
    @handler("late")
    def late() -> str:
        return "here"

    @listener("n")
    def on_n(event: Event) -> None: ...

    async with place() as there, RpcClient.connect(there.url) as client:
        await client.ping()
        client.add(late)
        with pytest.raises(ConfigError, match=r"client\.on"):
            client.add(on_n)
        await there.down()
        await until(lambda: not client.connected)
        server = await there.up()
        await until(lambda: client.reconnects == 1 and server.sessions)
        assert await server.sessions[0].request("late") == "here"


async def test_what_listens_from_the_beginning_listens_in_the_next_session() -> None:
    heard: list[object] = []

    @listener("n")
    def on_n(event: Event) -> None:
        heard.append(event.payload)

    async with place() as there, RpcClient.connect(there.url, on_n) as client:
        await client.ping()
        await there.down()
        await until(lambda: not client.connected)
        server = await there.up()
        await until(lambda: client.reconnects == 1)
        assert await server.broadcast("n", 1) == 1
        await server.sessions[0].flush()
        assert heard == [1]


async def test_one_that_asked_to_be_disconnected_is_ended_and_the_others_go_on() -> None:
    async with place() as there, RpcClient.connect(there.url) as client:
        strict = await client.subscribe("n", overflow="disconnect", max_queue=3)
        easy = await client.subscribe("n", overflow="drop_oldest", max_queue=3)
        assert there.server is not None
        for number in range(10):
            await there.server.broadcast("n", number)
        await until(lambda: client.reconnects == 1)
        received = []
        with pytest.raises((RpcError, ConnectionLost)):
            while True:
                received.append((await strict.recv()).payload)
        assert received == [0, 1, 2]
        await until(lambda: there.server and there.server.sessions)
        assert await there.server.broadcast("n", "again") == 1
        while (await easy.recv()).payload != "again":
            pass
        assert not easy.ended


async def test_one_that_the_next_server_refuses_ends_and_the_others_go_on() -> None:
    refusing = False

    async def middleware(call: Call, following: Handler) -> Reply:
        payload: Any = call.payload
        if refusing and call.method == "echostream.events.subscribe" and payload["pattern"] == "secret":
            raise RpcError(StatusCode.PERMISSION_DENIED, "not for you")
        return await following(call)

    async with place(middleware=[middleware]) as there, RpcClient.connect(there.url) as client:
        secret = await client.subscribe("secret")
        public = await client.subscribe("public")
        refusing = True
        await there.down()
        await until(lambda: not client.connected)
        server = await there.up()
        await until(lambda: client.reconnects == 1)
        with pytest.raises(RpcError, match="not for you"):
            await secret.recv()
        assert await server.broadcast("public", 1) == 1
        assert (await public.recv()).payload == 1


async def test_without_it_a_lost_session_is_the_end() -> None:
    async with place() as there, RpcClient.connect(there.url, reconnect=False) as client:
        reading = await client.subscribe("n")
        await there.down()
        with pytest.raises(Disconnected):
            await reading.recv()
        await there.up()
        await asyncio.sleep(100)
        assert not client.connected


async def test_a_session_that_ends_for_good_in_the_moment_of_subscribing_ends_the_subscription() -> None:
    async with client_by_hand(reconnect=True) as (client, peer):
        peer.control.send(raw_setup())
        subscribing = asyncio.ensure_future(client.subscribe("n").__aenter__())
        (asked,) = await peer.called()
        peer.control.send(response(int.from_bytes(asked.body[:4], "little"), b'{"max_queue":1}'))
        peer.connection.close(CloseCode.PROTOCOL, "that is it")
        with pytest.raises(Disconnected):
            await (await subscribing).recv()
