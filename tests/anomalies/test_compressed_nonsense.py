"""Peers that compress without having agreed on it, send what is damaged, or little that would become much."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import pytest

from echostream_core import (
    CallError,
    CloseCode,
    RpcError,
    RpcServer,
    StatusCode,
    Stream,
    stream_handler,
)
from echostream_core.wire.events import encode_event, encode_sync
from echostream_core.wire.frames import (
    CALL,
    COMPRESSED,
    DATA,
    ERROR,
    FULL_NAME,
    NAMED,
    RESPONSE,
    SubstreamKind,
    encode_substream_head,
)
from echostream_core.wire.limits import Limits
from echostream_core.wire.message import encode_call_head, encode_data_head, encode_response_head
from echostream_core.wire.metadata import decode_error, encode_error
from tests.support.compression import Deflate
from tests.support.handlers import BASIC
from tests.support.pairs import memory_url
from tests.support.raw_peer import JSON, Frame, RawPeer, call, client_by_hand, dialled, raw_setup, response
from tests.support.waiting import settle, until

LOOPS = ("virtual",)
LIMIT = 100_000
GOOD = zlib.compress(b'"' + b"a" * 5_000 + b'"')
BOMB = zlib.compress(b'"' + b"a" * 50_000_000 + b'"')
BAD = [
    pytest.param(GOOD[:-1], StatusCode.INVALID_ARGUMENT, id="cut off"),
    pytest.param(GOOD + b"!", StatusCode.INVALID_ARGUMENT, id="something behind it"),
    pytest.param(b"nonsense", StatusCode.INVALID_ARGUMENT, id="damaged"),
    pytest.param(b"", StatusCode.INVALID_ARGUMENT, id="empty"),
    pytest.param(zlib.compress(b'"no json'), StatusCode.INVALID_ARGUMENT, id="no json inside"),
    pytest.param(BOMB, StatusCode.RESOURCE_EXHAUSTED, id="bomb"),
]
"""Payloads that cannot be read, and what a call with one is answered."""


def setup(*names: str) -> bytes:
    return raw_setup(compression=names or ("deflate",))


def server(url: str, *handlers: object, **changes: Any) -> RpcServer:
    limits = {"max_message_bytes": LIMIT, "assembly_bytes": LIMIT}
    return RpcServer(url, *BASIC, *handlers, **{"compression": [Deflate()], "limits": limits, **changes})


def packed_call(number: int, payload: bytes, codec: int = JSON) -> bytes:
    return encode_call_head(number, 0, b"echo", FULL_NAME, codec, 2, b"", len(payload), COMPRESSED) + payload


def packed_response(number: int, payload: bytes, flags: int = COMPRESSED) -> bytes:
    return encode_response_head(number, flags, JSON, len(payload)) + payload


def packed_event(payload: bytes) -> bytes:
    return encode_event(b"news", FULL_NAME, JSON, payload, COMPRESSED)


def opening(number: int) -> bytes:
    """The head of a stream and its CALL."""
    head = encode_substream_head(SubstreamKind.STREAM, 2, number)
    return head + encode_call_head(number, 0, b"swallow", FULL_NAME, JSON, 2, b"", 4) + b"null"


def packed_item(payload: bytes) -> bytes:
    return encode_data_head(JSON, len(payload), COMPRESSED) + payload


def status_of(frame: Frame) -> tuple[StatusCode, bool]:
    """Code and ``not_processed`` of an ERROR response."""
    assert frame.flags == ERROR
    code, _, _, not_processed, _, _ = decode_error(frame.body[8:], Limits())
    return StatusCode(code), not_processed


@stream_handler("swallow")
async def swallow(stream: Stream) -> None:
    """Reads on after an item that it could not read, and sends back what became of each."""
    while True:
        try:
            item = await stream.recv()
        except RpcError as error:
            await stream.send(error.code.name)
        else:
            await stream.send(item)


# Nothing was agreed.

UNASKED = {
    "call": packed_call(0, GOOD),
    "call with noise": packed_call(0, b"noise"),
}


@pytest.mark.parametrize("what", UNASKED)
@pytest.mark.parametrize("names", [(), ("other",)], ids=["nothing listed", "another listed"])
async def test_a_compressed_call_that_was_not_agreed_on_ends_the_session(what: str, names: tuple[str, ...]) -> None:
    url = memory_url()
    async with server(url):
        peer = await dialled(url, raw_setup(compression=names), UNASKED[what])
        assert await peer.close_code() == CloseCode.PROTOCOL


async def test_a_compressed_call_to_a_server_that_can_not_ends_the_session() -> None:
    url = memory_url()
    async with server(url, compression=[]):
        peer = await dialled(url, setup(), packed_call(0, GOOD))
        assert await peer.close_code() == CloseCode.PROTOCOL


@pytest.mark.parametrize("kind", ["call", "stream item", "stream opening", "event"])
async def test_so_does_it_on_every_other_substream(kind: str) -> None:
    url = memory_url()
    substream = {
        "call": encode_substream_head(SubstreamKind.CALL, 2, 0) + packed_call(0, GOOD),
        "stream item": opening(0) + packed_item(GOOD),
        "stream opening": encode_substream_head(SubstreamKind.STREAM, 2, 0) + packed_call(0, GOOD),
        "event": encode_substream_head(SubstreamKind.EVENTS, 2, 0) + packed_event(GOOD),
    }[kind]
    async with server(url, swallow) as listening:
        peer = await dialled(url, raw_setup())
        await until(lambda: listening.sessions)
        (session,) = listening.sessions
        if kind == "event":
            session.on("news", lambda event: None)
            await settle()
            attaching = session.on("news", lambda event: None).__await__()
            next(attaching)  # it is registered; the answer never comes
        peer.open(substream)
        assert await peer.close_code() == CloseCode.PROTOCOL
        if kind == "event":
            attaching.close()


async def test_a_compressed_answer_that_was_not_agreed_on_ends_the_session() -> None:
    async with client_by_hand(reconnect=False) as (client, peer):
        peer.control.send(raw_setup())
        asked = client.session.loop.create_task(client.request("echo", 1))
        await peer.called()
        peer.control.send(packed_response(0, GOOD))
        assert await peer.close_code() == CloseCode.PROTOCOL
        with pytest.raises(RpcError):
            await asked


# It was agreed on, and what comes is wrong.


@pytest.mark.parametrize(("payload", "code"), BAD)
@pytest.mark.parametrize("way", ["in-line", "substream"])
async def test_a_call_that_cannot_be_decompressed_is_answered_and_the_session_lives(
    way: str, payload: bytes, code: StatusCode
) -> None:
    url = memory_url()
    async with server(url):
        peer = await dialled(url, setup())
        if way == "substream" or len(payload) > 17_408:
            raw = peer.open_call(0, packed_call(0, payload), end=True)
            await until(raw.frames)
            (answer,) = raw.frames()
        else:
            peer.control.send(packed_call(0, payload))
            (answer,) = await peer.answered()
        assert status_of(answer) == (code, True)
        peer.control.send(call(2, "echo", b"7"))
        assert (await peer.answered(len(peer.responses()) + 1))[-1].body[8:] == b"7"


async def test_a_bomb_takes_no_memory() -> None:
    url = memory_url()
    async with server(url):
        peer = await dialled(url, setup())
        await until(peer.replied_setup)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(0, 40, 2):
                raw = peer.open_call(number, packed_call(number, BOMB), end=True)
                await until(raw.frames)
                assert status_of(raw.frames()[0]) == (StatusCode.RESOURCE_EXHAUSTED, True)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak - before < 20 * LIMIT


@pytest.mark.parametrize(("payload", "code"), BAD)
async def test_an_answer_that_cannot_be_decompressed_fails_its_call_only(payload: bytes, code: StatusCode) -> None:
    expected = StatusCode.INTERNAL if code is StatusCode.INVALID_ARGUMENT else code
    limits = {"max_message_bytes": LIMIT, "assembly_bytes": LIMIT}
    async with client_by_hand(compression=[Deflate()], reconnect=False, limits=limits) as (client, peer):
        peer.control.send(setup())
        asked = client.session.loop.create_task(client.request("echo", 1))
        await peer.called()
        if len(payload) > 17_408:
            peer.open(encode_substream_head(SubstreamKind.RESPONSE, 2, 0), packed_response(0, payload), end=True)
        else:
            peer.control.send(packed_response(0, payload))
        with pytest.raises(CallError, match="the answer cannot be decoded") as caught:
            await asked
        assert caught.value.code is expected
        asked = client.session.loop.create_task(client.request("echo", 1))
        await peer.called(2)
        peer.control.send(response(2, b"7"))
        assert await asked == 7


async def test_an_error_may_not_be_compressed() -> None:
    body = encode_error(RpcError(StatusCode.NOT_FOUND, "x"), [], Limits())
    async with client_by_hand(compression=[Deflate()], reconnect=False) as (client, peer):
        peer.control.send(setup())
        asked = client.session.loop.create_task(client.request("echo", 1))
        await peer.called()
        peer.control.send(packed_response(0, body, COMPRESSED | ERROR))
        assert await peer.close_code() == CloseCode.PROTOCOL
        with pytest.raises(RpcError):
            await asked


async def test_the_final_status_of_a_stream_may_not_be_compressed() -> None:
    async with client_by_hand(compression=[Deflate()], reconnect=False) as (client, peer):
        peer.control.send(setup())
        stream = await client.open_stream("swallow")
        await until(lambda: len(peer.accepted) == 2)
        peer.accepted[1].send(packed_response(stream.number, b""), end=True)
        assert await peer.close_code() == CloseCode.PROTOCOL


async def test_an_item_that_cannot_be_decompressed_is_an_error_and_the_next_is_read() -> None:
    url = memory_url()
    async with server(url, swallow):
        peer = await dialled(url, setup())
        raw = peer.open(opening(0))
        raw.send(packed_item(b"nonsense"), packed_item(BOMB), packed_item(GOOD), encode_data_head(JSON, 1), b"7")
        await until(lambda: len(raw.frames()) == 4)
        frames = raw.frames()
        assert [frame.kind for frame in frames] == [DATA] * 4
        assert [frame.body for frame in (frames[0], frames[1], frames[3])] == [
            b'"INVALID_ARGUMENT"',
            b'"RESOURCE_EXHAUSTED"',
            b"7",
        ]
        assert frames[2].flags == COMPRESSED and zlib.decompress(frames[2].body) == zlib.decompress(GOOD)
        raw.substream.reset(CloseCode.CANCELLED)


async def test_an_event_that_cannot_be_decompressed_is_counted_and_the_next_is_heard() -> None:
    heard: list[object] = []
    limits = {"max_message_bytes": LIMIT, "assembly_bytes": LIMIT}
    async with client_by_hand(compression=[Deflate()], reconnect=False, limits=limits) as (client, peer):
        peer.control.send(setup())

        async def subscribe() -> Any:
            return await client.on("news", lambda event: heard.append(event.payload))

        subscribing = client.session.loop.create_task(subscribe())
        await peer.called()
        peer.control.send(response(0, b'{"max_queue":1024}'))
        subscription = await subscribing
        events = encode_substream_head(SubstreamKind.EVENTS, 2, 0)
        peer.open(events, packed_event(b"nonsense"), packed_event(BOMB), packed_event(GOOD), encode_sync(1))
        await until(lambda: heard)
        assert heard == ["a" * 5_000]
        assert subscription.dropped == {"undecodable": 2}
        leaving = client.session.loop.create_task(subscription.unsubscribe())
        await peer.called(2)
        peer.control.send(response(2, b"null"))
        await leaving


async def test_an_unknown_codec_is_told_without_the_mark_of_compression() -> None:
    url = memory_url()
    async with server(url):
        peer = await dialled(url, raw_setup(codecs=("json", "rare"), compression=("deflate",)))
        peer.control.send(packed_call(0, GOOD, codec=2))
        (answer,) = await peer.answered()
        code, _, details, not_processed, _, _ = decode_error(answer.body[8:], Limits())
        assert (code, not_processed) == (StatusCode.UNIMPLEMENTED, True)
        assert details == [("echostream.UnknownCodec", b"2")]


async def test_a_codec_that_was_never_listed_ends_the_session_compressed_or_not() -> None:
    url = memory_url()
    async with server(url):
        peer = await dialled(url, setup(), packed_call(0, GOOD, codec=9))
        assert await peer.close_code() == CloseCode.PROTOCOL


# What we send ourselves.


async def test_nothing_is_compressed_before_the_peers_setup_is_here() -> None:
    text = "a" * 1_500
    async with client_by_hand(compression=[Deflate()], reconnect=False) as (client, peer):
        early = client.session.loop.create_task(client.request("echo", text))
        (frame,) = await peer.called()
        assert frame.flags == NAMED
        peer.control.send(setup())
        await client.session.wait_for_peer(float("inf"))
        late = client.session.loop.create_task(client.request("echo", text))
        frame = (await peer.called(2))[1]
        assert frame.flags == COMPRESSED
        assert zlib.decompress(frame.body[12:]) == b'"%s"' % text.encode()
        peer.control.send(response(0, b"1"), packed_response(2, zlib.compress(b"2" * 10)))
        assert (await early, await late) == (1, 2222222222)


@pytest.mark.parametrize("theirs", [("b", "a"), ("a", "b"), ("c", "b", "a")])
async def test_each_end_compresses_with_its_own_first_that_the_peer_lists(theirs: tuple[str, ...]) -> None:
    """The two differ in their levels only, so what is read shows which one was asked."""

    class Marked(Deflate):
        def compress(self, data: Any) -> bytes:
            return self.name.encode() + zlib.compress(data)

        def decompress(self, data: Any, max_bytes: int) -> bytes:
            assert bytes(data[:1]) == self.name.encode()
            return super().decompress(data[1:], max_bytes)

    url = memory_url()
    async with server(url, compression=[Marked("a"), Marked("b")]):
        peer: RawPeer = await dialled(url, setup(*theirs))
        first = next(name for name in theirs if name in "ab").encode()
        peer.control.send(packed_call(0, first + GOOD))
        (answer,) = await peer.answered()
        assert (answer.kind, answer.flags) == (RESPONSE, COMPRESSED)
        assert answer.body[8:9] == b"a"


async def test_a_compression_that_makes_it_no_shorter_is_not_believed() -> None:
    class Longer(Deflate):
        def compress(self, data: Any) -> bytes:
            return bytes(data) + b"!"

    url = memory_url()
    async with server(url, compression=[Longer()]):
        peer = await dialled(url, setup())
        text = b'"' + b"x" * 1_500 + b'"'
        peer.control.send(call(0, "echo", text))
        (answer,) = await peer.answered()
        assert (answer.flags, answer.body[8:]) == (0, text)


async def test_an_error_of_ours_is_never_compressed() -> None:
    url = memory_url()

    async with server(url, compression=[Deflate(min_bytes=1)]):
        peer = await dialled(url, setup())
        peer.control.send(call(0, "missing", b"1"))
        (answer,) = await peer.answered()
        assert status_of(answer)[0] is StatusCode.UNIMPLEMENTED
        assert answer.kind == RESPONSE
        assert CALL not in [frame.kind for frame in peer.control.frames()]


def test_the_bomb_is_one() -> None:
    assert len(BOMB) < 50_000 < LIMIT < 50_000_000
