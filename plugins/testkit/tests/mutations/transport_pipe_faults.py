"""Faults of pipes: bytes, pressure, and their end."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Final, cast

from echostream_core.errors import ConnectionLost, EchoStreamError, EndOfStream
from echostream_core.transport import Acceptor, PipeReceiver
from echostream_core.types import Buffer
from plugins.testkit.tests.mutations.transport_mutation import Mutation, pipe
from plugins.testkit.tests.mutations.transport_pipe import PlainPipe

__all__ = ["PIPE_FAULTS"]

# Bytes.


class SendsTheFirstBufferOnly(PlainPipe):
    def write(self, buffers: Sequence[Buffer]) -> bool:
        return super().write(buffers[:1])


class KeepsAReferenceToItsBuffer(PlainPipe):
    """Reads into one buffer, and keeps a view of it for as long as nobody is there."""

    def __init__(self, accept: Acceptor | None = None) -> None:
        super().__init__(accept)
        self.buffer = bytearray(65_536)
        self.early: list[memoryview] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.receiver is None:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), 1_000):
            piece = data[start : start + 1_000]
            self.buffer[: len(piece)] = piece
            view = memoryview(self.buffer)[: len(piece)]
            if self.receiver is None:
                self.early.append(view)
            else:
                super().data_received(view)  # type: ignore[arg-type]  # any buffer

    def start(self, receiver: PipeReceiver) -> None:
        super().start(receiver)
        for view in self.early:
            asyncio.get_running_loop().call_soon(receiver.on_data, view)
        self.early.clear()


class DropsWhatCameEarly(PlainPipe):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.resume_reading()


class DeliversWithinStart(DropsWhatCameEarly):
    early = b""

    def data_received(self, data: bytes) -> None:
        if self.receiver is None:
            self.early += data
        else:
            super().data_received(data)

    def start(self, receiver: PipeReceiver) -> None:
        super().start(receiver)
        if self.early:
            receiver.on_data(self.early)


# Pressure.


class NeverSaysFull(PlainPipe):
    def write(self, buffers: Sequence[Buffer]) -> bool:
        super().write(buffers)
        return True


class NeverSaysWritable(PlainPipe):
    def resume_writing(self) -> None:
        self.waiting = False
        super().resume_writing()


class DropsWhenFull(PlainPipe):
    def write(self, buffers: Sequence[Buffer]) -> bool:
        return False if self.full else super().write(buffers)


class BuffersForBulk(PlainPipe):
    """Eight mebibytes may wait where nothing can overtake them any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(8 << 20)


class WritableWithinWrite(PlainPipe):
    """Says that there is room before it has said that there is none."""

    def write(self, buffers: Sequence[Buffer]) -> bool:
        room = super().write(buffers)
        if not room and self.receiver is not None:
            self.receiver.on_writable()
        return room


class PauseIsIgnored(PlainPipe):
    def pause(self) -> None:
        pass


class ResumeIsIgnored(PlainPipe):
    def resume(self) -> None:
        pass


class SecondPauseIsAnError(PlainPipe):
    def pause(self) -> None:
        if self.paused:
            raise RuntimeError("Already paused")
        super().pause()


# Ends.


class DropsTheQueueAtClose(PlainPipe):
    def close(self) -> None:
        self.closing = True
        self.transport.abort()


class ResetsAtClose(PlainPipe):
    """An end that the peer cannot tell from a loss."""

    def end_our_side(self) -> None:
        super().abort()


class EndsAtAbort(PlainPipe):
    """A loss that the peer cannot tell from an end."""

    def abort(self) -> None:
        if not self.gone:
            self.closing = True
            if not self.transport.is_closing():
                self.transport.abort()


class RaisesAtAWriteAfterTheEnd(PlainPipe):
    def write(self, buffers: Sequence[Buffer]) -> bool:
        if self.closing or self.gone:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return super().write(buffers)


class ForgetsThePeersEnd(PlainPipe):
    """Half-open: it goes on as if nothing had happened."""

    def eof_received(self) -> bool:
        return True


class HandsOnOSError(PlainPipe):
    def lost(self, cause: Exception | None) -> EchoStreamError | None:
        return cast("EchoStreamError | None", cause)


class LosesTheCause(PlainPipe):
    def lost(self, cause: Exception | None) -> EchoStreamError | None:
        return ConnectionLost(f"the connection to {self.peer_address} is lost")


class NeverTellsOfALoss(PlainPipe):
    def tell_closed(self) -> None:
        if self.closing or isinstance(self.error, EndOfStream):
            super().tell_closed()


class CallsALossTheEnd(PlainPipe):
    def lost(self, cause: Exception | None) -> EchoStreamError | None:
        return EndOfStream(f"{self.peer_address} has closed the connection")


class TellsTwice(PlainPipe):
    def tell_closed(self) -> None:
        receiver = self.receiver
        super().tell_closed()
        if receiver is not None:
            asyncio.get_running_loop().call_soon(receiver.on_closed, self.error)


class NeverTells(PlainPipe):
    def tell_closed(self) -> None:
        if not self.closing:
            super().tell_closed()


class TellsWithinAbort(PlainPipe):
    def abort(self) -> None:
        super().abort()
        self.tell_closed()


BYTES = (
    pipe("sends the first buffer only", "test_streams_muxed_pipe_keeps_order", pipe=SendsTheFirstBufferOnly),
    pipe("keeps early data by reference", "test_data_before_start_waits", pipe=KeepsAReferenceToItsBuffer),
    pipe("drops early data", "test_data_before_start_waits", pipe=DropsWhatCameEarly),
    pipe("delivers early data within start", "test_data_before_start_waits", pipe=DeliversWithinStart),
)

PRESSURE = (
    pipe("never answers False", "test_streams_muxed_pipe_write_answers_false", pipe=NeverSaysFull),
    pipe("never calls on_writable", "test_streams_muxed_pipe_write_answers_false", pipe=NeverSaysWritable),
    pipe("drops what it has no room for", "test_streams_muxed_pipe_write_answers_false", pipe=DropsWhenFull),
    pipe("lets bulk wait where nothing overtakes", "test_priorities_urgent_overtakes_bulk", pipe=BuffersForBulk),
    pipe("ignores pause", "test_streams_muxed_pipe_pause_stops_delivery", pipe=PauseIsIgnored),
    pipe("ignores resume", "test_streams_muxed_pipe_pause_stops_delivery", pipe=ResumeIsIgnored),
    pipe("raises at a second pause", "test_streams_muxed_pipe_pause_stops_delivery", pipe=SecondPauseIsAnError),
    pipe(
        "calls on_writable within write",
        "test_streams_muxed_pipe_calls_back_later",
        "test_streams_muxed_pipe_write_answers_false",
        pipe=WritableWithinWrite,
    ),
)

ENDS = (
    pipe("drops its queue at close", "test_streams_muxed_pipe_close_sends_what_is_queued", pipe=DropsTheQueueAtClose),
    pipe("resets at close", "test_streams_muxed_pipe_close_sends_what_is_queued", pipe=ResetsAtClose),
    pipe("ends in order at abort", "test_streams_muxed_pipe_abort_is_connection_lost", pipe=EndsAtAbort),
    pipe(
        "raises at a write after the end",
        "test_streams_muxed_pipe_ignores_writes_after_the_end",
        pipe=RaisesAtAWriteAfterTheEnd,
    ),
    pipe("forgets the peer's end", "test_streams_muxed_pipe_close_sends_what_is_queued", pipe=ForgetsThePeersEnd),
    pipe(
        "hands an OSError on",
        "test_broken_by_the_network_is_connection_lost",
        "test_foreign_errors_stay_inside",
        pipe=HandsOnOSError,
    ),
    pipe(
        "never calls on_closed for a loss",
        "test_broken_by_the_network_is_connection_lost",
        "test_migration_absent_ends_with_the_address",
        pipe=NeverTellsOfALoss,
    ),
    pipe("loses the cause of a loss", "test_foreign_errors_stay_inside", pipe=LosesTheCause),
    pipe(
        "calls a loss the peer's end",
        "test_streams_muxed_pipe_abort_is_connection_lost",
        pipe=CallsALossTheEnd,
    ),
    pipe("calls on_closed twice", "test_streams_muxed_pipe_abort_is_connection_lost", pipe=TellsTwice),
    pipe("never calls on_closed for its own end", "test_closed_by_us_is_none", pipe=NeverTells),
    pipe("calls on_closed within abort", "test_streams_muxed_pipe_calls_back_later", pipe=TellsWithinAbort),
)


PIPE_FAULTS: Final[tuple[Mutation, ...]] = (*BYTES, *PRESSURE, *ENDS)
