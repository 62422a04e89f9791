"""One process of the runner: in a group of its own, which is gone when the runner is done with it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from echostream_core import ConfigError

__all__ = ["Program", "clean_environment"]

_GONE_S: Final = 2.0
"""How long to wait for the kernel to bury what was killed."""
_TAIL_BYTES: Final = 4_096


class Program:
    """A process, its group and its log. Standard input is a pipe that ends when we do: the contract's lifeline."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log
        """What it has written to standard output and standard error."""

    @classmethod
    async def start(
        cls, command: Sequence[str], environ: Mapping[str, str], log: Path, *, folder: Path | None = None
    ) -> Program:
        """Start ``command`` in ``folder``; ConfigError when there is no such program."""
        with log.open("wb") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=dict(environ),
                    cwd=folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise ConfigError(f"{command[0]!r} cannot be started: {error.strerror or error}") from error
        return cls(process, log)

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.returncode

    async def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; its exit status, or None when it still runs after ``timeout_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        return self.status

    async def stop(self, grace_s: float) -> int | None:
        """Ask the group to end (SIGTERM) and wait; the exit status, or None when it does not within ``grace_s``."""
        if self.status is None:
            self._signal(signal.SIGTERM)
        return await self.wait(grace_s)

    async def kill(self) -> None:
        """Kill whatever is left of the group, and wait until it is buried. Idempotent."""
        self._signal(signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()
        until = asyncio.get_running_loop().time() + _GONE_S
        while self._signal(0) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; False when nobody of it is left."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return False
        return True

    def ending(self) -> str:
        """How it ended, for people: ``status 3`` or ``signal SIGSEGV``."""
        status = self.status
        if status is None:
            return "nothing: it still runs"
        if status >= 0:
            return f"status {status}"
        try:
            return f"signal {signal.Signals(-status).name}"
        except ValueError:
            return f"signal {-status}"

    def last_words(self) -> str:
        """The last line of its log, "" when it said nothing."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def clean_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Our environment without anything that is EchoStream's, and with ``changes``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ECHOSTREAM_")}
    return {**kept, **changes}
