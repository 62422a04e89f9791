"""EchoStream over WebSocket (``ws://`` and ``wss://``): through proxies, from browsers, on HTTP ports."""

from __future__ import annotations

from collections.abc import Sequence

from echostream_core.hookspecs import hookimpl
from echostream_core.transport import TransportSpec
from echostream_websocket.specs import SPECS


@hookimpl
def echostream_transports() -> Sequence[TransportSpec]:
    """Offer the two schemes."""
    return SPECS
