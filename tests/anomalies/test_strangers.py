"""Somebody who does not speak our language at the door: one line in the log, a clear end, and the server goes on."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from echostream_core import EchoStreamError, RpcClient, RpcServer
from tests.support.handlers import BASIC
from tests.support.transports import Endpoint, endpoint, installed_schemes
from tests.support.waiting import until

STREAMS = installed_schemes(among=("tcp", "tls", "unix"))
MIB = 1 << 20


@pytest.fixture(params=STREAMS)
def piped(request: pytest.FixtureRequest, dev_certificates: Path, tmp_path: Path) -> Iterator[Endpoint]:
    """Endpoints that a plain socket can connect to."""
    yield endpoint(request.param, tmp_path)


@asynccontextmanager
async def served(where: Endpoint, **limits: float) -> AsyncIterator[RpcServer]:
    """A server that serves an honest client before and after what the test does."""
    async with RpcServer(where.url, *BASIC, limits=limits, drain_timeout=0, **where.options) as server:
        async with RpcClient.connect(server.addresses[0], **where.options) as client:
            assert await client.request("echo", 1) == 1
            yield server
            assert await client.request("echo", 2) == 2
        async with RpcClient.connect(server.addresses[0], **where.options) as late:
            assert await late.request("echo", 3) == 3
        await until(lambda: not server._sessions)


class Stranger:
    """A plain socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        """Send ``data``, as far as anybody takes it."""
        try:
            for position in range(0, len(data), 65_536):
                self.writer.write(data[position : position + 65_536])
                await self.writer.drain()
        except OSError:
            pass  # closed at the other end, as it should be

    async def hears(self) -> bytes:
        """Everything until the end of the connection."""
        heard = b""
        try:
            while data := await self.reader.read(65_536):
                heard += data
        except OSError:
            pass
        return heard


@asynccontextmanager
async def stranger(server: RpcServer) -> AsyncIterator[Stranger]:
    """Connect to the server's socket without any handshake."""
    scheme, _, rest = server.addresses[0].partition("://")
    if scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(rest)
    else:
        host, _, port = rest.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Stranger(reader, writer)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


SPEECHES = {
    "random bytes": random.Random(1).randbytes(4_096),
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "ten megabytes of zeros": bytes(10 * MIB),
    "another major version": b"ESTREAM9" + bytes(100),
    "our preamble and then zeros": b"ESTREAM1" + bytes(1_000),
    "our preamble and then random bytes": b"ESTREAM1" + random.Random(2).randbytes(4_096),
    "an SSH client": b"SSH-2.0-OpenSSH_9.6\r\n",
}


@pytest.mark.parametrize("speech", SPEECHES.values(), ids=SPEECHES)
async def test_a_stranger_is_shown_the_door(piped: Endpoint, speech: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with served(piped) as server:
        async with stranger(server) as somebody:
            await somebody.say(speech)
            async with asyncio.timeout(20):
                heard = await somebody.hears()
        await until(lambda: len(server._sessions) == 1)
    lines = complaints(caplog)
    assert len(lines) == 1, lines
    assert lines[0].isprintable(), "a stranger's bytes are escaped"
    assert len(lines[0]) < 600
    if speech.startswith(b"GET") and piped.scheme != "tls":
        assert heard.startswith(b"HTTP/1.1 400 ")


async def test_a_stranger_who_says_nothing_is_not_waited_for(piped: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    if piped.scheme == "tls":
        piped = Endpoint(piped.scheme, piped.url, {**piped.options, "transport": {"tls": {"handshake_timeout_s": 0.2}}})
    async with served(piped, setup_timeout_s=0.2) as server:
        async with stranger(server) as somebody:
            async with asyncio.timeout(20):
                await somebody.hears()
        await until(lambda: len(server._sessions) == 1)
        assert len(complaints(caplog)) == 1


async def test_strangers_who_leave_at_once_leave_nothing(piped: Endpoint) -> None:
    async with served(piped) as server:
        for speech in (b"", b"E", b"ESTREAM1", b"ESTREAM1" + bytes(4), b"\x16\x03\x01"):
            async with stranger(server) as somebody:
                await somebody.say(speech)
        await until(lambda: len(server._sessions) == 1)


async def test_many_strangers_at_once_do_not_keep_an_honest_client_out(piped: Endpoint) -> None:
    async with served(piped) as server:
        strangers = [stranger(server) for _ in range(100)]
        crowd = [await somebody.__aenter__() for somebody in strangers]
        await asyncio.gather(*(somebody.say(b"\x00" * 100) for somebody in crowd))
        async with RpcClient.connect(server.addresses[0], **piped.options) as client:
            assert await client.request("echo", 1) == 1
        for somebody in strangers:
            await somebody.__aexit__(None, None, None)


@pytest.mark.skipif(len(installed_schemes(among=("tcp", "tls"))) < 2, reason="needs tcp and tls")
async def test_each_end_without_tls_is_told(dev_certificates: Path, caplog: pytest.LogCaptureFixture) -> None:
    encrypted = Endpoint("tls", "tls://127.0.0.1:0", {"tls": {"dev": True}})
    plain = Endpoint("tcp", "tcp://127.0.0.1:0")
    async with served(encrypted) as server:
        client = RpcClient.connect(server.addresses[0].replace("tls://", "tcp://"))
        with pytest.raises(EchoStreamError):
            async with client as wrong:
                await wrong.request("echo", 1, timeout=10)
    async with served(plain) as server:
        with pytest.raises(EchoStreamError):
            await RpcClient.connect(server.addresses[0].replace("tcp://", "tls://"), tls={"dev": True})
    assert 1 <= len(complaints(caplog)) <= 4


@pytest.mark.skipif("quic" not in installed_schemes(), reason="needs quic")
async def test_datagrams_of_strangers_are_ignored(dev_certificates: Path) -> None:
    where = Endpoint("quic", "quic://127.0.0.1:0", {"tls": {"dev": True}})
    draw = random.Random(3)
    async with served(where) as server:
        host, _, port = server.addresses[0].partition("://")[2].rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for speech in [*SPEECHES.values(), *(draw.randbytes(draw.randrange(1_500)) for _ in range(500))]:
                sender.sendto(speech[:1_400], (host, int(port)))
                await asyncio.sleep(0)
        assert len(server._sessions) == 1
