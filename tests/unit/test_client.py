"""The client's face: dialling one URL or several, proxies, and what happens around the connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from echostream_core import (
    CapabilityError,
    ConfigError,
    ConnectFailed,
    Context,
    Disconnected,
    RemoteError,
    RpcClient,
    RpcServer,
    Session,
    Stream,
    Url,
    handler,
    service,
    stream_handler,
)
from echostream_core.builtin.memory import MemoryTransport
from echostream_core.client_sessions import ClientSessions
from echostream_core.config import load_config
from echostream_core.transport import Connection
from tests.support.handlers import BASIC, Watched, echo
from tests.support.pairs import connected, memory_url
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)


async def test_a_client_can_be_awaited_or_used_in_a_block() -> None:
    async with RpcServer(memory_url(), echo) as server:
        url = server.addresses[0]
        client = await RpcClient.connect(url)
        assert await client.request("echo", 1) == 1
        await client.close()
        await client.close()
        async with RpcClient.connect(url) as client:
            assert await client.request("echo", 2) == 2
        async with await RpcClient.connect(url) as client:
            assert await client.request("echo", 3) == 3
        with pytest.raises(Disconnected):
            await client.request("echo", 4)
        await until(lambda: not server.sessions)
    assert not other_tasks()


async def test_nothing_is_dialled_before_it_is_awaited() -> None:
    async with RpcServer(memory_url(), echo) as server:
        connecting = RpcClient.connect(server.addresses[0])
        await settle()
        assert not server._sessions
        async with connecting as client:
            await client.ping()


async def test_who_forgets_to_await_is_told_what_to_write() -> None:
    connecting: Any = RpcClient.connect(memory_url())
    with pytest.raises(AttributeError, match=r"so there is no request: write 'client = await …'"):
        connecting.request("echo", 1)
    with pytest.raises(AttributeError, match="no attribute 'requist'"):
        _ = connecting.requist


async def test_a_client_that_is_not_connected_says_so() -> None:
    connecting = RpcClient.connect(memory_url())
    client = connecting._client
    with pytest.raises(ConfigError, match="not connected"):
        await client.request("echo", 1)
    await client.close()


async def test_the_first_url_that_works_is_used_and_the_fallback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = memory_url()
    async with RpcServer(memory_url(), echo) as server:
        async with RpcClient.connect([nowhere, server.addresses[0]]) as client:
            assert await client.request("echo", 1) == 1
            assert client.fallbacks == 1
            assert client.peer == server.addresses[0]
        assert f"{nowhere}" in caplog.text
        assert f"trying {server.addresses[0]}" in caplog.text
        async with RpcClient.connect([server.addresses[0], nowhere]) as client:
            assert client.fallbacks == 0


async def test_when_no_url_works_all_reasons_are_told() -> None:
    urls = [memory_url(), memory_url()]
    with pytest.raises(ConnectFailed, match="none of 2 URLs worked") as caught:
        await RpcClient.connect(urls)
    for url in urls:
        assert url in str(caught.value)
    with pytest.raises(ConnectFailed, match="nobody in this process listens"):
        await RpcClient.connect(urls[0])


async def test_a_dial_that_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: object, url: object, options: object) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryTransport, "dial", never)
    with pytest.raises(ConnectFailed, match=r"did not answer within 2\.5 s"):
        await RpcClient.connect(memory_url(), connect_timeout=2.5)
    assert asyncio.get_running_loop().time() == 2.5
    assert not other_tasks()


async def test_a_connection_that_lacks_what_is_required_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin promised it, and then it was not negotiated."""
    dial = MemoryTransport.dial

    async def less(self: MemoryTransport, url: Url, options: msgspec.Struct) -> Connection:
        made = await dial(self, url, options)
        made.capabilities = replace(made.capabilities, datagrams="none")
        return made

    async with RpcServer(memory_url(), echo) as server:
        monkeypatch.setattr(MemoryTransport, "dial", less)
        with pytest.raises(CapabilityError, match="the connection cannot do datagrams") as caught:
            await RpcClient.connect(server.addresses[0], require=["datagrams"])
        assert caught.value.capability == "datagrams"
        await until(lambda: not server._sessions)
    assert not other_tasks()


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({"limits": {"max_strems": 5}}, "did you mean 'max_streams'"),
        ({"codecs": ["json", "json"]}, "listed twice"),
        ({"tls": {"dev": True}}, "none of the transports takes it"),
        ({"require": ["priorities"]}, "cannot do priorities"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_dialled(keywords: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        RpcClient.connect(memory_url(), **keywords)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_client_in_a_forked_process_says_so() -> None:
    async with connected(echo) as pair:
        await pair.ready()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            # Only plain calls here: the event loop belongs to the parent. Never back into pytest.
            answer = "no error"
            try:
                pair.client.request("echo", 1).send(None)
            except BaseException as error:
                answer = str(error)
            os.write(writing, answer.encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        assert "connect after the fork" in os.read(reading, 1_000).decode()
        os.close(reading)
        assert await pair.client.request("echo", 1) == 1


# Handlers of the client


async def test_what_is_added_is_served_at_once_and_what_is_wrong_changes_nothing() -> None:
    async with connected(client_handlers=(echo,)) as pair:
        await pair.ready()

        @handler("more")
        def more() -> str:
            return "more"

        pair.client.add(more)
        assert await pair.far.request("more") == "more"
        for wrong in (more, 5):
            with pytest.raises(ConfigError):
                pair.client.add(wrong)
        assert await pair.far.request("echo", 1) == 1
        assert await pair.far.request("more") == "more"


async def test_streams_are_served_by_what_was_added_too() -> None:
    @stream_handler("late")
    async def late(stream: Stream) -> str:
        return "better late"

    async with connected() as pair:
        await pair.ready()
        pair.client.add(late)
        async with pair.far.open_stream("late") as stream:
            assert await stream.recv() == "better late"
        await pair.at_rest()


# Proxies


@service("calc")
class Calc:
    """Everything that a proxy can call."""

    @handler
    async def square(self, x: int) -> int:
        return x * x

    @handler
    def add(self, a: int, b: int = 10) -> int:
        return a + b

    @handler("renamed")
    async def original(self) -> str:
        return "renamed"

    @handler
    async def whole(self, value: dict[str, int]) -> dict[str, int]:
        return value

    @handler
    async def context(self, x: int, ctx: Context) -> str:
        return f"{ctx.method} {x}"

    @handler
    async def primes(self, upto: int) -> AsyncIterator[int]:
        for number in range(2, upto):
            if all(number % divisor for divisor in range(2, number)):
                yield number

    @stream_handler
    async def total(self, stream: Stream) -> int:
        return sum([item async for item in stream])

    def private(self) -> None: ...


async def test_a_proxy_has_the_methods_of_its_service() -> None:
    async with connected(Calc()) as pair:
        calc: Any = pair.client.proxy(Calc)
        assert await calc.square(4) == 16
        assert await calc.square(x=5) == 25
        assert await calc.add(1, 2) == 3
        assert await calc.add(1, b=2) == 3
        assert await calc.add(a=1) == 11
        assert await calc.original() == "renamed"
        assert await calc.whole({"a": 1}) == {"a": 1}
        assert await calc.context(7) == "calc.context 7"
        assert [prime async for prime in calc.primes(12)] == [2, 3, 5, 7, 11]
        async with calc.total() as stream:
            await stream.send(1)
            await stream.send(2)
            await stream.end()
            assert await stream.recv() == 3
        await pair.at_rest()


async def test_a_proxy_checks_arguments_as_the_method_would() -> None:
    async with connected(Calc()) as pair:
        calc: Any = pair.client.proxy(Calc)
        for method, arguments, keywords, problem in (
            ("square", (1, 2), {}, "takes 1"),
            ("add", (1, 2, 3), {}, "takes 2"),
            ("add", (1,), {"a": 2}, "argument 'a'"),
            ("add", (1,), {"c": 2}, "argument 'c'"),
            ("square", (), {}, "x"),
            ("add", (), {"b": 1}, "a"),
        ):
            with pytest.raises(TypeError, match=problem):
                await getattr(calc, method)(*arguments, **keywords)
        for name in ("private", "missing", "__wrapped__"):
            with pytest.raises(AttributeError, match=name):
                getattr(calc, name)


def test_a_proxy_needs_a_service() -> None:
    client = RpcClient.connect(memory_url())._client
    with pytest.raises(ConfigError, match="is no service"):
        client.proxy(int)


# From a file


async def test_a_client_from_a_file_dials_what_it_names(tmp_path: Path) -> None:
    url = memory_url()
    file = tmp_path / "echostream.toml"
    file.write_text(
        f'[client.orders]\nurl = ["{memory_url()}", "{url}"]\ncodecs = ["json"]\ntimeout_s = 5\n', encoding="utf-8"
    )
    watched = Watched()
    async with RpcServer(url, *BASIC, watched):
        async with RpcClient.from_config(file, "orders") as client:
            assert await client.request("echo", 1) == 1
            assert client.fallbacks == 1
            with pytest.raises(TimeoutError):
                await client.request("watched.wait")
            assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.1)
        with pytest.raises(ConfigError, match="order"):
            RpcClient.from_config(file, "order")


async def test_a_method_that_is_missing_is_the_servers_word() -> None:
    async with connected(echo) as pair:
        with pytest.raises(RemoteError, match="did you mean 'echo'"):
            await pair.client.request("ech")


def test_a_misspelt_section_is_told_before_anything_is_dialled_or_listened_at() -> None:
    overrides = ["client.c.url=memory://x", "server.s.listen=memory://x", "transport.memry.window_bytes=1"]
    with pytest.raises(ConfigError, match=r"transport\.memry: .*did you mean 'memory'"):
        RpcClient.from_loaded(load_config(environ={}, overrides=overrides))
    with pytest.raises(ConfigError, match=r"transport\.memry: .*did you mean 'memory'"):
        RpcServer.from_config(overrides=overrides)


async def test_connecting_twice_is_no_second_session() -> None:
    async with RpcServer(memory_url(), echo) as server:
        connecting = RpcClient.connect(server.addresses[0])
        client = await connecting
        with pytest.raises(ConfigError, match="connected already"):
            await connecting
        assert await client.request("echo", 1) == 1
        await client.close()


async def test_a_first_session_that_goes_away_while_it_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def settle_in_vain(self: ClientSessions, session: Session, url: str) -> None:
        session.departure.on_goaway("leaving", final=False)
        session.abort()
        raise ConnectFailed(f"{url}: of no use")

    async with RpcServer(memory_url(), echo) as server:
        monkeypatch.setattr(ClientSessions, "_settle", settle_in_vain)
        connecting = RpcClient.connect(server.addresses[0])
        for _ in range(2):
            with pytest.raises(ConnectFailed, match="of no use"):
                await connecting
            await settle()
        monkeypatch.undo()
        client = await connecting
        assert await client.request("echo", 1) == 1
        await client.close()
    assert not other_tasks()
