"""How a command ends: each exit status, an error as a sentence, and a traceback only for who asks for one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from echostream_core.commands import ExitStatus, failure
from plugins.cli.tests.conftest import PATIENCE_S, Run, process

ECHOSTREAM = [sys.executable, "-m", "echostream_cli"]


def test_0_it_did_what_was_asked(echostream: Run) -> None:
    done = echostream("plugins", "list")
    assert (done.status, done.err) == (ExitStatus.OK, "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("serve", "nowhere.toml"), "nowhere.toml: cannot be read: No such file or directory"),
        (("config", "show", "nowhere.toml"), "nowhere.toml: cannot be read"),
        (("call", "nothing://x", "a.b"), "E-NO-PROVIDER: no plugin provides the transport 'nothing'"),
        (("call", "memory://nobody-is-here", "a.b"), "memory://nobody-is-here"),
    ],
)
def test_1_it_could_not_and_says_why(echostream: Run, arguments: tuple[str, ...], text: str) -> None:
    done = echostream(*arguments)
    assert done.status == ExitStatus.FAILED
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert text in done.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("serv",), "Did you mean 'serve'?"),
        (("plugins", "lst"), "Did you mean 'list'?"),
        (("plugins", "list", "--jsn"), "No such option: --jsn"),
        (("call",), "Missing argument 'URL'"),
        (("call", "tcp://h:1"), "write URL METHOD [PAYLOAD]"),
        (("call", "localhost:1", "a.b"), "is not a URL: write scheme://host:port"),
        (("call", "memory://x", "a.b", "text"), """a text needs quotes of its own: '"text"'"""),
        (("call", "memory://x", "a.b", "@nowhere.json"), "nowhere.json cannot be read"),
        (("call", "memory://x", "a.b", "--metadata", "key"), "write KEY=VALUE"),
        (("call", "memory://x", "a.b", "--client", "x"), "--config FILE, which is missing"),
        (("call", "memory://x", "a.b", "--timeout", "soon"), "--timeout"),
        (("demo", "--codecs", ","), "name at least one"),
    ],
)
def test_2_the_command_line_makes_no_sense(echostream: Run, arguments: tuple[str, ...], text: str) -> None:
    done = echostream(*arguments)
    assert done.status == ExitStatus.USAGE
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert text in done.err


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, ExitStatus.INTERRUPTED), (signal.SIGTERM, -signal.SIGTERM)],
)
def test_130_and_143_it_was_interrupted(number: signal.Signals, status: int, tmp_path: Path) -> None:
    # `call … -` waits for its payload; by then it has all its modules. SIGTERM ends such a command by itself.
    command = [*ECHOSTREAM, "call", "memory://x", "a.b", "-"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        wait_until_it_reads(program.pid)
        program.send_signal(number)
        _, errors = program.communicate(timeout=PATIENCE_S)
        assert program.returncode == status
    assert "Traceback" not in errors


def wait_until_it_reads(pid: int) -> None:
    """Wait until the process sleeps in a read of its standard input."""
    place = Path(f"/proc/{pid}/syscall")
    if not place.exists():
        pytest.skip("this system does not tell what a process waits for")
    while place.read_text(encoding="ascii").split()[:2] != ["0", "0x0"]:
        pass


@pytest.mark.skipif(os.name != "posix", reason="reads through a shell's pipe")
def test_141_the_reader_went_away(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*ECHOSTREAM, "plugins", "list"]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False
    )
    os.close(writing)
    assert done.returncode == ExitStatus.PIPE_CLOSED
    assert done.stderr == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = process("--debug", "serve", "nowhere.toml", folder=tmp_path)
    assert done.status == 1
    assert "Traceback" in done.err
    assert "ConfigError" in done.err


def test_a_defect_of_ours_is_told_as_such(echostream: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fall_over(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("echostream_core.commands.make_kernel", fall_over)
    done = echostream("plugins", "list")
    assert done.status == ExitStatus.FAILED
    assert done.err.startswith("error: unexpected ZeroDivisionError: oh\n")
    assert "--debug" in done.err


def test_every_status_is_documented() -> None:
    source = Path(sys.modules[ExitStatus.__module__].__file__ or "").read_text(encoding="utf-8")
    for status in ExitStatus:
        assert re.search(rf'{status.name} = {status.value}\n    """.+', source), status


def test_the_statuses_of_errors() -> None:
    assert failure(KeyboardInterrupt()) == (ExitStatus.INTERRUPTED, "")
    assert failure(BrokenPipeError()) == (ExitStatus.PIPE_CLOSED, "")
    assert failure(ValueError("x")) == (ExitStatus.FAILED, "unexpected ValueError: x")
