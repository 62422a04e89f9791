"""Properties of the mux under random use: nothing is lost, nothing crashes, cutting has no meaning."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from echostream_core.errors import RemoteProtocolError
from echostream_core.types import Priority
from echostream_core.wire.limits import Limits
from echostream_core.wire.mux_frames import (
    HEADER,
    encode_close,
    encode_credit,
    encode_data,
    encode_reset,
    encode_stop,
    encode_unknown,
)
from echostream_core.wire.substream import ENDED, HIGH_WATER_BYTES, RECEIVING, UNOPENED, CarriedSubstream
from tests.unit.wire.mux_recorder import Side, listener

numbers = st.integers(0, 12)
frames_of_any_kind = st.one_of(
    st.builds(
        lambda number, body, opens, ends: encode_data(number, body, opens=opens, ends=ends),
        numbers,
        st.binary(max_size=40),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(encode_credit, numbers, st.integers(0, 1 << 40)),
    st.builds(encode_reset, numbers, st.integers(0, 20)),
    st.builds(encode_stop, numbers, st.integers(0, 20)),
    st.builds(encode_unknown, st.integers(7, 15), numbers, st.binary(max_size=40)),
    st.builds(encode_close, st.integers(0, 20), st.text(max_size=20)),
    st.builds(HEADER.pack, st.integers(0, 0xFFFF_FFFF), numbers),
    st.binary(max_size=12),
)


def outcome(data: bytes, cuts: list[int], limits: Limits) -> tuple[object, ...]:
    """Everything that can be seen from outside after ``data``, cut at ``cuts``, has been received."""
    side = listener(limits)
    error = None
    try:
        for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
            side.mux.receive(data[start:stop])
    except RemoteProtocolError as caught:
        error = (str(caught), caught.close_code)
    return side.events, error, side.mux.refused, side.mux.ignored, side.mux.resets_received, set(side.mux.live)


@settings(max_examples=400)
@given(st.lists(frames_of_any_kind, max_size=25), st.data())
def test_a_receiver_answers_any_bytes_with_calls_or_an_error_and_cutting_changes_nothing(
    parts: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    limits = Limits(max_streams=4)
    expected = outcome(whole, [], limits)
    assert outcome(whole, cuts, limits) == expected
    assert outcome(whole, list(range(1, len(whole))), limits) == expected


@dataclass(eq=False)
class Flow:
    """What one side wrote on one substream, and what its reader must see of it in the end."""

    side: int
    stream: CarriedSubstream
    written: bytearray = field(default_factory=bytearray)
    ended: bool = False
    code: int | None = None


class TwoMuxes(RuleBasedStateMachine):
    """Two muxes back to back over a pipe that loses nothing but cuts as it likes; users that do as they like."""

    def __init__(self) -> None:
        super().__init__()
        limits = Limits(session_window_bytes=300_000)
        self.sides = (Side("dialer", limits, consumes=False), Side("listener", limits, consumes=False))
        self.wires = (bytearray(), bytearray())  # from each side to the other
        self.flows: list[Flow] = []
        self.counter = 0

    def some_flow(self, pick: int) -> Flow | None:
        return self.flows[pick % len(self.flows)] if self.flows else None

    @rule(side=st.integers(0, 1), priority=st.sampled_from(list(Priority)[1:]))
    def open(self, side: int, priority: Priority) -> None:
        self.flows.append(Flow(side, self.sides[side].open(priority)))

    @rule()
    @precondition(lambda self: self.sides[0].mux.control is None)
    def open_control(self) -> None:
        self.flows.append(Flow(0, self.sides[0].open(Priority.CONTROL)))

    @rule(pick=st.integers(0, 99), sizes=st.lists(st.integers(0, 40_000), max_size=4), end=st.booleans())
    def write(self, pick: int, sizes: list[int], end: bool) -> None:
        flow = self.some_flow(pick)
        if flow is None or flow.ended:
            return
        buffers = []
        for size in sizes:
            self.counter += 1
            buffers.append(self.counter.to_bytes(4, "little") * (size // 4))
        room = flow.stream.write(buffers, end)
        assert room == (flow.stream.queued <= HIGH_WATER_BYTES)
        if flow.code is None:
            flow.written += b"".join(buffers)
            flow.ended = end

    @rule(pick=st.integers(0, 99), code=st.integers(0, 20))
    def reset(self, pick: int, code: int) -> None:
        flow = self.some_flow(pick)
        if flow is not None and flow.code is None and flow.stream.sending < ENDED:
            flow.stream.reset(code)
            flow.code = code

    @rule(side=st.integers(0, 1), most=st.integers(1, 100_000))
    def pump(self, side: int, most: int) -> None:
        self.wires[side].extend(b"".join(self.sides[side].mux.next_buffers(most)))

    @rule(side=st.integers(0, 1), size=st.integers(1, 100_000))
    def carry(self, side: int, size: int) -> None:
        data = bytes(self.wires[side][:size])
        del self.wires[side][:size]
        self.sides[1 - side].mux.receive(data)

    @rule(side=st.integers(0, 1), share=st.floats(0, 1))
    def consume(self, side: int, share: float) -> None:
        for reader in self.sides[side].recorder.readers.values():
            window = reader.stream.window
            if window is not None:
                reader.stream.consume(int((window.received - window.consumed) * share))

    @invariant()
    def what_arrives_is_a_beginning_of_what_was_written(self) -> None:
        for flow in self.flows:
            assert flow.written.startswith(self.arrived(flow))

    @invariant()
    def nobody_holds_more_than_a_window(self) -> None:
        for side in self.sides:
            assert side.mux._budget.left >= 0
            for reader in side.recorder.readers.values():
                window = reader.stream.window
                if window is not None and reader.stream.receiving == RECEIVING:
                    assert window.received - window.consumed <= window.size

    def arrived(self, flow: Flow) -> bytes:
        reader = self.sides[1 - flow.side].recorder.readers.get(flow.stream.id)
        return bytes(reader.data) if reader is not None and flow.stream.id != UNOPENED else b""

    def teardown(self) -> None:
        """When everybody reads, everything arrives, each direction ends as its writer ended it, and no more is left."""
        while any(self.wires) or any(side.mux.pending for side in self.sides):
            for side in (0, 1):
                self.wires[side].extend(self.sides[side].output())
                self.carry(side, len(self.wires[side]))
                self.consume(1 - side, 1.0)
        for flow in self.flows:
            events = self.sides[1 - flow.side].events
            number = flow.stream.id
            if flow.code is None:
                assert self.arrived(flow) == flow.written
                assert (("end", number) in events) == flow.ended
            elif number != UNOPENED:
                assert events.count(("reset", number, flow.code)) == 1


TwoMuxes.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTwoMuxes = TwoMuxes.TestCase
