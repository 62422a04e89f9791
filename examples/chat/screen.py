"""Where the conversation is shown and typed: a terminal with a prompt line, or plain pipes.

On a terminal what comes in is written above the prompt, and what is being typed stays as it is. Where standard input or
output is a pipe or a file, lines are read and written as they are: programs can drive the client.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import shutil
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Protocol

from examples.chat.editor import End, LineEditor, width

try:
    import termios
    import tty
except ImportError:  # Windows: the console edits the line itself, and what comes in may tear it
    _TERMINALS = False
else:
    _TERMINALS = True

__all__ = ["Screen", "opened_screen"]


class Screen(Protocol):
    """What a conversation needs."""

    def show(self, line: str, *, aside: bool = False) -> None:
        """Show a line; ``aside``: it was not said by anybody."""

    def lines(self) -> AsyncIterator[str]:
        """What is typed, line by line, until the end."""


@contextmanager
def opened_screen(prompt: str) -> Iterator[Screen]:
    """The best screen for this standard input and output; in the end the terminal is as it was."""
    if not (_TERMINALS and sys.stdin.isatty() and sys.stdout.isatty()):
        yield _Pipes()
        return
    before = termios.tcgetattr(0)
    tty.setcbreak(0)
    screen = _Terminal(prompt)
    try:
        screen.draw()
        yield screen
    finally:
        screen.clear()
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class _Terminal:
    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._editor = LineEditor()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._typed: asyncio.Queue[str | None] = asyncio.Queue()
        self._dim = ("", "") if os.environ.get("NO_COLOR") else ("\x1b[2m", "\x1b[0m")

    def show(self, line: str, *, aside: bool = False) -> None:
        begin, end = self._dim if aside else ("", "")
        self.clear()
        sys.stdout.write(f"{begin}{line}{end}\n")
        self.draw()

    def draw(self) -> None:
        """The prompt and what has been typed."""
        columns = shutil.get_terminal_size().columns - width(self._prompt)
        text, column = self._editor.visible(max(columns, 4))
        sys.stdout.write(f"\r\x1b[K{self._prompt}{text}\r\x1b[{width(self._prompt) + column}C")
        sys.stdout.flush()

    def clear(self) -> None:
        """Take the prompt away."""
        sys.stdout.write("\r\x1b[K")
        sys.stdout.flush()

    async def lines(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._read)
        try:
            while (line := await self._typed.get()) is not None:
                yield line
        finally:
            loop.remove_reader(0)

    def _read(self) -> None:
        data = os.read(0, 4_096)
        try:
            if not data:
                raise End
            for line in self._editor.feed(self._decoder.decode(data)):
                self._typed.put_nowait(line)
        except End:
            self._typed.put_nowait(None)
        self.draw()


class _Pipes:
    def show(self, line: str, *, aside: bool = False) -> None:
        print(line, flush=True)

    async def lines(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        read: asyncio.Queue[str | None] = asyncio.Queue()
        threading.Thread(target=_read_lines, args=(loop, read), daemon=True).start()
        while (line := await read.get()) is not None:
            yield line


def _read_lines(loop: asyncio.AbstractEventLoop, read: asyncio.Queue[str | None]) -> None:
    """In a thread: any kind of file can be read so, also where the event loop cannot wait for it. Not through
    ``sys.stdin``, whose lock would still be held when the program ends.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""

    def hand_over(line: str | None) -> None:
        try:
            loop.call_soon_threadsafe(read.put_nowait, line)
        except RuntimeError:  # the loop is closed: nobody wants it any more
            raise SystemExit from None

    while data := os.read(0, 65_536):
        *lines, rest = (rest + decoder.decode(data)).split("\n")
        for line in lines:
            hand_over(line.rstrip("\r"))
    if rest:
        hand_over(rest)
    hand_over(None)
