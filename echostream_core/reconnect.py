"""When to dial again after a session was lost: full jitter, so that clients that lost one server do not come as one.

Source: "Exponential backoff and jitter" (AWS Architecture Blog, 2015), the variant "full jitter".
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from echostream_core.errors import CloseCode, ConfigError, ConnectionLost, EchoStreamError, RemoteProtocolError

__all__ = ["Reconnect", "is_permanent"]

_PERMANENT: Final = frozenset({CloseCode.UNAUTHENTICATED, CloseCode.VERSION, CloseCode.PROTOCOL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """How a client dials again. The pause before attempt ``n`` (from 0) is drawn evenly from 0 to
    ``min(max_delay, initial_delay * 2**n)`` seconds.
    """

    initial_delay: float = 0.5
    """Longest pause before the first attempt; also that one is drawn, or ten thousand clients come back at once."""
    max_delay: float = 30.0
    """Longest pause before any."""
    attempts: int | None = None
    """Give up after so many attempts in vain; None: never."""

    def __post_init__(self) -> None:
        if not 0 < self.initial_delay <= self.max_delay:
            raise ConfigError(
                f"reconnect: initial_delay ({self.initial_delay}) must be above 0 and not above max_delay "
                f"({self.max_delay})"
            )
        if self.attempts is not None and self.attempts < 1:
            raise ConfigError(f"reconnect: attempts must be 1 or more, not {self.attempts}: False switches it off")

    def delays(self, randomness: random.Random) -> Iterator[float]:
        """The pauses before the attempts, in seconds; ends when it is time to give up."""
        number = 0
        ceiling = self.initial_delay
        while self.attempts is None or number < self.attempts:
            yield randomness.uniform(0, ceiling)
            ceiling = min(2 * ceiling, self.max_delay)
            number += 1


def is_permanent(error: EchoStreamError | None) -> bool:
    """True when the peer would end the next session for the same reason: who we are, or what we speak."""
    code = error.close_code if isinstance(error, (ConnectionLost, RemoteProtocolError)) else None
    return code in _PERMANENT
