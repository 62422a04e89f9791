"""TLS: who is trusted, and what each end is told when it goes wrong."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from echostream_certs import development_pair, pin_of, self_signed
from echostream_core.errors import ConfigError, ConnectFailed, ConnectionLost
from echostream_core.types import Url
from echostream_tcp.tls_pipe import TlsPipe
from plugins.tcp.tests.conftest import Authority
from plugins.tcp.tests.recording import Ends, LogLines, Recorder, connect, dial, listen, raw_socket, reset

ANY = Url.parse("tls://127.0.0.1:0")
PEER = r"tls://127\.0\.0\.1:\d+"

Noise = Callable[[], list[str]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test leaves open."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def server(authority: Authority) -> dict[str, object]:
    """A listener's settings: a certificate for this machine."""
    return {"tls": authority.issue("localhost", "127.0.0.1", "::1")}


@pytest.fixture
def client(authority: Authority) -> dict[str, object]:
    """A dialer's settings: trust in that certificate's authority."""
    return {"tls": {"ca": authority.path}}


def files(folder: Path, name: str, **how: object) -> dict[str, str]:
    """``tls`` settings with a self-signed certificate."""
    pem, key = self_signed(["127.0.0.1", "localhost"], validity=timedelta(days=1), **how)  # type: ignore[arg-type]
    (folder / f"{name}.pem").write_bytes(pem)
    (folder / f"{name}.key").write_bytes(key)
    return {"certificate": str(folder / f"{name}.pem"), "private_key": str(folder / f"{name}.key")}


async def refused(server: dict[str, object], client: dict[str, object], stack: AsyncExitStack) -> str:
    """What a dial that must fail says, without the port."""
    listener = await listen(ANY, server, stack)
    with pytest.raises(ConnectFailed) as caught:
        await dial(listener.addresses[0], client)
    return re.sub(r"(127\.0\.0\.1):\d+", r"\1:PORT", str(caught.value))


# Who is trusted.


async def exchange(ends: Ends) -> None:
    ends.near.write(b"ping")
    assert await ends.far.received(4) == b"ping"
    ends.far.write(b"pong")
    assert await ends.near.received(4) == b"pong"


async def test_a_certificate_of_a_trusted_authority_is_accepted(
    server: dict[str, object], client: dict[str, object], stack: AsyncExitStack
) -> None:
    ends = await connect(ANY, server, stack, dial_options=client)
    await exchange(ends)
    assert ends.near.pipe.negotiated
    assert ends.far.pipe.negotiated
    assert ends.near.pipe.capabilities.encrypted
    assert ends.near.pipe.peer_identity == "localhost"
    assert ends.far.pipe.peer_identity is None
    assert not ends.far.pipe.capabilities.peer_identity


async def test_the_systems_authorities_are_not_trusted_with_what_they_did_not_sign(
    server: dict[str, object], stack: AsyncExitStack, log: LogLines
) -> None:
    assert await refused(server, {}, stack) == (
        "the certificate of tls://127.0.0.1:PORT is signed by an authority that is not trusted: trust its authority "
        "with tls.ca, or exactly this certificate with tls.pin, or set tls.dev = true on both ends if it is the "
        "development certificate"
    )
    assert re.fullmatch(
        f"{PEER}: turned away {PEER}: it refused the connection: it does not trust our certificate's authority",
        (await log.wait())[0],
    )


async def test_another_authority_is_not_trusted(
    server: dict[str, object], other_authority: Authority, stack: AsyncExitStack
) -> None:
    text = await refused(server, {"tls": {"ca": other_authority.path}}, stack)
    assert "is signed by an authority that is not trusted" in text


async def test_a_self_signed_certificate_is_refused_with_three_ways_out(
    tmp_path: Path, stack: AsyncExitStack, log: LogLines, noise: Noise
) -> None:
    text = await refused({"tls": files(tmp_path, "own")}, {}, stack)
    assert text == (
        "the certificate of tls://127.0.0.1:PORT is self-signed and not trusted: trust its authority with tls.ca, "
        "or exactly this certificate with tls.pin, or set tls.dev = true on both ends if it is the development "
        "certificate"
    )
    assert "it refused the connection" in (await log.wait())[0]
    assert noise() == []


async def test_a_self_signed_certificate_can_be_trusted_as_its_own_authority(
    tmp_path: Path, stack: AsyncExitStack
) -> None:
    own = files(tmp_path, "own")
    await exchange(await connect(ANY, {"tls": own}, stack, dial_options={"tls": {"ca": own["certificate"]}}))


async def test_the_pinned_certificate_is_accepted_whoever_signed_it(tmp_path: Path, stack: AsyncExitStack) -> None:
    own = files(tmp_path, "own")
    pin = pin_of(own["certificate"])
    ends = await connect(
        ANY, {"tls": own}, stack, dial_options={"tls": {"pin": pin.upper().replace("SHA256", "sha256")}}
    )
    await exchange(ends)
    assert ends.near.pipe.peer_identity == pin


async def test_any_other_certificate_than_the_pinned_one_is_refused_and_shown(
    authority: Authority, tmp_path: Path, stack: AsyncExitStack
) -> None:
    shown = authority.issue("127.0.0.1")
    text = await refused({"tls": shown}, {"tls": {"pin": pin_of(files(tmp_path, "own")["certificate"])}}, stack)
    assert text == (
        f"the certificate of tls://127.0.0.1:PORT is not the pinned one but {pin_of(shown['certificate'])}: "
        "somebody is in between, or it was renewed and tls.pin must be changed"
    )


async def test_dev_on_both_ends_needs_nothing_else(stack: AsyncExitStack) -> None:
    ends = await connect(ANY, {"tls": {"dev": True}}, stack)
    await exchange(ends)
    assert ends.near.pipe.peer_identity == development_pair().pin
    assert not ends.near.pipe.capabilities.peer_identity  # it proves no more than who may read that file


async def test_dev_against_another_users_certificate_says_what_dev_is_for(
    server: dict[str, object], stack: AsyncExitStack
) -> None:
    text = await refused(server, {"tls": {"dev": True}}, stack)
    assert text.startswith("tls://127.0.0.1:PORT does not show this user's development certificate but sha256:")
    assert "tls.dev works between processes of one user on one machine" in text


async def test_an_expired_certificate_is_refused_with_its_date(
    authority: Authority, client: dict[str, object], stack: AsyncExitStack, noise: Noise
) -> None:
    now = datetime.now(UTC)
    end = now - timedelta(days=3)
    expired = authority.issue("127.0.0.1", not_before=now - timedelta(days=9), not_after=end)
    assert await refused({"tls": expired}, client, stack) == (
        f"the certificate of tls://127.0.0.1:PORT has expired on {end.date().isoformat()}: "
        "the server needs a new one (is this machine's clock right?)"
    )
    assert noise() == []


async def test_a_certificate_of_the_future_is_refused(
    authority: Authority, client: dict[str, object], stack: AsyncExitStack
) -> None:
    now = datetime.now(UTC)
    young = authority.issue("127.0.0.1", not_before=now + timedelta(days=1), not_after=now + timedelta(days=2))
    assert await refused({"tls": young}, client, stack) == (
        "the certificate of tls://127.0.0.1:PORT is not valid yet: is this machine's clock right?"
    )


async def test_a_certificate_for_another_host_is_refused(
    authority: Authority, client: dict[str, object], stack: AsyncExitStack
) -> None:
    assert await refused({"tls": authority.issue("db.example")}, client, stack) == (
        "the certificate of tls://127.0.0.1:PORT is not for '127.0.0.1': connect by a name that stands in it, "
        "or set tls.server_name to one"
    )


async def test_server_name_is_asked_for_and_verified_in_place_of_the_host(
    authority: Authority, stack: AsyncExitStack
) -> None:
    server: dict[str, object] = {"tls": authority.issue("db.example")}
    how: dict[str, object] = {"tls": {"ca": authority.path, "server_name": "db.example"}}
    await exchange(await connect(ANY, server, stack, dial_options=how))
    wrong: dict[str, object] = {"tls": {"ca": authority.path, "server_name": "web.example"}}
    assert "is not for 'web.example'" in await refused(server, wrong, stack)


async def test_a_name_that_cannot_be_asked_for_is_an_error_of_configuration(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"^'\.example' cannot be the name of a TLS server: ") as caught:
        await dial("tls://127.0.0.1:1", {"tls": {"ca": authority.path, "server_name": ".example"}})
    assert caught.value.key == "tls.server_name"


# Client certificates.


async def test_a_client_certificate_tells_who_the_dialer_is(
    server: dict[str, object], authority: Authority, other_authority: Authority, stack: AsyncExitStack
) -> None:
    server["tls"]["client_ca"] = other_authority.path  # type: ignore[index]
    own = other_authority.issue("billing.example")
    ends = await connect(ANY, server, stack, dial_options={"tls": {"ca": authority.path, **own}})
    await exchange(ends)
    assert ends.far.pipe.peer_identity == "billing.example"
    assert ends.far.pipe.capabilities.peer_identity


async def told(server: dict[str, object], client: dict[str, object], stack: AsyncExitStack, log: LogLines) -> str:
    """What a dialer is told whose certificate is not wanted. With TLS 1.3 that comes after its handshake.

    It has sent more by then, as sessions do, which must not cost it the explanation.
    """
    listener = await listen(ANY, server, stack)
    near = Recorder(await dial(listener.addresses[0], client))
    near.write(b"SETUP")
    await log.wait()
    for _ in range(3):
        near.write(b"and more")
        await asyncio.sleep(0.01)  # let a reset arrive if there is one: it would be faster than we look
    error = await near.start().ended()
    assert isinstance(error, ConnectionLost)
    near.check_rules()
    return re.sub(r"(127\.0\.0\.1):\d+", r"\1:PORT", str(error))


async def test_without_a_client_certificate_both_ends_say_what_is_missing(
    server: dict[str, object], client: dict[str, object], authority: Authority, stack: AsyncExitStack, log: LogLines
) -> None:
    server["tls"]["client_ca"] = authority.path  # type: ignore[index]
    assert await told(server, client, stack, log) == (
        "tls://127.0.0.1:PORT refused the connection: it demands a client certificate: "
        "set tls.certificate and tls.private_key"
    )
    assert (await log.wait())[0].endswith("it shows no client certificate, and tls.client_ca demands one")


async def test_a_client_certificate_of_another_authority_is_refused(
    server: dict[str, object],
    authority: Authority,
    other_authority: Authority,
    stack: AsyncExitStack,
    log: LogLines,
    noise: Noise,
) -> None:
    server["tls"]["client_ca"] = authority.path  # type: ignore[index]
    own = other_authority.issue("billing.example")
    text = await told(server, {"tls": {"ca": authority.path, **own}}, stack, log)
    assert text == "tls://127.0.0.1:PORT refused the connection: it does not trust our certificate's authority"
    assert "it shows a certificate that does not hold: unable to get local issuer certificate" in (await log.wait())[0]
    assert noise() == []


async def test_an_expired_client_certificate_is_refused(
    server: dict[str, object], authority: Authority, stack: AsyncExitStack, log: LogLines
) -> None:
    server["tls"]["client_ca"] = authority.path  # type: ignore[index]
    now = datetime.now(UTC)
    own = authority.issue("a.example", not_before=now - timedelta(days=9), not_after=now - timedelta(days=3))
    text = await told(server, {"tls": {"ca": authority.path, **own}}, stack, log)
    assert text == "tls://127.0.0.1:PORT refused the connection: our certificate has expired"
    assert "it shows a certificate that does not hold: certificate has expired" in (await log.wait())[0]


# Strangers at a listener: one line each, and it goes on.


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            r"it does not speak TLS but sent an HTTP request, b'GET / HTTP/1\.1\\r\\n",
        ),
        (b"ESTREAM1\x00\x00", r"it does not speak TLS but EchoStream without it: its URL must begin with tls://"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", r"it does not speak TLS: it began with b'SSH-2\.0-OpenSSH_9\.2\\r\\n'"),
        (b"\x00" * 300_000, r"it does not speak TLS: it began with b'\\x00"),
        (b"\x16\x03\x01\x00\x05hello", r"it broke the TLS handshake: "),
        (b"\x15\x03\x03\x00\x02\x02\x30", r"it broke the TLS handshake: unexpected message"),
        (b"\x16", r"it closed the connection during the TLS handshake"),
    ],
    ids=["http", "plain", "ssh", "zeros", "bad-hello", "alert", "one-byte"],
)
async def test_strangers_are_turned_away_with_one_line(
    sent: bytes, said: str, server: dict[str, object], client: dict[str, object], log: LogLines, noise: Noise
) -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(ANY, server, stack, dial_options=client)
        with raw_socket(ends.address) as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            try:
                await loop.sock_sendall(sock, sent)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # turned away already
            line = (await log.wait())[0]
            assert re.match(f"{PEER}: turned away {PEER}: {said}", line), line
        await exchange(ends)
        assert len(log.lines) == 1
        assert log.records[0].levelname == "WARNING"
        assert log.records[0].exc_info is None
        assert noise() == []


async def test_a_browser_gets_an_answer_that_a_person_can_read(
    server: dict[str, object], stack: AsyncExitStack
) -> None:
    url = Url.parse((await listen(ANY, server, stack)).addresses[0])
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b"This port speaks EchoStream over TLS, not HTTP.\n"
    writer.close()
    await writer.wait_closed()


async def test_silence_is_turned_away_after_the_handshake_timeout(
    server: dict[str, object], stack: AsyncExitStack, log: LogLines, noise: Noise
) -> None:
    listener = await listen(ANY, {**server, "handshake_timeout_s": 0.02}, stack)
    with raw_socket(listener.addresses[0]) as silent, raw_socket(listener.addresses[0]) as slow:
        slow.sendall(b"\x16\x03")
        lines = sorted(line.partition("it ")[2] for line in await log.wait(2))
        assert lines == ["did not finish the TLS handshake within 0.02 s", "said nothing for 0.02 s"]
        for sock in (silent, slow):
            sock.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b""
    assert noise() == []


async def test_a_stranger_that_never_reads_is_dropped_all_the_same(
    server: dict[str, object], stack: AsyncExitStack, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echostream_tcp.tls_pipe.LINGER_S", 0.02)
    monkeypatch.setattr(TlsPipe, "_end_our_side", lambda pipe: None)  # as if our last words could never be sent
    listener = await listen(ANY, server, stack)
    with raw_socket(listener.addresses[0]) as sock:
        sock.sendall(b"hello")
        await log.wait()
        sock.setblocking(False)
        try:
            while await asyncio.get_running_loop().sock_recv(sock, 100):
                pass
        except ConnectionResetError:
            pass  # an orderly end will do as well


async def test_a_reset_in_the_handshake_is_one_line(
    server: dict[str, object], stack: AsyncExitStack, log: LogLines, noise: Noise
) -> None:
    listener = await listen(ANY, server, stack)
    sock = raw_socket(listener.addresses[0])
    sock.sendall(b"\x16\x03\x01")
    reset(sock)
    assert "it broke the connection during the TLS handshake" in (await log.wait())[0]
    assert noise() == []


async def test_a_client_without_our_protocol_is_turned_away(
    server: dict[str, object], authority: Authority, stack: AsyncExitStack, log: LogLines
) -> None:
    listener = await listen(ANY, server, stack)
    url = Url.parse(listener.addresses[0])
    context = ssl.create_default_context(cafile=authority.path)
    context.set_alpn_protocols(["h2", "http/1.1"])
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert "it speaks TLS but did not offer echostream/1 (ALPN): no EchoStream client" in (await log.wait())[0]


async def test_who_leaves_without_a_word_is_not_worth_a_warning(
    server: dict[str, object], client: dict[str, object], stack: AsyncExitStack, log: LogLines
) -> None:
    ends = await connect(ANY, server, stack, dial_options=client)
    raw_socket(ends.address).close()
    reset(raw_socket(ends.address))
    near = Recorder(await dial(ends.address, client)).start()  # accepted after those
    near.abort()
    await near.ended()
    await exchange(ends)
    assert log.lines == []


async def test_a_flood_of_strangers_writes_few_lines_and_their_number(server: dict[str, object], log: LogLines) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(ANY, server, stack)
        for _ in range(60):
            with raw_socket(listener.addresses[0]) as sock:
                sock.sendall(b"hello\r\n")
                sock.setblocking(False)
                try:
                    await asyncio.get_running_loop().sock_recv(sock, 1_000)
                except ConnectionResetError:
                    pass
        assert 20 <= len(log.lines) < 60
    shown = len(log.lines) - 1
    assert log.lines[-1].endswith(f": {60 - shown} more of such warnings were left out")


async def test_too_many_unfinished_handshakes_are_turned_away(
    server: dict[str, object], client: dict[str, object], stack: AsyncExitStack, log: LogLines
) -> None:
    listener = await listen(ANY, {**server, "max_handshakes": 2}, stack)
    first, second, third = (stack.enter_context(raw_socket(listener.addresses[0])) for _ in range(3))
    third.setblocking(False)
    assert await asyncio.get_running_loop().sock_recv(third, 1) == b""
    assert "2 handshakes are unfinished (transport.tls.max_handshakes)" in (await log.wait())[0]
    first.sendall(b"hello")
    second.sendall(b"hello")
    await log.wait(3)  # both are turned away: there is room again
    near = Recorder(await dial(listener.addresses[0], client)).start()
    near.abort()
    await near.ended()


async def test_closing_the_listener_drops_unfinished_handshakes_and_keeps_connections(
    server: dict[str, object], client: dict[str, object], stack: AsyncExitStack
) -> None:
    ends = await connect(ANY, server, stack, dial_options=client)
    with raw_socket(ends.address) as waiting:
        waiting.setblocking(False)
        await exchange(ends)  # by now it is accepted
        await ends.listener.close()
        await ends.listener.close()
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(waiting, 1)
    ends.near.write(b"still here")
    await ends.far.until(lambda: ends.far.data.endswith(b"still here"))


# Strange listeners.


async def strange_server(
    stack: AsyncExitStack,
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
    context: ssl.SSLContext | None = None,
) -> str:
    """A listener that is none of ours; its address as tls://."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serve(reader, writer)
        try:
            await reader.read()
        except OSError:
            pass
        writer.close()

    strange = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    stack.callback(strange.close)
    return f"tls://127.0.0.1:{strange.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            r"does not speak TLS: it began with b'SSH-2\.0-OpenSSH_9\.2\\r\\n'; is it an EchoStream server without "
            r"TLS\? Then its URL begins with tcp://",
        ),
        (
            None,
            r"(closed|broke) the connection during the TLS handshake; is it an EchoStream server without TLS\? .*tcp://",
        ),
        (b"\x16\x03\x03\x00\x05hello", r"broke the TLS handshake: [a-z ]+"),
        (b"\x15\x03\x03\x00\x02\x02\x78", r"refused the connection: it speaks TLS but not echostream/1"),
        (
            b"\x15\x03\x03\x00\x02\x02\x46",
            r"refused the connection: it speaks no version of TLS that we do \(1\.2 and 1\.3\)",
        ),
    ],
    ids=["ssh", "closed", "bad-hello", "no-alpn-alert", "version-alert"],
)
async def test_listeners_without_tls_are_named(
    sent: bytes | None, said: str, client: dict[str, object], stack: AsyncExitStack, noise: Noise
) -> None:
    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if sent is None:
            writer.transport.abort()
        else:
            writer.write(sent)

    address = await strange_server(stack, serve)
    with pytest.raises(ConnectFailed) as caught:
        await dial(address, client)
    assert re.fullmatch(f"the peer at {PEER} {said}", str(caught.value)), str(caught.value)
    assert noise() == []


async def test_dialling_tls_to_our_own_plain_listener_says_tcp(
    client: dict[str, object], stack: AsyncExitStack
) -> None:
    def accept(pipe: object) -> None:
        recorder = Recorder(pipe).start()  # type: ignore[arg-type]
        recorder.on_data_hook = Recorder.close  # as the mux does with bytes that it does not understand

    listener = await listen(Url.parse("tcp://127.0.0.1:0"), {}, stack, accept)
    with pytest.raises(ConnectFailed, match=r"Then its URL begins with tcp://$"):
        await dial(listener.addresses[0].replace("tcp:", "tls:"), client)


async def test_a_tls_server_without_our_protocol_is_named(
    server: dict[str, object], client: dict[str, object], stack: AsyncExitStack
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = server["tls"]
    assert isinstance(tls, dict)
    context.load_cert_chain(tls["certificate"], tls["private_key"])
    address = await strange_server(stack, lambda reader, writer: None, context)
    with pytest.raises(ConnectFailed, match=f"^the peer at {PEER} speaks TLS but not echostream/1$"):
        await dial(address, client)


async def test_a_silent_listener_is_given_up_after_the_handshake_timeout(
    client: dict[str, object], stack: AsyncExitStack
) -> None:
    address = await strange_server(stack, lambda reader, writer: None)
    with pytest.raises(ConnectFailed, match=r"said nothing for 0\.02 s; is it an EchoStream server without TLS"):
        await dial(address, {**client, "handshake_timeout_s": 0.02})


async def test_cancelling_a_handshake_leaves_nothing(client: dict[str, object]) -> None:
    loop = asyncio.get_running_loop()
    counts = []
    with socket.create_server(("127.0.0.1", 0)) as strange:
        strange.setblocking(False)
        for _ in range(3):
            task = asyncio.create_task(dial(f"tls://127.0.0.1:{strange.getsockname()[1]}", client))
            peer, _ = await loop.sock_accept(strange)
            with peer:
                assert (await loop.sock_recv(peer, 1)) == b"\x16"
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                with pytest.raises(ConnectionResetError):  # the other end sees it end
                    while True:
                        await loop.sock_recv(peer, 10_000)
            counts.append(open_files())
    assert counts[1] == counts[2]  # the first time, a loop opens some of its own


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_changed_authority_file_is_read_again(
    server: dict[str, object], authority: Authority, other_authority: Authority, tmp_path: Path, stack: AsyncExitStack
) -> None:
    from echostream_tcp.tls_transport import TlsTransport

    listener = await listen(ANY, server, stack)
    trusted = tmp_path / "trusted.pem"
    transport = TlsTransport()
    trusted.write_text(Path(other_authority.path).read_text())
    with pytest.raises(ConnectFailed):
        await dial(listener.addresses[0], {"tls": {"ca": str(trusted)}}, transport)
    trusted.write_text(Path(authority.path).read_text())
    near = Recorder(await dial(listener.addresses[0], {"tls": {"ca": str(trusted)}}, transport)).start()
    near.abort()
    await near.ended()


async def test_tls_1_2_is_still_spoken_and_nothing_older(
    server: dict[str, object], authority: Authority, stack: AsyncExitStack
) -> None:
    listener = await listen(ANY, server, stack)
    url = Url.parse(listener.addresses[0])
    context = ssl.create_default_context(cafile=authority.path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["echostream/1"])
    _, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    writer.close()
    await writer.wait_closed()
