"""``echostream call``, with a server in another process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from echostream_core import Kernel
from plugins.cli.tests.conftest import Run, process

pytestmark = pytest.mark.skipif("tcp" not in Kernel().known("transport"), reason="needs echostream-tcp")

DESK = """\
from collections.abc import AsyncIterator
from echostream_core import Context, RpcError, StatusCode, handler
import asyncio

@handler("desk.add")
async def add(a: int, b: int) -> int:
    return a + b

@handler("desk.count")
async def count(upto: int) -> AsyncIterator[dict[str, int]]:
    for number in range(upto):
        yield {"number": number}

@handler("desk.whoami")
async def whoami(ctx: Context) -> dict[str, str]:
    return {key: str(value) for key, value in ctx.metadata.items()}

@handler("desk.refuse")
async def refuse() -> None:
    raise RpcError(StatusCode.NOT_FOUND, "no such desk")

@handler("desk.sleep")
async def sleep() -> None:
    await asyncio.sleep(60)

@handler("desk.echo")
async def echo(value: object) -> object:
    return value
"""

TOML = """\
[server.desk]
listen   = "tcp://127.0.0.1:0"
services = ["desk:add", "desk:count", "desk:whoami", "desk:refuse", "desk:sleep", "desk:echo"]
"""


@dataclass(frozen=True, slots=True)
class Desk:
    """A server that runs."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    """A server for the whole module, started by the command itself."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "desk.py").write_text(DESK, encoding="utf-8")
        (folder / "server.toml").write_text(TOML, encoding="utf-8")
        command = [sys.executable, "-m", "echostream_cli", "serve", "server.toml", "--json", "--stop-with-input"]
        with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
            assert program.stdin is not None and program.stdout is not None
            url = json.loads(program.stdout.readline())["address"]
            (folder / "client.toml").write_text(f'[client.desk]\nurl = "{url}"\n', encoding="utf-8")
            yield Desk(url, folder)
            program.stdin.close()
            program.stdout.read()
            assert program.wait(timeout=40) == 0


def test_a_call_prints_the_answer_as_json(echostream: Run, desk: Desk) -> None:
    done = echostream("call", desk.url, "desk.add", '{"a": 2, "b": 3}')
    assert (done.status, done.out, done.err) == (0, "5\n", "")


def test_the_items_of_a_generator_are_printed_one_per_line(echostream: Run, desk: Desk) -> None:
    for form in ((), ("--json",), ("--stream",)):
        done = echostream("call", desk.url, "desk.count", "3", *form)
        assert done.status == 0, done.err
        assert [json.loads(line) for line in done.out.splitlines()] == [{"number": number} for number in range(3)]


def test_a_generator_is_refused_where_one_answer_was_asked_for(echostream: Run, desk: Desk) -> None:
    done = echostream("call", desk.url, "desk.count", "3", "--no-stream")
    assert done.status == 1
    assert "UNIMPLEMENTED" in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("desk.refuse",), "error: NOT_FOUND: no such desk"),
        (("desk.ad",), "did you mean 'desk.add'?"),
        (("desk.add", '{"a": 2}'), "error: INVALID_ARGUMENT: "),
        (("desk.sleep", "--timeout", "0.05"), "error: DEADLINE_EXCEEDED: "),
        (("desk.add", "{}", "--codec", "jsn"), "E-NO-PROVIDER"),
        (("desk.add", "{}", "--dev"), "tls"),
    ],
)
def test_what_the_peer_answers_with_an_error(
    echostream: Run, desk: Desk, arguments: tuple[str, ...], text: str
) -> None:
    done = echostream("call", desk.url, *arguments)
    assert done.status == 1
    assert done.out == ""
    assert text in done.err


def test_metadata_travels(echostream: Run, desk: Desk) -> None:
    done = echostream("call", desk.url, "desk.whoami", "--metadata", "tenant=acme", "--metadata", "note=a=b")
    assert json.loads(done.out) == {"tenant": "acme", "note": "a=b"}


def test_the_payload_comes_from_a_file_or_from_standard_input(echostream: Run, desk: Desk) -> None:
    (desk.folder / "payload.json").write_text('{"a": 20, "b": 3}', encoding="utf-8")
    assert echostream("call", desk.url, "desk.add", f"@{desk.folder / 'payload.json'}").out == "23\n"
    done = process("call", desk.url, "desk.add", "-", folder=desk.folder, stdin='{"a": 1, "b": 1}')
    assert (done.status, done.out) == (0, "2\n")


def test_the_client_of_a_configuration(echostream: Run, desk: Desk) -> None:
    file = str(desk.folder / "client.toml")
    call = ("call", "--config", file)
    assert echostream(*call, "desk.add", '{"a": 2, "b": 3}').out == "5\n"
    assert echostream(*call, "--client", "desk", "desk.echo", '"text"', "--codec", "json").out == '"text"\n'
    elsewhere = echostream(*call, "desk.echo", "--set", "client.desk.url=tcp://127.0.0.1:1")
    assert elsewhere.status == 1
    assert "127.0.0.1:1" in elsewhere.err
    unknown = echostream(*call, "--client", "shop", "desk.echo")
    assert unknown.status == 1
    assert "[client.shop]" in unknown.err
    surplus = echostream(*call, desk.url, "desk.echo", "1")
    assert surplus.status == 2


def test_a_setting_beside_a_url_counts(echostream: Run, desk: Desk) -> None:
    wrong = echostream("call", desk.url, "desk.echo", "1", "--set", "transport.tcp.backlogg=1")
    assert (wrong.status, wrong.out) == (1, "")
    assert "transport.tcp.backlogg: there is no such setting; did you mean 'backlog'?" in wrong.err
    assert echostream("call", desk.url, "desk.echo", "1", "--set", "transport.tcp.backlog=1").out == "1\n"


def test_answers_keep_their_form(echostream: Run, desk: Desk) -> None:
    value = '{"text":"Grüße","list":[1,2.5,null,true],"map":{"a":{}}}'
    assert echostream("call", desk.url, "desk.echo", value).out == value + "\n"
    assert echostream("call", desk.url, "desk.echo", "null").out == "null\n"
