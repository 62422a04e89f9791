"""What the plugin offers, as data."""

from __future__ import annotations

from typing import Final

from echostream_core.transport import TransportSpec
from echostream_tcp.specs import NO_DATAGRAMS
from echostream_websocket.options import WsOptions, WssOptions
from echostream_websocket.transport import WS_CAPABILITIES, WSS_CAPABILITIES, WssTransport, WsTransport

__all__ = ["SPECS"]

SPECS: Final = (
    TransportSpec(
        scheme="ws",
        factory=WsTransport,
        capabilities=WS_CAPABILITIES,
        options=WsOptions,
        summary="WebSocket, not encrypted: for loopback, and behind a proxy that does TLS",
        notes=NO_DATAGRAMS,
    ),
    TransportSpec(
        scheme="wss",
        factory=WssTransport,
        capabilities=WSS_CAPABILITIES,
        options=WssOptions,
        summary="WebSocket over TLS: browsers, proxies, HTTP ports",
        notes=NO_DATAGRAMS,
    ),
)
