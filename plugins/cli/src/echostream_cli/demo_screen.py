"""How the demo is shown: a progress bar on a terminal, a line per combination elsewhere, and the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Final

from echostream_cli.demo_trials import STEPS
from echostream_cli.screen import console, draws, note, print_line, print_table

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from echostream_cli.demo_run import DemoReport
    from echostream_cli.demo_trials import Progress, Row

__all__ = ["print_report", "progress"]

DRAW_EVERY_S: Final = 0.1
MAX_WIDTH: Final = 100
HEADER: Final = ("transport", "codec", "p50 ms", "p99 ms", "calls/s", "MB/s", "checksum", "verdict")
RIGHT: Final = ("p50 ms", "p99 ms", "calls/s", "MB/s")


@contextmanager
def progress(combinations: int) -> Iterator[Progress]:
    """Who shows how far it has come, for as long as the block runs; always on standard error."""
    if not draws(sys.stderr):
        yield _Lines()
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        console=console(stderr=True),
        auto_refresh=False,  # a thread that draws would be seen in every figure that is measured meanwhile
        transient=True,
    ) as bars:
        yield _Drawn(bars, combinations)


def print_report(report: DemoReport) -> None:
    """The table, what was done for it, and what went wrong or is missing."""
    print_table(HEADER, [_cells(row) for row in report.rows], right=RIGHT)
    print_line()
    if report.tried:
        text = (
            "Each combination: a call in both directions, one cancelled, one timed out, single calls (p50, p99), "
            f"64 calls in flight (calls/s), and {report.file_name} ({report.file_bytes / 1e6:.1f} MB) sent and its "
            "SHA-256 compared."
        )
        width = min(get_terminal_size().columns, MAX_WIDTH)
        print_line(fill(text, width, break_on_hyphens=False, break_long_words=False))
        print_line(_how_found(report))
    for row in report.rows:
        for problem in row.problems:
            print_line(f"FAILED {row.transport} {row.codec}, {problem}")
    for problem in report.problems:
        print_line(f"FAILED {problem}")
    for name, what in report.missing.items():
        print_line(f"{name}: {what}")
    print_line(_summary(report))


def _how_found(report: DemoReport) -> str:
    finding = report.finding
    if finding.found:
        return f"The client found its server by mDNS as {finding.instance!r}, {finding.seconds:.1f} s after its start."
    return f"The client was told the addresses: mdns: {finding.problem}"


def _summary(report: DemoReport) -> str:
    missing = len(report.rows) - len(report.tried)
    left_out = f", {missing} not installed" if missing else ""
    if report.ok:
        count = len(report.tried)
        passed = "The one combination" if count == 1 else f"All {count} combinations"
        return f"{passed} passed in {report.seconds:.1f} s{left_out}."
    if not report.tried:
        return f"Nothing was tried{left_out}."
    return f"{len(report.failed)} of {len(report.rows)} combinations failed{left_out}."


def _cells(row: Row) -> list[str]:
    if row.missing:
        return [row.transport, row.codec, "-", "-", "-", "-", "-", "not installed"]
    checksum = {True: "ok", False: "FAILED", None: "-"}[row.checks.get("file")]
    return [
        row.transport,
        row.codec,
        _figure(row.p50_ms, "{:.2f}"),
        _figure(row.p99_ms, "{:.2f}"),
        _figure(row.calls_per_s, "{:,.0f}"),
        _figure(row.mb_per_s, "{:,.0f}" if (row.mb_per_s or 0) >= 100 else "{:.1f}"),
        checksum,
        "ok" if row.ok else "FAILED",
    ]


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


class _Lines:
    """One line for each combination that is done."""

    def begin(self, row: Row) -> None:
        """Say nothing yet."""

    def step(self, name: str) -> None:
        """Say nothing."""

    def sent(self, done_bytes: int, total_bytes: int) -> None:
        """Say nothing."""

    def end(self, row: Row) -> None:
        """Say what came of it."""
        note(f"{row.transport} {row.codec}: {row.verdict}")


class _Drawn:
    """A bar for the whole, and one for the file while it is sent."""

    def __init__(self, bars: Bars, combinations: int) -> None:
        self._bars = bars
        self._whole = bars.add_task("", total=combinations * len(STEPS), note="starting")
        self._file: TaskID | None = None
        self._drawn_at = 0.0
        self._row_begins = 0

    def begin(self, row: Row) -> None:
        """Name the combination."""
        self._bars.update(self._whole, description=f"{row.transport} with {row.codec}", note="connecting")
        self._bars.refresh()

    def step(self, name: str) -> None:
        """Name the step."""
        self._bars.update(self._whole, note=name, completed=self._row_begins + STEPS.index(name))
        self._bars.refresh()

    def sent(self, done_bytes: int, total_bytes: int) -> None:
        """Move the file's bar, ten times a second at most."""
        now = time.monotonic()
        if now - self._drawn_at < DRAW_EVERY_S:
            return
        self._drawn_at = now
        if self._file is None:
            self._file = self._bars.add_task("  sending the file", note="")
        amount = f"{done_bytes / 1e6:,.1f} of {total_bytes / 1e6:,.1f} MB"
        self._bars.update(self._file, completed=done_bytes, total=total_bytes, note=amount)
        self._bars.refresh()

    def end(self, row: Row) -> None:
        """Leave a line only where something failed: the table follows."""
        if self._file is not None:
            self._bars.remove_task(self._file)
            self._file = None
        self._row_begins += len(STEPS)
        self._bars.update(self._whole, completed=self._row_begins)
        if not row.ok:
            self._bars.console.print(f"{row.transport} with {row.codec}: {row.verdict}", style="bold red", markup=False)
        self._bars.refresh()
