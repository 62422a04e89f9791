"""What the codec suite's own judgement rests on: when two values are the same, and how a format nests."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import msgspec
import pytest

from echostream_core.codec import Codec, CodecSpec
from echostream_core.transport import NoOptions
from echostream_core.types import Buffer
from echostream_core.value_model import MAX_INT, MIN_INT, find_problem
from echostream_testkit.codec_subject import Shape
from echostream_testkit.codec_suite import CodecConformance
from echostream_testkit.codec_values import FLOATS, INTEGERS, TEXTS, describe, for_each, nested, same, values
from plugins.testkit.tests.reference_codec import SPEC, ReferenceCodec, ReferenceOptions, make_spec


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0.0, -0.0),
        (math.nan, 0.0),
        (None, False),
        (b"a", "a"),
        (b"a", bytearray(b"a")),
        ([1], (1,)),
        ([1], [1, 2]),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({1: 1}, {1: 1}),
        ([{"a": [0.0]}], [{"a": [-0.0]}]),
        ("é", "e\N{COMBINING ACUTE ACCENT}"),
    ],
)
def test_what_only_looks_alike_is_not_the_same(one: object, other: object) -> None:
    assert not same(one, other)
    assert not same(other, one)


@pytest.mark.parametrize(
    "value", [None, True, 7, 1.5, math.nan, -0.0, "text", b"x", [], {}, [math.nan, {"a": [None]}]], ids=str
)
def test_every_value_is_the_same_as_itself(value: object) -> None:
    assert same(value, value)


def test_values_may_nest_deeper_than_the_stack() -> None:
    assert same(nested(5_000), nested(5_000))
    assert not same(nested(5_000), nested(5_001))


def test_the_order_of_keys_is_no_part_of_a_map() -> None:
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})


def test_samples_and_draws_are_values_of_the_model() -> None:
    for sample in (*INTEGERS, *FLOATS, *TEXTS):
        assert find_problem(sample, 1) is None
    assert {MIN_INT, MAX_INT, 2**53 + 1} <= set(INTEGERS)
    drawn: list[object] = []
    for_each(values(carries_bytes=True, finite=False), 50, drawn.append)
    assert all(find_problem(value, 64) is None for value in drawn)
    again: list[object] = []
    for_each(values(carries_bytes=True, finite=False), 50, again.append)
    assert len(drawn) >= 50 and all(map(same, drawn, again)), "every run draws the same values"


def test_how_a_format_nests_is_read_off_its_messages() -> None:
    codec = ReferenceCodec(ReferenceOptions())
    found = Shape.of(codec, "map")
    assert found is not None
    assert found.at(30) == codec.encode(nested(30, "map"))
    assert codec.decode(found.at(64)) == nested(64, "map")


class Lengths(ReferenceCodec):
    """A format in which every list begins with the length of what is in it: no two levels look alike."""

    def encode(self, value: object) -> bytes:
        self.check_value(value)
        text = json.dumps(value)
        return f"{len(text)}:{text}".encode()

    def decode(self, data: Buffer) -> object:
        return json.loads(bytes(data).partition(b":")[2])


def test_a_format_that_does_not_show_how_it_nests_asks_for_help() -> None:
    class Subject(CodecConformance):
        name = "reference"

        def spec(self) -> CodecSpec:
            return make_spec(Lengths)

    codec: Codec = Subject().codec()
    assert Shape.of(codec, "list") is None
    with pytest.raises(pytest.skip.Exception, match="override raw_nested"):
        Subject().raw_nested(codec, 65, "list")


def test_the_depth_is_stated_by_the_class_or_the_option_or_found_by_trying() -> None:
    class Subject(CodecConformance):
        name = "reference"

        def spec(self) -> CodecSpec:
            return SPEC

    class Stated(Subject):
        max_depth = 33

    class Tried(Subject):
        def spec(self) -> CodecSpec:
            return replace(SPEC, options=NoOptions, factory=make_with_forty_levels)

    assert Subject().depth_limit() == 64
    assert Stated().depth_limit() == 33
    assert Tried().depth_limit() == 40
    assert not Tried().claims("max_depth")


def make_with_forty_levels(options: msgspec.Struct) -> Codec:
    return ReferenceCodec(ReferenceOptions(max_depth=40))


def test_descriptions_are_brief() -> None:
    assert describe(1) == "int 1"
    assert len(describe("x" * 10_000)) < 250
    assert len(describe(nested(5_000))) < 250, "whether repr() gets to the bottom of it or not"
