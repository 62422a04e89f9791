"""What the demo's server serves: an ordinary service module, named in the ``services`` of its configuration.

Nothing here knows which transport or codec carries a call.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final, TypedDict

from echostream_core import Context, RpcError, StatusCode, Stream, handler, service, stream_handler

__all__ = ["Demo", "Receipt"]

GREETINGS: Final = {"de": "Guten Tag", "en": "Good day", "fr": "Bonjour", "ja": "Konnichiwa"}
HOLD_S: Final = 60.0
"""How long a held call would run if nobody ended it: longer than the whole demo waits for anything."""
MAX_TICKETS: Final = 1000


class Receipt(TypedDict):
    """What the receiving end says of a file."""

    bytes: int
    sha256: str


class _Held:
    """One call of ``demo.hold``: whether it runs, and how it ended."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.outcome = ""


@service("demo")
class Demo:
    """Calls in both directions, a call to be cancelled, and a file's reception."""

    def __init__(self) -> None:
        """Nothing is held."""
        self._held: dict[str, _Held] = {}

    @handler
    async def echo(self, payload: object) -> object:
        """Send the payload back."""
        return payload

    @handler
    async def greet(self, name: str, ctx: Context) -> str:
        """Greet the caller in its language, for which it is called back."""
        language = await ctx.session.request("visitor.language", returns=str)
        return f"{GREETINGS[language]}, {name}!"

    @handler
    async def hold(self, ticket: str) -> None:
        """Do nothing for a long time; ``fate`` tells how it ended."""
        held = self._ticket(ticket)
        held.started.set()
        try:
            await asyncio.sleep(HOLD_S)
        except asyncio.CancelledError:
            held.outcome = "cancelled"
            raise
        else:
            held.outcome = "finished"
        finally:
            held.ended.set()

    @handler
    async def held(self, ticket: str) -> None:
        """Return once ``hold`` is running with that ticket."""
        await self._ticket(ticket).started.wait()

    @handler
    async def fate(self, ticket: str) -> str:
        """How ``hold`` ended: ``cancelled`` or ``finished``; waits for it."""
        held = self._ticket(ticket)
        await held.ended.wait()
        self._held.pop(ticket, None)
        return held.outcome

    @stream_handler
    async def upload(self, stream: Stream, name: str, size: int) -> Receipt:
        """Receive a file in chunks, and answer with what arrived: its length and SHA-256."""
        digest = hashlib.sha256()
        received = 0
        async for chunk in stream:
            chunk = self.receive(chunk)
            digest.update(chunk)
            received += len(chunk)
        return {"bytes": received, "sha256": digest.hexdigest()}

    def receive(self, chunk: bytes) -> bytes:
        """Each chunk passes here; a test overrides it to damage one."""
        return chunk

    def _ticket(self, ticket: str) -> _Held:
        if ticket not in self._held and len(self._held) >= MAX_TICKETS:
            raise RpcError(StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_TICKETS} tickets are open")
        return self._held.setdefault(ticket, _Held())
