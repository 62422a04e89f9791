"""The reader of call, response and stream substreams: any size, any cut, and only what the table allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.wire.frames import CALL, DATA, FULL_NAME, IGNORABLE, NAMED, PREFIX, RAW, RESPONSE, SubstreamKind
from echostream_core.wire.message import (
    MessageReader,
    encode_call_head,
    encode_data_head,
    encode_response_head,
    parse_call,
    parse_response,
)
from echostream_core.wire.states import LEGAL, By
from tests.support.feeding import FEEDINGS, Feed, cuts, feed_byte_by_byte, feed_whole

U32 = st.integers(0, 0xFFFF_FFFF)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(lambda name: len(name.encode()) < 256)
MAX_IGNORABLE = 65_536
ITEM = encode_data_head(RAW, 2) + b"hi"


class Recorder:
    """Writes down what the reader calls; a frame longer than ``most`` is refused when it begins."""

    def __init__(self, most: int = 1 << 32) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.skipped = 0
        self.most = most

    def on_frame_begin(self, kind: int, length: int) -> None:
        if length > self.most:
            raise RemoteProtocolError("too long", close_code=CloseCode.LIMIT)
        self.calls.append(("begin", kind, length))

    def on_skipped(self, size: int) -> None:
        self.skipped += size

    def on_frame(self, kind: int, flags: int, aux: int, body: bytes) -> None:
        assert type(body) is bytes, "a body may be kept"
        self.calls.append(("frame", kind, flags, aux, body))


def reader_of(
    kind: SubstreamKind = SubstreamKind.STREAM, by: By = By.ACCEPTOR, most: int = 1 << 32
) -> tuple[MessageReader, Recorder]:
    recorder = Recorder(most)
    return MessageReader(recorder, LEGAL[(kind, by)]), recorder


Outcome = tuple[list[tuple[object, ...]], int, CloseCode | None]
"""The calls, the bytes skipped or -1 after an error, and the error's code."""


def outcome(data: bytes, sizes: list[int], kind: SubstreamKind, by: By) -> Outcome:
    """What a fresh reader makes of ``data`` in pieces of ``sizes``."""
    reader, recorder = reader_of(kind, by, most=1_000)
    try:
        for piece in cuts(data, sizes):
            reader.receive(piece)
    except RemoteProtocolError as error:
        return recorder.calls, -1, error.close_code
    framed = sum(8 + len(call[4]) for call in recorder.calls if call[0] == "frame" and isinstance(call[4], bytes))
    if reader.between_frames:
        assert framed + recorder.skipped == len(data), "every byte is accounted for"
    return recorder.calls, recorder.skipped, None


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 70_000])
def test_an_item_is_assembled_however_it_arrives(feed: Feed, size: int) -> None:
    if feed is feed_byte_by_byte and size > 10_000:
        size = 3_000
    reader, recorder = reader_of()
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    feed(reader.receive, encode_data_head(1, len(body)) + body, ITEM)
    assert recorder.calls == [
        ("begin", DATA, len(body)),
        ("frame", DATA, 0, 1, body),
        ("begin", DATA, 2),
        ("frame", DATA, 0, RAW, b"hi"),
    ]


def test_a_frame_is_announced_by_its_header_alone() -> None:
    reader, recorder = reader_of()
    reader.receive(encode_data_head(1, 0xFFFF_FFFF))
    assert recorder.calls == [("begin", DATA, 0xFFFF_FFFF)]


@pytest.mark.parametrize("feed", FEEDINGS)
def test_a_frame_that_is_refused_when_it_begins_is_refused(feed: Feed) -> None:
    reader, recorder = reader_of(most=1_000)
    feed(reader.receive, encode_data_head(1, 1_000) + bytes(1_000), b"")
    with pytest.raises(RemoteProtocolError) as caught:
        feed(reader.receive, encode_data_head(1, 1_001), b"")
    assert caught.value.close_code == CloseCode.LIMIT
    assert len(recorder.calls) == 2


def test_between_frames_tells_a_clean_end_from_a_torn_one() -> None:
    data = ITEM + PREFIX.pack(0x1A, IGNORABLE, 0, 3) + b"abc" + ITEM
    reader, _ = reader_of()
    clean = {0}
    for position, byte in enumerate(data, 1):
        reader.receive(bytes((byte,)))
        if reader.between_frames:
            clean.add(position)
    assert clean == {0, 10, 21, 31}


@pytest.mark.parametrize("feed", FEEDINGS)
def test_an_unknown_ignorable_frame_is_skipped_up_to_a_limit(feed: Feed) -> None:
    reader, recorder = reader_of()
    size = 40 if feed is feed_byte_by_byte else MAX_IGNORABLE
    feed(reader.receive, PREFIX.pack(0x7A, IGNORABLE, 9, size) + bytes(size), ITEM)
    assert recorder.calls == [("begin", DATA, 2), ("frame", DATA, 0, RAW, b"hi")]
    assert recorder.skipped == 8 + size
    with pytest.raises(RemoteProtocolError) as caught:
        feed(reader.receive, PREFIX.pack(0x7A, IGNORABLE, 9, MAX_IGNORABLE + 1), b"")
    assert caught.value.close_code == CloseCode.LIMIT


ROWS = [row for row in sorted(LEGAL, key=str) if row[0] is not SubstreamKind.CONTROL]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0].name}-{row[1].value}")
def test_only_the_frames_of_its_row_travel_on_a_substream(row: tuple[SubstreamKind, By]) -> None:
    for kind in range(256):
        reader, recorder = reader_of(*row)
        frame = PREFIX.pack(kind, 0, 0, 1) + b"x"
        if kind in LEGAL[row]:
            reader.receive(frame)
            assert recorder.calls[0] == ("begin", kind, 1)
        else:
            with pytest.raises(RemoteProtocolError, match=f"{kind:#04x}"):
                reader.receive(frame)
            assert recorder.calls == []


def frames() -> st.SearchStrategy[bytes]:
    """Well-formed frames of any type, and sometimes raw bytes."""
    frame = st.builds(
        lambda kind, flags, aux, body: PREFIX.pack(kind, flags, aux, len(body)) + body,
        st.one_of(st.sampled_from([CALL, RESPONSE, DATA]), st.integers(0, 255)),
        st.sampled_from([0, NAMED, IGNORABLE, 0xFF]),
        st.integers(0, 0xFFFF),
        st.binary(max_size=60),
    )
    return st.one_of(frame, frame, frame, st.binary(max_size=20))


@given(
    st.lists(frames(), max_size=6).map(b"".join),
    st.lists(st.integers(1, 30), max_size=6),
    st.sampled_from(ROWS),
)
def test_how_bytes_are_cut_changes_nothing(data: bytes, sizes: list[int], row: tuple[SubstreamKind, By]) -> None:
    whole = outcome(data, [max(1, len(data))], *row)
    assert outcome(data, sizes, *row) == whole
    assert outcome(data, [1], *row) == whole


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=8), st.lists(st.integers(1, 50)))
def test_legal_sequences_arrive_as_they_were_written(items: list[tuple[int, bytes]], sizes: list[int]) -> None:
    reader, recorder = reader_of()
    data = b"".join(encode_data_head(codec, len(body)) + body for codec, body in items)
    for piece in cuts(data, sizes):
        reader.receive(piece)
    assert [call[3:] for call in recorder.calls if call[0] == "frame"] == items
    assert reader.between_frames


# The fields of CALL and RESPONSE.


@given(U32, U32, NAMES, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60), st.binary(max_size=60))
def test_a_call_arrives_as_it_was_written(
    number: int, timeout: int, name: str, codec: int, level: int, metadata: bytes, payload: bytes
) -> None:
    encoded = name.encode()
    head = encode_call_head(number, timeout, encoded, FULL_NAME, codec, level, metadata, len(payload))
    reader, recorder = reader_of(SubstreamKind.CALL, By.OPENER)
    feed_whole(reader.receive, head + payload)
    kind, flags, aux, body = recorder.calls[-1][1:]
    assert kind == CALL
    assert isinstance(flags, int) and isinstance(aux, int) and isinstance(body, bytes)
    found = parse_call(flags, aux, body)
    assert (*found[:5], *[None if part is None else bytes(part) for part in found[5:]]) == (
        number,
        timeout,
        name,
        codec,
        level,
        metadata or None,
        payload,
    )


@given(U32, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60))
def test_a_response_arrives_as_it_was_written(number: int, flags: int, codec: int, payload: bytes) -> None:
    reader, recorder = reader_of(SubstreamKind.CALL, By.ACCEPTOR)
    feed_whole(reader.receive, encode_response_head(number, flags, codec, len(payload)) + payload)
    kind, found_flags, aux, body = recorder.calls[-1][1:]
    assert (kind, found_flags, aux) == (RESPONSE, flags, 0)
    assert isinstance(body, bytes)
    found_number, found_codec, found_payload = parse_response(body)
    assert (found_number, found_codec, bytes(found_payload)) == (number, codec, payload)


@given(st.integers(0, 255), st.integers(0, 80), st.binary(max_size=60))
def test_random_bodies_raise_nothing_but_the_peers_fault(flags: int, aux: int, body: bytes) -> None:
    try:
        number, _, name, *_, payload = parse_call(flags, aux, body)
    except RemoteProtocolError:
        pass
    else:
        assert flags & NAMED
        assert number == int.from_bytes(body[:4], "little")
        assert 12 + aux + 1 + len(name.encode()) + len(payload) == len(body)
    try:
        parse_response(body)
    except RemoteProtocolError:
        assert len(body) < 8


def test_a_name_may_have_255_bytes() -> None:
    head = encode_call_head(0, 0, b"n" * 255, FULL_NAME, 0, 2, b"", 0)
    reader, recorder = reader_of(SubstreamKind.CALL, By.OPENER)
    reader.receive(head)
    body = recorder.calls[-1][4]
    assert isinstance(body, bytes)
    assert parse_call(NAMED, 0, body)[2] == "n" * 255
    with pytest.raises(ValueError, match="256"):
        encode_call_head(0, 0, b"n" * 256, FULL_NAME, 0, 2, b"", 0)
