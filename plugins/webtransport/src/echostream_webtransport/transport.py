"""The transport ``wt``: what the kernel is given."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError
from echostream_core.transport import Acceptor, Connection, Listener, Transport, TransportSpec
from echostream_core.types import Url
from echostream_quic.transport import SPEC as QUIC
from echostream_webtransport.options import WebTransportOptions

__all__ = ["SPEC", "WebTransportTransport"]


class WebTransportTransport(Transport):
    """WebTransport over HTTP/3. The QUIC library is imported with the first ``listen`` or ``dial``."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Bind the UDP port of ``url``, or share it with who has it already; see the contract."""
        from echostream_quic.listener import listen
        from echostream_webtransport.server import ServerDialect

        return await listen(url, _port(url), _checked(options), accept, ServerDialect, url.path or "/")

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        """Open a session at ``url``; see the contract."""
        from echostream_quic.dialer import dial
        from echostream_webtransport.client import ClientDialect

        if not url.host:
            raise ConfigError(f"{url} has no host to connect to: write {url.scheme}://HOST:{url.port or 4433}/path")
        checked = _checked(options)
        return await dial(url, _port(url), checked, partial(ClientDialect, url, checked))

    def configured(self, options: msgspec.Struct, capabilities: Capabilities) -> Capabilities:
        """All of the upper bound. ConfigError for settings that cannot be honoured."""
        _checked(options)
        return capabilities


def _checked(options: msgspec.Struct) -> WebTransportOptions:
    checked = options if isinstance(options, WebTransportOptions) else WebTransportOptions()
    checked.check()
    return checked


def _port(url: Url) -> int:
    if url.port is None:
        raise ConfigError(f"{url} has no port: write {url.scheme}://{url.host or 'HOST'}:4433{url.path}")
    return url.port


SPEC: Final = TransportSpec(
    scheme="wt",
    factory=WebTransportTransport,
    capabilities=QUIC.capabilities,
    options=WebTransportOptions,
    summary="WebTransport over HTTP/3: for browsers and native clients, on the QUIC plugin's engine",
    notes=QUIC.notes | {"peer_identity": "browsers show no client certificates, and aioquic cannot verify them"},
)
"""What the hook hands over."""
