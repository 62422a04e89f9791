"""Every limit, by name, with its default and the reason for it.

Enforced on both sides: the sender refuses locally with an error that names the limit (``LimitExceeded``), the receiver
closes or answers with a code. What a peer may be told is in its SETUP; what it must know before is a constant here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Final

__all__ = [
    "DEFAULT_MAX_MESSAGE_BYTES",
    "INITIAL_MAX_CALLS",
    "INITIAL_WINDOW_BYTES",
    "MAX_INTERNED",
    "MAX_MUX_DATAGRAM_BYTES",
    "MAX_MUX_FRAME_BYTES",
    "Limits",
]

INITIAL_WINDOW_BYTES: Final = 65_536
"""Credit of a new muxed substream in each direction, before any CREDIT frame. Protocol constant: both sides must know
it."""

MAX_MUX_FRAME_BYTES: Final = 65_536
"""Largest body of one mux frame: a fragment holds the pipe for at most this long. Protocol constant."""

MAX_MUX_DATAGRAM_BYTES: Final = 16_384
"""Largest emulated datagram: no more than a fragment of a substream while others wait. Protocol constant."""

INITIAL_MAX_CALLS: Final = 128
"""Calls that a peer may have open before our SETUP has told it our ``max_concurrent_calls``. Protocol constant."""

MAX_INTERNED: Final = 1_024
"""Method names that each side may number per connection; then names go in full. Protocol constant: 255 KiB at the
worst."""


DEFAULT_MAX_MESSAGE_BYTES: Final = 4_194_304
"""What a peer takes whose SETUP is not here yet. Protocol constant; 4 MiB as in gRPC: larger things are streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one endpoint. Sizes in bytes, rates per second, durations in seconds."""

    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """One encoded request or response, or one item of a stream."""
    inline_max_bytes: int = 17_408
    """Encoded body of a call that travels on the control substream of a mux: 16 KiB of content and its envelope."""
    inline_max_native_bytes: int = 2_048
    """The same on native streams, where loss on the control substream delays all calls on it: about two packets."""
    max_metadata_bytes: int = 8_192
    """Encoded metadata of one call; 8 KiB as web servers allow for headers."""
    max_metadata_entries: int = 64
    max_setup_bytes: int = 16_384
    """Body of SETUP: it is read before the peer is known."""
    max_error_bytes: int = 16_384
    """Encoded error: message and details. Longer messages are cut, larger details dropped, by the sender."""
    max_concurrent_calls: int = 1_024
    """Calls of the peer open at once, in-line and on substreams; ``INITIAL_MAX_CALLS`` at least."""
    max_streams: int = 1_024
    """Substreams that the peer may have open at once. Beyond it they are refused."""
    assembly_bytes: int = 16_777_216
    """Memory per session for messages that are being assembled from substreams; a message beyond it waits."""
    max_window_bytes: int = 1_048_576
    """To what the credit window of one substream may grow: 1 MiB fills 80 Mbit/s at 100 ms."""
    session_window_bytes: int = 16_777_216
    """Sum to which the windows of one session may grow beyond their first size."""
    max_subscriptions: int = 1_024
    """Patterns of events that the peer may subscribe to, and that we subscribe to at a peer."""
    max_event_queue: int = 4_096
    """Events held back for one subscription of a slow peer; one that asks for more gets this."""
    event_queue_bytes: int = 4_194_304
    """The same in bytes, for all subscriptions of one session together. What exceeds it meets the overflow policy. Also
    what waits in bytes for one subscription of our own."""
    event_stall_s: float = 30.0
    """A peer that takes nothing of what is held for a subscription with the policy ``block`` for so long, while
    somebody waits to emit, loses its session; 0 = never."""
    max_queued_datagrams: int = 256
    """Emulated datagrams that wait for the pipe; beyond it the oldest is dropped. A transport's own have its option."""
    max_control_frames_per_s: int = 20_000
    """PING, GOAWAY, CANCEL and unknown ignorable frames per second; calls are bounded by their slots."""
    max_resets_per_s: int = 2_000
    """Substreams that the peer resets per second (rapid-reset attacks, CVE-2023-44487)."""
    setup_timeout_s: float = 10.0
    """From the transport's handshake to the peer's SETUP."""
    max_unfinished_setups: int = 1_024
    """Sessions of a listener that have not finished SETUP."""
    max_unfinished_setups_per_address: int = 128
    keepalive_interval_s: float = 20.0
    """A PING after so long without receiving anything; 0 = off. Below the 30 s of impatient NATs."""
    keepalive_timeout_s: float = 20.0
    """The session is lost when nothing comes for so long after a PING."""
    cancel_grace_s: float = 5.0
    """What a cancelled handler has to finish, keeping its slot, before it is reported."""
    default_timeout_s: float = 30.0
    """Timeout of a request that names none."""

    def check(self) -> list[str]:
        """Sentences on values that make no sense, each naming its limit; empty when all do."""
        problems = []
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                problems.append(f"{item.name} must be a number, not {value!r}")
            elif not isfinite(value) or (item.type == "int" and not isinstance(value, int)):
                kind = "whole" if item.type == "int" else "finite"
                problems.append(f"{item.name} must be a {kind} number, not {value!r}")
        if problems:
            return problems  # the rest compares numbers
        for item in fields(self):
            if getattr(self, item.name) < 0:
                problems.append(f"{item.name} must not be negative")
        for name, least in _LEAST.items():
            if 0 <= getattr(self, name) < least:
                problems.append(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.max_subscriptions > 1_024:
            problems.append("max_subscriptions must be at most 1024: one event names no more of them")
        if self.max_metadata_bytes > 65_535:
            problems.append("max_metadata_bytes must be at most 65535: its length field has 16 bits")
        if self.max_message_bytes > 0xFFFF_FFFF:
            problems.append("max_message_bytes must be below 4 GiB: its length field has 32 bits")
        if self.inline_max_bytes > self.max_message_bytes:
            problems.append("inline_max_bytes must not be larger than max_message_bytes")
        return problems

    def with_changes(self, **changes: float) -> Limits:
        """A copy with ``changes``; TypeError for a name that is no limit."""
        return replace(self, **changes)  # type: ignore[arg-type]  # names and types are checked by the caller's schema


_LEAST: Final = {
    "max_concurrent_calls": INITIAL_MAX_CALLS,
    "max_window_bytes": INITIAL_WINDOW_BYTES,
    "max_setup_bytes": 256,
    "max_error_bytes": 256,
    "max_streams": 4,
    "max_event_queue": 1,
    "max_queued_datagrams": 1,
    "max_message_bytes": 1_024,
}
