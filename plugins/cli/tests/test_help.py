"""The help: everything has some, it is plain in a pipe, and it comes at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.cli.tests.conftest import Run

COMMANDS = [
    (),
    ("serve",),
    ("call",),
    ("events",),
    ("discover",),
    ("plugins",),
    ("plugins", "list"),
    ("plugins", "check"),
    ("plugins", "inspect"),
    ("plugins", "why"),
    ("plugins", "new"),
    ("config",),
    ("config", "check"),
    ("config", "show"),
    ("config", "schema"),
    ("demo",),
    ("bench",),
    ("version",),
]
WITH_EXAMPLES = [command for command in COMMANDS if command not in ((), ("plugins",), ("config",), ("version",))]

BOX = set("─│╭╮╰╯┏┓┃━┡┩└┘├┤")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_that_is_plain_in_a_pipe(echostream: Run, command: tuple[str, ...]) -> None:
    done = echostream(*command, "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: {' '.join(('echostream', *command))}")
    assert done.err == ""
    assert not BOX.intersection(done.out)
    assert "\x1b" not in done.out
    assert echostream(*command, "-h").out == done.out


@pytest.mark.parametrize("command", WITH_EXAMPLES, ids=" ".join)
def test_the_help_shows_how_it_is_typed(echostream: Run, command: tuple[str, ...]) -> None:
    text = echostream(*command, "--help").out
    _, found, examples = text.partition("Example")
    assert found
    assert f"    echostream {' '.join(command)}" in examples


def test_all_commands_stand_in_the_list_with_a_whole_sentence(echostream: Run) -> None:
    text = echostream("--help").out
    _, _, listed = text.partition("Commands:\n")
    for name in ("serve", "call", "events", "demo", "bench", "version", "plugins", "config"):
        assert f"\n  {name} " in "\n" + listed
    assert "..." not in listed


def test_without_a_command_the_help_is_shown(echostream: Run) -> None:
    for arguments in ((), ("plugins",), ("config",)):
        done = echostream(*arguments)
        assert done.status == 2
        assert done.out.startswith("Usage: echostream")


def test_help_does_not_wait_for_the_kernel(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from echostream_cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "slow = {'asyncio', 'echostream_core', 'msgspec', 'rich', 'ssl', 'uvloop'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stderr


def test_on_a_terminal_the_help_is_drawn(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    parent, child = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "echostream_cli", "demo", "--help"]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdin=child, stdout=child, stderr=child) as program:
        os.close(child)
        shown = read_all(parent)
        assert program.wait(timeout=40) == 0
    assert BOX.intersection(shown)
    assert "  echostream demo --quick" in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert not re.search(r"\x1b\[(3[0-7]|9[0-7])m", shown), "NO_COLOR is obeyed"


def read_all(descriptor: int) -> str:
    """What a terminal shows until the program has closed it."""
    found = b""
    while True:
        try:
            part = os.read(descriptor, 65_536)
        except OSError:  # Linux answers so at the end
            part = b""
        if not part:
            os.close(descriptor)
            return found.decode()
        found += part
