"""Commands that other plugins add, and broken ones that disturb nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.cli.tests.conftest import Done, install, process

OFFER = """\
from echostream_core import hookimpl
from echostream_core.components import ComponentSpec


def add(application):
    BODY


@hookimpl
def echostream_components():
    return [ComponentSpec(kind="command", name="KEY", factory=add)]
"""

HELLO = """@application.command()
    def hello(name: str = "you", status: int = 0) -> int:
        '''Greet somebody. It is polite.'''
        print(f"hello {name}")
        return status

    @application.command()
    def goodbye() -> None:
        '''Leave.'''
        raise ValueError("stay")"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH."""
    return tmp_path / "site"


def offer(site: Path, name: str, key: str, body: str) -> None:
    """Install a plugin that offers commands."""
    module = name.replace("-", "_")
    groups = {"plugins": {module: module}, "command": {key: module}}
    install(site, name, OFFER.replace("KEY", key).replace("BODY", body), groups)


def run(site: Path, *arguments: str) -> Done:
    """The command with what is installed in ``site``."""
    done = process(*arguments, folder=site, environ={"PYTHONPATH": str(site)})
    assert "Traceback" not in done.err
    return done


def test_a_plugin_adds_commands_which_stand_in_the_help_and_run(site: Path) -> None:
    offer(site, "acme-hello", "hello", HELLO)
    text = run(site, "--help").out
    assert "  hello " in text
    assert "  goodbye " in text
    assert run(site, "hello", "--name", "ada").out == "hello ada\n"
    assert run(site, "hello", "--help").out.startswith("Usage: echostream hello [OPTIONS]")


def test_a_number_that_it_returns_is_the_exit_status(site: Path) -> None:
    offer(site, "acme-hello", "hello", HELLO)
    assert run(site, "hello", "--status", "7").status == 7


def test_what_it_raises_is_told_like_ours(site: Path) -> None:
    offer(site, "acme-hello", "hello", HELLO)
    done = run(site, "goodbye")
    assert done.status == 1
    assert done.err.startswith("error: unexpected ValueError: stay")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("raise ValueError('not today')", "ValueError: not today"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("pass", "has added no command"),
        ("application.command()(42)", "its plugin raised"),
    ],
)
def test_a_broken_one_is_told_and_left_out(site: Path, body: str, text: str) -> None:
    offer(site, "acme-broken", "broken", body)
    offer(site, "acme-hello", "hello", HELLO)
    done = run(site, "hello")
    assert (done.status, done.out) == (0, "hello you\n")
    assert "warning: the command 'broken' is left out: " in done.err
    assert text in done.err


def test_one_whose_module_cannot_be_imported_is_told_with_its_code(site: Path) -> None:
    groups = {"plugins": {"acme": "acme_broken"}, "command": {"broken": "acme_broken"}}
    install(site, "acme-broken", "raise ImportError('no')\n", groups)
    done = run(site, "--help")
    assert done.status == 0
    assert "E-IMPORT" in done.err


def test_the_built_in_commands_do_not_ask_anybody(site: Path) -> None:
    offer(site, "acme-broken", "broken", "raise ValueError('not today')")
    done = run(site, "plugins", "list")
    assert done.status == 0
    assert done.err == ""


def test_a_name_of_ours_cannot_be_taken(site: Path) -> None:
    body = HELLO.replace("def hello", "def serve")
    offer(site, "acme-serve", "serve", body)
    done = run(site, "goodbye")
    assert "offers the command 'serve', which exists already" in done.err
    assert "Start the servers" in run(site, "serve", "--help").out


def test_a_blocked_plugin_adds_nothing(site: Path) -> None:
    offer(site, "acme-hello", "hello", HELLO)
    environ = {"PYTHONPATH": str(site), "ECHOSTREAM__PLUGINS__BLOCK": "acme-hello"}
    done = process("hello", folder=site, environ=environ)
    assert done.status == 2
    assert "No such command" in done.err
