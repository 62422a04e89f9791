"""Handlers that do not stop when they are told to: they are bounded, reported, and in nobody's way."""

from __future__ import annotations

import asyncio
import logging

import pytest

from echostream_core import RpcServer, Stream, handler, stream_handler
from echostream_core.wire.frames import SubstreamKind, encode_cancel, encode_substream_head
from echostream_core.wire.message import encode_call_head
from tests.support.handlers import BASIC
from tests.support.pairs import connected, memory_url
from tests.support.raw_peer import JSON, call, dialled, raw_setup
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)


class Stubborn:
    """Runs until it is released, whatever happens; at the end of the block it is."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.released = asyncio.Event()

    async def __aenter__(self) -> Stubborn:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.released.set()
        await until(lambda: not self.running)

    async def run(self) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue
        self.running -= 1

    def call(self) -> object:
        @handler("stubborn")
        async def stubborn() -> None:
            await self.run()

        return stubborn

    def stream(self) -> object:
        @stream_handler("stubborn_stream")
        async def stubborn_stream(stream: Stream) -> None:
            await self.run()

        return stubborn_stream


async def test_calls_that_are_cancelled_and_called_again_buy_no_more_than_the_slots() -> None:
    """Cancel, call again, cancel: the slots of handlers that still run stay taken."""
    limits = {"max_concurrent_calls": 128, "cancel_grace_s": 60}
    async with (
        Stubborn() as stubborn,
        RpcServer(memory_url(), stubborn.call(), limits=limits, drain_timeout=0) as server,
    ):
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        for number in range(250):
            peer.control.send(call(2 * number, "stubborn", b"null"), encode_cancel(2 * number))
            await settle(2)
        await settle()
        assert stubborn.most <= 128
        peer.connection.abort()


async def test_streams_that_are_reset_and_opened_again_buy_no_more_than_the_slots() -> None:
    """The same with streams, where a reset is all it takes (CVE-2023-44487)."""
    limits = {"max_concurrent_calls": 128, "cancel_grace_s": 60}
    async with (
        Stubborn() as stubborn,
        RpcServer(memory_url(), stubborn.stream(), *BASIC, limits=limits, drain_timeout=0) as server,
    ):
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        for number in range(600):
            if peer.closed.done():
                break
            head = encode_call_head(2 * number, 0, b"stubborn_stream", 0xFFFF, JSON, 2, b"", 4) + b"null"
            raw = peer.open(encode_substream_head(SubstreamKind.STREAM, 2, 2 * number), head)
            await settle(3)
            raw.substream.reset(7)
            raw.substream.stop(7)
            await settle(1)
        await settle()
        assert stubborn.most <= 256, f"{stubborn.most} handlers run for a peer with 128 slots"
        peer.connection.abort()


@pytest.mark.parametrize("kind", ["call", "stream"])
async def test_a_stubborn_handler_is_reported_once_its_grace_is_over(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"cancel_grace_s": 3}
    async with (
        Stubborn() as stubborn,
        connected(stubborn.call(), stubborn.stream(), *BASIC, server={"limits": limits}) as pair,
    ):
        await pair.ready()
        if kind == "call":
            calling = asyncio.ensure_future(pair.client.request("stubborn"))
            await until(lambda: stubborn.running)
            calling.cancel()
        else:
            stream = await pair.client.open_stream("stubborn_stream")
            await until(lambda: stubborn.running)
            stream.reset()
        await asyncio.sleep(10)
        reports = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(reports) == 1, [record.getMessage() for record in reports]
        assert "stubborn" in reports[0].getMessage()
        assert "after it was cancelled" in reports[0].getMessage()
        await pair.at_rest()
        assert await pair.client.request("echo", 1) == 1


@pytest.mark.parametrize("kind", ["call", "stream"])
async def test_a_stubborn_handler_does_not_keep_a_server_from_closing(kind: str) -> None:
    limits = {"cancel_grace_s": 2}
    async with Stubborn() as stubborn, connected(stubborn.call(), stubborn.stream(), server={"limits": limits}) as pair:
        await pair.ready()
        if kind == "call":
            calling = asyncio.ensure_future(pair.client.request("stubborn"))
        else:
            stream = await pair.client.open_stream("stubborn_stream")
            calling = asyncio.ensure_future(stream.recv())
        await until(lambda: stubborn.running)
        begin = asyncio.get_running_loop().time()
        await pair.server.close(drain=1)
        assert asyncio.get_running_loop().time() - begin < 10
        assert pair.server.state == "stopped"
        await asyncio.wait({calling})
        assert calling.exception() is not None
    await until(lambda: not other_tasks())
