"""The peer breaks the rules: the session ends with the right code and one line in the log, and the server goes on.

Driven at the level of the connection, in raw bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from echostream_core import CloseCode, Disconnected, RpcClient, RpcError, RpcServer, StatusCode
from echostream_core.wire.frames import (
    CALL,
    CALL_HEAD,
    FULL_NAME,
    IGNORABLE,
    NAMED,
    PREFIX,
    FrameType,
    SubstreamKind,
    encode_cancel,
    encode_goaway,
    encode_ping,
    encode_pong,
    encode_substream_head,
)
from echostream_core.wire.limits import MAX_INTERNED
from echostream_core.wire.message import encode_call_head, encode_data_head
from tests.support.handlers import BASIC, Watched
from tests.support.pairs import leftovers, memory_url
from tests.support.raw_peer import RawPeer, call, client_by_hand, dialled, raw_setup, response
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)

PROTOCOL, LIMIT, TIMEOUT = CloseCode.PROTOCOL, CloseCode.LIMIT, CloseCode.TIMEOUT
ADD = b'{"a":1,"b":2}'


@asynccontextmanager
async def served(watched: Watched | None = None, **limits: float) -> AsyncIterator[RpcServer]:
    """A server that must still be in order at the end: it serves an honest client and has nothing left over."""
    watched = watched or Watched()
    url = memory_url()
    async with (
        RpcServer(url, *BASIC, watched, limits=limits, drain_timeout=0) as server,
        RpcClient.connect(url) as honest,
    ):
        assert await honest.request("add", {"a": 1, "b": 2}) == 3
        yield server
        assert await honest.request("add", {"a": 1, "b": 2}) == 3
        await until(lambda: len(server._sessions) == 1)
        (session,) = server.sessions
        await until(lambda: not leftovers(session))
    await until(lambda: not other_tasks())


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def ended(peer: RawPeer, code: CloseCode, caplog: pytest.LogCaptureFixture, text: str = "") -> None:
    """The other side must end the session with ``code`` and say why, once, in its log and to us."""
    assert await peer.close_code() == code
    (complaint,) = complaints(caplog)
    assert text in complaint
    error = peer.closed.result()
    assert error is not None
    assert text in str(error)


def frame(kind: int, body: bytes = b"", flags: int = 0, aux: int = 0) -> bytes:
    return PREFIX.pack(kind, flags, aux, len(body)) + body


def interned(number: int, method_id: int, name: bytes = b"echo") -> bytes:
    """A call that interns ``name`` as ``method_id``."""
    return (
        CALL_HEAD.pack(CALL, NAMED, 0, 14 + len(name), number, 0, method_id, 1, 2) + bytes((len(name),)) + name + b"1"
    )


def by_id(number: int, method_id: int) -> bytes:
    return CALL_HEAD.pack(CALL, 0, 0, 13, number, 0, method_id, 1, 2) + b"1"


# SETUP


async def test_no_setup_in_time(caplog: pytest.LogCaptureFixture) -> None:
    async with served(setup_timeout_s=2.0) as server:
        peer = await dialled(server.addresses[0])
        await ended(peer, TIMEOUT, caplog, "no SETUP within setup_timeout_s (2.0 s)")
        assert asyncio.get_running_loop().time() == pytest.approx(2.0, abs=0.1)


async def test_half_a_setup_is_none(caplog: pytest.LogCaptureFixture) -> None:
    async with served(setup_timeout_s=2.0) as server:
        peer = await dialled(server.addresses[0], raw_setup()[:-1])
        await ended(peer, TIMEOUT, caplog, "no SETUP")


async def test_a_setup_byte_by_byte_is_one() -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0])
        peer.begin()
        for byte in raw_setup() + call(0, "add", ADD):
            peer.control.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await peer.answered())[0].body[8:] == b"3"
        peer.connection.close(0, "")


async def test_too_many_sessions_without_setup_from_one_address(caplog: pytest.LogCaptureFixture) -> None:
    async with served(setup_timeout_s=5.0, max_unfinished_setups_per_address=3) as server:
        peers = [await dialled(server.addresses[0]) for _ in range(5)]
        await settle()
        assert [peer.closed.done() for peer in peers] == [False] * 3 + [True] * 2
        assert sum("too many sessions without SETUP" in text for text in complaints(caplog)) == 2
        for peer in peers[:3]:
            assert await peer.close_code() == TIMEOUT
        again = await dialled(server.addresses[0], raw_setup())
        await until(again.replied_setup)
        again.connection.close(0, "")


FIRST = {
    "a call": (call(0), PROTOCOL, "the first frame must be SETUP"),
    "a ping": (encode_ping(1), PROTOCOL, "the first frame must be SETUP"),
    "an ignorable frame": (frame(0x7A, b"", IGNORABLE), PROTOCOL, "the first frame must be SETUP"),
    "zeros": (bytes(10_000), PROTOCOL, "the first frame must be SETUP"),
    "a SETUP that is too long": (frame(FrameType.SETUP, bytes(20_000)), LIMIT, "max_setup_bytes"),
    "an endless SETUP": (PREFIX.pack(FrameType.SETUP, 0, 0, 0xFFFF_FFFF), LIMIT, "max_setup_bytes"),
    "an empty SETUP": (frame(FrameType.SETUP), PROTOCOL, "json"),
    "a SETUP of nonsense": (frame(FrameType.SETUP, b"\xff" * 50), PROTOCOL, "SETUP"),
}


@pytest.mark.parametrize(("first", "code", "text"), FIRST.values(), ids=FIRST)
async def test_a_wrong_first_frame(first: bytes, code: CloseCode, text: str, caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], first)
        await ended(peer, code, caplog, text)


HEADS = {
    "an unknown kind": b"\x63\x00\x00\x00\x00\x00\x00\x00",
    "reserved bytes": b"\x01\x00\x01\x00\x00\x00\x00\x00",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_a_wrong_head_of_a_substream(head: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        peer.open(head, b"whatever")
        await ended(peer, PROTOCOL, caplog, "substream")


async def test_a_head_that_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], raw_setup())
        peer.open(b"\x02\x00\x00", end=True)
        await ended(peer, PROTOCOL, caplog, "before its head was complete")


async def test_a_substream_that_is_reset_before_its_head_is_forgotten() -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], raw_setup(), call(0, "add", ADD))
        for part in (b"", b"\x02\x00", encode_substream_head(SubstreamKind.CALL, 2, 2)):
            raw = peer.open(part)
            await settle(3)
            raw.substream.reset(7)
            raw.substream.stop(7)
        await settle()
        assert not peer.closed.done()
        peer.connection.close(0, "")


# The control substream, and the same at a client


BEHIND = {
    "a second SETUP": (raw_setup(), PROTOCOL, "a second SETUP"),
    "a call number that is in use": (call(0, "watched.wait", b"null") * 2, PROTOCOL, "in use"),
    "a call number of the wrong parity": (call(1), PROTOCOL, "wrong parity"),
    "a response to no call": (response(1), PROTOCOL, "which is not open"),
    "a response to the peer's own call": (response(0), PROTOCOL, "which is not open"),
    "a method id that was never interned": (by_id(0, 0), PROTOCOL, "CALL names method 0"),
    "a gap in the interned ids": (interned(0, 1), PROTOCOL, "the next id is 0"),
    "an id that is interned twice": (interned(0, 0) + interned(2, 0, b"add"), PROTOCOL, "the next id is 1"),
    "a name that is empty": (interned(0, 0, b""), PROTOCOL, "name is empty"),
    "a name that is no UTF-8": (interned(0, 0, b"\xff"), PROTOCOL, "not UTF-8"),
    "metadata that runs over": (
        CALL_HEAD.pack(CALL, 0, 500, 13, 0, 0, FULL_NAME, 1, 2) + b"1",
        PROTOCOL,
        "metadata runs over",
    ),
    "metadata of nonsense": (
        encode_call_head(0, 0, b"echo", FULL_NAME, 1, 2, b"\x05nonsense", 1) + b"1",
        PROTOCOL,
        "metadata",
    ),
    "a codec that was never listed": (
        encode_call_head(0, 0, b"echo", FULL_NAME, 9, 2, b"", 1) + b"1",
        PROTOCOL,
        "codec id 9",
    ),
    "a frame that is too long": (frame(CALL, bytes(200_000)), LIMIT, "travel in-line"),
    "a frame of 4 GB": (PREFIX.pack(CALL, 0, 0, 0xFFFF_FFFF), LIMIT, "travel in-line"),
    "an unknown frame": (frame(0x6F), PROTOCOL, "unknown frame type 0x6f"),
    "DATA on the control substream": (encode_data_head(0, 1) + b"x", PROTOCOL, "unknown frame type 0x0b"),
    "a ping that is cut off": (frame(FrameType.PING, b"1"), PROTOCOL, "PING of 1 bytes"),
    "a goaway that is cut off": (frame(FrameType.GOAWAY, b"1"), PROTOCOL, "GOAWAY of 1 bytes"),
    "a call that is cut off": (frame(CALL, b"1"), PROTOCOL, "CALL of 1 bytes"),
    "a response that is cut off": (frame(FrameType.RESPONSE, b"1"), PROTOCOL, "RESPONSE of 1 bytes"),
}


@pytest.mark.parametrize(("frames", "code", "text"), BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("together", [True, False], ids=["in one write", "later"])
async def test_a_wrong_frame_behind_setup(
    frames: bytes, code: CloseCode, text: str, together: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as server:
        if together:
            peer = await dialled(server.addresses[0], raw_setup() + frames)
        else:
            peer = await dialled(server.addresses[0], raw_setup())
            await until(peer.replied_setup)
            for position in range(0, len(frames), 7):
                peer.control.send(frames[position : position + 7])
        await ended(peer, code, caplog, text)


CLIENT_TOO = [
    "a second SETUP",
    "a method id that was never interned",
    "a gap in the interned ids",
    "a frame that is too long",
    "an unknown frame",
    "a ping that is cut off",
    "metadata that runs over",
]


@pytest.mark.parametrize("name", CLIENT_TOO)
async def test_a_server_that_breaks_the_rules_ends_every_call_of_its_client(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames, code, text = BEHIND[name]
    async with client_by_hand() as (client, peer):
        calls = [asyncio.ensure_future(client.request("x", timeout=None)) for _ in range(3)]
        calls.append(asyncio.ensure_future(client.request("x", "x" * 100_000, timeout=None)))
        await peer.called(3)
        peer.control.send(raw_setup(), frames)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, Disconnected)
            assert text in str(result)
        await ended(peer, code, caplog, text)
        assert leftovers(client.session) == {}


@pytest.mark.parametrize("name", FIRST)
async def test_a_server_with_a_wrong_first_frame_ends_every_call_of_its_client(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, code, text = FIRST[name]
    async with client_by_hand() as (client, peer):
        calling = asyncio.ensure_future(client.request("x", timeout=None))
        await peer.called()
        peer.control.send(first)
        with pytest.raises(Disconnected):
            await calling
        await ended(peer, code, caplog, text)


async def test_a_server_that_never_sends_its_setup_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async with client_by_hand(limits={"setup_timeout_s": 3.0}) as (client, peer):
        with pytest.raises(Disconnected, match="no SETUP within"):
            await client.request("x", timeout=None)
        await ended(peer, TIMEOUT, caplog, "no SETUP within setup_timeout_s (3.0 s)")


async def test_the_names_of_a_peer_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async with served(max_concurrent_calls=4_096) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        for number in range(MAX_INTERNED):
            peer.control.send(interned(2 * number, number, b"echo"))
        await peer.answered(MAX_INTERNED)
        assert not peer.closed.done()
        peer.control.send(interned(2 * MAX_INTERNED, MAX_INTERNED, b"echo"))
        await ended(peer, LIMIT, caplog, f"more than {MAX_INTERNED} names")


async def end(peer: RawPeer) -> None:
    peer.control.send(end=True)


async def reset(peer: RawPeer) -> None:
    peer.control.substream.reset(7)


async def stop(peer: RawPeer) -> None:
    peer.control.substream.stop(7)


@pytest.mark.parametrize("action", [end, reset, stop])
async def test_the_control_substream_ends(
    action: Callable[[RawPeer], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched()
    async with served(watched) as server:
        peer = await dialled(server.addresses[0], raw_setup(), call(0, "watched.wait", b"null"))
        await watched.reached(begun=1)
        await action(peer)
        await ended(peer, PROTOCOL, caplog, "control substream ended")
        await watched.reached(cancelled=1)


async def test_a_second_control_substream(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        peer.open(encode_substream_head(SubstreamKind.CONTROL, 0, 0), raw_setup())
        await ended(peer, PROTOCOL, caplog, "second control substream")


async def test_a_control_substream_of_the_listener(caplog: pytest.LogCaptureFixture) -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        peer.open(encode_substream_head(SubstreamKind.CONTROL, 0, 0), raw_setup())
        await ended(peer, PROTOCOL, caplog, "control substream")
        with pytest.raises(Disconnected):
            await client.request("x")


# Substreams of calls


def own(number: int, payload: bytes = ADD, *, method: bytes = b"add", method_id: int = FULL_NAME) -> bytes:
    return encode_call_head(number, 0, method, method_id, 1, 2, b"", len(payload)) + payload


GARBAGE = {
    "an unknown frame": (frame(0x6F, b"x"), PROTOCOL, "0x6f is not allowed"),
    "a ping": (encode_ping(1), PROTOCOL, "not allowed"),
    "a response": (response(0), PROTOCOL, "not allowed"),
    "the number of another call": (own(2), PROTOCOL, "carries call 2"),
    "a call that is cut off": (frame(CALL, b"short"), PROTOCOL, "cut off"),
    "an interned name": (by_id(0, 0), PROTOCOL, "name in full"),
    "a name that runs over": (
        CALL_HEAD.pack(CALL, NAMED, 0, 13, 0, 0, FULL_NAME, 1, 2) + b"\xff",
        PROTOCOL,
        "runs over the frame's end",
    ),
    "an ignorable frame that is too long": (
        PREFIX.pack(0x7A, IGNORABLE, 0, 100_000),
        LIMIT,
        "ignorable frame of 100000 bytes",
    ),
}


@pytest.mark.parametrize(("garbage", "code", "text"), GARBAGE.values(), ids=GARBAGE)
async def test_garbage_on_the_substream_of_a_call(
    garbage: bytes, code: CloseCode, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        peer.open_call(0, garbage)
        await ended(peer, code, caplog, text)


async def test_a_call_that_ends_before_it_is_complete(caplog: pytest.LogCaptureFixture) -> None:
    for cut in (0, 4, 12, len(own(0)) - 1):
        caplog.clear()
        async with served() as server:
            peer = await dialled(server.addresses[0], raw_setup())
            await until(peer.replied_setup)
            peer.open_call(0, own(0)[:cut], end=True)
            await ended(peer, PROTOCOL, caplog, "ended before its message was complete")


async def test_a_call_substream_of_the_wrong_parity(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        peer.open_call(1, own(1))
        await ended(peer, PROTOCOL, caplog, "wrong parity")


async def test_a_number_that_is_in_use_in_line_and_on_a_substream(caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched()
    async with served(watched) as server:
        peer = await dialled(server.addresses[0], raw_setup(), call(0, "watched.wait", b"null"))
        await watched.reached(begun=1)
        peer.open_call(0, own(0), end=True)
        await ended(peer, PROTOCOL, caplog, "in use")


async def test_bytes_behind_a_complete_call_change_nothing() -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        raw = peer.open_call(0, own(0), b"and more " * 10_000, end=True)
        await until(raw.frames)
        assert raw.frames()[0].body[8:] == b"3"
        assert len(raw.frames()) == 1
        peer.connection.close(0, "")


async def test_a_response_substream_that_nobody_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        peer.open(encode_substream_head(SubstreamKind.RESPONSE, 2, 1), response(1))
        await ended(peer, PROTOCOL, caplog, "which is not open")


async def test_a_response_on_a_substream_with_another_number(caplog: pytest.LogCaptureFixture) -> None:
    async with client_by_hand() as (client, peer):
        peer.control.send(raw_setup())
        calling = asyncio.ensure_future(client.request("x", timeout=None))
        await peer.called()
        peer.open(encode_substream_head(SubstreamKind.RESPONSE, 2, 0), response(2))
        with pytest.raises(RpcError):
            await calling
        await ended(peer, PROTOCOL, caplog, "carries response 2")


# Too much


async def test_calls_over_the_limit_are_refused_and_twice_the_limit_ends_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched()
    async with served(watched, max_concurrent_calls=128) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        number = 0
        for _ in range(128):
            peer.control.send(call(number, "watched.wait", b"null"))
            number += 2
        await watched.reached(begun=128)
        for _ in range(50):
            peer.control.send(call(number, "watched.wait", b"null"))
            number += 2
        refused = await peer.answered(50)
        for answer in refused:
            assert int.from_bytes(answer.body[8:10], "little") == StatusCode.RESOURCE_EXHAUSTED
            assert answer.body[10] & 1, "not processed"
        assert watched.begun == 128
        assert not peer.closed.done()
        peer.control.send(b"".join(call(number + 2 * more, "watched.wait", b"null") for more in range(300)))
        await ended(peer, LIMIT, caplog, "more than 256 calls open")
        await watched.reached(cancelled=128)


FLOODS = {
    "PING": encode_ping,
    "PONG": encode_pong,
    "CANCEL": encode_cancel,
    "GOAWAY": lambda _: encode_goaway(None, 0, ""),
    "ignorable": lambda _: frame(0x7A, b"", IGNORABLE),
}


@pytest.mark.parametrize("make", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_control_frames_ends_the_session(
    make: Callable[[int], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async with served(max_control_frames_per_s=100) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        for number in range(90):
            peer.control.send(make(number))
        await settle()
        assert not peer.closed.done()
        for number in range(30):
            peer.control.send(make(number))
        await ended(peer, LIMIT, caplog, "max_control_frames_per_s (100)")


@pytest.mark.parametrize("make", [FLOODS["PING"], FLOODS["ignorable"]], ids=["PING", "ignorable"])
async def test_as_many_control_frames_in_more_time_are_fine(make: Callable[[int], bytes]) -> None:
    async with served(max_control_frames_per_s=100) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        for number in range(500):
            peer.control.send(make(number))
            await asyncio.sleep(0.02)
        assert not peer.closed.done()
        peer.connection.close(0, "")


async def test_a_flood_of_resets_ends_the_session(caplog: pytest.LogCaptureFixture) -> None:
    """Open, reset, open, reset: cheap for the peer, work for us (CVE-2023-44487)."""
    async with served(max_resets_per_s=100) as server:
        peer = await dialled(server.addresses[0], raw_setup())
        await until(peer.replied_setup)
        opened = 0
        while not peer.closed.done() and opened < 400:
            raw = peer.open_call(2 * opened, own(2 * opened)[:-1])
            opened += 1
            await settle(2)
            raw.substream.reset(7)
            raw.substream.stop(7)
        await ended(peer, LIMIT, caplog, "max_resets_per_s (100)")
