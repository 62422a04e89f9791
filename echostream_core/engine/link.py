"""The writing side of the control substream: small frames are joined and written together, often once per loop turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from echostream_core.transport import Connection, Substream
from echostream_core.types import Buffer

__all__ = ["BIG_BODY_BYTES", "ControlLink"]

BIG_BODY_BYTES: Final = 8_192
"""Bodies from here on are written at once and never joined: joining them cost half the rate at 16 KiB."""
FRAMES_PER_WRITE: Final = 16
"""Small frames that are written together.

With one write per loop turn alone, 64 calls in flight went to and fro as one lump, and one end slept while the other
worked. Measured on two cores, TCP: 73,000 calls/s without this limit, 118,000 with 32, 130,000 with 16 and with 8.
"""


class ControlLink:
    """Collects the control frames of one loop turn."""

    __slots__ = (
        "_call_soon",
        "_flush_bound",
        "_flush_connection",
        "_frames",
        "_on_flushed",
        "_scheduled",
        "_substream",
        "blocked",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Connection, on_flushed: Callable[[], None]) -> None:
        """``on_flushed`` runs when all frames so far have left our own queues."""
        self._call_soon = loop.call_soon
        self._flush_bound = self.flush
        self._frames: list[Buffer] = []
        self._on_flushed = on_flushed
        self._scheduled = False
        self._substream: Substream | None = None
        self._flush_connection = connection.flush
        self.blocked = False

    def attach(self, substream: Substream, first: bytes) -> None:
        """The control substream is here; ``first`` goes before everything collected so far."""
        self._substream = substream
        self._frames.insert(0, first)
        self.schedule()

    def send(self, frame: bytes) -> None:
        """Queue a small frame for the end of this loop turn."""
        frames = self._frames
        frames.append(frame)
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush_bound)
        elif len(frames) >= FRAMES_PER_WRITE and self._substream is not None:
            self._write(self._substream, frames)

    def send_big(self, head: bytes, body: bytes) -> None:
        """Write a large frame now, behind what is queued, without joining it."""
        substream = self._substream
        frames = self._frames
        if substream is None:
            frames.append(head)
            frames.append(body)
            return
        if frames:
            self._frames = []
            head = b"".join((*frames, head))
        if not substream.write((head, body)):
            self.blocked = True

    def schedule(self) -> None:
        """Flush at the end of this loop turn, also what is sent by tasks that are ready to run now."""
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._flush_bound)

    def flush(self) -> None:
        """Write everything queued."""
        self._scheduled = False
        substream = self._substream
        if substream is None:
            return
        if self._frames:
            self._write(substream, self._frames)
        if not self.blocked:
            self._on_flushed()

    def _write(self, substream: Substream, frames: list[Buffer]) -> None:
        self._frames = []
        if not substream.write((b"".join(frames),) if len(frames) > 1 else frames):
            self.blocked = True
        self._flush_connection()

    def on_writable(self) -> None:
        """The substream has room again."""
        self.blocked = False
        self._on_flushed()
