"""Listeners: functions that events are given to, named with ``@listener`` or passed to ``on``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from echostream_core.engine.binding import read_signature
from echostream_core.engine.subscriptions import DEFAULT_MAX_QUEUE, Event, Key, Overflow, Subscription
from echostream_core.errors import ConfigError

__all__ = ["Listener", "collect_listeners", "compile_callback", "is_listener", "listener"]

_MARK: Final = "__echostream_listener__"
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Listener:
    """One pattern with the function that takes its events, as registered on an endpoint."""

    pattern: str
    function: Callable[[Event], Any]
    in_place: bool
    overflow: Overflow
    max_queue: int
    key: Key
    concurrency: int

    def subscription(self) -> Subscription:
        """A subscription of one session for this listener."""
        return Subscription(
            self.pattern,
            overflow=self.overflow,
            max_queue=self.max_queue,
            key=self.key,
            function=self.function,
            in_place=self.in_place,
            concurrency=self.concurrency,
        )


@dataclass(frozen=True, slots=True)
class _Mark:
    pattern: str
    overflow: Overflow
    max_queue: int
    key: Key
    concurrency: int


def listener(
    pattern: str,
    *,
    overflow: Overflow = "block",
    max_queue: int = DEFAULT_MAX_QUEUE,
    key: Key = None,
    concurrency: int = 1,
) -> Callable[[F], F]:
    """Mark a function, or a method of a ``@service`` class, as a listener: ``@listener("chat.*")``.

    Its parameter annotated with ``Event``, or its only one without annotation, is the event; others bind the payload as
    those of handlers do. It gets one event at a time, in order, ``concurrency`` aside; a plain ``def`` runs in place on
    the event loop. The rest is as for ``subscribe``.
    """
    Subscription(pattern, overflow=overflow, max_queue=max_queue, key=key, concurrency=concurrency)  # check them now

    def decorate(function: F) -> F:
        marks = (*getattr(function, _MARK, ()), _Mark(pattern, overflow, max_queue, key, concurrency))
        setattr(function, _MARK, marks)
        return function

    return decorate


def is_listener(target: object) -> bool:
    """Whether ``@listener`` decorates ``target``."""
    return bool(getattr(target, _MARK, ()))


def collect_listeners(targets: Iterable[object]) -> tuple[Listener, ...]:
    """The listeners among functions and service objects, in their order."""
    found: list[Listener] = []
    for target in targets:
        if isinstance(target, type):
            continue
        if is_listener(target) and callable(target):
            found.extend(_listeners_of(target, target))
        else:
            for attribute, member in inspect.getmembers(type(target), callable):
                if is_listener(member):
                    found.extend(_listeners_of(member, getattr(target, attribute)))
    return tuple(found)


def _listeners_of(marked: object, function: Callable[..., Any]) -> Iterable[Listener]:
    for mark in getattr(marked, _MARK):
        call, in_place = compile_callback(function, mark.pattern)
        yield Listener(mark.pattern, call, in_place, mark.overflow, mark.max_queue, mark.key, mark.concurrency)


def compile_callback(function: Callable[..., Any], pattern: str) -> tuple[Callable[[Event], Any], bool]:
    """A function of the event alone, and whether it runs in place; ConfigError for a signature that cannot be called.

    The only parameter of a function gets the event if it has no annotation; so does ``*args`` that stands first.
    """
    if not callable(function):
        raise ConfigError(f"{pattern}: {function!r} is no listener: pass a function")
    plain = inspect.unwrap(function.func if isinstance(function, partial) else function)
    call = getattr(plain, "__call__", None)  # noqa: B004  # an object with an async __call__
    if inspect.isasyncgenfunction(plain) or inspect.isasyncgenfunction(call):
        raise ConfigError(f"{pattern}: a listener returns nothing: make it an async def without yield")
    in_place = not (inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(call))
    try:
        parameters = list(inspect.signature(function, eval_str=isinstance(function, partial)).parameters.values())
    except ValueError:  # written in C, without a signature
        return function, in_place
    if isinstance(function, partial):  # the annotations are those of what it calls, and only the event can be missing
        missing = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
        if len(missing) != 1 or missing[0].annotation not in (Event, inspect.Parameter.empty):
            raise ConfigError(f"{pattern}: a partial can be a listener when only the event is left: write a function")
        return function, in_place
    if len(parameters) == 1 and parameters[0].annotation is inspect.Parameter.empty:
        return function, in_place
    kinds = [parameter.kind for parameter in parameters]
    if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]:  # ``print``, or a wrapper without a signature of its own
        return function, in_place
    signature = read_signature(function, f"listener of {pattern}", Event)
    if "context" in signature.order:
        raise ConfigError(f"{pattern}: a listener has no Context: annotate a parameter with Event, it has the session")
    if signature.order == ("stream",):
        return function, in_place
    bind = signature.binder(f"listener of {pattern}")
    no_context: Any = None

    def call_bound(event: Event) -> Any:
        return function(*bind(event.payload, no_context, event))

    return call_bound, in_place
