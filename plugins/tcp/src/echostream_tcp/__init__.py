"""EchoStream over TCP (``tcp://``), TLS (``tls://``) and Unix sockets (``unix://``)."""

from __future__ import annotations

from collections.abc import Sequence

from echostream_core.hookspecs import hookimpl
from echostream_core.transport import TransportSpec
from echostream_tcp.specs import SPECS


@hookimpl
def echostream_transports() -> Sequence[TransportSpec]:
    """Offer the three schemes."""
    return SPECS
