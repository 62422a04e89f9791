"""The demo as a newcomer runs it, and proof that its verdict can be bad."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from echostream_core import Kernel
from tests.e2e.processes import PATIENCE_S, Program, finished, running

pytest.importorskip("echostream_cli", reason="the demo is a part of echostream-cli")

TRANSPORTS = [name for name in ("quic", "wt", "tls", "ws", "tcp") if name in Kernel().known("transport")]
CODECS = [name for name in ("msgpack", "cbor", "json") if name in Kernel().known("codec")]

pytestmark = [
    pytest.mark.skipif(not TRANSPORTS, reason="no transport of the demo is installed"),
    pytest.mark.timeout(120),
]

DAMAGE = '''\
"""The demo's services with one fault each, to be served in their place."""
import asyncio
import os

from echostream_cli.demo_services import Demo as Sound
from echostream_core import handler, service


@service("demo")
class Flipped(Sound):
    """One bit of the file arrives wrong."""

    def receive(self, chunk: bytes) -> bytes:
        return bytes([chunk[0] ^ 1]) + chunk[1:]


@service("demo")
class Shortened(Sound):
    """The last byte of each chunk is lost."""

    def receive(self, chunk: bytes) -> bytes:
        return chunk[:-1]


@service("demo")
class Stubborn(Sound):
    """A handler that does not let itself be cancelled."""

    @handler
    async def hold(self, ticket: str) -> None:
        held = self._ticket(ticket)
        held.started.set()
        try:
            await asyncio.sleep(0.5)
        except asyncio.CancelledError:
            pass
        held.outcome = "finished"
        held.ended.set()


@service("demo")
class Rude(Sound):
    """It never calls back."""

    @handler
    async def greet(self, name: str) -> str:
        return "Hello"


@service("demo")
class Dying(Sound):
    """Its process ends when the file comes."""

    def receive(self, chunk: bytes) -> bytes:
        os._exit(3)
'''

IN_PROCESS = '''\
"""Run the demo with other services, and print its report."""
import json, sys

from echostream_cli.demo_run import DemoPlan, run_demo
from echostream_cli.demo_screen import progress

with progress(1) as shown:
    plan = DemoPlan(quick=True, transports=[sys.argv[2]], codecs=["json"], services=sys.argv[1])
    report = run_demo(plan, shown)
print(json.dumps({**report.as_dict(), "verdicts": [row.verdict for row in report.rows]}))
'''


def demo(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report of a quick demo; its temporary files go to ``folder``/tmp."""
    (folder / "tmp").mkdir(exist_ok=True)
    command = ["-m", "echostream_cli", "demo", "--quick", "--json", *arguments]
    done = finished(command, folder, environ={"TMPDIR": str(folder / "tmp")})
    assert "Traceback" not in done.stderr, done.stderr
    assert list((folder / "tmp").iterdir()) == [], "the demo cleans up"
    return done.returncode, json.loads(done.stdout)


def test_every_installed_combination_passes(tmp_path: Path) -> None:
    status, report = demo(tmp_path)
    rows = {(row["transport"], row["codec"]): row for row in report["rows"] if not row["missing"]}
    assert set(rows) == {(transport, codec) for transport in TRANSPORTS for codec in CODECS}
    for row in rows.values():
        assert row["problems"] == []
        assert row["checks"] == {"both ways": True, "cancel": True, "timeout": True, "file": True}
        assert all(row[figure] > 0 for figure in ("p50_ms", "p99_ms", "calls_per_s", "mb_per_s"))
    assert report["problems"] == []
    assert report["ok"] is True
    assert status == 0
    if "mdns" in Kernel().known("discovery"):
        assert report["discovery"]["problem"] == ""
        assert report["discovery"]["instance"] != ""


def test_a_file_of_ones_own_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "own.bin"
    file.write_bytes(os.urandom(300_000))
    status, report = demo(tmp_path, "--file", str(file), "--transports", TRANSPORTS[-1], "--codecs", "json")
    assert status == 0
    assert report["file"]["name"] == "own.bin"
    assert report["file"]["bytes"] == 300_000


def test_an_empty_file_arrives_too(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    status, _ = demo(tmp_path, "--file", "empty", "--transports", TRANSPORTS[-1], "--codecs", "json")
    assert status == 0


@pytest.mark.parametrize(
    ("fault", "step", "text"),
    [
        ("Flipped", "file", "the file arrived damaged"),
        ("Shortened", "file", "bytes were sent"),
        ("Stubborn", "cancel", "was not cancelled on the server: finished"),
        ("Stubborn", "timeout", ""),
        ("Rude", "both ways", "the server answered 'Hello'"),
        ("Dying", "file", ""),
    ],
)
def test_a_fault_of_the_server_is_found(tmp_path: Path, fault: str, step: str, text: str) -> None:
    (tmp_path / "damage.py").write_text(DAMAGE, encoding="utf-8")
    (tmp_path / "run.py").write_text(IN_PROCESS, encoding="utf-8")
    done = finished(["run.py", f"damage:{fault}", TRANSPORTS[-1]], tmp_path, environ={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert report["ok"] is False
    assert row["checks"][step] is False
    assert any(problem.startswith(f"{step}: ") and text in problem for problem in row["problems"]), row["problems"]
    assert step in report["verdicts"][0]
    if fault == "Dying":
        assert report["problems"][0].startswith("the server ended with status 3")


def test_what_is_not_installed_fails_only_when_it_was_named(tmp_path: Path) -> None:
    status, report = demo(tmp_path, "--transports", f"{TRANSPORTS[-1]},pigeon", "--codecs", "json")
    assert status == 1
    (missing,) = [row["missing"] for row in report["rows"] if row["transport"] == "pigeon"]
    assert missing.startswith("E-NO-PROVIDER: no plugin provides the transport 'pigeon'")
    assert [row["ok"] for row in report["rows"]] == [True, False]


def test_a_transport_within_one_process_is_refused(tmp_path: Path) -> None:
    status, report = demo(tmp_path, "--transports", "memory")
    assert status == 1
    assert "the demo needs two" in report["rows"][0]["problems"][0]


def test_settings_meant_for_other_programs_do_not_disturb_it(tmp_path: Path) -> None:
    environ = {
        "ECHOSTREAM__SERVER__PUBLIC__DRAIN_S": "1",  # a section without listen: an error anywhere else
        "ECHOSTREAM__CLIENT__DEMO__URL": "tcp://127.0.0.1:1",
    }
    command = ["-m", "echostream_cli", "demo", "--quick", "--transports", TRANSPORTS[-1], "--codecs", "json"]
    done = finished(command, tmp_path, environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The one combination passed" in done.stdout


def test_a_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    done = finished(["-m", "echostream_cli", "demo", "--file", "nowhere.wav"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere.wav: cannot be read")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing_behind(number: signal.Signals, status: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        command = ["-m", "echostream_cli", "demo"]
        with running(command, folder, environ={"TMPDIR": str(folder / "tmp")}) as program:
            server = wait_for_server(program)
            program.send(number)
            assert program.status() == status, program.errors()
            assert "Traceback" not in program.errors()
        assert list((folder / "tmp").iterdir()) == []
        assert not is_running(server)


def test_a_killed_demo_takes_its_server_with_it() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(["-m", "echostream_cli", "demo"], folder, environ={"TMPDIR": name}) as program:
            server = wait_for_server(program)
            program.process.kill()
            program.status()
            ends_at = time.monotonic() + PATIENCE_S
            while is_running(server):
                assert time.monotonic() < ends_at, "the server outlives the demo"
                time.sleep(0.05)


def wait_for_server(program: Program) -> int:
    """Wait until the first combination is done; the pid of the demo's server is then known to the system."""
    while "ok" not in program.errors():
        assert program.process.poll() is None, program.errors()
        time.sleep(0.005)  # the demo needs the processor more than we do
    children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list the children of a process")
    (child,) = children.read_text(encoding="ascii").split()
    return int(child)


def is_running(pid: int) -> bool:
    """Whether the process is there; one that has ended and that nobody has waited for is not."""
    try:
        return " Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2][:3]
    except FileNotFoundError:
        return False
