"""EchoStream over WebTransport: the plugin's hooks."""

from __future__ import annotations

from collections.abc import Sequence

from echostream_core.hookspecs import hookimpl
from echostream_core.transport import TransportSpec
from echostream_webtransport.transport import SPEC

__all__ = ["echostream_transports"]


@hookimpl
def echostream_transports() -> Sequence[TransportSpec]:
    """Offer ``wt``."""
    return [SPEC]
