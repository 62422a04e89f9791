"""What strangers may send to the port: noise, foreign versions, floods of handshakes, moves to other addresses."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from contextlib import AsyncExitStack

import pytest
from aioquic.quic.configuration import QuicConfiguration

from echostream_core.errors import ConnectFailed
from echostream_core.types import Priority, Url
from echostream_quic.endpoint import UdpSocket
from plugins.quic.tests.recording import Ends, LogLines, Recorder, dial, listen

NOISE = [
    b"",
    b"\x00",
    b"\x40",
    b"\xc0\x00",
    b"\x80\x00\x00\x00\x00",  # version 0 and nothing else
    b"\xc0\x00\x00\x00\x01\xff",  # an id longer than any may be
    b"\xc0\x00\x00\x00\x01\x08" + bytes(8) + b"\x08" + bytes(8) + b"\xff" * 3,
    b"\x40" + bytes(1_300),  # a short header for no connection
    b"\xc0\x00\x00\x00\x00\x08" + bytes(1_300),  # version negotiation, to a listener
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00" + bytes(600),  # a ClientHello of TLS over UDP
    bytes(1_500),
]


def talk(url: str) -> socket.socket:
    """A plain UDP socket that is connected to ``url``."""
    parsed = Url.parse(url)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((parsed.host, parsed.port))
    return sock


async def test_noise_is_ignored_and_counted_and_the_listener_goes_on(ends: Ends, log: LogLines) -> None:
    dice = random.Random(7)
    with talk(ends.listener.addresses[0]) as sock:
        for data in NOISE:
            sock.send(data)
        for _ in range(300):
            noise = dice.randbytes(dice.randrange(1, 1_500))
            if dice.random() < 0.5:
                noise = bytes([dice.choice([0xC0, 0xD0, 0xE0, 0xF0])]) + b"\x00\x00\x00\x01" + noise[5:]
            sock.send(noise)
            await asyncio.sleep(0)
    near, far = await ends.open()
    near.write(b"still here", end=True)
    assert await far.ended() == b"hellostill here"
    assert ends.listener.ignored_datagrams > 100
    assert ends.listener.unfinished_handshakes == 0
    assert log.lines == []


async def test_a_connections_own_packets_with_flipped_bits_do_not_harm_it(ends: Ends) -> None:
    dice = random.Random(3)
    link = ends.near.connection._link
    real = link.send

    def corrupting(datagrams: object) -> None:
        broken = []
        for data, address in datagrams:  # type: ignore[attr-defined]
            copy = bytearray(data)
            copy[dice.randrange(len(copy))] ^= 1 << dice.randrange(8)
            broken.append((bytes(copy), address))
            broken.append((data[: dice.randrange(len(data))], address))
        real(broken)
        real(datagrams)  # type: ignore[arg-type]

    link.send = corrupting  # type: ignore[method-assign]
    near, far = await ends.open()
    payload = os.urandom(500_000)
    near.write(payload, end=True)
    assert await far.ended() == b"hello" + payload
    assert ends.far.connection.engine.undecryptable > 10


async def test_an_unknown_version_is_answered_with_the_versions_we_speak(ends: Ends) -> None:
    with talk(ends.listener.addresses[0]) as sock:
        sock.setblocking(False)
        sock.send(b"\xc0\x1a\x2a\x3a\x4a\x08" + bytes(range(8)) + b"\x04abcd" + bytes(1_200))
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 2_000), 5)
        assert answer[1:5] == bytes(4)
        assert b"\x00\x00\x00\x01" in answer[5:]
        sock.send(b"\xc0\x1a\x2a\x3a\x4a\x08" + bytes(20))  # too short: answering it would amplify
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 2_000), 0.1)


async def test_a_peer_without_a_common_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import echostream_quic.tls

    real = echostream_quic.tls.dialer_configuration

    def foreign(*arguments: object) -> QuicConfiguration:
        configuration = real(*arguments)  # type: ignore[arg-type]
        configuration.supported_versions = [0x1A2A3A4A]
        configuration.original_version = None
        return configuration

    monkeypatch.setattr("echostream_quic.dialer.dialer_configuration", foreign)
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        with pytest.raises(ConnectFailed, match="speaks QUIC, but no version of it that we speak"):
            await dial(listener)


async def test_unfinished_handshakes_are_limited_per_address_and_expire(log: LogLines) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(
            stack, max_handshakes_per_address=5, max_handshakes=100, handshake_timeout_s=0.6, retry=False
        )
        silent = [await half_a_handshake(listener.addresses[0]) for _ in range(8)]
        try:
            for _ in range(100):
                if listener.refused_handshakes >= 3:
                    break
                await asyncio.sleep(0.01)
            assert listener.unfinished_handshakes == 5
            assert listener.refused_handshakes >= 3
            assert any("too many unfinished handshakes (5, of them 5 from 127.0.0.1)" in line for line in log.lines)
            # The dialer tries again by itself, and gets in when the others have expired.
            recorder = Recorder(await asyncio.wait_for(dial(listener), 20)).start()
            while listener.unfinished_handshakes:
                await asyncio.sleep(0.01)
            assert any("it fell silent" in line for line in log.lines)
            recorder.abort()
            await recorder.ended()
        finally:
            for sock in silent:
                sock.close()


async def half_a_handshake(url: str) -> socket.socket:
    """Send the first packet of a handshake and then nothing."""
    from aioquic.quic.connection import QuicConnection

    sock = talk(url)
    connection = QuicConnection(configuration=QuicConfiguration(is_client=True, alpn_protocols=["echostream/1"]))
    connection.connect(sock.getpeername(), now=0.0)
    for data, _ in connection.datagrams_to_send(now=0.0):
        sock.send(data)
    await asyncio.sleep(0.005)
    return sock


async def test_with_retry_a_dialer_proves_its_address_first() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, retry=True)
        silent = [await half_a_handshake(listener.addresses[0]) for _ in range(5)]
        assert listener.unfinished_handshakes == 0  # no state for those who have not proved it
        recorder = Recorder(await dial(listener)).start()
        assert recorder.connection.engine._retry_count == 1
        recorder.close()
        await recorder.ended()
        for sock in silent:
            sock.close()


async def test_automatic_retry_begins_when_many_handshakes_are_unfinished() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        silent = [await half_a_handshake(listener.addresses[0]) for _ in range(70)]
        assert listener.unfinished_handshakes == 64
        recorder = Recorder(await dial(listener)).start()
        assert recorder.connection.engine._retry_count == 1
        recorder.close()
        await recorder.ended()
        for sock in silent:
            sock.close()


async def test_noise_that_looks_like_first_packets_turns_retry_on() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        dice = random.Random(1)
        with talk(listener.addresses[0]) as sock:
            for _ in range(70):
                header = b"\xc3\x00\x00\x00\x01\x08" + dice.randbytes(8) + b"\x00\x00\x44\x9e"
                sock.send(header + dice.randbytes(1_182))
                await asyncio.sleep(0)
        assert listener.unfinished_handshakes == 0
        recorder = Recorder(await dial(listener)).start()
        assert recorder.connection.engine._retry_count == 1
        assert listener.ignored_datagrams >= 64
        recorder.close()
        await recorder.ended()


async def test_a_flood_of_failing_handshakes_fills_no_log(log: LogLines) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        for _ in range(25):
            with pytest.raises(ConnectFailed):
                await dial(listener, tls={"pin": "sha256:" + "00" * 32})
        await asyncio.sleep(0.05)
        assert len(log.lines) == 10


async def test_a_connection_survives_a_new_address_of_its_dialer(ends: Ends) -> None:
    """As behind a NAT that has forgotten it: same connection ids, another port."""
    near, far = await ends.open()
    near.write(bytes(1_000_000))
    await far.received(500_000)
    link = ends.near.connection._link
    old: UdpSocket = link._socket  # type: ignore[attr-defined]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.connect(link._address)  # type: ignore[attr-defined]
    loop = asyncio.get_running_loop()
    link._socket = UdpSocket(  # type: ignore[attr-defined]
        loop,
        sock,
        connected=True,
        offload=True,
        on_datagrams=link._on_datagrams,  # type: ignore[attr-defined]
        on_turn=link._on_turn,  # type: ignore[attr-defined]
        on_writable=link._on_turn,  # type: ignore[attr-defined]
        on_error=link._on_error,  # type: ignore[attr-defined]
    )
    old.close()
    near.write(bytes(2_000_000), end=True)
    far.write(bytes(2_000_000), end=True)
    assert len(await far.ended()) == 3_000_005
    assert len(await near.ended()) == 2_000_000
    assert ends.far.connection.engine.get_peer_address() == sock.getsockname()


async def test_connections_of_one_listener_do_not_mix() -> None:
    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []
        listener = await listen(stack, lambda pipe: accepted.append(Recorder(pipe).start()))
        near = [Recorder(await dial(listener)).start() for _ in range(20)]
        for number, recorder in enumerate(near):
            recorder.open(Priority.CONTROL).write(b"%d " % number * 1_000)
        for number, recorder in enumerate(accepted):
            control = await recorder.substream(0)
            assert await control.received(len(b"%d " % number * 1_000)) == b"%d " % number * 1_000
        near[3].close()
        await accepted[3].ended()
        for number in (2, 4):
            near[number].open().write(b"goes on")
            assert await (await accepted[number].substream(1)).received(7) == b"goes on"
        for recorder in near:
            recorder.close()
        for recorder in (*near, *accepted):
            await recorder.ended()
            assert recorder.violations == []
