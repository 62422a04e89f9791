"""The reader of the control substream: what it calls depends on the bytes alone, never on how they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.wire.control import INLINE_ALWAYS_BYTES, ControlReader
from echostream_core.wire.frames import (
    CALL,
    CALL_HEAD,
    FINAL,
    FULL_NAME,
    IGNORABLE,
    NAMED,
    PREFIX,
    FrameType,
    SubstreamKind,
    encode_cancel,
    encode_goaway,
    encode_ping,
    encode_pong,
    grease_frame,
)
from echostream_core.wire.limits import MAX_INTERNED, Limits
from echostream_core.wire.message import encode_call_head, encode_response_head
from echostream_core.wire.states import LEGAL, By
from tests.support.feeding import FEEDINGS, Feed, cuts, feed_byte_by_byte, feed_whole
from tests.unit.wire.control_recorder import MINIMAL_SETUP, ControlRecorder, Outcome, control_reader, outcome_of

U32 = st.integers(0, 0xFFFF_FFFF)
MAX_FRAME_BYTES = INLINE_ALWAYS_BYTES + 8_192 + 512
"""What docs/wire.md section 4 allows with the default limits."""


def named_call(
    number: int, method: str, method_id: int = FULL_NAME, payload: bytes = b"", metadata: bytes = b""
) -> bytes:
    return encode_call_head(number, 0, method.encode(), method_id, 1, 2, metadata, len(payload)) + payload


def short_call(number: int, method_id: int, payload: bytes = b"", metadata: bytes = b"") -> bytes:
    length = 12 + len(metadata) + len(payload)
    head = CALL_HEAD.pack(CALL, 0, len(metadata), length, number, 0, method_id, 1, 2)
    return head + metadata + payload


def frame(kind: int, body: bytes = b"", *, flags: int = 0, aux: int = 0) -> bytes:
    return PREFIX.pack(kind, flags, aux, len(body)) + body


# Names.


@pytest.mark.parametrize("feed", FEEDINGS)
def test_a_name_is_numbered_once_and_then_left_out(feed: Feed) -> None:
    data = named_call(0, "a.b", 0) + named_call(2, "c.d", 1) + short_call(4, 0) + short_call(6, 1) + short_call(8, 0)
    calls, error = outcome_of(feed, data, encode_ping(1))
    assert error is None
    assert [call[2] for call in calls[:-1]] == ["a.b", "c.d", "a.b", "c.d", "a.b"]


def test_a_name_in_full_takes_no_number() -> None:
    data = named_call(0, "a.b") + named_call(2, "c.d", 0) + short_call(4, 0)
    calls, error = outcome_of(feed_whole, data)
    assert (error, [call[2] for call in calls]) == (None, ["a.b", "c.d", "c.d"])


def test_the_same_name_may_have_two_numbers() -> None:
    calls, error = outcome_of(feed_whole, named_call(0, "a", 0) + named_call(2, "a", 1) + short_call(4, 1))
    assert (error, [call[2] for call in calls]) == (None, ["a", "a", "a"])


@pytest.mark.parametrize("feed", [feed_whole, feed_byte_by_byte])
def test_the_number_of_names_is_limited(feed: Feed) -> None:
    reader, recorder = control_reader()
    feed(reader.receive, b"".join(named_call(2 * number, f"m{number}", number) for number in range(MAX_INTERNED)), b"")
    feed(reader.receive, short_call(0, MAX_INTERNED - 1), b"")
    feed(reader.receive, named_call(2, "in.full"), b"")
    assert [call[2] for call in recorder.calls[-2:]] == [f"m{MAX_INTERNED - 1}", "in.full"]
    with pytest.raises(RemoteProtocolError, match=str(MAX_INTERNED)) as caught:
        feed(reader.receive, named_call(4, "one.more", MAX_INTERNED), b"")
    assert caught.value.close_code == CloseCode.LIMIT


# Sizes.


@pytest.mark.parametrize("feed", FEEDINGS)
def test_an_in_line_call_of_the_size_that_is_always_allowed_is_taken(feed: Feed) -> None:
    for limits in (Limits(), Limits(inline_max_bytes=0, inline_max_native_bytes=0)):
        payload = bytes(INLINE_ALWAYS_BYTES)
        calls, error = outcome_of(feed, named_call(0, "n" * 255, 0, payload, bytes(200)), b"", limits=limits)
        assert (error, len(calls)) == (None, 1)


@pytest.mark.parametrize("feed", FEEDINGS)
def test_a_higher_in_line_limit_is_kept(feed: Feed) -> None:
    limits = Limits(inline_max_bytes=40_000)
    calls, error = outcome_of(feed, named_call(0, "m", 0, bytes(40_000)), encode_ping(1), limits=limits)
    assert (error, [call[0] for call in calls]) == (None, ["call", "ping"])


def test_the_largest_frame_is_taken() -> None:
    data = named_call(0, "m", 0) + short_call(2, 0, bytes(MAX_FRAME_BYTES - 12))
    assert outcome_of(feed_whole, data)[1] is None
    reader, recorder = control_reader()
    for piece in cuts(data, [1_000]):
        reader.receive(piece)
    assert len(recorder.calls) == 2


OVER = {
    "call": short_call(2, 0, bytes(MAX_FRAME_BYTES - 11)),
    "named call": named_call(2, "m", FULL_NAME, bytes(MAX_FRAME_BYTES - 13)),
    "response": encode_response_head(2, 0, 1, MAX_FRAME_BYTES - 7) + bytes(MAX_FRAME_BYTES - 7),
    "ping": frame(FrameType.PING, bytes(MAX_FRAME_BYTES + 1)),
    "ignorable": frame(0x1A, bytes(MAX_FRAME_BYTES + 1), flags=IGNORABLE),
}


@pytest.mark.parametrize("cut", [1, 1_000, 1_000_000])
@pytest.mark.parametrize("kind", OVER)
def test_a_frame_over_the_limit_is_refused_however_it_arrives(kind: str, cut: int) -> None:
    reader, recorder = control_reader()
    reader.receive(named_call(0, "m", 0))
    recorder.calls.clear()
    with pytest.raises(RemoteProtocolError) as caught:
        for piece in cuts(OVER[kind] + encode_ping(1), [cut]):
            reader.receive(piece)
    assert caught.value.close_code == CloseCode.LIMIT
    assert recorder.calls == []


@pytest.mark.parametrize("kind", OVER)
def test_a_frame_over_the_limit_is_refused_by_its_header(kind: str) -> None:
    reader, _ = control_reader()
    with pytest.raises(RemoteProtocolError) as caught:
        reader.receive(OVER[kind][:8])
    assert caught.value.close_code == CloseCode.LIMIT


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (FrameType.CANCEL, (7).to_bytes(4, "little")),
        (FrameType.PING, (7).to_bytes(8, "little")),
        (FrameType.PONG, (7).to_bytes(8, "little")),
        (FrameType.GOAWAY, (7).to_bytes(4, "little") + bytes(4)),
    ],
)
def test_bytes_behind_the_known_fields_are_skipped(kind: FrameType, body: bytes) -> None:
    flags = FINAL if kind is FrameType.GOAWAY else 0
    plain, error = outcome_of(feed_whole, frame(kind, body, flags=flags))
    longer, longer_error = outcome_of(feed_byte_by_byte, frame(kind, body + b"xyz", flags=flags))
    assert (error, longer_error) == (None, None)
    assert [call[:2] for call in plain] == [call[:2] for call in longer]


# Types.


@pytest.mark.parametrize("kind", range(256))
def test_a_type_is_known_ignorable_or_an_error(kind: int) -> None:
    data = frame(kind, bytes(12))
    calls, error = outcome_of(feed_byte_by_byte, data)
    if kind in LEGAL[(SubstreamKind.CONTROL, By.OPENER)]:
        expected = CloseCode.PROTOCOL if kind in (FrameType.SETUP, FrameType.CALL) else None
        assert error == expected
    else:
        assert (calls, error) == ([], CloseCode.PROTOCOL)
        ignorable = frame(kind, bytes(12), flags=IGNORABLE)
        assert outcome_of(feed_byte_by_byte, ignorable) == ([("ignored", kind)], None)


# Holding.


@pytest.mark.parametrize("cut", [1, 5, 1_000])
def test_what_is_held_back_is_read_later_in_its_order(cut: int) -> None:
    reader, recorder = control_reader()
    data = named_call(0, "m", 0, b"x" * 50) + short_call(2, 0, b"y" * 50) + encode_ping(3)
    reader.hold()
    for piece in cuts(data, [cut]):
        reader.receive(piece)
    assert recorder.calls == []
    assert reader.held_bytes == len(data)
    reader.release()
    assert [call[0] for call in recorder.calls] == ["call", "call", "ping"]
    assert reader.held_bytes == 0
    reader.receive(encode_pong(4))
    assert recorder.calls[-1] == ("pong", 4)


class HoldsAtSetup(ControlRecorder):
    """As a session with an authenticator does: what comes behind SETUP waits."""

    reader: ControlReader

    def on_setup(self, setup: object) -> None:
        self.calls.append(("setup",))
        self.reader.hold()


@pytest.mark.parametrize("cut", [1, 7, 15, 16, 1_000])
def test_nothing_behind_setup_is_read_before_the_release(cut: int) -> None:
    recorder = HoldsAtSetup()
    recorder.reader = reader = ControlReader(recorder, Limits())
    behind = named_call(0, "m", 0) + encode_ping(1)
    for piece in cuts(MINIMAL_SETUP + behind, [cut]):
        reader.receive(piece)
    assert recorder.calls == [("setup",)]
    assert reader.held_bytes == len(behind)
    reader.release()
    assert [call[0] for call in recorder.calls] == ["setup", "call", "ping"]


class HoldsAtPing(ControlRecorder):
    """Holds again whenever a PING comes."""

    reader: ControlReader

    def on_ping(self, value: int) -> None:
        super().on_ping(value)
        self.reader.hold()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_holding_again_keeps_the_order(sizes: list[int]) -> None:
    recorder = HoldsAtPing()
    recorder.reader = reader = ControlReader(recorder, Limits())
    reader.receive(MINIMAL_SETUP)
    recorder.calls.clear()
    values = list(range(6))
    for piece in cuts(b"".join(encode_ping(value) + encode_pong(value) for value in values), sizes):
        reader.receive(piece)
    for _ in values:
        reader.release()
    names = [call[1] for call in recorder.calls if call[0] == "ping"]
    assert names == values


# Random sequences, legal and not.


@st.composite
def sequences(draw: st.DrawFn) -> tuple[bytes, list[tuple[object, ...]]]:
    """A legal sequence of frames, and the calls that it stands for."""
    data: list[bytes] = []
    calls: list[tuple[object, ...]] = []
    names: list[str] = []
    for _ in range(draw(st.integers(0, 12))):
        number = draw(U32)
        payload = draw(st.binary(max_size=50))
        match draw(
            st.sampled_from(["intern", "short", "full", "response", "cancel", "ping", "pong", "goaway", "grease"])
        ):
            case "intern" | "full" as how:
                name = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
                method_id = FULL_NAME
                if how == "intern":
                    method_id = len(names)
                    names.append(name)
                metadata = draw(st.binary(max_size=20))
                data.append(named_call(number, name, method_id, payload, metadata))
                calls.append(("call", number, name, 1, 0, 2, metadata.hex() or None, payload.hex()))
            case "short":
                if names:
                    method_id = draw(st.integers(0, len(names) - 1))
                    metadata = draw(st.sampled_from([b"", b"", b"meta"]))
                    data.append(short_call(number, method_id, payload, metadata))
                    shown = metadata.hex() or None
                    calls.append(("call", number, names[method_id], 1, 0, 2, shown, payload.hex()))
            case "response":
                flags, codec = draw(st.integers(0, 1)), draw(st.integers(0, 255))
                data.append(encode_response_head(number, flags, codec, len(payload)) + payload)
                calls.append(("response", number, flags, codec, payload.hex()))
            case "cancel":
                data.append(encode_cancel(number))
                calls.append(("cancel", number))
            case "ping":
                data.append(encode_ping(number))
                calls.append(("ping", number))
            case "pong":
                data.append(encode_pong(number))
                calls.append(("pong", number))
            case "goaway":
                last = draw(st.one_of(st.none(), U32))
                data.append(encode_goaway(last, number, "why"))
                calls.append(("goaway", last, number, "why"))
            case _:
                data.append(grease_frame(number))
                calls.append(("ignored", data[-1][0]))
    return b"".join(data), calls


def outcome_in_pieces(data: bytes, sizes: list[int]) -> Outcome:
    reader, recorder = control_reader()
    try:
        for piece in cuts(data, sizes):
            reader.receive(piece)
    except RemoteProtocolError as error:
        return recorder.calls, error.close_code
    return recorder.calls, None


@given(sequences(), st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_legal_sequences_are_read_as_they_were_written(
    sequence: tuple[bytes, list[tuple[object, ...]]], sizes: list[int]
) -> None:
    data, calls = sequence
    assert outcome_of(feed_whole, data) == (calls, None)
    assert outcome_of(feed_byte_by_byte, data) == (calls, None)
    assert outcome_in_pieces(data, sizes) == (calls, None)


@given(sequences(), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.data())
@settings(max_examples=300)
def test_a_spoiled_sequence_is_the_peers_fault_however_it_is_cut(
    sequence: tuple[bytes, list[tuple[object, ...]]], sizes: list[int], data: st.DataObject
) -> None:
    spoiled = bytearray(sequence[0])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(spoiled)))
        match data.draw(st.sampled_from(["change", "insert", "remove"])):
            case "insert":
                spoiled[position:position] = data.draw(st.binary(max_size=12))
            case "change" if position < len(spoiled):
                spoiled[position] = data.draw(st.integers(0, 255))
            case _:
                del spoiled[position : position + data.draw(st.integers(0, 12))]
    whole = outcome_of(feed_whole, bytes(spoiled))
    assert outcome_in_pieces(bytes(spoiled), sizes) == whole
    assert outcome_of(feed_byte_by_byte, bytes(spoiled)) == whole


@given(st.binary(max_size=200), st.booleans(), st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_random_bytes_raise_nothing_but_the_peers_fault(data: bytes, known: bool, sizes: list[int]) -> None:
    reader, recorder = control_reader(setup=known)
    try:
        for piece in cuts(data, sizes):
            reader.receive(piece)
    except RemoteProtocolError:
        return
    if not known:
        assert all(call[0] == "setup" for call in recorder.calls[:1])


def test_a_payload_is_lent_not_given() -> None:
    kept: list[memoryview] = []

    class Keeps(ControlRecorder):
        def on_call(self, *fields: object) -> None:
            assert isinstance(fields[-1], memoryview)
            kept.append(fields[-1])

    reader = ControlReader(Keeps(), Limits())
    buffer = bytearray(MINIMAL_SETUP + named_call(0, "m", FULL_NAME, b"payload"))
    reader.receive(buffer)
    assert bytes(kept[0]) == b"payload"
    assert kept[0].obj is buffer, "nothing was copied"


def test_nothing_that_is_kept_refers_to_the_buffer() -> None:
    reader, recorder = control_reader()
    data = named_call(0, "m", 0, b"payload", b"meta")
    for byte in data:
        piece = bytearray((byte,))
        reader.receive(piece)
        piece[0] = 0
    assert recorder.calls == [("call", 0, "m", 1, 0, 2, b"meta".hex(), b"payload".hex())]


def test_flags_without_a_meaning_are_ignored() -> None:
    data = frame(FrameType.PING, (1).to_bytes(8, "little"), flags=0x7E, aux=5)
    response = frame(FrameType.RESPONSE, bytes(4) + b"\x01\xff\xff\xff" + b"5", aux=9)
    calls, error = outcome_of(feed_whole, data + response)
    assert (calls, error) == ([("ping", 1), ("response", 0, 0, 1, b"5".hex())], None)


@pytest.mark.parametrize("flags", [NAMED | 0x40, 0x40])
def test_flags_of_a_call_without_a_meaning_are_ignored_too(flags: int) -> None:
    reader, recorder = control_reader()
    reader.receive(named_call(0, "m", 0))
    body = short_call(2, FULL_NAME if flags & NAMED else 0)[8:] + (b"\x01m" if flags & NAMED else b"")
    reader.receive(frame(CALL, body, flags=flags))
    assert [call[2] for call in recorder.calls] == ["m", "m"]
