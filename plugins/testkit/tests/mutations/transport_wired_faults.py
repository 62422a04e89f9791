"""Faults that show on a native transport with a wire below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from echostream_core.transport import Substream
from echostream_core.types import Buffer, Priority
from plugins.testkit.tests.mutations.transport_mutation import Mutation
from plugins.testkit.tests.mutations.transport_wired import WiredConnection, WiredSubstream, WiredTransport, wired_spec

__all__ = ["WIRED_FAULTS"]


class StarvesBulk(WiredConnection):
    """Bulk waits until nothing urgent is left, which may be never."""

    class Starving(WiredSubstream):
        def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
            return True

    urgent = False

    def open_substream(self, priority: Priority = Priority.NORMAL) -> Substream:
        inner = self.inner.open_substream(priority)
        self.urgent = self.urgent or priority is Priority.URGENT
        starving = self.urgent and priority is Priority.BULK
        return (self.Starving if starving else WiredSubstream)(self, inner)


class StarvingTransport(WiredTransport):
    """Its connections are of that kind."""

    connection_class = StarvesBulk


WIRED_FAULTS: Final[tuple[Mutation, ...]] = (
    Mutation(
        name="starves bulk beside urgent",
        spec=wired_spec(StarvingTransport),
        caught_by=("test_priorities_starve_nobody",),
    ),
)
