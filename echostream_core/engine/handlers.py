"""The decorators that users put on functions and classes, and the routes that are made of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeVar, overload

from echostream_core.engine.binding import Binder, Signature, read_signature
from echostream_core.engine.datagram_handlers import is_datagram_handler
from echostream_core.engine.listeners import is_listener
from echostream_core.engine.streams import Stream
from echostream_core.errors import ConfigError

__all__ = ["Route", "collect_routes", "handler", "make_route", "service", "stream_handler"]

_MARK: Final = "__echostream_route__"
_SERVICE: Final = "__echostream_service__"
_MAX_NAME: Final = 255

Kind = Literal["call", "generator", "stream"]
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str | None
    kind: Literal["call", "stream"]


@dataclass(frozen=True, slots=True)
class Route:
    """One method that can be called by name."""

    name: str
    kind: Kind
    function: Callable[..., Any]
    bind: Binder
    signature: Signature
    in_place: bool
    """True for a plain ``def`` handler: it runs without a task."""
    direct: bool
    """True when the payload is the only argument as it is: binding it would be a call for nothing."""
    doc: str


@overload
def handler(target: F, /) -> F: ...
@overload
def handler(target: str, /) -> Callable[[F], F]: ...
def handler(target: Any, /) -> Any:
    """Mark a function as the handler of calls: ``@handler("math.add")``, or ``@handler`` inside a ``@service`` class.

    ``async def`` runs in a task of its own; ``def`` runs in place on the event loop and must return at once; an async
    generator answers with a stream of items.
    """
    return _mark(target, "call")


@overload
def stream_handler(target: F, /) -> F: ...
@overload
def stream_handler(target: str, /) -> Callable[[F], F]: ...
def stream_handler(target: Any, /) -> Any:
    """Mark a function as the handler of streams: its ``Stream`` parameter is the stream, the others bind the opening
    payload.
    """
    return _mark(target, "stream")


def _mark(target: Any, kind: Literal["call", "stream"]) -> Any:
    if isinstance(target, str):
        check_method(target)

        def decorate(function: F) -> F:
            setattr(function, _MARK, _Mark(target, kind))
            return function

        return decorate
    if not callable(target):
        raise ConfigError(f"@handler needs a name or a function, not {type(target).__name__}")
    setattr(target, _MARK, _Mark(None, kind))
    return target


def service(name: str) -> Callable[[C], C]:
    """Mark a class: the methods with ``@handler`` become ``name.method``."""
    check_method(name)

    def decorate(cls: C) -> C:
        setattr(cls, _SERVICE, name)
        return cls

    return decorate


def check_method(name: str) -> bytes:
    """The UTF-8 bytes of a method's name; ConfigError when it cannot travel."""
    if not isinstance(name, str):
        raise ConfigError(f"the name of a method is a text, not {name!r}"[:200])
    data = name.encode(errors="surrogatepass")
    if not 0 < len(data) <= _MAX_NAME or any(ord(sign) < 33 or "\ud800" <= sign <= "\udfff" for sign in name):
        raise ConfigError(f"{name[:80]!r} is no method name: 1 to {_MAX_NAME} bytes without spaces or controls")
    return data


def service_name(cls: type) -> str:
    """The name given by ``@service``; ConfigError without one."""
    name = getattr(cls, _SERVICE, None)
    if name is None:
        raise ConfigError(f"{cls.__name__} is no service: decorate the class with @service('name')")
    return str(name)


def method_mark(function: object) -> tuple[str | None, Literal["call", "stream"]] | None:
    """(name, kind) that a decorator left on ``function``, or None."""
    mark = getattr(function, _MARK, None)
    return (mark.name, mark.kind) if isinstance(mark, _Mark) else None


def collect_routes(targets: Iterable[object]) -> dict[str, Route]:
    """The routes of functions and service objects; ConfigError for what is neither, or for one name twice."""
    routes: dict[str, Route] = {}
    for target in targets:
        if (is_listener(target) or is_datagram_handler(target)) and not hasattr(target, _MARK):
            continue
        for route in _routes_of(target):
            if route.name in routes:
                raise ConfigError(f"two handlers are named {route.name!r}: rename one")
            routes[route.name] = route
    return routes


def closest_method(name: str, routes: Iterable[str]) -> str:
    """A hint for an unknown method: "; did you mean 'x'?" or ""."""
    near = get_close_matches(name, list(routes), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _routes_of(target: object) -> list[Route]:
    if isinstance(target, type):
        if hasattr(target, _SERVICE):
            raise ConfigError(f"{target.__name__} is a class: pass an instance, {target.__name__}()")
        raise ConfigError(f"{target.__name__} is no handler: pass a function with @handler or a @service object")
    prefix = getattr(type(target), _SERVICE, None)
    if prefix is not None:
        found: list[Route] = []
        listens = False
        for attribute, member in inspect.getmembers(type(target), callable):
            mark = getattr(member, _MARK, None)
            if isinstance(mark, _Mark):
                found.append(make_route(f"{prefix}.{mark.name or attribute}", getattr(target, attribute), mark.kind))
            listens = listens or is_listener(member) or is_datagram_handler(member)
        if not found and not listens:
            raise ConfigError(f"service {prefix!r} has no methods: decorate them with @handler or @listener")
        return found
    mark = getattr(target, _MARK, None)
    if not isinstance(mark, _Mark):
        what = getattr(target, "__name__", type(target).__name__)
        raise ConfigError(f"{what} is no handler: decorate it with @handler('name'), or its class with @service")
    assert callable(target)
    return [make_route(mark.name or str(getattr(target, "__name__", "")), target, mark.kind)]


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Also for callable objects, and for wrappers that keep ``__wrapped__``."""
    plain = inspect.unwrap(function)
    return inspect.iscoroutinefunction(plain) or inspect.iscoroutinefunction(getattr(plain, "__call__", None))  # noqa: B004


def make_route(name: str, function: Callable[..., Any], marked: Literal["call", "stream"]) -> Route:
    """The route of ``function`` under ``name``; ConfigError for a signature that cannot be served."""
    check_method(name)
    signature = read_signature(function, name, Stream)
    generator = inspect.isasyncgenfunction(function)
    kind: Kind = "stream" if marked == "stream" else "generator" if generator else "call"
    if kind == "stream" and "stream" not in signature.order:
        raise ConfigError(f"stream handler {name!r} has no parameter annotated with Stream")
    if kind != "stream" and "stream" in signature.order:
        raise ConfigError(f"handler {name!r} takes a Stream: decorate it with @stream_handler")
    if kind == "stream" and not inspect.iscoroutinefunction(function):
        raise ConfigError(f"stream handler {name!r} must be an async def without yield")
    in_place = kind == "call" and not _is_coroutine_function(function)
    doc = inspect.getdoc(function) or ""
    return Route(name, kind, function, signature.binder(name), signature, in_place, signature.direct, doc)
