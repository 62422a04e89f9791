"""What a case is, and what it is given: ways to connect, to draw random values, and to say what is wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from echostream_core import Kernel, RpcClient, RpcError, StatusCode
from echostream_testkit.interop.contract import Settings
from echostream_testkit.interop.listener import tls_of

__all__ = ["CASES", "Case", "CaseFailed", "Dial", "case", "check", "expect", "is_missing", "shown"]

_POLL_S: Final = 0.02
_SHOWN: Final = 120


class CaseFailed(Exception):
    """The listener did something else than the contract says; the text says what."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case: an async function that raises when something is wrong."""

    name: str
    run: Callable[[Dial], Awaitable[None]]
    summary: str


CASES: Final[dict[str, Case]] = {}
"""All cases by name, in the order in which they are run."""


def case(function: Callable[[Dial], Awaitable[None]]) -> Callable[[Dial], Awaitable[None]]:
    """Make ``function`` a case: its name is the case's, the first line of its docstring the summary."""
    name = function.__name__
    assert name not in CASES, name
    CASES[name] = Case(name, function, (function.__doc__ or "").strip().splitlines()[0])
    return function


class Dial:
    """What a case works with: the listener's address, and values that the seed decides."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings = settings
        self.random = random.Random(f"{settings.seed}/{name}")
        """The same for the same seed and case, whatever ran before."""
        self.carries_bytes = Kernel().codec(settings.codecs[0]).carries_bytes
        """Whether the codec that is tested has bytes of its own."""

    def tag(self) -> str:
        """A text that no other case uses."""
        return str(UUID(int=self.random.getrandbits(128)))

    @asynccontextmanager
    async def connect(self, *handlers: object) -> AsyncIterator[RpcClient]:
        """A connection of its own to the listener, closed in the end; the listener may call ``handlers``."""
        tls = tls_of(self.settings)
        connecting = RpcClient.connect(
            self.settings.url, *handlers, codecs=self.settings.codecs, tls=tls, name="interop"
        )
        async with connecting as client:
            yield client

    async def tally(self, client: RpcClient, tag: str, **expected: int) -> None:
        """Wait until the listener has counted ``expected`` under ``tag``; how long is the case's timeout."""
        counted: dict[str, int] = {}
        try:
            while True:
                counted = await client.request("interop.tally", tag)
                if all(counted.get(name) == number for name, number in expected.items()):
                    return
                await asyncio.sleep(_POLL_S)
        except asyncio.CancelledError as error:
            error.add_note(f"the listener has counted {counted}, {expected} was expected")
            raise


def check(actual: object, expected: object, what: str) -> None:
    """CaseFailed unless both are equal, and of the same type: 1 is not true, 2.0 is not 2."""
    if type(actual) is not type(expected) or actual != expected:
        raise CaseFailed(f"{what}: expected {shown(expected)}, got {shown(actual)}")


async def expect(answer: Awaitable[Any], code: StatusCode, what: str) -> RpcError:
    """Await ``answer``, which must fail with ``code``; the error."""
    try:
        value = await answer
    except RpcError as error:
        if error.code is not code:
            if is_missing(error):
                raise
            raise CaseFailed(f"{what}: expected {code.name}, got {error}") from error
        return error
    raise CaseFailed(f"{what}: expected {code.name}, got the answer {shown(value)}")


def is_missing(error: RpcError) -> bool:
    """Whether the listener says that it does not offer what was called."""
    return error.code is StatusCode.UNIMPLEMENTED and error.not_processed


def shown(value: object) -> str:
    """A value for a message, with its type, cut."""
    text = repr(value)
    cut = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"{cut} ({type(value).__name__})"
