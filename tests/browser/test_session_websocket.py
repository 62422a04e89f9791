"""The example's JavaScript client in Chromium over WebSocket, against servers of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from echostream_core import Kernel, RpcServer
from tests.browser.certificates import make_pair
from tests.browser.chromium import Chromium, Page
from tests.browser.handlers import RUN, SCENARIOS, Peer

LOOPS = ("uvloop",)  # the same over WebTransport runs on asyncio's own
INSTALLED = set(Kernel().known("transport"))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.skipif("ws" not in INSTALLED, reason="needs echostream-websocket")
async def test_over_websocket_in_chromium(scenario: str, page: Page, origin: str) -> None:
    server = RpcServer("ws://127.0.0.1:0/", *Peer().handlers(), name="house", transport={"ws": {"origins": [origin]}})
    async with server:
        argument = {"name": scenario, "url": server.addresses[0], "options": {}}
        assert await page.run(RUN, argument) == "passed"


@pytest.mark.skipif("wss" not in INSTALLED, reason="needs echostream-websocket")
async def test_over_wss_where_the_browser_trusts_the_certificate_and_not_elsewhere(
    page: Page, chromium: Chromium, origin: str, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)
    options = {"wss": {"origins": [origin]}}
    server = RpcServer("wss://127.0.0.1:0/", *Peer().handlers(), name="house", tls=pair.tls, transport=options)
    async with server:
        argument = {"name": SCENARIOS[0], "url": server.addresses[0], "options": {}}
        with pytest.raises(AssertionError, match="Does the browser trust its certificate"):
            await page.run(RUN, argument)
        trusting = chromium.open(f"{origin}/", trusting=True)
        assert await trusting.run(RUN, argument) == "passed"
        trusting.close()
