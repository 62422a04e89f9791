"""Chromium's own WebSocket against the transport ``ws``: what is agreed on, content, close codes, who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from echostream_core import EndOfStream, Kernel, RemoteProtocolError, RpcServer
from echostream_core.errors import ConnectionLost
from tests.browser.chromium import Page
from tests.browser.endpoint import listening

LOOPS = ("asyncio", "uvloop")
pytestmark = pytest.mark.skipif("ws" not in Kernel().known("transport"), reason="needs echostream-websocket")

Run = Callable[..., Any]
URL = "ws://127.0.0.1:0/test"


@pytest.fixture
def run(page: Page) -> Run:
    """Runs a function of websocket.mjs in the page."""

    async def run(name: str, **argument: object) -> Any:
        return await page.run(f'return (await import("/tests/websocket.mjs")).{name}(argument)', argument)

    return run


async def test_the_subprotocol_is_agreed_on_and_nothing_else(run: Run, origin: str) -> None:
    async with listening(URL, {"origins": [origin]}) as endpoint:
        assert await run("attempt", url=endpoint.url) == {"protocol": "echostream.v1", "extensions": ""}
        several = await run("attempt", url=endpoint.url, protocols=["chat", "echostream.v1"])
        assert several["protocol"] == "echostream.v1"


@pytest.mark.parametrize("protocols", [["chat"], ["echostream.v2"]], ids=["another", "another-version"])
async def test_a_page_that_wants_another_subprotocol_is_refused(run: Run, origin: str, protocols: list[str]) -> None:
    async with listening(URL, {"origins": [origin]}) as endpoint:
        assert (await run("attempt", url=endpoint.url, protocols=protocols))["failed"]["code"] == 1006
        assert endpoint.pipes == []
        assert "protocol" in await run("attempt", url=endpoint.url)


async def test_pages_from_elsewhere_are_refused(run: Run, origin: str) -> None:
    for origins in ([], ["https://example.org"]):
        async with listening(URL, {"origins": origins}) as endpoint:
            assert (await run("attempt", url=endpoint.url))["failed"]["code"] == 1006
            assert endpoint.pipes == []
    async with listening(URL, {"origins": ["*"]}) as endpoint:
        assert "protocol" in await run("attempt", url=endpoint.url)


async def test_a_path_that_nobody_listens_at_is_refused(run: Run, origin: str) -> None:
    async with listening(URL, {"origins": [origin]}) as endpoint:
        elsewhere = endpoint.url.replace("/test", "/nowhere")
        assert (await run("attempt", url=elsewhere))["failed"]["code"] == 1006


@pytest.mark.parametrize("piece", [1_000, 1_048_576])
async def test_a_mebibyte_each_way_has_the_right_content(run: Run, origin: str, piece: int) -> None:
    async with listening(URL, {"origins": [origin]}, echoes=True) as endpoint:
        result = await run("echo", url=endpoint.url, size=1_048_576, piece=piece)
        assert result["sent"] == result["received"]


async def test_an_orderly_close_of_the_server_arrives(run: Run, origin: str) -> None:
    async with listening(URL, {"origins": [origin]}) as endpoint:
        running = asyncio.create_task(run("sendAndWait", url=endpoint.url))
        peer = await endpoint.pipe()
        peer.pipe.close()
        assert await running == {"code": 1000, "reason": "", "wasClean": True}
        assert await peer.end() is None


async def test_text_is_refused_with_1003(run: Run, origin: str) -> None:
    async with listening(URL, {"origins": [origin]}) as endpoint:
        end = await run("sendAndWait", url=endpoint.url, message="a text")
        assert (end["code"], end["wasClean"]) == (1003, True)
        assert isinstance(await (await endpoint.pipe()).end(), RemoteProtocolError)


async def test_a_message_that_is_too_long_is_refused_with_1009(run: Run, origin: str) -> None:
    async with listening(URL, {"origins": [origin], "max_message_bytes": 1_000}) as endpoint:
        assert (await run("sendAndWait", url=endpoint.url, message=[7] * 1_001))["code"] == 1009
        assert isinstance(await (await endpoint.pipe()).end(), RemoteProtocolError)
        running = asyncio.create_task(run("sendAndWait", url=endpoint.url, message=[7] * 1_000))
        peer = await endpoint.pipe(1)
        await peer.until(lambda: len(peer.data) == 1_000)
        peer.pipe.close()
        await running


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4711, "the page is left: é")])
async def test_the_pages_close_arrives_with_its_code(run: Run, origin: str, code: int, reason: str) -> None:
    async with listening(URL, {"origins": [origin]}) as endpoint:
        end = await run("closeWith", url=endpoint.url, code=code, reason=reason)
        assert end["wasClean"]
        error = await (await endpoint.pipe()).end()
        if code == 1000:
            assert isinstance(error, EndOfStream)
        else:
            assert isinstance(error, ConnectionLost)
            assert str(code) in str(error)


async def test_nonsense_instead_of_the_mux_ends_the_session_and_the_server_goes_on(run: Run, origin: str) -> None:
    async with RpcServer(URL, transport={"ws": {"origins": [origin]}}) as server:
        url = server.addresses[0]
        end = await run("sendAndWait", url=url, message=[0xFF] * 64)
        assert end["wasClean"]
        assert "protocol" in await run("attempt", url=url)
