"""The server's face: binding, sessions, and its own mistakes and others'."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import pytest

from echostream_core import ConfigError, ConnectFailed, Context, RpcClient, RpcServer, handler, service
from echostream_core.complaints import BURST_LINES, LINES_PER_S
from echostream_core.server import load_service
from tests.support.handlers import BASIC, Watched, echo
from tests.support.pairs import connected, memory_url
from tests.support.raw_peer import dialled, raw_setup
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)


async def test_it_listens_inside_the_block_and_not_after() -> None:
    url = memory_url()
    server = RpcServer(url, echo)
    assert (server.addresses, server.state) == ([], "stopped")
    async with server as same:
        assert same is server
        assert (server.addresses, server.state) == ([url], "serving")
        async with RpcClient.connect(url) as client:
            assert await client.request("echo", 1) == 1
    assert (server.addresses, server.state) == ([], "stopped")
    with pytest.raises(ConnectFailed):
        await RpcClient.connect(url)
    assert not other_tasks()


async def test_it_listens_on_several_urls_with_the_same_handlers() -> None:
    urls = [memory_url(), memory_url()]
    watched = Watched()
    watched.go_on.set()
    async with RpcServer(urls, watched) as server:
        assert server.addresses == urls
        for url in urls:
            async with RpcClient.connect(url) as client:
                await client.request("watched.wait")
        assert watched.begun == 2


async def test_when_one_url_cannot_be_bound_none_stays_bound() -> None:
    taken, free = memory_url(), memory_url()
    async with RpcServer(taken, echo):
        server = RpcServer([free, taken], echo)
        with pytest.raises(ConnectFailed, match="taken"):
            await server.start()
        assert (server.addresses, server.state) == ([], "stopped")
    async with RpcServer(free, echo):
        pass
    async with server:
        assert server.addresses == [free, taken]


async def test_starting_twice_is_refused() -> None:
    async with RpcServer(memory_url(), echo) as server:
        with pytest.raises(ConfigError, match="has been started already"):
            await server.start()


async def test_closing_what_was_never_started_or_twice_is_fine() -> None:
    server = RpcServer(memory_url(), echo)
    await server.close()
    await server.start()
    await asyncio.gather(server.close(), server.close())
    await server.close()
    assert server.state == "stopped"


async def test_leaving_the_block_by_an_exception_does_not_wait_for_calls() -> None:
    watched = Watched()
    url = memory_url()
    with pytest.raises(KeyError):
        async with RpcServer(url, watched, drain_timeout=1_000) as server:
            client = await RpcClient.connect(url)
            calling = asyncio.ensure_future(client.request("watched.wait", timeout=None))
            await watched.reached(begun=1)
            raise KeyError("anything")
    assert asyncio.get_running_loop().time() < 100
    assert server.state == "stopped"
    await asyncio.wait({calling})
    await client.close()
    assert not other_tasks()


async def test_serve_forever_ends_with_close() -> None:
    server = RpcServer(memory_url(), echo)
    serving = asyncio.ensure_future(server.serve_forever())
    await until(lambda: server.state == "serving")
    await server.close()
    await serving
    assert server.state == "stopped"


async def test_a_cancelled_serve_forever_leaves_the_server_to_its_owner() -> None:
    async with RpcServer(memory_url(), echo) as server:
        serving = asyncio.ensure_future(server.serve_forever())
        await settle()
        serving.cancel()
        await asyncio.wait({serving})
        assert serving.cancelled()
        assert server.state == "serving"


async def test_sessions_are_listed_while_they_live() -> None:
    async with RpcServer(memory_url(), echo) as server:
        assert server.sessions == []
        async with RpcClient.connect(server.addresses[0]) as client:
            await client.ping()
            (session,) = server.sessions
            assert session.peer == client.session.connection.local_address
        await until(lambda: not server.sessions)


async def test_a_session_without_setup_is_not_listed() -> None:
    async with RpcServer(memory_url(), echo) as server:
        peer = await dialled(server.addresses[0])
        await settle()
        assert server.sessions == []
        peer.begin(raw_setup())
        await until(lambda: server.sessions)
        peer.connection.close(0, "")


async def test_the_number_of_sessions_without_setup_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    urls = [memory_url(), memory_url()]
    limits = {"max_unfinished_setups": 3}
    async with RpcServer(urls, echo, limits=limits, drain_timeout=0) as server:
        peers = [await dialled(url) for url in [*urls, *urls]]
        await settle()
        assert sum(peer.closed.done() for peer in peers) == 1
        assert "too many sessions without SETUP" in caplog.text
        peers[0].begin(raw_setup())
        await until(lambda: server.sessions)
        another = await dialled(urls[0])
        await settle()
        assert not another.closed.done()


async def test_a_flood_of_refused_sessions_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    limits = {"max_unfinished_setups": 1, "setup_timeout_s": 1_000.0}
    async with RpcServer(memory_url(), echo, limits=limits, drain_timeout=0) as server:
        await dialled(server.addresses[0])
        for _ in range(100):
            await dialled(server.addresses[0])
        await settle()
        assert caplog.text.count("too many sessions without SETUP") == BURST_LINES
        await asyncio.sleep(2 / LINES_PER_S)
        await dialled(server.addresses[0])
        await settle()
        assert f"({100 - BURST_LINES} warnings before this one were left out)" in caplog.text


async def test_closing_does_not_wait_for_those_without_setup() -> None:
    async with RpcServer(memory_url(), echo, drain_timeout=1_000) as server:
        peer = await dialled(server.addresses[0])
        await settle()
        await server.close()
        assert asyncio.get_running_loop().time() < 60
        await until(peer.closed.done)


async def test_health_follows_the_life_of_the_server() -> None:
    async with connected(*BASIC) as pair:
        statuses = pair.client.stream("echostream.health.watch")
        assert await anext(statuses) == {"status": "SERVING"}
        pair.server.health.set("NOT_SERVING")
        assert await anext(statuses) == {"status": "NOT_SERVING"}
        pair.server.health.set("SERVING")
        assert await anext(statuses) == {"status": "SERVING"}
        await statuses.aclose()
        await pair.at_rest()


async def test_health_and_reflection_can_be_switched_off() -> None:
    async with connected(echo, server={"health": False, "reflection": False}) as pair:
        for method in ("echostream.health.status", "echostream.reflection.methods"):
            with pytest.raises(Exception, match="no method"):
                await pair.client.request(method)


async def test_reflection_answers_strangers_only_when_it_is_switched_on() -> None:
    """``auto`` looks at the address; memory is local, so the session is told another one."""

    @handler("disguise")
    def disguise(ctx: Context) -> None:
        from dataclasses import replace

        session = ctx.session
        session.peer = "tcp://192.0.2.1:5"
        session.connection.capabilities = replace(session.connection.capabilities, in_process=False)

    for reflection, answers in (("auto", False), (True, True)):
        async with connected(echo, disguise, server={"reflection": reflection}) as pair:
            assert await pair.client.request("echostream.reflection.methods")
            await pair.client.request("disguise")
            if answers:
                assert await pair.client.request("echostream.reflection.methods")
            else:
                with pytest.raises(Exception, match="local and authenticated sessions only"):
                    await pair.client.request("echostream.reflection.methods")


@pytest.mark.parametrize(
    ("arguments", "keywords", "problem"),
    [
        (("memory://x", 5), {}, "int is no handler"),
        (("memory://x", echo, echo), {}, "two handlers are named 'echo'"),
        (("nowhere", echo), {}, "is not a URL"),
        (([], echo), {}, "no URL given"),
        (("memory://x", echo), {"limits": {"max_strems": 5}}, "did you mean 'max_streams'"),
        (("memory://x", echo), {"codecs": ["json", "json"]}, "listed twice"),
        (("memory://x", echo), {"tls": {"dev": True}}, "none of the transports takes it"),
        (("memory://x", echo), {"require": ["priorities"]}, "cannot do priorities"),
        (("memory://x", echo), {"transport": {"memory": {"colour": 1}}}, "colour"),
    ],
    ids=range(9),
)
def test_wrong_arguments_are_refused_before_anything_is_bound(
    arguments: tuple[object, ...], keywords: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        RpcServer(*arguments, **keywords)  # type: ignore[arg-type]  # that is the point


def test_a_server_can_be_made_without_a_loop() -> None:
    assert RpcServer(memory_url(), echo).state == "stopped"


async def test_a_process_that_was_forked_from_a_server_cannot_serve(caplog: pytest.LogCaptureFixture) -> None:
    async with RpcServer(memory_url(), echo) as server:
        server._pid = 1
        with pytest.raises(ConnectFailed, match="failed to accept") as caught:
            await RpcClient.connect(server.addresses[0])
        assert isinstance(caught.value.__cause__, ConfigError)
        assert "start servers after the fork" in str(caught.value.__cause__)
        await settle()
        assert not server._sessions
        caplog.set_level(logging.INFO)


# Services by name


SOURCE = """\
from echostream_core import handler, service

@handler("one")
def one() -> int:
    return 1

@service("two")
class Two:
    @handler
    def two(self) -> int:
        return 2

made = Two()
several = [one, made]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with handlers, in a folder that is not on the path."""
    (tmp_path / "shop_of_the_test.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "shop_of_the_test", raising=False)
    return str(tmp_path)


def test_services_are_found_by_reference(module: str) -> None:
    before = list(sys.path)
    (one,) = load_service("shop_of_the_test:one", [module])
    (two,) = load_service("shop_of_the_test:Two", [module])
    assert type(two).__name__ == "Two"
    assert load_service("shop_of_the_test:several", [module]) == [one, load_service("shop_of_the_test:made")[0]]
    assert sys.path == before


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("no_such_module_at_all:x", "there is no module 'no_such_module_at_all'"),
        ("shop_of_the_test:three", "module 'shop_of_the_test' has no 'three'"),
        ("shop_of_the_test:made.five", "has no 'made.five'"),
    ],
)
def test_a_wrong_reference_says_which_part(module: str, reference: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load_service(reference, [module])
    assert caught.value.key == "services"


def test_a_module_that_lacks_a_library_is_not_a_missing_module(tmp_path: Path) -> None:
    (tmp_path / "broken_of_the_test.py").write_text("import no_such_library", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be imported: No module named 'no_such_library'"):
        load_service("broken_of_the_test:x", [str(tmp_path)])


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("1 / 0", r"importing 'broken_of_the_test' \(from '.*'\) raised ZeroDivisionError: .* \(.*test\.py:1\)"),
        ("def (", r"raised SyntaxError: .*broken_of_the_test\.py, line 1"),
        ("raise SystemExit(3)", r"raised SystemExit: 3 \(.*test\.py:1\)"),
        (
            "from echostream_core import handler\n@handler('a b')\ndef x(): ...",
            r"'a b' is no method name.*test\.py:2\)",
        ),
        ("class x:\n    def __init__(self, shop): ...", r"making 'broken_of_the_test:x' raised TypeError.*instance"),
    ],
    ids=["raises", "syntax", "exits", "handler", "arguments"],
)
def test_whatever_a_module_raises_is_a_problem_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, problem: str
) -> None:
    (tmp_path / "broken_of_the_test.py").write_text(source, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "broken_of_the_test", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_service("broken_of_the_test:x", [str(tmp_path)])
    assert caught.value.key == "services"
    assert caught.value.__cause__ is not None


async def test_a_server_from_a_file_serves_what_it_names(module: str, tmp_path: Path) -> None:
    url = memory_url()
    file = tmp_path / "echostream.toml"
    file.write_text(
        f'[server.public]\nlisten = ["{url}"]\nservices = ["shop_of_the_test:Two"]\ncodecs = ["json"]\n',
        encoding="utf-8",
    )
    async with RpcServer.from_config(file, handlers=[echo]) as server, RpcClient.connect(url) as client:
        assert server.name == "public"
        assert await client.request("two.two") == 2
        assert await client.request("echo", 1) == 1


async def test_a_service_may_keep_state_for_all_sessions() -> None:
    @service("counter")
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        @handler
        def next(self) -> int:
            self.count += 1
            return self.count

    async with RpcServer(memory_url(), Counter()) as server:
        numbers = []
        for _ in range(3):
            async with RpcClient.connect(server.addresses[0]) as client:
                numbers.append(await client.request("counter.next"))
    assert numbers == [1, 2, 3]
