"""The transport ``quic``: what the kernel is given."""

from __future__ import annotations

from typing import Final

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError
from echostream_core.transport import Acceptor, Connection, Listener, Transport, TransportSpec
from echostream_core.types import Url
from echostream_quic.options import QuicOptions

__all__ = ["SPEC", "QuicTransport"]


class QuicTransport(Transport):
    """QUIC over UDP. aioquic and cryptography are imported with the first ``listen`` or ``dial``."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Bind the UDP port of ``url``; see the contract."""
        from echostream_quic.listener import listen

        return await listen(url, _port(url), _checked(options), accept)

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        """Connect to ``url``; see the contract."""
        from echostream_quic.dialer import dial

        if not url.host:
            raise ConfigError(f"{url} has no host to connect to: write {url.scheme}://HOST:{url.port or 4433}")
        return await dial(url, _port(url), _checked(options))

    def configured(self, options: msgspec.Struct, capabilities: Capabilities) -> Capabilities:
        """All of the upper bound. ConfigError for settings that QUIC cannot honour."""
        _checked(options)
        return capabilities


def _checked(options: msgspec.Struct) -> QuicOptions:
    checked = options if isinstance(options, QuicOptions) else QuicOptions()
    checked.check()
    return checked


def _port(url: Url) -> int:
    if url.port is None:
        raise ConfigError(f"{url} has no port: write {url.scheme}://{url.host or 'HOST'}:4433")
    if url.path not in {"", "/"}:
        raise ConfigError(f"{url}: QUIC has no paths, write {url.scheme}://{url.host}:{url.port}")
    return url.port


SPEC: Final = TransportSpec(
    scheme="quic",
    factory=QuicTransport,
    capabilities=Capabilities(
        streams="native",
        datagrams="native",
        reset=True,
        half_close=True,
        flow_control=True,
        migration=True,
        encrypted=True,
        priorities=True,
    ),
    options=QuicOptions,
    summary="QUIC over UDP: native substreams and datagrams under TLS 1.3, on aioquic",
    notes={
        "early_data": "0-RTT is off: aioquic stalls when it meets a Retry",
        "migration": "a listener follows a dialer whose address changes; a dialer keeps its socket",
        "peer_identity": "client certificates cannot be verified with aioquic: tls.client_ca is refused",
        "socket_handover": "packets of one connection would reach the wrong process",
    },
)
"""What the hook hands over."""
