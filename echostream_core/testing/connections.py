"""A transport's yield as the engine sees it: for tests that stand in the session's place."""

from __future__ import annotations

from typing import Literal

from echostream_core.engine.muxed import MuxedConnection
from echostream_core.transport import Connection, Pipe
from echostream_core.wire.limits import Limits

__all__ = ["as_connection"]


def as_connection(
    made: Connection | Pipe, role: Literal["listener", "dialer"], *, limits: Limits | None = None
) -> Connection:
    """``made`` itself, or the kernel's mux on top of it when it is a pipe. Call its ``start`` next."""
    if isinstance(made, Pipe):
        return MuxedConnection(made, role, limits=limits or Limits())
    return made
