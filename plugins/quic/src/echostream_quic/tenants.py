"""Who listens at one port: several protocols may share it, and the handshake says which of them a dialer wants."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from aioquic.quic.configuration import QuicConfiguration

from echostream_core.errors import ConfigError
from echostream_core.transport import Acceptor
from echostream_core.types import Url
from echostream_quic._aioquic import Terms
from echostream_quic.dialect import Dialect
from echostream_quic.options import QuicOptions

__all__ = ["Tenant"]


@dataclass(frozen=True, slots=True, eq=False)
class Tenant:
    """One ``listen``: the protocol that it speaks, and what is done with its connections."""

    url: Url
    """What is listened at, as it was configured."""
    alpn: str
    route: str
    """What tells it from others of the same protocol: a path; "" where the protocol has none."""
    options: QuicOptions
    configuration: QuicConfiguration
    dialect: type[Dialect]
    accept: Acceptor

    @property
    def terms(self) -> Terms:
        """What its connections are made with."""
        return Terms(self.configuration, self.options, self.dialect.uni_streams, self.dialect.first_is_control)

    def check_beside(self, other: Tenant) -> None:
        """ConfigError when both cannot share a port: the same protocol has one configuration."""
        if self.alpn != other.alpn:
            return
        for field in msgspec.structs.fields(type(self.options)):
            name = field.encode_name
            if name in self.dialect.route_settings:
                continue
            if getattr(self.options, field.name) != getattr(other.options, field.name):
                raise ConfigError(
                    f"{self.url} and {other.url} share a port and a protocol, so they share its settings too: "
                    f"make {name} the same for both, or use another port",
                    key=name,
                )
