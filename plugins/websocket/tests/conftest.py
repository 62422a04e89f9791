"""Tests run on asyncio's own loop, and where sockets are opened on uvloop too: below is echostream-tcp."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme

from plugins.tcp.tests.recording import LogLines
from tests.support.loops import LoopFactory, guest_loops


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """The loops, by name."""
    return guest_loops(item, on_all=("test_conformance", "test_dialing", "test_ports"))


@pytest.fixture(autouse=True, scope="session")
def development_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own development certificate out of the tests; one pair serves them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSTREAM_DEV_DIR", str(tmp_path_factory.mktemp("certificates") / "dev"))
        yield


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the proxies of this machine out of the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "socks_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test leaves open."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def log() -> Iterator[LogLines]:
    """What the plugin logs."""
    lines = LogLines()
    logger = logging.getLogger("echostream.websocket")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """The paths of an authority, and of a certificate for this machine that it has signed."""
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "leaf.pem"))
    return {"ca": str(tmp_path / "ca.pem"), "leaf": str(tmp_path / "leaf.pem")}
