"""Programs in processes of their own: started, read line by line, and ended by the test that started them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["PATIENCE_S", "Program", "finished", "running"]

PATIENCE_S = 40.0
"""How long a test waits for a process before it is a failure; never how long it takes."""


class Program:
    """A process that runs."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError):
            for line in self.process.stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str:
        """The next line of its output; waits for it."""
        try:
            line = self._lines.get(timeout=PATIENCE_S)
        except queue.Empty:
            line = None
        assert line is not None, f"no more output; standard error: {self.errors()}"
        return line

    def rest(self) -> list[str]:
        """All further lines; waits for the end of its output."""
        lines: list[str] = []
        while (line := self._lines.get(timeout=PATIENCE_S)) is not None:
            lines.append(line)
        return lines

    def errors(self) -> str:
        """What it has written to standard error so far."""
        return self._errors.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for its end and return its exit status."""
        return self.process.wait(timeout=PATIENCE_S)


@contextmanager
def running(
    command: Sequence[str], folder: Path, *, environ: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
) -> Iterator[Program]:
    """Run Python with the arguments ``command`` in ``folder`` while the block runs; what is left over is killed."""
    errors = folder / f"errors-{len(list(folder.glob('errors-*')))}.txt"
    with errors.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=clean_environment(environ),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            start_new_session=True,
        )
    try:
        yield Program(process, errors)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


def finished(
    command: Sequence[str], folder: Path, *, environ: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run Python with the arguments ``command`` in ``folder`` to its end."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=clean_environment(environ),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def clean_environment(changes: Mapping[str, str] | None) -> dict[str, str]:
    """The environment without settings of ours, and with ``changes``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECHOSTREAM__")}
    return {**kept, **(changes or {})}
