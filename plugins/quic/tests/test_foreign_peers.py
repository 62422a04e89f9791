"""aioquic as it comes, at either end: our side of the wire is plain QUIC."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack
from typing import Any

from aioquic.asyncio.client import connect as foreign_connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve as foreign_serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import DatagramFrameReceived, QuicEvent, StreamDataReceived

from echostream_core.errors import CloseCode, ConnectionLost
from echostream_core.types import Priority, Url
from plugins.quic.tests.conftest import Authority
from plugins.quic.tests.recording import Recorder, dial, listen

PAYLOAD = bytes(range(256)) * 4_000


class Foreign(QuicConnectionProtocol):
    """Collects what arrives; as a listener it also sends it back."""

    echoes = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.received: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.datagrams: list[bytes] = []

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived):
            self.received.setdefault(event.stream_id, bytearray()).extend(event.data)
            if event.end_stream:
                self.ended.add(event.stream_id)
            if self.echoes:
                self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, DatagramFrameReceived):
            self.datagrams.append(event.data)
            self._quic.send_datagram_frame(event.data[::-1])

    def write(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self._quic.send_stream_data(stream_id, data, end)
        self.transmit()


class Echoing(Foreign):
    echoes = True


async def test_a_foreign_dialer_is_served() -> None:
    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []

        def accept(pipe: Any) -> None:
            recorder = Recorder(pipe)
            recorder.hook = lambda far, data: far.write(data)
            accepted.append(recorder.start())

        listener = await listen(stack, accept)
        url = Url.parse(listener.addresses[0])
        assert url.port is not None
        configuration = QuicConfiguration(alpn_protocols=["echostream/1"], verify_mode=ssl.CERT_NONE)
        async with foreign_connect(url.host, url.port, configuration=configuration, create_protocol=Foreign) as foreign:
            assert isinstance(foreign, Foreign)
            for stream_id in (0, 4, 8):
                foreign.write(stream_id, PAYLOAD, end=True)
            await accepted[0].until(lambda: len(accepted[0].accepted) == 3)
            for far in accepted[0].accepted:
                assert await far.ended() == PAYLOAD
                far.write(end=True)
            while foreign.ended != {0, 4, 8}:
                await asyncio.sleep(0.01)
            assert set(map(bytes, foreign.received.values())) == {PAYLOAD}
            assert accepted[0].connection.capabilities.unmet(["streams=native", "datagrams"]) == ["datagrams"]
            foreign.close(error_code=7, reason_phrase="enough")
            error = await accepted[0].ended()
            assert isinstance(error, ConnectionLost)
            assert error.close_code == 7


async def test_the_largest_datagram_fits_however_long_the_peers_connection_ids_are() -> None:
    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []
        listener = await listen(stack, lambda connection: accepted.append(Recorder(connection).start()))
        url = Url.parse(listener.addresses[0])
        assert url.port is not None
        configuration = QuicConfiguration(
            alpn_protocols=["echostream/1"],
            connection_id_length=20,
            max_datagram_frame_size=65_536,
            verify_mode=ssl.CERT_NONE,
        )
        async with foreign_connect(url.host, url.port, configuration=configuration, create_protocol=Foreign) as foreign:
            assert isinstance(foreign, Foreign)
            foreign.write(0, b"control")
            far = await accepted[0].substream(0)
            await far.received(7)
            size = accepted[0].connection.max_datagram_size()
            accepted[0].send_datagram(bytes(size))
            accepted[0].send_datagram(b"behind it")
            while len(foreign.datagrams) < 2:
                await asyncio.sleep(0.005)
            assert foreign.datagrams == [bytes(size), b"behind it"]
            drops = accepted[0].connection.datagram_drops
            assert drops is not None
            assert not drops.too_large


async def test_codes_that_are_larger_than_ours_become_one_of_ours() -> None:
    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []
        listener = await listen(stack, lambda connection: accepted.append(Recorder(connection).start()))
        url = Url.parse(listener.addresses[0])
        assert url.port is not None
        configuration = QuicConfiguration(alpn_protocols=["echostream/1"], verify_mode=ssl.CERT_NONE)
        async with foreign_connect(url.host, url.port, configuration=configuration, create_protocol=Foreign) as foreign:
            assert isinstance(foreign, Foreign)
            foreign.write(0, b"control")
            foreign.write(4, b"first")
            far = await accepted[0].substream(1)
            foreign._quic.reset_stream(4, 1 << 32)
            foreign._quic.stop_stream(4, 1 << 61)
            foreign.transmit()
            await far.happens("reset")
            await far.happens("stop")
            assert (far.reset_code, far.stop_code) == (CloseCode.INTERNAL, CloseCode.INTERNAL)
            foreign.close(error_code=1 << 32)
            error = await accepted[0].ended()
            assert isinstance(error, ConnectionLost)
            assert error.close_code == CloseCode.INTERNAL


async def test_a_foreign_listener_is_dialled(authority: Authority) -> None:
    tls = authority.issue("127.0.0.1")
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["echostream/1"], max_datagram_frame_size=65_536)
    configuration.load_cert_chain(tls["certificate"], tls["private_key"])
    server = await foreign_serve("127.0.0.1", 0, configuration=configuration, create_protocol=Echoing)
    assert server._transport is not None
    port = server._transport.get_extra_info("sockname")[1]
    recorder = Recorder(await dial(f"quic://127.0.0.1:{port}", tls={"ca": authority.path})).start()
    opened = [recorder.open(Priority.CONTROL), *(recorder.open() for _ in range(200))]  # its limit is 128
    for near in opened:
        near.write(PAYLOAD[:5_000], end=True)
    for near in opened:
        assert await near.ended() == PAYLOAD[:5_000]
    recorder.send_datagram(b"backwards")
    await recorder.until(lambda: recorder.datagrams)
    assert recorder.datagrams == [b"sdrawkcab"]
    recorder.close()
    assert await recorder.ended() is None
    server.close()
    await asyncio.sleep(0.3)  # its sockets are closed by tasks of its own
