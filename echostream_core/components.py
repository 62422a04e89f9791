"""Every other kind of thing that a plugin can provide, in one shape.

Kinds that the kernel itself looks up: ``authenticator`` (factory(options) → :data:`Authenticator`), ``compression``
(offered with ``CompressionSpec``), ``command`` (factory(application) adds commands to the command line), ``extension``,
``resource``, ``config_resolver``, ``check``.
A plugin may declare kinds of its own; other plugins then provide for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from echostream_core.transport import NoOptions

__all__ = ["Authenticator", "ComponentSpec", "Credentials", "PeerInfo"]

Credentials = Mapping[str, str]
"""What a dialer sends in SETUP, for instance ``{"token": "…"}``. Never logged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """What is known of a peer before it is authenticated."""

    address: str
    """The peer's end as a URL."""
    transport_identity: str | None
    """Who the transport says it is (a verified certificate), or None."""
    encrypted: bool


Authenticator = Callable[[Credentials, PeerInfo], Awaitable[str | None]]
"""Answers the peer's identity (None: anonymous is fine), or raises RpcError(UNAUTHENTICATED or PERMISSION_DENIED)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """What the hook ``echostream_components`` hands over: one per (kind, name)."""

    kind: str
    """Lower-case words joined by underscores; the index group is ``echostream.v1.<kind>``."""
    name: str
    factory: Callable[..., object]
    """Called as its kind demands."""
    options: type[msgspec.Struct] = NoOptions
    """The schema of ``[<kind>.<name>]``."""
    summary: str = ""
