"""The codec under test, and what the checks need to know of it beside its spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Final, Literal, TypeVar

import msgspec
import pytest
from hypothesis import strategies as st

from echostream_core.codec import Codec, CodecSpec
from echostream_core.errors import DecodeError, EncodeError
from echostream_core.types import Buffer
from echostream_testkit.codec_values import NOT_FINITE, describe, for_each, nested
from echostream_testkit.spec_checks import SpecChecks

__all__ = ["CodecRecord", "CodecSubject", "Shape"]

T = TypeVar("T")

_MOST_LEVELS: Final = 600
"""A limit above this is none: Python's stack holds 1000 frames."""


@dataclass(frozen=True, slots=True)
class CodecRecord:
    """What a codec's spec claims, for reports."""

    carries_bytes: bool

    def as_dict(self) -> dict[str, bool]:
        """As plain data."""
        return asdict(self)


class CodecSubject(SpecChecks):
    """What a class of the codec suite says of its codec, and how the checks get at it."""

    kind: ClassVar[str] = "codec"
    max_depth: ClassVar[int | None] = None
    """How deep lists and maps may nest. None: the option ``max_depth``, or else what the codec is seen to carry."""
    hostile: ClassVar[Sequence[bytes]] = ()
    """More messages, special to the format, that must be refused."""
    examples: ClassVar[int] = 80
    """How many values hypothesis draws for each property."""
    shrink: ClassVar[bool] = True
    """Whether hypothesis makes a value that fails as small as it can, which may take seconds."""

    def spec(self) -> CodecSpec:
        """The codec's spec; see :meth:`SpecChecks.spec`."""
        found = super().spec()
        assert isinstance(found, CodecSpec)
        return found

    def claims(self, name: str) -> bool:
        """Whether the spec claims ``carries_bytes``; whether there is an option ``max_depth``."""
        if name == "carries_bytes":
            return self.spec().carries_bytes
        if name == "max_depth":
            return any(field.encode_name == name for field in msgspec.structs.fields(self.spec().options))
        raise ValueError(f"codecs claim carries_bytes, and may have an option max_depth, not {name!r}")

    def record(self) -> CodecRecord:
        """The claims of the spec."""
        return CodecRecord(carries_bytes=self.spec().carries_bytes)

    def codec(self, **changes: object) -> Codec:
        """A new codec with the class's ``options`` and ``changes``."""
        return self.spec().factory(self.option_struct(changes))

    def for_each(self, strategy: st.SearchStrategy[T], check: Callable[[T], None], *, times: int = 1) -> None:
        """Run ``check`` with ``times`` ``examples`` values, the same ones on every run."""
        for_each(strategy, times * self.examples, check, shrink=self.shrink)

    def depth_limit(self) -> int:
        """How many levels the codec carries: stated by the class, by an option, or tried."""
        if self.max_depth is not None:
            return self.max_depth
        stated = getattr(self.option_struct(), "max_depth", None)
        if isinstance(stated, int):
            return stated
        codec = self.codec()
        carried, refused = 0, _MOST_LEVELS
        while refused - carried > 1:
            middle = (carried + refused) // 2
            try:
                codec.encode(nested(middle))
                carried = middle
            except EncodeError:
                refused = middle
        return carried

    def carries_not_finite(self) -> bool:
        """Whether NaN and the infinities are carried: a format without words for them refuses all three."""
        codec = self.codec()
        answers = set()
        for number in NOT_FINITE:
            try:
                codec.encode(number)
                answers.add(True)
            except EncodeError:
                answers.add(False)
        assert len(answers) == 1, "NaN and both infinities are carried together or not at all"
        return answers.pop()

    def raw_nested(self, codec: Codec, depth: int, shape: Literal["list", "map"]) -> bytes:
        """The bytes of 1 inside of ``depth`` lists or maps, at any depth; see :class:`Shape`.

        Override it for a format in which the form of a container depends on what is in it.
        """
        found = Shape.of(codec, shape)
        if found is None:
            pytest.skip("how this format nests cannot be read off its messages: override raw_nested")
        return found.at(depth)

    def refuses(self, codec: Codec, data: Buffer, what: str) -> DecodeError:
        """The DecodeError for ``data``; anything else, a value too, fails the check."""
        try:
            value = codec.decode(data)
        except DecodeError as error:
            return error
        except Exception as error:  # every other class is a breach of the contract, and the check names it
            raise AssertionError(
                f"{what}: {type(error).__name__} ({error!s:.200}) instead of DecodeError for {describe(bytes(data))}"
            ) from error
        pytest.fail(f"{what}: accepted as {describe(value)}: {describe(bytes(data))}")


class Shape:
    """How a format nests: what it writes before a level, at the centre, and behind a level."""

    def __init__(self, before: bytes, centre: bytes, behind: bytes) -> None:
        self.before = before
        self.centre = centre
        self.behind = behind

    def at(self, depth: int) -> bytes:
        """The message of ``depth`` levels."""
        return self.before * depth + self.centre + self.behind * depth

    @classmethod
    def of(cls, codec: Codec, shape: Literal["list", "map"]) -> Shape | None:
        """Read off messages of up to eight levels; None when the levels do not look alike."""
        messages = [codec.encode(nested(depth, shape)) for depth in range(9)]
        growth = len(messages[2]) - len(messages[1])
        for size in range(1, growth + 1):
            before = messages[8][:size]
            behind = messages[8][len(messages[8]) - (growth - size) :]
            found = cls(before, messages[0], behind)
            if all(found.at(depth) == message for depth, message in enumerate(messages)):
                return found
        return None
