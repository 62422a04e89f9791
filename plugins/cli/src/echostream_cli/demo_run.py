"""The demo as a whole: find out what is installed, set up, try every combination, and judge."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from echostream_cli.demo_audio import write_music
from echostream_cli.demo_finding import Finding, find_server, new_name
from echostream_cli.demo_setup import (
    CONFIGURATION_PREFIX,
    SERVICES,
    DemoFailed,
    DemoServer,
    environment,
    running_server,
    write_configuration,
)
from echostream_cli.demo_trials import Load, Progress, Row, Trial
from echostream_core import (
    EchoStreamError,
    Kernel,
    PluginMissingDependency,
    PluginNotFound,
    RpcServer,
    run,
)

__all__ = ["CODECS", "TRANSPORTS", "DemoPlan", "DemoReport", "run_demo"]

TRANSPORTS: Final = ("quic", "wt", "tls", "ws", "tcp")
CODECS: Final = ("msgpack", "cbor", "json")

FULL: Final = Load(calls=1000, seconds=1.0)
QUICK: Final = Load(calls=100, seconds=0.2)
CHORDS: Final = 8
QUICK_CHORDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoPlan:
    """What to try."""

    transports: Sequence[str] = ()
    """Schemes; empty: the usual five, of which those that are not installed are left out."""
    codecs: Sequence[str] = ()
    """Codecs; empty: the usual three, likewise."""
    file: Path | None = None
    """The file to send; None: some music, made for it."""
    quick: bool = False
    """Measure briefly: the figures are then worth little, the checks as much as ever."""
    services: str = SERVICES
    """What the server serves, ``module:object``; a test damages the file with another one."""


@dataclass(slots=True)
class DemoReport:
    """What came of it."""

    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Transport or codec that is not installed → how to get it."""
    required: set[str] = field(default_factory=set)
    """The transports and codecs that were asked for by name: that one of them is not installed is a failure."""
    file_name: str = ""
    file_bytes: int = 0
    sha256: str = ""
    problems: list[str] = field(default_factory=list)
    """What went wrong beside the rows: the server's end."""
    finding: Finding = field(default_factory=Finding)
    """How the client came to its server."""
    seconds: float = 0.0

    @property
    def tried(self) -> list[Row]:
        """The rows of what is installed."""
        return [row for row in self.rows if not row.missing]

    @property
    def failed(self) -> list[Row]:
        """The rows that failed; a missing one only where what is missing was asked for by name."""
        wanted = self.required.intersection(self.missing)
        return [row for row in self.rows if not row.ok and (not row.missing or {row.transport, row.codec} & wanted)]

    @property
    def ok(self) -> bool:
        """Whether something was tried, and nothing failed."""
        return bool(self.tried) and not self.failed and not self.problems

    def as_dict(self) -> dict[str, object]:
        """The report as plain data, for ``--json``."""
        return {
            "ok": self.ok,
            "seconds": round(self.seconds, 3),
            "file": {"name": self.file_name, "bytes": self.file_bytes, "sha256": self.sha256},
            "rows": [row.as_dict() for row in self.rows],
            "missing": self.missing,
            "problems": self.problems,
            "discovery": self.finding.as_dict(),
        }


def run_demo(plan: DemoPlan, progress: Progress) -> DemoReport:
    """Try every combination of the plan. Leaves no process and no file behind, however it ends.

    Raises DemoFailed when nothing can be tried, ConfigError and PluginError from the set-up; KeyboardInterrupt passes.
    """
    begin = time.perf_counter()
    report = DemoReport(required={*plan.transports, *plan.codecs})
    with ExitStack() as stack:
        # Not the environment's `ECHOSTREAM__…`: what the user has set for another program must not change this one.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="echostream-demo-")))
        changes = {"ECHOSTREAM_DEV_DIR": str(folder / "dev")}
        stack.enter_context(environment(changes, without=CONFIGURATION_PREFIX))
        transports = list(dict.fromkeys(plan.transports or TRANSPORTS))
        codecs = list(dict.fromkeys(plan.codecs or CODECS))
        report.rows = [Row(transport, codec) for transport in transports for codec in codecs]
        usable, encrypted = _usable_transports(transports, folder, report)
        _look_for_codecs(codecs, report)
        rows = [row for row in report.rows if row.verdict == "FAILED" and row.transport in usable]
        if rows:
            file = _file(plan, folder, report)
            report.finding = new_name()
            write_configuration(folder, list(usable.values()), encrypted, plan.services, report.finding.name)
            with running_server(folder) as server:
                if report.finding.name:
                    run(find_server(report.finding, folder / "client.toml"))
                _try_all(rows, server, plan, file, report, folder, progress)
            if server.exit_status != 0:
                text = f"the server ended with status {server.exit_status}: {server.last_words}"
                report.problems.append(text)
    report.seconds = time.perf_counter() - begin
    return report


def _usable_transports(transports: Sequence[str], folder: Path, report: DemoReport) -> tuple[dict[str, str], list[str]]:
    """Scheme → URL to listen on, and which of them encrypt; what cannot be used is noted in the report."""
    kernel = Kernel()
    usable: dict[str, str] = {}
    encrypted: list[str] = []
    for scheme in transports:
        mine = [row for row in report.rows if row.transport == scheme]
        try:
            spec = kernel.transport(scheme)
            if spec.capabilities.in_process:
                raise DemoFailed(f"{scheme}:// stays within one process, and the demo needs two")
            url = f"unix://{folder / 'demo.sock'}" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
            tls = spec.capabilities.encrypted
            run(_listen_once(url, {"dev": True} if tls else None, kernel))
        except (PluginNotFound, PluginMissingDependency) as error:
            report.missing[scheme] = _what_to_install(error)
            for row in mine:
                row.missing = report.missing[scheme]
        except EchoStreamError as error:
            for row in mine:
                row.problems.append(f"listen: {error}")
        else:
            usable[scheme] = url
            if tls:
                encrypted.append(scheme)
    return usable, encrypted


async def _listen_once(url: str, tls: dict[str, object] | None, kernel: Kernel) -> None:
    """Find out here, where the reason can be told of one transport alone, whether it can listen on this machine."""
    async with RpcServer(url, tls=tls, kernel=kernel):
        pass


def _look_for_codecs(codecs: Sequence[str], report: DemoReport) -> None:
    """Note in the report which codecs cannot be used."""
    kernel = Kernel()
    for codec in codecs:
        mine = [row for row in report.rows if row.codec == codec]
        try:
            kernel.codec(codec)
        except (PluginNotFound, PluginMissingDependency) as error:
            report.missing[codec] = _what_to_install(error)
            for row in mine:
                row.missing = row.missing or report.missing[codec]
        except EchoStreamError as error:
            for row in mine:
                row.problems.append(f"codec: {error}")


def _what_to_install(error: PluginNotFound | PluginMissingDependency) -> str:
    _, found, command = error.fix.partition("pip install ")
    if found:
        return f"not installed: pip install {command}"
    return f"{error.code}: {error.problem}. {error.fix}"


def _file(plan: DemoPlan, folder: Path, report: DemoReport) -> Path:
    """The file to send, with its name, size and checksum put into the report."""
    file = plan.file
    if file is None:
        file = folder / "chords.wav"
        write_music(file, QUICK_CHORDS if plan.quick else CHORDS)
    try:
        with file.open("rb") as content:
            report.sha256 = hashlib.file_digest(content, "sha256").hexdigest()
            report.file_bytes = content.tell()
    except OSError as error:
        raise DemoFailed(f"{file}: cannot be read: {error.strerror or error}") from error
    report.file_name = file.name
    return file


def _try_all(
    rows: Sequence[Row],
    server: DemoServer,
    plan: DemoPlan,
    file: Path,
    report: DemoReport,
    folder: Path,
    progress: Progress,
) -> None:
    """One trial after the other, each with the environment that chooses its transport and codec."""
    # A machine without multicast has no other way: the rest of the demo is worth as much.
    addresses = {**server.addresses, **report.finding.addresses}

    async def trials() -> None:
        for row in rows:
            chosen = {
                "ECHOSTREAM__CLIENT__DEMO__URL": addresses[row.transport],
                "ECHOSTREAM__CLIENT__DEMO__CODECS": json.dumps([row.codec]),
            }
            with environment(chosen):
                trial = Trial(row, QUICK if plan.quick else FULL, file, report.sha256, progress)
                await trial.run(folder / "client.toml")

    run(trials())
