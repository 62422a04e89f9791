"""Faults at the end of a substream: half-close, reset and stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from echostream_core.errors import ResourceClosed
from echostream_core.types import Buffer
from plugins.testkit.tests.mutations.transport_mutation import Mutation, native
from plugins.testkit.tests.mutations.transport_native import LayeredSubstream, soon

__all__ = ["ENDING_FAULTS"]


# Ends.


class EndsBothDirections(LayeredSubstream):
    """As a pipe does whose end is the end of all."""

    def on_end(self) -> None:
        super().on_end()
        self.inner.reset(0)


class EndStopsReading(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        room = self.inner.write(buffers, end)
        if end:
            self.inner.stop(0)
        return room


class LosesABareEnd(LayeredSubstream):
    """An end without data is a frame that is never sent."""

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        return self.inner.write(buffers, end and bool(buffers))


class EndOvertakesData(LayeredSubstream):
    def on_data(self, data: Buffer, /) -> None:
        kept = bytes(data)
        soon(lambda: self.receiver.on_data(kept))


class EndsTwice(LayeredSubstream):
    def on_end(self) -> None:
        super().on_end()
        soon(super().on_end)


class EndsWithinTheCall(LayeredSubstream):
    """Where nothing waits, the peer is told at once."""

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        twin = getattr(self.inner, "twin", None)
        if end and not any(buffers) and twin is not None and isinstance(twin.receiver, EndsWithinTheCall):
            twin.receiver.on_end()
        return self.inner.write(buffers, end)

    told = False

    def on_end(self) -> None:
        if not self.told:
            self.told = True
            super().on_end()


class TakesWritesAfterTheEnd(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        try:
            return super().write(buffers, end)
        except ResourceClosed:
            return True


class EndLostByTheAcceptor(LayeredSubstream):
    """What was accepted cannot be ended."""

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        accepted = "/dialer-" in self.connection.peer_address
        return self.inner.write(buffers, end and not accepted)


# Resets and stops.


class SwallowsReset(LayeredSubstream):
    def reset(self, code: int) -> None:
        pass


class CutsResetCodes(LayeredSubstream):
    """Codes of 16 bits."""

    def reset(self, code: int) -> None:
        self.inner.reset(code & 0xFFFF)


class CutsStopCodes(LayeredSubstream):
    def stop(self, code: int) -> None:
        self.inner.stop(code & 0xFFFF)


class TakesZeroForNoCode(LayeredSubstream):
    def reset(self, code: int) -> None:
        self.inner.reset(code or 1)


class SwallowsStop(LayeredSubstream):
    def on_stop(self, code: int, /) -> None:
        pass


class EndsAfterReset(LayeredSubstream):
    def on_reset(self, code: int, /) -> None:
        super().on_reset(code)
        soon(self.receiver.on_end)


class ResetsTwice(LayeredSubstream):
    def on_reset(self, code: int, /) -> None:
        super().on_reset(code)
        soon(lambda: self.receiver.on_reset(code))


class SilentAfterStop(LayeredSubstream):
    """After our stop it tells neither of an end nor of a reset."""

    stopped = False

    def stop(self, code: int) -> None:
        self.stopped = True
        super().stop(code)

    def on_end(self) -> None:
        if not self.stopped:
            super().on_end()

    def on_reset(self, code: int, /) -> None:
        if not self.stopped:
            super().on_reset(code)


class ReadsOnAfterStop(LayeredSubstream):
    """The peer is told of a stop, but what it wrote until it heard of it is delivered."""

    stopping = False

    def stop(self, code: int) -> None:
        if not self.stopping:
            self.stopping = True
            asyncio.get_running_loop().call_later(0.05, lambda: self.inner.stop(code))


class ResetsBothDirections(LayeredSubstream):
    def on_reset(self, code: int, /) -> None:
        super().on_reset(code)
        self.inner.reset(code)


class ResetsTheConnection(LayeredSubstream):
    def reset(self, code: int) -> None:
        self.connection.close(code, "a substream was reset")


class ResetsAfterTheQueue(LayeredSubstream):
    """A reset stands in line behind what is queued."""

    full = False
    code: int | None = None

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        if self.code is not None:
            return True
        room = self.inner.write(buffers, end)
        self.full = not room
        return room

    def on_writable(self) -> None:
        self.full = False
        if self.code is not None:
            self.inner.reset(self.code)
        super().on_writable()

    def reset(self, code: int) -> None:
        if self.full:
            self.code = code
        else:
            self.inner.reset(code)


class SecondResetIsAnError(LayeredSubstream):
    given_up = False

    def reset(self, code: int) -> None:
        if self.given_up:
            raise ResourceClosed("this direction of the substream is reset")
        self.given_up = True
        super().reset(code)


class WriteAfterResetIsAnError(SecondResetIsAnError):
    def reset(self, code: int) -> None:
        if not self.given_up:
            super().reset(code)

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        if self.given_up:
            raise ResourceClosed("this direction of the substream is reset")
        return super().write(buffers, end)


class WriteAfterStopIsAnError(LayeredSubstream):
    stopped = False

    def on_stop(self, code: int, /) -> None:
        self.stopped = True
        super().on_stop(code)

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        if self.stopped:
            raise BrokenPipeError("the peer no longer reads")
        return super().write(buffers, end)


class StopCallsBackAtOnce(LayeredSubstream):
    """Our own stop is answered before it returns."""

    stopped = False

    def stop(self, code: int) -> None:
        super().stop(code)
        if not self.stopped:
            self.stopped = True
            self.receiver.on_reset(code)

    def on_reset(self, code: int, /) -> None:
        if not self.stopped:
            super().on_reset(code)

    def on_end(self) -> None:
        if not self.stopped:
            super().on_end()


ENDS = (
    native(
        "ends both directions at once",
        "test_half_close_ends_our_direction_only",
        "test_half_close_from_the_accepting_side",
        "test_half_close_ends_a_stream_in_order",
        substream=EndsBothDirections,
    ),
    native("stops reading at its own end", "test_half_close_ends_our_direction_only", substream=EndStopsReading),
    native("loses an end without data", "test_half_close_without_data", substream=LosesABareEnd),
    native("lets the end overtake data", "test_half_close_comes_behind_all_data", substream=EndOvertakesData),
    native("calls on_end twice", "test_half_close_ends_our_direction_only", substream=EndsTwice),
    native("calls on_end within write", "test_half_close_calls_back_later", substream=EndsWithinTheCall),
    native(
        "takes writes after the end",
        "test_half_close_write_after_the_end_is_resource_closed",
        substream=TakesWritesAfterTheEnd,
    ),
    native(
        "loses the ends of the accepting side",
        "test_half_close_from_the_accepting_side",
        substream=EndLostByTheAcceptor,
    ),
)

RESETS = (
    native("swallows a reset", "test_reset_code_arrives_exactly", substream=SwallowsReset),
    native("cuts reset codes to 16 bits", "test_reset_code_arrives_exactly", substream=CutsResetCodes),
    native("takes reset code 0 for none", "test_reset_code_arrives_exactly", substream=TakesZeroForNoCode),
    native("cuts stop codes to 16 bits", "test_reset_stop_code_arrives_exactly", substream=CutsStopCodes),
    native("swallows a stop", "test_reset_stop_code_arrives_exactly", substream=SwallowsStop),
    native("calls on_end after on_reset", "test_reset_code_arrives_exactly", substream=EndsAfterReset),
    native("calls on_reset twice", "test_reset_is_idempotent", substream=ResetsTwice),
    native("is silent after our stop", "test_reset_stop_silences_the_reader", substream=SilentAfterStop),
    native("delivers data after our stop", "test_reset_stop_silences_the_reader", substream=ReadsOnAfterStop),
    native("resets both directions", "test_reset_leaves_the_rest_alone", substream=ResetsBothDirections),
    native(
        "resets the connection",
        "test_reset_leaves_the_rest_alone",
        "test_reset_cancels_a_call_mid_write",
        substream=ResetsTheConnection,
    ),
    native("sends its queue before a reset", "test_reset_drops_what_is_queued", substream=ResetsAfterTheQueue),
    native("raises at a second reset", "test_reset_is_idempotent", substream=SecondResetIsAnError),
    native("raises at a write after reset", "test_reset_makes_writes_a_no_op", substream=WriteAfterResetIsAnError),
    native("raises at a write after on_stop", "test_reset_makes_writes_a_no_op", substream=WriteAfterStopIsAnError),
    native("answers a stop within the call", "test_reset_calls_back_later", substream=StopCallsBackAtOnce),
)

ENDING_FAULTS: Final[tuple[Mutation, ...]] = (*ENDS, *RESETS)
