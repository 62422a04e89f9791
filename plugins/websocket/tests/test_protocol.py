"""An established WebSocket: delivery, back-pressure, control frames and every way to its end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack, suppress
from types import SimpleNamespace

import pytest

from echostream_core.capabilities import Capabilities
from echostream_core.errors import CloseCode, ConnectionLost, EndOfStream, RemoteProtocolError
from echostream_core.transport import Pipe, PipeReceiver
from echostream_core.types import Buffer
from echostream_websocket import protocol
from echostream_websocket.messages import MessageSocket
from echostream_websocket.pipe import MESSAGE_BYTES, WebSocketPipe
from plugins.tcp.tests.recording import Recorder, reset
from plugins.websocket.tests.peers import (
    ANY,
    Raw,
    accept_upgrade,
    answer_to,
    connect,
    dial,
    frame,
    listen,
    payload_of,
    raw,
    serve_raw,
    upgraded,
)

BINARY, CONTINUATION, CLOSE, PING, PONG, TEXT = 0x82, 0x80, 0x88, 0x89, 0x8A, 0x81


async def accepted(stack: AsyncExitStack, **options: object) -> tuple[Raw, Recorder]:
    """A raw client, and our end of its WebSocket."""
    ours: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()
    listener = await listen(stack, ANY, ours.set_result, **options)
    return await upgraded(stack, listener), await ours


# Delivery.


@pytest.mark.parametrize("size", [1, 125, 126, MESSAGE_BYTES, MESSAGE_BYTES + 1, 300_000])
async def test_bytes_arrive_as_they_were_sent_in_both_directions(stack: AsyncExitStack, size: int) -> None:
    ends = await connect(stack)
    payload = payload_of(size)
    for sender, receiver in ((ends.near, ends.far), (ends.far, ends.near)):
        sender.write(payload[:1], payload[1:])
        assert await receiver.received(size) == payload


async def test_one_write_is_one_message_and_a_large_one_is_split(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack)
    ours.write(b"a", b"bc")
    ours.write(b"")
    ours.write(b"x" * MESSAGE_BYTES)
    ours.write(b"y" * 3, b"z" * (2 * MESSAGE_BYTES))
    assert await peer.frame() == (BINARY, b"abc")
    assert await peer.frame() == (BINARY, b"x" * MESSAGE_BYTES)
    sizes = [len((await peer.frame())[1]) for _ in range(3)]
    assert sizes == [MESSAGE_BYTES, MESSAGE_BYTES, 3]


async def test_a_message_is_delivered_before_it_is_complete(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack)
    peer.send(BINARY, b"half", length=1_000)
    assert await ours.received(4) == b"half"


async def test_what_comes_with_the_request_is_delivered_when_started(stack: AsyncExitStack) -> None:
    ours: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()
    listener = await listen(stack, accept=ours.set_result)
    peer = await raw(stack, listener.addresses[0])
    request = asyncio.create_task(peer.ask())
    await asyncio.sleep(0)  # the request is written, so the frame is right behind it
    peer.send(BINARY, b"early")
    assert (await request).status == 101
    assert await (await ours).received(5) == b"early"


async def test_what_comes_with_the_answer_is_delivered_when_started(stack: AsyncExitStack) -> None:
    async def serve(peer: Raw) -> None:
        await accept_upgrade(peer)
        peer.send(BINARY, b"early", masked=False)
        await peer.closed()

    near = Recorder(await dial(await serve_raw(stack, serve), proxy="none"))
    await asyncio.sleep(0)
    assert near.events == []
    near.start()
    assert await near.received(5) == b"early"
    near.abort()
    await near.ended()


async def test_a_paused_end_gets_nothing_in_the_midst_of_a_read_and_all_of_it_later(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack)

    def pause(recorder: Recorder) -> None:
        recorder.pause()

    ours.on_data_hook = pause
    peer.writer.write(b"".join(frame(BINARY, bytes([value]), mask=peer.mask) for value in range(50)))
    for count in range(1, 51):
        await ours.until(lambda: ours.paused)
        assert len(ours.data) == count
        await asyncio.sleep(0)
        ours.resume()
    assert bytes(ours.data) == bytes(range(50))


async def test_pausing_and_resuming_within_a_delivery_loses_nothing(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack)

    def blink(recorder: Recorder) -> None:
        recorder.pause()
        recorder.resume()

    ours.on_data_hook = blink
    peer.writer.write(b"".join(frame(BINARY, bytes([value]), mask=peer.mask) for value in range(50)))
    assert await ours.received(50) == bytes(range(50))


async def test_data_before_the_close_is_delivered_first_also_to_a_paused_end(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack)

    def pause(recorder: Recorder) -> None:
        recorder.pause()

    ours.on_data_hook = pause
    frames = (frame(BINARY, b"one", mask=peer.mask), frame(BINARY, b"two", mask=peer.mask))
    peer.writer.write(b"".join((*frames, frame(CLOSE, b"\x03\xe8", mask=peer.mask))))
    await ours.received(3)
    assert ours.closed == []
    ours.on_data_hook = None
    ours.resume()
    await peer.closed()
    await peer.over()
    assert isinstance(await ours.ended(), EndOfStream)
    assert bytes(ours.data) == b"onetwo"


class TlsServer:
    """TLS by hand on one connection: what is sent with TLS's goodbye leaves in one piece."""

    def __init__(self, sock: socket.socket, certificate: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def request(self) -> str:
        """Shake hands, and read the request's head."""
        head = b""
        shaken = False
        while b"\r\n\r\n" not in head:
            try:
                if not shaken:
                    self._tls.do_handshake()
                    shaken = True
                head += self._tls.read(65_536)
            except ssl.SSLWantReadError:
                await self._send()
                self._incoming.write(await asyncio.get_running_loop().sock_recv(self._sock, 65_536))
        return head.decode("latin-1")

    async def last_words(self, data: bytes) -> None:
        """Send ``data`` and the goodbye, and hang up."""
        self._tls.write(data)
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        await self._send()
        self._sock.shutdown(socket.SHUT_WR)

    async def _send(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self._sock, self._outgoing.read())


@pytest.mark.parametrize("step", ["read it all", "close", "abort"])
async def test_what_came_with_the_handshake_is_delivered_although_tls_has_ended_behind_it(
    certificate: dict[str, str], step: str
) -> None:
    loop = asyncio.get_running_loop()

    async def serve(server: socket.socket) -> None:
        sock, _ = await loop.sock_accept(server)
        with sock:
            tls = TlsServer(sock, certificate["leaf"])
            frames = (frame(BINARY, b"one"), frame(BINARY, b"two"), frame(CLOSE, b"\x03\xf0why"))
            await tls.last_words(answer_to(await tls.request()) + b"".join(frames))
            with suppress(ConnectionError):
                await loop.sock_recv(sock, 1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        serving = asyncio.create_task(serve(server))
        address = f"wss://127.0.0.1:{server.getsockname()[1]}"
        pipe = await dial(address, tls={"ca": certificate["ca"]})
        await serving
        near = Recorder(pipe)
        near.on_data_hook = Recorder.pause
        near.start()
        await near.received(3)
        assert near.closed == []
        near.on_data_hook = None
        if step == "read it all":
            near.resume()
            error = await near.ended()
            assert isinstance(error, ConnectionLost)
            assert "code 1008 (against its policy): 'why'" in str(error)
            assert bytes(near.data) == b"onetwo"
        else:
            getattr(near, step)()
            assert await near.ended() is None
            assert bytes(near.data) == b"one"
        near.check_rules()


async def test_a_writer_is_stopped_by_a_reader_that_does_not_read_and_told_when_it_does(stack: AsyncExitStack) -> None:
    ends = await connect(stack)
    ends.far.pause()
    block = payload_of(MESSAGE_BYTES)
    count = 1
    while ends.near.write(block):
        count += 1
        assert count < 1_000, "write never answers False"
    assert "writable" not in ends.near.events
    ends.far.resume()
    await ends.near.until(lambda: "writable" in ends.near.events)
    assert await ends.far.received(count * len(block)) == block * count


# Control frames.


async def test_a_ping_is_answered_with_its_payload(stack: AsyncExitStack) -> None:
    peer, _ = await accepted(stack)
    peer.send(PING, b"x" * 125)
    peer.send(PONG, b"nobody asked")
    peer.send(PING)
    assert await peer.frame() == (PONG, b"x" * 125)
    assert await peer.frame() == (PONG, b"")


class FullPipe(Pipe):
    """A pipe below that says when it has room."""

    capabilities = Capabilities()
    local_address = peer_address = "tcp://far:1"

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.room = True
        self.calls: list[str] = []

    def start(self, receiver: PipeReceiver) -> None:
        self.calls.append("start")

    def write(self, buffers: object) -> bool:
        assert isinstance(buffers, (list, tuple))
        self.written.append(b"".join(buffers))
        return self.room

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


class Quiet:
    """A receiver that only counts."""

    def __init__(self) -> None:
        self.writable = 0

    def on_data(self, data: Buffer) -> None:
        pass

    def on_writable(self) -> None:
        self.writable += 1

    def on_closed(self, error: object) -> None:
        pass


async def test_pings_to_a_full_pipe_cost_one_answer_and_no_memory() -> None:
    lower, receiver = FullPipe(), Quiet()
    pipe = WebSocketPipe(
        lower,
        client=False,
        capabilities=Capabilities(),
        peer_address="ws://far:1",
        local_address="ws://near:1",
        max_message_bytes=1_000,
    )
    pipe.start(receiver)
    lower.room = False
    assert not pipe.write((b"full",))
    for number in range(1_000):
        pipe.on_data(frame(PING, number.to_bytes(2, "big"), mask=b"\1\2\3\4"))
    assert len(lower.written) == 1
    pipe.on_writable()
    assert lower.written[1:] == [bytes((PONG, 2)) + (999).to_bytes(2, "big")]
    assert receiver.writable == 0, "the answer has filled the pipe again"
    lower.room = True
    pipe.on_writable()
    assert receiver.writable == 1
    pipe.abort()


async def test_no_pings_are_sent_unless_configured(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack, ping_interval_s=0.005)
    assert await peer.frame() == (PING, b"")
    assert await peer.frame() == (PING, b"")
    assert ours.events == []
    _, silent = await accepted(stack)
    pipe = silent.pipe
    assert isinstance(pipe, WebSocketPipe)
    assert pipe._ping_timer is None


# How it ends.


async def test_our_close_is_the_peers_orderly_end_after_what_was_queued(stack: AsyncExitStack) -> None:
    for closer in ("near", "far"):
        ends = await connect(stack)
        one, other = (ends.near, ends.far) if closer == "near" else (ends.far, ends.near)
        payload = payload_of(500_000)
        one.write(payload)
        one.close()
        one.close()
        assert isinstance(await other.ended(), EndOfStream)
        assert await one.ended() is None
        assert bytes(other.data) == payload


async def test_our_close_frame_has_code_1000_and_data_behind_it_is_dropped(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack)
    ours.close()
    assert await peer.closed() == (1_000, b"")
    peer.send(BINARY, b"too late")
    peer.send(PING, b"no answer any more")
    peer.send(CLOSE, b"\x03\xe8")
    assert await peer.over() == b""
    assert await ours.ended() is None
    assert ours.data == b""


@pytest.mark.parametrize(
    ("payload", "echoed"),
    [(b"", b""), (b"\x03\xe8", b"\x03\xe8"), (b"\x03\xe9going", b"\x03\xe9")],
    ids=["none", "1000", "1001"],
)
async def test_an_orderly_close_is_answered_in_kind(stack: AsyncExitStack, payload: bytes, echoed: bytes) -> None:
    peer, ours = await accepted(stack)
    peer.send(CLOSE, payload)
    assert await peer.frame() == (CLOSE, echoed)
    assert await peer.over() == b""
    assert isinstance(await ours.ended(), EndOfStream)


CODES = {
    1002: CloseCode.PROTOCOL,
    1003: CloseCode.PROTOCOL,
    1007: CloseCode.PROTOCOL,
    1008: None,
    1009: CloseCode.LIMIT,
    1010: CloseCode.PROTOCOL,
    1011: CloseCode.INTERNAL,
    1012: CloseCode.GOING_AWAY,
    1013: CloseCode.GOING_AWAY,
    1014: CloseCode.INTERNAL,
    4321: None,
}


@pytest.mark.parametrize("code", CODES)
async def test_a_close_for_a_reason_is_a_lost_connection_that_tells_it(stack: AsyncExitStack, code: int) -> None:
    peer, ours = await accepted(stack)
    peer.send(CLOSE, code.to_bytes(2, "big") + "wh\ny € ".encode() + b"x" * 100)
    await peer.over()
    error = await ours.ended()
    assert isinstance(error, ConnectionLost)
    assert error.close_code == CODES[code]
    assert f"code {code}" in str(error)
    assert r"wh\ny \u20ac" in str(error)
    assert str(error).isascii()


@pytest.mark.parametrize(
    ("bad", "code", "said"),
    [
        (frame(BINARY, b"x"), 1_002, "not masked"),
        (frame(TEXT, b"hello", mask=b"abcd"), 1_003, "only binary"),
        (frame(0xC2, b"deflated", mask=b"abcd"), 1_002, "compression"),
        (frame(BINARY, b"", mask=b"abcd", length=1_048_577), 1_009, "max_message_bytes is 1048576"),
        (frame(CLOSE, b"\x03\xe8\xff", mask=b"abcd"), 1_007, "UTF-8"),
    ],
    ids=["unmasked", "text", "compressed", "too large", "close reason"],
)
async def test_a_client_that_breaks_the_rules_is_told_and_the_server_goes_on(
    stack: AsyncExitStack, bad: bytes, code: int, said: str
) -> None:
    ends: list[Recorder] = []
    listener = await listen(stack, accept=ends.append)
    peer = await upgraded(stack, listener)
    peer.send(BINARY, b"good")
    peer.writer.write(bad + b"garbage behind it")
    got, reason = await peer.closed()
    assert got == code
    assert said in reason.decode()
    await peer.over()
    error = await ends[0].ended()
    assert isinstance(error, RemoteProtocolError)
    assert said in str(error)
    assert bytes(ends[0].data) == b"good"
    near = Recorder(await dial(listener.addresses[0])).start()
    near.write(b"still there")
    await ends[1].received(11)
    near.abort()
    await near.ended()


async def test_a_message_of_exactly_the_limit_passes(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack, max_message_bytes=1_000)
    peer.send(BINARY, b"x" * 1_000)
    assert len(await ours.received(1_000)) == 1_000
    peer.send(BINARY, b"x" * 1_001)
    assert (await peer.closed())[0] == 1_009
    await peer.over()
    await ours.ended()
    assert len(ours.data) == 1_000


@pytest.mark.parametrize("limit", [125, 1_000, MESSAGE_BYTES - 1])
async def test_two_ends_with_the_same_limit_understand_each_other(stack: AsyncExitStack, limit: int) -> None:
    ends = await connect(stack, max_message_bytes=limit)
    data = payload_of(2 * MESSAGE_BYTES + 1)
    for writer, reader in ((ends.near, ends.far), (ends.far, ends.near)):
        writer.write(data[:limit])
        writer.write(data[limit : limit + 1], data[limit + 1 :])
        assert await reader.received(len(data)) == data


async def test_a_masked_frame_from_a_server_is_refused(stack: AsyncExitStack) -> None:
    told: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    async def serve(peer: Raw) -> None:
        await accept_upgrade(peer)
        peer.send(BINARY, b"x")
        told.set_result(await peer.closed())

    near = Recorder(await dial(await serve_raw(stack, serve))).start()
    assert (await told)[0] == 1_002
    assert isinstance(await near.ended(), RemoteProtocolError)


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_an_end_without_a_close_frame_is_a_loss(stack: AsyncExitStack, how: str) -> None:
    peer, ours = await accepted(stack)
    peer.send(BINARY, b"some", length=100)
    await ours.received(4)
    if how == "end":
        peer.writer.close()
    else:
        sock = peer.writer.get_extra_info("socket")
        reset(SimpleNamespace(setsockopt=sock.setsockopt, close=peer.writer.transport.abort))  # type: ignore[arg-type]
    error = await ours.ended()
    assert isinstance(error, ConnectionLost)
    assert ("without a close frame" if how == "end" else "reset") in str(error)


async def test_a_close_that_is_never_answered_is_bounded(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLOSE_WAIT_S", 0.02)
    monkeypatch.setattr("echostream_tcp.pipe.LINGER_S", 0.02)
    peer, ours = await accepted(stack)
    ours.close()
    assert await ours.ended() is None
    assert await peer.closed() == (1_000, b"")
    assert await peer.reader.read() == b""


async def test_a_dialer_whose_server_does_not_hang_up_hangs_up_itself(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLOSE_WAIT_S", 0.02)

    async def serve(peer: Raw) -> None:
        await accept_upgrade(peer)
        peer.send(CLOSE, b"\x03\xe8", masked=False)
        await peer.closed()
        await peer.reader.read()

    near = Recorder(await dial(await serve_raw(stack, serve))).start()
    assert isinstance(await near.ended(), EndOfStream)


async def test_a_peer_that_breaks_the_rules_and_never_reads_is_cut_off(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLOSE_WAIT_S", 0.02)
    peer, ours = await accepted(stack)
    while ours.write(payload_of(MESSAGE_BYTES)):
        pass
    peer.send(0xFF)
    assert isinstance(await ours.ended(), RemoteProtocolError)


async def test_both_ends_may_close_at_once(stack: AsyncExitStack) -> None:
    ends = await connect(stack)
    ends.near.close()
    ends.far.close()
    assert await ends.near.ended() is None
    assert await ends.far.ended() is None


async def test_closing_and_aborting_before_the_start_is_told_after_it(stack: AsyncExitStack) -> None:
    listener = await listen(stack)
    for end in ("close", "abort"):
        near = Recorder(await dial(listener.addresses[0]))
        getattr(near, end)()
        near.start()
        assert await near.ended() is None
        assert near.violations == []


async def test_a_paused_end_can_close_although_data_waits(stack: AsyncExitStack) -> None:
    peer, ours = await accepted(stack)

    def pause(recorder: Recorder) -> None:
        recorder.pause()

    ours.on_data_hook = pause
    peer.writer.write(b"".join(frame(BINARY, b"x", mask=peer.mask) for _ in range(10)))
    await ours.received(1)
    ours.paused = False
    ours.close()
    assert await peer.closed() == (1_000, b"")
    peer.send(CLOSE, b"\x03\xe8")
    await peer.over()
    assert await ours.ended() is None
    assert bytes(ours.data) == b"x"


async def test_after_the_end_nothing_is_written_and_nothing_fails(stack: AsyncExitStack) -> None:
    ends = await connect(stack)
    ends.near.abort()
    await ends.near.ended()
    assert isinstance(await ends.far.ended(), ConnectionLost)
    for end in (ends.near, ends.far):
        assert end.write(b"late")
        end.pause()
        end.resume()
        end.close()
        end.abort()


# Whole messages.


async def test_message_sockets_carry_texts_and_binaries_whole() -> None:
    lower = FullPipe()
    got: list[str | bytes] = []
    ended: list[object] = []
    socket = MessageSocket(
        lower,
        client=False,
        on_message=lambda _, message: got.append(message),
        on_ended=ended.append,
        max_message_bytes=1_000,
    )
    mask = b"\1\2\3\4"
    socket.on_data(b"")
    socket.on_data(frame(0x01, "hé".encode()[:2], mask=mask) + frame(CONTINUATION, "hé".encode()[2:], mask=mask))
    socket.on_data(frame(BINARY, b"\xff", mask=mask))
    assert got == ["hé", b"\xff"]
    socket.send("hé")
    socket.send(b"\xff")
    assert lower.written == [frame(TEXT, "hé".encode()), frame(BINARY, b"\xff")]
    socket.close(1_001, "bye")
    socket.send("dropped")
    assert lower.written[2:] == [frame(CLOSE, b"\x03\xe9bye")]
    socket.on_data(frame(CLOSE, b"\x03\xe9", mask=mask))
    socket.on_closed(None)
    assert ended == [None]
