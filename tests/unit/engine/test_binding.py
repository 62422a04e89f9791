"""From a payload to a handler's arguments: shapes, types, defaults, and errors that say where."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pytest

from echostream_core import ConfigError, Context, RpcError, StatusCode, Stream
from echostream_core.engine.binding import convert, plain, read_signature

CONTEXT: Any = object()
STREAM: Any = object()


def bound(function: Callable[..., object], payload: object) -> tuple[object, ...]:
    """What ``function`` would be called with."""
    return read_signature(function, "calc.f", Stream).binder("calc.f")(payload, CONTEXT, STREAM)


def refused(function: Callable[..., object], payload: object) -> RpcError:
    with pytest.raises(RpcError) as caught:
        bound(function, payload)
    assert caught.value.code is StatusCode.INVALID_ARGUMENT
    assert caught.value.not_processed
    return caught.value


def path_of(error: RpcError) -> object:
    ((name, detail),) = error.details
    assert name == "BadField"
    assert isinstance(detail, dict)
    return detail["path"]


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Line:
    start: Point
    end: Point
    tags: list[str]


class Item(msgspec.Struct):
    name: str
    size: Size = Size.SMALL


class Row(TypedDict):
    key: str
    value: NotRequired[int]


# Shapes


def test_no_parameter_takes_null_only() -> None:
    def nothing() -> None: ...

    assert bound(nothing, None) == ()
    assert "takes no payload, got int" in refused(nothing, 5).message


def test_one_parameter_takes_the_payload_whole() -> None:
    def one(value: object) -> None: ...
    def untyped(value) -> None: ...  # type: ignore[no-untyped-def]  # that is what is tested

    for payload in (5, {"value": 5}, [1, 2], None):
        assert bound(one, payload) == (payload,)
        assert bound(untyped, payload) == (payload,)


def test_one_parameter_with_a_default_takes_null_for_the_default() -> None:
    def one(value: int = 7) -> None: ...

    assert bound(one, None) == (7,)
    assert bound(one, 5) == (5,)


def test_several_parameters_take_a_map_of_their_names() -> None:
    def several(a: int, b: str, c: float = 0.5) -> None: ...

    assert bound(several, {"b": "x", "a": 1}) == (1, "x", 0.5)
    assert bound(several, {"b": "x", "a": 1, "c": 2.0}) == (1, "x", 2.0)


def test_a_payload_that_is_no_map_binds_the_first_if_the_others_have_defaults() -> None:
    def several(a: int, b: str = "x") -> None: ...
    def strict(a: int, b: str) -> None: ...

    assert bound(several, 5) == (5, "x")
    assert bound(several, {"a": 5}) == (5, "x")
    assert "expects a map with a, b, got int" in refused(strict, 5).message


def test_a_first_parameter_that_is_bound_alone_is_checked_too() -> None:
    def several(a: int, b: str = "x") -> None: ...

    assert path_of(refused(several, "five")) == "$.a"


def test_defaults_that_can_change_are_not_shared() -> None:
    def several(a: int, b: list[int] = []) -> None: ...  # noqa: B006 (that is what is tested)

    first, second = bound(several, {"a": 1})[1], bound(several, {"a": 1})[1]
    assert first == second == []
    assert first is not second


def test_a_missing_field_is_named() -> None:
    def several(a: int, b: str) -> None: ...

    error = refused(several, {"a": 1})
    assert "missing required field `b`" in error.message


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    def several(colour: str, size: int = 0) -> None: ...

    assert "unknown field 'color'" in refused(several, {"color": "red"}).message
    assert "did you mean 'colour'?" in refused(several, {"color": "red"}).message
    assert "known are colour, size" in refused(several, {"zzz": 1}).message


def test_a_name_of_the_peer_is_cut_in_an_error() -> None:
    def several(a: int, b: int) -> None: ...

    assert len(refused(several, {"x" * 10_000: 1}).message) < 300


def test_context_and_stream_are_put_where_the_annotations_say() -> None:
    def first(ctx: Context, a: int, b: int) -> None: ...
    def last(a: int, ctx: Context) -> None: ...
    def middle(a: int, stream: Stream, b: int, ctx: Context) -> None: ...
    def alone(ctx: Context) -> None: ...

    assert bound(first, {"a": 1, "b": 2}) == (CONTEXT, 1, 2)
    assert bound(last, 1) == (1, CONTEXT)
    assert bound(middle, {"a": 1, "b": 2}) == (1, STREAM, 2, CONTEXT)
    assert bound(alone, None) == (CONTEXT,)


def test_parameters_that_a_payload_cannot_name_are_refused_at_registration() -> None:
    def positional(*args: int) -> None: ...
    def named(**kwargs: int) -> None: ...
    def keyword(*, a: int) -> None: ...

    for function in (positional, named, keyword):
        with pytest.raises(ConfigError, match="must be an ordinary one"):
            read_signature(function, "calc.f", Stream)


def test_annotations_that_cannot_be_read_are_refused_at_registration() -> None:
    def wrong(a: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821 (that is what is tested)

    with pytest.raises(ConfigError, match=r"handler 'calc\.f': its annotations cannot be read"):
        read_signature(wrong, "calc.f", Stream)


def test_annotations_that_cannot_be_checked_are_refused_at_registration() -> None:
    @dataclass
    class Circle:
        radius: int

    def ambiguous(shape: Point | Circle) -> None: ...

    ambiguous.__annotations__["shape"] = Point | Circle  # a local class is not seen by get_type_hints
    with pytest.raises(ConfigError, match=r"handler 'calc\.f'"):
        read_signature(ambiguous, "calc.f", Stream).binder("calc.f")


# Types


@pytest.mark.parametrize(
    ("annotation", "payload", "expected"),
    [
        (int, 5, 5),
        (float, 5, 5.0),
        (str, "x", "x"),
        (bool, True, True),
        (bytes, b"raw", b"raw"),
        (bytes, "cmF3", b"raw"),
        (int | None, None, None),
        (int | str, "x", "x"),
        (list[int], [1, 2], [1, 2]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 2, 2], {1, 2}),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (Literal["a", "b"], "b", "b"),
        (Size, "l", Size.LARGE),
        (Level, 2, Level.HIGH),
        (Point, {"x": 1}, Point(1, 0)),
        (Line, {"start": {"x": 1}, "end": {"x": 2, "y": 3}, "tags": ["t"]}, Line(Point(1), Point(2, 3), ["t"])),
        (Item, {"name": "n", "size": "l"}, Item("n", Size.LARGE)),
        (Row, {"key": "k"}, {"key": "k"}),
        (list[Point], [{"x": 1}], [Point(1)]),
        (datetime, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        (date, "2026-01-02", date(2026, 1, 2)),
        (timedelta, "PT90S", timedelta(seconds=90)),
        (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
        (Decimal, "1.50", Decimal("1.50")),
        (Any, {"as": ["it", "is"]}, {"as": ["it", "is"]}),
    ],
    ids=str,
)
def test_payloads_become_what_the_annotation_says(annotation: Any, payload: object, expected: object) -> None:
    def one(value: object) -> None: ...

    one.__annotations__["value"] = annotation
    (value,) = bound(one, payload)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "payload", "path"),
    [
        (int, "5", "$"),
        (int, True, "$"),
        (int, 5.5, "$"),
        (str, 5, "$"),
        (bool, 1, "$"),
        (int | None, "x", "$"),
        (Size, "xl", "$"),
        (Literal["a"], "b", "$"),
        (list[int], [1, "2"], "$[1]"),
        (dict[str, int], {"a": "b"}, "$[...]"),
        (Point, {"x": "one"}, "$.x"),
        (Point, [1, 2], "$"),
        (Line, {"start": {"x": 1}, "end": {"x": "2"}, "tags": []}, "$.end.x"),
        (Line, {"start": {"x": 1}, "end": {"x": 2}, "tags": ["a", 5]}, "$.tags[1]"),
        (Item, {"name": "n", "size": "xl"}, "$.size"),
        (Row, {"key": 5}, "$.key"),
        (datetime, "yesterday", "$"),
    ],
    ids=str,
)
def test_a_wrong_payload_is_refused_with_the_path_of_the_bad_field(annotation: Any, payload: object, path: str) -> None:
    def one(value: object) -> None: ...

    one.__annotations__["value"] = annotation
    assert path_of(refused(one, payload)) == path


def test_a_bad_field_among_several_parameters_has_its_path() -> None:
    def several(line: Line, factor: int) -> None: ...

    payload = {"line": {"start": {"x": 1}, "end": {"x": None}, "tags": []}, "factor": 2}
    assert path_of(refused(several, payload)) == "$.line.end.x"


# Answers


def test_an_answer_is_converted_as_asked() -> None:
    assert convert({"x": 1}, Point) == Point(1)
    assert convert(5, int) == 5
    assert convert([1], object) == [1]


def test_an_answer_that_differs_says_where() -> None:
    with pytest.raises(RpcError, match=r"the answer is not what returns= expects: .*\$\.x"):
        convert({"x": "one"}, Point)


def test_rich_values_become_plain_and_bytes_stay() -> None:
    line = Line(Point(1), Point(2), ["t"])
    plain_line = {"start": {"x": 1, "y": 0}, "end": {"x": 2, "y": 0}, "tags": ["t"]}
    assert plain([line, Item("n"), b"raw", {Level.LOW: 1}]) == [
        plain_line,
        {"name": "n", "size": "s"},
        b"raw",
        {"1": 1},
    ]


def test_what_cannot_be_made_plain_says_so() -> None:
    with pytest.raises(RpcError, match="cannot be sent") as caught:
        plain([object()])
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


# What reflection reads


def test_a_signature_tells_its_shape_and_what_it_returns() -> None:
    def several(ctx: Context, a: int, b: str = "x") -> float: ...  # type: ignore[empty-body]  # never called

    signature = read_signature(several, "calc.f", Stream)
    assert signature.shape == "map"
    assert signature.order == ("context", "", "")
    assert signature.parameters == (("a", int, msgspec.NODEFAULT), ("b", str, "x"))
    assert signature.returns is float
