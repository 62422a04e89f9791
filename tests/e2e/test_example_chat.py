"""examples/chat: people in processes of their own talk, come and go, and miss nothing when a server dies."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from echostream_core import Kernel
from examples.chat.editor import End, LineEditor
from examples.chat.protocol import clean
from tests.e2e.processes import PATIENCE_S, Program, clean_environment, finished, running

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("echostream_rooms", reason="the chat is made of echostream-rooms")
pytestmark = pytest.mark.skipif("tcp" not in Kernel().known("transport"), reason="needs echostream-tcp")
SCHEMES = [scheme for scheme in ("tcp", "quic", "unix") if scheme in Kernel().known("transport")]
ENVIRON = {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def folder(dev_certificates: Path) -> Iterator[Path]:
    """Not tmp_path: the path of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def command(*arguments: object) -> list[str]:
    return ["-m", "examples.chat", *map(str, arguments)]


class House:
    """Servers and people, all gone at the end."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder

    def server(self, url: str, *options: object) -> tuple[Program, str]:
        program = self._stack.enter_context(running(command("serve", url, *options), self._folder, environ=ENVIRON))
        return program, program.line().removeprefix("listening on ")

    def person(self, url: str, name: str, *options: object) -> Program:
        """Somebody who has entered: the greeting is still to be read."""
        joining = command("join", url, "--name", name, *options)
        return self._stack.enter_context(running(joining, self._folder, environ=ENVIRON, stdin=subprocess.PIPE))


@pytest.fixture
def house(folder: Path) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack, folder)


def type_in(person: Program, *lines: str) -> None:
    assert person.process.stdin is not None
    person.process.stdin.write("".join(f"{line}\n" for line in lines))
    person.process.stdin.flush()


def heard(person: Program) -> str:
    """The next line, without the time."""
    return re.sub(r"^\[\d\d:\d\d] ", "", person.line())


def hear_the_loss(person: Program, last: str) -> None:
    """Her server is dead. It may have died between handing on the ``last`` thing that she said and answering her."""
    line = heard(person)
    if line == f"-- perhaps not sent, look: {last}":
        line = heard(person)
    assert line == "-- the connection is lost; waiting for the server"


def leave(person: Program) -> None:
    type_in(person, "/quit")
    assert person.rest() == []
    assert person.status() == 0, person.errors()
    assert person.errors() == ""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_people_talk_and_see_each_other_come_and_go(scheme: str, house: House, folder: Path) -> None:
    tls = ["--dev-tls"] if scheme == "quic" else []
    where = f"unix://{folder}/chat.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    _, url = house.server(where, *tls)
    ada = house.person(url, "ada", *tls)
    assert heard(ada).startswith("-- you are in lobby as ada; nobody else is here.")
    bob = house.person(url, "bob", *tls)
    assert heard(bob).startswith("-- you are in lobby as bob; here is ada, and you.")
    assert heard(ada) == "-- bob has joined"
    type_in(ada, "hello bob", "/who")
    assert sorted([heard(ada), heard(ada)]) == ["-- here is bob, and you", "ada: hello bob"]
    assert heard(bob) == "ada: hello bob"
    type_in(bob, "héllo 🎈", "//not a command", "/nothing")
    said = ["bob: héllo 🎈", "bob: /not a command"]
    assert [heard(ada), heard(ada)] == said
    shown = [heard(bob) for _ in range(3)]
    assert [line for line in shown if line.startswith("bob")] == said
    assert any(line.startswith("-- there is no /nothing.") for line in shown)
    leave(bob)
    assert heard(ada) == "-- bob has left"
    leave(ada)


def test_who_enters_sees_the_last_twenty_messages_of_this_room(house: House) -> None:
    _, url = house.server("tcp://127.0.0.1:0")
    ada = house.person(url, "ada")
    ada.line()
    type_in(ada, *(f"message {number}" for number in range(25)))
    assert [heard(ada) for _ in range(25)] == [f"ada: message {number}" for number in range(25)]
    bob = house.person(url, "bob")
    bob.line()
    assert [heard(bob) for _ in range(20)] == [f"ada: message {number}" for number in range(5, 25)]
    eve = house.person(url, "eve", "--room", "attic")
    eve.line()
    leave(eve)
    leave(bob)


def test_who_is_killed_is_lost(house: House) -> None:
    _, url = house.server("tcp://127.0.0.1:0")
    ada = house.person(url, "ada")
    ada.line()
    bob = house.person(url, "bob")
    assert heard(ada) == "-- bob has joined"
    bob.send(signal.SIGKILL)
    assert heard(ada) == "-- bob has lost the connection"
    leave(ada)


def test_what_was_said_while_a_server_was_dead_is_recovered(house: House, folder: Path) -> None:
    """Two servers share the history. Ada's dies, Bob goes on at the other one, and Ada's comes back."""
    history = ("--history", folder / "chat.db")
    first, url = house.server("tcp://127.0.0.1:0", *history)
    _, other = house.server("tcp://127.0.0.1:0", *history)
    ada = house.person(url, "ada")
    ada.line()
    bob = house.person(other, "bob")
    bob.line()
    assert heard(ada) == "-- bob has joined"
    type_in(ada, "before")
    assert heard(ada) == heard(bob) == "ada: before"
    first.send(signal.SIGKILL)
    first.status()
    hear_the_loss(ada, "before")
    type_in(bob, "one", "two", "three")
    assert [heard(bob) for _ in range(3)] == ["bob: one", "bob: two", "bob: three"]
    house.server(url, *history)
    assert heard(ada) == "-- connected again"
    assert heard(ada) == "-- recovered 3 messages:"
    assert [heard(ada) for _ in range(3)] == ["bob: one", "bob: two", "bob: three"]
    type_in(ada, "after")
    assert heard(ada) == "ada: after"
    coming = []
    while (line := heard(bob)) != "ada: after":
        coming.append(line)
    # The other server finds out by itself that Ada was lost; she may have been back before.
    assert coming in (["-- ada is back"], ["-- ada has lost the connection", "-- ada has joined"])


def test_a_server_that_forgets_says_that_messages_are_lost(house: House) -> None:
    first, url = house.server("tcp://127.0.0.1:0")
    ada = house.person(url, "ada")
    ada.line()
    type_in(ada, "before")
    assert heard(ada) == "ada: before"
    first.send(signal.SIGKILL)
    first.status()
    hear_the_loss(ada, "before")
    type_in(ada, "typed while it is away")
    house.server(url)
    said = [heard(ada) for _ in range(3)]
    assert said[0] == "-- connected again"
    assert sorted(said[1:]) == [
        "-- some messages are lost: the server does not have them any more",
        "ada: typed while it is away",
    ]
    leave(ada)


def test_the_end_of_the_input_is_the_end_but_what_was_typed_is_sent(house: House, folder: Path) -> None:
    _, url = house.server("tcp://127.0.0.1:0")
    done = finished(command("join", url, "--name", "ada"), folder, environ=ENVIRON, stdin="one\ntwo")
    assert done.returncode == 0, done.stderr
    later = house.person(url, "bob")
    later.line()
    assert [heard(later), heard(later)] == ["ada: one", "ada: two"]
    leave(later)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["join", "tcp://127.0.0.1:1", "--name", "ada"], 1, "error: "),
        (["join", "tcp://127.0.0.1:1", "--name", "a b"], 2, "'a b' is no name: 1 to 20 characters without spaces"),
        (["join", "tcp://127.0.0.1:1"], 2, "--name"),
        (["serve", "pigeon://x"], 1, "E-NO-PROVIDER"),
    ],
)
def test_what_goes_wrong_is_a_sentence(arguments: list[str], status: int, text: str, folder: Path) -> None:
    done = finished(command(*arguments), folder, environ=ENVIRON)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_room_that_none_can_be_is_a_sentence(house: House, folder: Path) -> None:
    _, url = house.server("tcp://127.0.0.1:0")
    done = finished(command("join", url, "--name", "ada", "--room", "a room"), folder, environ=ENVIRON)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "a room" in done.stderr


# -- a terminal


class Terminal:
    """A person at a terminal: keys go in, what is shown comes out."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.process = process
        self.shown = ""

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def wait_for(self, text: str) -> None:
        """Until ``text`` is shown; what was shown up to its end is forgotten."""
        patience = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < patience, f"{text!r} is not in {self.shown!r}"
            if select.select([self._descriptor], [], [], 0.1)[0]:
                self.shown += os.read(self._descriptor, 65_536).decode()
        self.shown = self.shown.partition(text)[2]


@contextmanager
def terminal(folder: Path, url: str, name: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    before: list[Any] = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, *command("join", url, "--name", name)],
        cwd=folder,
        env=clean_environment({**ENVIRON, "NO_COLOR": "1", "COLUMNS": "40", "LINES": "10"}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        yield Terminal(ours, process)
        assert process.wait(PATIENCE_S) == 0
        assert termios.tcgetattr(theirs) == before, "the terminal is as it was"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def test_a_line_that_is_being_typed_is_not_torn_by_what_comes_in(house: House, folder: Path) -> None:
    _, url = house.server("tcp://127.0.0.1:0")
    bob = house.person(url, "bob")
    bob.line()
    with terminal(folder, url, "ada") as ada:
        ada.wait_for("\r\x1b[Kada> \r")
        ada.wait_for("/help says what can be typed\r\n")
        assert heard(bob) == "-- ada has joined"
        ada.press("helo")
        ada.wait_for("ada> helo\r\x1b[9C")
        type_in(bob, "do not tear me")
        ada.wait_for("\r\x1b[K[")
        ada.wait_for("] bob: do not tear me\r\n\r\x1b[Kada> helo\r\x1b[9C")
        ada.press("\x1b[Dl\r")
        ada.wait_for("] ada: hello\r\n\r\x1b[Kada> \r\x1b[5C")
        assert [heard(bob), heard(bob)] == ["bob: do not tear me", "ada: hello"]
        ada.press("x" * 60)
        ada.wait_for(f"ada> {'x' * 34}\r\x1b[39C")
        ada.press("\x15\x04")
    assert heard(bob) == "-- ada has left"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("hello", "hello"),
        ("helo\x1b[Dl", "hello"),
        ("ello\x1b[Hh", "hello"),
        ("hello!\x7f", "hello"),
        ("xhello\x01\x1b[3~", "hello"),
        ("what\x15hello", "hello"),
        ("hello there\x17\x7f", "hello"),
        ("hello there\x01\x1b[C\x1b[C\x1b[C\x1b[C\x1b[C\x0b", "hello"),
        ("hel\x1b[15~lo\x1bq", "hello"),
        ("\x07hello\x1b[A\x1b[B", "hello"),
        ("wörld\x7f\x7f\x7f\x7f漢字\x1bOD\x7f", "w字"),
    ],
    ids=range(11),
)
def test_keys_change_the_line(keys: str, line: str) -> None:
    editor = LineEditor()
    for sign in keys:
        editor.feed(sign)
    assert editor.feed("\r") == [line]
    assert (editor.text, editor.cursor) == ("", 0)


def test_earlier_lines_come_back_and_the_draft_is_kept() -> None:
    editor = LineEditor()
    assert editor.feed("one\rtwo\rtwo\r") == ["one", "two", "two"]
    editor.feed("draft\x1b[A")
    assert editor.text == "two"
    editor.feed("\x1b[A\x1b[A")
    assert editor.text == "one"
    editor.feed("\x1b[B\x1b[B")
    assert editor.text == "draft"


def test_the_cursor_is_always_visible() -> None:
    editor = LineEditor()
    editor.feed("abcdefgh")
    assert editor.visible(20) == ("abcdefgh", 8)
    assert editor.visible(5) == ("efgh", 4)
    editor.feed("\x1b[H\x1b[C")
    assert editor.visible(5) == ("abcd", 1)
    wide = LineEditor()
    wide.feed("漢字漢字")
    assert wide.visible(6) == ("漢字", 4)


def test_ctrl_d_ends_only_on_an_empty_line() -> None:
    editor = LineEditor()
    assert editor.feed("a\x04\x7f") == []
    with pytest.raises(End):
        editor.feed("\x04")


def test_what_others_say_cannot_play_with_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\r\n\u202ec\x9b2J") == "a[31mbc2J"
