"""``serve`` in a process of its own: addresses, draining on a signal, and what happens when it cannot start."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream_core import Disconnected, Kernel, RpcClient, StatusCode
from echostream_core.errors import ConnectFailed, RpcError
from tests.e2e.processes import PATIENCE_S, Program, finished, running

COMMANDS = ["echostream_core"] + (["echostream_cli"] if importlib.util.find_spec("echostream_cli") else [])

pytestmark = pytest.mark.skipif("tcp" not in Kernel().known("transport"), reason="needs echostream-tcp")

DESK = '''\
"""A call that runs until the file ``released`` exists, and tells by the file ``started`` that it runs."""
import asyncio
from pathlib import Path
from echostream_core import handler

HERE = Path(__file__).parent

@handler("desk.work")
async def work() -> str:
    (HERE / "started").touch()
    while not (HERE / "released").exists():
        await asyncio.sleep(0.01)
    return "done"

@handler("desk.ask")
async def ask() -> str:
    return "yes"
'''


@pytest.fixture(params=COMMANDS)
def serve(request: pytest.FixtureRequest) -> list[str]:
    """Both command lines."""
    return ["-m", request.param, "serve"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a service and a configuration of two servers."""
    (tmp_path / "desk.py").write_text(DESK, encoding="utf-8")
    sections = [
        f'[server.{name}]\nlisten = "tcp://127.0.0.1:0"\nservices = ["desk:work", "desk:ask"]\n'
        for name in ("one", "two")
    ]
    (tmp_path / "echostream.toml").write_text("\n".join(sections), encoding="utf-8")
    return tmp_path


def events_until(program: Program, name: str) -> list[dict[str, str]]:
    """The JSON lines up to the first event of that name."""
    events: list[dict[str, str]] = []
    while not events or events[-1]["event"] != name:
        events.append(json.loads(program.line()))
    return events


def address_in(events: list[dict[str, str]], server: str) -> str:
    """Where ``server`` listens."""
    return next(event["address"] for event in events if event.get("server") == server)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def working(address: str, folder: Path) -> Any:
    """A client with one call that runs at the server."""
    async with RpcClient.connect(address, reconnect=False) as client:  # else it looks for another server meanwhile
        call = asyncio.ensure_future(client.request("desk.work", timeout=None))
        try:
            await until((folder / "started").exists)
            yield client, call
        finally:
            call.cancel()


async def refusal_of(client: RpcClient) -> RpcError:
    """The error of the first call that a server which drains refuses; it says so a moment before it does."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await client.request("desk.ask", timeout=5)
            except RpcError as error:
                return error
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_signal_drains_the_running_call_finishes_and_new_ones_are_refused(
    serve: list[str], folder: Path, number: signal.Signals
) -> None:
    with running([*serve, "echostream.toml", "--json"], folder) as program:
        address = address_in(events_until(program, "ready"), "one")
        async with working(address, folder) as (client, call):
            program.send(number)
            draining = await asyncio.to_thread(events_until, program, "draining")
            assert draining[-1]["reason"] == number.name
            refusal = await refusal_of(client)
            assert refusal.code is StatusCode.UNAVAILABLE
            assert refusal.not_processed
            assert not call.done()
            (folder / "released").touch()
            assert await call == "done"
        assert json.loads(await asyncio.to_thread(program.line)) == {"event": "stopped"}
        assert program.status() == 0, program.errors()


async def test_a_second_signal_drops_the_calls_that_still_run(serve: list[str], folder: Path) -> None:
    with running([*serve, "echostream.toml", "--json"], folder) as program:
        address = address_in(events_until(program, "ready"), "one")
        async with working(address, folder) as (_, call):
            program.send(signal.SIGTERM)
            await asyncio.to_thread(events_until, program, "draining")
            program.send(signal.SIGTERM)
            with pytest.raises(Disconnected):
                await call
        assert program.status() == 0, program.errors()


def test_every_server_is_started_or_the_named_ones(serve: list[str], folder: Path) -> None:
    with running([*serve, "echostream.toml", "--json"], folder) as program:
        assert [event.get("server") for event in events_until(program, "ready")] == ["one", "two", None]
    with running([*serve, "echostream.toml", "--json", "--name", "two"], folder) as program:
        assert [event.get("server") for event in events_until(program, "ready")] == ["two", None]


def test_plain_output_has_one_line_per_address(serve: list[str], folder: Path) -> None:
    with running([*serve, "echostream.toml"], folder) as program:
        first, second = program.line(), program.line()
        assert first.startswith("one: listening on tcp://127.0.0.1:")
        assert second.startswith("two: listening on tcp://127.0.0.1:")
        program.send(signal.SIGTERM)
        assert program.status() == 0
        assert program.rest() == []
        assert "SIGTERM: draining" in program.errors()


def test_the_end_of_standard_input_stops_it_where_that_was_asked_for(serve: list[str], folder: Path) -> None:
    command = [*serve, "echostream.toml", "--json", "--stop-with-input"]
    with running(command, folder, stdin=subprocess.PIPE) as program:
        events_until(program, "ready")
        assert program.process.stdin is not None
        program.process.stdin.close()
        assert [event.get("reason") for event in events_until(program, "stopped")] == ["end of input", None]
        assert program.status() == 0, program.errors()


def test_settings_of_the_command_line_and_the_environment_count(serve: list[str], folder: Path) -> None:
    command = [*serve, "echostream.toml", "--json", "--set", "server.one.listen=memory://here"]
    environ = {"ECHOSTREAM__SERVER__TWO__LISTEN": "memory://there"}
    with running(command, folder, environ=environ) as program:
        events = events_until(program, "ready")
        assert [event.get("address") for event in events] == ["memory://here", "memory://there", None]


def test_when_one_server_cannot_start_none_stays_up(serve: list[str], folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        override = f"server.two.listen=tcp://127.0.0.1:{port}"
        done = finished([*serve, "echostream.toml", "--set", override], folder)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["missing.toml"], 1, "missing.toml: cannot be read"),
        (["echostream.toml", "--name", "three"], 1, "there is no section [server.three]; there are: one, two"),
        (["echostream.toml", "--set", "server.one.listen=nothing://x"], 1, "E-NO-PROVIDER"),
        (["echostream.toml", "--set", "server.one.lisden=x"], 1, "did you mean 'listen'?"),
        (["echostream.toml", "--set", "server.one.services=desk:rest"], 1, "has no 'rest'"),
        (["empty.toml"], 1, "nothing to serve"),
        ([], 2, ""),
        (["echostream.toml", "--nonsense"], 2, "--nonsense"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_gets_a_sentence(
    serve: list[str], folder: Path, arguments: list[str], status: int, text: str
) -> None:
    (folder / "empty.toml").touch()
    done = finished([*serve, *arguments], folder)
    assert done.returncode == status
    assert text in done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


async def test_a_client_that_comes_while_it_drains_is_not_served(serve: list[str], folder: Path) -> None:
    with running([*serve, "echostream.toml", "--json"], folder) as program:
        events = events_until(program, "ready")
        async with working(address_in(events, "one"), folder):
            program.send(signal.SIGTERM)
            await asyncio.to_thread(events_until, program, "draining")

            async def refused() -> bool:
                try:
                    async with RpcClient.connect(address_in(events, "two")) as client:
                        await client.request("desk.ask", timeout=5)
                except (ConnectFailed, RpcError):
                    return True
                return False

            async with asyncio.timeout(PATIENCE_S):
                while not await refused():  # the listener closes a moment after it said so
                    await asyncio.sleep(0.01)
            (folder / "released").touch()
        assert program.status() == 0, program.errors()
