"""Dialling servers that are none of ours: each is told apart, and the error says what to do."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import AsyncExitStack

import pytest

from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.types import Url
from echostream_tcp.dial import connect_network
from plugins.tcp.tests.recording import Recorder
from plugins.websocket.tests.peers import Raw, accept_upgrade, dial, gone, listen, serve_raw


def saying(answer: bytes) -> object:
    async def serve(peer: Raw) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(answer)
        await peer.reader.read()

    return serve


async def failure(stack: AsyncExitStack, answer: bytes, **options: object) -> str:
    """What a dialer says whose server answers so; that it leaves no descriptor behind is checked."""
    url = await serve_raw(stack, saying(answer))  # type: ignore[arg-type]  # an async function
    with pytest.raises(ConnectFailed) as caught:
        await dial(url, **options)
    text = str(caught.value)
    assert text.startswith(f"the server at {url} ")
    assert text.isprintable()
    return text.removeprefix(f"the server at {url} ")


def http(status: str, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body.encode()


ANSWERS = {
    "a plain web server": (http("200 OK", body="<html>hello"), "is a web server that does not change to WebSocket"),
    "another path": (http("404 Not Found"), "knows no path '/'"),
    "an old WebSocket": (http("426 Upgrade Required"), "wants another version of WebSocket"),
    "no authorization": (http("401 Unauthorized"), "demands an authorization: set transport.ws.authorization"),
    "forbidden": (
        http("403 Forbidden", body="no such origin"),
        "(403 Forbidden: b'no such origin')",
    ),
    "moved": (
        http("301 Moved Permanently", "Location: https://other.example/x"),
        "redirects to 'https://other.example/x' (301): redirections are not followed",
    ),
    "moved nowhere": (http("308 Permanent Redirect"), "redirects to 'nowhere'"),
    "moved with tricks": (http("302 Found", "Location: \x1b[2J"), "does not answer in HTTP"),
    "busy": (http("503 Service Unavailable"), "cannot serve us now: try again later (503"),
    "teapot": (http("418 I'm a teapot"), "refuses the WebSocket handshake (418"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP: it began with b'SSH-2.0"),
    "tls": (b"\x15\x03\x03\x00\x02\x02\x0a", "it speaks TLS: its URL begins with wss://"),
    "http 2": (b"\0\0\x12\x04\0\0\0\0\0", "does not speak HTTP"),
    "old http": (b"HTTP/1.0 101 Switching Protocols\r\n\r\n", "does not speak HTTP/1.1"),
    "a wrong status": (b"HTTP/1.1 abc\r\n\r\n", "does not answer in HTTP"),
    "only half": (b"HTTP/1.1 101 Switch\r\nUpgr\r\n\r\n", "does not answer in HTTP"),
    "no upgrade": (http("101 Switching Protocols"), "did not change to WebSocket"),
    "an endless head": (b"HTTP/1.1 101 S\r\n" + b"X: y\r\n" * 4_000, "a head of more than 16384 bytes"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_wrong_server_is_named_and_so_is_the_fix(stack: AsyncExitStack, name: str) -> None:
    answer, said = ANSWERS[name]
    text = await failure(stack, answer)
    assert said in text


async def test_an_authorization_that_is_not_accepted_is_told_and_not_shown(stack: AsyncExitStack) -> None:
    text = await failure(stack, http("401 Unauthorized"), authorization="Bearer sesame")
    assert "does not accept our authorization: is transport.ws.authorization right?" in text
    assert "sesame" not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Sec_WebSocket_Accept": "bm9wZQ=="}, "broke the WebSocket handshake: invalid Sec-WebSocket-Accept"),
        ({"Sec_WebSocket_Accept": ""}, "missing Sec-WebSocket-Accept"),
        ({"Sec_WebSocket_Protocol": ""}, "speaks WebSocket but not the subprotocol echostream.v1"),
        ({"Sec_WebSocket_Protocol": "chat"}, "broke the WebSocket handshake: unsupported subprotocol: chat"),
        ({"Sec_WebSocket_Extensions": "permessage-deflate"}, "no extensions supported"),
        ({"Upgrade": "h2c"}, "did not change to WebSocket"),
        ({"Connection": "close"}, "did not change to WebSocket"),
    ],
)
async def test_a_handshake_that_is_not_right_is_refused(
    stack: AsyncExitStack, changes: dict[str, str], said: str
) -> None:
    async def serve(peer: Raw) -> None:
        await accept_upgrade(peer, **changes)
        await peer.reader.read()

    url = await serve_raw(stack, serve)
    with pytest.raises(ConnectFailed, match=re.escape(said)):
        await dial(url)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 101 Switching"])
async def test_a_server_that_hangs_up_is_told(stack: AsyncExitStack, said: bytes) -> None:
    async def serve(peer: Raw) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(said)

    with pytest.raises(ConnectFailed, match="closed the connection instead of answering the WebSocket handshake"):
        await dial(await serve_raw(stack, serve))


async def test_a_server_that_says_nothing_is_given_up(stack: AsyncExitStack) -> None:
    async def serve(peer: Raw) -> None:
        await peer.reader.read()

    with pytest.raises(ConnectFailed, match=r"did not answer the WebSocket handshake within 0\.03 s"):
        await dial(await serve_raw(stack, serve), handshake_timeout_s=0.03)


async def test_an_interim_answer_is_passed_over(stack: AsyncExitStack) -> None:
    async def serve(peer: Raw) -> None:
        peer.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await accept_upgrade(peer)
        await peer.reader.read()

    await gone(Recorder(await dial(await serve_raw(stack, serve))).start())


async def test_cancelling_a_dial_leaves_nothing(stack: AsyncExitStack) -> None:
    asked = asyncio.Event()
    ended = asyncio.Event()

    async def serve(peer: Raw) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        asked.set()
        try:
            await peer.reader.read()
        except ConnectionError:
            pass
        ended.set()

    dialling = asyncio.create_task(dial(await serve_raw(stack, serve)))
    await asked.wait()
    dialling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    await ended.wait()


async def test_failed_dials_leave_no_descriptor(stack: AsyncExitStack) -> None:
    url = await serve_raw(stack, saying(http("404 Not Found")))  # type: ignore[arg-type]  # an async function
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ConnectFailed):
            await dial(url)
    while len(os.listdir("/proc/self/fd")) > before:  # the server's ends go with the next turns
        await asyncio.sleep(0)


# What is sent.


async def test_the_request_is_what_was_configured(stack: AsyncExitStack) -> None:
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(peer: Raw) -> None:
        seen.set_result(await accept_upgrade(peer))
        await peer.reader.read()

    url = await serve_raw(stack, serve)
    pipe = await dial(f"{url}/a b/ü", authorization="Bearer sesame", headers={"Cookie": "k=v", "X-Key": "1"})
    await gone(Recorder(pipe).start())
    lines = (await seen).split("\r\n")
    assert lines[0] == "GET /a%20b/%C3%BC HTTP/1.1"
    assert {"Authorization: Bearer sesame", "Cookie: k=v", "X-Key: 1"} <= set(lines)
    assert f"Host: {url.removeprefix('ws://')}" in lines
    assert "Sec-WebSocket-Protocol: echostream.v1" in lines
    assert not any(line.lower().startswith(("sec-websocket-extensions", "origin")) for line in lines)


async def test_paths_with_signs_of_every_kind_are_found(stack: AsyncExitStack) -> None:
    for path in ("/ü", "/a b", "/a%25b", "/a+b;c=d,e@f", "/x/../y"):
        listener = await listen(stack, f"ws://127.0.0.1:0{path}")
        await gone(Recorder(await dial(listener.addresses[0])).start())


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("\u65e5\u672c.example", "xn--wgv71a.example"),
        ("[fe80::1%eth0]", "[fe80::1]"),
    ],
)
async def test_a_host_is_named_in_ascii_and_without_its_zone(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch, host: str, sent: str
) -> None:
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(peer: Raw) -> None:
        seen.set_result(await accept_upgrade(peer))
        await peer.reader.read()

    port = Url.parse(await serve_raw(stack, serve)).port
    monkeypatch.setattr(
        "echostream_websocket.dialing.connect_network", lambda url: connect_network(Url("ws", "127.0.0.1", url.port))
    )
    await gone(Recorder(await dial(f"ws://{host}:{port}")).start())
    assert f"Host: {sent}:{port}" in (await seen).split("\r\n")


@pytest.mark.parametrize("options", [{}, {"proxy": "http://127.0.0.1:1"}])
async def test_a_host_that_no_request_could_name_is_told(options: dict[str, object]) -> None:
    for host in ("a" * 64, "a..example", "a b", "a\x7fb"):
        with pytest.raises(ConnectFailed, match="is not known; is it spelt right"):
            await dial(f"ws://{host}:1", **options)


@pytest.mark.parametrize("options", [{"authorization": "Bearer x"}, {"headers": {"Cookie": "x"}}])
async def test_secrets_are_not_sent_in_the_clear_to_other_machines(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"readable on the way; dial wss://") as caught:
        await dial("ws://server.invalid:1", **options)
    assert caught.value.key in options
    with pytest.raises(ConnectFailed, match="is not known"):
        await dial("ws://server.invalid:1", insecure_authorization=True, **options)


@pytest.mark.parametrize("options", [{"authorization": "Bearer x"}, {"headers": {"Cookie": "x"}}])
async def test_secrets_for_this_machine_do_not_go_to_a_proxy_elsewhere_in_the_clear(options: dict[str, object]) -> None:
    for proxy in ("http://proxy.invalid:1", "http://["):
        with pytest.raises(ConfigError, match=r"readable on the way; dial wss://"):
            await dial("ws://localhost:1", proxy=proxy, **options)
    with pytest.raises(ConnectFailed, match=r"the proxy http://proxy.invalid:1 for .* is not known"):
        await dial("ws://localhost:1", proxy="http://proxy.invalid:1", insecure_authorization=True, **options)
    with pytest.raises(ConnectFailed, match="nobody listens at"):
        await dial("ws://localhost:1", proxy="http://127.0.0.1:1", **options)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.4.5", "[::1]", "localhost", "a.localhost"])
async def test_this_machine_is_no_other(host: str) -> None:
    with pytest.raises(ConnectFailed):
        await dial(f"ws://{host}:1", authorization="Bearer x")


@pytest.mark.parametrize(
    ("url", "said"),
    [("ws:///x", "has no host to connect to"), ("ws://127.0.0.1:0", "port 0 is for listeners only")],
)
async def test_a_wrong_url_is_told(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await dial(url)


async def test_without_a_port_the_schemes_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    async def connect(url: object) -> None:
        asked.append(getattr(url, "port", None))
        raise ConnectFailed("enough")

    monkeypatch.setattr("echostream_websocket.dialing.connect_network", connect)
    for url in ("ws://127.0.0.1/x", "wss://127.0.0.1/x"):
        with pytest.raises(ConnectFailed, match="enough"):
            await dial(url)
    assert asked == [80, 443]


async def test_wss_to_a_server_without_tls_is_told(stack: AsyncExitStack) -> None:
    listener = await listen(stack)
    with pytest.raises(ConnectFailed, match=r"is it a server without TLS\? Then its URL begins with ws://"):
        await dial(listener.addresses[0].replace("ws://", "wss://"))


async def test_a_certificate_that_is_not_trusted_is_told(stack: AsyncExitStack, certificate: dict[str, str]) -> None:
    tls = {"certificate": certificate["leaf"], "private_key": certificate["leaf"]}
    listener = await listen(stack, "wss://127.0.0.1:0/x", tls=tls)
    with pytest.raises(ConnectFailed, match=r"signed by an authority that is not trusted: .*tls\.ca"):
        await dial(listener.addresses[0])


async def test_a_client_certificate_that_is_demanded_is_told(
    stack: AsyncExitStack, certificate: dict[str, str]
) -> None:
    tls = {"certificate": certificate["leaf"], "private_key": certificate["leaf"], "client_ca": certificate["ca"]}
    listener = await listen(stack, "wss://127.0.0.1:0", tls=tls)
    with pytest.raises(ConnectFailed, match="demands a client certificate"):
        await dial(listener.addresses[0], tls={"ca": certificate["ca"]})
