"""Cases about streams: of items in each direction, of raw bytes, given up half-way, and beside calls."""

from __future__ import annotations

import asyncio
from hashlib import sha256

from echostream_core import RpcClient, StatusCode, Stream
from echostream_testkit.interop.case import Dial, case, check, expect
from echostream_testkit.interop.contract import pattern

MIB = 1_048_576
RAW_BYTES = 4 * MIB
"""More than any window: credit has to be renewed many times."""


@case
async def server_stream(dial: Dial) -> None:
    """1,000 items of the listener, in order; then none at all."""
    async with dial.connect() as client:
        items = [item async for item in client.stream("interop.count", {"upto": 1000})]
        check(items, list(range(1000)), "the items")
        check([item async for item in client.stream("interop.count", {"upto": 0})], [], "no items")


@case
async def server_stream_given_up(dial: Dial) -> None:
    """Leaving a stream early stops the generator at the listener."""
    tag = dial.tag()
    async with dial.connect() as client:
        async with client.stream("interop.count", {"upto": 2**40, "tag": tag}) as items:
            check([await anext(items) for _ in range(3)], [0, 1, 2], "the first items")
        await dial.tally(client, tag, started=1, cancelled=1, finished=0)


@case
async def server_stream_failure(dial: Dial) -> None:
    """A stream that fails gives its items first, then its status."""
    payload = {"upto": 5, "code": int(StatusCode.DATA_LOSS), "message": "torn"}
    received: list[object] = []
    async with dial.connect() as client:

        async def read() -> None:
            async for item in client.stream("interop.count_and_fail", payload):
                received.append(item)

        error = await expect(read(), StatusCode.DATA_LOSS, "count_and_fail")
    check(received, [0, 1, 2, 3, 4], "the items before the failure")
    check(error.message, "torn", "the message")


@case
async def stream_first(dial: Dial) -> None:
    """The first thing on a connection is a stream: its items, or its refusal, may overtake the listener's SETUP."""
    async with dial.connect() as client:
        check([item async for item in client.stream("interop.count", {"upto": 3})], [0, 1, 2], "the items")
    async with dial.connect() as client, client.open_stream("nobody.has.this") as stream:
        await expect(stream.recv(), StatusCode.UNIMPLEMENTED, "an unknown stream")
    async with dial.connect() as client, client.open_stream("interop.upload", {"no": "tag"}) as stream:
        await expect(stream.recv(), StatusCode.INVALID_ARGUMENT, "a stream with a wrong payload")


@case
async def client_stream(dial: Dial) -> None:
    """1,000 items to the listener; the answer is the last item of its direction."""
    numbers = [dial.random.randint(-1000, 1000) for _ in range(1000)]
    async with dial.connect() as client, client.open_stream("interop.total") as stream:
        for number in numbers:
            await stream.send(number)
        await stream.end()
        check(await stream.recv(), sum(numbers), "the total")


@case
async def bidirectional_stream(dial: Dial) -> None:
    """Items go back and forth; then our direction ends, and the listener's after it."""
    async with dial.connect() as client, client.open_stream("interop.chat") as stream:
        for number in range(200):
            item = {"number": number, "text": "x" * dial.random.randrange(2000)}
            await stream.send(item)
            check(await stream.recv(), item, "the item that comes back")
        for number in range(50):
            await stream.send(number)
        await stream.end()
        check([item async for item in stream], list(range(50)), "what was on its way when we ended")


@case
async def raw_upload(dial: Dial) -> None:
    """4 MiB of raw bytes in uneven pieces; the listener's checksum is ours."""
    async with dial.connect() as client:
        await _upload(dial, client)


async def _upload(dial: Dial, client: RpcClient) -> None:
    data = b"".join(pattern(dial.settings.seed, RAW_BYTES))
    async with client.open_stream("interop.upload", dial.tag()) as stream:
        at = 0
        while at < len(data):
            size = dial.random.choice((1, 100, 4_096, 65_536, 100_000))
            await stream.send(data[at : at + size])
            at += size
        await stream.end()
        expected = {"bytes": len(data), "sha256": sha256(data).hexdigest()}
        check(await stream.recv(), expected, "the checksum")


@case
async def raw_download(dial: Dial) -> None:
    """4 MiB of raw bytes from the listener, every byte of the pattern."""
    seed = dial.settings.seed + 1
    digest, size = sha256(), 0
    expected = sha256(b"".join(pattern(seed, RAW_BYTES))).hexdigest()
    async with dial.connect() as client:
        async for chunk in client.stream("interop.download", {"size": RAW_BYTES, "seed": seed, "chunk": 50_001}):
            check(type(chunk), bytes, "the type of a raw item")
            digest.update(chunk)
            size += len(chunk)
    check(size, RAW_BYTES, "the bytes received")
    check(digest.hexdigest(), expected, "the checksum")


@case
async def calls_beside_bulk(dial: Dial) -> None:
    """Calls are answered while an upload of 4 MiB runs on the same connection."""
    async with dial.connect() as client:
        upload = asyncio.ensure_future(_upload(dial, client))
        beside = 0
        while not upload.done() or beside < 20:
            check(await client.request("interop.echo", beside), beside, "a call beside the upload")
            beside += 1
        await upload


@case
async def slow_reader(dial: Dial) -> None:
    """A stream that we do not read stops its sender only: calls and other streams go on, and nothing is lost."""
    size, seed = 8 * MIB, dial.settings.seed
    async with dial.connect() as client:
        unread = client.stream("interop.download", {"size": size, "seed": seed, "chunk": 65_536})
        received = sha256(await anext(unread))
        for number in range(50):
            check(await client.request("interop.echo", number), number, "a call beside the unread stream")
        check(
            [item async for item in client.stream("interop.count", {"upto": 500})],
            list(range(500)),
            "a stream beside the unread one",
        )
        async for chunk in unread:
            received.update(chunk)
    expected = sha256(b"".join(pattern(seed, size))).hexdigest()
    check(received.hexdigest(), expected, "the checksum of what was read late")


@case
async def upload_given_up(dial: Dial) -> None:
    """Resetting a stream half-way ends its handler; the session and its other streams live on."""
    tag = dial.tag()
    async with dial.connect() as client:
        stream: Stream = await client.open_stream("interop.upload", tag)
        await stream.send(bytes(100_000))
        await dial.tally(client, tag, started=1)
        stream.reset()
        await dial.tally(client, tag, cancelled=1, finished=0)
        check([item async for item in client.stream("interop.count", {"upto": 3})], [0, 1, 2], "a stream afterwards")


@case
async def many_streams(dial: Dial) -> None:
    """40 streams at once on one connection, each with its own items."""

    async def one(client: RpcClient, upto: int) -> None:
        check([item async for item in client.stream("interop.count", {"upto": upto})], list(range(upto)), "the items")

    async with dial.connect() as client:
        await asyncio.gather(*(one(client, dial.random.randrange(200)) for _ in range(40)))
