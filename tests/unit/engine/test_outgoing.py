"""The caller's side: slots, deadlines, names, metadata, sizes, and what is known before the peer's SETUP."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from echostream_core import (
    CloseCode,
    ConfigError,
    Context,
    DeadlineExceeded,
    Disconnected,
    EchoStreamError,
    EncodeError,
    LimitExceeded,
    Priority,
    RemoteError,
    RpcError,
    StatusCode,
    handler,
)
from echostream_core.builtin.json_codec import JsonCodec
from echostream_core.codec import Codec
from echostream_core.types import Buffer
from echostream_core.wire.frames import NAMED, FrameType
from echostream_core.wire.limits import INITIAL_MAX_CALLS, MAX_INTERNED
from tests.support.handlers import BASIC, Watched, add, echo
from tests.support.pairs import connected
from tests.support.raw_peer import client_by_hand, raw_setup, response
from tests.support.waiting import settle

LOOPS = ("virtual",)


# Deadlines


async def test_a_call_without_an_answer_in_time_is_given_up() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        with pytest.raises(DeadlineExceeded, match=r"watched\.wait: ") as caught:
            await pair.client.request("watched.wait", timeout=2.5)
        assert asyncio.get_running_loop().time() == pytest.approx(2.5, abs=0.01)
        assert isinstance(caught.value, TimeoutError)
        assert not caught.value.not_processed
        await watched.reached(cancelled=1)
        await pair.at_rest()


async def test_the_default_timeout_is_the_endpoints() -> None:
    watched = Watched()
    async with connected(watched, client={"limits": {"default_timeout_s": 7.0}}) as pair:
        calling = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        assert watched.contexts[0].remaining() == pytest.approx(7.0, abs=0.01)
        with pytest.raises(DeadlineExceeded):
            await calling


async def test_without_a_timeout_a_call_waits_for_ever() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        calling = asyncio.ensure_future(pair.client.request("watched.wait", timeout=None))
        await watched.reached(begun=1)
        assert watched.contexts[0].deadline is None
        await asyncio.sleep(100_000)
        watched.go_on.set()
        assert await calling == "done"


@pytest.mark.parametrize("timeout", [0, -1, -0.001])
async def test_a_timeout_that_is_over_sends_nothing(timeout: float) -> None:
    watched = Watched()
    async with connected(watched) as pair:
        with pytest.raises(DeadlineExceeded) as caught:
            await pair.client.request("watched.wait", timeout=timeout)
        assert caught.value.not_processed
        await pair.at_rest()
        assert watched.begun == 0


async def test_the_earliest_of_many_deadlines_comes_first() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        order: list[int] = []

        async def one(seconds: int) -> None:
            with pytest.raises(DeadlineExceeded):
                await pair.client.request("watched.wait", timeout=seconds)
            order.append(seconds)

        await asyncio.gather(*(one(seconds) for seconds in (5, 1, 4, 2, 3)))
        assert order == [1, 2, 3, 4, 5]


async def test_a_nested_deadline_shrinks_and_is_never_extended() -> None:
    inner = Watched()

    @handler("outer")
    async def outer(ctx: Context) -> None:
        await asyncio.sleep(1)
        await ctx.session.request("watched.wait", timeout=60)

    async with connected(outer, client_handlers=(inner,)) as pair:
        calling = asyncio.ensure_future(pair.client.request("outer", timeout=5))
        await inner.reached(begun=1)
        remaining = inner.contexts[0].remaining()
        assert remaining is not None
        assert remaining == pytest.approx(4.0, abs=0.01)
        with pytest.raises(DeadlineExceeded):
            await calling
        await inner.reached(cancelled=1)


async def test_a_detached_call_and_a_task_left_behind_are_bound_by_no_deadline() -> None:
    inner = Watched()
    left: list[asyncio.Task[object]] = []

    @handler("outer")
    async def outer(ctx: Context) -> None:
        with ctx.detached():
            left.append(asyncio.ensure_future(ctx.session.request("watched.wait", timeout=None)))

        async def later() -> object:
            await asyncio.sleep(1)
            return await ctx.session.request("watched.wait", timeout=None)

        left.append(asyncio.ensure_future(later()))

    async with connected(outer, client_handlers=(inner,)) as pair:
        await pair.client.request("outer", timeout=5)
        await asyncio.sleep(100)
        assert [context.deadline for context in inner.contexts] == [None, None]
        inner.go_on.set()
        assert await asyncio.gather(*left) == ["done", "done"]


# Slots


async def test_a_call_waits_for_a_slot_and_gets_it_in_turn() -> None:
    watched = Watched()
    async with connected(watched, echo, server={"limits": {"max_concurrent_calls": 128}}) as pair:
        await pair.ready()
        first = [asyncio.ensure_future(pair.client.request("watched.wait")) for _ in range(128)]
        await watched.reached(begun=128)
        order: list[int] = []

        async def queued(number: int) -> None:
            await pair.client.request("echo", number)
            order.append(number)

        waiting = [asyncio.ensure_future(queued(number)) for number in range(5)]
        await settle()
        assert order == []
        first[0].cancel()
        await asyncio.gather(*waiting)
        assert order == [0, 1, 2, 3, 4]
        watched.go_on.set()
        await asyncio.gather(*first[1:])
        await pair.at_rest()


async def test_a_call_whose_time_is_over_while_it_waits_was_not_processed() -> None:
    watched = Watched()
    async with connected(watched, echo, server={"limits": {"max_concurrent_calls": 128}}) as pair:
        await pair.ready()
        first = [asyncio.ensure_future(pair.client.request("watched.wait")) for _ in range(128)]
        await watched.reached(begun=128)
        with pytest.raises(DeadlineExceeded, match="no free slot in time: 128 calls are open") as caught:
            await pair.client.request("echo", 1, timeout=1)
        assert caught.value.not_processed
        watched.go_on.set()
        await asyncio.gather(*first)
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


async def test_a_call_that_is_cancelled_while_it_waits_leaves_the_line() -> None:
    watched = Watched()
    async with connected(watched, echo, server={"limits": {"max_concurrent_calls": 128}}) as pair:
        await pair.ready()
        first = [asyncio.ensure_future(pair.client.request("watched.wait")) for _ in range(128)]
        await watched.reached(begun=128)
        waiting = [asyncio.ensure_future(pair.client.request("echo", number)) for number in range(3)]
        await settle()
        waiting[0].cancel()
        await settle()
        assert waiting[0].cancelled()
        first[0].cancel()
        assert await asyncio.gather(*waiting[1:]) == [1, 2]
        watched.go_on.set()
        await asyncio.gather(*first[1:])
        await pair.at_rest()


async def test_a_waiter_that_does_not_take_its_slot_passes_it_on() -> None:
    """One slot becomes free; the first who waits for it turns out to be unable to use it."""
    watched = Watched()
    limits = {"max_concurrent_calls": 128, "max_message_bytes": 100_000}
    async with connected(watched, echo, server={"limits": limits}) as pair:
        async with asyncio.TaskGroup() as group:
            first = [group.create_task(pair.client.request("watched.wait")) for _ in range(128)]
            await watched.reached(begun=128)
            too_large = asyncio.ensure_future(pair.client.request("echo", bytes(300_000)))
            bad_name = asyncio.ensure_future(pair.client.request("bad name", 1))
            fine = group.create_task(pair.client.request("echo", 5, timeout=None))
            await settle()
            watched.go_on.set()
            assert await fine == 5
            with pytest.raises(LimitExceeded):
                await too_large
            with pytest.raises(EchoStreamError):
                await bad_name
        assert [task.result() for task in first] == ["done"] * 128
        await pair.at_rest()


async def test_slots_beyond_the_first_come_with_the_peers_setup() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        calls = [asyncio.ensure_future(pair.client.request("watched.wait")) for _ in range(INITIAL_MAX_CALLS + 50)]
        await watched.reached(begun=INITIAL_MAX_CALLS + 50)
        watched.go_on.set()
        assert await asyncio.gather(*calls) == ["done"] * (INITIAL_MAX_CALLS + 50)
        await pair.at_rest()


@pytest.mark.parametrize("size", [0, 50_000], ids=["in-line", "substream"])
async def test_a_cancelled_call_keeps_its_slot_until_its_final_frame(size: int) -> None:
    begun = asyncio.Event()
    release = asyncio.Event()

    @handler("stubborn")
    async def stubborn(payload: object) -> None:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with connected(stubborn) as pair:
        await pair.ready()
        calling = asyncio.ensure_future(pair.client.request("stubborn", "x" * size))
        await begun.wait()
        calling.cancel()
        await pair.client.ping()
        assert pair.near.outgoing.slots.used == 1
        release.set()
        await pair.at_rest()


# Cancelling


async def test_cancelling_the_caller_is_cancelled_and_nothing_else() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        calling = asyncio.ensure_future(pair.client.request("watched.wait"))
        await watched.reached(begun=1)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await pair.at_rest()


async def test_an_outer_timeout_is_not_swallowed() -> None:
    watched = Watched()
    async with connected(watched) as pair:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(1):
                await pair.client.request("watched.wait")
        assert not isinstance(caught.value, RpcError)
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0


async def test_a_call_cancelled_in_the_turn_of_its_answer_leaves_no_noise() -> None:
    """The error of the answer has nobody left to be raised in; the loop must not report it as forgotten."""
    noise: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        calling = asyncio.ensure_future(client.request("x"))
        await peer.called()
        client.session.on_response(0, 1, 1, ERROR_BODY)
        calling.cancel()
        await settle()
        assert calling.cancelled()
        del calling
        gc.collect()
        await settle()
    assert noise == []


ERROR_BODY = bytes.fromhex("0a00 00 00000000 01 78 00")
"""ABORTED, "x"."""


# Names


async def test_a_name_is_sent_once_and_a_number_afterwards() -> None:
    async with client_by_hand() as (client, peer):
        calls = [asyncio.ensure_future(client.request(method)) for method in ("a", "b", "a", "a")]
        named = [bool(frame.flags & NAMED) for frame in await peer.called(4)]
        assert named == [True, True, False, False]
        for call in calls:
            call.cancel()


async def test_more_names_than_can_be_interned_go_in_full() -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        for number in range(MAX_INTERNED + 2):
            asking = asyncio.ensure_future(client.request(f"m{number}"))
            await settle(3)
            peer.control.send(response(2 * number))
            assert await asking == 1
        again = asyncio.ensure_future(client.request(f"m{MAX_INTERNED + 1}"))
        calls = await peer.called(MAX_INTERNED + 3)
        assert all(frame.flags & NAMED for frame in calls)
        again.cancel()


async def test_many_names_work_end_to_end() -> None:
    @handler("echo")
    async def unused(value: object) -> object:
        return value

    async with connected(unused) as pair:
        for number in range(MAX_INTERNED + 10):
            with pytest.raises(RemoteError, match="no method"):
                await pair.client.request(f"m{number}")
        assert await pair.client.request("echo", 1) == 1


@pytest.mark.parametrize("timeout", ["1", float("nan"), [1]], ids=str)
async def test_a_timeout_that_is_none_is_refused_here(timeout: Any) -> None:
    async with connected(echo) as pair:
        with pytest.raises(ConfigError, match="timeout must be a number of seconds, or None for no limit, not "):
            await pair.client.request("echo", 1, timeout=timeout)
        with pytest.raises(ConfigError, match="the name of a method is a text, not 5"):
            await pair.client.request(5)  # type: ignore[arg-type]  # that is the point
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


@pytest.mark.parametrize("method", ["", "a b", "x" * 256, "\ud800"])
async def test_a_name_that_cannot_travel_is_refused_here(method: str) -> None:
    async with connected(echo) as pair:
        for _ in range(3):
            with pytest.raises(EchoStreamError, match="is no method name"):
                await pair.client.request(method)
        with pytest.raises(EchoStreamError, match="is no method name"):
            await pair.client.request(method, bytes(100_000))
        with pytest.raises(EchoStreamError, match="is no method name"):
            await pair.client.open_stream(method)
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


# Metadata


@handler("metadata")
async def metadata(ctx: Context) -> list[list[object]]:
    return [[key, value] for key, value in ctx.metadata_pairs]


async def test_metadata_arrives_in_order_with_repeated_keys() -> None:
    async with connected(metadata) as pair:
        pairs: list[tuple[str, str | bytes]] = [
            ("tenant", "a"),
            ("trace-bin", b"\x00\xff"),
            ("tenant", "ü"),
            ("empty", ""),
        ]
        answer = await pair.client.request("metadata", metadata=pairs)
        assert answer in (
            [["tenant", "a"], ["trace-bin", b"\x00\xff"], ["tenant", "ü"], ["empty", ""]],
            [["tenant", "a"], ["trace-bin", "AP8="], ["tenant", "ü"], ["empty", ""]],
        )
        assert await pair.client.request("metadata", metadata={"a": "b"}) == [["a", "b"]]
        assert await pair.client.request("metadata") == []
        assert await pair.client.request("metadata", metadata={}) == []


@pytest.mark.parametrize(
    "pairs",
    [
        {"Upper": "x"},
        {"": "x"},
        {"a b": "x"},
        {"ä": "x"},
        {"x" * 129: "x"},
        {"echostream-trace": "x"},
        {"text": b"bytes"},
        {"raw-bin": "text"},
        {"number": 5},
        {"number-bin": 5},
        {"none": None},
        {5: "x"},
        {"lone": "\ud800"},
    ],
    ids=str,
)
async def test_metadata_that_breaks_a_rule_is_refused_here(pairs: Any) -> None:
    async with connected(metadata) as pair:
        with pytest.raises(RpcError) as caught:
            await pair.client.request("metadata", metadata=pairs)
        assert caught.value.code is StatusCode.INVALID_ARGUMENT
        assert caught.value.not_processed
        assert not isinstance(caught.value, RemoteError)
        assert await pair.client.request("metadata") == []
        await pair.at_rest()


@pytest.mark.parametrize(
    ("pairs", "limit"),
    [
        ([("k", "v")] * 65, "max_metadata_entries"),
        ({"k": "v" * 8_192}, "max_metadata_bytes"),
        ({"k-bin": bytes(9_000)}, "max_metadata_bytes"),
    ],
    ids=["entries", "text", "bytes"],
)
async def test_too_much_metadata_names_the_limit(pairs: Any, limit: str) -> None:
    async with connected(metadata) as pair:
        with pytest.raises(LimitExceeded) as caught:
            await pair.client.request("metadata", metadata=pairs)
        assert caught.value.limit == limit
        assert caught.value.value > caught.value.maximum
        await pair.at_rest()


async def test_the_most_metadata_that_is_allowed_arrives() -> None:
    async with connected(metadata) as pair:
        assert len(await pair.client.request("metadata", metadata=[("k", "v")] * 64)) == 64
        size = 8_192 - len(b"\x01\x01k\x80\x40")
        ((_, value),) = await pair.client.request("metadata", metadata={"k": "v" * size})
        assert value == "v" * size


# Sizes


async def test_a_request_over_the_peers_limit_is_refused_here() -> None:
    async with connected(echo, server={"limits": {"max_message_bytes": 50_000}}) as pair:
        await pair.ready()
        with pytest.raises(LimitExceeded, match="max_message_bytes is 50000") as caught:
            await pair.client.request("echo", b"x" * 50_001)
        assert (caught.value.limit, caught.value.maximum) == ("max_message_bytes", 50_000)
        assert caught.value.not_processed
        await pair.at_rest()


async def test_a_small_request_over_a_small_limit_is_refused_here_too() -> None:
    limits = {"max_message_bytes": 1_024, "inline_max_bytes": 1_024, "inline_max_native_bytes": 1_024}
    async with connected(echo, server={"limits": limits}) as pair:
        await pair.ready()
        with pytest.raises(LimitExceeded, match="max_message_bytes is 1024"):
            await pair.client.request("echo", "x" * 1_100)
        assert await pair.client.request("echo", "x" * 1_000) == "x" * 1_000


async def test_the_peers_limit_counts_and_not_ours() -> None:
    limits = {"max_message_bytes": 1_024, "inline_max_bytes": 1_024, "inline_max_native_bytes": 1_024}
    async with connected(echo, add, client={"limits": limits}) as pair:
        with pytest.raises(RpcError):
            await pair.client.request("echo", "x" * 100_000)
        await pair.at_rest()


# Classes


@handler("priority")
async def priority(value: object, ctx: Context) -> int:
    return ctx.priority


@pytest.mark.parametrize("payload", [None, "x" * 50_000])
async def test_the_class_travels_with_the_call(payload: object) -> None:
    async with connected(priority) as pair:
        assert await pair.client.request("priority", payload) == Priority.NORMAL
        for level in (Priority.URGENT, Priority.NORMAL, Priority.BULK):
            assert await pair.client.request("priority", payload, priority=level) == level


@pytest.mark.parametrize("payload", [None, "x" * 50_000])
@pytest.mark.parametrize("level", [0, 4, 200, 1_000, -1])
async def test_a_class_that_does_not_exist_harms_nobody(payload: object, level: Any) -> None:
    async with connected(priority) as pair:
        try:
            assert await pair.client.request("priority", payload, priority=level) in (1, 2, 3)
        except (EchoStreamError, ValueError):
            pass
        assert await pair.client.request("priority", payload) == Priority.NORMAL
        await pair.at_rest()


# Codecs


class Tagged(Codec):
    """A codec that only one side has: JSON behind a tag."""

    def __init__(self, name: str = "tagged") -> None:
        self.name = name
        self._json = JsonCodec()

    def encode(self, value: object) -> bytes:
        if value == "unsendable":
            raise EncodeError("not this")
        return b"T" + self._json.encode(value)

    def decode(self, data: Buffer) -> object:
        assert bytes(data[:1]) == b"T"
        return self._json.decode(data[1:])


async def test_a_codec_that_the_peer_lacks_is_replaced_without_the_caller_noticing() -> None:
    async with connected(echo, client={"codecs": [Tagged(), "json"]}, server={"codecs": ["json"]}) as pair:
        assert await pair.client.request("echo", [1, "two"]) == [1, "two"]
        assert pair.near.codecs.name(pair.near.codecs.out_id) == "json"
        assert await pair.client.request("echo", "x" * 100_000) == "x" * 100_000
        await pair.at_rest()


async def test_many_calls_at_once_in_a_codec_that_the_peer_lacks() -> None:
    """More than there are slots before SETUP: those who wait were encoded before it came."""
    async with connected(echo, client={"codecs": [Tagged(), "json"]}, server={"codecs": ["json"]}) as pair:
        count = INITIAL_MAX_CALLS + 100
        answers = await asyncio.gather(*(pair.client.request("echo", number) for number in range(count)))
        assert answers == list(range(count))
        await pair.at_rest()


async def test_each_side_writes_with_its_own_preference_among_what_both_have() -> None:
    async with connected(
        echo, client={"codecs": ["json", Tagged()]}, server={"codecs": [Tagged(), "json"]}, client_handlers=(echo,)
    ) as pair:
        await pair.ready()
        assert pair.near.codecs.name(pair.near.codecs.out_id) == "json"
        assert pair.far.codecs.name(pair.far.codecs.out_id) == "tagged"
        assert await pair.client.request("echo", {"a": 1}) == {"a": 1}
        assert await pair.far.request("echo", {"a": 1}) == {"a": 1}


# The end


async def test_a_call_after_the_end_was_not_processed() -> None:
    async with connected(echo) as pair:
        await pair.client.close()
        with pytest.raises(Disconnected) as caught:
            await pair.client.request("echo", 1)
        assert caught.value.not_processed
        assert caught.value.retryable


async def test_a_call_that_waits_for_a_slot_at_the_end_was_not_processed() -> None:
    watched = Watched()
    async with connected(watched, echo, server={"limits": {"max_concurrent_calls": 128}}) as pair:
        await pair.ready()
        first = [asyncio.ensure_future(pair.client.request("watched.wait")) for _ in range(128)]
        await watched.reached(begun=128)
        waiting = asyncio.ensure_future(pair.client.request("echo", 1, timeout=None))
        await settle()
        await pair.client.close()
        with pytest.raises(Disconnected) as caught:
            await waiting
        assert caught.value.not_processed
        for result in await asyncio.gather(*first, return_exceptions=True):
            assert isinstance(result, Disconnected)
            assert not result.not_processed


async def test_a_response_to_no_call_ends_the_session() -> None:
    async with client_by_hand() as (client, peer):
        calling = asyncio.ensure_future(client.request("x", timeout=None))
        await peer.called()
        peer.control.send(raw_setup(), response(8))
        with pytest.raises(Disconnected, match="a response to call 8, which is not open"):
            await calling
        assert await peer.close_code() == CloseCode.PROTOCOL


MALFORMED = {
    "an error that is cut off": response(0, b"\x05\x00", error=True),
    "an error with bytes behind it": response(0, ERROR_BODY + b"!", error=True),
    "a codec that was never listed": response(0, codec=9),
    "an error in a codec that was never listed": response(0, ERROR_BODY[:-1] + b"\x01\x01n\x011", codec=9, error=True),
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_answer_ends_the_session_and_the_call_with_it(answer: bytes) -> None:
    async with client_by_hand() as (client, peer):
        calls = [asyncio.ensure_future(client.request("x", timeout=None)) for _ in range(2)]
        await peer.called(2)
        peer.control.send(raw_setup(), answer)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, RpcError)
        assert await peer.close_code() == CloseCode.PROTOCOL


async def test_an_answer_that_cannot_be_decoded_fails_its_call_only() -> None:
    async with client_by_hand() as (client, peer):
        calls = [asyncio.ensure_future(client.request("x")) for _ in range(2)]
        await peer.called(2)
        peer.control.send(raw_setup(), response(0, b"{nonsense"), response(2, b"7"))
        first, second = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(first, RpcError)
        assert first.code is StatusCode.INTERNAL
        assert "cannot be decoded" in first.message
        assert second == 7


async def test_calls_go_out_before_the_peer_has_said_anything() -> None:
    """No round trip is spent on SETUP."""
    async with client_by_hand() as (client, peer):
        calls = [asyncio.ensure_future(client.request("x", number)) for number in range(3)]
        assert len(await peer.called(3)) == 3
        kinds = [frame.kind for frame in peer.control.frames()]
        assert kinds[0] == FrameType.SETUP
        for call in calls:
            call.cancel()


async def test_basic_handlers_serve_everything_else() -> None:
    async with connected(*BASIC) as pair:
        assert await pair.client.request("add", {"a": 1, "b": 2}, returns=int) == 3
        with pytest.raises(RpcError, match="not what returns= expects"):
            await pair.client.request("echo", "text", returns=int)
        with pytest.raises(RpcError, match="cannot be sent"):
            await pair.client.request("echo", object())
        assert await pair.client.request("add", {"a": 1, "b": 2}, metadata={"a": "b"}, returns=int) == 3
        await pair.at_rest()
