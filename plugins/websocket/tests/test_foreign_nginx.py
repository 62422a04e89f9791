"""nginx in front of our listener, with the lines that docs/websocket.md shows: what passes, and what it answers.

nginx calls us from 127.0.0.5, the clients call nginx from other addresses of loopback, so that all can be told apart.
"""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream_core import (
    ConnectFailed,
    ConnectionLost,
    Context,
    RpcClient,
    RpcServer,
    Stream,
    handler,
    stream_handler,
)
from plugins.websocket.tests.besieged import request
from plugins.websocket.tests.foreign import ROOT, program
from plugins.websocket.tests.peers import UPGRADE, Raw, payload_of
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="every address of 127.0.0.0/8 is needed")

NGINX_ADDRESS = "127.0.0.5"
NO_PROXY = {"ws": {"proxy": "none"}, "wss": {"proxy": "none"}}
CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;
    proxy_bind {nginx_address};
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
    server {{
        listen 127.0.0.1:{secure_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        {location}
    }}
}}
"""


@pytest.fixture(autouse=True)
def nginx() -> str:
    return program("nginx")


def documented(backend: str, *, read_timeout_s: float) -> str:
    """The lines of docs/websocket.md, for this address and with less patience."""
    page = (ROOT / "docs" / "websocket.md").read_text(encoding="utf-8")
    block = re.search(r"```text\n(location /rpc \{.*?\n\})\n```", page, re.DOTALL)
    assert block is not None, "docs/websocket.md shows no location of nginx"
    text = block[1]
    for shown, here in (("127.0.0.1:8080", backend), ("120s", f"{read_timeout_s * 1_000:g}ms")):
        assert text.count(shown) == 1
        text = text.replace(shown, here)
    return text


def free_port() -> int:
    """A port that nobody has at the moment; nginx cannot tell which one it was given."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


class Nginx:
    """A running nginx: its addresses, and what it logs."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, port: int, secure_port: int) -> None:
        self.process = process
        self.url = f"ws://127.0.0.1:{port}/rpc"
        self.secure_url = f"wss://127.0.0.1:{secure_port}/rpc"
        self.port = port
        self._log = folder / "error.log"

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def settled(self) -> bool:
        """Whether it answers, or has ended."""
        with socket.socket() as sock:
            return self.process.poll() is not None or sock.connect_ex(("127.0.0.1", self.port)) == 0


@asynccontextmanager
async def proxied(
    nginx: str, folder: Path, certificate: Mapping[str, str], backend: str, *, read_timeout_s: float = 60.0
) -> AsyncIterator[Nginx]:
    """nginx before ``backend``, a host and port."""
    (folder / "temp").mkdir(exist_ok=True)
    location = documented(backend, read_timeout_s=read_timeout_s)
    for attempt in range(5):
        port, secure_port = free_port(), free_port()
        text = CONFIGURATION.format(
            port=port,
            secure_port=secure_port,
            certificate=certificate["leaf"],
            nginx_address=NGINX_ADDRESS,
            location=location,
        )
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        command: list[str | Path] = [nginx, "-p", folder, "-e", "error.log", "-c", "nginx.conf"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                running = Nginx(process, folder, port, secure_port)
                await until(running.settled)
                if process.returncode is None:
                    yield running
                    return
            finally:
                process.kill()
        assert "Address already in use" in running.log() and attempt < 4, running.log()


@handler("echo")
async def echo(value: object) -> object:
    """What it was given."""
    return value


@handler("who")
async def who(ctx: Context) -> str:
    """Who calls, as we see it."""
    return ctx.session.peer


@stream_handler("back")
async def back(stream: Stream) -> None:
    """Every item back."""
    async for item in stream:
        await stream.send(item)


Start = Any


@pytest.fixture
async def behind(nginx: str, tmp_path: Path, certificate: dict[str, str], stack: AsyncExitStack) -> Start:
    """Start a server, and nginx before it: ``await behind(read_timeout_s=…, option=…)``."""

    async def start(
        *, read_timeout_s: float = 60.0, limits: Mapping[str, float] | None = None, **options: object
    ) -> tuple[RpcServer, Nginx]:
        server = RpcServer(
            "ws://127.0.0.1:0/rpc", echo, who, back, transport={"ws": options}, limits=limits, drain_timeout=0
        )
        await stack.enter_async_context(server)
        backend = server.addresses[0].removeprefix("ws://").removesuffix("/rpc")
        return server, await stack.enter_async_context(
            proxied(nginx, tmp_path, certificate, backend, read_timeout_s=read_timeout_s)
        )

    return start


def connect(url: str, **keywords: Any) -> Any:
    return RpcClient.connect(url, transport=NO_PROXY, reconnect=False, **keywords)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS at nginx"])
async def test_calls_and_streams_pass(behind: Start, secure: bool, certificate: dict[str, str]) -> None:
    _, nginx = await behind()
    url, tls = (nginx.secure_url, {"ca": certificate["ca"]}) if secure else (nginx.url, None)
    async with connect(url, tls=tls) as client:
        assert await asyncio.gather(*(client.request("echo", number) for number in range(200))) == list(range(200))
        payload = payload_of(1 << 20)
        assert await client.request("echo", payload) == payload
        got = bytearray()
        async with client.open_stream("back") as stream:

            async def send() -> None:
                for begin in range(0, len(payload), 50_000):
                    await stream.send(payload[begin : begin + 50_000])
                await stream.end()

            sending = asyncio.ensure_future(send())
            async for item in stream:
                got += item
            await sending
        assert got == payload


async def test_the_peer_is_who_called_nginx_where_it_is_trusted(behind: Start) -> None:
    _, nginx = await behind(trusted_proxies=[NGINX_ADDRESS])
    async with connect(nginx.url) as client:
        assert await client.request("who") == "ws://127.0.0.1"
    forged = {"ws": {"proxy": "none", "headers": {"X-Forwarded-For": f"6.6.6.6, {NGINX_ADDRESS}"}}}
    async with RpcClient.connect(nginx.url, transport=forged, reconnect=False) as client:
        assert await client.request("who") == "ws://127.0.0.1"  # what the client itself wrote counts for nothing


async def test_the_peer_is_nginx_where_it_is_not_trusted(behind: Start) -> None:
    _, nginx = await behind(trusted_proxies=["10.0.0.0/8"])
    async with connect(nginx.url) as client:
        assert (await client.request("who")).startswith(f"ws://{NGINX_ADDRESS}:")


async def test_a_trusted_proxy_is_not_bounded_as_one_client_is(behind: Start) -> None:
    limits = {"max_unfinished_setups_per_address": 2}
    server, nginx = await behind(
        limits=limits, trusted_proxies=[NGINX_ADDRESS], max_handshakes_per_address=2, handshake_timeout_s=5
    )
    async with AsyncExitStack() as clients:
        for number in range(2, 12):  # each from an address of its own, none of which says SETUP
            reader, writer = await asyncio.open_connection("127.0.0.1", nginx.port, local_addr=(f"127.0.1.{number}", 0))
            clients.push_async_callback(Raw(reader, writer).close)
            answer = await Raw(reader, writer).ask(line="GET /rpc HTTP/1.1")
            assert answer.status == 101
        assert {address.rpartition("/")[2] for address in server._unfinished.values()} == {
            f"127.0.1.{number}" for number in range(2, 12)
        }


async def test_an_idle_session_outlives_the_patience_of_nginx_by_its_keep_alive(behind: Start) -> None:
    server, nginx = await behind(read_timeout_s=1.5, limits={"keepalive_interval_s": 0.25, "keepalive_timeout_s": 0.5})
    async with connect(nginx.url) as client:
        assert await client.request("echo", 1) == 1
        await asyncio.sleep(2.2)  # what is proved needs this time
        assert await client.request("echo", 2) == 2
        assert len(server.sessions) == 1


async def test_an_idle_session_outlives_it_by_pings_of_the_web_socket_too(behind: Start) -> None:
    _, nginx = await behind(read_timeout_s=1.5, limits={"keepalive_interval_s": 0}, ping_interval_s=0.15)
    async with connect(nginx.url, limits={"keepalive_interval_s": 0}) as client:
        await asyncio.sleep(2.2)
        assert await client.request("echo", 2) == 2


async def test_without_any_traffic_nginx_hangs_up_and_both_ends_learn_of_it(behind: Start) -> None:
    server, nginx = await behind(read_timeout_s=0.3, limits={"keepalive_interval_s": 0})
    async with connect(nginx.url, limits={"keepalive_interval_s": 0}) as client:
        await client.request("echo", 1)
        await until(lambda: not server.sessions)
        with pytest.raises(ConnectionLost):
            await client.request("echo", 2)
    assert "upstream timed out" in nginx.log()


async def test_an_origin_of_the_same_host_is_known_behind_nginx_and_others_are_refused(behind: Start) -> None:
    _, nginx = await behind()
    for host, status in ((f"127.0.0.1:{nginx.port}", b"101"), ("evil.example", b"403")):
        peer = Raw(*await asyncio.open_connection("127.0.0.1", nginx.port))
        headers = {**UPGRADE, "Host": f"127.0.0.1:{nginx.port}", "Origin": f"http://{host}"}
        peer.writer.write(request(headers, "GET /rpc HTTP/1.1"))
        head = await peer.reader.readuntil(b"\r\n\r\n")  # nginx keeps the connection, whatever we say
        assert head.split(b" ")[1] == status
        await peer.close()


async def test_the_health_of_the_listener_is_seen_through_nginx(behind: Start) -> None:
    _, nginx = await behind(health_path="/rpc/health")
    peer = Raw(*await asyncio.open_connection("127.0.0.1", nginx.port))
    answer = await peer.ask({"Host": "a", "Connection": "close"}, line="GET /rpc/health HTTP/1.1")
    await peer.close()
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


async def test_nginx_without_a_server_behind_it_is_named(behind: Start) -> None:
    server, nginx = await behind()
    await server.close(drain=0)
    with pytest.raises(ConnectFailed, match=r"cannot serve us now: try again later \(502 Bad Gateway"):
        await connect(nginx.url)


async def test_a_restart_of_nginx_is_a_lost_session_and_a_new_one(behind: Start) -> None:
    server, nginx = await behind()
    async with connect(nginx.url) as client:
        await client.request("echo", 1)
        nginx.process.terminate()
        with pytest.raises(ConnectionLost):
            while True:
                await client.request("echo", 2)
        await until(lambda: not server._sessions)
    assert nginx.process.wait() == 0
