"""``echostream events``, with a server in another process that emits all the time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from echostream_core import Kernel
from plugins.cli.tests.conftest import Run

pytestmark = pytest.mark.skipif("tcp" not in Kernel().known("transport"), reason="needs echostream-tcp")

PROGRAM = """\
import asyncio
import sys

from echostream_core import RpcServer


async def main() -> None:
    async with RpcServer("tcp://127.0.0.1:0", drain_timeout=0) as server:
        print(*server.addresses, flush=True)
        number = 0
        while True:
            await server.broadcast("clock.tick", number)
            await server.broadcast("clock.slow.tick", {"number": number})
            number += 1
            await asyncio.sleep(0.005)


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def clock() -> Iterator[str]:
    """The URL of a server that ticks."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        yield program.stdout.readline().strip()
        program.kill()


def test_events_are_printed_as_they_come(echostream: Run, clock: str) -> None:
    done = echostream("events", clock, "clock.*", "--count", "3")
    assert (done.status, done.err) == (0, "")
    topics, numbers = zip(*(line.split() for line in done.out.splitlines()), strict=True)
    assert topics == ("clock.tick",) * 3
    first = int(numbers[0])
    assert [int(number) for number in numbers] == [first, first + 1, first + 2]


def test_as_json_each_is_one_line_with_its_topic(echostream: Run, clock: str) -> None:
    done = echostream("events", clock, "clock.**", "--count", "4", "--json")
    assert done.status == 0
    found = [json.loads(line) for line in done.out.splitlines()]
    assert {one["topic"] for one in found} == {"clock.tick", "clock.slow.tick"}
    assert all(isinstance(one["payload"], dict) == (one["topic"] == "clock.slow.tick") for one in found)


def test_the_client_of_a_configuration(echostream: Run, clock: str, tmp_path: Path) -> None:
    file = tmp_path / "client.toml"
    file.write_text(f'[client.clock]\nurl = "{clock}"\n', encoding="utf-8")
    done = echostream("events", "--config", str(file), "clock.slow.*", "--count", "1", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["topic"] == "clock.slow.tick"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("a..b",), 1, "no pattern"),
        (("n", "--overflow", "drop"), 1, "known are block"),
        ((), 2, "write URL PATTERN"),
        (("n", "--client", "x"), 2, "--config"),
        (("n", "--count", "0"), 2, "--count"),
    ],
    ids=["pattern", "policy", "nothing", "client", "count"],
)
def test_what_is_wrong_is_said(echostream: Run, clock: str, arguments: tuple[str, ...], status: int, text: str) -> None:
    done = echostream("events", clock, *arguments)
    assert (done.status, done.out) == (status, "")
    assert text in done.err


def test_it_ends_with_an_interrupt_and_no_traceback(clock: str) -> None:
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "echostream_cli", "events", clock, "clock.tick"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as program:
            assert program.stdout is not None
            assert program.stdout.readline().startswith("clock.tick ")
            program.send_signal(signal.SIGINT)
            program.stdout.read()
            assert program.wait(timeout=40) == 130
        errors.seek(0)
        assert "Traceback" not in errors.read()
