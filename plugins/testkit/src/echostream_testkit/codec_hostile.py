"""A stranger's bytes: a DecodeError or a value of the model, and no more memory, stack or work than they deserve.

The checks know no format. They read it off the codec's own messages: where a key or a text stands in them, and what is
repeated when a list nests deeper. On top come messages that every format with a leading byte has to fear: each first
byte, with each kind of length behind it.
"""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc
from collections.abc import Iterator
from types import FrameType
from typing import Final

import pytest
from hypothesis import strategies as st

from echostream_core.codec import Codec
from echostream_core.errors import CodecError, DecodeError
from echostream_core.value_model import find_problem
from echostream_testkit.codec_subject import CodecSubject, Shape
from echostream_testkit.codec_values import describe, same

__all__ = ["HostileBytes"]

_LENGTHS: Final = (
    *(b"\xff" * 1, b"\xff" * 2, b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 3, b"\x7f" + b"\xff" * 7),
    *(b"\x00\x00\xff\xff", b"\xff\xff\x00\x00", b"\x05\xf5\xe1\x00", b"\x00\xe1\xf5\x05" + b"\0" * 4),
    *(b"\0" * 4 + b"\x05\xf5\xe1\x00", b"\x00\x00\x00\x01" + b"\0" * 4, b"\x00\x01" * 6, b"999999999:", b"\xff" * 40),
)
"""What may stand for "a great many": the largest of each width, signed ones, 10**8, in both byte orders."""

_FREE_BYTES: Final = 256 * 1024
_BYTES_PER_BYTE: Final = 128
"""Memory for a message: a list of n nulls, of a byte each, takes 8 n at least; small maps take 80 times their bytes."""

_NOT_UTF8: Final = (b"\xff\xfe\xfd\xfc", b"\xc0\x80ab", b"ab\xc1\xbf", b"a\xed\xa0\x80", b"\xed\xbf\xbfa")
_NOT_UTF8_EITHER: Final = (b"\xf4\x90\x80\x80", b"abc\xe2", b"ab\x80c", b"\xf8\x88\x80\x80", b"\xe0\x80\x80a")
_NEEDLE: Final = "Wxyz"
"""Four ASCII characters, so that anything of four bytes can take their place."""

_MESSAGES: Final[tuple[object, ...]] = (
    {"id": 123456, "name": "Ada", "tags": ["a", "é", ""], "ok": True, "score": -1.5e3, "none": None},
    [[1, -1, 2**63, -(2**40)], [0.1, -0.0], {"": {}}, [], "x" * 70, {"a": {"b": {"c": [False]}}}],
    [{"first": number, "second": [str(number)]} for number in range(60)],
)
"""Containers only: where text or a number ends, a format need not say."""


class HostileBytes(CodecSubject):
    """The DecodeErrors of :meth:`Codec.decode`."""

    def test_random_bytes(self) -> None:
        """Any bytes: a DecodeError, or a value that is one of the model and comes back. All first bytes are tried."""
        codec, limit = self.codec(), self.depth_limit()
        self.for_each(st.binary(max_size=64), lambda data: self._is_survived(codec, data, limit), times=3)
        for first in range(256):
            for rest in (b"", *_LENGTHS):
                self._is_survived(codec, bytes([first]) + rest, limit)
        rng = random.Random(7)
        for size in [*range(40), 1_000, 5_000]:
            for _ in range(10):
                self._is_survived(codec, rng.randbytes(size), limit)

    def test_mutated_messages(self) -> None:
        """Messages with bytes changed, lost, repeated and added: what still decodes is a value of the model."""
        codec, limit = self.codec(), self.depth_limit()
        rng = random.Random(7)
        messages = [codec.encode(value) for value in _MESSAGES]
        signs = bytes(sorted(set(b"".join(messages))))
        for round_ in range(3_000):
            data = bytearray(messages[round_ % len(messages)])
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(data) + 1)
                fresh = (b"", rng.randbytes(1), bytes([rng.choice(signs)]), bytes(data[at : at + 4]) * 2, b"9" * 25)
                data[at : at + rng.randint(0, 2)] = rng.choice(fresh)
            self._is_survived(codec, bytes(data), limit)

    def test_truncated_messages(self) -> None:
        """Cut at any byte, a list or map is incomplete: a DecodeError, not what came so far."""
        codec = self.codec()
        for value in _MESSAGES:
            data = codec.encode(value)
            for size in range(len(data)):
                self.refuses(codec, data[:size], f"a message of {len(data)} bytes, cut at {size}")
        large = codec.encode(["x" * 1_000, {"a": list(range(1_000))}])
        for size in range(0, len(large), 97):
            self.refuses(codec, memoryview(large)[:size], f"a message of {len(large)} bytes, cut at {size}")

    def test_trailing_bytes(self) -> None:
        """A message is one value; bytes behind it are a DecodeError, also when they are a value."""
        codec = self.codec()
        for value in (*_MESSAGES, [], {}, ["x" * 3_000]):
            data = codec.encode(value)
            for tail in (b"\0", b"\xff", b"]", b"}", b"\x80", data, b"\0" * 1_000):
                self.refuses(codec, data + tail, f"{len(tail)} bytes behind a message")

    def test_empty_message(self) -> None:
        """No bytes are no value, not null."""
        codec = self.codec()
        for data in (b"", bytearray(), memoryview(b""), memoryview(b"abc")[1:1]):
            self.refuses(codec, data, "a message of no bytes")

    def test_duplicate_keys(self) -> None:
        """A map that names a key twice is refused: two readers of it would not agree."""
        codec = self.codec()
        for one, two in ((1, 2), (1, 1), ({}, {}), ("x" * 2_000, 2)):
            pairs: dict[str, object] = {"first": 0, "key-a": one, "key-b": two, "last": [0]}
            wide: dict[str, object] = {**{f"n{number}": number for number in range(300)}, "key-a": one, "key-b": two}
            values: tuple[object, ...] = (pairs, [pairs], {"a": [{"key-a": one, "key-b": two}]}, wide)
            for value in values:
                data = codec.encode(value)
                if data.count(b"key-a") != 1 or data.count(b"key-b") != 1:
                    pytest.skip("the format does not write keys as plain UTF-8: put such messages into hostile")
                self.refuses(codec, data.replace(b"key-b", b"key-a"), "a key that stands twice in a map")

    def test_invalid_utf8(self) -> None:
        """Text and keys that are not UTF-8 are refused: overlong forms, surrogates, beyond U+10FFFF, cut off."""
        codec = self.codec()
        as_text: list[object] = [_NEEDLE, [_NEEDLE], {"a": {"b": _NEEDLE}}, ["x" * 3_000, _NEEDLE]]
        as_key: list[object] = [{_NEEDLE: 1}, [{"a": 1, _NEEDLE: {}}]]
        for value in as_text + as_key:
            data = codec.encode(value)
            if data.count(_NEEDLE.encode()) != 1:
                pytest.skip("the format does not write text as plain UTF-8: put such messages into hostile")
            for bad in (*_NOT_UTF8, *_NOT_UTF8_EITHER):
                self.refuses(codec, data.replace(_NEEDLE.encode(), bad), f"text that is no UTF-8 ({bad.hex(' ')})")

    def test_length_bombs(self) -> None:
        """A length that the message does not keep costs no memory: what is not there is not reserved."""
        codec = self.codec()
        inside = Shape.of(codec, "list")
        fronts = [b""] if inside is None else [b"", inside.before]
        bombs = [front + bytes([first]) + length for front in fronts for first in range(256) for length in _LENGTHS]
        self._is_cheap(codec, bombs)

    def test_memory_in_proportion(self) -> None:
        """Hostile or not, a message takes memory in proportion to its bytes."""
        codec = self.codec()
        whole = [codec.encode(value) for value in (*_MESSAGES, ["x" * 100_000], [[]] * 5_000, [{}] * 5_000)]
        self._is_cheap(codec, [*whole, *(data[:-1] for data in whole), *_repeated(codec, 5_000)])

    def test_recursion_bombs(self) -> None:
        """Depth without end, closed or not, is a DecodeError: no RecursionError, no crash."""
        codec, limit = self.codec(), self.depth_limit()
        for shape in ("list", "map"):
            found = Shape.of(codec, shape)
            for depth in (limit + 1, limit + 2, 10 * limit, 50_000):
                what = f"{depth} levels of {shape}s, the limit is {limit}"
                self.refuses(codec, self.raw_nested(codec, depth, shape), what)
                if found is not None:
                    self.refuses(codec, found.before * depth, f"{what}, never closed")
        for first in range(256):
            self._decode_only(codec, bytes([first]) * 5_000)

    def test_work_in_proportion(self) -> None:
        """Four times the bytes are about four times the work, counted in calls: what libraries do in C is not seen."""
        codec = self.codec()
        for small, large in zip(_repeated(codec, 256), _repeated(codec, 1_024), strict=True):
            before, after = _calls(codec, small), _calls(codec, large)
            assert after <= 8 * before + 1_000, (
                f"{describe(small)} takes {before} calls, four times as much of it {after}: that grows like a square"
            )

    def test_errors_are_brief(self) -> None:
        """A DecodeError quotes little of the peer, in printable ASCII; its offset lies inside of the message."""
        codec = self.codec()
        data = codec.encode([{_NEEDLE: "y" * 5_000}, ["é" * 5_000]])
        cut, twice, garbled = data[:-1], data + data, data.replace(_NEEDLE.encode(), b"\xff\x1b[2")
        for bad in (cut, twice, garbled, data[1:], b"\x1b[31m" * 2_000):
            error = self.refuses(codec, bad, "a malformed message")
            text = str(error)
            assert 0 < len(text) <= 1_000, f"the message has {len(text)} characters: a peer chooses what it quotes"
            assert text.isascii() and text.isprintable(), f"{text!r} would go to a terminal as it is"
            assert error.offset is None or 0 <= error.offset <= len(bad), f"offset {error.offset} of {len(bad)} bytes"

    def test_known_hostile_messages(self) -> None:
        """What the class lists as ``hostile``."""
        codec = self.codec()
        for data in self.hostile:
            self.refuses(codec, data, "listed as hostile")
            self.refuses(codec, memoryview(data), "listed as hostile")

    def _is_survived(self, codec: Codec, data: bytes, limit: int) -> None:
        try:
            value = codec.decode(data)
        except DecodeError:
            return
        except Exception as error:  # every other class is a breach of the contract, and the check names it
            raise AssertionError(
                f"{type(error).__name__} ({str(error)[:200]}) instead of DecodeError for {describe(data)}"
            ) from error
        problem = find_problem(value, limit)
        assert problem is None, f"{describe(data)} is decoded to {problem.reason} at {problem.path}"
        if not self.spec().carries_bytes:
            assert not _has_bytes(value), f"{describe(data)} is decoded to bytes, which the spec says it cannot carry"
        what = f"{describe(data)} is decoded to {describe(value)}"
        try:
            again = codec.decode(codec.encode(value))
        except CodecError as error:
            raise AssertionError(f"{what}, which does not come back: {error}") from error
        assert same(again, value), f"{what}, which comes back as {describe(again)}"

    def _is_cheap(self, codec: Codec, messages: list[bytes]) -> None:
        was_tracing = tracemalloc.is_tracing()
        if not was_tracing:
            tracemalloc.start()
        try:
            for data in messages:
                gc.collect(0)
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                self._decode_only(codec, data)
                used = tracemalloc.get_traced_memory()[1] - before
                allowed = _FREE_BYTES + _BYTES_PER_BYTE * len(data)
                assert used <= allowed, f"{used} bytes of memory for a message of {len(data)}: {describe(data)}"
        finally:
            if not was_tracing:
                tracemalloc.stop()

    def _decode_only(self, codec: Codec, data: bytes) -> None:
        try:
            codec.decode(data)
        except DecodeError:
            return
        except Exception as error:  # every other class is a breach of the contract, and the check names it
            raise AssertionError(f"{type(error).__name__} instead of DecodeError for {describe(data)}") from error


def _repeated(codec: Codec, count: int) -> Iterator[bytes]:
    """Messages that grow with ``count``: each byte again and again, and valid ones with many of one thing."""
    for first in range(256):
        yield bytes([first]) * count
    keys = codec.encode({f"{number:06}": number for number in range(count)})
    yield keys
    yield keys + b"\xff"
    yield codec.encode([0.5] * count) + b"\xff"
    yield codec.encode([{"a": []}] * count)[:-1]
    yield codec.encode('\\"\0' * count)
    yield codec.encode("é" * count)[:-1]


def _calls(codec: Codec, data: bytes) -> int:
    """How many calls, of Python functions and from Python into C, decoding ``data`` takes."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        codec.decode(data)
    except DecodeError:
        pass
    finally:
        sys.setprofile(before)
    return count


def _has_bytes(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_bytes(item) for item in value.values())
    if isinstance(value, list):
        return any(_has_bytes(item) for item in value)
    return isinstance(value, bytes | bytearray | memoryview)
