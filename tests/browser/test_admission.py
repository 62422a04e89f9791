"""Who gets in over WebTransport and who does not, by the server's choice or the browser's. The server goes on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any, Literal

import pytest

from echostream_core import Kernel
from tests.browser.certificates import Pair, make_pair
from tests.browser.chromium import Chromium, Page
from tests.browser.endpoint import Endpoint, listening

pytestmark = pytest.mark.skipif("wt" not in Kernel().known("transport"), reason="needs echostream-webtransport")

URL = "wt://127.0.0.1:0/test"


class Visitor:
    """A page that tries to connect."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def _run(self, name: str, url: str, pair: Pair, **argument: object) -> Any:
        body = f'return (await import("/tests/webtransport.mjs")).{name}(argument)'
        return await self._page.run(body, {"url": url, "hash": pair.fingerprint, **argument})

    async def is_refused(self, url: str, pair: Pair) -> None:
        failure = await self._run("refused", url, pair)
        # No more than this is told to a page, whatever the reason: else pages could look around in a network.
        assert failure == {
            "name": "WebTransportError",
            "source": "session",
            "code": None,
            "message": "Opening handshake failed.",
        }

    async def is_served(self, endpoint: Endpoint, pair: Pair) -> None:
        assert await self._run("echo", endpoint.url, pair, message="in") == "in"


@pytest.fixture
def visitor(page: Page) -> Visitor:
    """A page at ``origin``."""
    return Visitor(page)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A certificate that browsers accept by its hash."""
    return make_pair(tmp_path)


async def test_a_page_from_elsewhere(visitor: Visitor, pair: Pair, origin: str) -> None:
    async with listening(URL, {"tls": pair.tls, "origins": ["https://example.org"]}) as endpoint:
        await visitor.is_refused(endpoint.url, pair)
        assert endpoint.peers == []
    async with listening(URL, {"tls": pair.tls, "origins": ["https://example.org", origin]}, echoes=True) as endpoint:
        await visitor.is_served(endpoint, pair)


async def test_by_default_a_page_from_another_host(
    visitor: Visitor, pair: Pair, chromium: Chromium, origin: str
) -> None:
    async with listening(URL, {"tls": pair.tls}, echoes=True) as endpoint:
        page = chromium.open(f"{origin.replace('127.0.0.1', 'localhost')}/")
        await Visitor(page).is_refused(endpoint.url, pair)
        page.close()
        assert endpoint.peers == []
        await visitor.is_served(endpoint, pair)


async def test_at_a_path_that_nobody_listens_at(visitor: Visitor, pair: Pair, origin: str) -> None:
    async with listening(URL, {"tls": pair.tls, "origins": [origin]}, echoes=True) as endpoint:
        await visitor.is_refused(endpoint.url.replace("/test", "/nowhere"), pair)
        await visitor.is_served(endpoint, pair)


async def test_with_the_hash_of_another_certificate(
    visitor: Visitor, pair: Pair, origin: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with listening(URL, {"tls": pair.tls, "origins": [origin]}, echoes=True) as endpoint:
        await visitor.is_refused(endpoint.url, make_pair(tmp_path_factory.mktemp("other")))
        await visitor.is_served(endpoint, pair)


async def test_what_the_command_line_makes_is_accepted(visitor: Visitor, origin: str, tmp_path: Path) -> None:
    pytest.importorskip("echostream_cli", reason="the command is echostream-cli's")
    pytest.importorskip("echostream_certs", reason="the command makes a certificate")
    command = [sys.executable, "-m", "echostream_cli", "cert", "browser", "--out", str(tmp_path), "--json"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=60)
    made = json.loads(done.stdout)
    pair = Pair(made["certificate"], made["private_key"], made["sha256_base64"])
    async with listening(URL, {"tls": pair.tls, "origins": [origin]}, echoes=True) as endpoint:
        await visitor.is_served(endpoint, pair)


async def test_the_development_certificate_is_accepted(visitor: Visitor, origin: str, dev_certificates: Path) -> None:
    certs = pytest.importorskip("echostream_certs", reason="tls.dev needs echostream-certs")
    async with listening(URL, {"tls": {"dev": True}, "origins": [origin]}, echoes=True) as endpoint:
        digest = bytes.fromhex(certs.development_pair().pin.removeprefix("sha256:"))
        await visitor.is_served(endpoint, Pair("", "", b64encode(digest).decode()))


@pytest.mark.parametrize(("days", "key", "accepted"), [(14, "ecdsa", True), (15, "ecdsa", False), (13, "rsa", False)])
async def test_the_browser_wants_ecdsa_and_fourteen_days_at_most(
    visitor: Visitor, tmp_path: Path, origin: str, days: float, key: Literal["ecdsa", "rsa"], *, accepted: bool
) -> None:
    pair = make_pair(tmp_path, days=days, key=key)
    async with listening(URL, {"tls": pair.tls, "origins": [origin]}, echoes=True) as endpoint:
        if accepted:
            await visitor.is_served(endpoint, pair)
        else:
            await visitor.is_refused(endpoint.url, pair)
            assert endpoint.peers == []
