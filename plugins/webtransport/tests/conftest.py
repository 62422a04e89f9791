"""Tests run on asyncio's own loop, and where sockets are opened on uvloop too: below is echostream-quic."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from plugins.quic.tests.conftest import Authority
from plugins.quic.tests.recording import Ends, LogLines
from plugins.webtransport.tests.sessions import connect
from tests.support.loops import LoopFactory, guest_loops


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """The loops, by name."""
    return guest_loops(item, on_all=("test_conformance", "test_sharing"))


@pytest.fixture(autouse=True, scope="session")
def development_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own development certificate out of the tests; one pair serves them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSTREAM_DEV_DIR", str(tmp_path_factory.mktemp("certificates") / "dev"))
        yield


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority of this test's own."""
    return Authority(tmp_path)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Two connected ends, the control substream open; afterwards the rules that hold for every recorder are checked."""
    async with AsyncExitStack() as stack:
        ends = await connect(stack)
        yield ends
        ends.check_rules()


@pytest.fixture
def log() -> Iterator[LogLines]:
    """What the plugin logs."""
    lines = LogLines()
    logger = logging.getLogger("echostream.quic")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)
