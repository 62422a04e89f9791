"""What the runner makes of shell blocks: they are executed, and what they print is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Block
from tests.docs.programs import Folder


def block(text: str, language: str = "console", **marks: str) -> Block:
    return Block(ROOT / "docs" / "some.md", 1, language, text, {"shell": "", **marks})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "$ echo one; echo two\none\ntwo\n",
        "$ echo one; echo two; echo three\none\n…\nthree\n",
        "$ echo took 1.25 s\ntook … s\n",
        "$ true\n$ echo said twice; echo said twice\n…twice\n",
        "$ echo whatever it says\n",
    ],
)
def test_output_that_is_as_shown_is_fine(folder: Folder, text: str) -> None:
    folder.shell(block(text))


@pytest.mark.parametrize(
    "text",
    ["$ echo one\ntwo\n", "$ echo one; echo two\none\n", "$ echo one\n…two…\n", "$ echo a.c\nabc\n", "$ false\n"],
)
def test_output_that_is_otherwise_and_a_command_that_fails_are_found(folder: Folder, text: str) -> None:
    with pytest.raises(AssertionError, match=r"docs/some\.md:1"):
        folder.shell(block(text))


def test_the_status_is_that_of_the_last_command(folder: Folder) -> None:
    folder.shell(block("$ true\n$ exit 3\n", status="3"))
    with pytest.raises(AssertionError, match="ended with 0"):
        folder.shell(block("$ true\n", status="3"))
    with pytest.raises(AssertionError, match="ended with 3"):
        folder.shell(block("$ exit 3\n$ exit 3\n", status="3"))


def test_what_a_block_makes_is_there_for_programs_and_for_the_next(folder: Folder) -> None:
    folder.shell(block("echo 'print(6 * 7)' > answer.py\n", "sh"))
    folder.shell(block("$ python answer.py\n42\n"))
    assert folder.run("answer.py") == "42\n"
