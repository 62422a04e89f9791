"""Datagram handlers: functions that a channel's datagrams are given to, by ``@datagram_handler`` or ``on_datagram``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

from echostream_core.errors import ConfigError
from echostream_core.wire.datagrams import FIRST_CHANNEL, LAST_CHANNEL

__all__ = [
    "DatagramHandler",
    "check_channel",
    "collect_datagram_handlers",
    "compile_datagram_handler",
    "datagram_handler",
    "is_datagram_handler",
]

_MARK: Final = "__echostream_datagrams__"
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
F = TypeVar("F", bound=Callable[..., object])


class DatagramHandler(NamedTuple):
    """A function, and whether it takes the session beside the payload."""

    function: Callable[..., object]
    takes_session: bool


def datagram_handler(channel: int) -> Callable[[F], F]:
    """Mark a function, or a method of a ``@service`` class, as what takes a channel's datagrams.

    ``@datagram_handler(300)`` above ``def on_position(payload: bytes, session: Session)``; the second parameter may be
    left out. It is a plain function, called on the event loop for each datagram of every session of the server or
    client that it is given to. ConfigError for a channel that is reserved.
    """
    check_channel(channel)

    def decorate(function: F) -> F:
        setattr(function, _MARK, (*getattr(function, _MARK, ()), channel))
        return function

    return decorate


def is_datagram_handler(target: object) -> bool:
    """Whether ``@datagram_handler`` decorates ``target``."""
    return bool(getattr(target, _MARK, ()))


def collect_datagram_handlers(targets: Iterable[object]) -> dict[int, DatagramHandler]:
    """Channel → what takes its datagrams, among functions and service objects; ConfigError for one channel twice."""
    found: dict[int, DatagramHandler] = {}
    for target in targets:
        for marked, function in _functions_of(target):
            for channel in getattr(marked, _MARK):
                if channel in found:
                    raise ConfigError(f"two functions take the datagrams of channel {channel}: give one another")
                found[channel] = compile_datagram_handler(channel, function)
    return found


def _functions_of(target: object) -> Iterable[tuple[object, Any]]:
    if isinstance(target, type):
        return
    if is_datagram_handler(target):
        yield target, target
        return
    for attribute, member in inspect.getmembers(type(target), callable):
        if is_datagram_handler(member):
            yield member, getattr(target, attribute)


def check_channel(channel: int) -> None:
    """ConfigError for what is no channel of an application."""
    if isinstance(channel, bool) or not isinstance(channel, int):
        raise ConfigError(f"channel must be a whole number, not {channel!r}")
    if not FIRST_CHANNEL <= channel <= LAST_CHANNEL:
        why = "0 to 255 are reserved for extensions" if 0 <= channel < FIRST_CHANNEL else "the number has 16 bits"
        raise ConfigError(f"channel {channel}: {why}; use {FIRST_CHANNEL} to {LAST_CHANNEL}")


def compile_datagram_handler(channel: int, function: Callable[..., object]) -> DatagramHandler:
    """``function`` ready to be called; ConfigError for one that cannot be."""
    if not callable(function):
        raise ConfigError(f"channel {channel}: {function!r} is no function: pass one that takes the payload")
    plain = inspect.unwrap(function)
    for form in (plain, getattr(plain, "__call__", None)):  # noqa: B004  # an object with an async __call__
        if inspect.iscoroutinefunction(form) or inspect.isasyncgenfunction(form) or inspect.isgeneratorfunction(form):
            raise ConfigError(
                f"channel {channel}: datagrams are given to a plain function, which does not wait: let it keep the "
                "newest, or put it into a bounded queue that a task of yours empties"
            )
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, without a signature
        return DatagramHandler(function, takes_session=False)
    needed = [one for one in parameters if one.kind in _POSITIONAL and one.default is one.empty]
    takes_any = any(one.kind in (*_POSITIONAL, one.VAR_POSITIONAL) for one in parameters)
    by_name = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    if len(needed) > 2 or by_name or not takes_any:
        name = getattr(function, "__name__", repr(function))
        raise ConfigError(f"channel {channel}: {name} must take the payload, or the payload and the session")
    return DatagramHandler(function, takes_session=len(needed) == 2)
