"""Datagrams over every transport that is installed: native, emulated where both ends want it, and none otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from echostream_core import (
    CapabilityError,
    CloseCode,
    ConfigError,
    Disconnected,
    LimitExceeded,
    Reconnect,
    RpcClient,
    RpcServer,
    Session,
    datagram_handler,
    handler,
)
from tests.support.pairs import Pair, connected
from tests.support.transports import Endpoint
from tests.support.waiting import until

LOOPS = ("asyncio", "uvloop")

CHANNEL = 1_000


@handler("echo")
async def echo(value: int) -> int:
    """What came."""
    return value


@asynccontextmanager
async def linked(
    transport: Endpoint,
    *targets: object,
    server: bool = True,
    client: bool = True,
    **options: Any,
) -> AsyncIterator[Pair]:
    """A pair over ``transport``; ``server`` and ``client``: whether that end emulates datagrams."""
    common = {**transport.options, **options}
    async with connected(
        echo,
        *targets,
        url=transport.url,
        server={**common, "emulate_datagrams": server},
        client={**common, "emulate_datagrams": client},
    ) as pair:
        await pair.ready()
        yield pair


async def test_datagrams_travel_both_ways(transport: Endpoint) -> None:
    @datagram_handler(CHANNEL)
    def back(payload: bytes, session: Session) -> None:
        session.send_datagram(CHANNEL, payload[::-1])

    async with linked(transport, back) as pair:
        level = "emulated" if transport.muxed else "native"
        assert pair.client.capabilities.datagrams == pair.far.capabilities.datagrams == level
        heard: list[bytes] = []
        pair.client.on_datagram(CHANNEL, heard.append)
        for number in range(100):
            pair.client.send_datagram(CHANNEL, b"%03d" % number)
            await until(lambda count=number: len(heard) > count)  # type: ignore[misc]  # the loop's number
        assert heard == [(b"%03d" % number)[::-1] for number in range(100)]
        assert pair.near.datagrams.sent == pair.near.datagrams.received == 100
        assert pair.far.datagrams.sent == pair.far.datagrams.received == 100
        assert pair.near.datagrams.dropped.total == pair.far.datagrams.dropped.total == 0


async def test_the_largest_payload_arrives_and_one_byte_more_is_refused_at_both_ends(transport: Endpoint) -> None:
    async with linked(transport) as pair:
        heard: list[bytes] = []
        pair.near.on_datagram(CHANNEL, heard.append)
        pair.far.on_datagram(CHANNEL, heard.append)
        for end in (pair.near, pair.far):
            most = end.datagrams.max_payload_bytes
            assert most >= 1_000
            with pytest.raises(LimitExceeded) as caught:
                end.send_datagram(CHANNEL, bytes(most + 1))
            assert caught.value.limit == "max_datagram_size"
            assert end.send_datagram(CHANNEL, bytes(most))
            await until(lambda: heard)
            assert heard == [bytes(most)]
            heard.clear()


async def test_without_the_option_a_pipe_has_no_datagrams_and_says_so_at_once(transport: Endpoint) -> None:
    async with linked(transport, server=False, client=False) as pair:
        for end in (pair.near, pair.far):
            if transport.muxed:
                assert end.capabilities.datagrams == "none"
                assert end.datagrams.max_payload_bytes == 0
                with pytest.raises(CapabilityError, match=f"{transport.scheme}://.*no datagrams") as caught:
                    end.send_datagram(CHANNEL, b"x")
                assert caught.value.capability == "datagrams"
                assert end.datagrams.sent == 0
            else:
                assert end.send_datagram(CHANNEL, b"x")
        assert await pair.client.request("echo", 1) == 1


@pytest.mark.parametrize("only", ["server", "client"])
async def test_when_one_end_has_the_option_a_pipe_still_has_none(transport: Endpoint, only: str) -> None:
    async with linked(transport, server=only == "server", client=only == "client") as pair:
        for end in (pair.near, pair.far):
            if transport.muxed:
                assert end.capabilities.datagrams == "none"
                with pytest.raises(CapabilityError, match="emulate_datagrams = true at both ends"):
                    end.send_datagram(CHANNEL, b"x")
            else:
                assert end.capabilities.datagrams == "native"
        assert await pair.client.request("echo", 1) == 1


async def test_a_need_for_native_ones_is_checked_before_anything_is_bound(transport: Endpoint) -> None:
    options = {**transport.options, "emulate_datagrams": True, "require": ["datagrams=native"]}
    if transport.muxed:
        with pytest.raises(ConfigError, match=f"require: {transport.scheme}:// cannot do datagrams=native"):
            RpcServer(transport.url, **options)
        with pytest.raises(ConfigError, match="cannot do datagrams=native"):
            RpcClient.connect(transport.url, **options)
        with pytest.raises(ConfigError, match="cannot do datagrams"):
            RpcServer(transport.url, **transport.options, require=["datagrams"])
    else:
        async with linked(transport, require=["datagrams=native"]) as pair:
            assert pair.client.capabilities.datagrams == "native"


async def test_a_need_for_any_is_met_when_both_ends_emulate(transport: Endpoint) -> None:
    async with linked(transport, require=["datagrams"]) as pair:
        assert pair.client.capabilities.unmet(["datagrams"]) == []


async def test_a_client_that_needs_them_does_not_connect_to_a_server_without(transport: Endpoint) -> None:
    needs: dict[str, Any] = {**transport.options, "emulate_datagrams": True, "require": ["datagrams"]}
    async with RpcServer(transport.url, echo, **transport.options) as server:
        connecting = RpcClient.connect(server.addresses[0], reconnect=False, **needs)
        if transport.muxed:
            with pytest.raises(CapabilityError, match=r"cannot do datagrams \(the peer has not set emulate_"):
                await connecting
            await until(lambda: not server.sessions)
        else:
            async with connecting as client:
                assert await client.request("echo", 1) == 1


async def test_a_server_that_needs_them_closes_the_session_of_a_client_without(transport: Endpoint) -> None:
    needs: dict[str, Any] = {**transport.options, "emulate_datagrams": True, "require": ["datagrams"]}
    async with (
        RpcServer(transport.url, echo, **needs) as server,
        RpcClient.connect(server.addresses[0], **transport.options) as client,
    ):
        if transport.muxed:
            error = await asyncio.wait_for(asyncio.shield(client.session.closed), 20)
            assert getattr(error, "close_code", None) == CloseCode.VERSION
            assert "emulate_datagrams" in str(error)
            with pytest.raises(Disconnected):  # for good: the next session would end in the same way
                await client.request("echo", 1)
        else:
            assert await client.request("echo", 1) == 1


async def test_a_clients_functions_last_over_reconnects(transport: Endpoint) -> None:
    options: dict[str, Any] = {**transport.options, "emulate_datagrams": True}
    again = Reconnect(initial_delay=0.01)
    async with (
        RpcServer(transport.url, echo, **options) as server,
        RpcClient.connect(server.addresses[0], reconnect=again, **options) as client,
    ):
        heard: list[bytes] = []
        stop = client.on_datagram(CHANNEL, heard.append)
        await until(lambda: server.sessions)
        first = server.sessions[0]
        first.send_datagram(CHANNEL, b"first")
        await until(lambda: heard)
        await client.ping()
        first.abort()
        await until(lambda: not client.connected)
        with pytest.raises(Disconnected):
            client.send_datagram(CHANNEL, b"lost")
        assert await client.request("echo", 1) == 1
        await until(lambda: server.sessions and server.sessions[0] is not first)
        server.sessions[0].send_datagram(CHANNEL, b"second")
        await until(lambda: len(heard) > 1)
        stop()
        server.sessions[0].send_datagram(CHANNEL, b"third")
        await until(lambda: client.session.datagrams.dropped.unheard)
        assert heard == [b"first", b"second"]


async def test_what_arrives_beside_bulk_and_calls_is_a_subsequence_and_all_are_accounted_for(
    transport: Endpoint,
) -> None:
    heard: list[int] = []

    @datagram_handler(CHANNEL)
    def note(payload: bytes) -> None:
        heard.append(int.from_bytes(payload[:4], "little"))

    @handler("swallow")
    async def swallow(data: bytes) -> int:
        return len(data)

    async with linked(transport, note, swallow) as pair:
        near = pair.near
        bulk = [asyncio.create_task(pair.client.request("swallow", bytes(1_000_000))) for _ in range(3)]
        for number in range(3_000):
            near.send_datagram(CHANNEL, number.to_bytes(4, "little") + bytes(300))
            if number % 100 == 0:
                assert await pair.client.request("echo", number) == number
        assert await asyncio.gather(*bulk) == [1_000_000] * 3
        ordered = transport.scheme != "quic"  # a lost packet's datagrams are lost; others may overtake
        if ordered:
            await until(lambda: len(heard) + near.datagrams.dropped.total == 3_000)
            assert heard == sorted(set(heard))
        else:
            await pair.client.ping()
            assert len(set(heard)) == len(heard) <= 3_000 - near.datagrams.dropped.total
        assert near.datagrams.sent == 3_000
        assert len(heard) >= 256 or not ordered


async def test_a_flood_does_not_keep_calls_from_being_answered(transport: Endpoint) -> None:
    received = 0

    @datagram_handler(CHANNEL)
    def count(payload: bytes) -> None:
        nonlocal received
        received += 1

    async with linked(transport, count) as pair:

        async def flood() -> None:
            while True:
                for _ in range(300):
                    pair.near.send_datagram(CHANNEL, bytes(1_000))
                await asyncio.sleep(0)

        flooding = asyncio.create_task(flood())
        for number in range(50):
            assert await pair.client.request("echo", number) == number
        flooding.cancel()
        await until(lambda: received > 100)
        assert pair.near.datagrams.dropped.full == pair.near.datagrams.dropped.total > 0
