"""The middleware under test on its stage: a server and a client over memory, and a probe on either side of it."""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from echostream_core import Call, Handler, Reply, RpcClient, RpcServer, handler
from echostream_core.middleware import Metadata, Middleware, MiddlewareSpec
from echostream_testkit.spec_checks import SpecChecks

__all__ = ["CHANGEABLE", "MiddlewareSubject", "Probe", "Seen", "Side", "Stage"]

Side = Literal["server", "client"]
Script = Callable[[Call, Handler], Awaitable[Reply]]

CHANGEABLE: Final = ("payload", "metadata", "state", "timeout", "reply")
"""What a middleware may declare to change. The method, the side and the context are never its to change."""


@dataclass
class Seen:
    """One call as it passed a probe."""

    call: Call
    """The object itself, whatever became of it."""
    method: str
    side: str
    payload: object
    metadata: list[tuple[str, str | bytes]]
    timeout: float | None
    context: object
    state: dict[str, object]
    """A copy, as the four before it: the middleware may have changed the call itself."""
    reply: object = None
    error: BaseException | None = None
    """What came back: the reply's value or the exception."""


@dataclass
class Probe:
    """A middleware that writes down what passes. ``script`` takes the place of passing the call on."""

    name: str
    order: list[str]
    """Shared by the probes of a chain: ``name>`` on the way in, ``<name`` on the way back."""
    seen: list[Seen] = field(default_factory=list)
    script: Script | None = None

    async def __call__(self, call: Call, following: Handler) -> Reply:
        """See :data:`echostream_core.middleware.Middleware`."""
        seen = Seen(
            call=call,
            method=call.method,
            side=call.side,
            payload=copy.deepcopy(call.payload),
            metadata=list(call.metadata),
            timeout=call.timeout,
            context=call.context,
            state=dict(call.state),
        )
        self.seen.append(seen)
        self.order.append(f"{self.name}>")
        try:
            reply = await (following(call) if self.script is None else self.script(call, following))
            assert isinstance(reply, Reply), f"the chain answered a {type(reply).__name__} instead of a Reply"
            seen.reply = copy.deepcopy(reply.value)
            return reply
        except BaseException as error:
            seen.error = error
            raise
        finally:
            self.order.append(f"<{self.name}")


class Stage:
    """A client that calls a server, with the middleware under test between two probes on one of the sides."""

    def __init__(self, client: RpcClient, outer: Probe, inner: Probe, order: list[str], entered: asyncio.Event) -> None:
        self.client = client
        self.outer = outer
        """Sees what the middleware is given, and what it gives back."""
        self.inner = inner
        """Sees what the middleware passes on; its script stands for everything further in."""
        self.order = order
        self.entered = entered
        """Set when the handler ``conformance.wait`` has begun."""

    async def call(
        self, payload: object = None, method: str = "echo", metadata: Metadata = (), timeout: float | None = 30.0
    ) -> Any:
        """Call ``conformance.METHOD`` (``echo``, ``fail`` or ``wait``) through everything."""
        return await self.client.request(
            f"conformance.{method}", payload, timeout=timeout, metadata=list(metadata) or None
        )


class MiddlewareSubject(SpecChecks):
    """What a class of the middleware suite says of its middleware, and how the checks get at it."""

    kind: ClassVar[str] = "middleware"
    import_budget: ClassVar[int] = 250
    """asyncio alone is some 40 modules."""
    sides: ClassVar[Sequence[Side]] = ("server", "client")
    """Where it is meant to be used."""
    changes: ClassVar[Collection[str]] = {}
    """What it changes about an ordinary call, best with the reason: ``{"metadata": "adds the trace id"}``."""
    metadata: ClassVar[Metadata] = ()
    """What every call must carry for the middleware to let it pass."""
    patience_s: ClassVar[float] = 5.0
    """How many seconds what must happen promptly may take."""

    def spec(self) -> MiddlewareSpec:
        """The middleware's spec; see :meth:`SpecChecks.spec`."""
        found = super().spec()
        assert isinstance(found, MiddlewareSpec)
        return found

    def claims(self, name: str) -> bool:
        """Whether it is used on the side ``name``: checks of the other side do not apply."""
        if name not in ("server", "client"):
            raise ValueError(f"a middleware is used on the server and on the client, not on {name!r}")
        return name in self.sides

    def middleware(self) -> Middleware:
        """One more middleware, with the class's ``options``."""
        return self.spec().factory(self.option_struct())

    @asynccontextmanager
    async def stage(self, side: Side, *, layers: int = 1) -> AsyncIterator[Stage]:
        """``layers`` of the middleware on ``side``, a probe before, between and behind; nothing may be left after."""
        before = asyncio.all_tasks()
        order: list[str] = []
        probes = [Probe(f"probe-{number}", order) for number in range(layers + 1)]
        chain: list[Middleware] = [probes[0]]
        for probe in probes[1:]:
            chain += [self.middleware(), probe]
        entered = asyncio.Event()
        url = f"memory://conformance-{secrets.token_hex(8)}"
        at_server, at_client = (chain, []) if side == "server" else ([], chain)
        async with (
            RpcServer(url, *_handlers(entered), middleware=at_server, health=False, drain_timeout=1.0),
            RpcClient.connect(url, middleware=at_client) as client,
        ):
            yield Stage(client, probes[0], probes[-1], order, entered)
        loop = asyncio.get_running_loop()
        until = loop.time() + self.patience_s
        while (left := [task for task in asyncio.all_tasks() - before if not task.done()]) and loop.time() < until:
            await asyncio.sleep(0.005)
        names = ", ".join(repr(task.get_coro()) for task in left)
        assert not left, f"on the {side}: tasks are left when the session has ended: {names}"


def _handlers(entered: asyncio.Event) -> list[Callable[..., object]]:
    @handler("conformance.echo")
    async def echo(value: object) -> object:
        await asyncio.sleep(0)
        return value

    @handler("conformance.fail")
    async def fail(value: object) -> object:
        raise ZeroDivisionError("the handler has a bug")

    @handler("conformance.wait")
    async def wait(value: object) -> object:
        entered.set()
        await asyncio.Event().wait()
        return value

    @handler("conformance.count")
    async def count(value: int) -> AsyncIterator[int]:
        for number in range(value):
            yield number

    return [echo, fail, wait, count]
