"""The built-in codec ``json``, and what every codec asks of a value."""

from __future__ import annotations

import base64
import datetime
import decimal
import enum
import json
import math
import random
import sys
import tracemalloc
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass

import importlib_metadata
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echostream_core.builtin import json_codec
from echostream_core.builtin.json_codec import JsonCodec, JsonOptions
from echostream_core.codec import Codec
from echostream_core.errors import DecodeError, EncodeError
from echostream_core.value_model import find_problem, fits

CODEC = JsonCodec()

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=30
)


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def same(left: object, right: object) -> bool:
    """Equal, with equal types all the way down, and zeros of the same sign."""
    return type(left) is type(right) and repr(left) == repr(right) and left == right


# --- there and back --------------------------------------------------------------------------------------------------
@given(values)
@example({"time": "12:30:00", "url": "http://[::1]:80/", 'quote":': "a : b"})
@example([0.1, 1e16, -0.0, 5e-324, 1.7976931348623157e308, 2**64 - 1, -(2**63)])
def test_every_value_comes_back(value: object) -> None:
    assert same(CODEC.decode(CODEC.encode(value)), value)


@given(values)
def test_others_read_what_we_write_and_we_what_they_write(value: object) -> None:
    assert same(json.loads(CODEC.encode(value)), value)
    for indent, ascii_only in ((None, True), (2, False)):
        assert same(CODEC.decode(json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()), value)


def test_tuples_arrive_as_lists() -> None:
    assert CODEC.decode(CODEC.encode((1, ("a", ())))) == [1, ["a", []]]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_go_out_as_base64_text(kind: Callable[[bytes], object]) -> None:
    content = bytes(range(256))
    text = base64.b64encode(content).decode()
    assert CODEC.decode(CODEC.encode(kind(content))) == text
    assert CODEC.decode(CODEC.encode({"data": [kind(content)]})) == {"data": [text]}


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_read(wrap: Callable[[bytes], bytes]) -> None:
    assert CODEC.decode(wrap(b'{"a":[1,"x"],"b":{"c":null}}')) == {"a": [1, "x"], "b": {"c": None}}


def test_nothing_in_the_result_refers_to_the_input() -> None:
    data = bytearray(b'{"text":"' + b"x" * 5_000 + b'"}')
    value = CODEC.decode(memoryview(data))
    data[:] = bytes(len(data))
    assert value == {"text": "x" * 5_000}
    data.clear()  # BufferError while anything still looks at it


# --- what is not carried ---------------------------------------------------------------------------------------------
class Colour(enum.IntEnum):
    RED = 1


class Mood(enum.StrEnum):
    GOOD = "good"


@dataclass
class Point:
    x: int = 1


class Record(msgspec.Struct):
    x: int = 1


Pair = namedtuple("Pair", "left right")

STRANGERS = [
    ({1}, "set"),
    (frozenset({1}), "frozenset"),
    (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), "datetime.datetime"),
    (datetime.date(2026, 1, 1), "datetime.date"),
    (datetime.timedelta(1), "datetime.timedelta"),
    (decimal.Decimal("1.5"), "decimal.Decimal"),
    (uuid.UUID(int=1), "uuid.UUID"),
    (Colour.RED, f"{__name__}.Colour"),
    (Mood.GOOD, f"{__name__}.Mood"),
    (Point(), f"{__name__}.Point"),
    (Record(), f"{__name__}.Record"),
    (Pair(1, 2), f"{__name__}.Pair"),
    (OrderedDict(a=1), "collections.OrderedDict"),
    (msgspec.Raw(b"1"), "msgspec.Raw"),
    (1j, "complex"),
    (object(), "object"),
    (int, "type"),
    (iter(()), "tuple_iterator"),
]


@pytest.mark.parametrize(("stranger", "name"), STRANGERS, ids=[name for _, name in STRANGERS])
def test_another_type_is_refused_by_name_and_path(stranger: object, name: str) -> None:
    with pytest.raises(EncodeError, match=rf"a value of type {name}\b.* at \$$") as caught:
        CODEC.encode(stranger)
    assert caught.value.path == "$"
    with pytest.raises(EncodeError, match=rf"a value of type {name}\b") as caught:
        CODEC.encode({"items": [0, 1, 2, {"when": stranger}]})
    assert caught.value.path == "$.items[3].when"


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        (2**64, "$", "more than 64 bits"),
        ([0, -(2**63) - 1], "$[1]", "more than 64 bits"),
        ({"a": 10**5_000}, "$.a", "more than 64 bits"),
        ({"a": math.nan}, "$.a", "the number nan"),
        (math.inf, "$", "the number inf"),
        ([[-math.inf]], "$[0][0]", "the number -inf"),
        ("\ud800", "$", "lone surrogate"),
        ({"a": ["ok", "x\udfff"]}, "$.a[1]", r"lone surrogate \(character 1\)"),
        ({"x\ud800": 1}, r"$['x\ud800']", "lone surrogate"),
        ({1: 2}, "$", "a map key of type int"),
        ({"a": {None: 2}}, "$.a", "a map key of type NoneType"),
        ({b"a": 2}, "$", "a map key of type bytes"),
        ({Mood.GOOD: 2}, "$", "a map key of type .*Mood"),
        ({"two words": {"ünïcode": {1}}}, r"$['two words']['\xfcn\xefcode']", "type set"),
        ({"k" * 1_000: {1}}, "$['" + "k" * 40 + "']", "type set"),
        ([memoryview(b"abcdef")[::2]], "$[0]", "not contiguous"),
    ],
)
def test_what_the_model_excludes_is_refused_with_its_path(value: object, path: str, reason: str) -> None:
    with pytest.raises(EncodeError, match=reason) as caught:
        CODEC.encode(value)
    assert caught.value.path == path
    assert len(str(caught.value)) < 400


@given(st.recursive(scalars | st.sets(st.integers()) | st.complex_numbers() | st.dates(), st.lists))
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


def test_a_caller_with_no_stack_left_gets_an_encode_error_too() -> None:
    value, codec = nested(256), JsonCodec(JsonOptions(max_depth=256))

    def deeper(frames: int) -> None:
        if frames:
            deeper(frames - 1)
        else:
            codec.encode(value)

    frame, used = sys._getframe(), 0
    while frame.f_back is not None:
        frame, used = frame.f_back, used + 1
    with pytest.raises(EncodeError, match="no stack"):
        deeper(sys.getrecursionlimit() - used - 40)


# --- limits, from both sides -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [1, 2, 64, 256])
def test_depth_is_bounded_in_both_directions(limit: int) -> None:
    codec = JsonCodec(JsonOptions(max_depth=limit))
    deepest = nested(limit)
    assert codec.decode(codec.encode(deepest)) == deepest
    with pytest.raises(EncodeError, match="max_depth"):
        codec.encode(nested(limit + 1))
    with pytest.raises(DecodeError, match="max_depth"):
        codec.decode(json.dumps(nested(limit + 1)).encode())


@pytest.mark.parametrize("limit", [0, -1, 257, "64", None])
def test_a_depth_out_of_range_is_no_option(limit: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"max_depth": limit}, JsonOptions)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="max_dept"):
        msgspec.convert({"max_dept": 3}, JsonOptions)


REPEATED = [
    b'{"a":1,"a":2}',
    b'{"a":1,"b":2,"a":3}',
    b'{"a" :1,"a" :2}',
    b'{"a"\t:1,"a":2}',
    b'{"a"\n:1,"a"\r:2}',
    b'{"":1,"":2}',
    b'{"a":1,"\\u0061":2}',
    b'{"a:b":1,"a:b":2}',
    b'{"a":"x:y","a":2}',
    b'{"a":"\\":","a":2}',
    b'{"x":"\\":","a" :1,"a" :2}',
    b'[{"k":[{"a":1,"a":{}}]}]',
    b'{"a":{"b":1},"a":{"b":1}}',
    b'{"a":{},"a":{}}',
    b'[{"a":1},{"a":1,"a":":"}]',
]


@pytest.mark.parametrize("data", REPEATED)
def test_a_repeated_key_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="appears twice"):
        CODEC.decode(data)
    assert JsonCodec(JsonOptions(duplicate_keys="last")).decode(data) == json.loads(data)


@given(st.randoms(use_true_random=False), values)
def test_repeated_keys_are_found_wherever_they_are(rng: random.Random, value: object) -> None:
    text = json.dumps(value, indent=rng.choice([None, 1]), separators=rng.choice([(",", ":"), (", ", " : ")]))
    assert same(CODEC.decode(text.encode()), value)
    key = json.dumps(rng.choice(["a", "", "x:y", '":', "é"]), ensure_ascii=rng.random() < 0.5)
    colon = rng.choice([":", " :", ": ", "\n:"])
    with pytest.raises(DecodeError, match="appears twice"):
        CODEC.decode(f"[{text},{{{key}{colon}{text},{key}{colon}{text}}}]".encode())


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30, 10**4_000])
def test_an_integer_of_more_than_64_bits_is_refused(number: int) -> None:
    text = str(number)
    for data in (text, f"[{text}]", f'{{"a":[{{"b":{text}}}]}}'):
        with pytest.raises(DecodeError, match="more than 64 bits") as caught:
            CODEC.decode(data.encode())
        assert len(str(caught.value)) < 400


# --- strangers' bytes ------------------------------------------------------------------------------------------------
HOSTILE = [
    *rb"""
nul|nulll|True|NaN|Infinity|-Infinity|[NaN]|1e999|-1e999|[1e309]|01|+1|1.|.5|0x10|1_000|--1|1e|1 2|1]|[1|[1,]|[,1]
[1 2]|{|{"a"|{"a":|{"a":1|{"a":1,}|{a:1}|{1:1}|{null:1}|{'a':1}|{"a" 1}|{"a"::1}|{[]:1}|"|"abc|"\x41"|"\u12"|/**/1
"\ud800"|"\ud800\u0041"|"\udc00"|1//|""".replace(b"\n", b"|").split(b"|"),
    *[b" ", b"\x00", b'"a\nb"', b'"a\x00b"', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"'],
    *[b'"\xe2\x82', b'{"\xff":1}', b"\xef\xbb\xbf1", "[1]".encode("utf-16"), "[1]".encode("utf-32-le")],
    *[b"9" * 1_000_000, b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000, b"[{" * 50_000],
    b"[" * 65 + b"]" * 65,
]


@pytest.mark.parametrize("data", sorted(set(HOSTILE)), ids=lambda data: f"{len(data)}-{data[-12:]!r}")
def test_hostile_bytes_are_a_decode_error(data: bytes) -> None:
    for buffer in (data, memoryview(data)):
        with pytest.raises(DecodeError) as caught:
            CODEC.decode(buffer)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isascii()


def test_the_error_says_at_which_byte() -> None:
    with pytest.raises(DecodeError) as caught:
        CODEC.decode(b"[1,x]")
    assert caught.value.offset == 3


def check_only_decode_errors(data: bytes) -> None:
    try:
        value = CODEC.decode(data)
    except DecodeError:
        return
    assert find_problem(value, 64, finite=True) is None
    assert same(CODEC.decode(CODEC.encode(value)), value)


@given(st.binary() | st.text(alphabet='[]{}",:\\ue0129.-+ntfalsE \n').map(str.encode))
@settings(max_examples=500)
def test_no_bytes_raise_anything_but_a_decode_error(data: bytes) -> None:
    check_only_decode_errors(data)


def test_no_mutation_of_a_message_raises_anything_but_a_decode_error() -> None:
    rng = random.Random(7)
    seeds = [*REPEATED, b'{"id":123456,"name":"Ada","tags":["a","\\u00e9"],"ok":true,"score":-1.5e3,"n":null}']
    for _ in range(20_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randint(0, 3)] = rng.choice(
                [b"", rng.randbytes(1), b'"', b"[", b"{", b":", b"}", b"9" * 20]
            )
        check_only_decode_errors(bytes(data))


def test_memory_stays_in_proportion() -> None:
    tracemalloc.start()
    try:
        for data in HOSTILE:
            if len(data) <= 24:
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                with pytest.raises(DecodeError):
                    CODEC.decode(data)
                assert tracemalloc.get_traced_memory()[1] - before < 100_000
    finally:
        tracemalloc.stop()


# --- all codecs that are installed, beside each other ----------------------------------------------------------------
def installed_codecs() -> dict[str, Codec]:
    """This one, and those of the plugins that happen to be installed, by name."""
    found: dict[str, Codec] = {"json": CODEC}
    for entry in importlib_metadata.entry_points(group="echostream.v1.codecs"):
        found |= {spec.name: spec.factory(spec.options()) for spec in entry.load().echostream_codecs()}
    return found


CODECS = installed_codecs()


@given(values)
def test_a_value_is_the_same_whichever_codec_carried_it(value: object) -> None:
    for codec in CODECS.values():
        for buffer in (codec.encode(value), memoryview(codec.encode(value))):
            assert same(codec.decode(buffer), value), codec.name


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_refuses_the_same_values_in_the_same_words(name: str) -> None:
    refused = [
        {1: 2},
        {"a": [{"b": {1}}]},
        [2**64],
        {"a": -(2**63) - 1},
        "\ud800",
        nested(65),
        [memoryview(b"abcdef")[::2]],
    ]
    for value in [*refused, *(stranger for stranger, _ in STRANGERS)]:
        with pytest.raises(EncodeError) as ours:
            CODEC.encode(value)
        with pytest.raises(EncodeError) as theirs:
            CODECS[name].encode(value)
        assert theirs.value.path == ours.value.path
        assert str(theirs.value) == str(ours.value).replace("json", name, 1)


# --- the look at a value, and the hook -------------------------------------------------------------------------------
@given(
    st.recursive(scalars | st.floats() | st.integers() | st.binary() | st.sets(st.integers()), st.lists),
    st.integers(0, 5),
)
def test_the_fast_look_and_the_slow_one_agree(value: object, depth: int) -> None:
    known = frozenset({type(None), bool, str, bytes})
    quick = fits(value, depth, known) if type(value) is list else fits((value,), 1, known)
    assert quick == (find_problem(value, depth, finite=True) is None)


def test_the_hook_offers_the_codec_with_its_options() -> None:
    (spec,) = json_codec.echostream_codecs()
    assert (spec.name, spec.priority, spec.carries_bytes, spec.options) == ("json", 0, False, JsonOptions)
    codec = spec.factory(spec.options())
    assert codec.name == spec.name
    assert codec.decode(codec.encode([1])) == [1]


def test_every_public_name_is_exported() -> None:
    public = {name for name, item in vars(json_codec).items() if getattr(item, "__module__", "") == json_codec.__name__}
    assert set(json_codec.__all__) == {name for name in public if not name.startswith("_")}
