"""Codecs with one fault each, made of the reference codec, and the check that has to find it."""

from __future__ import annotations

import functools
import itertools
import operator
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from echostream_core.codec import Codec, CodecSpec
from echostream_core.errors import DecodeError, EncodeError
from echostream_core.types import Buffer
from plugins.testkit.tests.reference_codec import SPEC, ReferenceCodec, ReferenceOptions, make_spec

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """A codec with a fault: ``fault`` is a sentence, ``caught_by`` the check, ``says`` a part of its message."""

    fault: str
    spec: CodecSpec
    caught_by: str
    says: str


MUTANTS: list[Mutant] = []


def fault(text: str, caught_by: str, says: str) -> Callable[[type[ReferenceCodec]], type[ReferenceCodec]]:
    """List a class as a mutant."""

    def add(codec: type[ReferenceCodec]) -> type[ReferenceCodec]:
        MUTANTS.append(Mutant(text, make_spec(codec), caught_by, says))
        return codec

    return add


# --- there and back --------------------------------------------------------------------------------------------------
@fault("a whole float arrives as an integer", "test_floats", "came back as int 0")
@fault("a whole float that is drawn arrives as an integer", "test_floats_drawn", "came back as int 0")
class WholeFloats(ReferenceCodec):
    def read_float(self, data: memoryview, at: int) -> tuple[object, int]:
        value, at = super().read_float(data, at)
        assert isinstance(value, float)
        return int(value) if value.is_integer() else value, at


@fault("floats travel with 32 bits", "test_floats_drawn", "came back as float")
class ShortFloats(ReferenceCodec):
    def write_float(self, out: list[bytes], value: float) -> None:
        super().write_float(out, struct.unpack(">f", struct.pack(">f", value))[0] if abs(value) < 3e38 else value)


@fault("subnormals are flushed to zero", "test_floats", "5e-324 came back as float 0.0")
class FlushedFloats(ReferenceCodec):
    def write_float(self, out: list[bytes], value: float) -> None:
        super().write_float(out, value if abs(value) >= 2.2250738585072014e-308 else 0.0 * value)


@fault("the sign of zero is lost", "test_floats", "-0.0 came back as float 0.0")
class UnsignedZero(ReferenceCodec):
    def write_float(self, out: list[bytes], value: float) -> None:
        super().write_float(out, value or 0.0)


@fault("NaN becomes null", "test_not_finite_floats", "came back as NoneType None")
class NanIsNull(ReferenceCodec):
    def write_float(self, out: list[bytes], value: float) -> None:
        if value == value:
            super().write_float(out, value)
        else:
            out.append(b"n")


@fault("an integer beyond 2**53 loses digits", "test_integers", "came back as int")
@fault("a large integer that is drawn loses digits", "test_integers_drawn", "came back as int")
class RoundedIntegers(ReferenceCodec):
    def write_integer(self, out: list[bytes], value: int) -> None:
        super().write_integer(out, min(int(float(value)), 2**64 - 1))


@fault("true arrives as 1", "test_null_and_booleans", "True came back as int 1")
class BooleansAreIntegers(ReferenceCodec):
    def read(self, data: memoryview, at: int, depth: int) -> tuple[object, int]:
        value, at = super().read(data, at, depth)
        return int(value) if isinstance(value, bool) else value, at


@fault("text is normalised", "test_text", "came back as str")
@fault("keys that look alike become one", "test_map_keys", "came back as dict")
class NormalisedText(ReferenceCodec):
    def write_text(self, out: list[bytes], value: str) -> None:
        super().write_text(out, unicodedata.normalize("NFC", value))


@fault("text ends at NUL", "test_text", "came back as str")
class CutText(ReferenceCodec):
    def write_text(self, out: list[bytes], value: str) -> None:
        super().write_text(out, value.partition("\0")[0])


@fault("a key is lost in a map of more than two", "test_every_value_comes_back", "came back as")
class LostKey(ReferenceCodec):
    def write_map(self, out: list[bytes], value: dict[str, object]) -> None:
        super().write_map(out, dict(itertools.islice(value.items(), 2)))


@fault("the empty list arrives as null", "test_lists_and_maps", "came back as")
class EmptyIsNull(ReferenceCodec):
    def read_list(self, data: memoryview, at: int, depth: int) -> tuple[Any, int]:
        items, at = super().read_list(data, at, depth)
        return items or None, at


@fault("bytes come back as text", "test_carries_bytes", "arrived as")
class BytesAsText(ReferenceCodec):
    def read_bytes(self, data: memoryview, at: int) -> tuple[object, int]:
        content, at = self.cut(data, at)
        try:
            return str(content, "utf-8"), at
        except UnicodeDecodeError:
            return bytes(content), at


@fault("bytes come back as a view of the message", "test_carries_bytes", "arrived as")
@fault("a memoryview of the message is kept", "test_nothing_refers_to_the_buffer", "has changed with the buffer")
class KeptView(ReferenceCodec):
    def read_bytes(self, data: memoryview, at: int) -> tuple[object, int]:
        return self.cut(data, at)


@fault("the message is kept until the next one", "test_nothing_refers_to_the_buffer", "BufferError")
class KeptMessage(ReferenceCodec):
    def decode(self, data: Buffer) -> object:
        self.last = memoryview(data)
        return super().decode(data)


@fault("only bytes are read", "test_every_kind_of_buffer", "bytearray: TypeError")
class OnlyBytes(ReferenceCodec):
    def decode(self, data: Buffer) -> object:
        if not isinstance(data, bytes):
            raise TypeError("a bytes object is required")
        return super().decode(data)


@fault("a view is read from the beginning of what it views", "test_every_kind_of_buffer", "a view inside of bytes")
class IgnoresOffsets(ReferenceCodec):
    def decode(self, data: Buffer) -> object:
        return super().decode(data.obj if isinstance(data, memoryview) else data)  # type: ignore[arg-type]  # the fault


@fault("a view with gaps is read as if it had none", "test_views_with_gaps", "a view of every second byte")
class IgnoresGaps(ReferenceCodec):
    def decode(self, data: Buffer) -> object:
        if isinstance(data, memoryview) and not data.c_contiguous:
            return [data[0]]
        return super().decode(data)


@fault("a tuple arrives as a map", "test_tuples_arrive_as_lists", "tuples arrived as dict")
class TuplesAreMaps(ReferenceCodec):
    def write(self, out: list[bytes], value: object) -> None:
        super().write(out, {str(at): item for at, item in enumerate(value)} if isinstance(value, tuple) else value)


@fault("a message is limited to 1 MiB", "test_tiny_and_huge", "DecodeError")
class SmallMessages(ReferenceCodec):
    def check_end(self, data: memoryview, end: int) -> None:
        if end > 1024 * 1024:
            raise ValueError("too large")
        super().check_end(data, end)


@fault("every message is written differently", "test_encode_is_deterministic", "written differently")
class Unsteady(ReferenceCodec):
    turn = 0

    def write_map(self, out: list[bytes], value: dict[str, object]) -> None:
        self.turn += 1
        super().write_map(out, dict(sorted(value.items(), reverse=self.turn % 2 == 0)))


@fault("encode sorts the caller's lists", "test_encode_leaves_the_value_alone", "encode has changed")
class SortsInPlace(ReferenceCodec):
    def write(self, out: list[bytes], value: object) -> None:
        if isinstance(value, list):
            value.sort(key=repr)
        super().write(out, value)


@fault("after an error the codec refuses everything", "test_a_failure_leaves_no_trace", "broken for good")
class StaysBroken(ReferenceCodec):
    broken = False

    def decode(self, data: Buffer) -> object:
        if self.broken:
            raise AssertionError("broken for good")
        self.broken = True
        value = super().decode(data)
        self.broken = False
        return value


# --- what cannot be carried ------------------------------------------------------------------------------------------
@fault("a set is written as a list", "test_other_types_are_refused", "refuse it with an EncodeError")
class SetsAreLists(ReferenceCodec):
    def encode(self, value: object) -> bytes:
        return super().encode(sorted(value) if isinstance(value, set) else value)


@fault("the path of a refusal is left out", "test_other_types_are_refused", "the path is ''")
class NoPath(ReferenceCodec):
    def check_value(self, value: object) -> None:
        try:
            super().check_value(value)
        except EncodeError as error:
            raise EncodeError(str(error)) from error


@fault("a type that is not known is a TypeError", "test_other_types_are_refused", "TypeError instead of EncodeError")
@fault("whatever is not known is a TypeError", "test_only_encode_errors", "TypeError")
class TypeErrors(ReferenceCodec):
    def check_value(self, value: object) -> None:
        try:
            super().check_value(value)
        except EncodeError as error:
            raise TypeError(str(error)) from error


@fault("integers beyond 64 bits are cut off", "test_large_integers_are_refused", "refuse it with an EncodeError")
class CutIntegers(ReferenceCodec):
    def encode(self, value: object) -> bytes:
        return super().encode(value & (2**64 - 1) if type(value) is int and value > 2**64 - 1 else value)


@fault("an integer as a key becomes text", "test_other_keys_are_refused", "refuse it with an EncodeError")
class KeysBecomeText(ReferenceCodec):
    def encode(self, value: object) -> bytes:
        return super().encode({str(key): item for key, item in value.items()} if isinstance(value, dict) else value)


@fault("a lone surrogate is replaced", "test_lone_surrogates_are_refused", "refuse it with an EncodeError")
class ReplacedSurrogates(ReferenceCodec):
    def write_text(self, out: list[bytes], value: str) -> None:
        super().write_text(out, value.encode(errors="replace").decode())


@fault("depth is ignored in writing", "test_depth_beyond_the_limit_is_refused", "refuse it with an EncodeError")
class WritesAnyDepth(ReferenceCodec):
    def check_value(self, value: object) -> None:
        try:
            super().check_value(value)
        except EncodeError as error:
            if "max_depth" not in str(error):
                raise


@fault("max_depth is an option without effect", "test_a_smaller_depth_can_be_configured", "refuse it with")
class FixedDepth(ReferenceCodec):
    def __init__(self, options: ReferenceOptions) -> None:
        super().__init__(ReferenceOptions())


@fault("a view with gaps is a BufferError", "test_views_with_gaps_are_refused", "BufferError instead of EncodeError")
class BufferErrors(ReferenceCodec):
    def encode(self, value: object) -> bytes:
        self.write([], value)
        return super().encode(value)


# --- strangers' bytes ------------------------------------------------------------------------------------------------
@fault("bytes behind the value are ignored", "test_trailing_bytes", "bytes behind a message: accepted")
class AcceptsTrailing(ReferenceCodec):
    def check_end(self, data: memoryview, end: int) -> None:
        return


@fault("what is malformed is a ValueError", "test_random_bytes", "ValueError")
class ValueErrors(ReferenceCodec):
    def decode(self, data: Buffer) -> object:
        view = memoryview(data)
        value, end = self.read(view, 0, self.max_depth) if view else (None, 0)
        self.check_end(view, end)
        return value


@fault("an unknown kind is a KeyError", "test_mutated_messages", "KeyError")
class KeyErrors(ReferenceCodec):
    def read(self, data: memoryview, at: int, depth: int) -> tuple[object, int]:
        if at < len(data) and data[at] not in b"ntfiudsblm":
            raise KeyError(data[at])
        return super().read(data, at, depth)


@fault("a list that is cut off is read as far as it goes", "test_truncated_messages", "cut at")
class AcceptsTruncated(ReferenceCodec):
    def read_list(self, data: memoryview, at: int, depth: int) -> tuple[list[object], int]:
        items: list[object] = []
        count = struct.unpack_from(">I", data, at)[0]
        at += 4
        while len(items) < count and at < len(data):
            item, at = self.read(data, at, depth - 1)
            items.append(item)
        return items, at


@fault("no bytes are null", "test_empty_message", "a message of no bytes: accepted as NoneType None")
class EmptyMessageIsNull(ReferenceCodec):
    def decode(self, data: Buffer) -> object:
        return super().decode(data) if len(data) else None


@fault("of two equal keys the last one counts", "test_duplicate_keys", "a key that stands twice in a map: accepted")
class AcceptsDuplicates(ReferenceCodec):
    def put(self, found: dict[str, object], key: str, item: object) -> None:
        found[key] = item


@fault("invalid UTF-8 is replaced", "test_invalid_utf8", "text that is no UTF-8")
class ReplacesInvalid(ReferenceCodec):
    def read_text(self, data: memoryview, at: int) -> tuple[str, int]:
        content, at = self.cut(data, at)
        return str(content, "utf-8", errors="replace"), at


@fault("surrogates are let through", "test_invalid_utf8", "text that is no UTF-8 (61 ed a0 80): accepted")
class AcceptsSurrogates(ReferenceCodec):
    def read_text(self, data: memoryview, at: int) -> tuple[str, int]:
        content, at = self.cut(data, at)
        return str(content, "utf-8", errors="surrogatepass"), at


@fault("memory is reserved by the length that is told", "test_length_bombs", "bytes of memory for a message of")
class TrustsCounts(ReferenceCodec):
    def read_list(self, data: memoryview, at: int, depth: int) -> tuple[list[object], int]:
        room = bytearray(min(struct.unpack_from(">I", data, at)[0], 5_000_000))
        items, at = super().read_list(data, at, depth)
        del room
        return items, at


@fault("the message is copied for every value in it", "test_memory_in_proportion", "bytes of memory for a message of")
class Copies(ReferenceCodec):
    def read_list(self, data: memoryview, at: int, depth: int) -> tuple[list[object], int]:
        items: list[object] = []
        copies = []
        count = struct.unpack_from(">I", data, at)[0]
        at += 4
        for _ in range(count):
            copies.append(bytes(data[at : at + 8_000]))
            item, at = self.read(data, at, depth - 1)
            items.append(item)
        return items, at


@fault("depth is ignored in reading", "test_recursion_bombs", "65 levels of lists, the limit is 64: accepted")
class ReadsAnyDepth(ReferenceCodec):
    def check_depth(self, depth: int) -> None:
        return


@fault("a RecursionError escapes", "test_recursion_bombs", "RecursionError")
class LooksTooLate(ReadsAnyDepth):
    def decode(self, data: Buffer) -> object:
        value = super().decode(data)
        try:
            self.check_value(value)
        except EncodeError as error:
            raise DecodeError(str(error)) from error
        return value


@fault("the deepest level is refused", "test_depth_up_to_the_limit", "DecodeError")
class ShallowerByOne(ReferenceCodec):
    def check_depth(self, depth: int) -> None:
        super().check_depth(depth - 1)


@fault("the limit is wrong by one", "test_recursion_bombs", "accepted as")
class DeeperByOne(ReferenceCodec):
    def check_depth(self, depth: int) -> None:
        super().check_depth(depth + 1)


@fault("equal keys are searched for one by one", "test_work_in_proportion", "grows like a square")
class ComparesKeys(ReferenceCodec):
    def put(self, found: dict[str, object], key: str, item: object) -> None:
        for other in found:
            if operator.eq(other, key):  # a call, as a comparison of richer keys would be
                raise ValueError("twice")
        found[key] = item


@fault("the error quotes the whole message", "test_errors_are_brief", "a peer chooses what it quotes")
class QuotesPeers(ReferenceCodec):
    def decode(self, data: Buffer) -> object:
        try:
            return super().decode(data)
        except Exception as error:
            error.args = (f"{error}: {bytes(data)!r}",)
            raise


@fault("a message that was listed is read", "test_known_hostile_messages", "listed as hostile: accepted")
class ReadsTheLongForm(ReferenceCodec):
    def read(self, data: memoryview, at: int, depth: int) -> tuple[object, int]:
        if at < len(data) and data[at] == ord("u"):
            return struct.unpack_from(">Q", data, at + 1)[0], at + 9
        return super().read(data, at, depth)


# --- the spec --------------------------------------------------------------------------------------------------------
class Nameless(ReferenceCodec):
    name = "other"


class Loose(msgspec.Struct, frozen=True):
    """Forgets ``forbid_unknown_fields``."""

    max_depth: int = 64


class Untyped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An option without a type."""

    mode: Any = "safe"


class Contradictory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A default that its own type refuses."""

    mode: str = 7  # type: ignore[assignment]  # the fault


def make_with_defaults(options: msgspec.Struct) -> Codec:
    """For schemas that are not the reference's."""
    return ReferenceCodec(ReferenceOptions())


SHARED = ReferenceCodec(ReferenceOptions())


def import_much(options: msgspec.Struct) -> Codec:
    """Stands for a factory whose module is expensive: see ``codec_heavy.py``."""
    return ReferenceCodec(ReferenceOptions())


import_much.__module__ = "plugins.testkit.tests.mutations.codec_heavy"

MUTANTS += [
    Mutant("the codec goes by another name", make_spec(Nameless), "test_the_codec_is_what_its_spec_says", "'other'"),
    Mutant(
        "all endpoints share one codec",
        replace(SPEC, factory=lambda options: SHARED),
        "test_the_codec_is_what_its_spec_says",
        "one codec per endpoint",
    ),
    Mutant("the summary is missing", replace(SPEC, summary=""), "test_name_and_summary", "no summary"),
    Mutant("the spec has another name", replace(SPEC, name="other"), "test_name_and_summary", "'other'"),
    Mutant(
        "a misspelt option has no effect",
        replace(SPEC, options=Loose, factory=make_with_defaults),
        "test_unknown_option",
        "codec.reference.no_such_option is accepted",
    ),
    Mutant(
        "an option takes anything",
        replace(SPEC, options=Untyped, factory=make_with_defaults),
        "test_mistyped_option",
        "mode takes anything",
    ),
    Mutant(
        "a default is not valid",
        replace(SPEC, options=Contradictory, factory=make_with_defaults),
        "test_options_have_valid_defaults",
        "the default of 'mode' is not valid",
    ),
    Mutant(
        "the import loads half the standard library",
        replace(SPEC, factory=functools.partial(import_much)),
        "test_import_budget",
        "import_budget is 64",
    ),
    Mutant(
        "bytes come out although the spec says that they do not",
        make_spec(ReferenceCodec, carries_bytes=False),
        "test_carries_bytes_as_base64",
        "arrived as",
    ),
    Mutant("the kernel does not take the name", replace(SPEC, name=""), "test_the_kernel_takes_the_spec", "E-HOOK"),
]
