"""A host with several addresses: which of them is taken, and what is told when all fail."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

import pytest

import echostream_quic.dialer
from echostream_core.errors import ConnectFailed
from plugins.quic.tests.conftest import Authority
from plugins.quic.tests.recording import Recorder, dial, listen
from plugins.quic.tests.test_closing import open_files

LOOPS = {"asyncio": asyncio.SelectorEventLoop}
"""uvloop lets nobody put a name service in its place."""


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Let every name have ``addresses``."""

    async def found(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", address) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)


def address_of(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


def free_port() -> tuple[str, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address: tuple[str, int] = sock.getsockname()
        return address


async def test_a_name_with_other_letters_is_the_one_of_its_certificate(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls=authority.issue("xn--bcher-kva.example"))
        resolve(monkeypatch, address_of(listener.addresses[0]))
        recorder = Recorder(await dial("quic://bücher.example:4433", tls={"ca": authority.path})).start()
        recorder.abort()
        await recorder.ended()


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
async def test_a_name_that_cannot_be_one_is_not_found(host: str) -> None:
    with pytest.raises(ConnectFailed, match="cannot find"):
        await dial(f"quic://{host}:4433")
    async with AsyncExitStack() as stack:
        with pytest.raises(ConnectFailed, match="cannot find"):
            await listen(stack, url=f"quic://{host}:4433")


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
async def test_what_a_peer_answered_is_told_rather_than_that_another_address_is_silent(
    first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as stack:
        there = address_of((await listen(stack)).addresses[0])
        resolve(monkeypatch, *([there, free_port()] if first else [free_port(), there]))
        with pytest.raises(ConnectFailed, match="is not the pinned one"):
            await dial("quic://name:4433", tls={"pin": "sha256:" + "11" * 32})


async def test_when_nobody_answers_anywhere_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, free_port(), free_port())
    with pytest.raises(ConnectFailed, match="nobody answers at quic://name:4433"):
        await dial("quic://name:4433")


@pytest.mark.parametrize("stagger_s", [0.0, 3_600.0])
async def test_the_address_that_answers_is_taken_and_the_others_are_let_go(
    stagger_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echostream_quic.dialer, "STAGGER_S", stagger_s)
    async with AsyncExitStack() as stack:
        there = address_of((await listen(stack)).addresses[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            before = open_files()
            addresses = [there, there] if stagger_s else [silent.getsockname(), there, there]
            resolve(monkeypatch, *addresses)
            recorder = Recorder(await dial("quic://name:4433")).start()
            recorder.abort()
            await recorder.ended()
            assert open_files() == before
            assert len(asyncio.all_tasks()) == 1


async def test_a_dial_cancelled_while_the_slower_address_is_let_go_lets_go_of_the_faster_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempt = echostream_quic.dialer._Attempt
    run, leaving, left = attempt.run, asyncio.Event(), asyncio.Event()

    async def leave_slowly(self: Any) -> Any:
        try:
            return await run(self)
        except asyncio.CancelledError:
            leaving.set()
            await left.wait()
            raise

    monkeypatch.setattr(attempt, "run", leave_slowly)
    monkeypatch.setattr(echostream_quic.dialer, "STAGGER_S", 0.0)
    async with AsyncExitStack() as stack:
        there = address_of((await listen(stack)).addresses[0])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            before = open_files()
            resolve(monkeypatch, there, silent.getsockname())
            dialling = asyncio.ensure_future(dial("quic://name:4433"))
            await leaving.wait()
            dialling.cancel()
            left.set()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            while open_files() != before:
                await asyncio.sleep(0.001)
