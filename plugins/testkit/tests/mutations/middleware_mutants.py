"""Middleware with one fault each, and the check that has to find it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from echostream_core.errors import RpcError, StatusCode
from echostream_core.middleware import Call, Handler, Middleware, MiddlewareSpec, Reply
from plugins.testkit.tests.reference_middleware import SPEC, ReferenceMiddleware, make_spec

__all__ = ["MUTANTS", "Mutant"]

M = TypeVar("M", bound=type[ReferenceMiddleware])


@dataclass(frozen=True)
class Mutant:
    """A middleware with a fault: ``fault`` is a sentence, ``caught_by`` the check, ``says`` a part of its message."""

    fault: str
    spec: MiddlewareSpec
    caught_by: str
    says: str
    changes: Mapping[str, str] = field(default_factory=dict)


MUTANTS: list[Mutant] = []


def fault(text: str, caught_by: str, says: str) -> Callable[[M], M]:
    """List a class as a mutant."""

    def add(middleware: M) -> M:
        MUTANTS.append(Mutant(text, make_spec(middleware), caught_by, says))
        return middleware

    return add


@fault("next is called twice", "test_next_is_called_once", "a call was passed on 2 times")
@fault("the opening of a stream is passed on twice", "test_streams_pass", "these arrived: [0, 1, 2")
class CallsTwice(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        await following(call)
        return await following(call)


@fault("an ordinary call is not passed on", "test_next_is_called_once", "a call was passed on 0 times")
class AnswersItself(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return Reply(call.payload)


@fault("the answer is no Reply", "test_an_ordinary_call_passes_unchanged", "instead of a Reply")
class AnswersTheValue(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Any:
        return (await following(call)).value


@fault("the reply is wrapped", "test_an_ordinary_call_passes_unchanged", "the reply was None and is {'result': None}")
class WrapsReplies(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return Reply({"result": (await following(call)).value})


@fault("the payload is changed in place", "test_an_ordinary_call_passes_unchanged", "the payload was {}")
class ChangesPayloads(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        if isinstance(call.payload, dict):
            call.payload["seen"] = True
        return await following(call)


@fault("metadata is lost", "test_an_ordinary_call_passes_unchanged", "the metadata was [('conformance-a', '1')")
class LosesMetadata(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return await super().__call__(replace(call, metadata=[]), following)


@fault("repeated metadata is made one", "test_an_ordinary_call_passes_unchanged", "the metadata was")
class MapsMetadata(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return await super().__call__(replace(call, metadata=list(dict(call.metadata).items())), following)


@fault("the context is lost", "test_an_ordinary_call_passes_unchanged", "the context was exchanged")
class LosesContext(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return await super().__call__(replace(call, context=None), following)


@fault("the state is cut off", "test_state_is_shared", "do not see each other's state")
class CutsState(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return await super().__call__(replace(call, state={}), following)


@fault("errors are swallowed", "test_errors_of_the_handler_pass", "was swallowed, the caller got None")
class SwallowsErrors(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        try:
            return await following(call)
        except Exception:
            return Reply(None)


@fault("every error becomes INTERNAL", "test_rpc_errors_pass", "'code': <StatusCode.INTERNAL: 13>")
class FlattensErrors(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        try:
            return await following(call)
        except RpcError as error:
            raise RpcError(StatusCode.INTERNAL, error.message) from error


@fault("details and retryable are lost", "test_rpc_errors_pass", "'retryable': False")
class LosesDetails(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        try:
            return await following(call)
        except RpcError as error:
            raise RpcError(error.code, error.message) from error


@fault("another error hides the handler's", "test_errors_of_the_handler_pass", "does not name it as its cause")
class HidesErrors(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        try:
            return await following(call)
        except Exception:
            pass
        raise RuntimeError("something went wrong")


@fault("after one failure everything is refused", "test_a_failure_leaves_no_trace", "an ordinary call of 'x' failed")
class OpensForGood(ReferenceMiddleware):
    failed = False

    async def __call__(self, call: Call, following: Handler) -> Reply:
        if self.failed:
            raise RpcError(StatusCode.UNAVAILABLE, "the circuit is open")
        try:
            return await following(call)
        except Exception:
            self.failed = True
            raise


@fault("a cancellation becomes a reply", "test_cancellation_passes", "the cancelled call came to")
class SwallowsCancellation(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        try:
            return await following(call)
        except asyncio.CancelledError:
            return Reply(None)


@fault("a cancellation does not reach what is behind", "test_cancellation_passes", "has not ended within")
class Shields(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return await asyncio.shield(asyncio.ensure_future(following(call)))


@fault("a cancellation is slow", "test_cancellation_passes", "on the client: the call goes on 5.0 s after")
class CleansUpForAges(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        try:
            return await following(call)
        finally:
            if call.side == "client":
                await asyncio.sleep(60)


@fault("the timeout is prolonged", "test_deadlines_hold", "60.0 became None")
class Prolongs(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return await super().__call__(replace(call, timeout=None), following)


@fault("what is out of time is tried for longer", "test_deadlines_hold", "is not over after 5.0 s")
class OutlivesDeadlines(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        try:
            return await following(call)
        except RpcError:
            if call.side == "client":
                await asyncio.sleep(60)
            raise


class Mixing(ReferenceMiddleware):
    """Keeps the present call on itself, as if there were one at a time."""

    async def __call__(self, call: Call, following: Handler) -> Reply:
        self.call = call
        await asyncio.sleep(0)
        return await following(self.call)


class MixingReplies(ReferenceMiddleware):
    """Keeps the last reply on itself."""

    async def __call__(self, call: Call, following: Handler) -> Reply:
        self.reply = await following(call)
        await asyncio.sleep(0.001)
        return self.reply


@fault("one call at a time", "test_concurrent_calls_do_not_mix", "of 100 calls at once 1 were passed on")
class Serial(ReferenceMiddleware):
    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def __call__(self, call: Call, following: Handler) -> Reply:
        async with self.lock:
            return await following(call)


@fault("a second layer of it answers in place of the first", "test_order_in_a_chain", "the order is")
class OnlyOnce(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        if call.state.setdefault("been", self) is not self:
            return Reply(None)
        return await following(call)


@fault("the opening of a stream is not passed on", "test_streams_pass", "these arrived: []")
class RefusesStreams(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        return await following(call) if not call.method.endswith("count") else Reply(None)


@fault("every call leaves a task", "test_an_ordinary_call_passes_unchanged", "tasks are left")
class LeaksTasks(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        self.task = asyncio.get_running_loop().create_task(asyncio.Event().wait())
        return await super().__call__(call, following)


class AddsMetadata(ReferenceMiddleware):
    """No fault: it adds to the metadata, and says so."""

    async def __call__(self, call: Call, following: Handler) -> Reply:
        return await super().__call__(replace(call, metadata=[*call.metadata, ("trace", "1")]), following)


def make_nothing(options: msgspec.Struct) -> Middleware:
    """A factory that forgets to answer."""
    return None  # type: ignore[return-value]  # the fault


MUTANTS += [
    Mutant("calls are mixed", make_spec(Mixing), "test_concurrent_calls_do_not_mix", "replies mixed"),
    Mutant("replies are mixed", make_spec(MixingReplies), "test_concurrent_calls_do_not_mix", "replies mixed"),
    Mutant("a change is not declared", make_spec(AddsMetadata), "test_an_ordinary_call_passes_unchanged", "declare"),
    Mutant(
        "a change is declared that never happens",
        SPEC,
        "test_declared_changes_happen",
        "metadata is not changed",
        {"metadata": "adds nothing"},
    ),
    Mutant(
        "a change is declared that there is no word for",
        SPEC,
        "test_the_middleware_is_what_its_spec_says",
        "['headers'] is nothing to declare",
        {"headers": "adds some"},
    ),
    Mutant(
        "the factory answers nothing",
        replace(SPEC, factory=make_nothing),
        "test_the_middleware_is_what_its_spec_says",
        "the factory answers a NoneType",
    ),
]
