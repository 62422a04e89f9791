"""How the command line speaks: tables on a terminal, plain aligned text in a pipe, JSON when asked for.

Standard output carries what was asked for, standard error everything else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "draws", "note", "print_json", "print_line", "print_pairs", "print_table", "print_value"]

STYLES = {"ok": "green", "yes": "green", "FAILED": "bold red", "E-": "bold red", "not installed": "yellow"}
"""How a cell that begins so is coloured on a terminal."""


def draws(stream: IO[str] | None = None) -> bool:
    """Whether ``stream`` (standard output) is a terminal that can draw; pipes and ``TERM=dumb`` get plain text."""
    stream = stream or sys.stdout
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def console(*, stderr: bool = False) -> Console:
    """A rich console; it leaves colours out under ``NO_COLOR``."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def print_line(text: str = "") -> None:
    """One line of what was asked for, at once."""
    print(text, flush=True)


def note(text: str) -> None:
    """One line for people, beside what was asked for."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """A whole document, indented. Bytes become base64."""
    import msgspec

    print_line(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_value(value: Any, *, compact: bool) -> None:
    """One value as JSON: on one line, or on a terminal over several with colours."""
    import msgspec

    text = msgspec.json.encode(value).decode()
    if compact or not draws():
        print_line(text)
        return
    console().print_json(text, default=str)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table; the columns named in ``right`` are aligned to the right. Without a terminal: aligned words."""
    if not draws():
        print_line("\n".join(_plain(header, rows, right)))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for name in header:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    console().print(table)


def print_pairs(pairs: Sequence[tuple[str, str]], *, indent: str = "") -> None:
    """Names with their values, one below the other, the values aligned."""
    named = [(indent + name, value) for name, value in pairs]
    if not draws():
        from echostream_core.commands import aligned

        print_line("\n".join(aligned(named)))
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in named:
        grid.add_row(name, Text(value))
    console().print(grid)


def _plain(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> list[str]:
    from echostream_core.commands import aligned

    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    cells = [[name.upper() for name in header], *map(list, rows)]
    for line in cells:
        for number, name in enumerate(header):
            if name in right:
                line[number] = line[number].rjust(widths[number])
    return aligned(cells)


def _style(cell: str) -> str:
    return next((style for start, style in STYLES.items() if cell.startswith(start)), "")
