"""Both backplanes pass the suite that this package ships."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from echostream_rooms import Backplane, MemoryBackplane, SqliteBackplane, SqliteOptions
from echostream_rooms.testing import BackplaneConformance

LOOPS = ("asyncio", "uvloop")


class TestMemory(BackplaneConformance):
    """One object serves all nodes."""

    @asynccontextmanager
    async def nodes(self) -> AsyncIterator[tuple[Backplane, Backplane]]:
        shared = MemoryBackplane()
        yield shared, shared
        await shared.close()


class TestSqlite(BackplaneConformance):
    """Two objects, as two processes would have, that share a file."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = str(tmp_path / "rooms.db")

    @asynccontextmanager
    async def nodes(self) -> AsyncIterator[tuple[Backplane, Backplane]]:
        options = SqliteOptions(path=self.path, poll_interval_s=0.01)
        one, two = SqliteBackplane(options), SqliteBackplane(options)
        yield one, two
        await one.close()
        await two.close()
