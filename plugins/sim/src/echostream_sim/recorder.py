"""What happened on the network: events, counts, and a hash that is the same for two runs that went the same way.

Every packet, and every copy that a path makes, has a number. It is ``sent`` (or ``duplicated``) once, and ends as
``delivered`` or ``lost`` once. Counts and the hash cover the whole run; of the events only the newest are kept, as many
as the recorder was told to keep.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["DEFAULT_MAX_EVENTS", "Event", "Fate", "LossReason", "Recorder"]

DEFAULT_MAX_EVENTS: Final = 500_000
"""About 100 MB."""

Fate: TypeAlias = Literal[
    "sent", "duplicated", "queued", "dequeued", "held", "delivered", "lost", "partitioned", "healed", "note"
]
"""What an event says of its packet. ``queued`` and ``dequeued`` are the bottleneck's; ``held`` is a packet that the
path keeps back so that others overtake it. The last three are not about packets."""

LossReason: TypeAlias = Literal["loss", "queue", "too_large", "partition", "no_port", "no_host"]
"""Why a packet was lost: the loss model; the queue was full; larger than the MTU; a partition; nobody was bound to the
port; the address is nobody's."""


class Event(NamedTuple):
    """One line of the record."""

    time_s: float
    """Virtual time."""
    fate: str
    """See :data:`Fate`."""
    packet: int
    """The packet's number from 1, 0 for events that are about no packet."""
    source: str
    """Name of the host that sent it."""
    source_port: int
    destination: str
    """Name of the host that it is for."""
    destination_port: int
    size_bytes: int
    """Payload."""
    reason: str
    """Of a loss, see :data:`LossReason`; of a copy, the original's number; of a note, its text."""
    queue_bytes: int
    """For ``queued``, ``dequeued`` and ``lost``: what is in the queue afterwards, headers included; 0 otherwise."""


class Recorder:
    """The record of one network. ``max_events``: how many events are kept, None for all, 0 for none."""

    def __init__(self, *, max_events: int | None = DEFAULT_MAX_EVENTS) -> None:
        self._events: deque[Event] = deque(maxlen=max_events)
        self._hash = hashlib.sha256()
        self.counts: Counter[str] = Counter()
        """Events by fate, of the whole run."""
        self.lost: Counter[str] = Counter()
        """Lost packets by reason, of the whole run."""
        self._by_direction: dict[tuple[str, str], Counter[str]] = {}

    def record(
        self,
        time_s: float,
        fate: Fate,
        packet: int,
        source: tuple[str, int],
        destination: tuple[str, int],
        size_bytes: int,
        reason: str = "",
        queue_bytes: int = 0,
    ) -> None:
        """Note one event. The network calls it; a program has :meth:`Network.note`."""
        event = Event(time_s, fate, packet, *source, *destination, size_bytes, reason, queue_bytes)
        self._events.append(event)
        self.counts[fate] += 1
        if fate == "note":
            return
        line = f"{time_s!r} {fate} {source[0]}:{source[1]} {destination[0]}:{destination[1]} {size_bytes} {reason}\n"
        self._hash.update(line.encode())
        key = (source[0], destination[0])
        direction = self._by_direction.get(key)
        if direction is None:
            direction = self._by_direction[key] = Counter()
        direction[fate] += 1
        if fate == "lost":
            self.lost[reason] += 1
            direction[f"lost:{reason}"] += 1

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that are kept, in the order in which they happened."""
        return tuple(self._events)

    @property
    def forgotten(self) -> int:
        """How many events were let go because only ``max_events`` are kept."""
        return self.counts.total() - len(self._events)

    def of(self, source: str, destination: str) -> Counter[str]:
        """The counts of one direction, by fate, and losses also by reason as ``lost:queue``. A copy."""
        return Counter(self._by_direction.get((source, destination), {}))

    def hash(self) -> str:
        """64 hex digits over time, fate, source, destination, size and reason of every event so far, notes left out.

        Times are of the virtual clock; the contents of packets do not count: they may hold real random keys.
        """
        return self._hash.hexdigest()

    def write_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write the events that are kept, one JSON object per line, with the fields of :class:`Event`."""
        with Path(path).open("w", encoding="utf-8") as file:
            for event in self._events:
                file.write(json.dumps(event._asdict(), separators=(",", ":")) + "\n")

    def timeline_svg(
        self,
        path: str | os.PathLike[str],
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        title: str = "",
        width_px: int = 1200,
        max_packets: int = 3000,
    ) -> None:
        """Draw the events that are kept, or those from ``start_s`` to ``end_s``, as a picture; see ``timeline.py``."""
        from echostream_sim.timeline import draw_timeline

        picture = draw_timeline(
            self._events,
            start_s=start_s,
            end_s=end_s,
            title=title,
            width_px=width_px,
            max_packets=max_packets,
            forgotten=self.forgotten,
        )
        Path(path).write_text(picture, encoding="utf-8")

    def summary(self) -> str:
        """One line for people: how many packets, and what became of them."""
        copies = self.counts["duplicated"]
        parts = [f"{self.counts['sent']} sent"]
        if copies:
            parts.append(f"{copies} duplicated")
        parts.append(f"{self.counts['delivered']} delivered")
        parts += [f"{number} lost ({reason})" for reason, number in sorted(self.lost.items())]
        flying = self.counts["sent"] + copies - self.counts["delivered"] - self.counts["lost"]
        if flying:
            parts.append(f"{flying} under way")
        return ", ".join(parts)
