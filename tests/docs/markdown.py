"""Code blocks of Markdown pages, and the marks that say how each is tested.

A mark is an HTML comment on the line above the fence::

    <!-- test: file=server.py, needs=tcp -->

Without a mark a ``python`` block is a whole program, a ``toml`` block a whole configuration, and an ``sh`` or
``console`` block is checked command by command. The marks:

``file=NAME``
    Write the block to NAME in the page's folder; another block must use it.
``run=NAME``
    Write it to NAME and run it.
``with=NAME`` or ``with=server:NAME.toml``
    While it runs, NAME runs as a program, or the servers of NAME.toml are served.
``built=NAME``
    Before it runs, the page's folder NAME, which has a ``pyproject.toml``, is built and installed.
``needs=tcp+msgpack``
    Plugins without which the block is skipped: keys of transports, codecs, compressions and discovery backends.
``output=TEXT``
    What the program prints; several lines are joined with `` / ``.
``logs=TEXT``
    What it writes to standard error contains TEXT; without this mark it must write nothing there.
``define``
    Names for the blocks that follow on the page.
``in=client``
    A part of a coroutine in which ``client`` is connected over memory to a server with all handlers defined so far;
    ``in=session`` the same with the server's session as ``session``; ``in=coroutine`` without any of them.
``raises=NAME``
    The block ends with this exception.
``is=pyproject``
    A TOML block that is no configuration of ours.
``shell``
    An ``sh`` or ``console`` block that is executed, in the page's folder and in a virtual environment where its
    ``pip install`` reaches no index. In a ``console`` block the lines without ``$ `` are what it must print, in this
    order; ``…`` stands for any text, and a line of it alone for any lines.
``status=NUMBER``
    The exit status of its last command; default 0.
``from=NAME``
    A part of the file NAME, which a ``shell`` block has made: the parts on the page are together the whole file.
``excerpt=NAME``
    Lines that stand in that file.
``problem=TEXT``
    A configuration that is wrong: the error contains TEXT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["LANGUAGES", "ROOT", "Block", "blocks_of", "pages", "table_rows"]

ROOT = Path(__file__).resolve().parents[2]

LANGUAGES = {"python", "toml", "sh", "console", "json", "text", "hex", "mermaid"}
"""What a block may be. ``text`` is no code: output, layouts, drawings."""

_MARKS = {"built", "file", "run", "with", "needs", "output", "logs", "define", "in", "raises", "is", "problem"}
_MARKS |= {"shell", "status", "from", "excerpt"}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_MARK = re.compile(r"<!-- test: (?P<content>[^>]*) -->\n\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    """Where its text begins, from 1."""
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """``docs/calls.md:12``."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    def needs(self) -> list[str]:
        """The plugins without which it is skipped."""
        return [name for name in self.marks.get("needs", "").split("+") if name]


def pages() -> list[Path]:
    """Every page whose code must run."""
    readmes = [*sorted(ROOT.glob("plugins/*/README.md")), *sorted(ROOT.glob("examples/*/README.md"))]
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *readmes]
    return [page for page in found if page.parent.name != "changelog.d"]


@cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    """The blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        mark = _MARK.search(text[: match.start()])
        marks: dict[str, str] = {}
        for part in re.split(r", (?=\w+(?:=|,|$))", mark["content"].strip()) if mark else []:
            name, _, value = part.partition("=")
            assert name in _MARKS, f"{page.name}:{line}: no such mark: {name!r}"
            marks[name] = value
        indent = match["indent"]
        lines = [one.removeprefix(indent) for one in match["text"].splitlines(keepends=True)]
        found.append(Block(page, line, match["language"], "".join(lines), marks))
    assert text.count("```") == 2 * len(found), f"{page.name}: a fence is not closed"
    return tuple(found)


def table_rows(text: str, *heading: str) -> list[list[str]]:
    """The cells of all tables in ``text`` whose heading begins with these words."""
    begin = re.escape("| " + " | ".join(heading) + " |")
    rows = []
    for match in re.finditer(rf"^{begin}.*\n\|[-:|]+\n((?:\|.*\n?)+)", text, re.MULTILINE):
        rows += [[cell.strip() for cell in row.strip("| \n").split(" | ")] for row in match[1].splitlines()]
    return rows
