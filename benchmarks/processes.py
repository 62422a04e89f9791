"""Starting and ending the peers' processes: nothing that was started here outlives the run.

Each process is ended by its own pid. It runs in a session of its own, so that Ctrl-C reaches the harness
alone, which then ends the others; a server also ends when its standard input does, should the harness itself
be killed.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from benchmarks.catalogue import PeerSpec

__all__ = ["PLACEMENTS", "PeerFailed", "RunningServer", "run_client", "running_server"]

CHECKOUT: Final = Path(__file__).resolve().parents[1]
READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 5.0
CORES: Final = tuple(sorted(os.sched_getaffinity(0)))

PLACEMENTS: Final[dict[str, dict[str, int]]] = {
    "free": {},
    "split": {"server": CORES[-1], "client": CORES[0]},
    "shared": {"server": CORES[0], "client": CORES[0]},
}
"""Where processes run: as the scheduler likes, on a core each, or on one core together."""


class PeerFailed(Exception):
    """A peer's process did not do its part; the text is what it said last."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that listens."""

    pid: int
    address: str


@contextlib.contextmanager
def running_server(spec: PeerSpec, workdir: Path, placement: str) -> Iterator[RunningServer | None]:
    """Run the peer's server for as long as the block lasts; None for a peer that has none of its own."""
    if spec.in_process:
        yield None
        return
    errors_path = workdir / "server-errors.txt"
    with errors_path.open("w") as errors:
        process = _start(spec, workdir, ["server"], errors)
    try:
        _place(process.pid, "server", placement)
        yield RunningServer(process.pid, _read_address(process, errors_path))
    finally:
        _stop(process)


def run_client(
    spec: PeerSpec,
    workdir: Path,
    placement: str,
    server: RunningServer | None,
    arguments: list[str],
    timeout_s: float,
) -> dict[str, float]:
    """Run the peer's client to its end and return the figures it printed."""
    where = ["--address", server.address, "--server-pid", str(server.pid)] if server else []
    errors_path = workdir / "client-errors.txt"
    with errors_path.open("w") as errors:
        process = _start(spec, workdir, ["client", *where, *arguments], errors)
    try:
        _place(process.pid, "client", placement)
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"the client did not finish within {timeout_s:.0f} s") from None
    finally:
        _stop(process)
    if process.returncode != 0:
        raise PeerFailed(f"the client ended with status {process.returncode}: {_last_line(errors_path)}")
    try:
        figures = json.loads(printed.splitlines()[-1])
    except (IndexError, ValueError):
        raise PeerFailed(f"the client printed no figures: {_last_line(errors_path)}") from None
    return {str(name): float(value) for name, value in figures.items()}


def _start(spec: PeerSpec, workdir: Path, end: list[str], errors: IO[str]) -> subprocess.Popen[str]:
    module = ["-m", f"benchmarks.{spec.module}", "--workdir", str(workdir), "--variant", spec.variant]
    return subprocess.Popen(
        [sys.executable, *module, *end],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )


def _place(pid: int, end: str, placement: str) -> None:
    """Bind the process to its core before its libraries start threads, which inherit the binding."""
    core = PLACEMENTS[placement].get(end)
    if core is not None:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(pid, {core})


def _read_address(process: subprocess.Popen[str], errors_path: Path) -> str:
    assert process.stdout is not None
    ends_at = time.monotonic() + READY_TIMEOUT_S
    readable, _, _ = select.select([process.stdout], [], [], max(0.0, ends_at - time.monotonic()))
    line = process.stdout.readline() if readable else ""
    try:
        return str(json.loads(line)["address"])
    except (ValueError, KeyError):
        raise PeerFailed(f"the server did not start: {_last_line(errors_path)}") from None


def _stop(process: subprocess.Popen[str]) -> None:
    """End the process: ask by SIGTERM, insist by SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _last_line(errors_path: Path) -> str:
    """The last line of an error output: of a traceback, the one that names the error."""
    lines = [line for line in errors_path.read_text(errors="replace").splitlines() if line.strip(" |+-")]
    return lines[-1].strip(" |") if lines else "it said nothing on standard error"
