"""Dialling through proxies: real ones, small enough to stand in a test."""

from __future__ import annotations

import asyncio
import base64
import errno
import importlib.util
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import cast

import pytest

from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.types import Url
from echostream_tcp.tls_transport import TlsDialer
from echostream_websocket import proxies
from echostream_websocket.proxies import proxy_for
from plugins.tcp.tests.recording import Recorder
from plugins.websocket.tests.peers import Raw, accept_upgrade, dial, gone, listen, payload_of
from tests.support.waiting import until


class ConnectProxy:
    """A proxy for CONNECT; ``credentials`` are demanded, ``answer`` is given in place of a tunnel."""

    def __init__(self, credentials: str = "", answer: bytes = b"") -> None:
        self.credentials = credentials
        self.answer = answer
        self.requests: list[str] = []
        self.url = ""

    async def start(self, stack: AsyncExitStack, context: ssl.SSLContext | None = None) -> ConnectProxy:
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
            tasks.add(task)

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
        self.url = f"http{'s' if context else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def end() -> None:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        stack.push_async_callback(end)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            wanted = "Basic " + base64.b64encode(self.credentials.encode()).decode()
            if self.answer:
                writer.write(self.answer)
                return
            if self.credentials and f"Proxy-Authorization: {wanted}" not in head:
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
                return
            host, _, port = head.split()[1].rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # one of the two has gone, as they all do
        finally:
            await hang_up(writer)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        await hang_up(writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except (ConnectionError, ssl.SSLError):
        pass  # it was reset


async def exchange(stack: AsyncExitStack, scheme: str, tls: dict[str, dict[str, str]], **dialing: object) -> Recorder:
    """Dial a listener, send much both ways, and answer the dialer's end."""
    ours: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()
    listen_tls = {"tls": tls["listen"]} if tls else {}
    dial_tls = {"tls": tls["dial"]} if tls else {}
    listener = await listen(stack, f"{scheme}://127.0.0.1:0/p", ours.set_result, **listen_tls)
    near = Recorder(await dial(listener.addresses[0], **dial_tls, **dialing)).start()
    far = await ours
    payload = payload_of(300_000)
    near.write(payload)
    assert await far.received(len(payload)) == payload
    far.write(payload)
    assert await near.received(len(payload)) == payload
    assert near.pipe.peer_address == listener.addresses[0]
    await gone(near)
    await far.ended()
    return near


@pytest.fixture
def tls(certificate: dict[str, str]) -> dict[str, dict[str, str]]:
    leaf = certificate["leaf"]
    return {"listen": {"certificate": leaf, "private_key": leaf}, "dial": {"ca": certificate["ca"]}}


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_proxy_carries_both_schemes(stack: AsyncExitStack, scheme: str, tls: dict[str, dict[str, str]]) -> None:
    proxy = await ConnectProxy().start(stack)
    await exchange(stack, scheme, tls if scheme == "wss" else {}, proxy=proxy.url)
    assert proxy.requests[0].startswith("CONNECT 127.0.0.1:")
    assert "Authorization" not in proxy.requests[0]


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_proxy_may_be_behind_tls_itself(
    stack: AsyncExitStack,
    scheme: str,
    tls: dict[str, dict[str, str]],
    tls_proxy: ssl.SSLContext,
) -> None:
    proxy = await ConnectProxy("user:pass").start(stack, tls_proxy)
    url = proxy.url.replace("https://", "https://user:pass@")
    await exchange(stack, scheme, tls if scheme == "wss" else {}, proxy=url)
    assert len(proxy.requests) == 1


async def test_credentials_are_sent_and_nothing_but_them_opens(stack: AsyncExitStack) -> None:
    proxy = await ConnectProxy("us%r:p@ss word").start(stack)
    await exchange(stack, "ws", {}, proxy=proxy.url.replace("://", "://us%25r:p%40ss%20word@"))
    for wrong in (proxy.url, proxy.url.replace("://", "://user:hunter2@")):
        with pytest.raises(ConnectFailed, match=r"demands a user and a password, .* \(407 Proxy Auth") as caught:
            await dial("ws://127.0.0.1:9", proxy=wrong)
        assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


@pytest.mark.parametrize("variable", ["ws_proxy", "http_proxy"])
async def test_the_proxy_of_the_environment_is_used(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    proxy = await ConnectProxy().start(stack)
    monkeypatch.setenv(variable, proxy.url)
    await exchange(stack, "ws", {})
    assert proxy.requests == [], "no proxy stands before this machine"
    monkeypatch.setattr("echostream_websocket.proxies.is_loopback", lambda host: False)
    await exchange(stack, "ws", {})
    assert len(proxy.requests) == 1
    await exchange(stack, "ws", {}, proxy="none")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    await exchange(stack, "ws", {})
    assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("example.org", "http://proxy:3128"),
        ("10.0.0.1", "http://proxy:3128"),
        ("128.0.0.1", "http://proxy:3128"),
        ("localhost.example.org", "http://proxy:3128"),
        ("localhost", None),
        ("LOCALHOST", None),
        ("app.localhost", None),
        ("notlocalhost", "http://proxy:3128"),
        ("127.0.0.1", None),
        ("127.255.0.9", None),
        ("::1", None),
    ],
)
def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch, host: str, expected: str | None) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    url = Url("wss", host, 443)
    assert proxy_for(url, "auto", secure=True) == expected
    assert proxy_for(url, "none", secure=True) is None
    assert proxy_for(url, "http://other:1", secure=True) == "http://other:1"


@pytest.mark.parametrize(
    ("named", "used"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("10.0.0.1:3128", "http://10.0.0.1:3128"),
        ("user:secret@proxy:3128", "http://user:secret@proxy:3128"),
        ("socks5h://proxy", "socks5h://proxy"),
    ],
)
def test_the_environment_may_name_a_proxy_without_its_scheme(
    monkeypatch: pytest.MonkeyPatch, named: str, used: str
) -> None:
    monkeypatch.setenv("https_proxy", named)
    assert proxy_for(Url("wss", "server.example", 443), "auto", secure=True) == used


async def test_a_proxy_is_asked_for_a_host_in_ascii(stack: AsyncExitStack) -> None:
    proxy = await ConnectProxy(answer=b"HTTP/1.1 403 Forbidden\r\n\r\n").start(stack)
    with pytest.raises(ConnectFailed, match="403 Forbidden"):
        await dial("ws://\u65e5\u672c.example:80", proxy=proxy.url)
    assert proxy.requests[0].startswith("CONNECT xn--wgv71a.example:80 HTTP/1.1\r\nHost: xn--wgv71a.example\r\n")


# A proxy behind TLS: what stands between it and us.


@pytest.fixture
def tls_proxy(certificate: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of a proxy that we trust."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate["ca"])
    monkeypatch.setattr(proxies, "_HTTPS", TlsDialer(alpn="http/1.1", alpn_demanded=False))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate["leaf"])
    return context


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_proxy_whose_certificate_is_not_trusted_is_told_with_what_helps(
    stack: AsyncExitStack, tls_proxy: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    proxy = await ConnectProxy().start(stack, tls_proxy)
    with pytest.raises(ConnectFailed, match=r"cannot be used: its certificate .*\(SSL_CERT_FILE names") as caught:
        await dial("ws://127.0.0.1:9", proxy=proxy.url)
    assert "tls.ca" not in str(caught.value), "it is about the server, not about the proxy"
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value.__cause__.__cause__, ssl.SSLCertVerificationError)


async def test_when_no_descriptors_are_left_for_a_relay_the_proxy_is_left_too(
    stack: AsyncExitStack, tls_proxy: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    proxy = await ConnectProxy().start(stack, tls_proxy)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", exhausted)
        with pytest.raises(ConnectFailed, match=r"the proxy https://.* cannot be used: too many open files"):
            await dial("ws://127.0.0.1:9", proxy=proxy.url)
    await until(lambda: descriptors() == before)


async def test_a_relay_whose_proxy_takes_nothing_more_ends_after_we_have(
    stack: AsyncExitStack, tls_proxy: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = asyncio.Event()
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await accept_upgrade(Raw(reader, writer))
        cast("asyncio.Transport", writer.transport).pause_reading()
        await stalled.wait()

    monkeypatch.setattr(proxies, "PATIENCE_S", 0.05)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls_proxy)
    stack.callback(server.close)
    before = descriptors()
    near = Recorder(
        await dial("ws://127.0.0.1:9", proxy=f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    ).start()
    assert descriptors() == before + 4  # the two ends of the connection to the proxy, and the two of the relay
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):  # longer than its patience, but we are still there
            await near.until(lambda: near.write(bytes(1 << 20)))  # whenever there is room, until there is none
    assert descriptors() == before + 4
    near.abort()
    await near.ended()
    await until(lambda: descriptors() == before + 1)  # what the proxy itself has
    stalled.set()
    writers[0].transport.abort()
    await until(lambda: descriptors() == before)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", r"does not allow it; set the option proxy .*\(403 Forbidden\)"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", r"cannot reach it: .*\(502 Bad Gateway\)"),
        (b"HTTP/1.1 418 I'm a teapot\r\n\r\n", r"refuses \(418 I'm a teapot\)"),
        (b"SSH-2.0-x\r\n\r\n", "does not answer in HTTP: it began with"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "sends data before anybody asked for it"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection when asked for ws://127.0.0.1:9"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4_000, "a head of more than 16384 bytes"),
    ],
    ids=["forbidden", "bad gateway", "teapot", "garbage", "too eager", "gone", "endless"],
)
async def test_a_proxy_that_refuses_is_told(stack: AsyncExitStack, answer: bytes, said: str) -> None:
    proxy = await ConnectProxy(answer=answer).start(stack)
    with pytest.raises(ConnectFailed, match=said) as caught:
        await dial("ws://127.0.0.1:9", proxy=proxy.url)
    assert str(caught.value).startswith(f"the proxy {proxy.url}")


async def test_a_proxy_that_is_not_there_is_told() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    for scheme in ("http", "https"):
        proxy = f"{scheme}://127.0.0.1:{port}"
        said = f"the proxy {proxy} for ws://127.0.0.1:9 cannot be used: nobody listens at {proxy}"
        with pytest.raises(ConnectFailed, match=said):
            await dial("ws://127.0.0.1:9", proxy=proxy)


async def test_a_proxy_that_says_nothing_is_given_up(stack: AsyncExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectFailed, match=r"did not answer within 0\.03 s, asked for ws://127\.0\.0\.1:9"):
            await dial("ws://127.0.0.1:9", proxy=url, handshake_timeout_s=0.03)


async def test_a_user_that_is_not_utf_8_is_what_is_told() -> None:
    with pytest.raises(ConfigError, match=r"user and password .* not UTF-8; .* https_proxy"):
        await dial("ws://127.0.0.1:9", proxy="http://us%FFer:pw@127.0.0.1:1")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host:1",
        "http://",
        "http://host:1/path",
        "http://user@host:1",
        "http://h:x",
        "https://a..b:1",
        "http://a b:1",
    ],
)
async def test_a_url_that_is_no_proxys_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match="the proxy's URL cannot be used: ") as caught:
        await dial("ws://127.0.0.1:9", proxy=url.replace("user@", "hunter2@"))
    assert caught.value.key == "proxy"
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


# SOCKS.

HAVE_SOCKS = importlib.util.find_spec("python_socks") is not None


@pytest.mark.skipif(HAVE_SOCKS, reason="python-socks is installed")
async def test_socks_without_its_library_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'echostream-websocket\[socks\]'") as caught:
        await dial("ws://127.0.0.1:9", proxy="socks5://user:hunter2@127.0.0.1")
    assert "socks5://127.0.0.1:1080" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def socks_server(stack: AsyncExitStack, reply: int = 0) -> str:
    """A SOCKS5 server without authentication."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            _, count = await reader.readexactly(2)
            await reader.readexactly(count)
            writer.write(b"\x05\x00")
            *_, kind = await reader.readexactly(4)
            if kind == 3:
                (length,) = await reader.readexactly(1)
                host = (await reader.readexactly(length)).decode()
            else:
                host = socket.inet_ntoa(await reader.readexactly(4))
            port = int.from_bytes(await reader.readexactly(2), "big")
            writer.write(b"\x05" + bytes((reply,)) + b"\x00\x01\0\0\0\0\0\0")
            if not reply:
                far_reader, far_writer = await asyncio.open_connection(host, port)
                await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # one of the two has gone
        finally:
            await hang_up(writer)

    return await started(stack, serve, tasks)


async def started(
    stack: AsyncExitStack,
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tasks: set[asyncio.Task[None]],
) -> str:
    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)

    async def end() -> None:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stack.push_async_callback(end)
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.skipif(not HAVE_SOCKS, reason="python-socks is not installed")
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_a_socks_proxy_carries_a_websocket(stack: AsyncExitStack, scheme: str) -> None:
    address = await socks_server(stack)
    await exchange(stack, "ws", {}, proxy=f"{scheme}://{address}")


@pytest.mark.skipif(not HAVE_SOCKS, reason="python-socks is not installed")
async def test_a_socks_proxy_that_refuses_is_told(stack: AsyncExitStack) -> None:
    address = await socks_server(stack, reply=5)
    with pytest.raises(ConnectFailed, match=r"the proxy socks5://.* did not connect us: .*[Cc]onnection refused"):
        await dial("ws://127.0.0.1:9", proxy=f"socks5://{address}")


@pytest.mark.skipif(not HAVE_SOCKS, reason="python-socks is not installed")
@pytest.mark.parametrize(
    ("scheme", "host", "answer"),
    [
        ("socks5", "127.0.0.1", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        ("socks5h", "127.0.0.1", b"\x05\x00\x05\x00\x00\x03\x02\xff\xfe\0\0"),
        ("socks5h", "a." * 150 + "example", b"\x05\x00"),
        ("socks4", "[::1]", b"\x00\x5b\0\0\0\0\0\0"),
        ("socks4a", "a.example", b"\x04" * 8),
    ],
    ids=["HTTP", "a name that is not UTF-8", "a name that is too long", "no IPv6", "another version"],
)
async def test_a_socks_proxy_that_cannot_be_understood_is_told(
    stack: AsyncExitStack, scheme: str, host: str, answer: bytes
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(answer)
            await reader.read()
        finally:
            await hang_up(writer)

    address = await started(stack, serve, set())
    with pytest.raises(ConnectFailed, match=r"the proxy socks.* did not connect us: "):
        await dial(f"ws://{host}:9", proxy=f"{scheme}://{address}")


@pytest.mark.skipif(not HAVE_SOCKS, reason="python-socks is not installed")
@pytest.mark.parametrize("user", ["us%C3%A9r:hunter2", "user:hunt%C3%A9r2", "u" * 256 + ":hunter2"])
async def test_credentials_that_socks_cannot_carry_are_told_and_not_shown(user: str) -> None:
    with pytest.raises(ConfigError, match="user and password of SOCKS are ASCII, of at most 255 signs") as caught:
        await dial("ws://127.0.0.1:9", proxy=f"socks5://{user}@127.0.0.1:1")
    assert caught.value.__cause__ is caught.value.__context__ is None
