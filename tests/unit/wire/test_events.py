"""The events substream: what is written is read, in whatever pieces, and what breaks a rule is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.wire.events import (
    EVENT_HEAD,
    MAX_ADDRESSED,
    POLICIES,
    address_event,
    encode_dropped,
    encode_event,
    encode_sync,
    encode_topic,
)
from echostream_core.wire.frames import FULL_NAME, IGNORABLE, NAMED, PREFIX, FrameType
from echostream_core.wire.limits import MAX_INTERNED, Limits
from tests.support.feeding import FEEDINGS, Feed, cuts
from tests.unit.wire.events_recorder import events_reader

SMALL = Limits(max_message_bytes=1_024, inline_max_bytes=1_024)
TALK = b"".join(
    (
        encode_topic(b"chat.lobby", 3),
        encode_event(b"", 3, 1, b'"hi"'),
        b"".join(address_event(encode_event(b"", 3, 1, b"2"), [0, 65_536])),
        encode_event(b"a.b", FULL_NAME, 0, b""),
        b"".join(address_event(encode_event(b"a.b", FULL_NAME, 2, b"x"), [7])),
        encode_dropped(65_536, 1, 7),
        encode_sync(9),
        PREFIX.pack(0x77, IGNORABLE, 0, 3) + b"...",
        encode_event(b"", 3, 1, b"3"),
    )
)
CALLS: list[tuple[object, ...]] = [
    ("event", "chat.lobby", 1, b'"hi"'.hex(), []),
    ("event", "chat.lobby", 1, b"2".hex(), [0, 65_536]),
    ("event", "a.b", 0, "", []),
    ("event", "a.b", 2, b"x".hex(), [7]),
    ("dropped", 65_536, 1, 7),
    ("sync", 9),
    ("event", "chat.lobby", 1, b"3".hex(), []),
]


@pytest.mark.parametrize("feed", FEEDINGS, ids=lambda feed: feed.__name__)
def test_what_is_written_is_read(feed: Feed) -> None:
    reader, recorder = events_reader()
    feed(reader.receive, TALK, encode_sync(1))
    assert recorder.calls == [*CALLS, ("sync", 1)]
    assert reader.between_frames


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 40), max_size=12))
def test_pieces_of_any_size_are_the_same(sizes: list[int]) -> None:
    reader, recorder = events_reader()
    for piece in cuts(TALK, sizes):
        reader.receive(piece)
    assert recorder.calls == CALLS
    assert reader.between_frames


def test_it_is_between_frames_only_at_their_ends() -> None:
    ends = {0}
    position = 0
    while position < len(TALK):
        position += 8 + PREFIX.unpack_from(TALK, position)[3]
        ends.add(position)
    for size in range(len(TALK) + 1):
        reader, _ = events_reader()
        if size:
            reader.receive(memoryview(TALK)[:size])
        assert reader.between_frames == (size in ends), size


def test_addressing_an_event_does_not_copy_its_payload() -> None:
    frame = encode_event(b"", 3, 1, bytes(100_000))
    head, rest = address_event(frame, [1, 2])
    assert isinstance(rest, memoryview)
    assert rest.obj is frame
    assert len(head) == EVENT_HEAD.size + 8


def topic(name: bytes, number: int = 0) -> bytes:
    return PREFIX.pack(FrameType.TOPIC, 0, number, len(name)) + name


def event(body: bytes, flags: int = 0) -> bytes:
    return PREFIX.pack(FrameType.EVENT, flags, 1, len(body)) + body


FULL = FULL_NAME.to_bytes(2, "little")
NO_ONE = b"\0\0"

WRONG: dict[str, tuple[bytes, str]] = {
    "unknown frame": (PREFIX.pack(0x77, 0, 0, 0), "not allowed"),
    "frame of the control substream": (PREFIX.pack(FrameType.PING, 0, 0, 8) + bytes(8), "not allowed"),
    "event without a count": (event(b"\0\0\0"), "at least 4"),
    "topic not introduced": (event(b"\5\0" + NO_ONE), "not introduced"),
    "addresses over the end": (topic(b"a") + event(b"\0\0\2\0" + bytes(7)), "over the frame's end"),
    "too many addresses": (
        topic(b"a") + event(b"\0\0" + (MAX_ADDRESSED + 1).to_bytes(2, "little") + bytes(4 * MAX_ADDRESSED + 4)),
        "over the frame's end",
    ),
    "named without a name": (event(FULL + NO_ONE, NAMED), "is missing"),
    "name cut off": (event(FULL + NO_ONE + b"\5abc", NAMED), "cut off"),
    "name and number": (topic(b"a") + event(b"\0\0" + NO_ONE + b"\1a", NAMED), "number as well"),
    "full name without the flag": (event(FULL + NO_ONE + b"\1a"), "not introduced"),
    "topic number too large": (topic(b"a", MAX_INTERNED), "numbers end"),
    "topic twice": (topic(b"a") + topic(b"b"), "second time"),
    "topic with a star": (topic(b"a.*"), "breaks the rules"),
    "topic with an empty segment": (topic(b"a..b"), "breaks the rules"),
    "topic not UTF-8": (topic(b"\xff\xfe"), "not UTF-8"),
    "empty topic": (topic(b""), "at least 1"),
    "long topic": (topic(b"x" * 256), "breaks the rules"),
    "short DROPPED": (PREFIX.pack(FrameType.DROPPED, 0, 0, 7) + bytes(7), "at least 8"),
    "short SYNC": (PREFIX.pack(FrameType.SYNC, 0, 0, 3) + bytes(3), "at least 4"),
    "event far too large": (PREFIX.pack(FrameType.EVENT, 0, 1, 1 << 31), "at most"),
    "ignorable frame too large": (PREFIX.pack(0x77, IGNORABLE, 0, 1_025), "at most"),
    "payload over max_message_bytes": (topic(b"a") + event(b"\0\0" + NO_ONE + bytes(1_025)), "max_message_bytes"),
}


@pytest.mark.parametrize("feed", FEEDINGS, ids=lambda feed: feed.__name__)
@pytest.mark.parametrize("case", WRONG)
def test_what_breaks_a_rule_is_refused(case: str, feed: Callable[..., None]) -> None:
    data, text = WRONG[case]
    reader, recorder = events_reader(SMALL)
    with pytest.raises(RemoteProtocolError, match=text) as caught:
        feed(reader.receive, data, b"")
    assert caught.value.close_code in (CloseCode.PROTOCOL, CloseCode.LIMIT)
    assert recorder.calls == []


def test_what_is_as_large_as_allowed_is_taken() -> None:
    reader, recorder = events_reader(SMALL)
    reader.receive(topic(b"x" * 255, MAX_INTERNED - 1))
    frame = encode_event(b"", MAX_INTERNED - 1, 1, bytes(1_024))
    for buffer in address_event(frame, list(range(MAX_ADDRESSED))):
        reader.receive(buffer)
    ((_, name, _, payload, numbers),) = recorder.calls
    assert (name, len(str(payload)) // 2, numbers) == ("x" * 255, 1_024, list(range(MAX_ADDRESSED)))


def test_a_large_frame_in_single_bytes_takes_no_more_memory_than_its_size() -> None:
    import tracemalloc

    reader, recorder = events_reader()
    reader.receive(topic(b"a"))
    frame = encode_event(b"", 0, 1, bytes(50_000))
    tracemalloc.start()
    for place in range(len(frame) - 1):
        reader.receive(memoryview(frame)[place : place + 1])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 2 * len(frame)
    reader.receive(memoryview(frame)[-1:])
    assert len(recorder.calls) == 1


def test_the_policies_stand_in_the_order_of_their_numbers() -> None:
    assert POLICIES == ("block", "drop_oldest", "drop_newest", "conflate", "disconnect")
