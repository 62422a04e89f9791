"""What the plugin offers, as data."""

from __future__ import annotations

from typing import Final

from echostream_core.transport import TransportSpec
from echostream_tcp.options import TcpOptions, TlsTransportOptions, UnixOptions
from echostream_tcp.tls_transport import TLS_CAPABILITIES, TlsTransport
from echostream_tcp.transport import TCP_CAPABILITIES, UNIX_CAPABILITIES, TcpTransport, UnixTransport

__all__ = ["NO_DATAGRAMS", "SPECS"]

NO_DATAGRAMS: Final = {
    "datagrams": "one ordered pipe cannot lose or reorder; quic:// has them, emulate_datagrams imitates them"
}
"""A note for every transport that is one ordered pipe."""

SPECS: Final = (
    TransportSpec(
        scheme="tcp",
        factory=TcpTransport,
        capabilities=TCP_CAPABILITIES,
        options=TcpOptions,
        summary="TCP, not encrypted: for loopback and trusted networks",
        notes=NO_DATAGRAMS,
    ),
    TransportSpec(
        scheme="tls",
        factory=TlsTransport,
        capabilities=TLS_CAPABILITIES,
        options=TlsTransportOptions,
        summary="TLS 1.2 and 1.3 over TCP, client certificates",
        notes=NO_DATAGRAMS,
    ),
    TransportSpec(
        scheme="unix",
        factory=UnixTransport,
        capabilities=UNIX_CAPABILITIES,
        options=UnixOptions,
        summary="Unix sockets: the same machine, guarded by file permissions",
        notes=NO_DATAGRAMS | {"encrypted": "bytes stay within the system; who may connect is said by the file's mode"},
    ),
)
