"""Calls on substreams of their own: who may be cut off where, and what the other one is told."""

from __future__ import annotations

import asyncio

import pytest

from echostream_core import CloseCode, Priority, RemoteError, RpcClient, RpcError, RpcServer, StatusCode
from echostream_core.wire.frames import FULL_NAME, RESPONSE, SubstreamKind, encode_substream_head
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from echostream_core.wire.message import encode_call_head, encode_response_head
from tests.support.handlers import BASIC, Watched, echo
from tests.support.pairs import connected, leftovers, memory_url
from tests.support.raw_peer import JSON, RawPeer, call, client_by_hand, dialled, raw_setup
from tests.support.waiting import settle, until

LOOPS = ("virtual",)

LARGE = "x" * 10_000


def own(number: int, method: str, payload: bytes) -> bytes:
    head = encode_call_head(number, 0, method.encode(), FULL_NAME, JSON, 2, b"", len(payload))
    return head + payload


async def test_a_large_call_has_a_substream_of_its_own_and_is_answered_there() -> None:
    async with RpcServer(memory_url(), echo, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        raw = peer.open_call(0, own(0, "echo", b'"' + b"x" * 5_000 + b'"'), end=True)
        await until(lambda: raw.ended)
        (answer,) = raw.frames()
        assert answer.kind == RESPONSE
        assert answer.body[8:] == b'"' + b"x" * 5_000 + b'"'
        assert not peer.responses()
        peer.connection.close(0, "")


async def test_a_large_answer_to_a_small_call_comes_on_a_substream() -> None:
    async with RpcServer(memory_url(), *BASIC, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup(inline_max_bytes=1_000), call(0, "make", b"3000"))
        await until(lambda: peer.accepted and peer.accepted[-1].ended)
        raw = peer.accepted[-1]
        assert raw.data[:8] == encode_substream_head(SubstreamKind.RESPONSE, 2, 0)
        assert not peer.responses()
        raw.send(end=True)
        await settle()
        assert leftovers(server.sessions[0]) == {}
        peer.connection.close(0, "")


@pytest.mark.parametrize("level", [Priority.URGENT, Priority.NORMAL, Priority.BULK])
async def test_the_class_stands_in_the_head(level: Priority) -> None:
    async with client_by_hand() as (client, peer):
        calling = asyncio.ensure_future(client.request("x", LARGE, priority=level))
        await until(lambda: len(peer.accepted) == 2 and peer.accepted[1].ended)
        assert peer.accepted[1].data[:8] == encode_substream_head(SubstreamKind.CALL, level, 0)
        calling.cancel()


async def large_call(peer: RawPeer, client: RpcClient) -> asyncio.Task[object]:
    calling: asyncio.Task[object] = asyncio.ensure_future(client.request("x", LARGE, timeout=None))
    await until(lambda: len(peer.accepted) == 2 and peer.accepted[1].ended)
    return calling


async def test_a_peer_that_refuses_the_substream_has_not_processed_the_call() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        calling = await large_call(peer, client)
        peer.accepted[1].substream.reset(CloseCode.REFUSED)
        with pytest.raises(RemoteError) as caught:
            await calling
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.not_processed and caught.value.retryable
        await settle()
        assert leftovers(client.session) == {}


async def test_a_peer_that_gives_the_call_up_is_no_answer() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        calling = await large_call(peer, client)
        peer.accepted[1].substream.reset(1)
        with pytest.raises(RemoteError) as caught:
            await calling
        assert not caught.value.not_processed
        await settle()
        assert leftovers(client.session) == {}


async def test_a_peer_that_ends_without_an_answer_is_an_error() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        calling = await large_call(peer, client)
        peer.accepted[1].send(end=True)
        with pytest.raises(RpcError):
            await calling
        await settle()
        assert leftovers(client.session) == {}


async def test_a_peer_that_stops_reading_may_still_answer() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        calling = asyncio.ensure_future(client.request("x", "x" * 1_000_000, timeout=None))
        await until(lambda: len(peer.accepted) == 2 and peer.accepted[1].data)
        raw = peer.accepted[1]
        raw.substream.stop(CloseCode.LIMIT)
        await settle()
        raw.send(encode_response_head(0, 0, JSON, 1) + b"7", end=True)
        assert await calling == 7
        await settle()
        assert leftovers(client.session) == {}


async def test_giving_a_large_call_up_resets_its_substream() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        calling = asyncio.ensure_future(client.request("x", "x" * 1_000_000, timeout=None))
        await until(lambda: len(peer.accepted) == 2 and peer.accepted[1].data)
        calling.cancel()
        await until(lambda: peer.accepted[1].reset_code == CloseCode.CANCELLED)
        assert calling.cancelled()
        raw = peer.accepted[1]
        raw.substream.reset(CloseCode.CANCELLED)
        await settle()
        assert leftovers(client.session) == {}


async def test_a_caller_that_leaves_before_its_call_is_complete_starts_no_handler() -> None:
    watched = Watched()
    async with RpcServer(memory_url(), watched, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        raw = peer.open_call(0, own(0, "watched.wait", b'"' + b"x" * 300_000 + b'"')[: INITIAL_WINDOW_BYTES * 2])
        await settle()
        raw.substream.reset(CloseCode.CANCELLED)
        await until(lambda: raw.reset_code is not None or raw.ended)
        assert watched.begun == 0
        assert leftovers(server.sessions[0]) == {}
        peer.connection.close(0, "")


async def test_a_caller_that_resets_or_stops_ends_the_handler_and_the_substream() -> None:
    for way in ("reset", "stop"):
        watched = Watched()
        async with RpcServer(memory_url(), watched, drain_timeout=0) as server:
            peer = await dialled(server.addresses[0], raw_setup())
            await until(peer.replied_setup)
            raw = peer.open_call(0, own(0, "watched.wait", b"null"))
            await watched.reached(begun=1)
            if way == "reset":
                raw.substream.reset(CloseCode.CANCELLED)
            raw.substream.stop(CloseCode.CANCELLED)
            await watched.reached(cancelled=1)
            await settle()
            assert leftovers(server.sessions[0]) == {}
            peer.connection.close(0, "")


async def test_a_caller_that_does_not_read_its_answers_keeps_its_slots() -> None:
    """Answers that wait for credit are memory of ours: a peer that does not read them gets no more of it."""
    async with RpcServer(memory_url(), *BASIC, limits={"max_concurrent_calls": 128}, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        number = 0
        for _ in range(6):
            for _ in range(100):
                if peer.closed.done():
                    break
                raw = peer.open_call(number, own(number, "make", b"300000"), end=True)
                raw.reads = False
                number += 2
            await settle(100)
        waiting = queued(server)
        assert waiting <= 128 * 400_020, f"{waiting >> 20} MiB of answers wait for a peer that reads none"
        peer.connection.abort()


def queued(server: RpcServer) -> int:
    """Bytes that wait to be sent on the substreams of the only session."""
    sessions = list(server._sessions)
    if not sessions:
        return 0
    live = sessions[0].connection._live  # type: ignore[attr-defined]  # a memory connection
    return sum(stream.queued for stream in live)


async def test_calls_of_all_sizes_at_once_keep_apart() -> None:
    async with connected(*BASIC, client_handlers=BASIC) as pair:
        await pair.ready()
        sizes = [0, 10, 2_040, 2_048, 2_049, 3_000, 70_000, 200_000]
        near = [pair.client.request("echo", f"{index}" * size) for index, size in enumerate(sizes * 5)]
        far = [pair.far.request("echo", f"{index}" * size) for index, size in enumerate(sizes * 5)]
        answers = await asyncio.gather(*near, *far)
        assert answers == [f"{index}" * size for index, size in enumerate(sizes * 5)] * 2
        await pair.at_rest()
