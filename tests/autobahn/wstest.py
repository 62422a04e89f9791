"""Autobahn's ``wstest``, a program of Python 2.7: where it is, how it is run, and what it reports.

``scripts/ws-peers.sh`` installs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["AGENT", "PATIENCE_S", "Verdict", "fuzzing_client", "fuzzing_server", "missing", "report"]

PROGRAM: Final = Path(__file__).resolve().parents[2] / ".venv-peers" / "autobahn" / "python"
"""Starts the Python 2.7 into which the suite was installed."""

AGENT: Final = "echostream"
"""Our name in its reports."""

PATIENCE_S: Final = 180.0
"""Bounds a run that would never end; nothing is measured with it."""

_LOOK_AGAIN_S: Final = 0.02

_FUZZINGCLIENT: Final = """
from autobahntestsuite.wstest import run
run()
"""

# Port 0 is taken as it is, and the port that came of it told; and a subprotocol is agreed on, which the suite offers
# for its client only, and without which our handshake takes a server for none of ours.
_FUZZINGSERVER: Final = """
import sys
import autobahntestsuite.choosereactor
from twisted.internet import reactor
from autobahntestsuite.fuzzing import FuzzingServerProtocol
from autobahntestsuite.wstest import run

listen, on_connect = reactor.listenTCP, FuzzingServerProtocol.onConnect

def listen_and_tell(*args, **kwargs):
    port = listen(*args, **kwargs)
    print("PORT %d" % port.getHost().port)
    sys.stdout.flush()
    return port

def agree(self, request):
    on_connect(self, request)
    return request.protocols[0]

reactor.listenTCP, FuzzingServerProtocol.onConnect = listen_and_tell, agree
run()
"""


def missing() -> str | None:
    """Why Autobahn cannot be run here; None: it can."""
    if PROGRAM.exists():
        return None
    return "Autobahn is not installed: scripts/ws-peers.sh does that, where there is a Python 2.7"


async def fuzzing_client(url: str, cases: Sequence[str], folder: Path) -> None:
    """Let Autobahn be the client of the server at ``url``, from the first of ``cases`` to its report in ``folder``."""
    spec: dict[str, object] = {
        "outdir": "report",
        "servers": [{"agent": AGENT, "url": url, "protocols": ["echostream.v1"]}],
        "cases": list(cases),
    }
    with _running(_FUZZINGCLIENT, "fuzzingclient", spec, folder) as process:
        async with asyncio.timeout(PATIENCE_S):
            while process.poll() is None:
                await asyncio.sleep(_LOOK_AGAIN_S)
    if process.returncode:
        raise RuntimeError(f"wstest has failed: {_output(folder)[-2_000:]}")


@asynccontextmanager
async def fuzzing_server(cases: Sequence[str], folder: Path) -> AsyncIterator[str]:
    """Autobahn as a server: its URL. Who asks it for ``/updateReports`` makes it write the report into ``folder``."""
    spec: dict[str, object] = {"outdir": "report", "url": "ws://127.0.0.1:0", "cases": list(cases)}
    with _running(_FUZZINGSERVER, "fuzzingserver", spec, folder) as process:
        port = None
        async with asyncio.timeout(PATIENCE_S):
            while port is None:
                if process.poll() is not None:
                    raise RuntimeError(f"wstest has failed: {_output(folder)[-2_000:]}")
                await asyncio.sleep(_LOOK_AGAIN_S)
                lines = _output(folder).splitlines(keepends=True)
                port = next((int(line[5:]) for line in lines if line.startswith("PORT ") and line[-1:] == "\n"), None)
        yield f"ws://127.0.0.1:{port}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What Autobahn says of us, by case."""

    behaviours: dict[str, str]
    """"OK" or another word; what it says of our closing too, where it did not like that."""
    close_codes: dict[str, int | None]
    """The code of our close frame; None: it had none. Autobahn itself accepts a dropped connection in its place."""


def report(folder: Path) -> Verdict:
    """Read the report that a run has left in ``folder``."""
    index = json.loads((folder / "report" / "index.json").read_text(encoding="utf-8"))[AGENT]
    found = Verdict({}, {})
    for case, result in index.items():
        behaviour, closing = result["behavior"], result["behaviorClose"]
        if closing not in ("OK", "INFORMATIONAL", behaviour):
            behaviour += f", closing {closing}"
        found.behaviours[case], found.close_codes[case] = behaviour, result["remoteCloseCode"]
    return found


def _output(folder: Path) -> str:
    return (folder / "output").read_text(encoding="utf-8", errors="replace")


@contextmanager
def _running(code: str, mode: str, spec: dict[str, object], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``wstest`` in ``mode``; in the end it is killed, with all that it may have started."""
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    with open(folder / "output", "wb") as output:
        process = subprocess.Popen(
            [PROGRAM, "-c", code, "--mode", mode, "--spec", "spec.json", "--webport", "0"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
