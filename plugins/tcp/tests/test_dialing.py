"""Dialling over TCP: what is told when nobody answers, and that the first of several addresses to answer wins."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.types import Url
from echostream_tcp import dial as dialling
from echostream_tcp._errors import connect_failed, name_not_found
from plugins.tcp.tests.recording import Recorder, dial, listen

ANY = Url.parse("tcp://127.0.0.1:0")


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test leaves open."""
    async with AsyncExitStack() as stack:
        yield stack


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_nobody_listening_is_told(scheme: str, host: str) -> None:
    url = f"{scheme}://{host}:{unused_port()}"
    with pytest.raises(ConnectFailed) as caught:
        await dial(url, {})
    assert str(caught.value) == f"nobody listens at {url}; is the server started?"
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_an_unknown_name_is_told() -> None:
    with pytest.raises(ConnectFailed, match=r"^tcp://no-such-host\.invalid:1: the name 'no-such-host\.invalid' "):
        await dial("tcp://no-such-host.invalid:1", {})


async def test_a_name_that_is_none_is_told() -> None:
    with pytest.raises(ConnectFailed, match="is not known; is it spelt right"):
        await dial(Url("tcp", "a" * 70 + ".example", 1), {})


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENETUNREACH, "tcp://h:1 cannot be reached: there is no route to it (network is unreachable)"),
        (errno.EHOSTUNREACH, "tcp://h:1 cannot be reached: there is no route to it (no route to host)"),
        (errno.ETIMEDOUT, "tcp://h:1 cannot be reached: it does not answer; a firewall between, or a wrong address?"),
        (errno.EMFILE, "cannot connect to tcp://h:1: too many open files"),
    ],
)
def test_the_systems_refusals_in_words(code: int, said: str) -> None:
    error = connect_failed(Url("tcp", "h", 1), [OSError(code, os.strerror(code))])
    assert str(error) == said
    assert isinstance(error.__cause__, OSError)


def test_different_refusals_are_all_told() -> None:
    errors = [
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Refused"),
    ]
    assert str(connect_failed(Url("tcp", "h", 1), errors)) == (
        "cannot connect to tcp://h:1: network is unreachable; refused"
    )


def test_a_name_server_that_is_away_is_not_a_wrong_name() -> None:
    error = name_not_found(Url("tcp", "h", 1), socket.gaierror(socket.EAI_AGAIN, "Temporary failure"))
    assert str(error) == "tcp://h:1: the name 'h' cannot be looked up now: the name server does not answer"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("tcp://127.0.0.1", "has no port; write tcp://127.0.0.1:port"),
        ("tcp://:80", "has no host to connect to; write tcp://host:80"),
        ("tcp://127.0.0.1:0", "port 0 is for listeners only"),
        ("tls://127.0.0.1:1/x", "has no path"),
    ],
)
async def test_a_wrong_url_is_told(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await dial(url, {})


# Several addresses.


def addresses(*wanted: object) -> object:
    async def resolve(url: Url) -> list[object]:
        return list(wanted)

    return resolve


async def test_a_refused_address_is_followed_by_the_next_at_once(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "STAGGER_S", 3_600.0)
    listener = await listen(ANY, {}, stack)
    port = Url.parse(listener.addresses[0]).port
    refused = (socket.AF_INET, ("127.0.0.1", unused_port()))
    monkeypatch.setattr(dialling, "resolve", addresses(refused, (socket.AF_INET, ("127.0.0.1", port))))
    near = Recorder(await dial(f"tcp://two.example:{port}", {})).start()
    assert near.pipe.peer_address == f"tcp://127.0.0.1:{port}"
    near.abort()
    await near.ended()


async def test_an_address_that_does_not_answer_does_not_hold_the_next(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "STAGGER_S", 0.01)
    listener = await listen(ANY, {}, stack)
    port = Url.parse(listener.addresses[0]).port
    cancelled: list[object] = []
    connect = dialling._connect

    async def slow(address: tuple[int, tuple[str, int]]) -> socket.socket:
        if address[1][0] != "127.0.0.1":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(address)
                raise
        return await connect(address)  # type: ignore[arg-type]  # a family is an int

    monkeypatch.setattr(dialling, "_connect", slow)
    dead = (socket.AF_INET6, ("2001:db8::1", port))
    monkeypatch.setattr(dialling, "resolve", addresses(dead, (socket.AF_INET, ("127.0.0.1", port))))
    near = Recorder(await dial(f"tcp://two.example:{port}", {})).start()
    assert cancelled == [dead]
    near.abort()
    await near.ended()


async def test_when_all_are_refused_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [(socket.AF_INET, ("127.0.0.1", unused_port())) for _ in range(3)]
    monkeypatch.setattr(dialling, "resolve", addresses(*refused))
    with pytest.raises(ConnectFailed, match=r"^nobody listens at tcp://three\.example:1; is the server started\?$"):
        await dial("tcp://three.example:1", {})


async def test_cancelling_a_race_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "STAGGER_S", 0.0)
    both = asyncio.Event()
    running: set[object] = set()

    async def never(address: object) -> socket.socket:
        running.add(address)
        if len(running) == 2:
            both.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError("cannot be")
        finally:
            running.discard(address)

    monkeypatch.setattr(dialling, "_connect", never)
    monkeypatch.setattr(dialling, "resolve", addresses((socket.AF_INET6, ("::1", 1)), (socket.AF_INET, ("::2", 1))))
    task = asyncio.create_task(dial("tcp://two.example:1", {}))
    await both.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running == set()


def test_families_take_turns() -> None:
    v4 = [(socket.AF_INET, (str(number), 1)) for number in range(3)]
    v6 = [(socket.AF_INET6, (str(number), 1)) for number in range(2)]
    assert dialling._interleaved([*v6, *v4]) == [v6[0], v4[0], v6[1], v4[1], v4[2]]
    assert dialling._interleaved([]) == []


async def test_cancelling_while_a_loser_ends_is_no_success(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt that lost takes its time to end; who is cancelled meanwhile is, and the winner's socket is closed."""
    monkeypatch.setattr(dialling, "STAGGER_S", 0.01)
    listener = await listen(ANY, {}, stack)
    port = Url.parse(listener.addresses[0]).port
    ending, go_on = asyncio.Event(), asyncio.Event()
    won: list[socket.socket] = []
    connect = dialling._connect

    async def slow(address: tuple[int, tuple[str, int]]) -> socket.socket:
        if address[1][0] == "127.0.0.1":
            won.append(await connect(address))  # type: ignore[arg-type]  # a family is an int
            return won[0]
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await go_on.wait()
        raise AssertionError("cannot be")

    monkeypatch.setattr(dialling, "_connect", slow)
    dead = (socket.AF_INET6, ("2001:db8::1", port))
    monkeypatch.setattr(dialling, "resolve", addresses(dead, (socket.AF_INET, ("127.0.0.1", port))))
    task = asyncio.create_task(dial(f"tcp://two.example:{port}", {}))
    await ending.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert won[0].fileno() == -1
