"""Listeners that share a port, strangers at the door, and peers behind proxies."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from echostream_core import RpcClient, RpcServer, handler
from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.transport import Connection, Pipe
from echostream_core.types import Buffer, Url
from echostream_websocket._http import parse_request
from echostream_websocket.admission import Admission, TrustedProxies
from echostream_websocket.options import WsOptions
from echostream_websocket.pages import Page
from echostream_websocket.routing import Route, decide
from echostream_websocket.transport import WsTransport
from echostream_websocket.visitor import PIECE_BYTES, Visitor
from plugins.tcp.tests.recording import LogLines, Recorder
from plugins.websocket.tests.peers import UPGRADE, dial, gone, listen, payload_of, raw, upgraded


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# Several paths.


async def test_two_paths_of_one_port_have_listeners_of_their_own(stack: AsyncExitStack) -> None:
    reached: list[str] = []
    first = await listen(stack, "ws://127.0.0.1:0/a", lambda _: reached.append("a"))
    base = first.addresses[0].removesuffix("/a")
    second = await listen(stack, f"{base}/b%20c", lambda _: reached.append("b"))
    assert second.addresses == (f"{base}/b%20c",)
    ends = [Recorder(await dial(listener.addresses[0])).start() for listener in (second, first, second)]
    assert [end.pipe.peer_address for end in ends] == [f"{base}/b%20c", f"{base}/a", f"{base}/b%20c"]
    assert reached == ["b", "a", "b"]
    with pytest.raises(ConnectFailed, match="knows no path '/c'"):
        await dial(f"{base}/c")
    await gone(*ends)


async def test_a_path_that_is_taken_is_told(stack: AsyncExitStack) -> None:
    first = await listen(stack, "ws://127.0.0.1:0/a")
    with pytest.raises(ConnectFailed, match="another listener of this process has that path"):
        await listen(stack, first.addresses[0])
    root = await listen(stack, first.addresses[0].removesuffix("/a"))
    with pytest.raises(ConnectFailed, match="has that path"):
        await listen(stack, f"{root.addresses[0]}/")


async def test_the_port_is_free_when_its_last_path_is_closed(stack: AsyncExitStack) -> None:
    first = await listen(stack, "ws://127.0.0.1:0/a")
    second = await listen(stack, first.addresses[0].replace("/a", "/b"))
    await first.close()
    await first.close()
    with pytest.raises(ConnectFailed, match="knows no path '/a'"):
        await dial(first.addresses[0])
    await gone(Recorder(await dial(second.addresses[0])).start())
    await second.close()
    with pytest.raises(ConnectFailed, match="nobody listens"):
        await dial(second.addresses[0])
    again = await listen(stack, first.addresses[0])
    await gone(Recorder(await dial(again.addresses[0])).start())


async def test_connections_go_on_when_their_listener_is_closed(stack: AsyncExitStack) -> None:
    ours: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()
    listener = await listen(stack, accept=ours.set_result)
    near = Recorder(await dial(listener.addresses[0])).start()
    far = await ours
    await listener.close()
    near.write(b"still here")
    assert await far.received(10) == b"still here"
    await gone(near)


async def test_two_listeners_at_once_share_the_port(stack: AsyncExitStack) -> None:
    port = unused_port()
    listeners = await asyncio.gather(
        *(listen(stack, f"ws://localhost:{port}/{name}") for name in ("a", "b")),
    )
    for listener in listeners:
        await gone(Recorder(await dial(listener.addresses[0])).start())


@pytest.mark.parametrize("other", ["ws://localhost:{}/b", "wss://127.0.0.1:{}/b"])
async def test_who_names_a_port_of_ours_otherwise_is_told_its_name(
    stack: AsyncExitStack, certificate: dict[str, str], other: str
) -> None:
    first = await listen(stack, "ws://127.0.0.1:0/a")
    port = Url.parse(first.addresses[0]).port
    leaf = certificate["leaf"]
    options: dict[str, Any] = {"tls": {"certificate": leaf, "private_key": leaf}} if other.startswith("wss") else {}
    with pytest.raises(
        ConnectFailed, match=f"this process has that port as ws://127.0.0.1:{port}; its paths"
    ) as caught:
        await listen(stack, other.format(port), **options)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("name", "value"),
    [("backlog", 5), ("handshake_timeout_s", 3.0), ("max_handshakes", 7), ("trusted_proxies", ["10.0.0.0/8"])],
)
async def test_what_concerns_the_port_must_be_the_same_for_all_paths(
    stack: AsyncExitStack, name: str, value: object
) -> None:
    first = await listen(stack, "ws://127.0.0.1:0/a")
    other = first.addresses[0].replace("/a", "/b")
    with pytest.raises(ConfigError, match=f"with another {name}") as caught:
        await listen(stack, other, None, **{name: value})
    assert caught.value.key == name
    await listen(stack, other, max_message_bytes=1_000, origins=["*"])


async def test_each_path_has_rules_of_its_own(stack: AsyncExitStack) -> None:
    first = await listen(stack, "ws://127.0.0.1:0/open")
    closed = await listen(stack, first.addresses[0].replace("/open", "/closed"), authorization="Bearer x")
    await gone(Recorder(await dial(first.addresses[0])).start())
    with pytest.raises(ConnectFailed, match="demands an authorization"):
        await dial(closed.addresses[0])
    await gone(Recorder(await dial(closed.addresses[0], authorization="Bearer x")).start())


async def test_two_servers_and_a_list_of_addresses_share_one_port() -> None:
    @handler("who")
    def one() -> str:
        return "one"

    @handler("who")
    def two() -> str:
        return "two"

    base = f"ws://127.0.0.1:{unused_port()}"
    async with RpcServer([f"{base}/a", f"{base}/b"], one) as first, RpcServer(f"{base}/c", two):
        assert first.addresses == [f"{base}/a", f"{base}/b"]
        for path, answer in (("a", "one"), ("b", "one"), ("c", "two")):
            async with RpcClient.connect(f"{base}/{path}") as client:
                assert await client.request("who") == answer


async def test_a_port_without_a_number_is_not_guessed(stack: AsyncExitStack) -> None:
    with pytest.raises(ConfigError, match=r"has no port; write ws://127\.0\.0\.1:port/x"):
        await listen(stack, "ws://127.0.0.1/x")


async def test_an_acceptor_that_fails_costs_its_connection_only(
    stack: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(pipe: Connection | Pipe) -> None:
        raise RuntimeError("no")

    listener = await WsTransport().listen(Url.parse("ws://127.0.0.1:0"), WsOptions(), fail)
    stack.push_async_callback(listener.close)
    for _ in range(2):
        peer = await upgraded(stack, listener)
        with pytest.raises(ConnectionResetError):
            await peer.reader.read()
    assert "the acceptor failed on a connection" in caplog.text


# Closing.


async def test_who_is_in_the_middle_of_a_request_is_told_that_we_close(stack: AsyncExitStack) -> None:
    listener = await listen(stack)
    asking, silent = await raw(stack, listener.addresses[0]), await raw(stack, listener.addresses[0])
    asking.writer.write(b"GET /health HTTP/1.1\r\n")
    await upgraded(stack, listener)  # so what was sent before has arrived
    closing = asyncio.create_task(listener.close())
    assert (await asking.answer()).status == 503
    await asking.close()
    with pytest.raises(ConnectionResetError):
        await silent.reader.read()
    await closing


async def test_a_request_that_comes_while_we_close_is_answered_503(stack: AsyncExitStack) -> None:
    route = Route("/", "", WsOptions(), {}, lambda _: None)
    for line, body in (("GET /health", b'{"status":"closing"}'), ("GET /", b"This server is closing.\n")):
        request = parse_request(f"{line} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        decision = decide(request, {"/": route}, closing=True)
        assert decision.answer is not None
        assert (decision.answer.status, decision.answer.body) == (503, body)


async def test_a_visitor_that_does_not_read_its_answer_is_cut_off(
    stack: AsyncExitStack, large: Path, log: LogLines
) -> None:
    listener = await listen(stack, pages={"/large": str(large)}, handshake_timeout_s=0.05, max_handshakes=1)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    url = Url.parse(listener.addresses[0])
    sock.connect((url.host, url.port))
    with sock:
        sock.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        while True:  # its place is taken until it is cut off
            try:
                near = await dial(listener.addresses[0])
                break
            except ConnectFailed:
                await asyncio.sleep(0.01)
        await gone(Recorder(near).start())


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A page that no socket takes whole."""
    file = tmp_path / "large.bin"
    file.write_bytes(payload_of(1_048_576))
    return file


async def test_a_large_page_waits_for_its_reader_in_small_pieces(stack: AsyncExitStack, large: Path) -> None:
    listener = await listen(stack, pages={"/large": str(large)})
    loop = asyncio.get_running_loop()
    url = Url.parse(listener.addresses[0])
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.connect((url.host, url.port))
        sock.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        sock.setblocking(False)
        answer = await loop.sock_recv(sock, 1_024)
        (visitor,) = cast("Any", listener)._port._visitors
        assert 0 < visitor.lower._transport.get_write_buffer_size() <= 3 * PIECE_BYTES
        assert visitor._unsent
        while received := await loop.sock_recv(sock, 65_536):
            answer += received
        assert answer.partition(b"\r\n\r\n")[2] == large.read_bytes()


async def test_who_reads_a_page_slowly_has_the_time_for_each_piece_of_it(large: Path) -> None:
    class Slow:
        """A connection that has no room left after each write."""

        written = 0
        closed = False

        def start(self, receiver: object) -> None:
            pass

        def write(self, buffers: Sequence[Buffer]) -> bool:
            self.written += sum(map(len, buffers))
            return False

        def close(self) -> None:
            self.closed = True

    route = Route("/", "", WsOptions(), {"/large": Page(large.read_bytes(), "image/png")}, lambda _: None)
    port = SimpleNamespace(timeout_s=60.0, decide=lambda request: decide(request, {"/": route}, closing=False))
    visitor = Visitor(cast("Any", port), "ws://127.0.0.1:9")
    slow = Slow()
    visitor.lower = cast("Any", slow)
    visitor.connected(cast("Any", slow))
    visitor.on_data(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
    for pieces in range(1, 1_048_576 // PIECE_BYTES):
        assert 0 <= slow.written - pieces * PIECE_BYTES < 1_024
        assert not slow.closed
        before = visitor._timer
        visitor.on_writable()
        assert before.cancelled() and not visitor._timer.cancelled()
    assert slow.closed
    assert slow.written > 1_048_576
    visitor._timer.cancel()


# Floods.


async def test_two_thousand_silent_sockets_are_bounded_and_others_are_served(
    stack: AsyncExitStack, log: LogLines
) -> None:
    listener = await listen(stack, max_handshakes=1_500, max_handshakes_per_address=100, backlog=4_096)
    url = Url.parse(listener.addresses[0])
    loop = asyncio.get_running_loop()
    sockets = []
    refused = 0
    try:
        for _ in range(2_000):
            sock = socket.socket()
            sock.setblocking(False)
            sock.bind(("127.0.0.2", 0))
            sockets.append(sock)
            await loop.sock_connect(sock, (url.host, url.port))
        near = Recorder(await dial(listener.addresses[0])).start()  # all before it have been dealt with
        for sock in sockets:
            try:
                refused += sock.recv(1) == b""
            except BlockingIOError:
                pass
            except ConnectionResetError:
                refused += 1
        assert refused == 1_900
        await gone(near)
    finally:
        for sock in sockets:
            sock.close()
    assert "max_handshakes_per_address" in log.lines[0]
    assert len(log.lines) <= 25


async def test_the_total_of_unfinished_handshakes_is_bounded_and_places_become_free(
    stack: AsyncExitStack, log: LogLines
) -> None:
    listener = await listen(stack, max_handshakes=2)
    first, second = await raw(stack, listener.addresses[0]), await raw(stack, listener.addresses[0])
    third = await raw(stack, listener.addresses[0])
    assert await third.reader.read() == b""
    assert "2 handshakes are unfinished (max_handshakes)" in (await log.wait())[0]
    assert (await first.ask()).status == 101
    peer = await upgraded(stack, listener)
    assert (await second.ask()).status == 101
    await peer.close()


def test_counting_per_address() -> None:
    admission = Admission(10, 2, TrustedProxies(["10.0.0.1"]))
    assert [admission.enter("1.1.1.1") for _ in range(2)] == [None, None]
    assert "max_handshakes_per_address" in (admission.enter("1.1.1.1") or "")
    assert admission.enter("2.2.2.2") is None
    assert [admission.enter("10.0.0.1") for _ in range(4)] == [None] * 4, "a trusted proxy stands for many"
    admission.leave("1.1.1.1")
    assert admission.enter("1.1.1.1") is None
    assert [admission.enter(f"3.3.3.{number}") for number in range(3)] == [None] * 3
    assert "max_handshakes)" in (admission.enter("4.4.4.4") or "")
    for host in ("1.1.1.1", "1.1.1.1", "2.2.2.2", *["10.0.0.1"] * 4, "3.3.3.0", "3.3.3.1", "3.3.3.2"):
        admission.leave(host)
    assert admission.total == 0
    assert admission._by_address == {}


# Behind proxies.


@pytest.mark.parametrize(
    ("trusted", "forwarded", "peer"),
    [
        ([], ["203.0.113.7"], ""),
        (["127.0.0.1"], [], ""),
        (["10.0.0.0/8"], ["203.0.113.7"], ""),
        (["127.0.0.1"], ["203.0.113.7"], "ws://203.0.113.7"),
        (["127.0.0.0/8"], ["6.6.6.6, 203.0.113.7"], "ws://203.0.113.7"),
        (["127.0.0.1", "10.0.0.0/8"], ["6.6.6.6, 203.0.113.7, 10.1.2.3"], "ws://203.0.113.7"),
        (["127.0.0.1", "10.0.0.0/8"], ["6.6.6.6", "203.0.113.7", "10.1.2.3"], "ws://203.0.113.7"),
        (["127.0.0.1", "10.0.0.0/8"], ["10.9.9.9, 10.1.2.3"], "ws://10.9.9.9"),
        (["127.0.0.1"], ["203.0.113.7:5555"], "ws://203.0.113.7"),
        (["127.0.0.1"], ["[2001:db8::7]:5555"], "ws://[2001:db8::7]"),
        (["127.0.0.1"], ["2001:db8::7"], "ws://[2001:db8::7]"),
        (["127.0.0.1"], ["::ffff:203.0.113.7"], "ws://203.0.113.7"),
        (["127.0.0.1"], ["unknown"], ""),
        (["127.0.0.1"], ["fe80::7%eth0"], "ws://[fe80::7]"),
        (["127.0.0.1", "10.0.0.0/8"], ["fe80::7%\x9b]evil, 10.1.2.3"], "ws://[fe80::7]"),
        (["127.0.0.1", "10.0.0.0/8"], ["nonsense, 10.1.2.3"], "ws://10.1.2.3"),
        (["::1"], ["203.0.113.7"], ""),
    ],
)
async def test_a_forwarded_address_is_believed_from_trusted_proxies_only(
    stack: AsyncExitStack, trusted: list[str], forwarded: list[str], peer: str
) -> None:
    ours: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()
    listener = await listen(stack, accept=ours.set_result, trusted_proxies=trusted)
    client = await raw(stack, listener.addresses[0])
    lines = [f"{name}: {value}" for name, value in UPGRADE.items()] + [f"X-Forwarded-For: {hop}" for hop in forwarded]
    client.writer.write("\r\n".join(["GET / HTTP/1.1", *lines]).encode() + b"\r\n\r\n")
    assert (await client.answer()).status == 101
    port = client.writer.get_extra_info("sockname")[1]
    pipe = (await ours).pipe
    assert pipe.peer_address == (peer or f"ws://127.0.0.1:{port}")
    assert pipe.peer_identity is None


# TLS.


async def test_a_listener_of_wss_serves_http_over_tls_and_no_alpn_is_needed(
    stack: AsyncExitStack, certificate: dict[str, str]
) -> None:
    tls = {"certificate": certificate["leaf"], "private_key": certificate["leaf"]}
    listener = await listen(stack, "wss://127.0.0.1:0", tls=tls)
    url = Url.parse(listener.addresses[0])
    for protocols in ([], ["h2", "http/1.1"]):
        context = ssl.create_default_context(cafile=certificate["ca"])
        if protocols:
            context.set_alpn_protocols(protocols)
        reader, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == ("http/1.1" if protocols else None)
        writer.write(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        await writer.wait_closed()


async def test_closing_a_listener_of_wss_ends_handshakes_of_every_stage(
    stack: AsyncExitStack, certificate: dict[str, str]
) -> None:
    tls = {"certificate": certificate["leaf"], "private_key": certificate["leaf"]}
    listener = await listen(stack, "wss://127.0.0.1:0", tls=tls)
    silent = await raw(stack, listener.addresses[0])
    begun = await raw(stack, listener.addresses[0])
    begun.writer.write(b"\x16\x03\x01")
    near = Recorder(await dial(listener.addresses[0], tls={"ca": certificate["ca"]})).start()
    await listener.close()
    for peer in (silent, begun):
        with pytest.raises(ConnectionResetError):
            await peer.reader.read()
    await gone(near)


async def test_who_speaks_no_tls_to_wss_is_told_and_logged(
    stack: AsyncExitStack, certificate: dict[str, str], log: LogLines
) -> None:
    tls = {"certificate": certificate["leaf"], "private_key": certificate["leaf"]}
    listener = await listen(stack, "wss://127.0.0.1:0", tls=tls)
    plain = listener.addresses[0].replace("wss", "ws")
    with pytest.raises(ConnectFailed, match="400 Bad Request"):
        await dial(plain)
    assert "does not speak TLS but sent an HTTP request" in (await log.wait())[0]
