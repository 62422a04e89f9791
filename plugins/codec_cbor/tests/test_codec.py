"""The codec ``cbor``: what it carries, what it refuses to send, its options."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable

import cbor2
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import echostream_codec_cbor
from echostream_codec_cbor import CborCodec, CborOptions
from echostream_core.errors import DecodeError, EncodeError

CODEC = CborCodec()

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=30
)


def same(left: object, right: object) -> bool:
    """Equal, with equal types all the way down; NaN is NaN, zeros have the same sign."""
    return type(left) is type(right) and repr(left) == repr(right)


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


# --- there and back --------------------------------------------------------------------------------------------------
@given(values)
@example([2**64 - 1, -(2**63), -0.0, 5e-324, math.nan, math.inf, -1, 23, 24, -24, -25, 255, 256, 2**32])
@example({"": {}, "é": [], "b": b"\xff\xca\xc1\xf7\x3b"})
def test_every_value_comes_back(value: object) -> None:
    assert same(CODEC.decode(CODEC.encode(value)), value)


@given(values)
def test_the_bytes_are_those_of_the_named_library(value: object) -> None:
    assert CODEC.encode(value) == cbor2.dumps(value)


@given(values)
def test_a_peer_that_writes_longer_forms_is_understood(value: object) -> None:
    assert same(CODEC.decode(long_form(value)), value)


def long_form(value: object) -> bytes:
    """``value`` with the longest header of each kind."""
    match value:
        case bool() | None:
            return cbor2.dumps(value)
        case float():
            return struct.pack(">Bd", 0xFB, value)
        case int():
            return struct.pack(">BQ", 0x1B, value) if value >= 0 else struct.pack(">BQ", 0x3B, -1 - value)
        case str():
            return struct.pack(">BQ", 0x7B, len(value.encode())) + value.encode()
        case bytes():
            return struct.pack(">BQ", 0x5B, len(value)) + value
        case list():
            return struct.pack(">BQ", 0x9B, len(value)) + b"".join(map(long_form, value))
        case dict():
            pairs = b"".join(long_form(key) + long_form(item) for key, item in value.items())
            return struct.pack(">BQ", 0xBB, len(value)) + pairs
    raise AssertionError(value)


# RFC 8949, appendix A: those of its examples that lie inside the value model.
RFC_8949 = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1bffffffffffffffff", 2**64 - 1),
    ("20", -1),
    ("3903e7", -1000),
    ("3b7fffffffffffffff", -(2**63)),
    ("f90000", 0.0),
    ("f98000", -0.0),
    ("f93e00", 1.5),
    ("f97bff", 65504.0),
    ("f90001", 5.960464477539063e-8),
    ("fa47c35000", 100000.0),
    ("fa7f7fffff", 3.4028234663852886e38),
    ("fb3ff199999999999a", 1.1),
    ("fb7e37e43c8800759c", 1.0e300),
    ("f97c00", math.inf),
    ("f9fc00", -math.inf),
    ("f97e00", math.nan),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("40", b""),
    ("4401020304", b"\1\2\3\4"),
    ("60", ""),
    ("62225c", '"\\'),
    ("62c3bc", "ü"),
    ("63e6b0b4", "水"),
    ("64f0908591", "\U00010151"),
    ("80", []),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("a0", {}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ("826161a161626163", ["a", {"b": "c"}]),
    ("a56161614161626142616361436164614461656145", {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"}),
]


@pytest.mark.parametrize(("text", "value"), RFC_8949, ids=[text for text, _ in RFC_8949])
def test_the_examples_of_the_standard_are_read(text: str, value: object) -> None:
    assert same(CODEC.decode(bytes.fromhex(text)), value)


def test_tuples_arrive_as_lists() -> None:
    assert CODEC.decode(CODEC.encode((1, ("a", ())))) == [1, ["a", []]]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_arrives_as_bytes(kind: Callable[[bytes], object]) -> None:
    content = bytes(range(256)) * 10
    assert CODEC.decode(CODEC.encode(kind(content))) == content
    assert CODEC.decode(CODEC.encode({"data": [kind(content), 1]})) == {"data": [content, 1]}


@pytest.mark.parametrize("size", [10, 100_000])
def test_nothing_in_the_result_refers_to_the_input(size: int) -> None:
    for value in (b"x" * size, {"data": [b"x" * size, "y" * size]}):
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
        ([decimal.Decimal(1)], "$[0]", r"type decimal\.Decimal"),
        (uuid.UUID(int=1), "$", r"type uuid\.UUID"),
        ([Colour.RED], "$[0]", r"type .*\.Colour"),
        ([cbor2.CBORTag(1, 1)], "$[0]", "CBORTag"),
        (cbor2.undefined, "$", "type cbor2.*ndefined"),
        ([cbor2.CBORSimpleValue(99)], "$[0]", "CBORSimpleValue"),
        (2**64, "$", "more than 64 bits"),
        ({"a": [-(2**63) - 1]}, "$.a[0]", "more than 64 bits"),
        ([memoryview(b"abcdef")[::2]], "$[0]", "not contiguous"),
        ("\ud800", "$", "lone surrogate"),
        ({"x\ud800": 1}, r"$['x\ud800']", "lone surrogate"),
        ({1: 2}, "$", "a map key of type int"),
        ({"a": {b"k": 2}}, "$.a", "a map key of type bytes"),
    ],
)
def test_what_the_model_excludes_is_refused_with_its_path(value: object, path: str, reason: str) -> None:
    with pytest.raises(EncodeError, match=f"cbor cannot carry .*{reason}") as caught:
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


def test_a_value_nested_100_000_deep_is_refused_and_the_process_lives() -> None:
    """In a process of its own: the library alone would kill it."""
    program = """
from echostream_codec_cbor import CborCodec
from echostream_core.errors import EncodeError
value = []
for _ in range(100_000):
    value = [value]
try:
    CborCodec().encode(value)
except EncodeError:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stdout) == (0, "refused\n"), result.stderr


# --- options, from both sides ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [1, 2, 64, 256])
def test_depth_is_bounded_in_both_directions(limit: int) -> None:
    codec = CborCodec(CborOptions(max_depth=limit))
    for shape in (nested(limit), [nested(limit - 1)], {"a": nested(limit - 1)}):
        assert codec.decode(codec.encode(shape)) == shape
    with pytest.raises(EncodeError, match="max_depth"):
        codec.encode(nested(limit + 1))
    for shape in (nested(limit + 1), [nested(limit)], {"a": nested(limit)}):
        with pytest.raises(DecodeError, match=r"max_depth|maximum container nesting depth"):
            codec.decode(cbor2.dumps(shape))


@pytest.mark.parametrize(
    "repeated", ["a2616101616102", "a3616101616201616102", "a260806080", "a26161017801 6102", "81a16161a2616101616102"]
)
def test_a_repeated_key_is_refused_or_the_last_one_counts(repeated: str) -> None:
    data = bytes.fromhex(repeated)
    with pytest.raises(DecodeError, match="Duplicate map key"):
        CODEC.decode(data)
    assert CborCodec(CborOptions(duplicate_keys="last")).decode(data) == cbor2.loads(data)


@given(values, values, st.text())
def test_repeated_keys_are_found_wherever_they_are(first: object, second: object, key: str) -> None:
    for write in (CODEC.encode, long_form):
        pair = write(key) + write(first) + write(key) + write(second)
        with pytest.raises(DecodeError, match="Duplicate map key"):
            CODEC.decode(b"\x82\x00\xa1" + write(key) + b"\xa2" + pair)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5f42010243030405ff", b"\1\2\3\4\5"),
        ("7f657374726561646d696e67ff", "streaming"),
        ("9fff", []),
        ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
        ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
        ("bf6346756ef563416d7421ff", {"Fun": True, "Amt": -2}),
    ],
)
def test_an_indefinite_length_is_refused_or_accepted(text: str, value: object) -> None:
    data = bytes.fromhex(text)
    with pytest.raises(DecodeError, match="indefinite"):
        CODEC.decode(data)
    assert same(CborCodec(CborOptions(indefinite_lengths="accept")).decode(data), value)


@pytest.mark.parametrize(
    "text", ["9f" * 65 + "ff" * 65, "9f9f", "bf6161ff", "5f6161ff", "7f4161ff", "5f5f4161ffff", "bf616101616102ff"]
)
def test_an_accepted_indefinite_length_is_held_to_the_other_rules(text: str) -> None:
    with pytest.raises(DecodeError):
        CborCodec(CborOptions(indefinite_lengths="accept")).decode(bytes.fromhex(text))


@pytest.mark.parametrize(
    "wrong",
    [{"max_depth": 0}, {"max_depth": 257}, {"max_dept": 3}, {"duplicate_keys": "first"}, {"indefinite_lengths": True}],
)
def test_a_wrong_option_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, CborOptions)


def test_the_hook_offers_the_codec_with_its_options() -> None:
    (spec,) = echostream_codec_cbor.echostream_codecs()
    assert (spec.name, spec.carries_bytes, spec.options) == ("cbor", True, CborOptions)
    assert spec.priority > 0, "json has 0, and a binary codec goes before it"
    codec = spec.factory(spec.options())
    assert codec.name == spec.name
    assert codec.decode(codec.encode([1])) == [1]
