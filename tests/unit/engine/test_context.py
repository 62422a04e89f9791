"""What a handler knows of its call."""

from __future__ import annotations

import asyncio

from echostream_core import Context, Priority
from echostream_core.engine.context import CURRENT, inherited
from tests.support.handlers import echo
from tests.support.pairs import connected

LOOPS = ("virtual",)


class Nobody:
    """A session that only says who it is with."""

    peer = "memory://somebody"
    peer_identity = "ada"


def made(deadline: float | None = None, metadata: list[tuple[str, str | bytes]] | None = None) -> Context:
    return Context(Nobody(), 8, "math.add", deadline, Priority.URGENT, metadata)  # type: ignore[arg-type]  # enough here


async def test_remaining_counts_down_to_zero() -> None:
    context = made(deadline=asyncio.get_running_loop().time() + 2)
    assert context.remaining() == 2.0
    await asyncio.sleep(1.5)
    assert context.remaining() == 0.5
    await asyncio.sleep(1)
    assert context.remaining() == 0.0


async def test_without_a_deadline_nothing_remains_to_be_counted() -> None:
    assert made().remaining() is None


def test_metadata_is_a_copy_in_which_the_last_of_two_equal_keys_wins() -> None:
    context = made(metadata=[("a", "1"), ("b-bin", b"\x00"), ("a", "2")])
    assert context.metadata == {"a": "2", "b-bin": b"\x00"}
    assert context.metadata_pairs == [("a", "1"), ("b-bin", b"\x00"), ("a", "2")]
    context.metadata["a"] = "changed"
    context.metadata_pairs.clear()
    assert context.metadata["a"] == "2"
    assert made().metadata == {}
    assert made().metadata_pairs == []


def test_the_state_is_one_mapping() -> None:
    context = made()
    context.state["user"] = 5
    assert context.state == {"user": 5}


def test_the_peer_and_its_logger_are_known() -> None:
    context = made()
    assert context.peer_identity == "ada"
    assert context.logger.extra == {"method": "math.add", "peer": "memory://somebody", "call": 8}


def test_a_nested_call_inherits_deadline_and_class() -> None:
    assert inherited(made(deadline=5.0)) == (5.0, Priority.URGENT)
    assert inherited(None) == (None, Priority.NORMAL)


def test_nothing_is_inherited_from_a_call_that_has_ended() -> None:
    context = made(deadline=5.0)
    context._ended = True
    assert context.ended
    assert inherited(context) == (None, Priority.NORMAL)


def test_detached_inherits_nothing_inside_the_block_only() -> None:
    context = made()
    token = CURRENT.set(context)
    try:
        with context.detached():
            assert CURRENT.get() is None
        assert CURRENT.get() is context
    finally:
        CURRENT.reset(token)


async def test_no_context_leaks_into_the_code_that_connects_and_calls() -> None:
    async with connected(echo) as pair:
        await pair.client.request("echo", 1)
        assert CURRENT.get() is None
