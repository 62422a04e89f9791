"""Peers that break the rules: bounded, ended with the right error, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from echostream_quic.frames import varint
from echostream_webtransport.capsules import close_capsule
from echostream_webtransport.codes import H3
from echostream_webtransport.dialect import UNI_STREAMS, WebTransport
from echostream_webtransport.records import record
from echostream_webtransport.settings import encode_settings, local_settings
from plugins.quic.tests.recording import LogLines, Recorder
from plugins.webtransport.tests.raw import CONNECT, SETTINGS, Raw, headers, raw_client
from plugins.webtransport.tests.sessions import Server, dial, end, serve

LOOPS = {"asyncio": asyncio.SelectorEventLoop}
"""The foreign end runs on the same loop; ours is on both in the other modules."""

GET = headers((":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/"))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server on which one good session goes on, whatever the others do."""
    async with AsyncExitStack() as stack:
        server = await serve(stack, echo=True)
        recorder = Recorder(await dial(server.url)).start()
        stack.push_async_callback(end, recorder)
        good = recorder.open()
        good.write(b"before ")
        await good.received(7)
        yield server
        good.write(b"after")
        assert await good.received(12) == b"before after"
        again = Recorder(await dial(server.url)).start()
        await end(again)


@pytest.fixture
async def raw(server: Server) -> AsyncIterator[Raw]:
    async with raw_client(server.address) as raw:
        yield raw


CONTROL = [
    ("nothing but noise", varint(0) + b"\xff" * 40, H3.MISSING_SETTINGS),
    ("no settings", varint(0) + record(7, varint(0)), H3.MISSING_SETTINGS),
    ("grease before settings", varint(0) + record(0x21, b""), H3.MISSING_SETTINGS),
    ("settings twice", SETTINGS + record(4), H3.FRAME_UNEXPECTED),
    ("broken settings", varint(0) + record(4, b"\xff"), H3.FRAME_ERROR),
    ("a setting of HTTP/2", varint(0) + record(4, varint(2) + varint(1)), H3.SETTINGS_ERROR),
    ("settings without an end", varint(0) + varint(4) + varint(1 << 40), H3.EXCESSIVE_LOAD),
    ("settings that are too large", varint(0) + varint(4) + varint(4_097), H3.EXCESSIVE_LOAD),
    ("data", SETTINGS + record(0, b"x"), H3.FRAME_UNEXPECTED),
    ("headers", SETTINGS + CONNECT, H3.FRAME_UNEXPECTED),
    ("a push promise", SETTINGS + record(5, b"x"), H3.FRAME_UNEXPECTED),
    ("a frame of HTTP/2", SETTINGS + record(6, b"x"), H3.FRAME_UNEXPECTED),
    ("cancel push", SETTINGS + record(3, varint(1)), H3.ID_ERROR),
    ("goaway without a number", SETTINGS + record(7), H3.FRAME_ERROR),
    ("goaway with more than that", SETTINGS + record(7, varint(1) + b"x"), H3.FRAME_ERROR),
    ("goaway that grows", SETTINGS + record(7, varint(4)) + record(7, varint(8)), H3.ID_ERROR),
]


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in CONTROL], ids=[case[0] for case in CONTROL])
async def test_a_control_stream_that_breaks_the_rules(data: bytes, code: H3, raw: Raw) -> None:
    raw.open(data, one_way=True)
    assert await raw.end() == code


async def test_what_a_peer_did_wrong_is_logged_once_with_its_address(raw: Raw, log: LogLines) -> None:
    raw.open(varint(0) + record(7, varint(0)), one_way=True)
    await raw.end()
    await log.wait()
    (line,) = log.lines
    assert "the handshake of wt://127.0.0.1:" in line
    assert "failed: H3_MISSING_SETTINGS (0x10a): the control stream does not begin with SETTINGS" in line


async def test_settings_as_large_as_may_be_are_read(server: Server, raw: Raw) -> None:
    ours = encode_settings(local_settings(16_384))
    more = b"".join(varint(0x4000_0000 + number) + varint(0) for number in range(1_000))
    value = (ours + more)[: 4_096 - (4_096 - len(ours)) % 9]
    raw.open(varint(0) + record(4, value), one_way=True)
    raw.open(CONNECT)
    await server.session(1)
    assert 4_087 < len(value) <= 4_096


async def test_headers_as_large_as_may_be_are_read(server: Server, raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    stream_id = raw.open(GET + record(1, bytes(16_384)), end=True)  # as trailers, which nobody reads
    await raw.until(lambda: b"WebTransport" in raw.data.get(stream_id, b""))


async def test_a_control_stream_may_hold_what_nobody_knows(raw: Raw) -> None:
    control = raw.open(SETTINGS + record(0x21, b"?" * 1_000), one_way=True)
    raw.write(control, record(7, varint(8)) + record(7, varint(4)))
    raw.write(control, record(13, varint(9)) + varint(0x5F) + varint(1 << 50))
    for _ in range(20):
        raw.write(control, bytes(10_000))
    stream_id = raw.open(GET, end=True)
    await raw.until(lambda: b"WebTransport" in raw.data.get(stream_id, b""))


@pytest.mark.parametrize("kind", [0, 2, 3])
@pytest.mark.parametrize("how", ["end", "reset", "twice"])
async def test_critical_streams_are_there_once_and_do_not_end(kind: int, how: str, raw: Raw) -> None:
    stream_id = raw.open(SETTINGS if kind == 0 else varint(kind), one_way=True)
    if how == "end":
        raw.write(stream_id, b"", end=True)
    elif how == "reset":
        raw._quic.reset_stream(stream_id, 0)
        raw.transmit()
    else:
        raw.open(varint(kind), one_way=True)
    assert await raw.end() == (H3.STREAM_CREATION_ERROR if how == "twice" else H3.CLOSED_CRITICAL_STREAM)


async def test_our_control_stream_has_to_be_read(raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    await raw.until(lambda: 3 in raw.data)
    raw._quic.stop_stream(3, 0)
    raw.transmit()
    assert await raw.end() == H3.CLOSED_CRITICAL_STREAM


async def test_a_push_and_a_dynamic_table_are_not_for_clients(server: Server) -> None:
    for data, code in (
        (varint(1), H3.STREAM_CREATION_ERROR),
        (varint(2) + b"\x3f\xe1\x1f", H3.QPACK_ENCODER_STREAM_ERROR),
        (varint(3) + b"\x81", H3.QPACK_DECODER_STREAM_ERROR),
    ):
        async with raw_client(server.address) as raw:
            raw.open(data, one_way=True)
            assert await raw.end() == code


REQUESTS = [
    ("data first", record(0, b"x"), H3.FRAME_UNEXPECTED),
    ("settings", record(4), H3.FRAME_UNEXPECTED),
    ("a frame of HTTP/2", record(2, b"x"), H3.FRAME_UNEXPECTED),
    ("a push promise", record(5, b"x"), H3.FRAME_UNEXPECTED),
    ("endless headers", varint(1) + varint(1 << 40), H3.EXCESSIVE_LOAD),
    ("headers one byte too long", varint(1) + varint(16_385), H3.EXCESSIVE_LOAD),
    ("headers that are noise", record(1, b"\xff" * 10), H3.QPACK_DECOMPRESSION_FAILED),
    ("a session that cannot be", varint(0x41) + varint(2), H3.ID_ERROR),
]


@pytest.mark.parametrize(("data", "code"), [case[1:] for case in REQUESTS], ids=[case[0] for case in REQUESTS])
async def test_a_request_that_breaks_the_rules(data: bytes, code: H3, raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    raw.open(data)
    assert await raw.end() == code


async def test_a_malformed_request_harms_itself_only(raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    bad = raw.open(headers((":method", "GET"), ("x", "y")), end=True)
    none = raw.open(record(0x21, b"grease"), end=True)
    good = raw.open(GET, end=True)
    await raw.until(lambda: good in raw.data and bad in raw.resets and none in raw.resets)
    assert raw.resets[bad] == H3.MESSAGE_ERROR
    assert raw.resets[none] == H3.REQUEST_INCOMPLETE


async def test_a_request_cut_at_every_byte_is_answered(raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    stream_id = raw.open()
    for byte in record(0x21, b"grease") + GET:
        raw.write(stream_id, bytes([byte]))
        await asyncio.sleep(0)
    raw.write(stream_id, b"", end=True)
    await raw.until(lambda: b"WebTransport" in raw.data.get(stream_id, b""))


async def test_settings_and_the_request_may_come_in_any_order_and_pieces(server: Server, raw: Raw) -> None:
    request = raw.open(CONNECT)
    stream = raw.open()
    for byte in varint(0x41) + varint(request) + b"control":
        raw.write(stream, bytes([byte]))
        await asyncio.sleep(0)
    control = raw.open(one_way=True)
    for byte in SETTINGS:
        raw.write(control, bytes([byte]))
        await asyncio.sleep(0)
    session = await server.session(1)
    assert await (await session.substream(0)).received(7) == b"control"


@pytest.mark.parametrize("how", ["end", "reset", "capsule"])
async def test_a_request_given_up_before_the_settings_came_opens_no_session_that_lasts(
    how: str, server: Server, raw: Raw
) -> None:
    request = raw.open(CONNECT, end=how == "end")
    if how == "reset":
        raw._quic.reset_stream(request, H3.REQUEST_CANCELLED)
        raw.transmit()
    elif how == "capsule":
        raw.write(request, record(0, close_capsule(7, "never mind")))
    await raw.until(lambda: 3 in raw.data)
    raw.open(SETTINGS, one_way=True)
    assert await raw.end() == H3.NO_ERROR
    for session in server.accepted[1:]:
        assert getattr(await session.ended(), "close_code", None) == (7 if how == "capsule" else None)


async def test_a_path_is_taken_as_it_stands_and_none_is_too_odd_to_be_answered(
    server: Server, raw: Raw, log: LogLines
) -> None:
    lines = ((":method", "CONNECT"), (":protocol", "webtransport"), (":scheme", "https"), (":authority", "x"))

    def refused(asked: int) -> bool:
        return b"nobody listens at this path" in raw.data.get(asked, b"")

    raw.open(SETTINGS, one_way=True)
    for path in ("//[", "//elsewhere/session", "http://[/session", "/session#part", "/ses\tsion", "*"):
        asked = raw.open(headers(*lines, (":path", path)))
        await raw.until(partial(refused, asked))
    raw.open(CONNECT)
    await server.session(1)
    assert log.lines == []


async def test_streams_may_come_before_their_request_up_to_a_number(server: Server, raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    request = raw._quic.get_next_available_stream_id()
    raw._quic._get_or_create_stream_for_send(request)  # its number is taken, its bytes come last
    streams = [raw.open(varint(0x41) + varint(request) + b"%04d" % number) for number in range(200)]
    # Which of them are refused is the network's business: 64 are held.
    await raw.until(lambda: len(raw.resets) == len(raw.stops) == 200 - 64)
    assert set(raw.resets.values()) == set(raw.stops.values()) == {H3.WEBTRANSPORT_BUFFERED_STREAM_REJECTED}
    raw.write(request, CONNECT)
    session = await server.session(1)
    got = {await (await session.substream(number)).received(4) for number in range(64)}
    assert got == {b"%04d" % number for number, stream_id in enumerate(streams) if stream_id not in raw.resets}
    assert session.accepted[0].substream.outgoing.priority == 0


async def test_streams_of_a_session_that_never_was_are_refused(server: Server, raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    early = raw.open(varint(0x41) + varint(400) + b"x")
    request = raw.open(CONNECT)
    session = await server.session(1)
    late = raw.open(varint(0x41) + varint(404) + b"x")
    await raw.until(lambda: {early, late} <= set(raw.resets))
    good = raw.open(varint(0x41) + varint(request) + b"good")
    assert await (await session.substream(0)).received(4) == b"good"
    assert good not in raw.resets


@pytest.mark.parametrize("prefix", [b"", b"\x40", b"\x40\x41", b"\x40\x41\x40"])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_stream_that_ends_before_it_has_said_what_it_is_is_forgotten(
    prefix: bytes, how: str, server: Server, raw: Raw
) -> None:
    raw.open(SETTINGS, one_way=True)
    request = raw.open(CONNECT)
    session = await server.session(1)
    stream_id = raw.open(prefix)
    if how == "end":
        raw.write(stream_id, b"", end=True)
    else:
        raw._quic.reset_stream(stream_id, 0)
        raw.transmit()
    raw.open(varint(0x41) + varint(request) + b"control")
    assert await (await session.substream(0)).received(7) == b"control"
    await raw.until(lambda: stream_id in raw.resets)
    while stream_id in session.connection.engine.substreams.by_id:  # until the reset is acknowledged
        await asyncio.sleep(0.001)


async def test_unidirectional_streams_are_counted(raw: Raw) -> None:
    raw._quic._remote_max_streams_uni = 1_000
    for _ in range(UNI_STREAMS + 1):
        raw.open(b"\x40", one_way=True)  # half a number
    assert await raw.end() == 0x04  # STREAM_LIMIT_ERROR


async def test_an_endless_capsule_and_one_that_is_too_long(server: Server, raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    request = raw.open(CONNECT)
    session = await server.session(1)
    raw.write(request, record(0, varint(0x77) + varint(1 << 60)))
    for _ in range(50):
        raw.write(request, record(0, bytes(20_000)))
    while len(raw._quic._streams[request].sender._pending):  # until all of it is sent
        await asyncio.sleep(0.005)
    dialect = session.connection.dialect
    assert isinstance(dialect, WebTransport)
    assert dialect._capsules._reader._buffer == b""
    assert not session.closed


async def test_a_close_capsule_that_is_too_long_ends_the_connection(server: Server, raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    request = raw.open(CONNECT)
    session = await server.session(1)
    raw.write(request, record(0, record(0x2843, bytes(1_029))))
    assert await raw.end() == H3.MESSAGE_ERROR
    assert "broke the rules of HTTP/3" in str(await session.ended())


async def test_a_close_capsule_as_long_as_may_be_is_read(server: Server, raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    request = raw.open(CONNECT)
    session = await server.session(1)
    raw.write(request, record(0, close_capsule(5, "r" * 1_024)))
    assert getattr(await session.ended(), "close_code", None) == 5


async def test_a_datagram_without_a_number_ends_the_connection(raw: Raw) -> None:
    raw.open(SETTINGS, one_way=True)
    raw._quic.send_datagram_frame(b"\xc0")
    raw.transmit()
    assert await raw.end() == H3.DATAGRAM_ERROR


async def test_noise_of_all_kinds_ends_connections_and_nothing_else(server: Server) -> None:
    dice = random.Random(5)
    for _ in range(12):
        async with raw_client(server.address) as raw:
            for _ in range(20):
                data = b"".join(
                    dice.choice([SETTINGS, GET, CONNECT, varint(0x41), varint(0x54), record(0x2843, b"1234")])
                    if dice.random() < 0.5
                    else dice.randbytes(dice.randrange(40))
                    for _ in range(4)
                )
                raw.open(data, one_way=dice.random() < 0.5, end=dice.random() < 0.3)
            await asyncio.sleep(0.01)
    assert all(not recorder.violations for recorder in server.accepted)
