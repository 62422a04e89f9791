"""The codec ``msgpack``: what it carries, what it refuses to send, its options."""

from __future__ import annotations

import datetime
import enum
import math
import struct
from collections.abc import Callable

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import echostream_codec_msgpack
from echostream_codec_msgpack import MsgpackCodec, MsgpackOptions
from echostream_core.errors import DecodeError, EncodeError

CODEC = MsgpackCodec()

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=30
)
padding = st.sampled_from([0, 2_000])
"""Bytes in front of a value: with 2000 the message takes the way of large ones."""


def same(left: object, right: object) -> bool:
    """Equal, with equal types all the way down; NaN is NaN, zeros have the same sign."""
    return type(left) is type(right) and repr(left) == repr(right)


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


# --- there and back --------------------------------------------------------------------------------------------------
@given(values, padding)
@example([2**64 - 1, -(2**63), -0.0, 5e-324, math.nan, math.inf, -1, 127, 128, -32, -33], 0)
@example({"": {}, "é": [], "b": b"\xff\xca\xc1"}, 2_000)
def test_every_value_comes_back(value: object, pad: int) -> None:
    message = [bytes(pad), value] if pad else value
    assert same(CODEC.decode(CODEC.encode(message)), message)


@given(values)
def test_the_bytes_are_those_of_the_named_library(value: object) -> None:
    assert CODEC.encode(value) == msgpack.packb(value)
    assert same(msgpack.unpackb(CODEC.encode(value)), value)


@given(values, padding)
def test_a_peer_that_writes_longer_forms_is_understood(value: object, pad: int) -> None:
    message = [bytes(pad), value] if pad else value
    assert same(CODEC.decode(long_form(message)), message)


def long_form(value: object) -> bytes:
    """``value`` with the longest header of each kind."""
    match value:
        case bool() | None | float():
            return bytes(msgpack.packb(value))
        case int():
            return struct.pack(">BQ", 0xCF, value) if value >= 0 else struct.pack(">Bq", 0xD3, value)
        case str():
            return struct.pack(">BI", 0xDB, len(value.encode())) + value.encode()
        case bytes():
            return struct.pack(">BI", 0xC6, len(value)) + value
        case list():
            return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(long_form, value))
        case dict():
            pairs = b"".join(long_form(key) + long_form(item) for key, item in value.items())
            return struct.pack(">BI", 0xDF, len(value)) + pairs
    raise AssertionError(value)


@pytest.mark.parametrize("size", [1_023, 1_024, 1_025, 65_535, 65_536])
def test_the_size_at_which_the_reader_changes_is_not_seen(size: int) -> None:
    value = {"a": "x" * (size - 6)}
    data = CODEC.encode(value)
    assert abs(len(data) - size) <= 2
    assert CODEC.decode(data) == value


def test_tuples_arrive_as_lists() -> None:
    assert CODEC.decode(CODEC.encode((1, ("a", ())))) == [1, ["a", []]]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_arrives_as_bytes(kind: Callable[[bytes], object]) -> None:
    content = bytes(range(256)) * 10
    assert CODEC.decode(CODEC.encode(kind(content))) == content
    assert CODEC.decode(CODEC.encode({"data": [kind(content)]})) == {"data": [content]}


@pytest.mark.parametrize("size", [10, 5_000])
@pytest.mark.parametrize(
    "shape", [lambda content: content, lambda content: {"data": [content, content.hex()]}], ids=["bytes", "map"]
)
def test_nothing_in_the_result_refers_to_the_input(size: int, shape: Callable[[bytes], object]) -> None:
    value = shape(b"x" * size)
    data = bytearray(CODEC.encode(value))
    decoded = CODEC.decode(memoryview(data))
    data[:] = bytes(len(data))
    assert same(decoded, value)
    data.clear()  # BufferError while anything still looks at it


# --- what is not carried ---------------------------------------------------------------------------------------------
class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({1}, "$", "a value of type set"),
        ({"items": [0, 1, 2, {"when": datetime.datetime.now(datetime.UTC)}]}, "$.items[3].when", "datetime.datetime"),
        ([Colour.RED], "$[0]", r"type .*\.Colour"),
        ([msgpack.ExtType(1, b"")], "$[0]", "msgpack.ext.ExtType"),
        ([msgspec.msgpack.Ext(1, b"")], "$[0]", "msgspec.*Ext"),
        ([msgspec.Raw(b"\x01")], "$[0]", "msgspec.*Raw"),
        (2**64, "$", "more than 64 bits"),
        ({"a": [-(2**63) - 1]}, "$.a[0]", "more than 64 bits"),
        ("\ud800", "$", "lone surrogate"),
        ({"x\ud800": 1}, r"$['x\ud800']", "lone surrogate"),
        ({1: 2}, "$", "a map key of type int"),
        ({"a": {b"k": 2}}, "$.a", "a map key of type bytes"),
        ([memoryview(b"abcdef")[::2]], "$[0]", "not contiguous"),
    ],
)
def test_what_the_model_excludes_is_refused_with_its_path(value: object, path: str, reason: str) -> None:
    with pytest.raises(EncodeError, match=f"msgpack cannot carry .*{reason}") as caught:
        CODEC.encode(value)
    assert caught.value.path == path


@given(st.recursive(scalars | st.integers() | st.sets(st.integers()) | st.complex_numbers() | st.dates(), st.lists))
def test_refusal_is_the_only_error_of_writing(value: object) -> None:
    try:
        CODEC.encode(value)
    except EncodeError as error:
        assert error.path.startswith("$")


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = [1]
    loop += [{"again": loop}, loop]
    with pytest.raises(EncodeError, match="nested deeper than max_depth"):
        CODEC.encode(loop)


# --- options, from both sides ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [1, 2, 64, 256])
@pytest.mark.parametrize("pad", [0, 2_000])
def test_depth_is_bounded_in_both_directions(limit: int, pad: int) -> None:
    codec = MsgpackCodec(MsgpackOptions(max_depth=limit))
    deepest = [nested(limit - 1), bytes(pad)]
    assert codec.decode(codec.encode(deepest)) == deepest
    with pytest.raises(EncodeError, match="max_depth"):
        codec.encode([nested(limit), bytes(pad)])
    with pytest.raises(DecodeError, match="max_depth"):
        codec.decode(msgpack.packb([nested(limit), bytes(pad)]))


@pytest.mark.parametrize("pad", [0, 2_000])
@pytest.mark.parametrize(
    "repeated",
    [
        "82 a161 01 a161 02",
        "83 a161 01 a162 01 a161 02",
        "82 a0 80 a0 80",
        "82 a161 01 d90161 02",
        "de0002a16101a16102",
    ],
)
def test_a_repeated_key_is_refused_or_the_last_one_counts(repeated: str, pad: int) -> None:
    data = b"\x92" + msgpack.packb(bytes(pad)) + bytes.fromhex(repeated)
    with pytest.raises(DecodeError, match="appears twice"):
        CODEC.decode(data)
    assert MsgpackCodec(MsgpackOptions(duplicate_keys="last")).decode(data) == msgpack.unpackb(data)


@given(values, values, st.text(), padding)
def test_repeated_keys_are_found_wherever_they_are(first: object, second: object, key: str, pad: int) -> None:
    for write in (CODEC.encode, long_form):
        pair = write(key) + write(first) + write(key) + write(second)
        with pytest.raises(DecodeError, match="appears twice"):
            CODEC.decode(b"\x92" + write(bytes(pad)) + b"\x81" + write(key) + b"\x82" + pair)


TIMESTAMPS = [
    (datetime.datetime(2026, 11, 21, 12, 30, tzinfo=datetime.UTC), "2026-11-21T12:30:00Z"),
    (datetime.datetime(1969, 12, 31, 23, 59, 59, 5, tzinfo=datetime.UTC), "1969-12-31T23:59:59.000005Z"),
    (datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC), "9999-12-31T00:00:00Z"),
]


@pytest.mark.parametrize(("moment", "text"), TIMESTAMPS)
@pytest.mark.parametrize("pad", [0, 2_000])
def test_a_timestamp_is_refused_or_becomes_text(moment: datetime.datetime, text: str, pad: int) -> None:
    as_text = MsgpackCodec(MsgpackOptions(timestamps="text"))
    for message, expected in ((moment, text), ([bytes(pad), {"at": moment}], [bytes(pad), {"at": text}])):
        data = msgspec.msgpack.encode(message)
        with pytest.raises(DecodeError, match=r"datetime\.datetime at \$"):
            CODEC.decode(data)
        assert as_text.decode(data) == expected


@pytest.mark.parametrize("pad", [0, 2_000])
def test_a_message_with_a_timestamp_is_held_to_the_other_rules(pad: int) -> None:
    codec = MsgpackCodec(MsgpackOptions(timestamps="text", max_depth=3))
    moment, filler = bytes.fromhex("d6ff00000000"), msgpack.packb(bytes(pad))
    for rest in (
        "82a16101a16102",
        "919190",
        "8101 02",
        "81c4016101",
        "d40100",
        "d6ffffffffff01",
        "c70cff3fffffffffffffffffffffff",
    ):
        with pytest.raises(DecodeError):
            codec.decode(b"\x93" + filler + moment + bytes.fromhex(rest))


@pytest.mark.parametrize("pad", [0, 2_000])
def test_an_extension_type_is_refused_or_becomes_bytes(pad: int) -> None:
    data = msgpack.packb([bytes(pad), {"x": msgpack.ExtType(5, b"abc")}, msgpack.ExtType(0, bytes(16))])
    with pytest.raises(DecodeError, match="extension type 5"):
        CODEC.decode(data)
    codec = MsgpackCodec(MsgpackOptions(ext_types="bytes"))
    buffer = bytearray(data)
    value = codec.decode(memoryview(buffer))
    assert same(value, [bytes(pad), {"x": b"abc"}, bytes(16)])
    buffer.clear()


@pytest.mark.parametrize(
    "wrong",
    [{"max_depth": 0}, {"max_depth": 257}, {"max_dept": 3}, {"duplicate_keys": "first"}, {"timestamps": True}],
)
def test_a_wrong_option_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, MsgpackOptions)


def test_the_hook_offers_the_codec_with_its_options() -> None:
    (spec,) = echostream_codec_msgpack.echostream_codecs()
    assert (spec.name, spec.carries_bytes, spec.options) == ("msgpack", True, MsgpackOptions)
    assert spec.priority > 0, "json has 0, and a binary codec goes before it"
    codec = spec.factory(spec.options())
    assert codec.name == spec.name
    assert codec.decode(codec.encode([1])) == [1]
