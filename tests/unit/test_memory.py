"""The memory transport's names: listening, dialling, options. Its connections: test_memory_connection.py."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import msgspec
import pytest

from echostream_core.builtin.memory import MemoryOptions, MemoryTransport, echostream_transports
from echostream_core.builtin.memory_connection import MemoryConnection
from echostream_core.errors import ConfigError, ConnectFailed, ConnectionLost
from echostream_core.transport import Connection, Pipe
from echostream_core.types import Url
from tests.unit.memory_ends import URL, User, connect, settle


async def test_a_name_has_one_listener_at_a_time() -> None:
    transport = MemoryTransport()
    listener = await transport.listen(URL, MemoryOptions(), lambda connection: None)
    assert listener.addresses == ("memory://test",)
    with pytest.raises(ConnectFailed, match="taken"):
        await transport.listen(URL, MemoryOptions(), lambda connection: None)
    other = await transport.listen(Url.parse("memory://test/2"), MemoryOptions(), lambda connection: None)
    await other.close()
    await listener.close()
    await listener.close()
    again = await transport.listen(URL, MemoryOptions(), lambda connection: None)
    await listener.close()
    with pytest.raises(ConnectFailed, match="taken"):
        await transport.listen(URL, MemoryOptions(), lambda connection: None)
    await again.close()


async def test_dialling_nobody_fails() -> None:
    with pytest.raises(ConnectFailed, match="nobody"):
        await MemoryTransport().dial(URL, MemoryOptions())


async def test_a_name_is_needed() -> None:
    with pytest.raises(ConfigError, match="memory://NAME"):
        await MemoryTransport().listen(Url.parse("memory://"), MemoryOptions(), lambda connection: None)


async def test_an_acceptor_that_fails_fails_the_dial() -> None:
    def accept(connection: Connection | Pipe) -> None:
        raise ZeroDivisionError("full")

    transport = MemoryTransport()
    listener = await transport.listen(URL, MemoryOptions(), accept)
    with pytest.raises(ConnectFailed, match="full") as caught:
        await transport.dial(URL, MemoryOptions())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    await listener.close()


async def test_a_listener_that_closes_during_a_dial_fails_it() -> None:
    transport = MemoryTransport()
    listener = await transport.listen(URL, MemoryOptions(), lambda connection: None)
    dial = asyncio.ensure_future(transport.dial(URL, MemoryOptions()))
    await asyncio.sleep(0)  # the dial has found it, and waits for its answer
    await listener.close()
    with pytest.raises(ConnectFailed, match="was closed"):
        await dial


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_dial_can_be_cancelled_at_any_time_and_leaves_nothing(turns: int) -> None:
    accepted: list[User] = []

    def accept(connection: Connection | Pipe) -> None:
        assert isinstance(connection, MemoryConnection)
        accepted.append(User())
        connection.start(accepted[-1])

    transport = MemoryTransport()
    listener = await transport.listen(URL, MemoryOptions(), accept)
    dial = asyncio.ensure_future(transport.dial(URL, MemoryOptions()))
    for _ in range(turns):
        await asyncio.sleep(0)
    dial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dial
    await settle()
    assert [type(error) for user in accepted for error in user.closed] == [ConnectionLost] * len(accepted)
    await listener.close()


def test_another_loop_is_refused_and_a_closed_one_is_forgotten() -> None:
    loop = asyncio.new_event_loop()
    transport = MemoryTransport()
    loop.run_until_complete(transport.listen(URL, MemoryOptions(), lambda connection: None))

    def dial() -> None:
        with pytest.raises(ConnectFailed, match="another event loop"):
            asyncio.run(transport.dial(URL, MemoryOptions()))
        ran.append(True)

    ran: list[bool] = []
    thread = threading.Thread(target=dial)
    thread.start()
    thread.join()
    assert ran
    loop.close()

    async def afterwards() -> None:
        with pytest.raises(ConnectFailed, match="nobody"):
            await transport.dial(URL, MemoryOptions())
        listener = await transport.listen(URL, MemoryOptions(), lambda connection: None)
        await listener.close()

    asyncio.run(afterwards())


async def test_addresses_tell_the_ends_apart() -> None:
    ends = await connect()
    assert ends.one.peer_address == ends.other.local_address == "memory://test"
    assert ends.one.local_address == ends.other.peer_address == "memory://test/dialer-1"


async def test_the_acceptor_runs_in_the_listeners_context() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="listener")
    seen: list[str] = []
    transport = MemoryTransport()
    listener = await transport.listen(URL, MemoryOptions(), lambda connection: seen.append(variable.get()))
    variable.set("dialer")
    await transport.dial(URL, MemoryOptions())
    assert seen == ["listener"]
    await listener.close()


@pytest.mark.parametrize(
    "options",
    [
        {"max_streams": 3},
        {"max_window_bytes": 65_535},
        {"session_window_bytes": -1},
        {"max_queued_datagrams": 0},
        {"unknown": 1},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, MemoryOptions)


def test_it_is_offered_as_a_transport() -> None:
    (spec,) = echostream_transports()
    assert spec.scheme == "memory"
    assert isinstance(spec.factory(), MemoryTransport)
    assert spec.options is MemoryOptions
    assert spec.capabilities.in_process
    assert spec.capabilities.encrypted
    assert spec.notes["encrypted"]
