"""Tests run on asyncio's own loop, and where sockets are opened on uvloop too: below is echostream-quic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

import pytest

from plugins.quic.tests.conftest import authority, development_folder, log
from plugins.quic.tests.recording import Ends
from plugins.webtransport.tests.sessions import connect
from tests.support.loops import LoopFactory, guest_loops

__all__ = ["authority", "development_folder", "ends", "log"]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """The loops, by name."""
    return guest_loops(item, on_all=("test_conformance", "test_sharing"))


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Two connected ends, the control substream open; afterwards the rules that hold for every recorder are checked."""
    async with AsyncExitStack() as stack:
        ends = await connect(stack)
        yield ends
        ends.check_rules()
