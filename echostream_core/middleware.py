"""The middleware contract: a function around a function, the same shape on server and client.

``async def mw(call: Call, next: Handler) -> Reply``. The functions listed for an endpoint are compiled into one chain
when the endpoint is built: the first one listed is the outermost, it sees a call first and its reply last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from echostream_core.transport import NoOptions

if TYPE_CHECKING:
    from echostream_core.engine.context import Context

__all__ = ["Call", "Handler", "Metadata", "Middleware", "MiddlewareSpec", "Reply", "compile_chain"]

Metadata = Sequence[tuple[str, str | bytes]]
"""Pairs of lower-case ASCII key and text; bytes where the key ends in ``-bin``."""


@dataclass(slots=True)
class Call:
    """One call on its way through the chain."""

    method: str
    """The full name, ``calc.square``."""
    payload: object
    """On the server as decoded, before it is bound to the handler's parameters; on the client as given."""
    side: Literal["server", "client"]
    metadata: list[tuple[str, str | bytes]] = field(default_factory=list)
    timeout: float | None = None
    """Seconds left when the call entered the chain; None: no deadline."""
    context: Context | None = None
    """The handler's context on the server; None on the client."""
    state: MutableMapping[str, object] = field(default_factory=dict)
    """Shared along the chain, and with the handler as ``ctx.state``."""


@dataclass(slots=True)
class Reply:
    """What came of a call that succeeded; a failed one is an RpcError raised through the chain."""

    value: object


Handler = Callable[[Call], Awaitable[Reply]]
Middleware = Callable[[Call, Handler], Awaitable[Reply]]


def compile_chain(middleware: Sequence[Middleware], innermost: Handler) -> Handler:
    """One handler that runs ``middleware`` from first to last around ``innermost``."""
    chain = innermost
    for layer in reversed(middleware):
        chain = _wrap(layer, chain)
    return chain


def _wrap(layer: Middleware, inner: Handler) -> Handler:
    async def call_layer(call: Call) -> Reply:
        return await layer(call, inner)

    return call_layer


@dataclass(frozen=True, slots=True, kw_only=True)
class MiddlewareSpec:
    """What the hook ``echostream_middleware`` hands over: one per name."""

    name: str
    factory: Callable[[Any], Middleware]
    """Makes the function from its validated options, the section ``[middleware.NAME]``."""
    options: type[msgspec.Struct] = NoOptions
    summary: str = ""
