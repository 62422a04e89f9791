"""What cannot be carried: an EncodeError that says where it stands, and nothing else."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import uuid
from collections.abc import Hashable
from typing import Final, NamedTuple

import msgspec
import pytest
from hypothesis import strategies as st

from echostream_core.codec import Codec
from echostream_core.errors import ConfigError, EncodeError
from echostream_core.value_model import HIGHEST_MAX_DEPTH
from echostream_testkit.checks import needs
from echostream_testkit.codec_subject import CodecSubject
from echostream_testkit.codec_values import describe, nested

__all__ = ["Refusals"]


class _Colour(enum.IntEnum):
    RED = 1


class _Mood(enum.StrEnum):
    GOOD = "good"


class _Number(int):
    pass


class _Text(str):
    __slots__ = ()


class _Pair(NamedTuple):
    left: int
    right: int


@dataclasses.dataclass
class _Point:
    x: int = 1


class _Record(msgspec.Struct):
    x: int = 1


STRANGERS: Final[tuple[object, ...]] = (
    *({1}, frozenset({1}), set(), 1j, object(), int, len, range(3), iter(()), {}.keys(), Ellipsis, NotImplemented),
    datetime.datetime(2026, 1, 1, 12, 30, tzinfo=datetime.UTC),
    datetime.date(2026, 1, 1),
    datetime.time(12, 30),
    datetime.timedelta(seconds=1),
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=1),
    pathlib.PurePosixPath("/tmp"),
    *(_Colour.RED, _Mood.GOOD, _Number(1), _Text("a"), _Pair(1, 2), _Point(), _Record()),
    *(collections.OrderedDict(a=1), collections.defaultdict(int), collections.Counter(), collections.deque()),
    msgspec.Raw(b"1"),
    msgspec.UNSET,
)
"""Types outside the model. The kernel turns the richer ones into plain data when a codec refuses them: one that writes
them as it sees fit gets ahead of it, and the values differ from codec to codec.
"""


class Refusals(CodecSubject):
    """The EncodeErrors of :meth:`Codec.encode`."""

    def test_other_types_are_refused(self) -> None:
        """A type outside the model is an EncodeError with its path; subclasses and enums are other types."""
        codec = self.codec()
        for stranger in STRANGERS:
            _refused(codec, stranger, "$")
            _refused(codec, [stranger], "$[0]")
            _refused(codec, {"items": [0, 1, 2, {"when": stranger}]}, "$.items[3].when")

    def test_large_integers_are_refused(self) -> None:
        """64 bits and no more, also where the format or Python could go on."""
        codec = self.codec()
        for number in (2**64, -(2**63) - 1, -(2**64), 2**65, 10**30, -(10**400), 1 << 5_000):
            _refused(codec, number, "$")
            _refused(codec, [1, number], "$[1]")
            _refused(codec, {"a": {"b": number}}, "$.a.b")

    def test_other_keys_are_refused(self) -> None:
        """A map has text keys: an integer is not quietly made into text."""
        codec = self.codec()
        keys: tuple[Hashable, ...] = (1, None, True, 1.5, b"a", (1,), _Mood.GOOD, _Text("a"), frozenset())
        for key in keys:
            _refused(codec, {key: 1}, "$")
            _refused(codec, {"a": [{"fine": 1}, {key: 1}]}, "$.a[1]")

    def test_lone_surrogates_are_refused(self) -> None:
        """Text that is not Unicode cannot be carried, as a value or as a key."""
        codec = self.codec()
        for text in ("\ud800", "\udfff", "before \udc80 behind", "\udc00\ud800"):
            _refused(codec, text, "$")
            _refused(codec, {"a": ["fine", text]}, "$.a[1]")
            _refused(codec, {"a": {text: 1}}, f"$.a[{text!a}]")

    def test_depth_beyond_the_limit_is_refused(self) -> None:
        """One level more than the limit is an EncodeError; so is a value that contains itself."""
        limit = self.depth_limit()
        assert limit <= HIGHEST_MAX_DEPTH, (
            f"{limit} levels or more are written: refuse more than {HIGHEST_MAX_DEPTH}, the stack of a peer is short"
        )
        codec = self.codec()
        for depth in (limit + 1, limit + 2, 10 * limit, 50_000):
            for shape in ("list", "map", "both"):
                _refused(codec, nested(depth, shape))
        circle: list[object] = [1]
        circle += [{"again": circle}, circle]
        _refused(codec, circle)
        ring: dict[str, object] = {}
        ring["again"] = ring
        _refused(codec, ring)

    @needs("max_depth")
    def test_a_smaller_depth_can_be_configured(self) -> None:
        """An option ``max_depth`` means what it says, in both directions."""
        wide = self.codec()
        for limit in (1, 2, 7):
            codec = self.codec(max_depth=limit)
            for shape in ("list", "map", "both"):
                fits, over = nested(limit, shape), nested(limit + 1, shape)
                arrived = codec.decode(codec.encode(fits))
                assert arrived == fits, f"max_depth = {limit}: {describe(fits)} came back as {describe(arrived)}"
                _refused(codec, over)
                self.refuses(codec, wide.encode(over), f"{limit + 1} levels with max_depth = {limit}")
        with pytest.raises(ConfigError):
            self.option_struct({"max_depth": 0})

    def test_views_with_gaps_are_refused(self) -> None:
        """A memoryview that is not contiguous is an EncodeError, whatever the library behind says."""
        codec = self.codec()
        _refused(codec, memoryview(b"abcdef")[::2], "$")
        _refused(codec, {"a": [memoryview(b"abcdef")[::-1]]}, "$.a[0]")

    def test_only_encode_errors(self) -> None:
        """Whatever Python has: it is carried, or refused with an EncodeError."""
        codec = self.codec()
        scalars = st.none() | st.integers() | st.floats() | st.text(st.characters()) | st.binary()
        strange = scalars | st.complex_numbers() | st.sets(st.integers(), max_size=2) | st.dates() | st.decimals()
        keys = st.text(st.characters(), max_size=3) | st.integers() | st.none() | st.binary(max_size=3)
        drawn = st.recursive(
            strange, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
        )

        def check(value: object) -> None:
            try:
                codec.encode(value)
            except EncodeError as error:
                assert error.path == "" or error.path.startswith("$"), f"{error.path!r} is no path: begin with $"

        self.for_each(drawn, check)


def _refused(codec: Codec, value: object, path: str | None = None) -> None:
    """``value`` is an EncodeError at ``path`` (None: anywhere), with a message of a bounded length."""
    try:
        data = codec.encode(value)
    except EncodeError as error:
        assert path is None or error.path == path, f"the path is {error.path!r} instead of {path!r} for {error}"
        assert 0 < len(str(error)) <= 1_000, "a message quotes no more than it must"
    except Exception as error:  # every other class is a breach of the contract, and the check names it
        raise AssertionError(f"{type(error).__name__} instead of EncodeError for {describe(value)}") from error
    else:
        pytest.fail(f"{describe(value)} is written as {describe(data)}: refuse it with an EncodeError")
