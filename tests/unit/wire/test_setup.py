"""SETUP: what may stand in it, what must, and how much a stranger may send before being known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_core.errors import CloseCode, LimitExceeded, RemoteProtocolError
from echostream_core.wire.frames import PREFIX, FrameType, encode_ping
from echostream_core.wire.limits import INITIAL_MAX_CALLS, Limits
from echostream_core.wire.setup import Setup, decode_setup, encode_setup
from echostream_core.wire.varint import MAX_VARINT, encode_bytes, encode_varint
from tests.support.feeding import FEEDINGS, Feed
from tests.unit.wire.control_recorder import control_reader, outcome_of

LIMITS = Limits()
NUMBERS = st.integers(0, MAX_VARINT)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
CODECS = encode_bytes(b"json")

setups = st.builds(
    Setup,
    codecs=st.lists(TEXTS.filter(lambda name: name != "json"), max_size=6, unique=True).map(
        lambda names: ("json", *names)
    ),
    capabilities=NUMBERS,
    max_message_bytes=NUMBERS,
    max_concurrent_calls=st.integers(INITIAL_MAX_CALLS, MAX_VARINT),
    keepalive_floor_ms=NUMBERS,
    idle_limit_ms=NUMBERS,
    inline_max_bytes=NUMBERS,
    credentials=st.dictionaries(TEXTS, TEXTS, max_size=4),
    agent=TEXTS,
    name=TEXTS,
)


def parameter(key: int, value: bytes) -> bytes:
    return encode_varint(key) + encode_bytes(value)


def body_of(frame: bytes) -> bytes:
    kind, flags, aux, length = PREFIX.unpack_from(frame)
    assert (kind, flags, aux, length) == (FrameType.SETUP, 0, 0, len(frame) - 8)
    return frame[8:]


@given(setups, st.integers(0, 0xFFFF_FFFF))
def test_setup_arrives_as_it_was_written(setup: Setup, grease: int) -> None:
    body = body_of(encode_setup(setup, LIMITS, grease))
    assert decode_setup(body) == setup
    assert decode_setup(memoryview(b"\xee" + body + b"\xee")[1:-1]) == setup


@pytest.mark.parametrize("feed", FEEDINGS)
def test_setup_is_read_however_it_arrives(feed: Feed) -> None:
    setup = Setup(codecs=("json",), credentials={"token": "x"}, agent="test")
    reader, recorder = control_reader(setup=False)
    feed(reader.receive, encode_setup(setup, LIMITS, 12345), encode_ping(1))
    assert recorder.setup == setup
    assert recorder.calls[1:] == [("ping", 1)]


@given(st.integers(0, 0xFFFF_FFFF))
def test_grease_is_a_parameter_that_nobody_knows(draw: int) -> None:
    plain = body_of(encode_setup(Setup(codecs=("json",)), LIMITS))
    greased = body_of(encode_setup(Setup(codecs=("json",)), LIMITS, draw))
    assert decode_setup(greased) == decode_setup(plain)
    assert (greased == plain) == (draw == 0)


def test_credentials_are_in_no_representation() -> None:
    assert "hunter2" not in repr(Setup(codecs=("json",), credentials={"token": "hunter2"}))


def test_setup_is_limited_on_both_sides() -> None:
    limits = Limits(max_setup_bytes=500)
    base = len(encode_setup(Setup(codecs=("json",), agent="a"), limits)) - 8
    fits = Setup(codecs=("json",), agent="a" * (1 + 500 - base - 1))
    frame = encode_setup(fits, limits)
    assert len(frame) - 8 == 500
    reader, recorder = control_reader(limits=limits, setup=False)
    reader.receive(frame)
    assert recorder.setup == fits
    with pytest.raises(LimitExceeded) as caught:
        encode_setup(Setup(codecs=("json",), agent="a" * (500 - base + 1)), limits)
    error = caught.value
    assert (error.limit, error.value, error.maximum) == ("max_setup_bytes", 501, 500)


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("length", [501, 16_384, 26_112, 0xFFFF_FFFF])
def test_a_longer_setup_is_refused_by_its_header_however_it_arrives(feed: Feed, length: int) -> None:
    limits = Limits(max_setup_bytes=500)
    head = PREFIX.pack(FrameType.SETUP, 0, 0, length)
    assert outcome_of(feed, head, b"", limits=limits, setup=False) == ([], CloseCode.LIMIT)


@pytest.mark.parametrize("feed", FEEDINGS)
@pytest.mark.parametrize("kind", [kind for kind in FrameType if kind is not FrameType.SETUP])
def test_nothing_comes_before_setup(feed: Feed, kind: FrameType) -> None:
    assert outcome_of(feed, PREFIX.pack(kind, 0, 0, 20), bytes(20), setup=False) == ([], CloseCode.PROTOCOL)


@pytest.mark.parametrize("feed", FEEDINGS)
def test_not_even_an_ignorable_frame_comes_before_setup(feed: Feed) -> None:
    assert outcome_of(feed, PREFIX.pack(0x1A, 0x80, 0, 0), b"", setup=False) == ([], CloseCode.PROTOCOL)


def test_no_codec_is_listed_twice_and_json_always() -> None:
    for names in ([], ["msgpack"], ["json", "json"], ["json", "x", "x"]):
        body = parameter(1, b"".join(encode_bytes(name.encode()) for name in names))
        with pytest.raises(RemoteProtocolError, match="codecs"):
            decode_setup(body)


def test_codecs_and_credentials_are_counted() -> None:
    many = [encode_bytes(f"c{number}".encode()) for number in range(31)]
    assert len(decode_setup(parameter(1, CODECS + b"".join(many))).codecs) == 32
    with pytest.raises(RemoteProtocolError, match="more than 32"):
        decode_setup(parameter(1, CODECS + b"".join(many) + encode_bytes(b"one-more")))
    pairs = [encode_bytes(f"k{number}".encode()) + encode_bytes(b"v") for number in range(17)]
    assert len(decode_setup(parameter(1, CODECS) + parameter(7, b"".join(pairs[:16]))).credentials) == 16
    with pytest.raises(RemoteProtocolError, match="more than 32"):
        decode_setup(parameter(1, CODECS) + parameter(7, b"".join(pairs)))


def test_fewer_calls_than_everybody_may_make_are_no_offer() -> None:
    least = parameter(1, CODECS) + parameter(4, encode_varint(INITIAL_MAX_CALLS))
    assert decode_setup(least).max_concurrent_calls == INITIAL_MAX_CALLS
    with pytest.raises(RemoteProtocolError, match="max_concurrent_calls is 127"):
        decode_setup(parameter(1, CODECS) + parameter(4, encode_varint(INITIAL_MAX_CALLS - 1)))


@given(setups, st.data())
def test_setup_that_is_cut_anywhere_is_refused_or_shorter(setup: Setup, data: st.DataObject) -> None:
    body = body_of(encode_setup(setup, LIMITS))
    kept = body[: data.draw(st.integers(0, len(body) - 1))]
    try:
        assert decode_setup(kept) != setup or kept == body
    except RemoteProtocolError:
        pass


@given(st.binary(max_size=100))
def test_random_bodies_raise_nothing_but_the_peers_fault(data: bytes) -> None:
    for body in (data, parameter(1, CODECS) + data):
        try:
            found = decode_setup(body)
        except RemoteProtocolError:
            continue
        assert "json" in found.codecs


@given(st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=20)), max_size=6))
def test_random_parameters_raise_nothing_but_the_peers_fault(parameters: list[tuple[int, bytes]]) -> None:
    body = parameter(1, CODECS) + b"".join(parameter(key, value) for key, value in parameters)
    try:
        found = decode_setup(body)
    except RemoteProtocolError:
        return
    assert len({key for key, _ in parameters} | {1}) == len(parameters) + 1
    assert found.max_concurrent_calls >= INITIAL_MAX_CALLS
