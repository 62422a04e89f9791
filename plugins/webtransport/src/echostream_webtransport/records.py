"""Records as HTTP/3's frames and RFC 9297's capsules have them: ``[type][length][value]``, both numbers varints."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from echostream_quic.frames import varint

__all__ = ["RecordReader", "Take", "read_varint", "record"]


def record(kind: int, value: bytes = b"") -> bytes:
    """One record as bytes."""
    return b"".join((varint(kind), varint(len(value)), value))


def read_varint(data: bytes, at: int = 0) -> tuple[int, int] | None:
    """The integer at ``at`` and the position behind it; None while it is incomplete (RFC 9000 section 16)."""
    if at >= len(data):
        return None
    size = 1 << (data[at] >> 6)
    end = at + size
    if end > len(data):
        return None
    return int.from_bytes(data[at:end]) & ((1 << (8 * size - 2)) - 1), end


class Take(Enum):
    """What is to be done with a record."""

    WHOLE = auto()
    """Collect its value, then hand it over."""
    PIECES = auto()
    """Hand over its value as it arrives."""
    SKIP = auto()
    """Leave it out, without keeping any of it."""


class RecordReader:
    """Takes bytes as they arrive, cut anywhere, and hands over records.

    ``begin(kind, length)`` says what is to be done with a record, before any of its value is kept; it raises for one
    that may not stand here, or is too long. Then come ``whole(kind, value)`` or ``piece(data)``.
    """

    __slots__ = ("_begin", "_buffer", "_kind", "_left", "_piece", "_take", "_whole")

    def __init__(
        self,
        begin: Callable[[int, int], Take],
        whole: Callable[[int, bytes], None],
        piece: Callable[[bytes], None] | None = None,
    ) -> None:
        self._begin = begin
        self._whole = whole
        self._piece = piece
        self._buffer = b""
        self._kind = 0
        self._left = -1  # -1: the next bytes are a head
        self._take = Take.SKIP

    @property
    def in_the_middle(self) -> bool:
        """An end now would cut a record off."""
        return self._left >= 0 or bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        data = self._buffer + data if self._buffer else data
        self._buffer = b""
        at = 0
        while True:
            if self._left < 0:
                head = self._read_head(data, at)
                if head is None:
                    self._buffer = data[at:]
                    return
                at = head
            end = min(len(data), at + self._left)
            if self._take is Take.WHOLE:
                if end - at < self._left:
                    self._buffer = data[at:]
                    return
                self._left = -1
                self._whole(self._kind, data[at:end])
            else:
                self._left -= end - at
                if self._take is Take.PIECES and self._piece is not None and end > at:
                    self._piece(data[at:end])
                if self._left:
                    return
                self._left = -1
            at = end

    def _read_head(self, data: bytes, at: int) -> int | None:
        kind = read_varint(data, at)
        if kind is None:
            return None
        length = read_varint(data, kind[1])
        if length is None:
            return None
        self._kind, self._left = kind[0], length[0]
        self._take = self._begin(self._kind, self._left)
        return length[1]
