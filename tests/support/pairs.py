"""A server and a client that are connected, and what must be left when all calls between them are over: nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from echostream_core import RpcClient, RpcServer, Session
from tests.support.waiting import until

__all__ = ["Pair", "connected", "leftovers", "memory_url"]

_numbers = count(1)


def memory_url() -> str:
    """A name that no other test uses."""
    return f"memory://test-{next(_numbers)}"


@dataclass
class Pair:
    """Both ends."""

    server: RpcServer
    client: RpcClient

    @property
    def near(self) -> Session:
        """The client's session."""
        return self.client.session

    @property
    def far(self) -> Session:
        """The server's session, the only one."""
        (session,) = self.server.sessions
        return session

    async def ready(self) -> None:
        """Wait until both ends have the other's SETUP."""
        await self.client.ping()
        await until(lambda: self.server.sessions)

    async def at_rest(self) -> None:
        """Wait until nothing is left of any call, at both ends; where something stays, the test runs into its limit."""
        await self.client.ping()
        sessions = [self.near, *self.server.sessions]
        await until(lambda: not any(leftovers(session) for session in sessions))


def leftovers(session: Session) -> dict[str, int]:
    """What ``session`` still keeps of calls and streams, by name; empty when all is over.

    The only place in the tests that looks into the engine's tables.
    """
    outgoing: Any = session.outgoing
    incoming: Any = session.incoming
    kept = {
        "pending calls": len(outgoing._pending),
        "waiting for a slot": len(outgoing.slots.waiters or ()),
        "handlers": incoming.running,
        "backlog": len(incoming._backlog or ()),
        "streams": len(session._streams or ()),
        "assembly": session.budget.used,
    }
    if not session.closed.done():  # the books of an ended session are not kept
        kept["slots of ours"] = outgoing.slots.used
        kept["calls open"] = incoming._open
        kept["messages coming in"] = incoming.assembling
    return {name: value for name, value in kept.items() if value}


@asynccontextmanager
async def connected(
    *handlers: object,
    url: str = "",
    client_handlers: tuple[object, ...] = (),
    server: Mapping[str, Any] | None = None,
    client: Mapping[str, Any] | None = None,
) -> AsyncIterator[Pair]:
    """A server with ``handlers`` on ``url`` (default: memory) and one client; closed at the end, at once."""
    async with RpcServer(url or memory_url(), *handlers, **(server or {})) as listening:
        pair = None
        try:
            options = {"reconnect": False, **(client or {})}  # a test looks at one session, not at the next
            async with RpcClient.connect(listening.addresses[0], *client_handlers, **options) as dialling:
                pair = Pair(listening, dialling)
                yield pair
        finally:
            await listening.close(drain=0.0)
