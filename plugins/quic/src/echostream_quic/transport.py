"""The transport ``quic``: what the kernel is given."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError
from echostream_core.transport import Acceptor, Connection, Listener, Transport, TransportSpec
from echostream_core.types import Url
from echostream_quic.options import QuicOptions

__all__ = ["SPEC", "QuicTransport"]


class QuicTransport(Transport):
    """QUIC over UDP. aioquic and cryptography are imported with the first ``listen`` or ``dial``."""

    options: ClassVar[type[QuicOptions]] = QuicOptions
    """The schema of the section; a guest's is a subclass."""
    takes_paths: ClassVar[bool] = False

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Bind the UDP port of ``url``; see the contract."""
        from echostream_quic.listener import listen

        return await listen(url, self.port_of(url), self.checked(options), accept)

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        """Connect to ``url``; see the contract."""
        from echostream_quic.dialer import dial

        return await dial(url, self.dialled_port_of(url), self.checked(options))

    def configured(self, options: msgspec.Struct, capabilities: Capabilities) -> Capabilities:
        """All of the upper bound. ConfigError for settings that QUIC cannot honour."""
        self.checked(options)
        return capabilities

    def checked(self, options: msgspec.Struct) -> QuicOptions:
        """``options`` as ours; ConfigError for settings that make no sense."""
        checked = options if isinstance(options, self.options) else self.options()
        checked.check()
        return checked

    def port_of(self, url: Url) -> int:
        """The port of ``url``; ConfigError says what is wrong with the URL."""
        if url.port is None:
            path = url.path if self.takes_paths else ""
            raise ConfigError(f"{url} has no port: write {url.scheme}://{url.host or 'HOST'}:4433{path}")
        if not self.takes_paths and url.path not in {"", "/"}:
            raise ConfigError(f"{url}: QUIC has no paths, write {url.scheme}://{url.host}:{url.port}")
        return url.port

    def dialled_port_of(self, url: Url) -> int:
        """The same for a URL to connect to, which needs a host too."""
        if not url.host:
            path = url.path if self.takes_paths else ""
            raise ConfigError(f"{url} has no host to connect to: write {url.scheme}://HOST:{url.port or 4433}{path}")
        return self.port_of(url)


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
