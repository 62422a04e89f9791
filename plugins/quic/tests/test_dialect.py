"""What a guest in the QUIC plugin gets: streams of one direction, prefixes, codes, and a port that is shared."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.tls_options import TlsOptions
from echostream_core.transport import Connection, Pipe
from echostream_core.types import Priority, Url
from echostream_quic._errors import Ending
from echostream_quic.connection import QuicConnection
from echostream_quic.dialect import Dialect
from echostream_quic.dialer import dial
from echostream_quic.listener import listen
from echostream_quic.options import QuicOptions
from echostream_quic.outgoing import Outgoing
from echostream_quic.tls import dialer_configuration, listener_configuration
from plugins.quic.tests.recording import DEVELOPMENT, Recorder, options
from plugins.quic.tests.virtual_link import VirtualLink

PREFIX = b"<guest>"


class Guest(Dialect):
    """A protocol of its own around EchoStream: a word before each stream and datagram, and codes turned round."""

    alpn = "guest/1"
    is_guest = True

    def __init__(self) -> None:
        super().__init__()
        self.prefix = PREFIX
        self.datagram_prefix = b"!"

    def accept(self, connection: QuicConnection, stream: Any) -> bool:
        data = b"".join(stream.incoming)
        if len(data) < len(PREFIX) or not connection.is_started:
            return False
        assert data.startswith(PREFIX)
        stream.incoming = [data[len(PREFIX) :]]
        connection.consumed(stream, len(PREFIX))
        connection.hand_over(stream, control=stream.stream_id == 0)
        return True

    def started(self, connection: QuicConnection) -> None:
        for stream in connection.engine.substreams.by_id.values():
            connection.engine.substreams.note_changed(stream)

    def datagram(self, data: bytes) -> bytes | None:
        return data[1:] if data.startswith(b"!") else None

    def code_out(self, code: int) -> int:
        return code + 1_000

    def code_in(self, code: int) -> int:
        return code - 1_000

    def farewell(self, code: int, reason: str) -> tuple[int, str]:
        return code, f"guest: {reason}"

    def connect_failed(self, url: str, ending: Ending, *, patience_s: float) -> ConnectFailed:
        return ConnectFailed(f"no guest at {url}: {ending}")


URL = Url.parse("quic://127.0.0.1:0")


async def pair(stack: AsyncExitStack) -> tuple[Recorder, Recorder]:
    accepted: list[Recorder] = []

    def accept(connection: Connection | Pipe) -> None:
        accepted.append(Recorder(connection).start())

    listener = await listen(URL, 0, options(), accept, Guest)
    stack.push_async_callback(listener.close)
    url = Url.parse(listener.addresses[0])
    near = Recorder(await dial(url, url.port or 0, options(), Guest)).start()
    near.open(Priority.CONTROL).write(b"control")
    stack.callback(near.abort)
    while not accepted:
        await asyncio.sleep(0.001)
    return near, accepted[0]


async def test_a_guests_prefixes_and_codes_are_put_on_and_taken_off() -> None:
    async with AsyncExitStack() as stack:
        near, far = await pair(stack)
        substream = near.open()
        substream.write(b"hello", end=True)
        accepted = await far.substream(1)
        assert await accepted.ended() == b"hello"
        accepted.reset(7)
        await substream.happens("reset")
        assert substream.reset_code == 7
        other = far.open()
        other.write(b"back")
        theirs = await near.substream(0)
        assert await theirs.received(4) == b"back"
        theirs.stop(8)
        await other.happens("stop")
        assert other.stop_code == 8
        near.send_datagram(b"data", b"gram")
        await far.until(lambda: far.datagrams)
        assert far.datagrams == [b"datagram"]
        assert near.connection.max_datagram_size() == near.connection.engine.max_datagram_size() - 1
        near.close(9, "enough")
        assert await near.ended() is None
        assert "guest: enough" in str(await far.ended())
        assert near.violations == far.violations == []


async def test_a_dialer_of_another_protocol_is_refused_in_the_guests_words() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(URL, 0, options(), lambda connection: None)
        stack.push_async_callback(listener.close)
        url = Url.parse(listener.addresses[0])
        with pytest.raises(ConnectFailed, match=r"no guest at quic://.*no_application_protocol"):
            await dial(url, url.port or 0, options(), Guest)


async def test_settings_that_routes_of_one_protocol_share_have_to_agree() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(URL, 0, options(), lambda connection: None, Guest, "/a")
        stack.push_async_callback(listener.close)
        url = Url.parse(listener.addresses[0])
        port = url.port or 0
        with pytest.raises(ConfigError, match=r"make idle_timeout_s the same for both") as error:
            await listen(url, port, options(idle_timeout_s=3.0), lambda connection: None, Guest, "/b")
        assert error.value.key == "idle_timeout_s"
        with pytest.raises(ConnectFailed, match="in use"):
            await listen(url, port, options(), lambda connection: None, Guest, "/a")
        second = await listen(url, port, options(), lambda connection: None, Guest, "/b")
        await second.close()


def link(uni_streams: int) -> VirtualLink:
    given = QuicOptions(tls=TlsOptions(**DEVELOPMENT["tls"]))
    made = VirtualLink(
        dialer_configuration(given, "localhost"),
        listener_configuration(given),
        options=given,
        uni_streams=uni_streams,
    )
    made.handshake()
    return made


def test_streams_of_one_direction_carry_bytes_and_are_given_back() -> None:
    one = link(2)
    assert one.client.engine.one_way_left() == 2
    for number in range(20):  # more than may be open at once
        one.run(lambda: one.client.engine.one_way_left() > 0)
        state = one.client.engine.open_one_way(Outgoing(Priority.NORMAL), one.now)
        assert state.stream_id == 2 + 4 * number
        one.client.write(state, b"x" * 200_000, end=True)
        one.run(lambda state=state: state.stream_id in one.server.ended)  # type: ignore[misc]
        assert len(one.server.received[state.stream_id]) == 200_000
    one.run(lambda: not one.client.engine.substreams.by_id and not one.server.engine.substreams.by_id)


def test_both_ends_may_open_streams_of_one_direction() -> None:
    one = link(3)
    state = one.server.engine.open_one_way(Outgoing(Priority.CONTROL), one.now)
    one.server.write(state, b"settings")
    one.run(lambda: bytes(one.client.received.get(3, b"")) == b"settings")
    one.client.engine.substreams.stop(one.client.engine.substreams.by_id[3], 5)
    one.run(lambda: one.server.stops.get(3) == 5)


def test_without_a_guest_no_stream_of_one_direction_may_be_opened() -> None:
    one = link(0)
    assert one.client.engine.one_way_left() == 0
    state = one.client.engine.open_one_way(Outgoing(Priority.NORMAL), one.now)
    state.outgoing.credit = 100
    one.client.write(state, b"x")
    one.run(lambda: one.server.engine.ending is not None)
    assert one.server.engine.ending is not None
    assert "STREAM_LIMIT_ERROR" in str(one.server.engine.ending)


def test_a_substream_that_turns_out_to_be_the_control_goes_first_and_has_its_window() -> None:
    one = link(1)
    state = one.client.open(one.now)
    bulk = one.client.open(one.now)
    one.client.write(bulk, bytes(3_000_000))
    one.client.engine.substreams.make_control(state)
    one.client.write(state, b"first")
    assert state.outgoing.priority is Priority.CONTROL
    assert one.client.engine.substreams.scheduler.peek() is state.outgoing
    one.run(lambda: bytes(one.server.received.get(state.stream_id, b"")) == b"first")
    far = one.server.engine.substreams.by_id[state.stream_id]
    one.server.engine.substreams.make_control(far)
    one.run(lambda: state.outgoing.credit >= 1_048_576)
