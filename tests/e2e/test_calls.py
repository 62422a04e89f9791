"""Calls, over every transport that is installed and on both event loops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from echostream_core import (
    Call,
    CapabilityError,
    ConfigError,
    ConnectFailed,
    Context,
    DeadlineExceeded,
    Disconnected,
    Handler,
    Kernel,
    LimitExceeded,
    RemoteError,
    Reply,
    RpcClient,
    RpcError,
    RpcServer,
    StatusCode,
    handler,
    service,
)
from echostream_core.components import PeerInfo
from tests.support.handlers import BASIC, Watched
from tests.support.pairs import Pair, connected
from tests.support.transports import Endpoint
from tests.support.waiting import settle, until

LOOPS = ("asyncio", "uvloop")

MIB = 1 << 20


def linked(
    transport: Endpoint,
    *handlers: object,
    client_handlers: tuple[object, ...] = (),
    server: Mapping[str, Any] | None = None,
    client: Mapping[str, Any] | None = None,
) -> AbstractAsyncContextManager[Pair]:
    """A connected pair over ``transport``."""
    return connected(
        *handlers,
        url=transport.url,
        client_handlers=client_handlers,
        server={**transport.options, **(server or {})},
        client={**transport.options, **(client or {})},
    )


@dataclass
class Order:
    item: str
    count: int = 1


class Receipt(msgspec.Struct):
    total: float
    lines: list[str]


@service("shop")
class Shop:
    """Typed calls, a generator, and state."""

    def __init__(self) -> None:
        self.sold: list[Order] = []

    @handler
    async def buy(self, order: Order, price: float = 1.5) -> Receipt:
        self.sold.append(order)
        return Receipt(order.count * price, [order.item] * order.count)

    @handler
    def total(self) -> int:
        return sum(order.count for order in self.sold)

    @handler
    async def history(self) -> AsyncIterator[Order]:
        for order in self.sold:
            yield order


async def test_typed_calls_services_and_proxies(transport: Endpoint) -> None:
    async with linked(transport, Shop()) as pair:
        receipt = await pair.client.request(
            "shop.buy", {"order": {"item": "tea", "count": 2}}, returns=Receipt, timeout=10
        )
        assert receipt == Receipt(3.0, ["tea", "tea"])
        shop = pair.client.proxy(Shop)
        assert await shop.buy(Order("milk"), price=2.0) == Receipt(2.0, ["milk"])
        assert await shop.total() == 3  # type: ignore[misc]  # a plain def at the server is awaited here
        assert [order async for order in shop.history()] == [Order("tea", 2), Order("milk")]
        with pytest.raises(RemoteError) as caught:
            await pair.client.request("shop.buy", {"order": {"item": 5}})
        assert caught.value.code is StatusCode.INVALID_ARGUMENT
        assert caught.value.details[0][1] == {
            "path": "$.order.item",
            "problem": "Expected `str`, got `int` - at `$.order.item`",
        }
        await pair.at_rest()


async def test_both_ends_call_each_other_over_one_connection(transport: Endpoint) -> None:
    @handler("double")
    async def double(number: int, ctx: Context) -> int:
        return int(await ctx.session.request("half", number)) * 4

    @handler("half")
    async def half(number: int) -> float:
        return number / 2

    async with linked(transport, double, *BASIC, client_handlers=(half,)) as pair:
        assert await pair.client.request("double", 22) == 44
        (session,) = pair.server.sessions
        assert await session.request("half", 5) == 2.5
        answers = await asyncio.gather(
            *(pair.client.request("double", 2 * number) for number in range(50)),
            *(session.request("half", number) for number in range(50)),
        )
        assert answers == [*(4 * number for number in range(50)), *(number / 2 for number in range(50))]
        await pair.at_rest()


async def test_handlers_can_be_added_to_a_client_that_is_connected(transport: Endpoint) -> None:
    @handler("late")
    async def late() -> str:
        return "better late"

    async with linked(transport, *BASIC) as pair:
        await pair.ready()
        with pytest.raises(RemoteError, match="no method 'late'"):
            await pair.far.request("late")
        pair.client.add(late)
        assert await pair.far.request("late") == "better late"
        with pytest.raises(ConfigError, match="two handlers are named 'late'"):
            pair.client.add(late)


async def test_sizes_around_every_limit(transport: Endpoint) -> None:
    async with linked(transport, *BASIC) as pair:
        await pair.ready()
        for around in (0, 2_048, 8_192, 16_384, 17_408, 65_536, 1_048_576):
            for length in (around - 9, around - 1, around, around + 1, around + 9):
                text = "x" * max(length, 0)
                assert await pair.client.request("echo", text) == text
        await pair.at_rest()


async def test_a_message_of_24_mb_under_a_raised_limit(transport: Endpoint) -> None:
    limits = {"max_message_bytes": 32 * MIB}
    async with linked(transport, *BASIC, server={"limits": limits}, client={"limits": limits}) as pair:
        await pair.ready()
        payload = "x" * (24 * MIB)
        assert await pair.client.request("echo", payload, timeout=50) == payload
        await pair.at_rest()


async def test_a_message_over_the_limit_is_refused_here_and_named(transport: Endpoint) -> None:
    async with linked(transport, *BASIC) as pair:
        with pytest.raises(LimitExceeded, match="max_message_bytes is 4194304") as caught:
            await pair.client.request("echo", "x" * (5 * MIB))
        assert caught.value.limit == "max_message_bytes"
        assert caught.value.not_processed
        with pytest.raises(RpcError, match="max_message_bytes") as answer:
            await pair.client.request("make", 5 * MIB)
        assert answer.value.code is StatusCode.RESOURCE_EXHAUSTED
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


async def test_metadata_travels_and_is_not_forwarded(transport: Endpoint) -> None:
    seen: list[Mapping[str, object]] = []

    @handler("outer")
    async def outer(ctx: Context) -> None:
        seen.append(ctx.metadata)
        await ctx.session.request("inner")

    @handler("inner")
    async def inner(ctx: Context) -> None:
        seen.append(ctx.metadata)

    async with linked(transport, outer, client_handlers=(inner,)) as pair:
        await pair.client.request("outer", metadata={"tenant": "a", "trace-bin": b"\x00\x01"})
        assert seen == [{"tenant": "a", "trace-bin": b"\x00\x01"}, {}]


async def test_deadlines_shrink_from_hop_to_hop(transport: Endpoint) -> None:
    remaining: list[float | None] = []

    @handler("hop")
    async def hop(count: int, ctx: Context) -> None:
        remaining.append(ctx.remaining())
        if count:
            await ctx.session.request("hop", count - 1, timeout=1_000)

    async with linked(transport, hop, client_handlers=(hop,)) as pair:
        await pair.client.request("hop", 5, timeout=20)
        assert len(remaining) == 6
        previous = 20.0
        for left in remaining:
            assert left is not None
            assert 0 < left <= previous + 0.002, "a millisecond is rounded up at each hop"
            previous = left


async def test_an_expired_call_ends_on_both_sides(transport: Endpoint) -> None:
    watched = Watched()
    async with linked(transport, watched, *BASIC) as pair:
        await pair.ready()
        with pytest.raises(DeadlineExceeded):
            await pair.client.request("watched.wait", timeout=0.05)
        await watched.reached(cancelled=1)
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


@pytest.mark.parametrize("size", [0, 100_000])
async def test_cancelling_at_the_client_ends_the_handler(transport: Endpoint, size: int) -> None:
    watched = Watched()

    @handler("large")
    async def large(payload: str, ctx: Context) -> str:
        return await watched.wait(ctx)

    async with linked(transport, large, *BASIC) as pair:
        calling = asyncio.ensure_future(pair.client.request("large", "x" * size))
        await watched.reached(begun=1)
        calling.cancel()
        await watched.reached(cancelled=1)
        assert calling.cancelled()
        assert await pair.client.request("echo", 1) == 1
        await pair.at_rest()


@pytest.mark.parametrize("size", [0, 5_000, 200_000])
async def test_a_call_that_is_cancelled_at_any_moment_leaves_nothing(transport: Endpoint, size: int) -> None:
    async with linked(transport, *BASIC) as pair:
        await pair.ready()
        for turns in range(0, 40, 3):
            calling = asyncio.ensure_future(pair.client.request("echo", "x" * size, timeout=None))
            await settle(turns)
            calling.cancel()
            await asyncio.wait({calling})
        await pair.at_rest()


async def test_status_details_and_hidden_causes(transport: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    @handler("refuse")
    async def refuse() -> None:
        raise RpcError(StatusCode.NOT_FOUND, "no tea", details=[("Shop", {"open": False})], retry_after=0.25)

    @handler("break")
    async def broken() -> None:
        raise RuntimeError("password in the clear")

    async with linked(transport, refuse, broken) as pair:
        with pytest.raises(RemoteError) as refused:
            await pair.client.request("refuse")
        assert refused.value.code is StatusCode.NOT_FOUND
        assert refused.value.details == (("Shop", {"open": False}),)
        assert refused.value.retry_after == 0.25
        with pytest.raises(RemoteError) as failed:
            await pair.client.request("break")
        assert failed.value.code is StatusCode.INTERNAL
        assert "password" not in str(failed.value)
    assert failed.value.message.rpartition(" ")[2] in caplog.text


async def test_a_thousand_calls_wait_for_a_hundred_and_twenty_eight_slots(transport: Endpoint) -> None:
    running = most = 0

    @handler("busy")
    async def busy(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return number

    async with linked(transport, busy, server={"limits": {"max_concurrent_calls": 128}}) as pair:
        answers = await asyncio.gather(*(pair.client.request("busy", number) for number in range(1_000)))
        assert answers == list(range(1_000))
        assert most <= 128
        await pair.at_rest()


@pytest.mark.parametrize("codec", ["json", "msgpack", "cbor"])
async def test_every_codec(transport: Endpoint, codec: str) -> None:
    if codec not in Kernel().known("codec"):
        pytest.skip(f"the codec {codec} is not installed")
    value = {"text": "ü", "list": [1, -(2**63), 2**64 - 1, 0.5, None, True], "nested": {"a": {"b": []}}}
    async with linked(transport, *BASIC, server={"codecs": [codec]}, client={"codecs": [codec]}) as pair:
        assert await pair.client.request("echo", value) == value
        assert await pair.client.request("echo", [value] * 500) == [value] * 500
        if codec != "json":
            assert await pair.client.request("make", 5_000) == bytes(5_000)


async def test_sides_with_different_codecs_find_the_common_one(transport: Endpoint) -> None:
    others = [codec for codec in ("msgpack", "cbor") if codec in Kernel().known("codec")]
    if len(others) < 2:
        pytest.skip("needs two codecs beside json")
    async with linked(transport, *BASIC, server={"codecs": [others[0]]}, client={"codecs": [others[1]]}) as pair:
        answers = await asyncio.gather(*(pair.client.request("echo", number) for number in range(200)))
        assert answers == list(range(200))
        assert pair.near.codecs.name(pair.near.codecs.out_id) == "json"


# Middleware


async def test_middleware_runs_from_the_first_to_the_last_on_both_sides(transport: Endpoint) -> None:
    order: list[str] = []

    def layer(name: str) -> Any:
        async def run(call: Call, following: Handler) -> Reply:
            order.append(f"{name} in {call.side} {call.method}")
            call.state[name] = True
            try:
                return await following(call)
            finally:
                order.append(f"{name} out")

        return run

    @handler("work")
    async def work(ctx: Context) -> list[str]:
        order.append("handler")
        return sorted(ctx.state)

    async with linked(
        transport,
        work,
        server={"middleware": [layer("s1"), layer("s2")]},
        client={"middleware": [layer("c1"), layer("c2")]},
    ) as pair:
        assert await pair.client.request("work") == ["s1", "s2"]
    assert order == [
        "c1 in client work",
        "c2 in client work",
        "s1 in server work",
        "s2 in server work",
        "handler",
        "s2 out",
        "s1 out",
        "c2 out",
        "c1 out",
    ]


async def test_middleware_may_refuse_replace_repeat_and_translate(transport: Endpoint) -> None:
    async def guard(call: Call, following: Handler) -> Reply:
        if ("role", "admin") not in call.metadata:
            raise RpcError(StatusCode.PERMISSION_DENIED, "admins only")
        return await following(call)

    async def spoil(call: Call, following: Handler) -> Reply:
        if call.payload == "replace":
            return Reply("replaced")
        if call.payload == "break":
            raise RuntimeError("in the middleware")
        return Reply([(await following(call)).value])

    async def sign(call: Call, following: Handler) -> Reply:
        if call.payload != "anonymous":
            call.metadata.append(("role", "admin"))
        try:
            return await following(call)
        except RemoteError as error:
            if call.payload == "translate":
                raise RpcError(StatusCode.ABORTED, "translated") from error
            raise

    async with linked(transport, *BASIC, server={"middleware": [guard, spoil]}, client={"middleware": [sign]}) as pair:
        request = pair.client.request
        assert await request("echo", "value") == ["value"]
        assert await request("echo", "replace") == "replaced"
        with pytest.raises(RemoteError, match="admins only"):
            await request("echo", "anonymous")
        with pytest.raises(RemoteError, match="internal error"):
            await request("echo", "break")
        with pytest.raises(RpcError, match="translated"):
            await request("no.such", "translate")
        await pair.at_rest()


# Who are you?


async def test_credentials_reach_the_authenticator_and_nobody_else(
    transport: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    peers: list[PeerInfo] = []

    async def door(credentials: Mapping[str, str], peer: PeerInfo) -> str:
        peers.append(peer)
        if credentials.get("token") != "open sesame":
            raise RpcError(StatusCode.UNAUTHENTICATED, "no entry")
        return "ada"

    @handler("whoami")
    async def whoami(ctx: Context) -> str | None:
        return ctx.peer_identity

    insecure: dict[str, Any] = {} if transport.encrypted else {"insecure_credentials": True}
    async with linked(
        transport,
        whoami,
        server={"authenticator": door},
        client={"credentials": {"token": "open sesame"}, **insecure},
    ) as pair:
        assert await pair.client.request("whoami") == "ada"
        wrong = RpcClient.connect(
            pair.server.addresses[0], credentials={"token": "swordfish"}, **transport.options, **insecure
        )
        with pytest.raises(Disconnected, match="no entry"):
            async with wrong as refused:
                await refused.request("whoami")
        assert await pair.client.request("whoami") == "ada"
        shown = f"{pair.client!r}{pair.near!r}{pair.near.pipeline!r}{pair.near.peer_setup!r}{pair.far.peer_setup!r}"
    assert [peer.encrypted for peer in peers] == [transport.encrypted] * 2
    for secret in ("sesame", "swordfish"):
        assert secret not in caplog.text
        assert secret not in shown


async def test_credentials_are_not_sent_unencrypted(transport: Endpoint) -> None:
    if transport.encrypted:
        pytest.skip(f"{transport.scheme} is encrypted")
    with pytest.raises(ConfigError, match="credentials are not sent over"):
        RpcClient.connect(transport.url, credentials={"token": "t"}, **transport.options)


# What the endpoint can do


async def test_needs_are_checked_before_anything_is_bound(transport: Endpoint) -> None:
    async with linked(
        transport, *BASIC, server={"require": ["streams"]}, client={"require": ["streams", "flow_control"]}
    ) as pair:
        assert await pair.client.request("echo", 1) == 1
        assert pair.client.capabilities.streams in ("native", "muxed")
    for make in (RpcServer, RpcClient.connect):
        with pytest.raises((ConfigError, CapabilityError), match="early_data"):
            make(transport.url, require=["early_data=replayable", "socket_handover"], **transport.options)
        with pytest.raises(ConfigError, match="did you mean 'streams'"):
            make(transport.url, require=["stream"], **transport.options)


async def test_health_and_reflection(transport: Endpoint) -> None:
    async with linked(transport, *BASIC) as pair:
        request = pair.client.request
        assert await request("echostream.health.status") == {"status": "SERVING"}
        pair.server.health.set("NOT_SERVING", "orders")
        assert await request("echostream.health.status", "orders") == {"status": "NOT_SERVING"}
        with pytest.raises(RemoteError) as caught:
            await request("echostream.health.status", "nobody")
        assert caught.value.code is StatusCode.NOT_FOUND
        methods = {method["name"]: method for method in await request("echostream.reflection.methods")}
        assert methods["add"]["payload"]["properties"] == {"a": {"type": "integer"}, "b": {"type": "integer"}}
        assert methods["add"]["doc"] == "The sum."
        assert {methods[name]["kind"] for name in ("echo", "count", "collect")} == {"call", "generator", "stream"}


async def test_a_refused_dial_is_one_of_our_errors(transport: Endpoint) -> None:
    url = transport.url.replace(":0", ":1")  # nobody listens on port 1
    connecting = RpcClient.connect(url, connect_timeout=0.5, **transport.options)
    with pytest.raises(ConnectFailed):
        await connecting


async def test_a_client_that_goes_away_ends_its_calls_at_the_server(transport: Endpoint) -> None:
    watched = Watched()
    async with linked(transport, watched, *BASIC) as pair:
        await pair.ready()
        calls = [asyncio.ensure_future(pair.client.request("watched.wait")) for _ in range(5)]
        await watched.reached(begun=5)
        await pair.client.close()
        await watched.reached(cancelled=5)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, Disconnected)
        await until(lambda: not pair.server.sessions)
