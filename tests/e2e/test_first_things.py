"""What comes first on a connection may be answered before the listener's SETUP has arrived: the answer waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from echostream_core import RemoteError, RpcClient, StatusCode, Stream, handler, stream_handler
from tests.support.pairs import connected
from tests.support.transports import Endpoint


@stream_handler("length")
async def length(text: str, stream: Stream) -> int:
    return len(text)


@handler("count")
async def count(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        yield number


@handler("echo")
async def echo(value: object) -> object:
    return value


@asynccontextmanager
async def fresh(transport: Endpoint) -> AsyncIterator[RpcClient]:
    """A connection on which nothing has been done yet."""
    options = transport.options
    async with connected(length, count, echo, url=transport.url, server=options, client=options) as pair:
        yield pair.client


async def test_a_stream_that_is_answered_at_once(transport: Endpoint) -> None:
    async with fresh(transport) as client, client.open_stream("length", "four") as stream:
        assert await stream.recv() == 4


@pytest.mark.parametrize(
    ("method", "payload", "code"),
    [("nobody.has.this", None, StatusCode.UNIMPLEMENTED), ("length", {"no": "text"}, StatusCode.INVALID_ARGUMENT)],
    ids=["unknown", "wrong payload"],
)
async def test_a_stream_that_is_refused_at_once(
    method: str, payload: object, code: StatusCode, transport: Endpoint
) -> None:
    async with fresh(transport) as client:
        async with client.open_stream(method, payload) as stream:
            with pytest.raises(RemoteError) as caught:
                await stream.recv()
        assert caught.value.code is code
        assert await client.request("echo", 1) == 1, "the session goes on"


async def test_items_that_come_at_once(transport: Endpoint) -> None:
    async with fresh(transport) as client:
        assert [number async for number in client.stream("count", 3)] == [0, 1, 2]


async def test_a_large_call_that_is_answered_at_once(transport: Endpoint) -> None:
    text = "x" * 100_000
    async with fresh(transport) as client:
        assert await client.request("echo", text) == text
