"""One Chromium for the tests: started once, given JavaScript to run in pages, and gone afterwards with all it started.

A Node process drives it (driver.mjs) and speaks JSON lines; ``scripts/browser.sh`` provides both.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from tests.support.peers import absent

__all__ = ["HERE", "Chromium", "Page", "find_chromium", "find_node", "require"]

HERE: Final = Path(__file__).parent
MODULES: Final = HERE.parents[1] / ".venv-peers" / "node" / "node_modules"
PATIENCE_S: Final = 30.0
"""For one command; only a hang takes so long."""


def require(reason: str) -> NoReturn:
    """Skip the test, or fail it where everything has to be there (as in continuous integration)."""
    absent("browser", reason)


def find_node() -> str:
    """Node, or the test is skipped."""
    return shutil.which("node") or require("Node is not installed: run scripts/browser.sh")


def find_chromium() -> str:
    """Chromium, or the test is skipped."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    return found[0] if found else require("Chromium is not installed: run scripts/browser.sh")


class Chromium:
    """The browser and the process that drives it."""

    def __init__(self) -> None:
        node, chromium = find_node(), find_chromium()
        if not (MODULES / "playwright-core").is_dir():
            require("playwright-core is not installed: run scripts/browser.sh")
        self._folder = tempfile.mkdtemp(prefix="echostream-browser-")
        self._answers: dict[int, Future[Any]] = {0: Future()}
        self._lock = threading.Lock()
        self._last = 0
        self._pages = 0
        self._errors = Path(self._folder, "errors.txt").open("w+", encoding="utf-8")  # noqa: SIM115  # until close
        self._process = subprocess.Popen(
            [node, str(HERE / "driver.mjs"), str(MODULES), chromium, self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": self._folder},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.version = str(self._answers[0].result(PATIENCE_S))
        except BaseException:
            self.close()
            raise
        self.processes = descendants(self._process.pid)
        """Everything that was started, to see afterwards that it is gone: process → group."""

    @property
    def driver(self) -> int:
        """The process that drives the browser."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):
            for line in self._process.stdout:
                answer = json.loads(line)
                future = self._answers.pop(answer["id"])
                if "error" in answer:
                    future.set_exception(AssertionError(answer["error"]))
                else:
                    future.set_result(answer["result"])
        with self._lock:
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(AssertionError(f"the driver has ended: {self.errors()}"))

    def errors(self) -> str:
        """What the driver and the browser have written to standard error."""
        return Path(self._folder, "errors.txt").read_text(encoding="utf-8", errors="replace")[-2_000:]

    async def command(self, command: str, **options: object) -> Any:
        """Give the driver a command and wait for its result; AssertionError with what the browser says."""
        async with asyncio.timeout(PATIENCE_S + 5):
            return await asyncio.wrap_future(self._send(command, options))

    def _send(self, command: str, options: dict[str, object]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._last += 1
            number = self._last
            self._answers[number] = future
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"id": number, "command": command, **options}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise AssertionError(f"the driver has ended: {self.errors()}") from error
        return future

    def open(self, url: str, **options: object) -> Page:
        """A new page, in a profile of its own. It belongs to no event loop, so a whole module may use it.

        Waits until it is loaded: ``url`` must not be served by the loop that calls this.
        """
        self._pages += 1
        page = Page(self, self._pages)
        self._send("open", {"page": page.number, "url": url, **options}).result(PATIENCE_S)
        return page

    def close(self) -> None:
        """End the driver and the browser; whatever does not end by itself is killed."""
        known = getattr(self, "processes", {}) | descendants(self._process.pid)
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        for group in {self._process.pid, *known.values()}:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        self._process.stdout.close()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.processes = known

    def left_over(self) -> list[int]:
        """Processes of ours that still run, after a moment for the system to bury them."""
        end = time.monotonic() + 5
        while (alive := [pid for pid in self.processes if is_alive(pid)]) and time.monotonic() < end:
            time.sleep(0.02)
        return alive


class Page:
    """One page of the browser."""

    def __init__(self, browser: Chromium, number: int) -> None:
        self._browser = browser
        self.number = number

    async def run(self, body: str, argument: object = None, *, timeout: float = 15.0) -> Any:
        """Run the body of an async JavaScript function of ``argument``; its value. AssertionError when it throws."""
        return await self._browser.command(
            "evaluate", page=self.number, body=body, argument=argument, timeoutMs=timeout * 1000
        )

    async def log(self) -> list[dict[str, str]]:
        """What the page has written to the console, and errors that nobody caught: ``type`` and ``text``."""
        lines: list[dict[str, str]] = await self._browser.command("log", page=self.number)
        return lines

    async def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        await self._browser.command("screenshot", page=self.number, path=str(path))

    def close(self) -> list[dict[str, str]]:
        """Close it, and its profile; what it has written to the console."""
        lines: list[dict[str, str]] = self._browser._send("log", {"page": self.number}).result(PATIENCE_S)
        self._browser._send("close", {"page": self.number}).result(PATIENCE_S)
        return lines


def descendants(root: int) -> dict[int, int]:
    """Process → group of all that ``root`` has started; empty where there is no /proc."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parents[int(entry.name)] = (int(fields[1]), int(fields[2]))
    found: dict[int, int] = {}
    level = {root}
    while level:
        level = {pid for pid, (parent, _) in parents.items() if parent in level and pid not in found}
        found |= {pid: parents[pid][1] for pid in level}
    own = os.getpgrp()
    return {pid: group for pid, group in found.items() if group != own}


def is_alive(pid: int) -> bool:
    """False also for one that is dead and only waits to be buried."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
