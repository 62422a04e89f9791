"""Datagrams of a session: channels, functions, counters, limits, and peers that send what they like."""

from __future__ import annotations

import array
import asyncio
import functools
import logging
from collections.abc import Callable

import pytest

from echostream_core import (
    CallError,
    ConfigError,
    Context,
    DatagramDrops,
    Disconnected,
    LimitExceeded,
    RpcServer,
    Session,
    datagram_handler,
    handler,
    listener,
    service,
)
from echostream_core.builtin.memory_connection import MAX_DATAGRAM_BYTES
from echostream_core.engine.datagram_handlers import compile_datagram_handler
from tests.support.pairs import connected, memory_url
from tests.support.raw_peer import client_by_hand, dialled, raw_setup
from tests.support.waiting import settle, until

LOOPS = ("virtual",)

CHANNEL = 300


# The verbs


async def test_a_datagram_arrives_whole_on_its_channel_in_both_directions() -> None:
    async with connected() as pair:
        await pair.ready()
        there: list[bytes] = []
        here: list[bytes] = []
        other: list[bytes] = []
        pair.far.on_datagram(CHANNEL, there.append)
        pair.far.on_datagram(65_535, other.append)
        pair.client.on_datagram(CHANNEL, here.append)
        assert pair.client.send_datagram(CHANNEL, b"up") is True
        assert pair.client.send_datagram(65_535, b"") is True
        assert pair.far.send_datagram(CHANNEL, b"down") is True
        await settle()
        assert (there, here, other) == ([b"up"], [b"down"], [b""])
        assert (pair.near.datagrams.sent, pair.near.datagrams.received) == (2, 1)
        assert (pair.far.datagrams.sent, pair.far.datagrams.received) == (1, 2)
        assert pair.near.datagrams.dropped == pair.far.datagrams.dropped == DatagramDrops()


async def test_every_bytes_like_payload_arrives_as_bytes() -> None:
    async with connected() as pair:
        await pair.ready()
        heard: list[bytes] = []
        pair.far.on_datagram(CHANNEL, heard.append)
        numbers = array.array("I", [1, 2, 3])
        for payload in (b"b", bytearray(b"ba"), memoryview(b"view")[1:], memoryview(numbers), numbers):
            pair.near.send_datagram(CHANNEL, payload)  # type: ignore[arg-type]  # arrays are bytes-like too
        await settle()
        assert heard == [b"b", b"ba", b"iew", numbers.tobytes(), numbers.tobytes()]
        assert all(type(payload) is bytes for payload in heard)


async def test_a_payload_that_is_not_bytes_is_refused() -> None:
    async with connected() as pair:
        for payload in ("text", 5, None, [1]):
            with pytest.raises(CallError, match="a datagram carries bytes, not"):
                pair.near.send_datagram(CHANNEL, payload)  # type: ignore[arg-type]  # that is the point
        assert pair.near.datagrams.sent == 0


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        (0, "channel 0: 0 to 255 are reserved for extensions; use 256 to 65535"),
        (255, "reserved"),
        (65_536, "16 bits"),
        (-1, "16 bits"),
        (True, "whole number"),
        (300.0, "whole number"),
    ],
)
async def test_a_channel_that_is_none_is_refused_everywhere(channel: int, text: str) -> None:
    async with connected() as pair:
        for use in (pair.near.send_datagram, pair.client.send_datagram):
            with pytest.raises(ConfigError, match=text):
                use(channel, b"")
        for listen in (pair.near.on_datagram, pair.client.on_datagram):
            with pytest.raises(ConfigError, match=text):
                listen(channel, print)
        with pytest.raises(ConfigError, match=text):
            datagram_handler(channel)


async def test_a_handler_answers_the_caller_with_datagrams() -> None:
    @handler("start")
    async def start(context: Context) -> int:
        for number in range(3):
            context.session.send_datagram(CHANNEL, b"%d" % number)
        return context.session.datagrams.sent

    async with connected(start) as pair:
        heard: list[bytes] = []
        pair.client.on_datagram(CHANNEL, heard.append)
        assert await pair.client.request("start") == 3
        await settle()
        assert heard == [b"0", b"1", b"2"]


async def test_after_the_end_nothing_is_sent() -> None:
    async with connected() as pair:
        await pair.ready()
        near = pair.near
        await pair.client.close()
        with pytest.raises(Disconnected):
            near.send_datagram(CHANNEL, b"late")
        with pytest.raises(Disconnected):
            pair.client.send_datagram(CHANNEL, b"late")
        assert near.datagrams.sent == 0


# Limits and expiry


async def test_one_over_the_largest_size_is_refused_at_both_ends() -> None:
    async with connected() as pair:
        await pair.ready()
        heard: list[bytes] = []
        pair.near.on_datagram(CHANNEL, heard.append)
        pair.far.on_datagram(CHANNEL, heard.append)
        for end in (pair.near, pair.far):
            most = end.datagrams.max_payload_bytes
            assert most == MAX_DATAGRAM_BYTES - 2
            end.send_datagram(CHANNEL, bytes(most))
            with pytest.raises(LimitExceeded) as caught:
                end.send_datagram(CHANNEL, bytes(most + 1))
            assert caught.value.limit == "max_datagram_size"
            assert caught.value.maximum == MAX_DATAGRAM_BYTES
            assert end.datagrams.sent == 1
        await settle()
        assert heard == [bytes(MAX_DATAGRAM_BYTES - 2)] * 2


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
async def test_an_expiry_that_is_over_already_is_refused(seconds: float) -> None:
    async with connected() as pair:
        with pytest.raises(ConfigError, match="expires_after must be above 0"):
            pair.near.send_datagram(CHANNEL, b"", expires_after=seconds)


async def test_a_burst_beyond_the_queue_drops_the_oldest_and_counts_exactly() -> None:
    options = {"transport": {"memory": {"max_queued_datagrams": 10}}}
    async with connected(client=options) as pair:
        await pair.ready()
        heard: list[bytes] = []
        pair.far.on_datagram(CHANNEL, heard.append)
        kept = [pair.near.send_datagram(CHANNEL, b"%d" % number) for number in range(25)]
        assert kept == [True] * 10 + [False] * 15
        await settle()
        assert heard == [b"%d" % number for number in range(15, 25)]
        assert pair.near.datagrams.dropped == DatagramDrops(full=15)
        assert pair.near.datagrams.sent == 25
        assert pair.far.datagrams.received == 10
        assert repr(pair.near.datagrams).startswith("<SessionDatagrams sent=25 received=0 DatagramDrops(full=15,")


# Functions


async def test_a_servers_function_hears_all_sessions_and_learns_which() -> None:
    heard: list[tuple[bytes, Session]] = []

    @datagram_handler(CHANNEL)
    @datagram_handler(CHANNEL + 1)
    def on_move(payload: bytes, session: Session) -> None:
        heard.append((payload, session))
        session.send_datagram(CHANNEL, payload.upper())

    async with connected(on_move) as pair:
        await pair.ready()
        answers: list[bytes] = []
        pair.client.on_datagram(CHANNEL, answers.append)
        pair.client.send_datagram(CHANNEL, b"a")
        pair.client.send_datagram(CHANNEL + 1, b"b")
        await settle()
        assert heard == [(b"a", pair.far), (b"b", pair.far)]
        assert answers == [b"A", b"B"]


async def test_a_service_may_have_handlers_listeners_and_functions_for_datagrams() -> None:
    @service("world")
    class World:
        def __init__(self) -> None:
            self.moves: list[bytes] = []

        @handler
        async def count(self) -> int:
            return len(self.moves)

        @listener("world.*")
        def on_event(self) -> None:
            """Nothing is emitted here."""

        @datagram_handler(CHANNEL)
        def on_move(self, payload: bytes) -> None:
            self.moves.append(payload)

    @service("only")
    class OnlyDatagrams:
        @datagram_handler(CHANNEL + 1)
        def on_move(self, payload: bytes) -> None:
            """Accepted as a service all the same."""

    async with connected(World(), OnlyDatagrams()) as pair:
        await pair.ready()
        pair.client.send_datagram(CHANNEL, b"left")
        pair.client.send_datagram(CHANNEL + 1, b"left")
        await settle()
        assert await pair.client.request("world.count") == 1
        assert pair.far.datagrams.received == 2


async def test_handlers_added_later_serve_the_session_that_is_there() -> None:
    heard: list[bytes] = []

    @datagram_handler(CHANNEL)
    def late(payload: bytes) -> None:
        heard.append(payload)

    async with connected() as pair:
        await pair.ready()
        pair.client.add(late)
        pair.far.send_datagram(CHANNEL, b"x")
        await settle()
        assert heard == [b"x"]


async def test_a_channel_has_one_function_until_that_is_ended() -> None:
    @datagram_handler(CHANNEL)
    def served(payload: bytes) -> None:
        """The server's own."""

    with pytest.raises(ConfigError, match="two functions take the datagrams of channel 300"):
        RpcServer(memory_url(), served, served)
    async with connected(served, client_handlers=(served,)) as pair:
        await pair.ready()
        heard: list[bytes] = []
        for end in (pair.near, pair.far, pair.client):
            with pytest.raises(ConfigError, match="channel 300: another function takes its datagrams"):
                end.on_datagram(CHANNEL, heard.append)
        stop = pair.far.on_datagram(CHANNEL + 1, heard.append)
        with pytest.raises(ConfigError, match="another function"):
            pair.far.on_datagram(CHANNEL + 1, heard.append)
        pair.near.send_datagram(CHANNEL + 1, b"one")
        await settle()
        stop()
        pair.near.send_datagram(CHANNEL + 1, b"nobody")
        await settle()
        again = pair.far.on_datagram(CHANNEL + 1, heard.append)
        stop()  # once more: it must not end the other one
        pair.near.send_datagram(CHANNEL + 1, b"two")
        await settle()
        again()
        assert heard == [b"one", b"two"]
        assert pair.far.datagrams.dropped == DatagramDrops(unheard=1)


async def test_a_clients_function_is_ended_too() -> None:
    async with connected() as pair:
        await pair.ready()
        heard: list[bytes] = []
        stop = pair.client.on_datagram(CHANNEL, heard.append)
        with pytest.raises(ConfigError, match="another function"):
            pair.client.on_datagram(CHANNEL, heard.append)
        stop()
        stop()
        pair.far.send_datagram(CHANNEL, b"nobody")
        await settle()
        assert heard == []
        assert pair.near.datagrams.dropped == DatagramDrops(unheard=1)


async def test_a_function_that_fails_is_logged_and_the_next_datagram_is_given(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bytes] = []

    def picky(payload: bytes) -> None:
        heard.append(payload)
        if payload == b"bad":
            raise ValueError("not this one")

    async with connected() as pair:
        await pair.ready()
        pair.far.on_datagram(CHANNEL, picky)
        for payload in (b"bad", b"good"):
            pair.near.send_datagram(CHANNEL, payload)
        await settle()
        assert heard == [b"bad", b"good"]
        assert pair.far.datagrams.received == 2
        await pair.client.ping()
    (record,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert "the function for datagrams of channel 300 failed" in record.getMessage()
    assert record.exc_info is not None and "not this one" in str(record.exc_info[1])


async def one_that_waits(payload: bytes) -> None:
    """A coroutine function."""


def one_that_yields(payload: bytes) -> object:
    """A generator function."""
    yield payload


def test_only_functions_that_can_be_called_with_a_payload_are_taken() -> None:
    unsuitable: list[Callable[..., object]] = [one_that_waits, functools.partial(one_that_waits), one_that_yields]
    for wrong in unsuitable:
        with pytest.raises(ConfigError, match="channel 300: datagrams are given to a plain function"):
            compile_datagram_handler(CHANNEL, wrong)
    many: list[Callable[..., object]] = [lambda: None, lambda a, b, c: None, lambda a, *, b: None]
    for wrong in many:
        with pytest.raises(ConfigError, match="must take the payload, or the payload and the session"):
            compile_datagram_handler(CHANNEL, wrong)
    with pytest.raises(ConfigError, match="is no function"):
        compile_datagram_handler(CHANNEL, "text")  # type: ignore[arg-type]  # that is the point
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    kept: list[bytes] = []
    fitting: list[Callable[..., object]] = [kept.append, queue.put_nowait, print, lambda payload, extra=1: None]
    for good in fitting:
        assert compile_datagram_handler(CHANNEL, good).takes_session is False
    assert compile_datagram_handler(CHANNEL, lambda payload, session: None).takes_session is True


# Peers that send what they like


async def test_what_has_no_function_is_dropped_and_counted_by_reason() -> None:
    async with RpcServer(memory_url()) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(lambda: server.sessions)
        (session,) = server.sessions
        heard: list[bytes] = []
        session.on_datagram(CHANNEL, heard.append)
        for datagram in (
            b"",
            b"\x2c",
            b"\x00\x00",
            b"\xff\x00extension",
            b"\x00\x01nobody",
            b"\x2c\x01ok",
            b"\x2c\x01",
        ):
            peer.connection.send_datagram([datagram])
        await settle()
        assert heard == [b"ok", b""]
        assert session.datagrams.dropped == DatagramDrops(malformed=2, reserved=2, unheard=1)
        assert session.datagrams.received == 2
        assert not session.disconnected
        peer.connection.abort()


async def test_datagrams_before_setup_is_accepted_reach_nobody() -> None:
    heard: list[bytes] = []
    answer = asyncio.Event()

    @datagram_handler(CHANNEL)
    def on_datagram(payload: bytes) -> None:
        heard.append(payload)

    async def authenticator(credentials: object, peer: object) -> str:
        await answer.wait()
        return "someone"

    async with RpcServer(memory_url(), on_datagram, authenticator=authenticator) as server:
        peer = await dialled(server.addresses[0])
        peer.connection.send_datagram([b"\x2c\x01before SETUP"])
        await settle()
        peer.begin(raw_setup())
        await until(peer.replied_setup)
        for _ in range(1_000):
            peer.connection.send_datagram([b"\x2c\x01", bytes(MAX_DATAGRAM_BYTES - 2)])
        await settle()
        assert heard == []
        answer.set()
        await until(lambda: server.sessions)
        (session,) = server.sessions
        peer.connection.send_datagram([b"\x2c\x01after"])
        await settle()
        assert heard == [b"after"]
        assert session.datagrams.dropped == DatagramDrops(early=257)  # 256 of the 1,000 fit the sender's own queue
        peer.connection.abort()


async def test_a_client_drops_what_comes_before_the_servers_setup() -> None:
    async with client_by_hand(reconnect=False) as (client, peer):
        heard: list[bytes] = []
        client.on_datagram(CHANNEL, heard.append)
        peer.connection.send_datagram([b"\x2c\x01early"])
        await settle()
        peer.control.send(raw_setup())
        await until(lambda: client.session.accepted)
        peer.connection.send_datagram([b"\x2c\x01late"])
        await settle()
        assert heard == [b"late"]
        assert client.session.datagrams.dropped == DatagramDrops(early=1)


async def test_a_function_that_sends_an_answer_to_every_datagram_lets_the_loop_run() -> None:
    async with connected() as pair:
        await pair.ready()

        def back(payload: bytes, session: Session) -> None:
            session.send_datagram(CHANNEL, payload)

        pair.near.on_datagram(CHANNEL, back)
        pair.far.on_datagram(CHANNEL, back)
        pair.near.send_datagram(CHANNEL, b"for ever")
        for _ in range(100):
            assert await pair.client.ping() == 0.0
        assert pair.near.datagrams.received >= 100
