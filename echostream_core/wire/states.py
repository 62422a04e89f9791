"""The legal moves, as tables: what is absent is an error.

``NEXT`` is the life of a session; ``LEGAL`` says which frames may travel on which kind of substream, and from which
end. Both are drawn in docs/wire.md. Source: docs/wire.md sections 3 and 8.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from echostream_core.wire.frames import FrameType, SubstreamKind

__all__ = ["LEGAL", "NEXT", "By", "Move", "State"]


class State(Enum):
    """Where a session is in its life."""

    OPENING = "opening"
    """The connection stands; the peer's SETUP is not here or not accepted yet."""
    OPEN = "open"
    DRAINING = "draining"
    """A GOAWAY went one way or the other: running calls finish, refused ones do not start."""
    CLOSED = "closed"


class Move(Enum):
    """What changes a session's state."""

    SETUP_ACCEPTED = "setup accepted"
    GOAWAY_SENT = "goaway sent"
    GOAWAY_RECEIVED = "goaway received"
    CLOSED = "closed"


NEXT: Final[dict[tuple[State, Move], State]] = {
    (State.OPENING, Move.SETUP_ACCEPTED): State.OPEN,
    (State.OPENING, Move.GOAWAY_SENT): State.DRAINING,
    (State.OPENING, Move.CLOSED): State.CLOSED,
    (State.OPEN, Move.GOAWAY_SENT): State.DRAINING,
    (State.OPEN, Move.GOAWAY_RECEIVED): State.DRAINING,
    (State.OPEN, Move.CLOSED): State.CLOSED,
    (State.DRAINING, Move.SETUP_ACCEPTED): State.DRAINING,
    (State.DRAINING, Move.GOAWAY_SENT): State.DRAINING,
    (State.DRAINING, Move.GOAWAY_RECEIVED): State.DRAINING,
    (State.DRAINING, Move.CLOSED): State.CLOSED,
}


class By(Enum):
    """Which end of a substream writes."""

    OPENER = "opener"
    ACCEPTOR = "acceptor"


_CONTROL: Final = frozenset(
    {
        FrameType.SETUP,
        FrameType.CALL,
        FrameType.RESPONSE,
        FrameType.CANCEL,
        FrameType.PING,
        FrameType.PONG,
        FrameType.GOAWAY,
        FrameType.FLOW,
        FrameType.SYNCED,
    }
)

LEGAL: Final[dict[tuple[SubstreamKind, By], frozenset[int]]] = {
    (SubstreamKind.CONTROL, By.OPENER): _CONTROL,
    (SubstreamKind.CONTROL, By.ACCEPTOR): _CONTROL,
    (SubstreamKind.CALL, By.OPENER): frozenset({FrameType.CALL}),
    (SubstreamKind.CALL, By.ACCEPTOR): frozenset({FrameType.RESPONSE}),
    (SubstreamKind.STREAM, By.OPENER): frozenset({FrameType.CALL, FrameType.DATA}),
    (SubstreamKind.STREAM, By.ACCEPTOR): frozenset({FrameType.DATA, FrameType.RESPONSE}),
    (SubstreamKind.EVENTS, By.OPENER): frozenset({FrameType.EVENT, FrameType.TOPIC, FrameType.DROPPED, FrameType.SYNC}),
    (SubstreamKind.EVENTS, By.ACCEPTOR): frozenset(),
    (SubstreamKind.RESPONSE, By.OPENER): frozenset({FrameType.RESPONSE}),
    (SubstreamKind.RESPONSE, By.ACCEPTOR): frozenset(),
}
