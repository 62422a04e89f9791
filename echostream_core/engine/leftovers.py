"""What stays of connections whose session is over: pipes in their closing handshake."""

from __future__ import annotations

import asyncio
from typing import Final

from echostream_core.engine.muxed import MuxedConnection
from echostream_core.transport import Connection

__all__ = ["Leftovers"]

PATIENCE_S: Final = 1.0
"""How long ``clear`` lets closing handshakes go on; a peer that takes longer is hung up on."""


class Leftovers:
    """The pipes of one server or client that have not ended yet although their sessions have."""

    __slots__ = ("_empty", "_pipes")

    def __init__(self) -> None:
        self._pipes: set[MuxedConnection] = set()
        self._empty: asyncio.Event | None = None

    def add(self, connection: Connection) -> None:
        """The session on ``connection`` is over."""
        if isinstance(connection, MuxedConnection) and not connection.gone:
            self._pipes.add(connection)
            connection.on_gone = self._gone

    def _gone(self, connection: MuxedConnection) -> None:
        self._pipes.discard(connection)
        if not self._pipes and self._empty is not None:
            self._empty.set()

    async def clear(self) -> None:
        """Wait until nothing is left, hanging up after ``PATIENCE_S`` seconds: who closes leaves no socket behind."""
        for hang_up in (False, True):
            if not self._pipes:
                return
            self._empty = asyncio.Event()
            for connection in list(self._pipes) if hang_up else ():
                connection.abort()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._empty.wait()
            except TimeoutError:
                continue
