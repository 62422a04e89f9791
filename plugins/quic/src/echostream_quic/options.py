"""The options of ``[transport.quic]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from echostream_core.errors import ConfigError
from echostream_core.tls_options import TlsOptions
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES, Limits

__all__ = ["MAX_DATAGRAM_BYTES", "MIN_DATAGRAM_BYTES", "QuicOptions"]

MIN_DATAGRAM_BYTES: Final = 1_200
"""What every path that carries QUIC must let through (RFC 9000 section 14)."""

MAX_DATAGRAM_BYTES: Final = 16_383
"""aioquic writes lengths of two bytes: beyond this it breaks (tried with 1.7.2)."""

_LIMITS: Final = Limits()


class QuicOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[transport.quic]``: what a listener and a dialer may set."""

    tls: TlsOptions = msgspec.field(default_factory=TlsOptions)
    """The common TLS settings. ``tls.client_ca`` is refused: see ``check``."""
    idle_timeout_s: float = 30.0
    """A connection over which nothing came for so long is lost. Both ends name theirs, the smaller holds."""
    handshake_timeout_s: float = 10.0
    """A listener forgets a handshake that has not finished by then. A dialer's patience is its caller's."""
    max_streams: int = _LIMITS.max_streams
    """Substreams that the peer may have open at once; more of them wait at the peer."""
    window_bytes: int = INITIAL_WINDOW_BYTES
    """Credit of a new substream: what its peer may send before anything is consumed."""
    max_window_bytes: int = _LIMITS.max_window_bytes
    """To what the credit of one substream may grow while its reader keeps up."""
    session_window_bytes: int = _LIMITS.session_window_bytes
    """Sum to which the credits of one connection may grow beyond their first size."""
    max_datagram_size: int = 1_452
    """Largest UDP payload, headers of QUIC included. Connections begin with 1,200 bytes, which every path
    carries, and use this much once a probe of that size has been acknowledged. 1,452 fills an Ethernet frame
    under IPv6; 8,192 is for loopback and jumbo frames."""
    max_queued_datagrams: int = 256
    """Datagrams that wait to be sent; beyond it the oldest is dropped and counted."""
    congestion: Literal["reno", "cubic"] = "reno"
    """Which of aioquic's congestion controllers decides how much may be on the way."""
    retry: Literal["auto"] | bool = "auto"
    """Whether a listener makes dialers prove their address before it does any work for them: one round trip
    more. "auto": only while many handshakes are unfinished."""
    max_handshakes: int = _LIMITS.max_unfinished_setups
    """Unfinished handshakes of a listener; what comes beyond is ignored, and the dialer tries again."""
    max_handshakes_per_address: int = _LIMITS.max_unfinished_setups_per_address
    """The same per IP address."""
    socket_buffer_bytes: int = 4_194_304
    """Asked of the system for sending and for receiving; it may grant less (``net.core.rmem_max``)."""
    offload: bool = True
    """Hand over and take many packets with one system call (UDP GSO and GRO) where the system can."""

    def check(self) -> None:
        """ConfigError, naming the key, for a value that makes no sense here."""
        if self.tls.client_ca:
            raise ConfigError(
                "tls.client_ca cannot be used over QUIC: the QUIC library has no way to verify client certificates "
                "(its private switch accepts any). Remove it, and identify clients by credentials, or listen on tls://",
                key="tls.client_ca",
            )
        self.check_ranges(_RANGES)
        if self.max_window_bytes < self.window_bytes:
            raise ConfigError("max_window_bytes must not be smaller than window_bytes", key="max_window_bytes")

    def check_ranges(self, ranges: Iterable[tuple[str, float, float]]) -> None:
        """ConfigError for a setting outside of its range, as (name, least, most)."""
        for key, least, most in ranges:
            value = getattr(self, key)
            if not least <= value <= most:
                raise ConfigError(f"{key} must be from {least} to {most}, not {value}", key=key)


_RANGES: Final = (
    ("idle_timeout_s", 0.1, 600.0),
    ("handshake_timeout_s", 0.1, 600.0),
    ("max_streams", 4, 65_536),
    ("window_bytes", 4_096, 16_777_216),
    ("max_window_bytes", 4_096, 67_108_864),
    ("session_window_bytes", 0, 1_073_741_824),
    ("max_datagram_size", MIN_DATAGRAM_BYTES, MAX_DATAGRAM_BYTES),
    ("max_queued_datagrams", 1, 65_536),
    ("max_handshakes", 1, 1_000_000),
    ("max_handshakes_per_address", 1, 1_000_000),
    ("socket_buffer_bytes", 65_536, 1_073_741_824),
)
