"""aioquic's client, as it comes, against our listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from echostream_core.errors import ConnectionLost, EndOfStream
from echostream_webtransport.capsules import close_capsule
from echostream_webtransport.codes import H3, code_from_wire, code_to_wire
from echostream_webtransport.records import record
from plugins.webtransport.tests.sessions import Server, serve
from plugins.webtransport.tests.stock import Stock, stock_client

LOOPS = {"asyncio": asyncio.SelectorEventLoop}
"""The foreign end runs on the same loop; ours is on both in the other modules."""

PAYLOAD = bytes(range(256)) * 2_000


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        yield await serve(stack, echo=True)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Stock]:
    async with stock_client(server.address) as client:
        yield client


async def test_an_ordinary_get_is_answered_with_a_page_that_says_what_this_is(client: Stock) -> None:
    stream_id = client.request()
    assert await client.answer(stream_id) == 200
    await client.until(lambda: stream_id in client.ended)
    assert b"WebTransport" in client.bodies[stream_id]
    assert client.headers[stream_id][b"content-type"] == b"text/html; charset=utf-8"
    assert int(client.headers[stream_id][b"content-length"]) == len(client.bodies[stream_id])


async def test_head_is_answered_without_a_page(client: Stock) -> None:
    stream_id = client.request(method="HEAD", path="/anything")
    assert await client.answer(stream_id) == 200
    await client.until(lambda: stream_id in client.ended)
    assert not client.bodies[stream_id]


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "get"])
async def test_other_methods_are_not_allowed(method: str, client: Stock) -> None:
    assert await client.answer(client.request(method=method)) == 405


@pytest.mark.parametrize("protocol", ["websocket", None])
async def test_connect_for_anything_but_webtransport_is_not_implemented(protocol: str | None, client: Stock) -> None:
    lines = [(":protocol", protocol)] if protocol else []
    assert await client.answer(client.request(*lines, method="CONNECT", path="/session", end=False)) == 501


@pytest.mark.parametrize("path", ["/", "/other", "/session/", "/Session"])
async def test_a_path_at_which_nobody_listens_is_not_found(path: str, client: Stock) -> None:
    stream_id = client.request((":protocol", "webtransport"), method="CONNECT", path=path, end=False)
    assert await client.answer(stream_id) == 404
    await client.session()  # the connection is as good as before


@pytest.mark.parametrize("path", ["/session?user=1", "/s%65ssion"])
async def test_queries_are_left_aside_and_escapes_read(path: str, client: Stock) -> None:
    await client.session(path)


async def test_a_second_session_on_a_connection_is_refused_and_the_first_goes_on(client: Stock) -> None:
    session = await client.session()
    stream_id = client.request((":protocol", "webtransport"), method="CONNECT", path="/session", end=False)
    assert await client.answer(stream_id) == 429
    control = client.open(session, b"control")
    assert await client.received(control, 7) == b"control"


async def test_the_answer_says_the_draft_and_the_settings_name_all_of_them(client: Stock) -> None:
    session = await client.session()
    assert client.headers[session][b"sec-webtransport-http3-draft"] == b"draft02"
    settings = client.h3.received_settings
    assert settings is not None
    for key in (0x08, 0x33, 0xFFD277, 0x2B603742, 0xC671706A, 0x14E9CD29):
        assert settings[key] == 1, hex(key)
    assert settings[0x01] == settings[0x07] == 0


async def test_streams_of_both_sides_carry_bytes_both_ways(server: Server, client: Stock) -> None:
    session = await client.session()
    control = client.open(session, b"control")
    await client.received(control, 7)
    theirs = [client.open(session) for _ in range(20)]
    for stream_id in theirs:
        client.write(stream_id, PAYLOAD[: 40_000 + stream_id], end=True)
    for stream_id in theirs:
        assert await client.received(stream_id, 40_000 + stream_id) == PAYLOAD[: 40_000 + stream_id]
    far = await server.session()
    ours = far.open()
    ours.write(b"from the listener", end=True)
    await client.until(lambda: client.ended)
    (stream_id,) = client.ended
    assert client.data[stream_id] == b"from the listener"
    client.write(stream_id, PAYLOAD, end=True)
    assert await ours.ended() == PAYLOAD


async def test_the_first_stream_is_the_control_substream(server: Server, client: Stock) -> None:
    session = await client.session()
    client.request()  # an ordinary request between them does not matter
    control = client.open(session, b"one")
    client.open(session, b"two")
    await client.received(control, 3)
    far = await server.session()
    first, second = await far.substream(0), await far.substream(1)
    assert await first.received(3) == b"one"
    assert first.substream.outgoing.priority == 0
    assert second.substream.outgoing.priority == 2
    assert first.substream.stream is not None
    assert first.substream.stream.window.fixed


async def test_streams_that_arrive_before_the_first_wait_for_it(server: Server, client: Stock) -> None:
    session = await client.session()
    first = client.h3.create_webtransport_stream(session)
    held = client._quic._streams[first].sender
    prefix, held._buffer = bytes(held._buffer), bytearray()  # nothing of it is sent yet
    held._pending.shift()
    held._buffer_stop = 0
    second = client.open(session, b"second")
    client.request()
    far = await server.session()
    await client.until(lambda: any(stream_id > second for stream_id in client.headers))
    assert far.accepted == []
    client.write(first, prefix + b"first")
    assert await (await far.substream(0)).received(5) == b"first"
    assert await (await far.substream(1)).received(6) == b"second"


async def test_codes_of_resets_and_stops_are_mapped_both_ways(server: Server, client: Stock) -> None:
    session = await client.session()
    await client.received(client.open(session, b"control"), 7)
    far = await server.session()
    for number, code in enumerate((0, 29, 30, 0xFFFF_FFFF), start=1):
        stream_id = client.open(session, b"x")
        recorder = await far.substream(number)
        await client.received(stream_id, 1)
        recorder.reset(code)
        await client.until(lambda stream_id=stream_id: stream_id in client.resets)  # type: ignore[misc]
        assert client.resets[stream_id] == code_to_wire(code)
        recorder.stop(code)
        await client.until(lambda stream_id=stream_id: stream_id in client.stops)  # type: ignore[misc]
        assert client.stops[stream_id] == code_to_wire(code)
    stream_id = client.open(session, b"x")
    recorder = await far.substream(5)
    client._quic.reset_stream(stream_id, code_to_wire(1234))
    client._quic.stop_stream(stream_id, code_to_wire(0xFFFF_FFFE))
    client.transmit()
    await recorder.happens("reset")
    await recorder.happens("stop")
    assert (recorder.reset_code, recorder.stop_code) == (1234, 0xFFFF_FFFE)


@pytest.mark.parametrize("code", [H3.REQUEST_CANCELLED, H3.WEBTRANSPORT_SESSION_GONE, 0x77, 1 << 61])
async def test_codes_that_are_no_applications_become_the_nearest_of_ours(
    code: int, server: Server, client: Stock
) -> None:
    session = await client.session()
    await client.received(client.open(session, b"control"), 7)
    stream_id = client.open(session, b"x")
    recorder = await (await server.session()).substream(1)
    client._quic.reset_stream(stream_id, code)
    client.transmit()
    await recorder.happens("reset")
    assert recorder.reset_code == code_from_wire(code)


async def test_unidirectional_streams_are_refused_and_the_session_goes_on(client: Stock) -> None:
    session = await client.session()
    control = client.open(session, b"control")
    for _ in range(40):  # more than may be open at once: they are forgotten again
        stream_id = client.h3.create_webtransport_stream(session, is_unidirectional=True)
        client.write(stream_id, b"nobody reads this")
        await client.until(lambda stream_id=stream_id: stream_id in client.stops)  # type: ignore[misc]
        assert client.stops[stream_id] == code_to_wire(8)  # REFUSED
    assert await client.received(control, 7) == b"control"


async def test_datagrams_go_both_ways(server: Server, client: Stock) -> None:
    session = await client.session()
    far = await server.session()
    client.h3.send_datagram(session, b"ping")
    client.transmit()
    await far.until(lambda: far.datagrams)
    assert far.datagrams == [b"ping"]
    assert far.send_datagram(b"po", b"ng")
    await client.until(lambda: client.datagrams)
    assert client.datagrams == [b"pong"]


async def test_a_datagram_of_another_session_is_dropped_and_counted(server: Server, client: Stock) -> None:
    session = await client.session()
    far = await server.session()
    client.h3.send_datagram(session + 4, b"stray")
    client.h3.send_datagram(session, b"mine")
    client.transmit()
    await far.until(lambda: far.datagrams)
    assert far.datagrams == [b"mine"]
    assert far.connection.datagram_drops is not None
    assert far.connection.datagram_drops.early == 1


async def test_a_client_without_datagrams_gets_none(server: Server) -> None:
    class Plain(Stock):
        webtransport = False

    async with stock_client(server.address, kind=Plain) as client:
        await client.session()
        far = await server.session()
        assert far.connection.capabilities.datagrams == "none"
        assert far.connection.max_datagram_size() == 0


async def test_our_close_is_a_capsule_with_code_and_reason_and_then_the_connection_ends(
    server: Server, client: Stock
) -> None:
    session = await client.session()
    (await server.session()).close(0xFFFF_FFFF, "enough")
    await client.until(lambda: session in client.ended)
    assert bytes(client.bodies[session]) == close_capsule(0xFFFF_FFFF, "enough")
    client._quic.send_stream_data(session, b"", True)
    client.transmit()
    assert await client.end() == (H3.NO_ERROR, "")


async def test_a_client_that_does_not_answer_our_close_is_left_after_a_while(server: Server, client: Stock) -> None:
    await client.session()
    far = await server.session()
    far.close(3, "")
    assert await far.ended() is None
    assert await client.end() == (H3.NO_ERROR, "")


async def test_a_long_reason_is_cut_between_characters(server: Server, client: Stock) -> None:
    session = await client.session()
    (await server.session()).close(1, "ä" * 800)
    await client.until(lambda: session in client.ended)
    assert bytes(client.bodies[session]) == close_capsule(1, "ä" * 512)


async def test_the_clients_capsule_is_read_in_any_pieces(server: Server, client: Stock) -> None:
    session = await client.session()
    far = await server.session()
    grease = record(0x1F * 7 + 0x17, b"?" * 3_000) + record(0x78AE)
    for byte in grease[:20]:
        client.h3.send_data(session, bytes([byte]), end_stream=False)
    client.h3.send_data(session, grease[20:], end_stream=False)
    for byte in close_capsule(77, "so long"):
        client.h3.send_data(session, bytes([byte]), end_stream=False)
        client.transmit()
        await asyncio.sleep(0)
    error = await far.ended()
    assert isinstance(error, ConnectionLost)
    assert error.close_code == 77
    assert "so long" in str(error)
    assert (await client.end())[0] == H3.NO_ERROR


async def test_an_end_without_a_capsule_is_an_orderly_close(server: Server, client: Stock) -> None:
    session = await client.session()
    far = await server.session()
    client._quic.send_stream_data(session, b"", True)
    client.transmit()
    assert isinstance(await far.ended(), EndOfStream)


async def test_a_session_that_is_stopped_or_ends_within_a_capsule_is_lost(server: Server) -> None:
    for number, said in enumerate(("reset the session: H3_REQUEST_CANCELLED", "within a capsule")):
        async with stock_client(server.address) as client:
            session = await client.session()
            far = await server.session(number)
            if number:
                client.h3.send_data(session, close_capsule(1, "cut off")[:-1], end_stream=True)
            else:
                client._quic.stop_stream(session, H3.REQUEST_CANCELLED)
            client.transmit()
            error = await far.ended()
            assert isinstance(error, ConnectionLost)
            assert said in str(error)


async def test_a_session_that_is_reset_is_lost(server: Server, client: Stock) -> None:
    session = await client.session()
    far = await server.session()
    client._quic.reset_stream(session, H3.REQUEST_CANCELLED)
    client.transmit()
    error = await far.ended()
    assert isinstance(error, ConnectionLost)
    assert "reset the session: H3_REQUEST_CANCELLED" in str(error)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (H3.NO_ERROR, EndOfStream, "code 0"),
        (H3.INTERNAL_ERROR, ConnectionLost, "H3_INTERNAL_ERROR"),
        (code_to_wire(9), ConnectionLost, "code 9"),
    ],
)
async def test_a_connection_that_is_closed_under_the_session_says_why(
    code: int, kind: type[Exception], said: str, server: Server, client: Stock
) -> None:
    await client.session()
    far = await server.session()
    client.close(error_code=code, reason_phrase="the reason")
    error = await far.ended()
    assert type(error) is kind
    assert said in str(error)
    assert "the reason" in str(error)
