"""There and back: every value of the model comes back as it was, from every kind of buffer."""

from __future__ import annotations

import base64
import copy
import gc
from collections.abc import Callable, Sequence
from typing import Final

import pytest
from hypothesis import strategies as st

from echostream_core.codec import Codec
from echostream_core.errors import DecodeError, EncodeError
from echostream_core.types import Buffer
from echostream_testkit.checks import capability
from echostream_testkit.codec_subject import CodecSubject
from echostream_testkit.codec_values import (
    FLOATS,
    INTEGERS,
    NOT_FINITE,
    TEXTS,
    describe,
    nested,
    same,
    values,
)

__all__ = ["RoundTrips"]

_MIB: Final = 1024 * 1024
_CONTENTS: Final = (b"", b"\0", b"\xff\xfe", b"text", bytes(range(256)), b"x" * 65_537, bytes(range(256)) * 4097)
"""Bytes to carry: empty, not UTF-8, looking like text, both sides of length prefixes, over 1 MiB."""


class RoundTrips(CodecSubject):
    """What :meth:`Codec.encode` writes, :meth:`Codec.decode` reads."""

    def test_every_value_comes_back(self) -> None:
        """Whatever hypothesis draws from the value model."""
        codec = self.codec()
        drawn = values(carries_bytes=self.spec().carries_bytes, finite=not self.carries_not_finite())
        self.for_each(drawn, lambda value: _comes_back(codec, value))

    def test_null_and_booleans(self) -> None:
        """Null is not false, and true is not 1."""
        _each_comes_back(self.codec(), [None, True, False, [None, True, False, 0, 1, 0.0, 1.0]])

    def test_integers(self) -> None:
        """All of 64 bits, digit by digit, and each still an integer."""
        _each_comes_back(self.codec(), INTEGERS)

    def test_integers_drawn(self) -> None:
        """Integers of all sizes: a double in between would round those beyond 2**53."""
        codec = self.codec()
        drawn = st.integers(-(2**63), -(2**53)) | st.integers(-(2**53), 2**53) | st.integers(2**53, 2**64 - 1)
        self.for_each(drawn, lambda number: _comes_back(codec, number))

    def test_floats(self) -> None:
        """All of float64, bit by bit: 1.0 stays a float, -0.0 keeps its sign, subnormals are not flushed."""
        _each_comes_back(self.codec(), FLOATS)

    def test_floats_drawn(self) -> None:
        """Floats as hypothesis draws them: a shorter form in between would round."""
        codec = self.codec()
        drawn = st.floats(allow_nan=False, allow_infinity=False)
        self.for_each(drawn, lambda number: _comes_back(codec, number))

    def test_not_finite_floats(self) -> None:
        """NaN and the infinities come back as such, or are refused with their path: never as anything else."""
        codec = self.codec()
        carried = self.carries_not_finite()
        for number in NOT_FINITE:
            if carried:
                _each_comes_back(codec, [number, [number], {"a": number}])
                continue
            for value, path in ((number, "$"), ([0, number], "$[1]"), ({"a": number}, "$.a")):
                with pytest.raises(EncodeError) as caught:
                    codec.encode(value)
                assert caught.value.path == path, f"the path of {number} is {caught.value.path!r} instead of {path!r}"

    def test_text(self) -> None:
        """Text is carried as it is: nothing is normalised, cut at NUL, or taken for an escape."""
        codec = self.codec()
        _each_comes_back(codec, TEXTS)
        self.for_each(st.text(), lambda text: _comes_back(codec, text))

    def test_map_keys(self) -> None:
        """Any text is a key, and keys that only look alike are kept apart."""
        codec = self.codec()
        _each_comes_back(codec, [{text: number for number, text in enumerate(TEXTS)}])
        alike = ["é", "e\N{COMBINING ACUTE ACCENT}", "E", "e", "", "\0", " ", "1", "true", "null", "$", ".", "a.b"]
        _each_comes_back(codec, [{key: key for key in alike}, {key: {key: [key]} for key in alike}])

    def test_lists_and_maps(self) -> None:
        """Empty ones, ones of mixed content, and both sides of the usual count prefixes."""
        sizes = (0, 1, 15, 16, 17, 23, 24, 255, 256, 257)
        mixed: list[object] = [None, True, 1, 1.0, "1", [], {}, [[]], [{}], {"": {}}, {"": []}]
        codec = self.codec()
        _each_comes_back(codec, [mixed, {"a": mixed, "b": {"a": mixed}}])
        _each_comes_back(codec, [list(range(size)) for size in sizes])
        _each_comes_back(codec, [{f"{number:x}": number for number in range(size)} for size in sizes])
        for size in (65_535, 65_536):
            _comes_back(codec, [None] * size)
            _comes_back(codec, {f"{number:x}": None for number in range(size)})

    def test_tuples_arrive_as_lists(self) -> None:
        """The model has lists; a tuple is one way to write them."""
        codec = self.codec()
        arrived = codec.decode(codec.encode((1, ("a", ()), {"b": (None,)})))
        assert same(arrived, [1, ["a", []], {"b": [None]}]), f"tuples arrived as {describe(arrived)}"

    def test_tiny_and_huge(self) -> None:
        """A message may be a byte, and over a MiB in one text, one list, one map."""
        codec = self.codec()
        _each_comes_back(codec, [None, 0, "", [], {}, False])
        _each_comes_back(codec, ["é\0" * _MIB])
        _comes_back(codec, ["0123456789abcdef" * 4] * 20_000)
        _comes_back(codec, {f"{number:064}": number for number in range(20_000)})

    @capability("carries_bytes")
    def test_carries_bytes(self) -> None:
        """Claimed: bytes arrive as bytes, whatever held them, and what looks like text stays bytes."""
        codec = self.codec()
        for content in _CONTENTS:
            _bytes_arrive_as(codec, content, content)
        arrived = codec.decode(codec.encode(["text", b"text", {"text": b"text"}]))
        assert same(arrived, ["text", b"text", {"text": b"text"}]), describe(arrived)

    @capability("carries_bytes", claimed=False)
    def test_carries_bytes_as_base64(self) -> None:
        """Not claimed: bytes arrive as base64 text, and never as anything else."""
        codec = self.codec()
        for content in _CONTENTS:
            _bytes_arrive_as(codec, content, base64.b64encode(content).decode())

    def test_every_kind_of_buffer(self) -> None:
        """bytes, bytearray, memoryview, and views that begin and end inside of something larger."""
        codec = self.codec()
        value = {"a": [1, "x" * 40, 2.5], "b": {"c": None}, "d": list(range(2_000))}
        for data in (codec.encode(value), codec.encode("x" * 3_000), codec.encode([])):
            expected = codec.decode(data)
            for what, buffer in _buffers(data):
                try:
                    arrived = codec.decode(buffer)
                except Exception as error:  # any error is a breach; the check says for which buffer
                    raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
                assert same(arrived, expected), f"{what}: {describe(arrived)} instead of {describe(expected)}"

    def test_views_with_gaps(self) -> None:
        """A view that is not contiguous is no Buffer: it may be refused as such, and must not be misread."""
        codec = self.codec()
        value = {"a": [1, "x" * 40, 2.5]}
        data = codec.encode(value)
        spread = bytearray(2 * len(data))
        spread[::2] = data
        for what, view in (("every second byte", memoryview(spread)[::2]), ("backwards", memoryview(data[::-1])[::-1])):
            try:
                arrived = codec.decode(view)
            except (BufferError, DecodeError):
                continue
            assert same(arrived, value), f"a view of {what}: {describe(arrived)} instead of {describe(value)}"

    def test_nothing_refers_to_the_buffer(self) -> None:
        """What was decoded is unchanged when the buffer is used again, and the buffer is free."""
        codec = self.codec()
        content: list[object] = ["x" * 5_000, {"key of some length": "y" * 100}]
        if self.spec().carries_bytes:
            content += [b"z" * 5_000, {"data": b"z" * 20}, b"z"]
        for value in (content, content[0], content[-1]):
            data = bytearray(codec.encode(value))
            arrived = codec.decode(memoryview(data))
            for index in range(len(data)):
                data[index] ^= 0x55
            assert same(arrived, value), f"{describe(arrived)} has changed with the buffer"
            try:
                data.clear()
            except BufferError:  # a cycle of the codec's may hold it for a while: that is a leak only if it stays
                gc.collect()
                data.clear()

    def test_encode_is_deterministic(self) -> None:
        """The same value gives the same bytes: again, after other values, and from another codec of its kind."""
        drawn = values(carries_bytes=self.spec().carries_bytes, finite=True, max_leaves=12)

        def check(value: object) -> None:
            codec, other = self.codec(), self.codec()  # new ones, so that a codec's state cannot confuse hypothesis
            first = codec.encode(value)
            assert type(first) is bytes, f"encode answered {type(first).__name__} instead of bytes"
            codec.encode(["something", {"else": 1}])
            assert codec.encode(value) == first, f"{describe(value)} is written differently the second time"
            assert other.encode(copy.deepcopy(value)) == first, f"{describe(value)}: a second codec differs"

        self.for_each(drawn, check)

    def test_encode_leaves_the_value_alone(self) -> None:
        """The value belongs to the caller: it is the same before and after, also when it is refused."""
        codec = self.codec()

        def check(value: object) -> None:
            before = copy.deepcopy(value)
            codec.encode(value)
            assert same(value, before), f"encode has changed {describe(before)} into {describe(value)}"

        self.for_each(values(carries_bytes=self.spec().carries_bytes, finite=True, max_leaves=12), check)
        refused: list[object] = [[3, 1, {"b": 2, "a": 1}], object()]
        with pytest.raises(EncodeError):
            codec.encode(refused)
        assert same(refused[0], [3, 1, {"b": 2, "a": 1}]), f"a value that was refused has become {describe(refused[0])}"

    def test_a_failure_leaves_no_trace(self) -> None:
        """After an error the codec reads and writes as before."""
        codec = self.codec()
        value = {"a": [1, "x", None], "b": {"c": 2.5}}
        data = codec.encode(value)
        for bad in (data[:-1], data[: len(data) // 2], data[:1]):
            with pytest.raises(DecodeError):
                codec.decode(bad)
            arrived = codec.decode(data)
            assert same(arrived, value), f"after an error {describe(value)} is read as {describe(arrived)}"
            with pytest.raises(EncodeError):
                codec.encode({"a": object()})
            assert codec.encode(value) == data, f"after an error {describe(value)} is written differently"

    def test_depth_up_to_the_limit(self) -> None:
        """What nests as deep as the limit says comes back, lists and maps alike."""
        limit = self.depth_limit()
        assert limit >= 16, f"{limit} levels are too few to be of use"
        codec = self.codec()
        for shape in ("list", "map", "both"):
            for depth in {1, 2, limit // 2, limit - 1, limit}:
                _comes_back(codec, nested(depth, shape))
        arrived = codec.decode(self.raw_nested(codec, limit, "list"))
        assert same(arrived, nested(limit, "list")), f"{limit} levels are read as {describe(arrived)}"


def _bytes_arrive_as(codec: Codec, content: bytes, expected: object) -> None:
    for kind in (bytes, bytearray, memoryview):
        alone = codec.decode(codec.encode(kind(content)))
        assert same(alone, expected), f"{kind.__name__} of {describe(content)} arrived as {describe(alone)}"
        inside = codec.decode(codec.encode({"data": [kind(content)]}))
        assert same(inside, {"data": [expected]}), f"{kind.__name__} of {describe(content)}: {describe(inside)}"


def _buffers(data: bytes) -> Sequence[tuple[str, Buffer]]:
    framed = b"\xff\x00\x7f" + data + b"\x01\xff\xff"
    inside = slice(3, 3 + len(data))
    return (
        ("bytes", data),
        ("bytearray", bytearray(data)),
        ("a memoryview of bytes", memoryview(data)),
        ("a memoryview of a bytearray", memoryview(bytearray(data))),
        ("a view inside of bytes", memoryview(framed)[inside]),
        ("a view inside of a bytearray", memoryview(bytearray(framed))[inside]),
        ("a read-only view of a bytearray", memoryview(bytearray(framed)).toreadonly()[inside]),
        ("a view of a view", memoryview(framed)[1:-1][2 : 2 + len(data)]),
    )


def _comes_back(codec: Codec, value: object) -> None:
    arrived = codec.decode(codec.encode(value))
    assert same(arrived, value), f"{describe(value)} came back as {describe(arrived)}"


def _each_comes_back(codec: Codec, samples: Sequence[object]) -> None:
    """Each by itself, in a list and in a map: formats treat a message's outermost value apart."""
    wrapped: tuple[Callable[[object], object], ...] = (lambda v: v, lambda v: [v, v], lambda v: {"a": v, "b": [v]})
    for value in samples:
        for wrap in wrapped:
            _comes_back(codec, wrap(value))
