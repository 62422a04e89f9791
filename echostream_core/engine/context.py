"""What a handler knows of its call, and what its nested calls inherit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Protocol

from echostream_core.types import Priority

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["CURRENT", "Context", "Responder", "inherited"]

CURRENT: Final[ContextVar[Context | None]] = ContextVar("echostream_context", default=None)
"""The context of the handler that is running, if any. Nested calls inherit deadline and class from it."""

_logger = logging.getLogger("echostream.handler")


class Responder(Protocol):
    """Where the final frame of a call goes that does not travel in-line."""

    def respond(self, context: Context, flags: int, codec: int, body: bytes) -> bool:
        """Write the final frame. False: it waits for credit, ``Incoming.released`` is called when it has gone."""


class Context:
    """One call as its handler sees it. Ask for it by annotating a parameter with ``Context``."""

    __slots__ = (
        "_begun",
        "_cancelled",
        "_codec",
        "_ended",
        "_metadata",
        "_patience",
        "_responder",
        "_state",
        "_task",
        "deadline",
        "method",
        "number",
        "priority",
        "session",
    )

    def __init__(
        self,
        session: Session,
        number: int,
        method: str,
        deadline: float | None,
        priority: int,
        metadata: list[tuple[str, str | bytes]] | None,
        codec: int = 0,
        responder: Responder | None = None,
    ) -> None:
        """Made by the engine: it is the engine's record of the running call as well."""
        self.session = session
        """The peer that called: it can be called back."""
        self.number = number
        """The call's number within the session; for logs."""
        self.method = method
        """The full name that was called."""
        self.deadline = deadline
        """When the caller stops waiting, in ``loop.time()`` seconds; None: never."""
        self.priority = priority
        """The class that the call came with."""
        self._metadata = metadata
        self._state: MutableMapping[str, object] | None = None
        self._ended = False
        self._begun = False
        self._cancelled = False
        self._patience = 0.0
        self._task: asyncio.Task[None] | None = None
        self._codec = codec
        self._responder = responder

    @property
    def metadata(self) -> dict[str, str | bytes]:
        """What the caller sent beside the payload; the last value where a key stands twice."""
        return dict(self._metadata) if self._metadata else {}

    @property
    def metadata_pairs(self) -> list[tuple[str, str | bytes]]:
        """The metadata as it came: in order, repeated keys kept."""
        return list(self._metadata or ())

    @property
    def state(self) -> MutableMapping[str, object]:
        """A mapping shared along the middleware chain and with the handler."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def peer_identity(self) -> str | None:
        """Who the peer is, proved by the transport or the authenticator; None when nobody has."""
        return self.session.peer_identity

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that knows the method and the peer."""
        extra = {"method": self.method, "peer": self.session.peer, "call": self.number}
        return logging.LoggerAdapter(_logger, extra)

    def remaining(self) -> float | None:
        """Seconds until the deadline, 0.0 when it is over; None without a deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Calls made inside the ``with`` inherit nothing from this one."""
        token = CURRENT.set(None)
        try:
            yield
        finally:
            CURRENT.reset(token)

    @property
    def ended(self) -> bool:
        """True once the handler has returned: what it left running inherits nothing any more."""
        return self._ended


def inherited(context: Context | None) -> tuple[float | None, int]:
    """Deadline and class that a call made now inherits from ``context`` (``CURRENT.get()``)."""
    if context is None or context._ended:
        return None, Priority.NORMAL
    return context.deadline, context.priority
