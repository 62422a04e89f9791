"""How connections end: codes and reasons, timeouts, listeners that close, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

import echostream_quic.connection
from echostream_core.errors import ConnectFailed, ConnectionLost, EndOfStream, ResourceClosed
from echostream_core.types import Priority
from plugins.quic.tests.recording import Ends, LogLines, Recorder, connect, dial, listen

PATHS = os.pathsep.join(path for path in sys.path if path)


def open_files() -> set[str]:
    """What our file descriptors point to, sockets by their number."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:
            continue
    return {entry for entry in found if "socket:" in entry}


async def test_an_orderly_close_is_the_end_of_the_stream_for_the_peer(ends: Ends) -> None:
    ends.near.close(0, "all done")
    assert await ends.near.ended() is None
    error = await ends.far.ended()
    assert isinstance(error, EndOfStream)
    assert "all done" in str(error)


async def test_a_close_with_a_code_tells_it_with_its_reason(ends: Ends) -> None:
    ends.far.close(0xFFFF_FFFF, "going \x1b[31m away")
    assert await ends.far.ended() is None
    error = await ends.near.ended()
    assert isinstance(error, ConnectionLost)
    assert error.close_code == 0xFFFF_FFFF
    assert "going \\x1b[31m away" in str(error)


async def test_closing_takes_none_of_the_callers_time(ends: Ends) -> None:
    started = time.perf_counter()
    ends.near.close(3, "quick")
    await ends.near.ended()
    assert time.perf_counter() - started < 0.05


async def test_close_and_abort_may_be_repeated_and_nothing_comes_after_on_closed(ends: Ends) -> None:
    near, far = await ends.open()
    ends.near.close(1, "first")
    ends.near.close(2, "second")
    ends.near.abort()
    await ends.near.ended()
    ends.near.close(3, "third")
    error = await ends.far.ended()
    assert isinstance(error, ConnectionLost)
    assert error.close_code == 1
    near.write(b"ignored")
    near.substream.consume(0)
    near.reset(1)
    near.stop(1)
    far.write(b"ignored")
    with pytest.raises(ResourceClosed, match="the connection is closed"):
        ends.near.open()
    await asyncio.sleep(0.05)
    assert near.events == []


async def test_what_is_queued_on_control_is_sent_before_the_farewell(ends: Ends) -> None:
    near, far = await ends.open()
    near.write(bytes(3_000_000))
    ends.control.write(b"last words" * 2_000)
    ends.near.close(6, "shutting down")
    await ends.far.ended()
    assert bytes(ends.far_control.data) == b"SETUP" + b"last words" * 2_000
    assert len(far.data) < 3_000_000


async def test_what_control_has_sent_before_a_close_arrives_though_its_packet_was_lost(ends: Ends) -> None:
    link = ends.near.connection._link
    original = link.send

    def lose_one(datagrams: object) -> None:
        link.send = original  # type: ignore[method-assign]

    link.send = lose_one  # type: ignore[method-assign]
    ends.control.write(b" and the last words")
    ends.near.close(6, "bye")
    error = await ends.far.ended()
    assert getattr(error, "close_code", None) == 6
    assert bytes(ends.far_control.data) == b"SETUP and the last words"
    assert await ends.near.ended() is None


async def test_a_very_long_reason_is_cut(ends: Ends) -> None:
    ends.near.close(9, "ä" * 10_000)
    error = await ends.far.ended()
    assert isinstance(error, ConnectionLost)
    assert error.close_code == 9


async def test_abort_drops_what_is_queued_and_the_peer_sees_a_lost_connection(ends: Ends) -> None:
    near, _far = await ends.open()
    near.write(bytes(1_000_000))
    ends.near.abort()
    assert await ends.near.ended() is None
    assert isinstance(await ends.far.ended(), ConnectionLost)


async def test_both_ends_may_close_at_once(ends: Ends) -> None:
    ends.near.close(1, "a")
    ends.far.close(2, "b")
    assert await ends.near.ended() is None
    assert await ends.far.ended() is None


async def test_a_receiver_that_raises_ends_its_own_connection_only(ends: Ends, log: object) -> None:
    near, far = await ends.open()

    def broken(*_: object) -> None:
        raise RuntimeError("a bug above")

    far.hook = broken
    near.write(b"boom")
    error = await ends.far.ended()
    assert isinstance(error, ConnectionLost)
    assert isinstance(error.__cause__, RuntimeError)
    peers = await ends.near.ended()
    assert isinstance(peers, ConnectionLost)
    assert peers.close_code == 1


async def test_a_peer_that_falls_silent_is_lost_after_the_idle_timeout() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack, near_options={"idle_timeout_s": 0.4})
        ends.far.connection._link._socket._sock.close()  # type: ignore[attr-defined]  # as if its machine had vanished
        ends.far.connection._link._socket._sock = None  # type: ignore[attr-defined]
        started = time.perf_counter()
        ends.control.write(b"anybody there?")
        error = await ends.near.ended()
        assert isinstance(error, ConnectionLost)
        assert "nothing came from quic://127.0.0.1:" in str(error)
        assert "(idle_timeout_s)" in str(error)
        assert 0.3 < time.perf_counter() - started < 3


async def test_dialling_a_port_where_nobody_listens_fails_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    before = open_files()
    with pytest.raises(ConnectFailed, match=f"nobody answers at quic://127.0.0.1:{port}") as error:
        await dial(f"quic://127.0.0.1:{port}")
    assert isinstance(error.value.__cause__, ConnectionRefusedError)
    assert open_files() == before


async def test_dialling_a_silent_port_gives_up_after_the_idle_timeout() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailed, match=r"nobody answers at quic://127\.0\.0\.1:\d+.* \(waited 0\.5 s\)"):
            await dial(f"quic://127.0.0.1:{silent.getsockname()[1]}", idle_timeout_s=0.5)


async def test_a_cancelled_dial_leaves_no_socket() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        before = open_files()
        for patience_s in (0.0, 0.001, 0.05):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(dial(f"quic://127.0.0.1:{silent.getsockname()[1]}"), patience_s)
            assert open_files() == before
        assert len(asyncio.all_tasks()) == 1


async def test_a_dial_cancelled_at_any_moment_leaves_nothing() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        before = open_files()
        for step in range(40):
            task = asyncio.ensure_future(dial(listener))
            for _ in range(step):
                await asyncio.sleep(0)
                if task.done():
                    break
            await asyncio.sleep(step * 0.0002)
            if not task.cancel():
                (await task).abort()
                await asyncio.sleep(0.01)
            await asyncio.wait([task])
            assert open_files() == before, step
        assert len(asyncio.all_tasks()) == 1


async def test_a_name_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConnectFailed, match=r"cannot find 'nowhere\.invalid' of quic://nowhere\.invalid:4433"):
        await dial("quic://nowhere.invalid:4433")


async def test_a_closed_listener_accepts_no_more_while_its_connections_go_on(ends: Ends) -> None:
    url = ends.listener.addresses[0]
    await ends.listener.close()
    await ends.listener.close()
    near, far = await ends.open()
    near.write(b" world", end=True)
    assert await far.ended() == b"hello world"
    with pytest.raises(ConnectFailed, match=r"CONNECTION_REFUSED\): nobody listens here any more"):
        await asyncio.wait_for(dial(url), 5)
    assert ends.listener.refused_handshakes == 1
    ends.near.close()
    await ends.far.ended()
    await asyncio.sleep(0)
    with pytest.raises(ConnectFailed, match="nobody answers"):
        await asyncio.wait_for(dial(url), 5)


async def test_closing_a_listener_ends_handshakes_that_have_not_finished() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        dialling = asyncio.ensure_future(dial(listener))
        for _ in range(3):
            await asyncio.sleep(0)
        await listener.close()
        await asyncio.wait([dialling], timeout=5)
        if dialling.exception() is None:
            recorder = Recorder(dialling.result()).start()
            recorder.abort()
            await recorder.ended()
        else:
            assert isinstance(dialling.exception(), ConnectFailed)


async def test_the_port_is_free_again_at_once_when_all_have_gone() -> None:
    for _ in range(3):
        async with AsyncExitStack() as stack:
            ends = await connect(stack)
            url = ends.listener.addresses[0]
            ends.near.close()
            await ends.far.ended()
            await ends.listener.close()
            await (await listen(stack, url=url)).close()


async def test_a_closed_listeners_port_can_be_listened_at_again_while_its_connections_go_on(ends: Ends) -> None:
    url = ends.listener.addresses[0]
    await ends.listener.close()
    async with AsyncExitStack() as stack:
        again = await listen(stack, url=url)
        assert again.addresses == (url,)
        recorder = Recorder(await dial(url)).start()
        near, far = await ends.open()
        near.write(b" again", end=True)
        assert await far.ended() == b"hello again"
        recorder.close()
        await recorder.ended()


async def test_only_so_many_dialers_a_second_are_told_that_nobody_listens_any_more(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echostream_quic.listener.REFUSALS_PER_SECOND", 1)
    await ends.listener.close()
    dials = [asyncio.ensure_future(dial(ends.listener.addresses[0], idle_timeout_s=0.4)) for _ in range(3)]
    said = sorted(str(error) for error in await asyncio.gather(*dials, return_exceptions=True))
    assert sum("CONNECTION_REFUSED" in text for text in said) in (1, 2)  # the second may have passed between
    assert sum("nobody answers" in text for text in said) in (1, 2)


async def test_a_port_that_is_taken_is_named() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack)
        with pytest.raises(ConnectFailed, match=r"cannot listen on quic://127\.0\.0\.1:\d+: the address is in use"):
            await listen(stack, url=listener.addresses[0])


async def test_nothing_is_left_behind() -> None:
    before = open_files()
    async with AsyncExitStack() as stack:
        ends = await connect(stack)
        near, far = await ends.open()
        near.write(bytes(1_000_000), end=True)
        await far.ended()
        ends.near.close()
        await ends.far.ended()
        await ends.near.ended()
    assert open_files() == before
    assert len(asyncio.all_tasks()) == 1
    gc.collect()


async def test_a_lost_farewell_is_repeated_when_the_peer_goes_on() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack)
        link = ends.far.connection._link
        original = link.send
        link.send = lambda datagrams: None  # type: ignore[method-assign]  # the network loses it
        ends.far.close(6, "bye")
        await ends.far.ended()
        link.send = original  # type: ignore[method-assign]
        ends.control.write(b"are you there?")
        error = await asyncio.wait_for(ends.near.ended(), 5)
        assert isinstance(error, ConnectionLost)
        assert error.close_code == 6


async def test_a_farewell_behind_which_the_socket_is_closed_goes_twice() -> None:
    async with AsyncExitStack() as stack:
        ends = await connect(stack)
        await ends.listener.close()
        link = ends.far.connection._link
        link.send = lambda datagrams: None  # type: ignore[method-assign]  # the network loses it
        ends.far.close(6, "bye")
        error = await asyncio.wait_for(ends.near.ended(), 5)
        assert isinstance(error, ConnectionLost)
        assert error.close_code == 6


async def test_the_control_substream_may_be_closed_from_within_a_callback(ends: Ends) -> None:
    ends.far_control.hook = lambda recorder, data: ends.far.connection.close(2, "protocol")
    ends.control.write(b"nonsense")
    error = await ends.near.ended()
    assert isinstance(error, ConnectionLost)
    assert error.close_code == 2
    assert await ends.far.ended() is None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_addresses_are_urls_that_can_be_dialled(host: str) -> None:
    if host == "[::1]" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    async with AsyncExitStack() as stack:
        try:
            listener = await listen(stack, url=f"quic://{host}:0")
        except ConnectFailed:
            pytest.skip(f"{host} is not there")
        for url in (*listener.addresses, f"quic://{host}:{listener.addresses[0].rpartition(':')[2]}"):
            recorder = Recorder(await dial(url)).start()
            assert recorder.connection.peer_address in listener.addresses
            assert recorder.connection.local_address.startswith("quic://")
            control = recorder.open(Priority.CONTROL)
            control.write(b"SETUP")
            await asyncio.sleep(0.01)
            recorder.close()
            await recorder.ended()


SERVER = """
import asyncio, sys
from plugins.quic.tests.recording import Recorder, listen
from contextlib import AsyncExitStack

async def main():
    async with AsyncExitStack() as stack:
        keep = []
        listener = await listen(stack, lambda pipe: keep.append(Recorder(pipe).start()))
        print(listener.addresses[0], flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_a_killed_peer_on_a_reachable_machine_is_noticed_long_before_the_idle_timeout() -> None:
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": PATHS}
    with subprocess.Popen([sys.executable, "-c", SERVER], cwd=root, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().decode().strip()
            recorder = Recorder(await dial(url)).start()
            control = recorder.open(Priority.CONTROL)
            control.write(b"SETUP")
            await asyncio.sleep(0.1)
        finally:
            process.kill()
        process.wait()
        control.write(b"anybody there?")
        error = await asyncio.wait_for(recorder.ended(), 10)
    assert isinstance(error, ConnectionLost)
    assert "nobody listens at quic://127.0.0.1:" in str(error)
    assert isinstance(error.__cause__, ConnectionRefusedError)


async def test_a_forged_report_that_the_peer_is_gone_harms_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream_quic.connection.SUSPICION_S", 0.1)
    connection = ends.near.connection
    connection.unreachable(ConnectionRefusedError(111, "forged"))
    connection.unreachable(ConnectionRefusedError(111, "forged again"))
    await asyncio.sleep(0.3)
    assert ends.near.closed == []
    near, far = await ends.open()
    near.write(b"alive", end=True)
    assert await far.ended() == b"helloalive"


async def test_a_close_of_ours_stays_ours_though_the_peer_turns_out_to_be_gone(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echostream_quic.connection, "SUSPICION_S", 0.01)
    ends.far.connection._link.send = lambda datagrams: None  # type: ignore[method-assign]  # it has gone
    ends.control.write(b"is anybody there?")
    ends.near.connection.unreachable(ConnectionRefusedError())
    ends.near.close()
    assert await ends.near.ended() is None


async def test_an_acceptor_that_raises_ends_that_connection_only(log: LogLines) -> None:
    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []

        def accept(pipe: object) -> None:
            if not accepted:
                accepted.append(Recorder.__new__(Recorder))
                raise RuntimeError("not this one")
            accepted.append(Recorder(pipe).start())  # type: ignore[arg-type]

        listener = await listen(stack, accept)
        first = Recorder(await dial(listener)).start()
        assert isinstance(await first.ended(), ConnectionLost)
        assert "the acceptor failed" in log.lines[0]
        second = Recorder(await dial(listener)).start()
        second.close()
        assert await second.ended() is None


@pytest.mark.parametrize("callback", ["on_data", "on_end", "on_writable", "on_closed"])
async def test_a_callback_that_raises_does_not_harm_other_connections(callback: str, log: LogLines) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(f"a bug in {callback}")

    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []
        listener = await listen(stack, lambda pipe: accepted.append(Recorder(pipe).start()))
        near = [Recorder(await dial(listener)).start() for _ in range(2)]
        opened = [recorder.open(Priority.CONTROL) for recorder in near]
        for control in opened:
            control.write(b"SETUP")
        far = [await recorder.substream(0) for recorder in accepted]
        if callback == "on_closed":
            setattr(accepted[0], callback, broken)
            near[0].close()
        else:
            setattr(far[0], callback, broken)
            opened[0].write(b"x", end=callback == "on_end")
            far[0].write(bytes(200_000))
        await near[0].ended()
        for _ in range(100):
            if log.lines:
                break
            await asyncio.sleep(0.01)
        assert "a callback of the session failed" in log.lines[0]
        opened[1].write(b" goes on", end=True)
        assert await far[1].ended() == b"SETUP goes on"
        for recorder in near:
            recorder.abort()
            await recorder.ended()


async def test_a_failure_of_the_library_ends_that_connection_only(
    log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        accepted: list[Recorder] = []
        listener = await listen(stack, lambda pipe: accepted.append(Recorder(pipe).start()))
        near = [Recorder(await dial(listener)).start() for _ in range(2)]
        opened = [recorder.open(Priority.CONTROL) for recorder in near]
        for control in opened:
            control.write(b"SETUP")
        far = [await recorder.substream(0) for recorder in accepted]

        def broken(*_: object) -> None:
            raise KeyError("a bug below")

        monkeypatch.setattr(accepted[0].connection.engine, "_receive_batch", broken)
        opened[0].write(b"x")
        error = await accepted[0].ended()
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.__cause__, KeyError)
        assert "broke" in log.lines[0]
        opened[1].write(b" goes on", end=True)
        assert await far[1].ended() == b"SETUP goes on"
        for recorder in near:
            recorder.abort()
            await recorder.ended()


async def test_no_timer_is_set_for_the_very_moment(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a virtual clock one whose deadline is a rounding away would fire for ever, and time would stand still."""
    connection = ends.near.connection
    now = asyncio.get_running_loop().time()
    monkeypatch.setattr(connection.engine, "deadline", lambda: now)
    delays: list[float] = []
    monkeypatch.setattr(connection, "_loop", SimpleNamespace(call_later=lambda delay, *_, **__: delays.append(delay)))
    monkeypatch.setattr(connection, "_timer", None)
    connection._arm(now)
    connection._arm(now + 1.0)
    assert delays == [1e-6, 1e-6]
    monkeypatch.undo()
