"""Chromium's own WebTransport against the transport ``wt`` alone: streams, datagrams, codes and ends."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from echostream_core import EndOfStream, Kernel
from echostream_core.errors import ConnectionLost
from tests.browser.certificates import Pair, make_pair
from tests.browser.chromium import Chromium, Page
from tests.browser.endpoint import Endpoint, listening

LOOPS = ("asyncio", "uvloop")
pytestmark = pytest.mark.skipif("wt" not in Kernel().known("transport"), reason="needs echostream-webtransport")

MEBIBYTE = 1_048_576
Listening = Callable[..., AbstractAsyncContextManager[Endpoint]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate that browsers accept by its hash."""
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def at(pair: Pair, origin: str) -> Listening:
    """Makes a listener with that certificate, open to the page."""

    @asynccontextmanager
    async def at(**how: bool) -> AsyncIterator[Endpoint]:
        async with listening("wt://127.0.0.1:0/test", {"tls": pair.tls, "origins": [origin]}, **how) as endpoint:
            yield endpoint

    return at


@pytest.fixture
def run(page: Page, pair: Pair) -> Callable[..., Any]:
    """Runs a function of webtransport.mjs in the page, on the endpoint's URL."""

    async def run(name: str, endpoint: Endpoint, **argument: object) -> Any:
        body = f'return (await import("/tests/webtransport.mjs")).{name}(argument)'
        return await page.run(body, {"url": endpoint.url, "hash": pair.fingerprint, **argument})

    return run


# Streams.


async def test_a_stream_of_the_page_carries_bytes_both_ways(at: Listening, run: Callable[..., Any]) -> None:
    async with at(echoes=True) as endpoint:
        assert await run("echo", endpoint, message="hello, é") == "hello, é"
        assert (await (await endpoint.peer()).stream()).ended


async def test_streams_of_the_server_carry_bytes_both_ways(at: Listening, run: Callable[..., Any]) -> None:
    async with at() as endpoint:
        running = asyncio.create_task(run("shout", endpoint, count=50))
        peer = await endpoint.peer()
        streams = [peer.open() for _ in range(50)]
        for number, stream in enumerate(streams):
            stream.substream.write([f"stream {number}".encode()], end=True)
        answers = [await stream.until_ended() for stream in streams]
        assert answers == [f"STREAM {number}".encode() for number in range(50)]
        assert await running == sorted(answer.decode() for answer in answers)


async def test_fifty_streams_of_the_page_in_parallel(at: Listening, run: Callable[..., Any]) -> None:
    async with at(echoes=True) as endpoint:
        assert await run("parallel", endpoint, count=50, size=30_000) == 50


async def test_a_mebibyte_each_way_has_the_right_content(at: Listening, run: Callable[..., Any]) -> None:
    content = random.Random(1).randbytes(MEBIBYTE)
    async with at() as endpoint:
        running = asyncio.create_task(run("upAndDown", endpoint, size=MEBIBYTE))
        stream = await (await endpoint.peer()).stream()
        received = await stream.until_ended()
        stream.substream.write([content], end=True)
        result = await running
        assert len(received) == result["size"] == MEBIBYTE
        assert hashlib.sha256(received).hexdigest() == result["up"]
        assert hashlib.sha256(content).hexdigest() == result["down"]


async def test_what_the_server_does_not_read_stops_the_page_and_no_other_stream(
    at: Listening, run: Callable[..., Any]
) -> None:
    async with at(reads=False) as endpoint:
        running = asyncio.create_task(run("fill", endpoint, size=4 * MEBIBYTE))
        peer = await endpoint.peer()
        small = await peer.stream(2)  # it comes last, behind the one that is full
        small.substream.write([b"small answer"], end=True)
        result = await running
        assert result["other"] == "small answer"
        assert 16_384 <= len(peer.streams[1].data) <= 65_536
        assert result["taken"] < MEBIBYTE


# Datagrams.


async def test_datagrams_go_both_ways(at: Listening, run: Callable[..., Any]) -> None:
    async with at(echoes=True) as endpoint:
        assert await run("datagrams", endpoint, count=20) > 1_000
        assert set((await endpoint.peer()).datagrams) == {b"datagram %d" % number for number in range(20)}


async def test_a_datagram_that_the_server_sends_at_once_arrives(at: Listening, run: Callable[..., Any]) -> None:
    """In the flight of the answer to CONNECT it would be lost: nothing else follows it here, and it is sent once."""
    async with at() as endpoint:
        running = asyncio.create_task(run("firstDatagram", endpoint))
        (await endpoint.peer()).connection.send_datagram([b"first"])
        assert await running == "first"


# Giving up.


@pytest.mark.parametrize(("reset", "stop"), [(0, 7), (7, 0), (255, 31), (30, 255)])
async def test_codes_by_which_the_page_gives_up_arrive(
    at: Listening, run: Callable[..., Any], reset: int, stop: int
) -> None:
    async with at(echoes=True) as endpoint:
        running = asyncio.create_task(run("giveUp", endpoint, reset=reset, stop=stop))
        peer = await endpoint.peer()
        stream = await peer.stream()
        await stream.until(lambda: stream.reset_code is not None and stream.stop_code is not None)
        assert (stream.reset_code, stream.stop_code) == (reset, stop)
        assert not stream.ended
        assert await (await peer.stream(1)).until_ended() == b"another"
        assert await running == "another"


@pytest.mark.parametrize(("reset", "stop"), [(0, 7), (7, 0), (255, 256), (4_294_967_295, 30)])
async def test_codes_by_which_the_server_gives_up_arrive(
    at: Listening, run: Callable[..., Any], reset: int, stop: int
) -> None:
    async with at() as endpoint:
        running = asyncio.create_task(run("givenUp", endpoint))
        peer = await endpoint.peer()
        stream = await peer.stream()
        await stream.until(lambda: stream.data)
        stream.substream.reset(reset)
        stream.substream.stop(stop)
        second = await peer.stream(1)
        assert await second.until_ended() == b"another"
        second.substream.write([b"fine"], end=True)
        result = await running
        assert (result["reading"]["name"], result["reading"]["source"]) == ("WebTransportError", "stream")
        assert (result["reading"]["code"], result["writing"]["code"]) == (reset, stop)
        assert result["answer"] == "fine"


# Ends.


@pytest.mark.parametrize(("code", "reason"), [(0, ""), (6, "going away: à bientôt"), (4_294_967_295, "x" * 1_024)])
async def test_the_servers_code_and_reason_are_in_the_pages_closed(
    at: Listening, run: Callable[..., Any], code: int, reason: str
) -> None:
    async with at() as endpoint:
        running = asyncio.create_task(run("untilClosed", endpoint))
        peer = await endpoint.peer()
        await (await peer.stream()).until(lambda: peer.streams[0].data)
        peer.connection.close(code, reason)
        result = await running
        assert (result.get("closeCode"), result.get("reason")) == (code, reason), result
        assert result["reading"]["source"] == "session"
        assert result["later"] != "no failure"
        assert await peer.end() is None


@pytest.mark.parametrize(("code", "reason"), [(0, ""), (4711, "the page is left: é"), (4_294_967_295, "y" * 1_024)])
async def test_the_pages_code_and_reason_are_in_our_error(
    at: Listening, run: Callable[..., Any], code: int, reason: str
) -> None:
    async with at(echoes=True) as endpoint:
        running = asyncio.create_task(run("closeWith", endpoint, code=code, reason=reason))
        error = await (await endpoint.peer()).end()
        assert await running == {"closeCode": code, "reason": reason}
        if code:
            assert isinstance(error, ConnectionLost)
            assert error.close_code == code
            assert reason[:20] in str(error) or ascii(reason)[1:20] in str(error)
        else:
            assert isinstance(error, EndOfStream)


async def test_leaving_the_page_ends_its_connection(
    at: Listening, run: Callable[..., Any], chromium: Chromium, origin: str, pair: Pair
) -> None:
    async with at() as endpoint:
        page = chromium.open(f"{origin}/")
        body = 'await (await import("/tests/webtransport.mjs")).stay(argument); setTimeout(() => location.reload(), 0)'
        await page.run(body, {"url": endpoint.url, "hash": pair.fingerprint})
        assert isinstance(await (await endpoint.peer()).end(), EndOfStream)
        page.close()
