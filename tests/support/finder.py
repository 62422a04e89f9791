"""A discovery backend within the test: a table of endpoints, and everything that was asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from echostream_core.discovery import Announcement, Discovery, Endpoint
from echostream_core.errors import TransportError

__all__ = ["Directory", "Medium"]


class Medium:
    """What is announced, seen by every ``Directory`` on it. ``broken``: no backend reaches it."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self.broken = False
        self.watchers: set[asyncio.Event] = set()

    def put(self, *endpoints: Endpoint) -> None:
        """Let these be all that is announced."""
        self.endpoints = list(endpoints)
        for watcher in self.watchers:
            watcher.set()


class Directory(Discovery):
    """One backend object; it drops what it is told to suspect when that is in ``stale``."""

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.suspected: list[str] = []
        self.stale: set[str] = set()
        self.closed = False

    async def announce(self, endpoint: Endpoint) -> Announcement:
        if self.medium.broken:
            raise TransportError("the medium is broken")
        names = {known.instance for known in self.medium.endpoints}
        if endpoint.instance in names:
            endpoint = replace(endpoint, instance=f"{endpoint.instance}-2")
        return _Announced(self.medium, endpoint)

    def watch(self, service: str | None = None) -> AsyncIterator[Sequence[Endpoint]]:
        return self._watch(service)

    async def _watch(self, service: str | None) -> AsyncIterator[Sequence[Endpoint]]:
        if self.medium.broken:
            raise TransportError("the medium is broken")
        changed = asyncio.Event()
        self.medium.watchers.add(changed)
        try:
            while True:
                changed.clear()
                yield [one for one in self.medium.endpoints if service is None or one.service == service]
                await changed.wait()
        finally:
            self.medium.watchers.discard(changed)

    async def suspect(self, endpoint: Endpoint) -> None:
        self.suspected.append(endpoint.instance)
        if endpoint.instance in self.stale:
            self.medium.put(*(one for one in self.medium.endpoints if one.instance != endpoint.instance))

    async def close(self) -> None:
        self.closed = True


class _Announced(Announcement):
    def __init__(self, medium: Medium, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._medium = medium
        medium.put(*medium.endpoints, endpoint)

    async def update(self, endpoint: Endpoint) -> None:
        if self._medium.broken:
            raise TransportError("the medium is broken")
        others = [one for one in self._medium.endpoints if one.instance != self.endpoint.instance]
        self.endpoint = endpoint
        self._medium.put(*others, endpoint)

    async def withdraw(self) -> None:
        self._medium.put(*(one for one in self._medium.endpoints if one.instance != self.endpoint.instance))
