"""What the demo stands on: two configuration files, an environment of its own, and a server in a second process.

Everything lies in one temporary folder, development certificate included, and goes with it. The server is ended by its
own pid; it also ends when its standard input does, should this process be killed.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from echostream_core import EchoStreamError

__all__ = ["CLIENT", "DemoFailed", "DemoServer", "environment", "running_server", "write_configuration"]

SERVICES: Final = "echostream_cli.demo_services:Demo"
CLIENT: Final = "demo"
"""The client's section: ``[client.demo]``."""
READY_S: Final = 20.0
STOP_S: Final = 5.0
CONFIGURATION_PREFIX: Final = "ECHOSTREAM__"

SERVER_TOML: Final = """\
# The demo's server: one endpoint on every transport. Port 0 is any free one.
[server.demo]
listen   = {listen}
services = ["{services}"]
drain_s  = 2
{advertise}{tls}"""

CLIENT_TOML: Final = """\
# The demo's client. Which transport and which codec it uses is set from outside, by
# ECHOSTREAM__CLIENT__DEMO__URL and ECHOSTREAM__CLIENT__DEMO__CODECS; the program knows neither.
[client.demo]
url = "{url}"
{discovery}{tls}"""

DISCOVERY: Final = """
[discovery.mdns]
interfaces = "loopback"      # what the demo announces stays on this machine
"""

DEVELOPMENT_TLS: Final = """
[transport.{scheme}]
tls.dev = true      # a self-signed certificate for development, which the client pins
"""


class DemoFailed(EchoStreamError):
    """The demo could not be set up; the text says why."""


@dataclass(slots=True)
class DemoServer:
    """The server in its own process."""

    addresses: dict[str, str] = field(default_factory=dict)
    """Scheme → bound URL."""
    pid: int = 0
    exit_status: int | None = None
    """How it ended; None while it runs. 0: it has drained."""
    last_words: str = ""
    """The end of its standard error, once it has ended."""


def write_configuration(
    folder: Path, urls: Sequence[str], encrypted: Sequence[str], services: str = SERVICES, name: str = ""
) -> None:
    """Write ``server.toml`` and ``client.toml``; the schemes of ``encrypted`` get a development certificate.

    ``name`` is what the server is announced as; empty: it is not.
    """
    tls = "".join(DEVELOPMENT_TLS.format(scheme=scheme) for scheme in encrypted)
    advertise = f'advertise = "{name}"\ndiscovery = "mdns"\n{DISCOVERY}' if name else ""
    server = SERVER_TOML.format(listen=json.dumps(list(urls)), services=services, advertise=advertise, tls=tls)
    (folder / "server.toml").write_text(server, encoding="utf-8")
    client = CLIENT_TOML.format(url=urls[0], discovery=DISCOVERY if name else "", tls=tls)
    (folder / "client.toml").write_text(client, encoding="utf-8")


@contextmanager
def environment(changes: Mapping[str, str], *, without: str = "") -> Iterator[None]:
    """Run the block with other environment variables: those that begin with ``without`` removed, ``changes`` set."""
    before = dict(os.environ)
    try:
        for name in before:
            if without and name.startswith(without):
                del os.environ[name]
        os.environ.update(changes)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def running_server(folder: Path) -> Iterator[DemoServer]:
    """Run ``serve server.toml`` in a process of its own while the block runs. DemoFailed when it does not start."""
    command = [sys.executable, "-m", "echostream_core", "serve", str(folder / "server.toml")]
    errors_path = folder / "server-errors.txt"
    with errors_path.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [*command, "--json", "--stop-with-input"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; we then stop the server
        )
    server = DemoServer(pid=process.pid)
    try:
        assert process.stdout is not None
        if not _read_addresses(process.stdout, server):
            _stop(process)
            raise DemoFailed(f"the demo's server did not start: {_last_words(errors_path)}")
        yield server
    finally:
        server.exit_status = _stop(process)
        server.last_words = _last_words(errors_path)


def _read_addresses(output: IO[str], server: DemoServer) -> bool:
    """Collect what the server listens on until it says that it is ready; False when it never does."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        with output:
            for line in output:
                lines.put(line)
        lines.put("")

    # Reading a pipe with a time limit: a thread works on every system, and ends with the pipe.
    threading.Thread(target=read, name="demo-server-output", daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=READY_S)
        except queue.Empty:
            return False
        if not line:
            return False
        event = json.loads(line)
        if event["event"] == "ready":
            return True
        if event["event"] == "listening":
            url = str(event["address"])
            server.addresses.setdefault(url.partition("://")[0], url)


def _stop(process: subprocess.Popen[str]) -> int:
    """End the process and return its status: ask by SIGTERM, insist after a while."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except BaseException as error:  # a second Ctrl-C must not leave it behind either
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()
    return process.returncode


def _last_words(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return "\n".join(line for line in lines if line.strip())[-2000:].strip() or "it said nothing"
