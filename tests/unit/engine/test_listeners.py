"""Functions that events are given to: which signatures there are, and how ``@listener`` finds them."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from echostream_core import ConfigError, Context, Event, listener, service
from echostream_core.engine.listeners import collect_listeners, compile_callback, is_listener

EVENT: Any = Event("t", {"a": 2, "b": 3}, None, 7)  # type: ignore[arg-type]  # no callback here asks for the session


@dataclass
class Pair:
    """A typed payload."""

    a: int
    b: int = 0


async def takes_event(event: Event) -> object:
    return event.topic


def takes_anything(event) -> object:  # type: ignore[no-untyped-def]  # that is the case
    return event.topic


async def takes_fields(a: int, b: int) -> object:
    return a * b


def takes_both(event: Event, pair: Pair) -> object:
    return (event.topic, pair.a + pair.b)


def takes_all(*args: Event) -> object:
    return args[0].topic


class Callable_:
    """An object that can be called."""

    async def __call__(self, event: Event) -> object:
        return event.topic

    def method(self, event: Event) -> object:
        return event.topic


@pytest.mark.parametrize(
    ("function", "in_place", "result"),
    [
        (takes_event, False, "t"),
        (takes_anything, True, "t"),
        (takes_fields, False, 6),
        (takes_both, True, ("t", 5)),
        (takes_all, True, "t"),
        (Callable_(), False, "t"),
        (Callable_().method, True, "t"),
        (functools.partial(takes_event), False, "t"),
        ([].append, True, None),
        (print, True, None),
    ],
    ids=["event", "bare", "fields", "both", "args", "object", "method", "partial", "built-in", "print"],
)
async def test_a_function_gets_what_its_signature_asks_for(
    function: Callable[..., Any], in_place: bool, result: object
) -> None:
    call, found = compile_callback(function, "t")
    assert found is in_place
    got = call(EVENT)
    assert (got if in_place else await got) == result


@pytest.mark.parametrize("value", ["text", 1, None], ids=repr)
def test_what_cannot_be_called_is_no_listener(value: Any) -> None:
    with pytest.raises(ConfigError, match="pass a function"):
        compile_callback(value, "t")


async def yields(event: Event) -> AsyncIterator[int]:
    yield 1


def asks_for_context(event: Event, ctx: Context) -> None: ...


def only_by_keyword(event: Event, *, x: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (yields, "without yield"),
        (asks_for_context, "no Context"),
        (only_by_keyword, "keyword-only"),
        (functools.partial(takes_fields, 1), "only the event is left"),
    ],
    ids=["generator", "context", "keyword-only", "partial"],
)
def test_a_signature_that_cannot_work_is_refused_at_once(function: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        compile_callback(function, "t")


def test_a_wrong_argument_of_the_decorator_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="no pattern"):
        listener("a.**.b")
    with pytest.raises(ConfigError, match="max_queue"):
        listener("a", max_queue=0)


def test_functions_and_methods_are_found_once_for_each_pattern() -> None:
    @listener("a.*", overflow="drop_oldest", max_queue=7)
    @listener("b")
    def twice(event: Event) -> None: ...

    @service("svc")
    class Service:
        @listener("c", overflow="conflate", key="id", concurrency=3)
        async def on_c(self, event: Event) -> None: ...

        def plain(self) -> None: ...

    found = collect_listeners([twice, Service(), Service, takes_event])
    assert [(one.pattern, one.overflow, one.max_queue, one.key, one.concurrency) for one in found] == [
        ("b", "block", 1_024, None, 1),
        ("a.*", "drop_oldest", 7, None, 1),
        ("c", "conflate", 1_024, "id", 3),
    ]
    assert is_listener(twice)
    assert not is_listener(takes_event)
    subscriptions = [found[2].subscription() for _ in range(2)]
    assert subscriptions[0] is not subscriptions[1], "one for each session"
    assert (subscriptions[0].pattern, subscriptions[0].overflow) == ("c", "conflate")
