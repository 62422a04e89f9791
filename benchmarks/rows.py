"""The rows of the benchmark: what is measured, with how much in flight, and in which unit."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["BASELINE", "QUIC_BASELINE", "ROWS", "Kind", "Row"]

BASELINE: Final = "grpc_aio"
"""The peer that every ratio is taken to."""

QUIC_BASELINE: Final = "aioquic_stock"
"""The peer that QUIC bulk is compared with as well."""


class Kind(Enum):
    """How a row is measured."""

    CALLS = "calls"
    BULK = "bulk"
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement; ``payload_bytes`` is the chunk for bulk and the proving call for idle."""

    key: str
    kind: Kind
    title: str
    unit: str
    payload_bytes: int
    in_flight: int = 1
    less_is_better: bool = False

    @property
    def timed(self) -> bool:
        """Whether every call is timed by itself: only one at a time says what one call takes."""
        return self.kind is Kind.CALLS and self.in_flight == 1


ROWS: Final[dict[str, Row]] = {
    row.key: row
    for row in (
        Row("a", Kind.CALLS, "one call at a time, 32-byte echo", "calls/s", 32),
        Row("b", Kind.CALLS, "64 in flight on one connection, 32-byte echo", "calls/s", 32, in_flight=64),
        Row("c", Kind.CALLS, "16 in flight on one connection, 16 KiB echo", "calls/s", 16 * 1024, in_flight=16),
        Row("d", Kind.BULK, "bulk, one way, 64 KiB chunks", "MB/s", 64 * 1024),
        Row("idle", Kind.IDLE, "memory per idle connection on the server", "KiB", 32, less_is_better=True),
    )
}
