"""Faults of substreams: what becomes of bytes, and of the credit for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from echostream_core.transport import Substream, SubstreamReceiver
from echostream_core.types import Buffer, Priority
from plugins.testkit.tests.mutations.transport_mutation import Mutation, native
from plugins.testkit.tests.mutations.transport_native import LayeredConnection, LayeredSubstream, soon

__all__ = ["SUBSTREAM_FAULTS"]

WINDOW_BYTES: Final = 65_536

# Bytes.


class ReordersBuffers(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        return self.inner.write(buffers[::-1], end)


class LetsSmallWritesOvertake(LayeredSubstream):
    """Large writes are handed on in the next turn, small ones at once."""

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        if sum(map(len, buffers)) < 8_192 or end:
            return self.inner.write(buffers, end)
        soon(lambda: self.inner.write(buffers))
        return True


class RepeatsAChunk(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        again = [buffer for buffer in buffers if len(buffer) > 1_000][-1:]
        return self.inner.write([*buffers, *again], end)


class LosesTheLastChunk(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        return self.inner.write(buffers[:-1] if end else buffers, end)


class CutsAtOneMebibyte(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        return self.inner.write([buffer[: 1 << 20] for buffer in buffers], end)


class TakesFewBuffers(LayeredSubstream):
    """As ``writev`` does: 1,024 of them, and the rest is forgotten."""

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        return self.inner.write(buffers[:1_024], end)


class TakesNoBytearray(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        return self.inner.write([buffer for buffer in buffers if not isinstance(buffer, bytearray)], end)


class TakesNoView(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        return self.inner.write([buffer for buffer in buffers if not isinstance(buffer, memoryview)], end)


class MixesSubstreamsUp(LayeredConnection):
    """Finds its substreams under the lower six bits of their number."""

    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)  # type: ignore[arg-type]  # passed on
        self.opened: list[LayeredSubstream] = []

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        layer = super().on_substream(substream)
        assert isinstance(layer, LayeredSubstream)
        self.opened.append(layer)
        if len(self.opened) > 64:
            layer.receiver = self.opened[len(self.opened) - 65].receiver
        return layer


class AcceptorCannotOpen(LayeredConnection):
    """What the accepting side opens is never heard of."""

    class Mute(LayeredSubstream):
        def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
            return True

    def open_substream(self, priority: Priority = Priority.NORMAL) -> Substream:
        inner = self.inner.open_substream(priority)
        accepted = "/dialer-" in self.peer_address
        return (self.Mute if accepted else LayeredSubstream)(self, inner)


class AnnouncesAtOnce(LayeredSubstream):
    """A byte of its own tells the peer of a substream that has nothing to say yet; the peer's end drops it again."""

    ours = False
    stripped = False

    def start(self, receiver: SubstreamReceiver) -> None:
        super().start(receiver)
        self.ours = True
        self.inner.write([b"\0"])

    def on_data(self, data: Buffer, /) -> None:
        if not self.ours and not self.stripped:
            self.stripped = True
            self.inner.consume(1)
            data = data[1:]
        if data:
            super().on_data(data)


class KeepsTheFirstReceiver(LayeredSubstream):
    def start(self, receiver: SubstreamReceiver) -> None:
        if not hasattr(self, "receiver"):
            super().start(receiver)


# Credit.


class GrantsOnReceipt(LayeredSubstream):
    """As a library does that opens the window when bytes arrive: a reader that does not read bounds nothing."""

    def on_data(self, data: Buffer, /) -> None:
        self.inner.consume(len(data))
        super().on_data(data)

    def consume(self, size: int) -> None:
        pass


class LosesCredit(LayeredSubstream):
    def consume(self, size: int) -> None:
        pass


class NeverSaysFull(LayeredSubstream):
    """An unbounded queue."""

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        self.inner.write(buffers, end)
        return True


class NeverSaysWritable(LayeredSubstream):
    def on_writable(self) -> None:
        pass


class SaysWritableWithinWrite(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        room = self.inner.write(buffers, end)
        if not room:
            self.receiver.on_writable()
        return room


class OneWindowForAll(LayeredConnection):
    """One window over the whole connection: a reader that stalls stops them all."""

    class Waiting(LayeredSubstream):
        connection: OneWindowForAll

        def on_data(self, data: Buffer, /) -> None:
            kept = bytes(data)
            self.connection.deliver(lambda: LayeredSubstream.on_data(self, kept), len(kept))

        def on_end(self) -> None:
            self.connection.deliver(lambda: LayeredSubstream.on_end(self), 0)

        def consume(self, size: int) -> None:
            super().consume(size)
            self.connection.unread -= size
            soon(self.connection.catch_up)

    unread = 0

    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)  # type: ignore[arg-type]  # passed on
        self.held: list[tuple[Callable[[], None], int]] = []

    def open_substream(self, priority: Priority = Priority.NORMAL) -> Substream:
        return self.Waiting(self, self.inner.open_substream(priority))

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        layer = self.Waiting(self, substream)
        layer.receiver = self.receiver.on_substream(layer)
        return layer

    def deliver(self, callback: Callable[[], None], size: int) -> None:
        self.held.append((callback, size))
        self.catch_up()

    def catch_up(self) -> None:
        while self.held and self.unread < WINDOW_BYTES:
            callback, size = self.held.pop(0)
            self.unread += size
            callback()


class CreditForControl(LayeredConnection):
    """The control substream has a window too, and nobody consumes there."""

    class Credited(LayeredSubstream):
        sent = 0

        def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
            self.sent += sum(map(len, buffers))
            return self.sent <= WINDOW_BYTES and self.inner.write(buffers, end)

    def open_substream(self, priority: Priority = Priority.NORMAL) -> Substream:
        inner = self.inner.open_substream(priority)
        return (self.Credited if priority is Priority.CONTROL else LayeredSubstream)(self, inner)


BYTES = (
    native(
        "reorders the buffers of a write",
        "test_many_small_buffers_in_one_write",
        "test_buffers_of_every_kind",
        substream=ReordersBuffers,
    ),
    native("lets small writes overtake large ones", "test_bytes_arrive_in_order", substream=LetsSmallWritesOvertake),
    native("repeats a chunk", "test_bytes_arrive_in_order", substream=RepeatsAChunk),
    native(
        "loses the last chunk before the end",
        "test_half_close_comes_behind_all_data",
        "test_half_close_ends_our_direction_only",
        "test_half_close_carries_large_messages",
        "test_half_close_limits_messages",
        substream=LosesTheLastChunk,
    ),
    native("cuts a buffer at one mebibyte", "test_eight_mebibytes_in_one_write", substream=CutsAtOneMebibyte),
    native("takes 1,024 buffers of a write", "test_many_small_buffers_in_one_write", substream=TakesFewBuffers),
    native("takes no bytearray", "test_buffers_of_every_kind", substream=TakesNoBytearray),
    native("takes no memoryview", "test_buffers_of_every_kind", substream=TakesNoView),
    native("mixes up the 65th substream", "test_hundred_substreams_at_once", connection=MixesSubstreamsUp),
    native("lets only the dialer open", "test_accepting_side_opens_substreams", connection=AcceptorCannotOpen),
    native(
        "announces an empty substream", "test_substream_is_announced_with_its_first_bytes", substream=AnnouncesAtOnce
    ),
    native(
        "keeps its first receiver",
        "test_new_receiver_takes_over",
        "test_half_close_busy_end_is_resource_busy",
        substream=KeepsTheFirstReceiver,
    ),
)

CREDIT = (
    native("grants credit on receipt", "test_flow_control_bounds_unread_bytes", substream=GrantsOnReceipt),
    native("loses the credit it is given", "test_flow_control_goes_on_with_consume", substream=LosesCredit),
    native("has a queue without bound", "test_flow_control_write_answers_false", substream=NeverSaysFull),
    native("never calls on_writable", "test_flow_control_goes_on_with_consume", substream=NeverSaysWritable),
    native("calls on_writable within write", "test_no_callback_runs_inside_a_call", substream=SaysWritableWithinWrite),
    native(
        "has one window for all substreams",
        "test_flow_control_stalled_substream_stops_no_other",
        connection=OneWindowForAll,
    ),
    native("wants credit for control", "test_control_substream_needs_no_credit", connection=CreditForControl),
)


SUBSTREAM_FAULTS: Final[tuple[Mutation, ...]] = (*BYTES, *CREDIT)
