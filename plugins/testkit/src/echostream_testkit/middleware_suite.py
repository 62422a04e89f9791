"""The suite that certifies a middleware.

::

    class TestTracing(MiddlewareConformance):
        name = "tracing"
        changes = {"metadata": "adds the trace id on the client"}

Everything runs over memory with a real server and client, the middleware on either side, between two probes.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Final

import pytest

from echostream_core.errors import (
    CallError,
    DeadlineExceeded,
    Disconnected,
    LimitExceeded,
    RemoteError,
    RpcError,
    StatusCode,
)
from echostream_core.middleware import Call, Handler, Metadata, Reply
from echostream_testkit.checks import needs
from echostream_testkit.middleware_subject import CHANGEABLE, MiddlewareSubject, Script, Seen, Side, Stage
from echostream_testkit.spec_checks import async_checks

__all__ = ["MiddlewareConformance"]

_PAYLOADS: Final[tuple[object, ...]] = (
    *(None, 0, 1.0, True, "", "text", [], {}, "é\0" * 20_000),
    {"a": [1, 2.5, None, {"b": "c"}], "": {}},
    [[], {}, [[]], "x"],
)
_METADATA: Final[Metadata] = (
    ("conformance-a", "1"),
    ("conformance-b", ""),
    ("conformance-a", "Grüße"),
    ("conformance-bin", b"\0\xff"),
)
"""A repeated key, an empty value, text beyond ASCII, bytes."""

_CALLS: Final = 100
_NUMBER: Final = "conformance-number"


@async_checks
class MiddlewareConformance(MiddlewareSubject):
    """Derive a ``Test…`` class and give it the ``name`` of an installed middleware, and ``options`` if it needs any.

    ``changes`` names what it does to an ordinary call, ``sides`` where it is used, ``metadata`` what it demands.
    """

    async def test_the_middleware_is_what_its_spec_says(self) -> None:
        """The factory makes an async function of a call and what follows; the declarations are known words."""
        made = self.middleware()
        assert callable(made), f"the factory answers a {type(made).__name__}: a middleware is a function"
        parameters = inspect.signature(made).parameters.values()
        required = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
        assert len(required) == 2, f"a middleware takes a call and what follows, this one {len(required)} arguments"
        unknown = set(self.changes) - set(CHANGEABLE)
        assert not unknown, f"changes: {sorted(unknown)} is nothing to declare; known are {', '.join(CHANGEABLE)}"
        assert self.sides and set(self.sides) <= {"server", "client"}, f"sides: {self.sides!r}"

    async def test_an_ordinary_call_passes_unchanged(self) -> None:
        """Payload, metadata, state and timeout go in, the reply comes back: as they were, but for ``changes``."""
        for side in self.sides:
            async with self.stage(side) as stage:
                for payload in _PAYLOADS:
                    result = await self._ordinary(stage, side, payload)
                    outer, inner = _last(stage)
                    assert (inner.method, inner.side) == (outer.method, outer.side), f"on the {side}: {inner}"
                    assert inner.context is outer.context, f"on the {side}: the context was exchanged"
                    for name, before, after in _differences(outer, inner):
                        assert name in self.changes, (
                            f"on the {side}: the {name} was {_brief(before)} and is {_brief(after)}: "
                            f"leave it, or declare {name!r} in changes"
                        )
                    if not self.changes:
                        assert result == payload, f"on the {side}: the answer to {_brief(payload)} is {_brief(result)}"

    async def test_declared_changes_happen(self) -> None:
        """A declaration that nothing comes of is out of date."""
        seen: set[str] = set()
        for side in self.sides:
            async with self.stage(side) as stage:
                for payload in _PAYLOADS:
                    await self._ordinary(stage, side, payload)
                    seen |= {name for name, _, _ in _differences(*_last(stage))}
        idle = set(self.changes) - seen
        assert not idle, f"changes: an ordinary call's {', '.join(sorted(idle))} is not changed: remove the entry"

    async def test_next_is_called_once(self) -> None:
        """An ordinary call is passed on exactly once."""
        for side in self.sides:
            async with self.stage(side) as stage:
                for number in range(3):
                    await self._ordinary(stage, side, number)
                    count = len(stage.inner.seen)
                    assert count == 1, f"on the {side}: a call was passed on {count} times"
                    stage.inner.seen.clear()

    async def test_rpc_errors_pass(self) -> None:
        """An RpcError comes out as it went in: class, code, message, details, retryable and the rest."""
        for side in self.sides:
            async with self.stage(side) as stage:
                for error in _rpc_errors():
                    stage.inner.script = _raising(error)
                    with pytest.raises(RpcError):
                        await stage.call(metadata=self.metadata)
                    out = stage.outer.seen[-1].error
                    assert isinstance(out, RpcError), f"on the {side}: {error!r} became {out!r}"
                    assert type(out) is type(error) and vars(out) == vars(error), (
                        f"on the {side}: {type(error).__name__} {vars(error)} became {type(out).__name__} {vars(out)}"
                    )

    async def test_errors_of_the_handler_pass(self) -> None:
        """What a handler raises that is no RpcError comes out: as itself, or as an RpcError that it caused."""
        for side in self.sides:
            async with self.stage(side) as stage:
                for error in (ValueError("a bug"), KeyError("k"), ExceptionGroup("two", [OSError("1"), OSError("2")])):
                    stage.inner.script = _raising(error)
                    await self._fails(stage, side, error)
                stage.inner.script = None
                with pytest.raises(RpcError):
                    await stage.call(method="fail", metadata=self.metadata)
                assert stage.outer.seen[-1].error is not None, f"on the {side}: the handler's error was swallowed"

    async def test_a_failure_leaves_no_trace(self) -> None:
        """After errors of every kind an ordinary call goes as before."""
        for side in self.sides:
            async with self.stage(side) as stage:
                for error in (RpcError(StatusCode.INTERNAL, "no"), ValueError("a bug")):
                    stage.inner.script = _raising(error)
                    await self._fails(stage, side, error)
                    stage.inner.script = None
                    await self._ordinary(stage, side, "x")

    async def test_cancellation_passes(self) -> None:
        """A call that is cancelled ends promptly, in front of the middleware and behind it."""
        for side in self.sides:
            async with self.stage(side) as stage:
                task = asyncio.get_running_loop().create_task(stage.call(method="wait", metadata=self.metadata))
                async with asyncio.timeout(self.patience_s):
                    await stage.entered.wait()
                task.cancel()
                await asyncio.wait([task], timeout=self.patience_s)
                assert task.done(), f"on the {side}: the call goes on {self.patience_s} s after it was cancelled"
                assert task.cancelled(), f"on the {side}: the cancelled call came to {task.exception()!r}"
                await self._has_ended(stage, side)
                for name, seen in (("behind", stage.inner.seen[-1]), ("in front of", stage.outer.seen[-1])):
                    assert isinstance(seen.error, asyncio.CancelledError), (
                        f"on the {side}: {name} the middleware the cancelled call came to "
                        f"{'a reply' if seen.error is None else repr(seen.error)}"
                    )

    async def test_deadlines_hold(self) -> None:
        """The timeout is passed on as it is, and a handler that never answers is over when it has run out."""
        for side in self.sides:
            async with self.stage(side) as stage:
                for timeout in (None, 60.0, 3600.0):
                    await stage.call("x", metadata=self.metadata, timeout=timeout)
                    outer, inner = _last(stage)
                    if "timeout" not in self.changes:
                        assert inner.timeout == outer.timeout, f"on the {side}: {outer.timeout} became {inner.timeout}"
                try:
                    async with asyncio.timeout(self.patience_s):
                        await stage.call(method="wait", metadata=self.metadata, timeout=0.05)
                except DeadlineExceeded:
                    pass
                except TimeoutError:
                    text = f"on the {side}: a timeout of 0.05 s is not over after {self.patience_s} s"
                    raise AssertionError(text) from None
                else:
                    pytest.fail(f"on the {side}: a handler that never answers was answered")
                await self._has_ended(stage, side)

    async def test_concurrent_calls_do_not_mix(self) -> None:
        """A hundred calls at once, answered in another order: each has its own payload, metadata, state and reply."""
        for side in self.sides:
            async with self.stage(side) as stage:
                stage.inner.script = _answering_backwards(_CALLS)
                calls = [
                    stage.call({"number": number}, metadata=[*self.metadata, (_NUMBER, str(number))])
                    for number in range(_CALLS)
                ]
                try:
                    async with asyncio.timeout(self.patience_s):
                        results = await asyncio.gather(*calls)
                except TimeoutError:
                    text = f"on the {side}: of {_CALLS} calls at once {len(stage.inner.seen)} were passed on"
                    raise AssertionError(text) from None
                if not {"payload", "reply"} & set(self.changes):
                    assert results == [{"number": number} for number in range(_CALLS)], f"on the {side}: replies mixed"
                for seen in (*stage.outer.seen, *stage.inner.seen):
                    own = [value for key, value in seen.metadata if key == _NUMBER]
                    marked = seen.call.state.get("conformance.number")
                    if "metadata" not in self.changes and "payload" not in self.changes:
                        assert seen.payload == {"number": int(own[0])}, f"on the {side}: {seen.payload} with {own}"
                    assert marked is None or own == [str(marked)], f"on the {side}: state of {marked} with {own}"

    async def test_order_in_a_chain(self) -> None:
        """Two of it in one chain nest: what is listed first sees a call first, and its reply last."""
        for side in self.sides:
            async with self.stage(side, layers=2) as stage:
                await self._ordinary(stage, side, "x")
                expected = ["probe-0>", "probe-1>", "probe-2>", "<probe-2", "<probe-1", "<probe-0"]
                assert stage.order == expected, f"on the {side}: the order is {stage.order}"

    async def test_state_is_shared(self) -> None:
        """What one layer puts into ``state`` the others see, on the way in and on the way back."""

        async def mark_on_the_way_in(call: Call, following: Handler) -> Reply:
            call.state["conformance.outer"] = 1
            return await following(call)

        async def mark_inside(call: Call, following: Handler) -> Reply:
            call.state["conformance.inner"] = call.state.get("conformance.outer")
            return await following(call)

        for side in self.sides:
            async with self.stage(side) as stage:
                stage.outer.script, stage.inner.script = mark_on_the_way_in, mark_inside
                await self._ordinary(stage, side, "x")
                inner = stage.outer.seen[-1].call.state.get("conformance.inner")
                assert inner == 1, f"on the {side}: the layers around it do not see each other's state"

    @needs("server")
    async def test_streams_pass(self) -> None:
        """On a server it sees the opening of a stream as a call; the items pass by, all and in order."""
        async with self.stage("server") as stage:
            async with asyncio.timeout(self.patience_s):
                items = stage.client.stream("conformance.count", 50, metadata=list(self.metadata) or None)
                arrived = [item async for item in items]
                assert arrived == list(range(50)), f"of the items 0 to 49 these arrived: {arrived}"
            assert len(stage.inner.seen) == 1, f"the opening was passed on {len(stage.inner.seen)} times"

    async def _ordinary(self, stage: Stage, side: Side, payload: object) -> object:
        """The answer to an ordinary call, which must not fail."""
        try:
            return await stage.call(payload, metadata=[*self.metadata, *_METADATA])
        except Exception as error:  # whatever the middleware makes of it, an ordinary call has an answer
            cause = stage.outer.seen[-1].error if stage.outer.seen else error
            raise AssertionError(f"on the {side}: an ordinary call of {_brief(payload)} failed: {cause!r}") from error

    async def _fails(self, stage: Stage, side: Side, error: Exception) -> None:
        """A call behind which ``error`` is raised fails, and the error can still be seen in front of the middleware."""
        try:
            result = await stage.call(metadata=self.metadata)
        except Exception:  # which class arrives at the caller is the engine's choice; what passed the probe counts
            out = stage.outer.seen[-1].error
        else:
            pytest.fail(f"on the {side}: {error!r} was swallowed, the caller got {_brief(result)}")
        same = out is error or (isinstance(out, RpcError) and (out.__cause__ is error or isinstance(error, RpcError)))
        assert same, f"on the {side}: {error!r} became {out!r}, which does not name it as its cause"

    async def _has_ended(self, stage: Stage, side: Side) -> None:
        """Wait until both probes have seen the end of their last call."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.patience_s
        while stage.order.count("probe-0>") != stage.order.count("<probe-0") or (
            stage.order.count("probe-1>") != stage.order.count("<probe-1")
        ):
            assert loop.time() < until, f"on the {side}: the call has not ended within {self.patience_s} s"
            await asyncio.sleep(0.005)


def _last(stage: Stage) -> tuple[Seen, Seen]:
    return stage.outer.seen[-1], stage.inner.seen[-1]


def _differences(outer: Seen, inner: Seen) -> Iterator[tuple[str, object, object]]:
    """What differs between what the middleware was given and what it passed on, and between reply and reply."""
    pairs: tuple[tuple[str, object, object], ...] = (
        ("payload", outer.payload, inner.payload),
        ("metadata", outer.metadata, inner.metadata),
        ("state", outer.state, inner.state),
        ("timeout", outer.timeout, inner.timeout),
        ("reply", inner.reply, outer.reply),
    )
    yield from (pair for pair in pairs if type(pair[1]) is not type(pair[2]) or pair[1] != pair[2])


def _rpc_errors() -> Iterator[RpcError]:
    for code in StatusCode:
        if code is not StatusCode.OK:
            yield RpcError(code, f"a message for {code.name}", retryable=code % 2 == 0, not_processed=code % 3 == 0)
    details = [("conformance.Detail", {"a": [1, None]}), ("conformance.Other", "text")]
    yield RpcError(StatusCode.UNAVAILABLE, "later", details=details, retryable=True, retry_after=2.5)
    yield RemoteError(StatusCode.ABORTED, "from the peer", details=details)
    yield DeadlineExceeded("out of time", not_processed=True)
    yield Disconnected("the session ended", not_processed=True, close_code=6)
    yield CallError(StatusCode.INVALID_ARGUMENT, "not sent")
    yield LimitExceeded("too large", limit="max_message_bytes", value=2, maximum=1)


def _raising(error: Exception) -> Script:
    async def script(call: Call, following: Handler) -> Reply:
        await asyncio.sleep(0)
        raise error

    return script


def _answering_backwards(count: int) -> Script:
    """Let calls pass when ``count`` of them are here, the last one first."""
    waiting: list[asyncio.Event] = []

    async def script(call: Call, following: Handler) -> Reply:
        number = next(value for key, value in call.metadata if key == _NUMBER)
        call.state["conformance.number"] = number
        event = asyncio.Event()
        waiting.append(event)
        if len(waiting) == count:
            waiting[-1].set()
        await event.wait()
        waiting.remove(event)
        if waiting:
            waiting[-1].set()
        return await following(call)

    return script


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
