"""Addresses that a listener binds, what it tells of them, and how it bears bad times."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.transport import Connection, Pipe
from echostream_core.types import Url
from echostream_tcp.dial import connect_network, connect_unix
from echostream_tcp.sockets import NOTSENT_LOWAT_BYTES
from plugins.tcp.tests.recording import LogLines, Recorder, connect, dial, listen, raw_socket, reset

ANY = Url.parse("tcp://127.0.0.1:0")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test leaves open."""
    async with AsyncExitStack() as stack:
        yield stack


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


async def open_files() -> int:
    await asyncio.sleep(0)
    return len(os.listdir("/proc/self/fd"))


async def test_port_0_is_resolved_in_the_addresses(stack: AsyncExitStack) -> None:
    listener = await listen(ANY, {}, stack)
    (address,) = listener.addresses
    assert Url.parse(address).host == "127.0.0.1"
    assert Url.parse(address).port


async def test_0_0_0_0_is_told_as_bound_and_can_be_dialled(stack: AsyncExitStack) -> None:
    ends = await connect(Url.parse("tcp://0.0.0.0:0"), {}, stack)
    assert ends.listener.addresses == (f"tcp://0.0.0.0:{ends.address.port}",)
    assert ends.far.pipe.local_address == f"tcp://127.0.0.1:{ends.address.port}"
    assert ends.near.pipe.local_address == ends.far.pipe.peer_address
    assert ends.near.pipe.peer_address == ends.far.pipe.local_address


@needs_ipv6
async def test_no_host_is_all_of_ipv4_and_all_of_ipv6_on_one_port(stack: AsyncExitStack) -> None:
    listener = await listen(Url.parse("tcp://:0"), {}, stack)
    port = Url.parse(listener.addresses[0]).port
    assert listener.addresses == (f"tcp://0.0.0.0:{port}", f"tcp://[::]:{port}")
    for host in ("127.0.0.1", "[::1]"):
        near = Recorder(await dial(f"tcp://{host}:{port}", {})).start()
        assert near.pipe.peer_address == f"tcp://{host}:{port}"
        near.abort()
        await near.ended()


@needs_ipv6
@pytest.mark.parametrize("host", ["[::1]", "[::]"])
async def test_ipv6_hosts_stand_in_brackets(stack: AsyncExitStack, host: str) -> None:
    ends = await connect(Url.parse(f"tcp://{host}:0"), {}, stack)
    assert ends.listener.addresses == (f"tcp://{host}:{ends.address.port}",)
    assert ends.far.pipe.peer_address.startswith("tcp://[::1]:")


async def test_a_name_is_bound_at_all_its_addresses(stack: AsyncExitStack) -> None:
    ends = await connect(Url.parse("tcp://localhost:0"), {}, stack)
    assert {Url.parse(address).port for address in ends.listener.addresses} == {ends.address.port}
    near = Recorder(await dial(f"tcp://localhost:{ends.address.port}", {}))
    near.abort()


async def test_an_address_without_ipv6_is_enough_for_a_name(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def both(url: Url) -> list[object]:
        return [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("2001:db8::1", 0, 0, 0))]

    monkeypatch.setattr("echostream_tcp.sockets.resolve", both)
    listener = await listen(Url.parse("tcp://dual.example:0"), {}, stack)
    assert len(listener.addresses) == 1


async def test_an_address_in_use_is_named_with_the_way_out(stack: AsyncExitStack) -> None:
    listener = await listen(ANY, {}, stack)
    url = Url.parse(listener.addresses[0])
    with pytest.raises(ConnectFailed) as caught:
        await listen(url, {}, stack)
    assert str(caught.value) == (
        f"cannot listen at {url}: the address is in use; stop the program that has it "
        f"(ss -ltnp 'sport = {url.port}' shows it), or choose another port, 0 for any free one"
    )
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tcp://192.0.2.1:0", "this machine has no address 192.0.2.1; 0.0.0.0 stands for all of its own"),
        ("tcp://no-such-host.invalid:0", "the name 'no-such-host.invalid' "),
    ],
)
async def test_an_address_that_is_not_ours_is_told(url: str, said: str, stack: AsyncExitStack) -> None:
    with pytest.raises(ConnectFailed, match=said):
        await listen(Url.parse(url), {}, stack)


async def test_a_privileged_port_is_told(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("echostream_tcp.sockets._listening", refuse)
    with pytest.raises(ConnectFailed, match="this user may not open port 80; ports from 1024 on need no privileges"):
        await listen(Url.parse("tcp://127.0.0.1:80"), {}, stack)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tcp://127.0.0.1", "tcp://127.0.0.1 has no port; write tcp://127.0.0.1:port"),
        ("tls://", "tls:// has no port; write tls://host:port"),
        ("tcp://127.0.0.1:1/path", "a tcp address has no path; write tcp://host:port"),
    ],
)
async def test_a_wrong_url_is_told(url: str, said: str, stack: AsyncExitStack) -> None:
    with pytest.raises(ConfigError, match=said):
        await listen(Url.parse(url), {"tls": {"dev": True}} if url.startswith("tls") else {}, stack)


async def test_the_address_is_free_again_at_once_after_close(stack: AsyncExitStack) -> None:
    ends = await connect(ANY, {}, stack)
    await ends.listener.close()
    again = await listen(ends.address, {}, stack)
    assert again.addresses == (str(ends.address),)


async def test_connections_go_on_after_the_listener_is_closed(stack: AsyncExitStack) -> None:
    ends = await connect(ANY, {}, stack)
    await ends.listener.close()
    await ends.listener.close()
    ends.near.write(b"still here")
    assert await ends.far.received(10) == b"still here"


async def test_connections_are_quick_watched_and_not_far_ahead(stack: AsyncExitStack) -> None:
    ends = await connect(ANY, {}, stack)
    for recorder in (ends.near, ends.far):
        sock = recorder.pipe._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # what is asked here
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, 25) == NOTSENT_LOWAT_BYTES


async def test_the_receive_buffer_is_shared_by_all_connections_of_a_loop(stack: AsyncExitStack) -> None:
    first = await connect(ANY, {}, stack)
    second = await connect(ANY, {}, stack)
    buffers = {
        id(recorder.pipe._buffer)  # type: ignore[attr-defined]  # what is asked here
        for recorder in (first.near, first.far, second.near, second.far)
    }
    assert len(buffers) == 1


async def test_pipes_have_no_dictionary(stack: AsyncExitStack) -> None:
    ends = await connect(ANY, {}, stack)
    assert not getattr(ends.far.pipe, "__dict__", None)


# Bad times.


class Counter:
    """A receiver that says nothing; how many of them have begun and ended."""

    begun = 0
    ended = 0
    changed: asyncio.Event

    def on_data(self, data: object) -> None:
        raise AssertionError("they are silent")

    def on_writable(self) -> None:
        raise AssertionError("nothing was written")

    def on_closed(self, error: object) -> None:
        Counter.ended += 1
        Counter.changed.set()

    @classmethod
    def accept(cls, pipe: Connection | Pipe) -> None:
        assert isinstance(pipe, Pipe)
        cls.begun += 1
        pipe.start(cls())


@pytest.mark.parametrize("scheme", ["tcp", "tls", "unix"])
async def test_a_flood_of_silent_connections_leaves_nothing(
    url: Url, options: dict[str, object], stack: AsyncExitStack, noise: Callable[[], list[str]]
) -> None:
    """2,000 in all, 200 at a time, so that the usual limit of 1,024 descriptors is enough for both ends."""
    Counter.begun = Counter.ended = 0
    Counter.changed = asyncio.Event()
    listener = await listen(url, options, stack, Counter.accept)
    address = Url.parse(listener.addresses[0])
    counts = []
    for waves in (1, 9):  # the first wave also pays for what a loop opens for itself
        for _ in range(waves):
            silent = [await quiet_socket(address) for _ in range(200)]
            for sock in silent:
                sock.close()
        last = Recorder(await dial(address, options)).start()
        last.abort()
        await last.ended()
        while Counter.ended < Counter.begun or Counter.begun < (1 if url.scheme == "tls" else 200 * waves):
            Counter.changed.clear()
            await Counter.changed.wait()
        counts.append(await open_files())
    assert Counter.begun == (2 if url.scheme == "tls" else 2_002)
    assert counts[1] <= counts[0]
    assert noise() == []


async def quiet_socket(address: Url) -> socket.socket:
    return await (connect_unix(address) if address.scheme == "unix" else connect_network(address))


async def test_connections_that_are_reset_before_they_are_accepted_do_no_harm(stack: AsyncExitStack) -> None:
    listener = await listen(ANY, {}, stack)
    for _ in range(50):
        reset(raw_socket(listener.addresses[0]))
    near = Recorder(await dial(listener.addresses[0], {})).start()
    near.abort()
    await near.ended()


async def test_running_out_of_descriptors_is_one_line_and_passes(
    stack: AsyncExitStack,
    log: LogLines,
    monkeypatch: pytest.MonkeyPatch,
    noise: Callable[[], list[str]],
) -> None:
    monkeypatch.setattr("echostream_tcp.listener.RETRY_S", 0.02)
    ends = await connect(ANY, {}, stack)
    sock = raw_socket(ends.address)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
    try:
        (line,) = await log.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert line == f"{ends.address}: cannot accept connections, trying again in 0.02 s: too many open files"
    near = Recorder(await dial(ends.address, {})).start()
    ends.near.write(b"unharmed")
    assert await ends.far.received(8) == b"unharmed"
    near.abort()
    await near.ended()
    sock.close()
    assert noise() == []


async def test_an_event_loop_that_cannot_watch_sockets_accepts_all_the_same(
    stack: AsyncExitStack, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the proactor loop of Windows."""
    loop = asyncio.get_running_loop()
    accept = type(loop).sock_accept
    failures = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "Aborted")]

    class Proactor:
        def __getattr__(self, name: str) -> object:
            return getattr(loop, name)

        def add_reader(self, *_: object) -> None:
            raise NotImplementedError

        async def sock_accept(self, sock: socket.socket) -> object:
            if failures:
                raise failures.pop(0)
            return await accept(loop, sock)

    monkeypatch.setattr("echostream_tcp.listener.RETRY_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr("echostream_tcp.listener.asyncio.get_running_loop", Proactor)
        listener = await listen(ANY, {}, stack)
    for _ in range(2):
        near = Recorder(await dial(listener.addresses[0], {})).start()
        near.abort()
        await near.ended()
    assert len(log.lines) == 1
    await listener.close()
    with pytest.raises(ConnectFailed):
        await dial(listener.addresses[0], {})


async def test_closing_while_out_of_descriptors_stops_trying(
    stack: AsyncExitStack, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = await listen(ANY, {}, stack)

    def exhausted(_: object) -> None:
        raise OSError(errno.ENFILE, "Too many open files in system")

    with raw_socket(listener.addresses[0]):
        monkeypatch.setattr(socket.socket, "accept", exhausted)
        await log.wait()
        await listener.close()
    assert len(log.lines) == 1
