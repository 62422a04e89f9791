"""The chain: the first listed is the outermost, and its shape is the same everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from echostream_core import Call, Handler, Reply, RpcError, StatusCode
from echostream_core.middleware import Middleware, compile_chain


def call(payload: object = None) -> Call:
    return Call(method="m", payload=payload, side="server")


async def innermost(call: Call) -> Reply:
    return Reply([call.payload])


def layer(name: str, order: list[str]) -> Middleware:
    async def run(call: Call, following: Handler) -> Reply:
        order.append(f"{name}>")
        try:
            reply = await following(call)
        finally:
            order.append(f"<{name}")
        return Reply([name, reply.value])

    return run


async def test_an_empty_chain_is_its_handler() -> None:
    assert compile_chain((), innermost) is innermost


async def test_layers_run_from_first_to_last_and_back() -> None:
    order: list[str] = []
    chain = compile_chain([layer(name, order) for name in "abc"], innermost)
    assert (await chain(call(1))).value == ["a", ["b", ["c", [1]]]]
    assert order == ["a>", "b>", "c>", "<c", "<b", "<a"]


async def test_a_compiled_chain_can_run_many_times() -> None:
    chain = compile_chain([layer("a", [])], innermost)
    assert [(await chain(call(number))).value for number in range(3)] == [["a", [number]] for number in range(3)]


async def test_a_layer_may_answer_by_itself() -> None:
    async def cached(call: Call, following: Handler) -> Reply:
        return Reply("cached")

    order: list[str] = []
    chain = compile_chain([layer("a", order), cached, layer("never", order)], innermost)
    assert (await chain(call())).value == ["a", "cached"]
    assert order == ["a>", "<a"]


async def test_an_exception_passes_all_layers() -> None:
    async def fails(call: Call) -> Reply:
        raise RpcError(StatusCode.ABORTED, "no")

    order: list[str] = []
    with pytest.raises(RpcError, match="no"):
        await compile_chain([layer("a", order), layer("b", order)], fails)(call())
    assert order == ["a>", "b>", "<b", "<a"]


async def test_a_layer_may_call_what_follows_again() -> None:
    attempts = []

    async def flaky(call: Call) -> Reply:
        attempts.append(call)
        if len(attempts) < 3:
            raise RpcError(StatusCode.UNAVAILABLE, "later")
        return Reply("at last")

    async def retry(call: Call, following: Handler) -> Reply:
        while True:
            try:
                return await following(call)
            except RpcError:
                continue

    assert (await compile_chain([retry], flaky)(call())).value == "at last"
    assert len(attempts) == 3


def test_a_call_has_fields_of_its_own() -> None:
    first, second = call(), call()
    first.state["a"] = 1
    first.metadata.append(("k", "v"))
    assert second.state == {}
    assert second.metadata == []
    for name in ("method", "payload", "side", "metadata", "timeout", "context", "state"):
        assert hasattr(first, name)
    with pytest.raises(AttributeError):
        first.other = 1  # type: ignore[attr-defined]  # a misspelt field must not pass


async def test_a_chain_takes_any_callables() -> None:
    class Layer:
        async def __call__(self, call: Call, following: Handler) -> Reply:
            return await following(call)

    chain: Any = compile_chain([Layer()], innermost)
    assert (await chain(call(1))).value == [1]
