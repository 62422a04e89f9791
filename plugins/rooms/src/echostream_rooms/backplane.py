"""The contract behind the rooms: where messages are kept, and how the nodes that share a room hear of each other.

A *node* is one ``Rooms`` object. Each room has a log: messages with offsets 1, 2, 3 …, of which the newest are kept.
The log has an *epoch*, a name that changes whenever the offsets begin anew; an offset means something in its epoch
only. Beside the log there are *signals*, which are handed on and not kept, and the list of members.
``echostream_rooms.testing`` has the suite that a backplane must pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from echostream_core import RpcError, StatusCode

__all__ = ["Backplane", "BackplaneError", "Page", "Receive", "Record", "Retention"]


class BackplaneError(RpcError):
    """The backplane cannot be used right now; the caller of a room is answered UNAVAILABLE, and may try again."""

    def __init__(self, message: str) -> None:
        super().__init__(StatusCode.UNAVAILABLE, message, retryable=True)


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a room's log is kept: the newest messages that satisfy all three."""

    count: int
    """Messages; 0: none is kept."""
    size_bytes: int
    """Their bodies together."""
    age_s: float
    """Seconds since a message was appended."""


class Record(NamedTuple):
    """What a subscriber is given: a message of the log, or a signal (``offset`` 0)."""

    epoch: str
    """Of the log; "" for a signal."""
    offset: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a log: ``records`` without a hole between them, the oldest first."""

    epoch: str
    top: int
    """Offset of the newest message that was ever appended in this epoch; 0: none."""
    records: Sequence[Record]
    floor: int
    """Every message above this offset is kept."""


Receive = Callable[[Record], None]
"""Called on the event loop for each record, in order. It must neither block nor raise."""


class Backplane(ABC):
    """Logs, signals and members of rooms, shared by several nodes.

    All methods raise BackplaneError when the store behind cannot be reached. Names and limits have been checked by the
    caller. One object may serve several nodes of one process.
    """

    @abstractmethod
    async def open(self) -> None:
        """Get ready. Called by each node before anything else; idempotent."""

    @abstractmethod
    async def close(self) -> None:
        """Free what it holds, and end the members that were added here; called by the owner. Idempotent."""

    @abstractmethod
    async def append(self, room: str, body: bytes, keep: Retention) -> tuple[str, int]:
        """Put a message at the end of the room's log, and hand it to every subscriber of every node.

        The epoch and offset that it got; the offset is one more than that of the message before, whoever appended that.
        """

    @abstractmethod
    async def read(self, room: str, after: int, keep: Retention, max_bytes: int) -> Page:
        """The kept messages above offset ``after``, at most about ``max_bytes`` of bodies, but one if there is one.

        With ``after`` below what is kept, it begins with the oldest kept. The log of a room that nobody used is begun.
        """

    @abstractmethod
    async def signal(self, room: str, body: bytes) -> None:
        """Hand ``body`` to every subscriber of every node, in order with what this node appends and signals."""

    @abstractmethod
    async def subscribe(self, room: str, receive: Receive) -> None:
        """Have ``receive`` called for everything that is appended or signalled from now on, by this node too.

        What a later ``read`` does not show comes here: nothing falls in between.
        """

    @abstractmethod
    async def unsubscribe(self, room: str, receive: Receive) -> None:
        """Undo ``subscribe``. Idempotent."""

    @abstractmethod
    async def add_member(self, room: str, member: str, info: bytes, will: bytes, joined: bytes, limit: int) -> bool:
        """List ``member`` and signal ``joined``; False, and nothing done, when ``limit`` members are there already.

        ``will`` is signalled if the process that added it dies; a backplane within one process has no use for it.
        """

    @abstractmethod
    async def remove_member(self, room: str, member: str, gone: bytes) -> bool:
        """Take ``member`` off the list and signal ``gone``; False, and nothing done, when it was not there."""

    @abstractmethod
    async def members(self, room: str) -> list[bytes]:
        """The ``info`` of all members of all nodes, in the order in which they came."""
