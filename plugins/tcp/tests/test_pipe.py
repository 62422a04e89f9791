"""The pipe's contract, on each scheme and each event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from echostream_core.errors import ConnectionLost, EndOfStream, RemoteProtocolError
from echostream_core.transport import Connection, Pipe
from echostream_core.types import Url
from echostream_tcp.pipe import HIGH_WATER_BYTES, RECEIVE_BUFFER_BYTES
from plugins.tcp.tests.recording import Ends, Recorder, connect, dial, listen, raw_socket, reset

BULK = bytes(range(256)) * 16_384  # 4 MiB
"""More than sockets and high-water marks hold together."""


async def fill(recorder: Recorder) -> int:
    """Write until the pipe says stop; how much that was."""
    size = 0
    while recorder.write(BULK[:65_536]):
        size += 65_536
        await asyncio.sleep(0)
    return size + 65_536


async def test_bytes_arrive_in_order_in_both_directions(ends: Ends) -> None:
    ends.near.write(b"one ", bytearray(b"two "), memoryview(b"three"))
    ends.far.write(b"four")
    assert await ends.far.received(13) == b"one two three"
    assert await ends.near.received(4) == b"four"


@pytest.mark.parametrize("size", [1, 16_383, 16_384, 65_536, len(BULK)])
async def test_a_write_of_any_size_arrives_whole(ends: Ends, size: int) -> None:
    ends.near.write(b"head", BULK[:size], b"", memoryview(BULK)[:size], b"")
    assert await ends.far.received(4 + 2 * size) == b"head" + BULK[:size] * 2


async def test_empty_writes_send_nothing_and_do_no_harm(ends: Ends) -> None:
    assert ends.near.write()
    assert ends.near.write(b"")
    assert ends.near.write(b"", b"")
    assert ends.near.write(b"x")
    assert await ends.far.received(1) == b"x"


async def test_write_says_stop_above_the_mark_and_on_writable_follows(ends: Ends) -> None:
    ends.far.pause()
    size = await fill(ends.near)
    assert "writable" not in ends.near.events
    ends.far.resume()
    await ends.near.until(lambda: "writable" in ends.near.events)
    assert len(await ends.far.received(size)) == size
    assert ends.near.events.count("writable") == 1


async def test_write_takes_all_even_above_the_mark(ends: Ends) -> None:
    ends.far.pause()
    size = await fill(ends.near)
    assert not ends.near.write(b"a", BULK, b"b")
    assert not ends.near.write(b"c")
    ends.far.resume()
    data = await ends.far.received(size + len(BULK) + 3)
    assert data[size:] == b"a" + BULK + b"bc"


async def test_no_more_than_the_mark_waits_when_write_says_stop(ends: Ends) -> None:
    ends.far.pause()
    waiting = 0
    while ends.near.write(b"x" * 1_000):
        await asyncio.sleep(0)
        waiting = ends.near.pipe._transport.get_write_buffer_size()  # type: ignore[attr-defined]  # what the test is about
    assert waiting <= HIGH_WATER_BYTES


async def test_pause_holds_data_back_and_resume_delivers_it(ends: Ends) -> None:
    ends.far.pause()
    ends.far.pause()
    ends.near.write(b"held")
    ends.near.write(b" back")
    await round_trip(ends)
    assert ends.far.data == b""
    ends.far.resume()
    ends.far.resume()
    assert await ends.far.received(9) == b"held back"


async def round_trip(ends: Ends) -> None:
    """Let time pass by events, not by the clock: a second connection to the same listener goes there and back."""
    for _ in range(3):
        other = Recorder(await dial(ends.address, {"tls": {"dev": True}} if ends.address.scheme == "tls" else {}))
        other.start().close()
        await other.ended()


async def test_pause_within_on_data_holds_the_rest_back(ends: Ends) -> None:
    ends.far.on_data_hook = Recorder.pause
    ends.near.write(BULK)
    await ends.far.received(1)
    size = len(ends.far.data)
    await round_trip(ends)
    assert len(ends.far.data) == size
    ends.far.on_data_hook = None
    ends.far.resume()
    assert await ends.far.received(len(BULK)) == BULK


async def test_pausing_at_every_piece_loses_nothing(ends: Ends) -> None:
    def pause_and_resume_later(recorder: Recorder) -> None:
        recorder.pause()
        asyncio.get_running_loop().call_soon(recorder.resume)

    ends.far.on_data_hook = pause_and_resume_later
    ends.near.write(BULK)
    assert await ends.far.received(len(BULK)) == BULK


async def test_close_flushes_and_the_peer_sees_an_orderly_end(ends: Ends) -> None:
    ends.far.pause()
    ends.near.write(BULK)
    ends.near.close()
    ends.near.close()
    ends.far.resume()
    assert isinstance(await ends.far.ended(), EndOfStream)
    assert ends.far.data == BULK
    assert await ends.near.ended() is None


async def test_what_the_peer_was_sending_does_not_destroy_our_last_words(ends: Ends) -> None:
    words = b"go away: " + BULK[:100_000]

    def speak_and_close(recorder: Recorder) -> None:
        recorder.write(words)
        recorder.close()

    ends.far.on_data_hook = speak_and_close
    ends.near.pause()
    ends.near.write(BULK)  # most of it is on its way, or not yet sent, when the far end closes
    await ends.far.received(1)
    await round_trip(ends)
    ends.near.resume()
    assert isinstance(await ends.near.ended(), EndOfStream)
    assert ends.near.data == words
    assert await ends.far.ended() is None


async def test_nothing_is_delivered_after_our_own_close(ends: Ends) -> None:
    ends.far.pause()
    ends.near.write(b"too late")
    ends.far.close()
    ends.far.resume()
    assert await ends.far.ended() is None
    assert ends.far.data == b""
    assert ends.far.events == ["closed"]


async def test_both_ends_may_close_at_once(ends: Ends) -> None:
    ends.near.close()
    ends.far.close()
    assert await ends.near.ended() is None
    assert await ends.far.ended() is None


async def test_close_within_on_data_ends_delivery(ends: Ends) -> None:
    ends.far.on_data_hook = Recorder.close
    ends.near.write(BULK)
    assert await ends.far.ended() is None
    assert ends.far.events.count("data") == 1


async def test_abort_ends_at_once_and_drops_what_waits(ends: Ends) -> None:
    ends.far.pause()
    await fill(ends.near)
    ends.near.abort()
    ends.near.abort()
    assert await ends.near.ended() is None
    assert ends.near.events == ["closed"]


async def test_the_peer_of_an_abort_sees_a_loss_and_no_orderly_end(ends: Ends) -> None:
    ends.near.write(b"x")
    await ends.far.received(1)
    ends.near.abort()
    error = await ends.far.ended()
    if ends.address.scheme == "unix":
        assert isinstance(error, (ConnectionLost, EndOfStream))  # Unix sockets have no reset
    else:
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.__cause__, OSError)


async def test_abort_after_close_does_not_wait_for_a_peer_that_does_not_read(ends: Ends) -> None:
    ends.far.pause()
    await fill(ends.near)
    ends.near.close()
    ends.near.abort()
    assert await ends.near.ended() is None


async def test_after_the_end_every_call_is_a_harmless_no_op(ends: Ends) -> None:
    ends.near.close()
    await ends.near.ended()
    await ends.far.ended()
    for recorder in (ends.near, ends.far):
        assert recorder.write(b"nobody", BULK)
        recorder.pause()
        recorder.resume()
        recorder.close()
        recorder.abort()
    await asyncio.sleep(0)
    assert ends.near.events[-1] == ends.far.events[-1] == "closed"


async def test_many_writes_to_a_dead_peer_are_quiet(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    ends.far.abort()
    for _ in range(100):
        ends.near.write(BULK[:65_536])
        await asyncio.sleep(0)
    assert isinstance(await ends.near.ended(), (ConnectionLost, EndOfStream))
    assert not caplog.records


async def test_many_writes_in_one_turn_to_a_dead_peer_are_quiet(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    ends.near.pause()  # so that the loss is found by writing
    ends.far.abort()
    await ends.far.ended()
    await round_trip(ends)
    for _ in range(20):
        ends.near.write(b"nobody hears this")
    assert isinstance(await ends.near.ended(), ConnectionLost)
    assert not caplog.records


async def test_an_error_of_the_receiver_ends_the_connection_with_its_cause(ends: Ends) -> None:
    def fail(_: Recorder) -> None:
        raise ZeroDivisionError("a bug above")

    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    ends.far.on_data_hook = fail
    ends.near.write(b"x")
    error = await ends.far.ended()
    assert isinstance(error, ConnectionLost)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert len(reported) == 1


# Before start.


async def test_data_that_arrives_before_start_waits_and_is_bounded(url: Url, options: dict[str, object]) -> None:
    accepted: list[Recorder] = []

    def accept(pipe: Connection | Pipe) -> None:
        recorder = Recorder(pipe).start()
        recorder.write(b"hello ", BULK)
        accepted.append(recorder)

    async with AsyncExitStack() as stack:
        listener = await listen(url, options, stack, accept)
        near = Recorder(await dial(listener.addresses[0], options))
        await asyncio.sleep(0.05)  # there is no event to await: nothing may happen
        assert near.events == []
        early = getattr(near.pipe, "_early", None)
        assert early is None or len(early) <= RECEIVE_BUFFER_BYTES
        near.start()
        assert near.events == []
        assert await near.received(6 + len(BULK)) == b"hello " + BULK
        near.close()
        await accepted[0].ended()
        await near.ended()
        near.check_rules()
        accepted[0].check_rules()


async def test_the_peers_end_before_start_is_told_after_its_data(url: Url, options: dict[str, object]) -> None:
    def accept(pipe: Connection | Pipe) -> None:
        recorder = Recorder(pipe).start()
        recorder.write(b"goodbye")
        recorder.close()

    async with AsyncExitStack() as stack:
        listener = await listen(url, options, stack, accept)
        near = Recorder(await dial(listener.addresses[0], options))
        await asyncio.sleep(0.02)  # nothing may happen
        near.start()
        assert isinstance(await near.ended(), EndOfStream)
        assert near.data == b"goodbye"
        near.check_rules()


def greet(pipe: Connection | Pipe) -> None:
    Recorder(pipe).start().write(b"hello")


async def test_close_before_start_ends_with_on_closed_alone(url: Url, options: dict[str, object]) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(url, options, stack, greet)
        near = Recorder(await dial(listener.addresses[0], options))
        near.close()
        near.start()
        assert await near.ended() is None
        assert near.events == ["closed"]
        near.check_rules()


async def test_start_after_the_end_still_tells_of_it(url: Url, options: dict[str, object]) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(url, options, stack)
        near = Recorder(await dial(listener.addresses[0], options))
        near.abort()
        await asyncio.sleep(0.02)  # nothing may happen
        assert near.events == []
        near.start()
        assert near.events == []
        assert await near.ended() is None


async def test_a_pipe_that_is_accepted_and_paused_at_once_delivers_nothing(
    url: Url, options: dict[str, object]
) -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(url, options, stack, paused=True)
        ends.near.write(b"held back ", BULK)
        await round_trip(ends)
        assert ends.far.events == []
        ends.far.resume()
        assert ends.far.events == []
        assert await ends.far.received(10 + len(BULK)) == b"held back " + BULK
        ends.near.close()
        assert isinstance(await ends.far.ended(), EndOfStream)
        ends.far.check_rules()


async def test_an_acceptor_that_fails_costs_its_connection_only(
    url: Url, options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    def accept(pipe: Connection | Pipe) -> None:
        if len(caplog.records) < 1:
            raise ZeroDivisionError("a bug above")
        Recorder(pipe).start().write(b"welcome")

    async with AsyncExitStack() as stack:
        listener = await listen(url, options, stack, accept)
        first = Recorder(await dial(listener.addresses[0], options)).start()
        assert isinstance(await first.ended(), (ConnectionLost, EndOfStream))
        second = Recorder(await dial(listener.addresses[0], options)).start()
        assert await second.received(7) == b"welcome"
        second.abort()
        await second.ended()
    assert [record.name for record in caplog.records] == ["echostream.tcp"]


# Peers that know nothing of us.


async def raw_peer(url: Url, stack: AsyncExitStack) -> tuple[Recorder, socket.socket]:
    """A recorder of an accepted pipe, and the plain socket at its other end."""
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()
    listener = await listen(url, {}, stack, lambda pipe: accepted.set_result(Recorder(pipe).start()))
    sock = raw_socket(listener.addresses[0])
    stack.callback(sock.close)
    return await accepted, sock


@pytest.mark.parametrize("scheme", ["tcp"])
async def test_a_reset_is_a_loss_with_its_cause(url: Url) -> None:
    async with AsyncExitStack() as stack:
        far, sock = await raw_peer(url, stack)
        sock.sendall(b"x")
        await far.received(1)
        reset(sock)
        error = await far.ended()
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.__cause__, ConnectionResetError)
        assert str(error) == f"the connection to {far.pipe.peer_address} is lost: the peer has reset it"


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_a_peer_that_ends_its_side_and_never_reads_does_not_hold_us(url: Url) -> None:
    async with AsyncExitStack() as stack:
        far, sock = await raw_peer(url, stack)
        await fill(far)
        sock.shutdown(socket.SHUT_WR)
        error = await far.ended()
        assert isinstance(error, EndOfStream)
        assert str(error) == f"{far.pipe.peer_address} has closed the connection"


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_a_peer_that_never_ends_its_side_is_left_after_a_while(url: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream_tcp.pipe.LINGER_S", 0.01)
    async with AsyncExitStack() as stack:
        far, sock = await raw_peer(url, stack)
        far.write(b"bye")
        far.close()
        assert await far.ended() is None
        assert sock.recv(10) == b"bye"
        assert sock.recv(10) == b""


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_closing_what_the_peer_has_just_broken_is_quiet(url: Url, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncExitStack() as stack:
        far, sock = await raw_peer(url, stack)
        far.write(b"never read")
        await asyncio.sleep(0)
        if url.scheme == "tcp":
            reset(sock)
        else:
            sock.close()
        far.close()
        assert await far.ended() is None
        assert not caplog.records


async def test_a_write_before_start_is_told_when_it_was_taken(url: Url, options: dict[str, object]) -> None:
    accepted: list[Recorder] = []
    async with AsyncExitStack() as stack:
        listener = await listen(url, options, stack, lambda pipe: accepted.append(Recorder(pipe).start()))
        near = Recorder(await dial(listener.addresses[0], options))
        assert not near.write(BULK)
        while not accepted:
            await asyncio.sleep(0)
        assert await accepted[0].received(len(BULK)) == BULK
        assert near.events == []
        near.start()
        assert near.events == []
        await near.until(lambda: near.events)
        assert near.events == ["writable"]
        near.close()
        await near.ended()
        await accepted[0].ended()


@pytest.mark.parametrize("scheme", ["tls"])
async def test_bytes_that_are_not_of_the_session_end_it_and_both_ends_are_told(ends: Ends) -> None:
    ends.near.pipe._transport.write(b"\x17\x03\x03\x00\x20" + b"?" * 32)  # type: ignore[attr-defined]  # a bad record
    error = await ends.far.ended()
    assert isinstance(error, RemoteProtocolError)
    assert str(error).startswith(f"{ends.far.pipe.peer_address} broke the TLS session: ")
    told = await ends.near.ended()
    assert isinstance(told, ConnectionLost)
    assert str(told) == f"{ends.near.pipe.peer_address} ended the connection: TLS alert bad record mac"


@pytest.mark.parametrize("scheme", ["tls"])
async def test_an_end_without_tls_goodbye_is_a_loss(ends: Ends) -> None:
    ends.near.write(b"begun but not fin")
    await ends.far.received(17)
    ends.near.pipe._transport.close()  # type: ignore[attr-defined]  # as when the process is killed
    error = await ends.far.ended()
    assert isinstance(error, ConnectionLost)
    assert "it was cut off" in str(error)


async def test_connections_share_one_buffer_without_mixing(url: Url, options: dict[str, object]) -> None:
    far: list[Recorder] = []
    async with AsyncExitStack() as stack:
        listener = await listen(url, options, stack, lambda pipe: far.append(Recorder(pipe).start()))
        near = [Recorder(await dial(listener.addresses[0], options)).start() for _ in range(8)]
        sent = [bytes([number]) * 300_000 for number in range(8)]
        for turn in range(3):
            for recorder, data in zip(near, sent, strict=True):
                recorder.write(data[: 100_000 * (turn + 1)])
                await asyncio.sleep(0)
        for recorder in far:
            await recorder.received(600_000)
        assert sorted(bytes(recorder.data) for recorder in far) == [data[:1] * 600_000 for data in sent]
        for recorder in near:
            recorder.close()
        for recorder in near + far:
            await recorder.ended()
            recorder.check_rules()


async def test_connect_leaves_nothing_when_all_is_closed(url: Url, options: dict[str, object]) -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(url, options, stack)
        ends.near.close()
        await ends.near.ended()
        await ends.far.ended()
        assert ends.near.pipe._transport is None  # type: ignore[attr-defined]  # what the test is about
        assert ends.far.pipe._transport is None  # type: ignore[attr-defined]
