"""Decorators and routes: what can be served, under which name, and clear errors for the rest."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from echostream_core import ConfigError, Context, Stream, handler, service, stream_handler
from echostream_core.engine.handlers import check_method, closest_method, collect_routes, method_mark, service_name
from tests.support.handlers import add, collect, count_up


@handler("sync.double")
def double(x: int) -> int:
    """Twice ``x``.

    In place.
    """
    return 2 * x


@handler
async def bare(x: int) -> int:
    return x


@service("calc")
class Calc:
    """A service."""

    base = 10

    @handler
    async def square(self, x: int) -> int:
        return x * x + self.base

    @handler("renamed")
    def other(self) -> int:
        return self.base

    @handler
    async def primes(self, upto: int) -> AsyncIterator[int]:
        yield upto

    @stream_handler
    async def talk(self, stream: Stream) -> None: ...

    async def hidden(self) -> None: ...


class Better(Calc):
    """Inherits the service."""

    base = 20


def kinds(*targets: object) -> dict[str, str]:
    return {name: route.kind for name, route in collect_routes(targets).items()}


def test_functions_are_named_by_their_decorator_or_by_themselves() -> None:
    assert kinds(double, bare, add) == {"sync.double": "call", "bare": "call", "add": "call"}


def test_the_kind_is_read_from_the_function() -> None:
    assert kinds(count_up, collect) == {"count": "generator", "collect": "stream"}


def test_methods_of_a_service_carry_its_name() -> None:
    assert kinds(Calc()) == {
        "calc.square": "call",
        "calc.renamed": "call",
        "calc.primes": "generator",
        "calc.talk": "stream",
    }


async def test_routes_are_bound_to_the_object_that_was_given() -> None:
    routes = collect_routes([Better()])
    assert await routes["calc.square"].function(2) == 24
    assert routes["calc.renamed"].function() == 20


def test_only_plain_functions_run_in_place() -> None:
    routes = collect_routes([double, bare, count_up, collect])
    assert {name for name, route in routes.items() if route.in_place} == {"sync.double"}


def test_the_docstring_is_kept_for_reflection() -> None:
    assert collect_routes([double])["sync.double"].doc == "Twice ``x``.\n\nIn place."


def test_decorators_leave_the_function_as_it_is() -> None:
    assert double(4) == 8
    assert method_mark(double) == ("sync.double", "call")
    assert method_mark(len) is None


def test_one_name_twice_is_an_error() -> None:
    @handler("add")
    def again() -> None: ...

    with pytest.raises(ConfigError, match="two handlers are named 'add': rename one"):
        collect_routes([add, again])


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (len, "len is no handler: decorate it with @handler"),
        (Calc, r"Calc is a class: pass an instance, Calc\(\)"),
        (int, "int is no handler"),
        pytest.param(object(), "object is no handler", id="object"),
        (5, "int is no handler"),
    ],
    ids=str,
)
def test_what_is_no_handler_is_told_what_to_do(target: object, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        collect_routes([target])


def test_a_service_without_methods_is_an_error() -> None:
    @service("empty")
    class Empty:
        async def hidden(self) -> None: ...

    with pytest.raises(ConfigError, match="service 'empty' has no methods"):
        collect_routes([Empty()])


def test_a_handler_must_be_a_function() -> None:
    with pytest.raises(ConfigError, match="@handler needs a name or a function, not int"):
        handler(5)  # type: ignore[call-overload]  # that is the point


def stream_without_stream() -> Callable[..., Any]:
    @stream_handler("x")
    async def x(ctx: Context) -> None: ...

    return x


def handler_with_stream() -> Callable[..., Any]:
    @handler("x")
    async def x(stream: Stream) -> None: ...

    return x


def stream_that_yields() -> Callable[..., Any]:
    @stream_handler("x")
    async def x(stream: Stream) -> AsyncIterator[int]:
        yield 1

    return x


def stream_that_is_not_async() -> Callable[..., Any]:
    @stream_handler("x")
    def x(stream: Stream) -> None: ...

    return x


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (stream_without_stream, "stream handler 'x' has no parameter annotated with Stream"),
        (handler_with_stream, "handler 'x' takes a Stream: decorate it with @stream_handler"),
        (stream_that_yields, "stream handler 'x' must be an async def without yield"),
        (stream_that_is_not_async, "stream handler 'x' must be an async def"),
    ],
)
def test_signatures_that_do_not_fit_their_decorator_are_refused(
    make: Callable[[], Callable[..., Any]], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        collect_routes([make()])


def test_a_function_that_only_looks_plain_runs_in_a_task() -> None:
    """A decorated coroutine function is still one: ``functools.wraps`` says so, and so does a partial."""

    @handler("wrapped")
    @functools.wraps(bare)
    def wrapped(x: int) -> Any:
        return bare(x)

    class Callable_:
        async def __call__(self, x: int) -> int:
            return x

    routes = collect_routes([wrapped])
    assert not routes["wrapped"].in_place
    marked = handler("object")(Callable_())
    assert not collect_routes([marked])["object"].in_place


@pytest.mark.parametrize("name", ["", "a b", "a\n", "a\x00", "x" * 256, "é" * 128, "\ud800"])
def test_names_that_cannot_travel_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no method name"):
        check_method(name)


@pytest.mark.parametrize("name", ["a", "math.add", "x" * 255, "é" * 127, "größe.ändern"])
def test_names_that_can_travel_are_encoded(name: str) -> None:
    assert check_method(name) == name.encode()


def test_a_service_name_is_checked_when_it_is_given() -> None:
    with pytest.raises(ConfigError, match="is no method name"):
        service("no good")
    with pytest.raises(ConfigError, match="int is no service"):
        service_name(int)
    assert service_name(Calc) == "calc"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert closest_method("calc.sqare", ["calc.square", "calc.primes"]) == "; did you mean 'calc.square'?"
    assert closest_method("zzz", ["calc.square"]) == ""
