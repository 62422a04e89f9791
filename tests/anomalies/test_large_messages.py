"""Messages larger than a window, complete and half-sent: they arrive, they starve nobody, and memory has a bound."""

from __future__ import annotations

import asyncio

import pytest

from echostream_core import Context, RpcError, RpcServer, StatusCode, handler
from echostream_core.wire.frames import FULL_NAME, FrameType, SubstreamKind, encode_pong, encode_substream_head
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from echostream_core.wire.message import encode_call_head, encode_response_head
from tests.support.handlers import BASIC, echo
from tests.support.pairs import connected, memory_url
from tests.support.raw_peer import JSON, RawPeer, RawSubstream, call, client_by_hand, dialled, raw_setup, response
from tests.support.waiting import settle, until

LOOPS = ("virtual",)

MIB = 1 << 20


@handler("size")
async def size(data: object) -> int:
    assert isinstance(data, (str, bytes))
    return len(data)


@handler("back")
async def back(count: int, ctx: Context) -> int:
    """Call the caller with a large payload."""
    return int(await ctx.session.request("size", "x" * count))


async def test_a_message_of_24_mb_completes_in_both_directions() -> None:
    limits = {"max_message_bytes": 32 * MIB, "default_timeout_s": 60}
    async with connected(
        *BASIC, size, back, client_handlers=(size,), server={"limits": limits}, client={"limits": limits}
    ) as pair:
        await pair.ready()
        assert await pair.client.request("size", "x" * (24 * MIB)) == 24 * MIB
        assert len(await pair.client.request("echo", "x" * (24 * MIB))) == 24 * MIB
        assert await pair.client.request("back", 24 * MIB) == 24 * MIB
        await pair.at_rest()


async def test_many_large_messages_at_once_all_complete() -> None:
    """More than the assembly budget holds, both ways: they wait for each other, in turn."""
    async with connected(*BASIC, client_handlers=BASIC) as pair:
        await pair.ready()
        payloads = [("x" * (3 * MIB + number)) for number in range(20)]
        near = [pair.client.request("echo", payload, timeout=600) for payload in payloads]
        far = [pair.far.request("echo", payload, timeout=600) for payload in payloads]
        answers = await asyncio.gather(*near, *far)
        assert [len(answer) for answer in answers] == [len(payload) for payload in payloads] * 2
        await pair.at_rest()


@pytest.mark.parametrize("size_in_windows", [0.5, 0.99, 1.0, 1.01, 1.5, 3])
async def test_messages_around_the_size_of_a_window_complete(size_in_windows: float) -> None:
    length = int(INITIAL_WINDOW_BYTES * size_in_windows)
    async with connected(*BASIC) as pair:
        for exact in range(length - 40, length + 10, 7):
            assert len(await pair.client.request("echo", "x" * exact)) == exact
        await pair.at_rest()


class HalfSent:
    """Calls of ``length`` bytes of which only the first window is sent."""

    def __init__(self, peer: RawPeer, count: int, length: int) -> None:
        self.length = length
        self.calls: list[RawSubstream] = []
        for number in range(count):
            head = encode_call_head(1_000 + 2 * number, 0, b"size", FULL_NAME, JSON, 2, b"", length)
            self.calls.append(peer.open_call(1_000 + 2 * number, head, b'"' + b"x" * INITIAL_WINDOW_BYTES))

    def finish(self, raw: RawSubstream) -> None:
        raw.send(b"x" * (self.length - INITIAL_WINDOW_BYTES - 2), b'"', end=True)


@pytest.fixture
def budget() -> dict[str, float]:
    return {"max_message_bytes": 4 * MIB, "assembly_bytes": 8 * MIB}


async def test_half_sent_messages_neither_deadlock_nor_exceed_the_budget(budget: dict[str, float]) -> None:
    async with RpcServer(memory_url(), *BASIC, size, limits=budget, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        (session,) = server.sessions
        half = HalfSent(peer, 50, 3 * MIB)
        await settle()
        assert session.budget.used <= 8 * MIB
        assert session.budget.used >= 3 * MIB, "some are under way"
        # Small calls go on, and so do those that fit into one window.
        peer.control.send(call(0, "echo", b"5"))
        assert (await peer.answered())[0].body[8:] == b"5"
        small = encode_call_head(2, 0, b"size", FULL_NAME, JSON, 2, b"", 20_002)
        raw = peer.open_call(2, small, b'"' + b"x" * 20_000 + b'"', end=True)
        await until(raw.frames)
        assert raw.frames()[0].body[8:] == b"20000"
        # Each one completes as soon as the rest of it is sent, whichever comes first.
        for waiting in reversed(half.calls):
            half.finish(waiting)
        await until(lambda: all(call.frames() for call in half.calls))
        assert {call.frames()[0].body[8:] for call in half.calls} == {str(3 * MIB - 2).encode()}
        await settle()
        assert session.budget.used == 0
        peer.connection.close(0, "")


@pytest.mark.parametrize("how", ["reset", "end of the connection"])
async def test_the_budget_of_half_sent_messages_returns(how: str, budget: dict[str, float]) -> None:
    async with RpcServer(memory_url(), *BASIC, size, limits=budget, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        (session,) = server.sessions
        half = HalfSent(peer, 50, 3 * MIB)
        await settle()
        assert session.budget.used
        if how == "reset":
            for raw in half.calls:
                raw.substream.reset(7)
            await until(lambda: session.budget.used == 0)
            assert not peer.closed.done()
            peer.connection.close(0, "")
        else:
            peer.connection.abort()
        await until(lambda: not server._sessions)


async def test_a_half_sent_message_is_waited_for_when_the_server_drains() -> None:
    """Its number is below the one that GOAWAY promises, or it is refused: it is never lost."""
    async with RpcServer(memory_url(), *BASIC, size, drain_timeout=60) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        half = HalfSent(peer, 1, 1 * MIB)
        await settle()
        closing = asyncio.ensure_future(server.close())
        await settle()
        for ping in [frame for frame in peer.control.frames() if frame.kind == FrameType.PING]:
            peer.control.send(encode_pong(int.from_bytes(ping.body, "little")))
        await settle()
        half.finish(half.calls[0])
        await until(lambda: half.calls[0].frames() or peer.closed.done())
        assert half.calls[0].frames()[0].body[8:] == str(1 * MIB - 2).encode()
        await closing


# Limits, exactly


@pytest.mark.parametrize("native", [True, False])
async def test_calls_around_the_in_line_limits_all_work(native: bool) -> None:
    """Exactly at, one below and one over each side's limit, for requests and responses."""
    name = "inline_max_native_bytes" if native else "inline_max_bytes"
    for server_max, client_max in ((2_048, 2_048), (1_000, 2_048), (2_048, 1_000), (0, 2_048), (2_048, 0), (0, 0)):
        async with connected(
            echo, server={"limits": {name: server_max}}, client={"limits": {name: client_max}}
        ) as pair:
            await pair.ready()
            for around in (0, 1_000, 2_048):
                for length in range(max(0, around - 6), around + 3):
                    text = "x" * length
                    assert await pair.client.request("echo", text) == text
            await pair.at_rest()


async def test_a_request_of_exactly_the_limit_arrives_and_one_over_does_not() -> None:
    async with connected(
        *BASIC, size, server={"codecs": ["json"], "limits": {"max_message_bytes": 100_000}}, client={"codecs": ["json"]}
    ) as pair:
        await pair.ready()
        assert await pair.client.request("size", "x" * 99_998) == 99_998
        with pytest.raises(RpcError) as caught:
            await pair.client.request("size", "x" * 99_999)
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        await pair.at_rest()


async def test_a_response_of_exactly_the_limit_arrives_and_one_over_is_an_error() -> None:
    @handler("text")
    async def text(length: int) -> str:
        return "x" * length

    limits = {"max_message_bytes": 100_000}
    async with connected(
        text, echo, server={"codecs": ["json"]}, client={"codecs": ["json"], "limits": limits}
    ) as pair:
        await pair.ready()
        assert len(await pair.client.request("text", 99_998)) == 99_998
        with pytest.raises(RpcError, match="max_message_bytes is 100000") as caught:
            await pair.client.request("text", 99_999)
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        assert not caught.value.not_processed, "the handler ran"
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


@pytest.mark.parametrize("length", [30_000, 100_001, 5 * MIB])
async def test_a_peer_that_sends_more_than_the_limit_is_told_and_the_handler_never_runs(length: int) -> None:
    ran: list[int] = []

    @handler("size")
    async def note(data: str) -> None:
        ran.append(len(data))

    limits = {"max_message_bytes": 20_000, "inline_max_bytes": 20_000}
    async with RpcServer(memory_url(), note, echo, limits=limits, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        head = encode_call_head(0, 0, b"size", FULL_NAME, JSON, 2, b"", length)
        raw = peer.open_call(0, head, b'"' + b"x" * (length - 2) + b'"', end=True)
        await until(raw.frames)
        body = raw.frames()[0].body
        assert int.from_bytes(body[8:10], "little") == StatusCode.RESOURCE_EXHAUSTED
        assert body[10] & 1, "not processed"
        await settle()
        assert ran == []
        peer.control.send(call(2, "echo", b"5"))
        assert (await peer.answered())[0].body[8:] == b"5"
        (session,) = server.sessions
        assert session.budget.used == 0
        peer.connection.close(0, "")


async def test_a_peer_whose_answer_is_over_our_limit_fails_its_call_only() -> None:
    async with client_by_hand(limits={"max_message_bytes": 20_000, "inline_max_bytes": 20_000}) as (client, peer):
        peer.control.send(raw_setup())
        calls = [asyncio.ensure_future(client.request("x", number)) for number in range(3)]
        await peer.called(3)
        for number, length in ((0, 30_000), (2, 1_000_000)):
            head = encode_substream_head(SubstreamKind.RESPONSE, 2, number)
            peer.open(head, encode_response_head(number, 0, JSON, length), b'"' + b"x" * (length - 2) + b'"', end=True)
            with pytest.raises(RpcError, match="max_message_bytes is 20000") as caught:
                await calls[number // 2]
            assert not caught.value.not_processed
        peer.control.send(response(4, b"7"))
        assert await calls[2] == 7


async def test_a_first_call_larger_than_any_peer_takes_in_line_goes_on_a_substream() -> None:
    """Before the peer's SETUP nobody knows its limit: ours may be higher."""
    for length in (17_000, 20_000, 26_000, 50_000, 90_000):
        async with connected(
            echo, client={"limits": {"inline_max_native_bytes": 100_000, "inline_max_bytes": 100_000}}
        ) as pair:
            assert len(await pair.client.request("echo", "x" * length)) == length
