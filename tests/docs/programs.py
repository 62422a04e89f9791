"""Runs the programs of a page: in a folder and on ports of their own, and with warnings as errors."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docs.markdown import ROOT, Block
from tests.support.venv import Venv

__all__ = ["Folder", "free_port"]

TIMEOUT_S = 60.0
"""For one program; only a hang takes so long."""

_SITE = '''\
"""Tells the test that the servers of this process are listening."""

import logging
import os


class _Ready(logging.Handler):
    def emit(self, record):
        if record.msg.startswith("listening on"):
            with open(os.environ["ECHOSTREAM_DOCS_READY"], "a") as file:
                file.write(record.getMessage() + "\\n")


if "ECHOSTREAM_DOCS_READY" in os.environ:
    _logger = logging.getLogger("echostream.server")
    _logger.setLevel(logging.INFO)
    _logger.addHandler(_Ready())
    _logger.propagate = False
'''

_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}\b")


class Folder:
    """The folder in which the blocks of one page meet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ports: dict[str, str] = {}
        site = path / "site"
        site.mkdir(parents=True)
        (site / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
        (path / "page").mkdir()
        self._built: set[str] = set()
        self._venv: Venv | None = None
        installed = path / "installed"
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ECHOSTREAM")},
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(site), str(installed), str(ROOT), os.environ.get("PYTHONPATH")])
            ),
            "PYTHONUNBUFFERED": "1",
            "ECHOSTREAM_DEV_DIR": str(path / "certificates"),
        }

    @property
    def work(self) -> Path:
        """Where the files of the page are written and its programs run."""
        return self.path / "page"

    def text_of(self, text: str) -> str:
        """``text`` with every port of this machine replaced by a free one, always the same."""

        def replaced(match: re.Match[str]) -> str:
            return self._ports.setdefault(match[0], str(free_port()))

        return _PORT.sub(replaced, text)

    def write(self, name: str, block: Block) -> Path:
        """Write a block to a file of the page."""
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text_of(block.text), encoding="utf-8")
        return path

    def build(self, name: str) -> None:
        """Build the project in the folder ``name`` of the page, as pip would, and install it for the programs."""
        if name not in self._built:
            self._built.add(name)
            wheels = self.path / "wheels" / name
            command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
            done = subprocess.run(command, cwd=self.work / name, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            (wheel,) = wheels.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.path / "installed")

    def shell(self, block: Block) -> None:
        """Execute a block's commands, and compare what they print. From now on programs run in the same environment."""
        if self._venv is None:
            self._venv = Venv(self.path / "venv")
            self._environment |= self._venv.environment | {"PYTHONPATH": self._environment["PYTHONPATH"]}
        if block.language == "sh":
            self._execute(block, block.text, 0)
            return
        steps = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        for number, step in enumerate(steps[1:], 2):
            command, _, expected = step.partition("\n")
            wanted = int(block.marks.get("status", "0")) if number == len(steps) else 0
            said = self._execute(block, command, wanted)
            pattern = ".*".join(re.escape(part) for part in expected.strip().split("…"))
            assert not expected or re.fullmatch(pattern, said.strip(), re.DOTALL), f"{block.place}: printed\n{said}"

    def _execute(self, block: Block, script: str, status: int) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.work,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * TIMEOUT_S,
            check=False,
        )
        assert done.returncode == status, f"{block.place}: {script} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    @property
    def _python(self) -> str:
        return str(self._venv.python) if self._venv else sys.executable

    def run(self, *arguments: str, logs: str = "", environment: dict[str, str] | None = None) -> str:
        """Run Python with ``arguments``; what it printed. It must end well, and write nothing to standard error but a
        text that contains ``logs``.
        """
        done = subprocess.run(
            [self._python, "-W", "error", *arguments],
            cwd=self.work,
            env={**self._environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        assert logs in done.stderr if logs else not done.stderr, done.stderr
        return done.stdout

    @contextmanager
    def running(self, what: str) -> Iterator[None]:
        """A program of the page (``server.py``) or the servers of a configuration (``server:echostream.toml``)."""
        ready = self.path / "ready"
        ready.unlink(missing_ok=True)
        config = what.removeprefix("server:")
        arguments = [what] if config == what else ["-m", "echostream_core", "serve", config]
        process = subprocess.Popen(
            [self._python, "-W", "error", *arguments],
            cwd=self.work,
            env={**self._environment, "ECHOSTREAM_DOCS_READY": str(ready)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            until = time.monotonic() + TIMEOUT_S
            while not ready.exists():
                assert process.poll() is None, f"{what} ended at once:\n{process.communicate()[0]}"
                assert time.monotonic() < until, f"{what} listens on nothing"
                time.sleep(0.02)
            yield
            assert process.poll() is None, f"{what} did not stay up:\n{process.communicate()[0]}"
        finally:
            process.terminate()
            try:
                process.communicate(timeout=TIMEOUT_S)
            finally:
                process.kill()
        assert process.returncode == 0, f"{what} ended with {process.returncode} on SIGTERM"


def free_port() -> int:
    """A port that is free for TCP and UDP."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind(("127.0.0.1", 0))
            port: int = stream.getsockname()[1]
            try:
                datagram.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
