"""What becomes of a substream that the peer opened, however slowly its first bytes come."""

from __future__ import annotations

import asyncio

import pytest

from echostream_core import RpcServer, handler
from echostream_core.wire.frames import FULL_NAME, SubstreamKind, encode_substream_head
from echostream_core.wire.message import encode_call_head
from tests.support.handlers import BASIC
from tests.support.pairs import leftovers, memory_url
from tests.support.raw_peer import JSON, call, dialled, raw_setup
from tests.support.waiting import settle, until

LOOPS = ("virtual",)

CALL = encode_call_head(0, 0, b"echo", FULL_NAME, JSON, 2, b"", 1) + b"5"


@pytest.mark.parametrize("portion", [1, 2, 3, 7, 8, 9, 1_000])
async def test_a_call_may_come_in_any_portions(portion: int) -> None:
    async with RpcServer(memory_url(), *BASIC, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        data = encode_substream_head(SubstreamKind.CALL, 2, 0) + CALL
        raw = peer.open(data[:portion])
        for position in range(portion, len(data), portion):
            await asyncio.sleep(0)
            raw.send(data[position : position + portion])
        raw.send(end=True)
        await until(raw.frames)
        assert raw.frames()[0].body[8:] == b"5"
        await settle()
        assert leftovers(server.sessions[0]) == {}
        peer.connection.close(0, "")


@pytest.mark.parametrize("cut", range(9))
async def test_a_substream_that_is_given_up_before_its_head_is_forgotten(cut: int) -> None:
    async with RpcServer(memory_url(), *BASIC, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        raw = peer.open(encode_substream_head(SubstreamKind.CALL, 2, 0)[:cut])
        await settle()
        raw.substream.reset(7)
        raw.substream.stop(7)
        await settle()
        peer.control.send(call(2, "echo", b"5"))
        assert (await peer.answered())[0].body[8:] == b"5"
        assert leftovers(server.sessions[0]) == {}
        peer.connection.close(0, "")


async def test_what_comes_before_setup_is_not_read_and_then_served_in_order() -> None:
    async with RpcServer(memory_url(), *BASIC, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0])
        early = [
            peer.open_call(
                2 * number,
                encode_call_head(2 * number, 0, b"echo", FULL_NAME, JSON, 2, b"", 100_002),
                b'"' + b"x" * 100_000 + b'"',
                end=True,
            )
            for number in range(5)
        ]
        await settle(200)
        assert not any(raw.data for raw in early)
        peer.begin(raw_setup())
        await until(lambda: all(raw.ended for raw in early))
        assert {len(raw.frames()[0].body) for raw in early} == {8 + 100_002}
        peer.connection.close(0, "")


async def test_what_is_given_up_before_setup_is_never_served() -> None:
    served: list[object] = []

    @handler("echo")
    async def note(value: object) -> object:
        served.append(value)
        return value

    async with RpcServer(memory_url(), note, drain_timeout=0) as server:
        peer = await dialled(server.addresses[0])
        raw = peer.open_call(0, CALL, end=False)
        await settle()
        raw.substream.reset(7)
        await settle()
        peer.begin(raw_setup())
        await until(peer.replied_setup)
        await settle()
        assert served == []
        assert leftovers(server.sessions[0]) == {}
        peer.connection.close(0, "")
