"""What can be configured: ``[transport.tcp]``, ``[transport.tls]`` and ``[transport.unix]``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from echostream_core.tls_options import TlsOptions

__all__ = ["TcpOptions", "TlsTransportOptions", "UnixOptions"]


class TcpOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of ``tcp://``."""

    backlog: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1_024
    """Connections that may wait to be accepted; the system has a maximum of its own (net.core.somaxconn)."""


class TlsTransportOptions(TcpOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of ``tls://``."""

    tls: TlsOptions = TlsOptions()
    """Certificates and whom to trust."""
    handshake_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """How long a TLS handshake may take, on either side, from the connection on."""
    max_handshakes: Annotated[int, msgspec.Meta(ge=1)] = 4_096
    """Unfinished handshakes of one listener; further connections are closed at once. A silent one costs about 2 KiB."""


class UnixOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of ``unix://``."""

    backlog: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1_024
    """Connections that may wait to be accepted; the system has a maximum of its own (net.core.somaxconn)."""
    mode: int = 0o600
    """Permissions of the socket file, in octal: who may write to it may connect. 0o660 admits the file's group."""

    def __post_init__(self) -> None:
        """Refuse what cannot be permissions; 660 (not 0o660) is the usual slip."""
        if not 0 <= self.mode <= 0o777:
            raise ValueError(f"mode must be octal permissions such as 0o600 or 0o660, not {self.mode}")
