"""Faults of connections: what becomes of their beginning and of their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from echostream_core.errors import ConnectionLost, EchoStreamError, EndOfStream
from echostream_core.transport import (
    ConnectionReceiver,
    Substream,
    SubstreamReceiver,
)
from echostream_core.types import Buffer, Priority
from plugins.testkit.tests.mutations.transport_mutation import Mutation, native
from plugins.testkit.tests.mutations.transport_native import (
    LayeredConnection,
    LayeredSubstream,
    soon,
)

__all__ = ["CONNECTION_FAULTS"]

# Starting.


class LosesWhatCameEarly(LayeredConnection, SubstreamReceiver):
    """It reads from its first moment on, and drops what nobody is there for."""

    started = False

    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)  # type: ignore[arg-type]  # passed on
        self.inner.start(self)

    def start(self, receiver: ConnectionReceiver) -> None:
        self.receiver = receiver
        self.started = True

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        return super().on_substream(substream) if self.started else self

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        if self.started:
            super().on_closed(error)


class DeliversWithinStart(LayeredConnection):
    """What came before start is delivered before start returns."""

    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)  # type: ignore[arg-type]  # passed on
        self.early: list[Callable[[], None]] | None = []
        self.inner.start(self)

    class Waiting(LayeredSubstream):
        connection: DeliversWithinStart

        def on_data(self, data: Buffer, /) -> None:
            kept = bytes(data)
            self.connection.deliver(lambda: LayeredSubstream.on_data(self, kept))

        def on_end(self) -> None:
            self.connection.deliver(lambda: LayeredSubstream.on_end(self))

    def start(self, receiver: ConnectionReceiver) -> None:
        self.receiver = receiver
        early, self.early = self.early, None
        for callback in early or ():
            callback()

    def deliver(self, callback: Callable[[], None]) -> None:
        if self.early is None:
            callback()
        else:
            self.early.append(callback)

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        layer = self.Waiting(self, substream)

        def announce() -> None:
            layer.receiver = self.receiver.on_substream(layer)

        self.deliver(announce)
        return layer

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        self.deliver(lambda: self.receiver.on_closed(error))


class SilentWhenEndedBeforeStart(LayeredConnection):
    """Who starts a connection that is gone already waits for ever."""

    def start(self, receiver: ConnectionReceiver) -> None:
        peer = getattr(self.inner, "peer", None)
        if peer is None or not peer.closed:
            super().start(receiver)


# Closing.


class TellsTwice(LayeredConnection):
    def on_closed(self, error: EchoStreamError | None, /) -> None:
        super().on_closed(error)
        soon(lambda: self.receiver.on_closed(error))


class NeverTellsOfItsOwnEnd(LayeredConnection):
    def on_closed(self, error: EchoStreamError | None, /) -> None:
        if error is not None:
            super().on_closed(error)


class TellsWithinClose(LayeredConnection):
    told = False

    def close(self, code: int, reason: str) -> None:
        super().close(code, reason)
        self.on_closed(None)

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        if not self.told:
            self.told = True
            super().on_closed(error)


class DeliversAfterTheEnd(LayeredConnection):
    """Substreams are told of the connection's end one by one, after the connection has told of it."""

    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)  # type: ignore[arg-type]  # passed on
        self.layers: list[LayeredSubstream] = []

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        layer = super().on_substream(substream)
        assert isinstance(layer, LayeredSubstream)
        self.layers.append(layer)
        return layer

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        super().on_closed(error)
        for layer in self.layers:
            soon(lambda layer=layer: layer.receiver.on_reset(0))  # type: ignore[misc]  # bound in this turn


class NeverTellsOfALoss(LayeredConnection):
    def on_closed(self, error: EchoStreamError | None, /) -> None:
        if error is None or isinstance(error, EndOfStream):
            super().on_closed(error)


class SpeaksOnlyOnce(LayeredConnection):
    """What the accepting side says on the control substream arrives once, and never again."""

    class Once(LayeredSubstream):
        said = False

        def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
            said, self.said = self.said, True
            return said or self.inner.write(buffers, end)

    def on_substream(self, substream: Substream, /) -> SubstreamReceiver:
        control = getattr(self.inner, "_control", None) is substream
        layer = (self.Once if control else LayeredSubstream)(self, substream)
        layer.receiver = self.receiver.on_substream(layer)
        return layer


class CallsItsOwnEndALoss(LayeredConnection):
    def on_closed(self, error: EchoStreamError | None, /) -> None:
        super().on_closed(error or ConnectionLost("the connection is closed"))


class CallsTheOrderlyEndALoss(LayeredConnection):
    def on_closed(self, error: EchoStreamError | None, /) -> None:
        super().on_closed(ConnectionLost(str(error)) if isinstance(error, EndOfStream) else error)


class CallsALossAnOrderlyEnd(LayeredConnection):
    def on_closed(self, error: EchoStreamError | None, /) -> None:
        lost = isinstance(error, ConnectionLost) and error.close_code is None
        super().on_closed(EndOfStream(str(error)) if lost else error)


class LosesTheCode(LayeredConnection):
    def on_closed(self, error: EchoStreamError | None, /) -> None:
        if isinstance(error, ConnectionLost):
            error.close_code = None
        super().on_closed(error)


class CutsTheCode(LayeredConnection):
    def close(self, code: int, reason: str) -> None:
        super().close(code & 0xFFFF, reason)


class LosesTheReason(LayeredConnection):
    def close(self, code: int, reason: str) -> None:
        super().close(code, "")


class ShowsTheReasonAsItIs(LayeredConnection):
    """The peer's text reaches logs with its line ends and at any length."""

    reason = ""

    def close(self, code: int, reason: str) -> None:
        peer = getattr(self.inner, "peer", None)
        if peer is not None and isinstance(peer._receiver, ShowsTheReasonAsItIs):
            peer._receiver.reason = reason
        super().close(code, reason)

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        if isinstance(error, ConnectionLost) and self.reason:
            raw = ConnectionLost(f"closed by the peer with code {error.close_code}: {self.reason}")
            raw.close_code = error.close_code
            error = raw
        super().on_closed(error)


class RaisesAForeignError(LayeredConnection):
    """What the library raised is handed on as it is."""

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        lost = isinstance(error, ConnectionLost) and error.close_code is None
        super().on_closed(ConnectionResetError(104, "Connection reset by peer") if lost else error)  # type: ignore[arg-type]  # the fault


class DropsTheControlQueue(LayeredConnection):
    """What was written is handed to the carrier on the next turn, and ``close`` does not wait for that."""

    ended = False

    class Late(LayeredSubstream):
        connection: DropsTheControlQueue

        def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
            soon(lambda: None if self.connection.ended else self.inner.write(buffers, end))
            return True

    def open_substream(self, priority: Priority = Priority.NORMAL) -> Substream:
        inner = self.inner.open_substream(priority)
        return (self.Late if priority is Priority.CONTROL else LayeredSubstream)(self, inner)

    def close(self, code: int, reason: str) -> None:
        self.ended = True
        super().close(code, reason)


class SecondCloseIsAnError(LayeredConnection):
    ended = False

    def close(self, code: int, reason: str) -> None:
        if self.ended:
            raise ConnectionLost("the connection is closed already")
        self.ended = True
        super().close(code, reason)


class OpeningTooLateIsAForeignError(LayeredConnection):
    def open_substream(self, priority: Priority = Priority.NORMAL) -> Substream:
        if getattr(self.inner, "closed", False):
            raise RuntimeError("cannot open a substream: the connection is closed")
        return super().open_substream(priority)


class WritingTooLateIsAnError(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        if getattr(self.connection.inner, "closed", False):
            raise ConnectionLost("the connection is closed")
        return super().write(buffers, end)


class FailingCallbackEndsAll(LayeredSubstream):
    """An error of one session's callback ends every connection of the process."""

    def on_data(self, data: Buffer, /) -> None:
        try:
            super().on_data(data)
        except Exception:
            for connection in ALL:
                connection.close(1, "internal error")


class Known(LayeredConnection):
    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)  # type: ignore[arg-type]  # passed on
        ALL.append(self)

    def on_closed(self, error: EchoStreamError | None, /) -> None:
        if self in ALL:
            ALL.remove(self)
        super().on_closed(error)


ALL: Final[list[LayeredConnection]] = []


class FailingCallbackIsIgnored(LayeredSubstream):
    """The error is swallowed, and the connection goes on with a session that has missed something."""

    def on_data(self, data: Buffer, /) -> None:
        try:
            super().on_data(data)
        except Exception:
            self.inner.consume(0)


STARTS = (
    native("loses what came before start", "test_data_before_start_waits", connection=LosesWhatCameEarly),
    native("delivers within start", "test_data_before_start_waits", connection=DeliversWithinStart),
    native(
        "is silent when it ended before start", "test_end_before_start_is_told", connection=SilentWhenEndedBeforeStart
    ),
)

CLOSINGS = (
    native("calls on_closed twice", "test_on_closed_comes_once_and_last", connection=TellsTwice),
    native(
        "never calls on_closed for its own end",
        "test_on_closed_comes_once_and_last",
        "test_closed_by_us_is_none",
        "test_draining_server_keeps_its_deadline",
        connection=NeverTellsOfItsOwnEnd,
    ),
    native(
        "never calls on_closed for a loss",
        "test_abort_is_connection_lost_at_the_peer",
        "test_pending_call_is_told_of_the_end",
        connection=NeverTellsOfALoss,
    ),
    native(
        "lets the accepting side speak once",
        "test_calls_go_both_ways",
        "test_calls_at_once_are_all_answered",
        "test_draining_server_finishes_running_calls",
        connection=SpeaksOnlyOnce,
    ),
    native("calls on_closed within close", "test_no_callback_runs_inside_a_call", connection=TellsWithinClose),
    native("calls back after on_closed", "test_on_closed_comes_once_and_last", connection=DeliversAfterTheEnd),
    native("calls its own end a loss", "test_closed_by_us_is_none", connection=CallsItsOwnEndALoss),
    native(
        "calls an orderly end a loss", "test_ended_by_the_peer_is_end_of_stream", connection=CallsTheOrderlyEndALoss
    ),
    native(
        "calls a loss an orderly end", "test_abort_is_connection_lost_at_the_peer", connection=CallsALossAnOrderlyEnd
    ),
    native("loses the close code", "test_code_of_the_peer_arrives_exactly", connection=LosesTheCode),
    native("cuts close codes to 16 bits", "test_code_of_the_peer_arrives_exactly", connection=CutsTheCode),
    native("loses the reason", "test_code_of_the_peer_arrives_exactly", connection=LosesTheReason),
    native("shows the reason unescaped", "test_code_of_the_peer_arrives_exactly", connection=ShowsTheReasonAsItIs),
    native(
        "hands an OSError to on_closed", "test_abort_is_connection_lost_at_the_peer", connection=RaisesAForeignError
    ),
    native(
        "drops what control has queued at close",
        "test_close_sends_what_the_control_substream_has",
        connection=DropsTheControlQueue,
    ),
    native("raises at a second close", "test_close_is_idempotent", connection=SecondCloseIsAnError),
    native(
        "raises a foreign error when opened late",
        "test_open_substream_after_close_is_resource_closed",
        connection=OpeningTooLateIsAForeignError,
    ),
    native("raises at a write after close", "test_write_after_close_is_a_no_op", substream=WritingTooLateIsAnError),
    native(
        "ends all connections for one callback's error",
        "test_failing_callback_ends_only_its_connection",
        substream=FailingCallbackEndsAll,
        connection=Known,
    ),
    native(
        "goes on after a callback's error",
        "test_failing_callback_ends_only_its_connection",
        substream=FailingCallbackIsIgnored,
    ),
)


CONNECTION_FAULTS: Final[tuple[Mutation, ...]] = (*STARTS, *CLOSINGS)
