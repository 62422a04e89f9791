"""What the reader sees while files travel: bars where rich is installed and there is a terminal, else plain lines.

All of it goes to standard error; standard output is for results.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Board", "Line", "board", "readable"]


class Line(Protocol):
    """What is shown of one file."""

    def begin(self, doing: str, size: int, position: int = 0) -> None:
        """Something begins: ``doing`` in a word, ``size`` and ``position`` in bytes."""

    def at(self, position: int) -> None:
        """So many bytes are done."""

    def note(self, text: str) -> None:
        """Something happened that the reader should know."""


class Board(Protocol):
    """Where the lines are."""

    def line(self, name: str) -> Line:
        """A line for another file."""


def readable(size: float) -> str:
    """``23.1 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


@contextmanager
def board() -> Iterator[Board]:
    """The best one for this standard error."""
    if not sys.stderr.isatty():
        yield _PlainBoard()
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
    except ImportError:
        yield _PlainBoard()
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=Console(stderr=True),
    ) as progress:
        yield _RichBoard(progress)


class _RichBoard:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def line(self, name: str) -> Line:
        return _RichLine(self._progress, name)


class _RichLine:
    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._task = progress.add_task(name, total=None)

    def begin(self, doing: str, size: int, position: int = 0) -> None:
        self._progress.reset(self._task, total=size or None, completed=position, description=f"{self._name} {doing}")

    def at(self, position: int) -> None:
        self._progress.update(self._task, completed=position)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class _PlainBoard:
    def line(self, name: str) -> Line:
        return _PlainLine(name)


class _PlainLine:
    """A line at every tenth of the way."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._doing = ""
        self._size = 0
        self._tenth = 0

    def begin(self, doing: str, size: int, position: int = 0) -> None:
        self._doing, self._size = doing, size
        self._tenth = 10 * position // size if size else 0
        where = f" from {readable(position)}" if 0 < position < size else ""
        self.note(f"{self._name}: {doing}{where}")

    def at(self, position: int) -> None:
        tenth = 10 * position // self._size if self._size else 10
        if tenth > self._tenth:
            self._tenth = tenth
            self.note(f"{self._name}: {self._doing}, {10 * tenth} % ({readable(position)} of {readable(self._size)})")

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
