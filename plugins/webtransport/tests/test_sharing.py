"""One UDP port for several listeners: the protocol named in the handshake decides, and the path for WebTransport."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from echostream_core import RpcClient, RpcServer, handler
from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.transport import Connection, Listener, Pipe
from echostream_core.types import Url
from echostream_quic.connection import QuicConnection
from echostream_quic.listener import QuicListener
from echostream_quic.tls import fingerprint
from plugins.quic.tests.conftest import Authority
from plugins.quic.tests.recording import LogLines, Recorder
from plugins.quic.tests.recording import dial as dial_quic
from plugins.quic.tests.recording import options as quic_options
from plugins.webtransport.tests.sessions import dial as dial_wt
from plugins.webtransport.tests.sessions import end
from plugins.webtransport.tests.sessions import options as wt_options
from plugins.webtransport.tests.stock import stock_client

PATHS = {"quic": "", "wt": "/session"}
ORDERS = [("quic", "wt"), ("wt", "quic")]


@dataclass
class Both:
    """Two listeners at one port, and what they accept."""

    listeners: dict[str, Listener]
    accepted: dict[str, list[QuicConnection]]

    def url(self, scheme: str) -> str:
        return self.listeners[scheme].addresses[0]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


async def dial(url: str, **given: Any) -> QuicConnection:
    return await (dial_wt if url.startswith("wt") else dial_quic)(url, **given)


async def greet(url: str, **given: Any) -> QuicConnection:
    """Dial, and end the connection again."""
    recorder = Recorder(await dial(url, **given)).start()
    await end(recorder)
    return recorder.connection


async def listen_both(stack: AsyncExitStack, order: tuple[str, str], **tls: Any) -> Both:
    """Listen at a free port with the first, then at the same with the second."""
    from echostream_quic.transport import QuicTransport
    from echostream_webtransport.transport import WebTransportTransport

    both = Both({}, {"quic": [], "wt": []})
    port = 0
    for scheme in order:

        def accept(connection: Connection | Pipe, scheme: str = scheme) -> None:
            recorder = Recorder(connection).start()
            both.accepted[scheme].append(recorder.connection)
            stack.push_async_callback(end, recorder)

        url = Url("" + scheme, "127.0.0.1", port, PATHS[scheme])
        given = {"tls": tls[scheme]} if scheme in tls else {}
        if scheme == "wt":
            listener: Listener = await WebTransportTransport().listen(url, wt_options(**given), accept)
        else:
            listener = await QuicTransport().listen(url, quic_options(**given), accept)
        stack.push_async_callback(listener.close)
        both.listeners[scheme] = listener
        port = Url.parse(listener.addresses[0]).port or 0
    return both


@pytest.fixture(params=ORDERS, ids=["quic first", "wt first"])
async def both(request: pytest.FixtureRequest) -> AsyncIterator[Both]:
    async with AsyncExitStack() as stack:
        yield await listen_both(stack, request.param)


async def test_the_protocol_decides_who_gets_the_connection(both: Both) -> None:
    assert Url.parse(both.url("quic")).port == Url.parse(both.url("wt")).port
    for scheme, count in (("quic", 1), ("wt", 1), ("wt", 2), ("quic", 2)):
        await greet(both.url(scheme))
        assert len(both.accepted[scheme]) == count
    for scheme, accepted in both.accepted.items():
        assert all(connection.local_address == both.url(scheme) for connection in accepted)
        assert all(connection.peer_address.startswith(f"{scheme}://127.0.0.1:") for connection in accepted)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::1]", "[::]", "localhost", ""])
async def test_addresses_of_every_kind_can_be_shared(host: str) -> None:
    if host.startswith("[") and not has_ipv6():
        pytest.skip("no IPv6 here")

    @handler("who")
    def who() -> str:
        return "both"

    async with RpcServer(f"wt://{host}:0", who, tls={"dev": True}) as first:
        port = Url.parse(first.addresses[0]).port
        async with RpcServer(f"quic://{host}:{port}", who, tls={"dev": True}) as second:
            assert len(first.addresses) == len(second.addresses)
            for url in (*first.addresses, *second.addresses):
                async with RpcClient.connect(url, tls={"dev": True}) as client:
                    assert await client.request("who") == "both"


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("keys", ["rsa", "ecdsa"])
async def test_each_has_its_own_certificate_of_any_kind(
    order: tuple[str, str], keys: str, authority: Authority
) -> None:
    import trustme

    kind = trustme.KeyType.RSA if keys == "rsa" else trustme.KeyType.ECDSA
    tls = {"quic": authority.issue("127.0.0.1"), "wt": authority.issue("127.0.0.1", key_type=kind)}
    async with AsyncExitStack() as stack:
        both = await listen_both(stack, order, **tls)
        for scheme in ("quic", "wt"):
            connection = await greet(both.url(scheme), tls={"ca": authority.path})
            certificate = x509.load_pem_x509_certificate(Path(tls[scheme]["certificate"]).read_bytes())
            assert fingerprint(connection.engine.peer_certificate) == fingerprint(certificate)


@pytest.mark.parametrize("leaving", ["quic", "wt"])
async def test_closing_one_leaves_the_other_serving(leaving: str, both: Both) -> None:
    staying = "wt" if leaving == "quic" else "quic"
    kept = Recorder(await dial(both.url(leaving))).start()
    while not both.accepted[leaving]:
        await asyncio.sleep(0.001)
    await both.listeners[leaving].close()
    await both.listeners[leaving].close()
    await greet(both.url(staying))
    with pytest.raises(ConnectFailed, match="speaks QUIC but not"):
        await dial(both.url(leaving))
    substream = kept.open()
    substream.write(b"still here")
    assert len(both.accepted[leaving]) == 1
    await end(kept)
    await both.listeners[staying].close()
    while True:
        try:
            await greet(both.url(staying))
        except ConnectFailed as error:
            assert "nobody" in str(error)
            break


async def test_the_one_that_left_may_come_back(both: Both) -> None:
    from echostream_quic.transport import QuicTransport

    await both.listeners["quic"].close()

    def accept(connection: Connection | Pipe) -> None:
        Recorder(connection).start()

    listener = await QuicTransport().listen(Url.parse(both.url("quic")), quic_options(), accept)
    connection = await greet(both.url("quic"))
    assert connection.error is None
    await greet(both.url("wt"))
    await listener.close()


async def test_a_protocol_that_nobody_speaks_is_refused_in_the_handshake(both: Both, log: LogLines) -> None:
    address = ("127.0.0.1", Url.parse(both.url("wt")).port or 0)
    with pytest.raises(ConnectionError):
        async with stock_client(address, alpn="hq-interop"):
            pass
    await log.wait()
    assert "it does not speak" in log.lines[0]
    assert "h3" in log.lines[0]
    assert "echostream/1" in log.lines[0]


async def test_the_same_protocol_twice_is_an_address_in_use(both: Both) -> None:
    from echostream_quic.transport import QuicTransport
    from echostream_webtransport.transport import WebTransportTransport

    for listening in (
        QuicTransport().listen(Url.parse(both.url("quic")), quic_options(), lambda connection: None),
        WebTransportTransport().listen(Url.parse(both.url("wt")), wt_options(), lambda connection: None),
    ):
        with pytest.raises(ConnectFailed, match="cannot listen on") as error:
            await listening
        assert isinstance(error.value.__cause__, OSError)
        assert error.value.__cause__.errno == errno.EADDRINUSE


async def test_windows_and_limits_are_each_ones_own() -> None:
    from echostream_quic.transport import QuicTransport
    from echostream_webtransport.transport import WebTransportTransport

    async with AsyncExitStack() as stack:
        accepted: list[QuicConnection] = []

        def accept(connection: Connection | Pipe) -> None:
            recorder = Recorder(connection, reads=False).start()
            accepted.append(recorder.connection)
            stack.push_async_callback(end, recorder)

        first = await QuicTransport().listen(
            Url.parse("quic://127.0.0.1:0"),
            quic_options(window_bytes=8_192, max_streams=7, congestion="cubic", max_queued_datagrams=5),
            accept,
        )
        stack.push_async_callback(first.close)
        port = Url.parse(first.addresses[0]).port
        url = f"wt://127.0.0.1:{port}/x"
        second = await WebTransportTransport().listen(
            Url.parse(url), wt_options(window_bytes=16_384, max_streams=11, idle_timeout_s=7.0), accept
        )
        stack.push_async_callback(second.close)
        for address, streams, window, idle in ((first.addresses[0], 7, 8_192, 30.0), (url, 11, 16_384, 7.0)):
            near = Recorder(await dial(address)).start()
            stack.push_async_callback(end, near)
            engine = near.connection.engine
            assert engine._remote_max_streams_bidi == streams
            assert engine._remote_max_stream_data_bidi_remote == window
            assert engine.idle_timeout_s == idle
        queued = [connection._outgoing_datagrams._most for connection in accepted]
        assert queued == [5, 256]
        assert [type(connection.engine._loss._cc).__name__ for connection in accepted] == ["Cubic", "Reno"]


async def test_several_paths_are_several_listeners() -> None:
    from echostream_webtransport.transport import WebTransportTransport

    async with AsyncExitStack() as stack:
        heard: list[str] = []

        async def listen(url: str, **given: Any) -> Listener:
            def accept(connection: Connection | Pipe) -> None:
                heard.append(url.rpartition("/")[2])
                stack.push_async_callback(end, Recorder(connection).start())

            listener = await WebTransportTransport().listen(Url.parse(url), wt_options(**given), accept)
            stack.push_async_callback(listener.close)
            return listener

        first = await listen("wt://127.0.0.1:0/a")
        base = first.addresses[0][:-2]
        await listen(f"{base}/b", origins=["https://b.example"], authorization="Bearer b")
        for path, given in (("a", {}), ("b", {"authorization": "Bearer b"}), ("a", {})):
            await greet(f"{base}/{path}", **given)
        assert heard == ["a", "b", "a"]
        with pytest.raises(ConnectFailed, match="HTTP status 404"):
            await dial(f"{base}/c")
        with pytest.raises(ConfigError, match=r"/c and wt://\S+/a share .* make max_streams the same") as error:
            await listen(f"{base}/c", max_streams=9)
        assert error.value.key == "max_streams"
        await first.close()
        with pytest.raises(ConnectFailed, match="HTTP status 404"):
            await dial(f"{base}/a")
        await greet(f"{base}/b", authorization="Bearer b")


async def test_one_server_listens_with_both() -> None:
    @handler("who")
    def who() -> str:
        return "both"

    async with RpcServer("quic://127.0.0.1:0", who, tls={"dev": True}) as first:
        port = Url.parse(first.addresses[0]).port
        async with RpcServer(
            [f"wt://127.0.0.1:{port}/rpc", f"wt://127.0.0.1:{port}/other"], who, tls={"dev": True}
        ) as second:
            for url in (*first.addresses, *second.addresses):
                async with RpcClient.connect(url, tls={"dev": True}) as client:
                    assert await client.request("who") == "both"
    async with RpcServer([f"wt://127.0.0.1:{port}", f"quic://127.0.0.1:{port}"], who, tls={"dev": True}) as server:
        for url in server.addresses:
            async with RpcClient.connect(url, tls={"dev": True}) as client:
                assert await client.request("who") == "both"


async def test_many_dial_both_at_once(both: Both) -> None:
    dialled = await asyncio.gather(*(dial(both.url(scheme)) for scheme in ("quic", "wt") * 20))
    assert len(both.accepted["quic"]) == len(both.accepted["wt"]) == 20
    await end(*(Recorder(connection).start() for connection in dialled))


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("leaving", ["quic", "wt"])
async def test_a_listener_that_leaves_in_the_middle_of_a_handshake_gets_no_connection(
    order: tuple[str, str], leaving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    staying = "wt" if leaving == "quic" else "quic"
    async with AsyncExitStack() as stack:
        both = await listen_both(stack, order)
        gone = both.listeners[leaving]
        assert isinstance(gone, QuicListener)
        endpoint, tenant = gone._endpoints[0], gone._tenant
        choose = endpoint._choose

        def leave_first(*arguments: Any) -> Any:
            endpoint.leave(tenant)
            return choose(*arguments)

        monkeypatch.setattr(endpoint, "_choose", leave_first)
        with pytest.raises(ConnectFailed, match="speaks QUIC but not"):
            await dial(both.url(leaving))
        await greet(both.url(staying))
        assert both.accepted[leaving] == []


async def test_a_handshake_that_is_under_way_outlives_the_other_listener() -> None:
    async with AsyncExitStack() as stack:
        both = await listen_both(stack, ("quic", "wt"))
        address = ("127.0.0.1", Url.parse(both.url("wt")).port or 0)
        async with stock_client(address) as client:
            await both.listeners["quic"].close()
            await client.session()
            assert len(both.accepted["wt"]) == 1
