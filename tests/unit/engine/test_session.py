"""The session as a whole: SETUP, the authenticator, keep-alive, GOAWAY, and the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Mapping

import pytest

from echostream_core import (
    CloseCode,
    ConnectionLost,
    Context,
    Disconnected,
    EndOfStream,
    LimitExceeded,
    RpcClient,
    RpcError,
    RpcServer,
    StatusCode,
    Stream,
    handler,
    stream_handler,
)
from echostream_core.components import PeerInfo
from echostream_core.wire.frames import FrameType, encode_ping, encode_pong, encode_substream_head, grease_frame
from echostream_core.wire.states import State
from tests.support.handlers import BASIC, Watched, echo
from tests.support.pairs import connected, leftovers, memory_url
from tests.support.raw_peer import Frame, call, client_by_hand, dialled, raw_setup, response
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)


def pong(ping: Frame) -> bytes:
    return encode_pong(int.from_bytes(ping.body, "little"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# The beginning


async def test_both_sides_learn_who_the_other_is() -> None:
    async with connected(client={"name": "orders"}, server={"name": "public"}) as pair:
        await pair.ready()
        assert pair.near.peer_setup is not None and pair.far.peer_setup is not None
        assert pair.near.peer_setup.name == "public"
        assert pair.far.peer_setup.name == "orders"
        assert pair.near.state is pair.far.state is State.OPEN
        assert pair.near.dialer and not pair.far.dialer


async def test_setup_says_what_the_limits_are() -> None:
    limits = {"max_message_bytes": 100_000, "max_concurrent_calls": 200, "inline_max_native_bytes": 1_000}
    async with connected(server={"limits": limits}) as pair:
        await pair.ready()
        setup = pair.near.peer_setup
        assert setup is not None
        assert (setup.max_message_bytes, setup.max_concurrent_calls, setup.inline_max_bytes) == (100_000, 200, 1_000)


async def test_calls_behind_setup_need_no_further_round_trip() -> None:
    """The server answers a call that came in the same write as SETUP together with its own SETUP."""
    async with RpcServer(memory_url(), *BASIC) as server:
        peer = await dialled(server.addresses[0], raw_setup(), call(0, "add", b'{"a":1,"b":2}'))
        (answer,) = await peer.answered()
        assert answer.body[8:] == b"3"
        kinds = [frame.kind for frame in peer.control.frames()]
        assert kinds[0] == FrameType.SETUP
        peer.connection.close(0, "")


async def test_a_substream_that_comes_before_setup_waits() -> None:
    async with RpcServer(memory_url(), *BASIC) as server:
        peer = await dialled(server.addresses[0])
        early = peer.open_call(0, call(0, "add", b'{"a":1,"b":2}'), end=True)
        await settle()
        assert not early.data
        peer.begin(raw_setup())
        await until(early.frames)
        assert early.frames()[0].body[8:] == b"3"
        peer.connection.close(0, "")


async def test_ignorable_frames_and_unknown_parameters_are_skipped() -> None:
    async with RpcServer(memory_url(), *BASIC) as server:
        frames = [grease_frame(draw) for draw in range(20)]
        peer = await dialled(server.addresses[0], raw_setup(), *frames, call(0, "echo", b"5"), *frames)
        (answer,) = await peer.answered()
        assert answer.body[8:] == b"5"
        peer.connection.close(0, "")


async def test_credentials_that_are_too_large_are_refused_here_and_nothing_stays_open() -> None:
    async with RpcServer(memory_url(), echo) as server:
        with pytest.raises(LimitExceeded) as caught:
            await RpcClient.connect(server.addresses[0], credentials={"token": "x" * 20_000})
        assert caught.value.limit == "max_setup_bytes"
        await settle()
        assert not server._sessions
        assert not other_tasks()


# The authenticator


class Door:
    """An authenticator that waits to be told."""

    def __init__(self, answer: str | Exception | None = "ada", *, ajar: bool = True) -> None:
        self.answer = answer
        self.asked: list[tuple[dict[str, str], PeerInfo]] = []
        self.opened = asyncio.Event()
        self.given_up = 0
        if ajar:
            self.opened.set()

    async def __call__(self, credentials: Mapping[str, str], peer: PeerInfo) -> str | None:
        self.asked.append((dict(credentials), peer))
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_an_accepted_peer_has_an_identity() -> None:
    door = Door()
    watched = Watched()
    watched.go_on.set()
    async with connected(
        watched, server={"authenticator": door}, client={"credentials": {"token": "open sesame"}}
    ) as pair:
        await pair.client.request("watched.wait")
        assert watched.contexts[0].peer_identity == "ada"
        assert pair.far.peer_identity == "ada"
    ((credentials, peer),) = door.asked
    assert credentials == {"token": "open sesame"}
    assert peer.encrypted
    assert peer.transport_identity is None


async def test_an_anonymous_peer_may_be_fine() -> None:
    async with connected(echo, server={"authenticator": Door(None)}) as pair:
        assert await pair.client.request("echo", 1) == 1
        assert pair.far.peer_identity is None


@pytest.mark.parametrize("code", [StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED])
async def test_a_refused_peer_is_told_so_and_gets_nothing_done(
    code: StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched()
    door = Door(RpcError(code, "who are you?"))
    secret = "open sesame"
    async with connected(watched, server={"authenticator": door}, client={"credentials": {"token": secret}}) as pair:
        with pytest.raises(Disconnected, match=r"who are you\?") as caught:
            await pair.client.request("watched.wait")
        assert caught.value.close_code == CloseCode.UNAUTHENTICATED
        await settle()
        assert watched.begun == 0
        assert not pair.server.sessions
        (warning,) = warnings(caplog)
        assert "refused" in warning
        for shown in (caplog.text, repr(caught.value), repr(pair.client), repr(pair.near), str(vars(pair.client))):
            assert secret not in shown


async def test_a_broken_authenticator_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(echo, server={"authenticator": Door(ValueError("no database"))}) as pair:
        with pytest.raises(Disconnected) as caught:
            await pair.client.request("echo", 1)
        assert "database" not in str(caught.value)
    (message,) = [text for text in warnings(caplog) if "authenticator" in text]
    assert "the authenticator failed" in message


async def test_calls_behind_setup_wait_for_a_slow_authenticator() -> None:
    door = Door(ajar=False)
    watched = Watched()
    watched.go_on.set()
    async with connected(watched, echo, server={"authenticator": door}) as pair:
        calls = [
            asyncio.ensure_future(pair.client.request("watched.wait")),
            asyncio.ensure_future(pair.client.request("echo", "x" * 100_000)),
            asyncio.ensure_future(pair.client.request("echo", 5)),
        ]
        await until(lambda: door.asked)
        await settle()
        assert watched.begun == 0
        assert not any(call.done() for call in calls)
        assert not pair.server.sessions
        door.opened.set()
        assert await asyncio.gather(*calls) == ["done", "x" * 100_000, 5]


async def test_a_peer_that_leaves_while_the_authenticator_thinks_leaves_nothing() -> None:
    door = Door(ajar=False)
    async with RpcServer(memory_url(), echo, authenticator=door) as server:
        peer = await dialled(server.addresses[0], raw_setup(), call(0))
        await until(lambda: door.asked)
        peer.connection.close(0, "")
        await until(lambda: door.given_up)
        await settle()
        assert not server._sessions
        assert not other_tasks()


async def test_what_waits_behind_a_slow_authenticator_is_bounded() -> None:
    door = Door(ajar=False)
    async with RpcServer(memory_url(), echo, authenticator=door) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(lambda: door.asked)
        sent = 0
        while not peer.closed.done() and sent < 64 * 1024 * 1024:
            peer.control.send(*(call(2 * number, "echo", b'"' + b"x" * 16_000 + b'"') for number in range(16)))
            sent += 16 * 16_000
            await asyncio.sleep(0)
        assert await peer.close_code() == CloseCode.LIMIT
        assert sent < 4 * 1024 * 1024


async def test_an_authenticator_that_takes_too_long_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The peer has done its part: the log must not say that it sent no SETUP."""
    door = Door(ajar=False)
    async with connected(echo, server={"authenticator": door, "limits": {"setup_timeout_s": 3}}) as pair:
        with pytest.raises(Disconnected) as caught:
            await pair.client.request("echo", 1, timeout=None)
        assert caught.value.close_code == CloseCode.TIMEOUT
        (warning,) = warnings(caplog)
        assert "authenticator" in warning
        await until(lambda: door.given_up)


async def test_the_client_is_asked_for_no_credentials() -> None:
    async with connected(echo, client={"credentials": {"token": "t"}}) as pair:
        await pair.ready()
        assert pair.near.peer_setup is not None
        assert pair.near.peer_setup.credentials == {}


# Keep-alive


async def test_a_quiet_session_stays_open_for_ever() -> None:
    async with connected(echo) as pair:
        await pair.ready()
        await asyncio.sleep(10_000)
        assert await pair.client.request("echo", 1) == 1


async def test_the_keep_alive_does_not_spin() -> None:
    """Whatever the last sign of life was to the last digit: the timer is never set for a time that has come."""
    limits = {"keepalive_interval_s": 20.0, "keepalive_timeout_s": 20.0}
    async with connected(echo, server={"limits": limits}, client={"limits": limits}) as pair:
        await pair.ready()
        for turn in range(300):
            await pair.client.request("echo", turn)
            await asyncio.sleep(0.1 + turn / 7)


async def test_a_peer_that_went_silent_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    limits = {"keepalive_interval_s": 5, "keepalive_timeout_s": 3}
    watched = Watched()
    async with RpcServer(memory_url(), watched, limits=limits) as server:
        peer = await dialled(server.addresses[0], raw_setup(), call(0, "watched.wait", b"null"))
        await watched.reached(begun=1)
        begin = asyncio.get_running_loop().time()
        code = await peer.close_code()
        assert code == CloseCode.TIMEOUT
        assert 5 <= asyncio.get_running_loop().time() - begin <= 9
        await watched.reached(cancelled=1)
        assert sum("no sign of life" in text for text in warnings(caplog)) == 1


async def test_a_peer_that_answers_pings_is_alive() -> None:
    limits = {"keepalive_interval_s": 5, "keepalive_timeout_s": 3}
    async with RpcServer(memory_url(), echo, limits=limits) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        answered = 0
        for _ in range(100):
            await asyncio.sleep(1)
            pings = [frame for frame in peer.control.frames() if frame.kind == FrameType.PING]
            for ping in pings[answered:]:
                peer.control.send(pong(ping))
            answered = len(pings)
        assert not peer.closed.done()
        assert answered >= 10
        peer.connection.close(0, "")


async def test_a_busy_session_sends_no_pings() -> None:
    limits = {"keepalive_interval_s": 5, "keepalive_timeout_s": 3}
    async with RpcServer(memory_url(), echo, limits=limits) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        for number in range(50):
            peer.control.send(call(2 * number))
            await asyncio.sleep(1)
        assert not [frame for frame in peer.control.frames() if frame.kind == FrameType.PING]
        peer.connection.close(0, "")


async def test_ping_measures_a_round_trip_and_fails_with_the_session() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        pinging = asyncio.ensure_future(client.ping())
        await until(lambda: [frame for frame in peer.control.frames() if frame.kind == FrameType.PING])
        peer.connection.close(CloseCode.GOING_AWAY, "bye")
        with pytest.raises(Disconnected):
            await pinging
        with pytest.raises(Disconnected):
            await client.ping()


async def test_a_cancelled_ping_leaves_nothing() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        pinging = asyncio.ensure_future(client.ping())
        await settle()
        pinging.cancel()
        await settle()
        assert pinging.cancelled()
        assert other_tasks() == set()


async def test_each_ping_is_answered_with_its_value() -> None:
    async with RpcServer(memory_url()) as server:
        peer = await dialled(server.addresses[0], raw_setup(), encode_ping(7), encode_ping(2**64 - 1))
        await until(lambda: len(peer.control.frames()) >= 4)
        pongs = [frame.body for frame in peer.control.frames() if frame.kind == FrameType.PONG]
        assert pongs == [(7).to_bytes(8, "little"), b"\xff" * 8]
        peer.connection.close(0, "")


# GOAWAY


async def test_drain_says_it_twice_lets_the_running_call_finish_and_closes() -> None:
    watched = Watched()
    async with RpcServer(memory_url(), watched, echo) as server:
        peer = await dialled(server.addresses[0], raw_setup(), call(0, "watched.wait", b"null"))
        await watched.reached(begun=1)
        closing = asyncio.ensure_future(server.close(drain=60))
        await until(lambda: len([f for f in peer.control.frames() if f.kind == FrameType.PING]) == 1)
        (first,) = [frame for frame in peer.control.frames() if frame.kind == FrameType.GOAWAY]
        assert not first.flags
        # Sent before the peer heard of it: still in order.
        ping = next(frame for frame in peer.control.frames() if frame.kind == FrameType.PING)
        peer.control.send(call(2, "echo", b"5"), pong(ping))
        await until(lambda: len([f for f in peer.control.frames() if f.kind == FrameType.GOAWAY]) == 2)
        (answer,) = await peer.answered()
        assert answer.body[8:] == b"5"
        final = [frame for frame in peer.control.frames() if frame.kind == FrameType.GOAWAY][1]
        assert final.flags & 1
        promised = int.from_bytes(final.body[:4], "little")
        assert 2 < promised <= 4
        # Later than that: refused, and said so.
        peer.control.send(call(4, "echo", b"5"))
        refused = (await peer.answered(2))[1]
        assert int.from_bytes(refused.body[8:10], "little") == StatusCode.UNAVAILABLE
        assert refused.body[10] & 1, "not processed"
        assert not closing.done()
        watched.go_on.set()
        assert len(await peer.answered(3)) == 3
        assert await peer.close_code() == CloseCode.GOING_AWAY
        await closing


async def test_a_drain_without_any_call_promises_none() -> None:
    async with RpcServer(memory_url(), echo) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        closing = asyncio.ensure_future(server.close(drain=60))
        await until(lambda: [f for f in peer.control.frames() if f.kind == FrameType.PING])
        ping = next(frame for frame in peer.control.frames() if frame.kind == FrameType.PING)
        peer.control.send(pong(ping))
        await closing
        await settle()
        final = [frame for frame in peer.control.frames() if frame.kind == FrameType.GOAWAY][-1]
        assert final.flags & 1
        assert int.from_bytes(final.body[:4], "little") == 0


async def test_a_goaway_fails_the_calls_it_does_not_promise_and_keeps_the_others() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        calls = [asyncio.ensure_future(client.request("x", number)) for number in range(3)]
        await peer.called(3)
        goaway = (2).to_bytes(4, "little") + (6).to_bytes(4, "little")
        peer.control.send(bytes((FrameType.GOAWAY, 1, 0, 0, 8, 0, 0, 0)) + goaway)
        for refused in calls[1:]:
            with pytest.raises(Disconnected) as caught:
                await refused
            assert caught.value.not_processed
        with pytest.raises(Disconnected, match="takes no new calls") as new:
            await client.request("x")
        assert new.value.not_processed
        # The peer may answer what it refused: that is the one final frame of those calls, and no offence.
        body = bytes.fromhex("0e00 01 00000000 00 00")
        peer.control.send(response(2, body, error=True), response(4, body, error=True))
        await settle()
        assert not peer.closed.done()
        peer.control.send(response(0, b"7"))
        assert await calls[0] == 7
        await settle()
        assert leftovers(client.session) == {}


async def test_a_goaway_fails_the_streams_it_does_not_promise() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        stream = await client.open_stream("x", timeout=None)
        receiving = asyncio.ensure_future(stream.recv())
        await until(lambda: len(peer.accepted) == 2)
        peer.control.send(bytes((FrameType.GOAWAY, 1, 0, 0, 8, 0, 0, 0)) + bytes(8))
        with pytest.raises(RpcError) as caught:
            await receiving
        assert caught.value.not_processed
        await settle()
        assert leftovers(client.session) == {}


async def test_calls_at_the_moment_of_a_drain_are_answered_or_known_not_to_be_processed() -> None:
    processed: list[int] = []

    @handler("note")
    async def note(number: int) -> int:
        processed.append(number)
        await asyncio.sleep(0)
        return number

    for turns in range(30):
        processed.clear()
        async with connected(note) as pair:
            await pair.ready()
            closing: asyncio.Task[None] | None = None
            calls: list[asyncio.Task[object]] = []
            for number in range(40):
                if number == turns:
                    closing = asyncio.ensure_future(pair.server.close(drain=60))
                calls.append(asyncio.ensure_future(pair.client.request("note", number)))
                await asyncio.sleep(0)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert closing is not None
            await closing
        answered = [number for number, result in enumerate(results) if result == number]
        refused = [result for result in results if isinstance(result, RpcError)]
        assert len(answered) + len(refused) == 40
        assert all(result.not_processed for result in refused), (turns, refused)
        assert sorted(processed) == answered


async def test_both_ends_may_drain_at_the_same_time() -> None:
    here, there = Watched(), Watched()
    async with connected(there, client_handlers=(here,)) as pair:
        await pair.ready()
        calls = [
            asyncio.ensure_future(pair.client.request("watched.wait")),
            asyncio.ensure_future(pair.far.request("watched.wait")),
        ]
        await there.reached(begun=1)
        await here.reached(begun=1)
        far = pair.far
        drains = [asyncio.ensure_future(pair.near.drain(60)), asyncio.ensure_future(far.drain(60))]
        await settle()
        assert not any(drain.done() for drain in drains)
        for session in (pair.near, far):
            with pytest.raises(Disconnected) as caught:
                await session.request("watched.wait")
            assert caught.value.not_processed
        here.go_on.set()
        there.go_on.set()
        assert await asyncio.gather(*calls) == ["done", "done"]
        await asyncio.gather(*drains)
        assert leftovers(pair.near) == leftovers(far) == {}
        assert asyncio.get_running_loop().time() < 30


async def test_numbers_start_again_at_zero_and_a_drain_still_knows_which_are_later() -> None:
    """After 2**31 calls, which is hours at full speed: nothing may be processed that was promised not to be."""
    async with RpcServer(memory_url(), echo, drain_timeout=60) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        last = 0xFFFF_FFFE
        for number in (last - 2, last, 0, 2):
            peer.control.send(call(number, "echo", b"5"))
        assert len(await peer.answered(4)) == 4
        closing = asyncio.ensure_future(server.close())
        await until(lambda: [f for f in peer.control.frames() if f.kind == FrameType.PING])
        ping = next(frame for frame in peer.control.frames() if frame.kind == FrameType.PING)
        peer.control.send(pong(ping))
        await until(lambda: len([f for f in peer.control.frames() if f.kind == FrameType.GOAWAY]) == 2)
        final = [frame for frame in peer.control.frames() if frame.kind == FrameType.GOAWAY][1]
        promised = int.from_bytes(final.body[:4], "little")
        assert promised in (3, 4)
        await closing


async def test_a_caller_reuses_numbers_that_are_free_again() -> None:
    watched = Watched()
    async with connected(watched, echo) as pair:
        await pair.ready()
        waiting = asyncio.ensure_future(pair.client.request("watched.wait", timeout=None))
        await watched.reached(begun=1)
        number = watched.contexts[0].number
        pair.near.outgoing._next = (number - 6) & 0xFFFF_FFFE
        for value in range(20):
            assert await pair.client.request("echo", value) == value
        pair.near.outgoing._next = 0xFFFF_FFFA
        for value in range(20):
            assert await pair.client.request("echo", "x" * 5_000 * (value % 2)) == "x" * 5_000 * (value % 2)
        watched.go_on.set()
        assert await waiting == "done"
        await pair.at_rest()


# The end


async def test_closing_tells_the_peer_and_ends_every_call_on_both_sides() -> None:
    here, there = Watched(), Watched()
    async with connected(there, client_handlers=(here,)) as pair:
        await pair.ready()
        calls = [
            asyncio.ensure_future(pair.client.request("watched.wait")),
            asyncio.ensure_future(pair.far.request("watched.wait")),
        ]
        await there.reached(begun=1)
        await here.reached(begun=1)
        far = pair.far
        await pair.near.close(CloseCode.OK, "enough")
        await here.reached(cancelled=1)
        await there.reached(cancelled=1)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, Disconnected)
        assert isinstance(await far.closed, EndOfStream)
        assert await pair.near.closed is None
        assert pair.near.state is far.state is State.CLOSED


async def test_the_code_and_the_reason_reach_the_peers_callers() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        calling = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        pair.far.close_now(77, "line\nfeed")
        with pytest.raises(Disconnected, match=r"line\\nfeed") as caught:
            await calling
        assert caught.value.close_code == 77
        assert not caught.value.not_processed
        assert isinstance(caught.value.__cause__, ConnectionLost)


async def test_an_aborted_session_is_a_lost_connection_at_the_other_end() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        calling = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        pair.far.abort()
        with pytest.raises(Disconnected):
            await calling


async def test_closing_twice_or_after_the_end_is_fine() -> None:
    async with connected(echo) as pair:
        await pair.ready()
        await asyncio.gather(pair.near.close(), pair.near.close())
        await pair.near.close()
        pair.near.abort()
        await pair.near.drain(1)


async def test_close_waits_for_handlers_to_clean_up_but_not_for_ever() -> None:
    cleaned = asyncio.Event()
    begun = asyncio.Event()

    @handler("slow")
    async def slow() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(2)
            cleaned.set()

    async with connected(slow) as pair:
        calling = asyncio.ensure_future(pair.client.request("slow"))
        await begun.wait()
        await pair.far.close()
        assert cleaned.is_set()
        with pytest.raises(Disconnected):
            await calling


async def test_close_waits_for_stream_handlers_too() -> None:
    cleaned = asyncio.Event()
    begun = asyncio.Event()

    @stream_handler("slow")
    async def slow(stream: Stream) -> None:
        begun.set()
        try:
            await stream.recv()
        finally:
            await asyncio.sleep(2)
            cleaned.set()

    async with connected(slow) as pair:
        await pair.client.open_stream("slow")
        await begun.wait()
        await pair.far.close()
        assert cleaned.is_set()


async def test_a_handler_may_close_its_own_session() -> None:
    for suspend in (False, True):

        @handler("quit")
        async def leave(ctx: Context, suspend: bool = suspend) -> None:
            if suspend:
                await asyncio.sleep(0)
            await ctx.session.close()

        async with connected(leave, echo) as pair:
            await pair.ready()
            calls = [asyncio.ensure_future(pair.client.request("quit"))]
            calls.append(asyncio.ensure_future(pair.client.request("echo", 1)))
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, Disconnected) or result == 1
            await settle()
            assert not pair.server.sessions
        assert not other_tasks()


async def test_calls_behind_one_that_closes_the_session_do_not_run() -> None:
    watched = Watched()

    @handler("quit")
    def leave(ctx: Context) -> None:
        ctx.session.close_now()

    async with RpcServer(memory_url(), leave, watched) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        peer.control.send(call(0, "quit", b"null"), call(2, "watched.wait", b"null"))
        await peer.close_code()
        await settle()
        assert watched.begun == watched.cancelled
        assert not other_tasks()


async def test_an_ended_session_is_forgotten_at_once() -> None:
    """No timer and no task holds on to it: a server with many short sessions must not pile them up."""
    async with connected(echo) as pair:
        await pair.client.request("echo", 1)
        calling = asyncio.ensure_future(pair.client.request("echo", 1))
        await asyncio.sleep(0)
        calling.cancel()
        await pair.client.ping()
        del calling
        ends = [weakref.ref(pair.near), weakref.ref(pair.far)]
        await pair.client.close()
        await settle()
        pair.client._sessions.current = pair.client._sessions._last = None
        gc.collect()
        assert [end() for end in ends] == [None, None]


async def test_a_session_cannot_be_opened_before_its_first_bytes() -> None:
    """A listener is silent until the dialer has opened the control substream."""
    async with RpcServer(memory_url(), echo) as server:
        peer = await dialled(server.addresses[0])
        await settle()
        assert not peer.accepted
        peer.begin(head=encode_substream_head(1, 0, 0))
        await settle()
        assert peer.replied_setup(), "the listener's SETUP does not wait for the dialer's"
        peer.connection.abort()
