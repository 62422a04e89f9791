"""Cases about calls: values, sizes, statuses, deadlines, cancellation, metadata."""

from __future__ import annotations

import asyncio
import base64
import math
from typing import Any

from echostream_core import DeadlineExceeded, StatusCode
from echostream_testkit.interop.case import CaseFailed, Dial, case, check, expect

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    127,
    128,
    255,
    256,
    65_535,
    65_536,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**64 - 1,
    -(2**31) - 1,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    5e-324,
    3.141592653589793,
    "",
    "plain",
    'grüße, 世界, 🎧, \u0000, "\\\n',
    [],
    [1, "two", None, [3.5, []]],
    {},
    {"a": 1, "": {"ключ": [True, {"deep": {"deeper": None}}]}},
    list(range(300)),
    {f"key {number}": number for number in range(300)},
]
"""The value model that all codecs share, with its edges; bytes have a case of their own."""

SIZES = (0, 1, 31, 32, 2_047, 2_048, 2_049, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 1_048_576)
"""Around the limits at which a message changes its way: in-line, on a substream, in fragments."""


@case
async def connect(dial: Dial) -> None:
    """Connect, call once, close."""
    async with dial.connect() as client:
        check(await client.request("interop.echo", "hello"), "hello", "echo")


@case
async def echo_values(dial: Dial) -> None:
    """Every kind of value comes back as it went, with its type."""
    async with dial.connect() as client:
        for value in VALUES:
            answer = await client.request("interop.echo", value)
            check(answer, value, "echo")
            if isinstance(value, float) and math.copysign(1, value) != math.copysign(1, answer):
                raise CaseFailed(f"echo of {value!r}: the sign is lost")


@case
async def echo_bytes(dial: Dial) -> None:
    """Bytes arrive as bytes; where the codec has none, as base64 text, and as bytes where they are asked for."""
    data = dial.random.randbytes(1000)
    async with dial.connect() as client:
        check(await client.request("interop.echo_bytes", data, returns=bytes), data, "echo_bytes")
        expected = data if dial.carries_bytes else base64.b64encode(data).decode()
        check(await client.request("interop.echo", data), expected, "echo of bytes")


@case
async def message_sizes(dial: Dial) -> None:
    """Messages of 0 bytes to 1 MiB, around every limit at which they change their way."""
    async with dial.connect() as client:
        for size in SIZES:
            text = "".join(dial.random.choices("abcdefgh", k=min(size, 64))) * (size // 64 + 1)
            check(await client.request("interop.echo", text[:size]), text[:size], f"echo of {size} signs")


@case
async def sums(dial: Dial) -> None:
    """A typed payload is computed with."""
    async with dial.connect() as client:
        for count in (0, 1, 2, 100):
            numbers = [dial.random.randint(-(2**40), 2**40) for _ in range(count)]
            check(await client.request("interop.sum", numbers), sum(numbers), f"sum of {count} numbers")


@case
async def concurrent_calls(dial: Dial) -> None:
    """300 calls at once on one connection: each gets its own answer."""
    numbers = [dial.random.getrandbits(62) for _ in range(300)]
    async with dial.connect() as client:
        answers = await asyncio.gather(*(client.request("interop.echo", number) for number in numbers))
    check(list(answers), numbers, "the answers")


@case
async def answers_out_of_order(dial: Dial) -> None:
    """A call that takes long does not hold up the ones behind it."""
    async with dial.connect() as client:
        tag = dial.tag()
        slow = asyncio.ensure_future(client.request("interop.slow", {"seconds": 600, "tag": tag}, timeout=None))
        for number in range(10):
            check(await client.request("interop.echo", number), number, "a call behind a slow one")
        await client.request("interop.release", tag)
        check(await slow, tag, "the answer of the slow one")


@case
async def statuses(dial: Dial) -> None:
    """Each of the sixteen error codes arrives with its message and its facts."""
    async with dial.connect() as client:
        for code in StatusCode:
            if code is StatusCode.OK:
                continue
            message = f"{code.name.lower()} on purpose, ü"
            payload = {"code": int(code), "message": message}
            error = await expect(client.request("interop.fail", payload), code, f"fail with {code.name}")
            if not error.message.endswith(message):  # a caller may put the method before it
                raise CaseFailed(f"the message of {code.name}: expected {message!r}, got {error.message!r}")
            check(error.details, (), f"the details of {code.name}")
            check(error.not_processed, False, f"not_processed of {code.name}")


@case
async def typed_details(dial: Dial) -> None:
    """Details, retryable and retry_after of an error arrive as they were raised."""
    details = [("Quota", {"limit": 10, "used": [10, 10.5]}), ("Note", "slower, please"), ("Empty", None)]
    payload = {
        "code": int(StatusCode.RESOURCE_EXHAUSTED),
        "message": "too much",
        "details": details,
        "retryable": True,
        "retry_after": 1.5,
    }
    async with dial.connect() as client:
        error = await expect(client.request("interop.fail", payload), StatusCode.RESOURCE_EXHAUSTED, "fail")
    check([list(pair) for pair in error.details], [list(pair) for pair in details], "the details")
    check(error.retryable, True, "retryable")
    check(error.retry_after, 1.5, "retry_after")


@case
async def crashing_handler(dial: Dial) -> None:
    """A handler with a mistake is INTERNAL, and its text stays at the listener; the session goes on."""
    secret = dial.tag()
    async with dial.connect() as client:
        error = await expect(client.request("interop.crash", secret), StatusCode.INTERNAL, "crash")
        if secret in str(error) or secret in repr(error.details):
            raise CaseFailed("the text of the handler's exception reached the caller")
        check(await client.request("interop.echo", 1), 1, "a call after the crash")


@case
async def unknown_method(dial: Dial) -> None:
    """A method that nobody offers is UNIMPLEMENTED and not processed, as a call and as a stream."""
    async with dial.connect() as client:
        error = await expect(client.request("nobody.has.this"), StatusCode.UNIMPLEMENTED, "an unknown method")
        check(error.not_processed, True, "not_processed")
        async with client.open_stream("nobody.has.this") as stream:
            await expect(stream.recv(), StatusCode.UNIMPLEMENTED, "an unknown stream")


@case
async def wrong_payload(dial: Dial) -> None:
    """A payload of the wrong type is INVALID_ARGUMENT and never reaches the handler."""
    async with dial.connect() as client:
        for payload in ("one, two", [1, "two"], {"numbers": [1]}):
            error = await expect(client.request("interop.sum", payload), StatusCode.INVALID_ARGUMENT, "sum of text")
            check(error.not_processed, True, "not_processed")


@case
async def deadline(dial: Dial) -> None:
    """A call that takes too long fails at the caller, and its handler is stopped."""
    tag = dial.tag()
    async with dial.connect() as client:
        try:
            await client.request("interop.slow", {"seconds": 600, "tag": tag}, timeout=0.2)
        except DeadlineExceeded:
            pass
        else:
            raise CaseFailed("a call of 600 s was answered within 0.2 s")
        await dial.tally(client, tag, started=1, cancelled=1, finished=0)


@case
async def deadline_travels(dial: Dial) -> None:
    """The handler knows how much time is left, and that there is no limit when there is none."""
    async with dial.connect() as client:
        left = await client.request("interop.remaining", timeout=60)
        if type(left) is not int or not 0 < left <= 60_000:
            raise CaseFailed(f"of 60,000 ms {left!r} are left")
        check(await client.request("interop.remaining", timeout=None), None, "remaining without a deadline")


@case
async def cancellation(dial: Dial) -> None:
    """Giving up calls cancels their handlers, and no others."""
    given_up, kept = dial.tag(), dial.tag()
    async with dial.connect() as client:
        stays = asyncio.ensure_future(client.request("interop.slow", {"seconds": 600, "tag": kept}))
        leaves = [
            asyncio.ensure_future(client.request("interop.slow", {"seconds": 600, "tag": given_up})) for _ in range(5)
        ]
        await dial.tally(client, given_up, started=5)
        for call in leaves:
            call.cancel()
        await asyncio.gather(*leaves, return_exceptions=True)
        await dial.tally(client, given_up, cancelled=5, finished=0)
        await client.request("interop.release", kept)
        check(await stays, kept, "the call that was kept")


@case
async def metadata(dial: Dial) -> None:
    """Metadata arrives in order: text, repeated keys, bytes where the key ends in -bin."""
    sent: list[tuple[str, str | bytes]] = [
        ("tenant", "acme"),
        ("x.y-z_1", "grüße"),
        ("tenant", "twice"),
        ("trace-bin", bytes(range(256))),
        ("empty", ""),
    ]
    expected = [[key, value.hex() if isinstance(value, bytes) else value] for key, value in sent]
    async with dial.connect() as client:
        check(await client.request("interop.metadata", metadata=sent), expected, "the metadata")
        check(await client.request("interop.metadata"), [], "the metadata of a call without")
