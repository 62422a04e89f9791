"""Faults of datagrams: their size, their number, and where one ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from echostream_core.errors import LimitExceeded
from echostream_core.types import Buffer
from plugins.testkit.tests.mutations.transport_mutation import Mutation, native
from plugins.testkit.tests.mutations.transport_native import (
    LayeredConnection,
    soon,
)

__all__ = ["DATAGRAM_FAULTS"]


class CutsDatagramsUp(LayeredConnection):
    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        whole = b"".join(data)
        most = self.max_datagram_size()
        taken = True
        for start in range(0, max(len(whole), 1), most):
            taken &= self.inner.send_datagram([whole[start : start + most]])
        return taken


class DropsLargeDatagrams(LayeredConnection):
    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        try:
            return super().send_datagram(data, expires_at)
        except LimitExceeded:
            return False


class SendsOnlyTheFirstBuffer(LayeredConnection):
    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        return super().send_datagram(data[:1], expires_at)


class JoinsDatagrams(LayeredConnection):
    """Those of one turn arrive as one, as they do over a pipe that keeps no boundaries."""

    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)  # type: ignore[arg-type]  # passed on
        self.waiting = b""

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        if not self.waiting:
            soon(self.send)
        self.waiting += b"".join(data)
        return True

    def send(self) -> None:
        waiting, self.waiting = self.waiting, b""
        self.inner.send_datagram([waiting[: self.max_datagram_size()]])


class OverstatesTheSize(LayeredConnection):
    def max_datagram_size(self) -> int:
        return super().max_datagram_size() + 1


class QueuesDatagramsWithoutBound(LayeredConnection):
    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)  # type: ignore[arg-type]  # passed on
        self.queue: list[bytes] = []

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        if not self.queue:
            soon(self.send)
        self.queue.append(b"".join(data))
        return True

    def send(self) -> None:
        for datagram in self.queue[:200]:
            self.inner.send_datagram([datagram])
        del self.queue[:200]
        if self.queue:
            soon(self.send)


class DropsTheNewestDatagram(LayeredConnection):
    sent = 0

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        if not self.sent:
            soon(self.turned)
        self.sent += 1
        return self.sent <= 200 and super().send_datagram(data, expires_at)

    def turned(self) -> None:
        self.sent = 0


class DeliversDatagramsAtOnce(LayeredConnection):
    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        peer = getattr(self.inner, "peer", None)
        receiver = None if peer is None else peer._receiver
        if receiver is None or sum(map(len, data)) > self.max_datagram_size():
            return super().send_datagram(data, expires_at)
        receiver.on_datagram(b"".join(data))
        return True


DATAGRAM_FAULTS: Final[tuple[Mutation, ...]] = (
    native("cuts large datagrams up", "test_datagrams_have_a_largest_size", connection=CutsDatagramsUp),
    native(
        "drops large datagrams without a word", "test_datagrams_have_a_largest_size", connection=DropsLargeDatagrams
    ),
    native("sends a datagram's first buffer only", "test_datagrams_arrive_whole", connection=SendsOnlyTheFirstBuffer),
    native("joins the datagrams of a turn", "test_datagrams_queue_is_bounded", connection=JoinsDatagrams),
    native("overstates the largest datagram", "test_datagrams_have_a_largest_size", connection=OverstatesTheSize),
    native("queues datagrams without bound", "test_datagrams_queue_is_bounded", connection=QueuesDatagramsWithoutBound),
    native("drops the newest datagram", "test_datagrams_queue_is_bounded", connection=DropsTheNewestDatagram),
    native("delivers datagrams within the call", "test_datagrams_call_back_later", connection=DeliversDatagramsAtOnce),
)
