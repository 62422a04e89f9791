"""The transport ``wt``: what the kernel is given."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

import msgspec

from echostream_core.transport import Acceptor, Connection, Listener, TransportSpec
from echostream_core.types import Url
from echostream_quic.transport import SPEC as QUIC
from echostream_quic.transport import QuicTransport
from echostream_webtransport.options import WebTransportOptions

__all__ = ["SPEC", "WebTransportTransport"]


class WebTransportTransport(QuicTransport):
    """WebTransport over HTTP/3. The QUIC library is imported with the first ``listen`` or ``dial``."""

    options: ClassVar[type[WebTransportOptions]] = WebTransportOptions
    takes_paths = True

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Bind the UDP port of ``url``, or share it with who has it already; see the contract."""
        from echostream_quic.listener import listen
        from echostream_webtransport.server import ServerDialect

        return await listen(url, self.port_of(url), self.checked(options), accept, ServerDialect, url.path or "/")

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        """Open a session at ``url``; see the contract."""
        from echostream_quic.dialer import dial
        from echostream_webtransport.client import ClientDialect

        checked = self.checked(options)
        assert isinstance(checked, WebTransportOptions), "checked() answers ours"
        return await dial(url, self.dialled_port_of(url), checked, partial(ClientDialect, url, checked))


SPEC: Final = TransportSpec(
    scheme="wt",
    factory=WebTransportTransport,
    capabilities=QUIC.capabilities,
    options=WebTransportOptions,
    summary="WebTransport over HTTP/3: for browsers and native clients, on the QUIC plugin's engine",
    notes=QUIC.notes | {"peer_identity": "browsers show no client certificates, and aioquic cannot verify them"},
)
"""What the hook hands over."""
