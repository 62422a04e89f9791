"""Our dialer against aioquic's server, as it comes; and what a user is told when there is no session."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest

from echostream_core.errors import ConnectFailed, ConnectionLost
from echostream_core.types import Priority
from echostream_webtransport.capsules import close_capsule
from echostream_webtransport.codes import H3, code_to_wire
from plugins.quic.tests.conftest import Authority
from plugins.quic.tests.recording import LogLines, Recorder
from plugins.webtransport.tests.raw import headers as header_frame
from plugins.webtransport.tests.sessions import dial, end, serve
from plugins.webtransport.tests.stock import Stock, stock_client, stock_server

LOOPS = {"asyncio": asyncio.SelectorEventLoop}
"""The foreign end runs on the same loop; ours is on both in the other modules."""

PAYLOAD = bytes(range(256)) * 2_000


class Accepting(Stock):
    """Accepts every session, and writes back what comes on its streams."""

    all: list[Accepting]
    status = b"200"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.all.append(self)
        self.sent: dict[int, int] = {}

    def on_request(self, _: Stock, stream_id: int, headers: dict[bytes, bytes]) -> None:
        self.asked = headers
        self.h3.send_headers(stream_id, [(b":status", self.status)], end_stream=self.status != b"200")

    def _take(self, event: Any) -> None:
        super()._take(event)
        stream_id = event.stream_id
        if stream_id in self.data and not stream_id & 1:
            new = bytes(self.data[stream_id][self.sent.get(stream_id, 0) :])
            self.sent[stream_id] = len(self.data[stream_id])
            self._quic.send_stream_data(stream_id, new, stream_id in self.ended)


def kind(**attributes: Any) -> type[Accepting]:
    """A server of this test's own."""
    return type("Own", (Accepting,), {"all": [], **attributes})


async def near(
    stack: AsyncExitStack, tls: Authority, server: type[Accepting], **given: Any
) -> tuple[Recorder, Accepting]:
    port = await stack.enter_async_context(stock_server(tls.issue("127.0.0.1"), server))
    recorder = Recorder(await dial(f"wt://127.0.0.1:{port}/some/path", tls={"ca": tls.path}, **given)).start()
    stack.push_async_callback(end, recorder)
    return recorder, server.all[0]


async def test_a_foreign_server_is_dialled(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        recorder, server = await near(stack, authority, kind(), headers={"X-Tenant": "a"})
        assert server.asked[b":path"] == b"/some/path"
        assert server.asked[b":protocol"] == b"webtransport"
        assert server.asked[b":scheme"] == b"https"
        assert server.asked[b"x-tenant"] == b"a"
        assert b"origin" not in server.asked
        assert recorder.connection.peer_address.endswith("/some/path")
        opened = [recorder.open(Priority.CONTROL), *(recorder.open() for _ in range(150))]  # its limit is 128
        for substream in opened:
            substream.write(PAYLOAD[:5_000], end=substream is not opened[0])
        for substream in opened:
            assert await substream.received(5_000) == PAYLOAD[:5_000]
        for substream in opened[1:]:
            await substream.ended()


async def test_a_name_with_other_letters_is_asked_for_as_http_has_it(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        server = kind()
        port = await stack.enter_async_context(stock_server(authority.issue("xn--bcher-kva.example"), server))

        async def found(*_: Any, **__: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
        recorder = Recorder(await dial(f"wt://bücher.example:{port}/x", tls={"ca": authority.path})).start()
        await end(recorder)
        assert server.all[0].asked[b":authority"] == b"xn--bcher-kva.example:%d" % port


async def test_its_streams_datagrams_and_resets_are_understood(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        recorder, server = await near(stack, authority, kind())
        recorder.open(Priority.CONTROL).write(b"control")
        stream_id = server.open(0, b"from the server")
        far = await recorder.substream(0)
        assert await far.received(15) == b"from the server"
        far.write(PAYLOAD, end=True)
        assert await server.received(stream_id, len(PAYLOAD)) == PAYLOAD
        server._quic.reset_stream(stream_id, code_to_wire(99))
        server.h3.send_datagram(0, b"datagram")
        server.transmit()
        await far.happens("reset")
        assert far.reset_code == 99
        await recorder.until(lambda: recorder.datagrams)
        recorder.send_datagram(b"back")
        await server.until(lambda: server.datagrams)
        assert server.datagrams == [b"back"]
        assert recorder.datagrams == [b"datagram"]


async def test_its_close_arrives_with_code_and_reason(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        recorder, server = await near(stack, authority, kind())
        server.h3.send_data(0, close_capsule(4_711, "good night"), end_stream=True)
        server.transmit()
        error = await recorder.ended()
        assert isinstance(error, ConnectionLost)
        assert error.close_code == 4_711
        assert "good night" in str(error)
        assert (await server.end())[0] == H3.NO_ERROR


async def test_our_close_arrives_with_code_and_reason(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        recorder, server = await near(stack, authority, kind())
        recorder.close(12, "done here")
        await server.until(lambda: 0 in server.ended)
        assert bytes(server.bodies[0]) == close_capsule(12, "done here")
        assert await recorder.ended() is None
        assert await server.end() == (H3.NO_ERROR, "")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (b"404", "HTTP status 404: nobody listens at this path"),
        (b"403", "HTTP status 403: the server does not admit this origin"),
        (b"401", "HTTP status 401: the server wants authorization"),
        (b"418", "HTTP status 418$"),
        (b"302", "HTTP status 302$"),
    ],
)
async def test_a_refusal_is_told_with_its_status(status: bytes, said: str, authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ConnectFailed, match=rf"no session with wt://127\.0\.0\.1:\d+/some/path: {said}"):
            await near(stack, authority, kind(status=status))


async def test_a_preliminary_answer_is_waited_past(authority: Authority) -> None:
    def answer(self: Accepting, _: Stock, stream_id: int, headers: dict[bytes, bytes]) -> None:
        self.h3.send_headers(stream_id, [(b":status", b"103")])
        self.h3.send_headers(stream_id, [(b":status", b"200")])

    async with AsyncExitStack() as stack:
        recorder, _ = await near(stack, authority, kind(on_request=answer))
        assert not recorder.closed


async def test_a_server_without_webtransport_is_told_apart(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ConnectFailed, match="speaks HTTP/3 but offers no WebTransport"):
            await near(stack, authority, kind(webtransport=False))


async def test_a_server_that_gives_up_the_request_is_told_apart(authority: Authority) -> None:
    def give_up(self: Accepting, _: Stock, stream_id: int, headers: dict[bytes, bytes]) -> None:
        self._quic.reset_stream(stream_id, H3.REQUEST_REJECTED)

    async with AsyncExitStack() as stack:
        with pytest.raises(ConnectFailed, match="the server gave up the request"):
            await near(stack, authority, kind(on_request=give_up))


async def test_an_answer_that_is_none_fails_the_dial_at_once(authority: Authority) -> None:
    answers = [
        (b"", True, "it has no headers"),
        (header_frame((":status", "103")), True, "it has no headers"),
        (header_frame((":status", "abc")), True, "has invalid value"),
        (header_frame((":status", "200"), ("Upper", "case")), False, "invalid characters"),
    ]
    waiting = iter(answers)

    def send(self: Accepting, _: Stock, stream_id: int, headers: dict[bytes, bytes]) -> None:
        answer, ends, _said = next(waiting)
        self._quic.send_stream_data(stream_id, answer, ends)

    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(stock_server(authority.issue("127.0.0.1"), kind(on_request=send)))
        for _, _, said in answers:
            with pytest.raises(ConnectFailed, match=rf"the server's answer is malformed: .*{said}"):
                await dial(f"wt://127.0.0.1:{port}", tls={"ca": authority.path})


async def test_a_server_that_closes_instead_of_answering_is_told_apart(authority: Authority) -> None:
    def leave(self: Accepting, _: Stock, stream_id: int, headers: dict[bytes, bytes]) -> None:
        self.close(error_code=H3.EXCESSIVE_LOAD, reason_phrase="too busy")

    async with AsyncExitStack() as stack:
        with pytest.raises(ConnectFailed, match=r"ended the connection with H3_EXCESSIVE_LOAD .*: too busy"):
            await near(stack, authority, kind(on_request=leave))


async def test_a_server_that_speaks_quic_but_not_http3_is_told_apart(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(stock_server(authority.issue("127.0.0.1"), kind(), alpn="hq-interop"))
        with pytest.raises(ConnectFailed, match=r"speaks QUIC but not h3 \(HTTP/3\)"):
            await dial(f"wt://127.0.0.1:{port}", tls={"ca": authority.path})


async def test_certificates_are_verified_as_over_quic(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        tls = authority.issue("example.org")
        server = await serve(stack, tls=tls)
        unknown = await serve(stack)
        with pytest.raises(ConnectFailed, match="is not trusted"):
            await dial(unknown.url, tls={})
        with pytest.raises(ConnectFailed, match="is for another name"):
            await dial(server.url, tls={"ca": authority.path})
        with pytest.raises(ConnectFailed, match="is not the pinned one"):
            await dial(server.url, tls={"pin": "sha256:" + "00" * 32})
        assert server.accepted == []
        recorder = Recorder(await dial(server.url, tls={"ca": authority.path, "server_name": "example.org"})).start()
        await end(recorder)


async def test_a_secret_is_not_sent_to_a_server_with_another_certificate(authority: Authority, log: LogLines) -> None:
    async with AsyncExitStack() as stack:
        server = kind()
        port = await stack.enter_async_context(stock_server(authority.issue("127.0.0.1"), server))
        with pytest.raises(ConnectFailed, match="pinned"):
            await dial(f"wt://127.0.0.1:{port}", tls={"pin": "sha256:" + "11" * 32}, authorization="Bearer secret")
        await server.all[0].end()
        assert server.all[0].headers == {}
    assert log.lines == []  # its SETTINGS came with its certificate: nobody has read them


async def test_a_server_that_never_answers_the_request_is_told_from_one_that_is_not_there(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ConnectFailed, match=r"the server has not answered within 0\.15 s"):
            await near(stack, authority, kind(on_request=lambda *_: None), idle_timeout_s=0.15)


async def test_nobody_answers() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack)
        await server.listener.close()
        with pytest.raises(ConnectFailed, match=r"nobody answers at wt://127\.0\.0\.1:\d+/session"):
            await asyncio.wait_for(dial(server.url), 5)


async def test_a_dial_that_is_cancelled_leaves_nothing_behind(authority: Authority) -> None:
    class Silent(Accepting):
        all: list[Accepting] = []  # noqa: RUF012  # of this test only

        def on_request(self, _: Stock, stream_id: int, headers: dict[bytes, bytes]) -> None:
            """Never answers."""

    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(stock_server(authority.issue("127.0.0.1"), Silent))
        dialling = asyncio.ensure_future(dial(f"wt://127.0.0.1:{port}", tls={"ca": authority.path}))
        while not (Silent.all and Silent.all[0].headers):
            await asyncio.sleep(0.005)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await Silent.all[0].end()


async def test_stock_client_with_another_protocol_is_refused_in_the_handshake() -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack)
        with pytest.raises(ConnectionError):
            async with stock_client(server.address, alpn="hq-interop"):
                pass
