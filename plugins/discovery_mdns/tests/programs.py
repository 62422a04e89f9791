"""Programs that run beside a test, with what they print."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

__all__ = ["Program", "announcer", "running"]

PATIENCE_S = 20.0
SCRIPT = Path(__file__).with_name("announcer.py")


class Program:
    """A running program and the lines that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, what: str, condition: Callable[[str], bool]) -> str:
        """The first line from here on for which ``condition`` holds."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while data := await self.process.stdout.readline():
                    self.lines.append(data.decode().rstrip("\n"))
                    if condition(self.lines[-1]):
                        return self.lines[-1]
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}; it has said {self.lines!r}") from None
        raise AssertionError(f"the program has ended before this: {what}; it has said {self.lines!r}")

    async def finish(self) -> None:
        """End its standard input, and wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.line("its end", "closed".__eq__)
        await self.process.wait()


@asynccontextmanager
async def running(*command: str, environment: dict[str, str] | None = None) -> AsyncIterator[Program]:
    """Run ``command``; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def announcer(
    service: str, *instances: str, prefix: Sequence[str] = (), **options: object
) -> AbstractAsyncContextManager[Program]:
    """The script that announces and watches."""
    return running(*prefix, sys.executable, str(SCRIPT), json.dumps(options), service, *instances)
