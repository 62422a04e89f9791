"""The options of ``[transport.sim]``; each end of a connection uses its own."""

from __future__ import annotations

from typing import Final

import msgspec

from echostream_core.wire.limits import INITIAL_WINDOW_BYTES, Limits

__all__ = ["SimOptions"]

_LIMITS: Final = Limits()


class SimOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[transport.sim]``: what a listener and a dialer may set. Sizes in bytes, durations in virtual seconds."""

    packet_bytes: int = 1_200
    """Largest packet, our header included. A path with a smaller MTU loses larger ones."""
    handshake_timeout_s: float = 10.0
    """How long a dialer waits for an answer, and how long a listener keeps a handshake that goes no further."""
    give_up_s: float = 60.0
    """A connection whose packets nobody has acknowledged for so long is lost. One that is silent on purpose is not:
    that is the session's keep-alive's business."""
    max_streams: int = _LIMITS.max_streams
    """Substreams that the peer may have open at once; its writes on further ones wait."""
    max_window_bytes: int = _LIMITS.max_window_bytes
    """To what the credit window of one substream may grow."""
    session_window_bytes: int = _LIMITS.session_window_bytes
    """Sum to which the windows of one connection may grow beyond their first size."""
    max_queued_datagrams: int = 256
    """Datagrams that wait to be sent; beyond it the oldest is dropped."""
    datagram_expiry_s: float = 1.0
    """A datagram that has waited for so long behind a full path is dropped: what it says is no longer news."""

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} must be from {least} to {most}, not {value}")


_RANGES: Final = (
    ("packet_bytes", 256, 65_000),
    ("handshake_timeout_s", 0.1, 3_600.0),
    ("give_up_s", 0.1, 86_400.0),
    ("max_streams", 4, 65_536),
    ("max_window_bytes", INITIAL_WINDOW_BYTES, 1_073_741_824),
    ("session_window_bytes", 0, 1_073_741_824),
    ("max_queued_datagrams", 1, 65_536),
    ("datagram_expiry_s", 0.001, 3_600.0),
)
