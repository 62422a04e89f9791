"""Cases about the session: calls towards the dialer, several connections, health, the graceful end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from echostream_core import Context, Disconnected, RpcError, StatusCode, handler
from echostream_testkit.interop.case import CaseFailed, Dial, case, check


@handler("dialer.echo")
def dialer_echo(value: Any) -> Any:
    """The payload, unchanged."""
    return value


@handler("dialer.fail")
def dialer_fail(code: int) -> None:
    """Fail with this status."""
    raise RpcError(StatusCode(code), "the dialer failed on purpose")


@handler("dialer.count")
async def dialer_count(upto: int) -> AsyncIterator[int]:
    """The integers from 0 to ``upto`` - 1."""
    for number in range(upto):
        yield number


@handler("dialer.again")
async def dialer_again(depth: int, ctx: Context) -> int:
    """Call the listener, which calls us: ``depth`` times each."""
    if depth == 0:
        return 0
    inner = {"method": "dialer.again", "payload": depth - 1}
    reply = await ctx.session.request("interop.call_back", inner)
    return int(reply["answer"]) + 1


@case
async def call_back(dial: Dial) -> None:
    """The listener calls the dialer on the same session, several times at once."""
    async with dial.connect(dialer_echo) as client:

        async def once(number: int) -> None:
            payload = {"method": "dialer.echo", "payload": [number, "x" * (number * 1000)]}
            reply = await client.request("interop.call_back", payload)
            check(reply, {"ok": True, "answer": payload["payload"]}, "what the dialer answered")

        await asyncio.gather(*(once(number) for number in range(30)))


@case
async def call_back_nested(dial: Dial) -> None:
    """Calls within calls, five in each direction."""
    async with dial.connect(dialer_again) as client:
        reply = await client.request("interop.call_back", {"method": "dialer.again", "payload": 5})
        check(reply, {"ok": True, "answer": 5}, "the depth that was reached")


@case
async def call_back_failure(dial: Dial) -> None:
    """The dialer's statuses reach the listener; what it does not offer is UNIMPLEMENTED."""
    async with dial.connect(dialer_fail) as client:
        for code in (StatusCode.NOT_FOUND, StatusCode.ABORTED, StatusCode.UNAUTHENTICATED):
            reply = await client.request("interop.call_back", {"method": "dialer.fail", "payload": int(code)})
            check(reply, {"ok": False, "code": int(code), "message": "the dialer failed on purpose"}, "the reply")
        reply = await client.request("interop.call_back", {"method": "dialer.nothing"})
        check((reply["ok"], reply["code"]), (False, int(StatusCode.UNIMPLEMENTED)), "an unknown method of the dialer")


@case
async def call_back_stream(dial: Dial) -> None:
    """The listener reads a stream of the dialer."""
    async with dial.connect(dialer_count) as client:
        items = await client.request("interop.call_back_stream", {"method": "dialer.count", "payload": 500})
        check(items, list(range(500)), "the items that the listener read")


@case
async def several_connections(dial: Dial) -> None:
    """Ten connections at once: each has a session of its own."""

    async def one(number: int) -> None:
        async with dial.connect(dialer_echo) as client:
            reply = await client.request("interop.call_back", {"method": "dialer.echo", "payload": number})
            check(reply, {"ok": True, "answer": number}, "the reply of this connection")

    await asyncio.gather(*(one(number) for number in range(10)))


@case
async def health(dial: Dial) -> None:
    """The built-in health service answers SERVING, and NOT_FOUND for a service that it does not know."""
    async with dial.connect() as client:
        check(await client.request("echostream.health.status"), {"status": "SERVING"}, "the health")
        try:
            await client.request("echostream.health.status", "no.such.service")
        except RpcError as error:
            check(error.code, StatusCode.NOT_FOUND, "the health of an unknown service")
        else:
            raise CaseFailed("the health of an unknown service was answered")


@case
async def abrupt_end(dial: Dial) -> None:
    """When a connection ends under its calls, their handlers are cancelled, and the listener goes on."""
    tag = dial.tag()
    async with dial.connect() as client:
        calls = [asyncio.ensure_future(client.request("interop.slow", {"seconds": 600, "tag": tag})) for _ in range(3)]
        await dial.tally(client, tag, started=3)
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        check(type(outcome), Disconnected, "what became of a call on a connection that was closed")
    async with dial.connect() as client:
        await dial.tally(client, tag, started=3, cancelled=3, finished=0)


@case
async def drain(dial: Dial) -> None:
    """GOAWAY: what runs is finished, what is new is refused as not processed, then the session ends in order."""
    tag = dial.tag()
    async with dial.connect() as client, dial.connect() as other:
        running = asyncio.ensure_future(client.request("interop.slow", {"seconds": 600, "tag": tag}))
        await dial.tally(client, tag, started=1)
        session = client.session  # the client itself would make its calls in the next one
        await client.request("interop.drain")
        while True:  # until the first GOAWAY is here, calls are still accepted
            try:
                await session.request("interop.echo", "late")
            except Disconnected as refused:
                check(refused.not_processed, True, "not_processed of a call after GOAWAY")
                break
        await other.request("interop.release", tag)
        check(await running, tag, "the call that ran when the drain began")
        await session.closed
        check(await other.request("interop.echo", "still here"), "still here", "another session")
