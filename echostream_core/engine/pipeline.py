"""What an endpoint compiles once, and a session keeps from its beginning to its end."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from echostream_core.codec import Codec
from echostream_core.components import Authenticator
from echostream_core.compression import Compression
from echostream_core.engine.datagram_handlers import DatagramHandler
from echostream_core.engine.handlers import Route
from echostream_core.engine.listeners import Listener
from echostream_core.middleware import Middleware
from echostream_core.wire.limits import Limits

__all__ = ["Pipeline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Handlers, codecs, chain and limits of one endpoint: immutable; a change makes a new one for new sessions."""

    routes: Mapping[str, Route]
    codecs: tuple[Codec, ...]
    """In order of preference; one named ``json`` is always among them."""
    compression: tuple[Compression, ...] = ()
    """In order of preference; empty: messages are sent as they are."""
    listeners: tuple[Listener, ...] = ()
    """What takes the peer's events from the beginning."""
    datagram_handlers: Mapping[int, DatagramHandler] = field(default_factory=dict)
    """What takes the peer's datagrams from the beginning, by channel."""
    limits: Limits = field(default_factory=Limits)
    server_middleware: tuple[Middleware, ...] = ()
    client_middleware: tuple[Middleware, ...] = ()
    authenticator: Authenticator | None = None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What our SETUP carries; empty on a server."""
    name: str = ""
    """The endpoint's name, told to the peer for its logs."""
    reflection: Literal["auto", "on", "off"] = "auto"
    randomness: random.Random = field(default_factory=random.Random, repr=False)
    """For grease, ids and jitter."""
