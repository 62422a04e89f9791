"""The health service: whether this endpoint, or one of its services, takes calls.

``echostream.health.status`` answers once, ``echostream.health.watch`` answers now and at every change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from echostream_core.engine.handlers import handler, service
from echostream_core.errors import RpcError, StatusCode

__all__ = ["Health"]


@service("echostream.health")
class Health:
    """Keeps the status of the endpoint ("") and of services by name: ``SERVING`` or ``NOT_SERVING``."""

    def __init__(self) -> None:
        """The endpoint serves; no service is known."""
        self._status: dict[str, str] = {"": "SERVING"}
        self._watchers: set[asyncio.Event] = set()
        self._stopping = False

    def set(self, status: str, service: str = "") -> None:
        """Change the status of ``service`` ("": the whole endpoint) and tell those who watch."""
        self._status[service] = status
        for event in self._watchers:
            event.set()

    def shutdown(self) -> None:
        """The endpoint is stopping: NOT_SERVING is the last that watchers hear."""
        self._stopping = True
        self.set("NOT_SERVING")

    def revive(self) -> None:
        """The endpoint serves (again)."""
        self._stopping = False
        self.set("SERVING")

    @handler
    def status(self, service: str = "") -> dict[str, str]:
        """``{"status": "SERVING" | "NOT_SERVING"}``; NOT_FOUND for a service that was never set."""
        if service not in self._status:
            raise RpcError(StatusCode.NOT_FOUND, f"no health is kept for {service!r}")
        whole = self._status[""]
        return {"status": self._status[service] if whole == "SERVING" else whole}

    @handler
    async def watch(self, service: str = "") -> AsyncIterator[dict[str, str]]:
        """The status now, and again at every change."""
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            last: dict[str, str] | None = None
            while True:
                event.clear()
                now = self.status(service)
                if now != last:
                    last = now
                    yield now
                if self._stopping:
                    return
                await event.wait()
        finally:
            self._watchers.discard(event)
