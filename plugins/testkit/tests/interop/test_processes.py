"""Our implementation in processes of its own: against itself over each transport, against listeners that are wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trustme

from echostream_core import Kernel
from echostream_testkit.interop.plan import Implementation, Plan, Tls
from echostream_testkit.interop.programs import clean_environment
from echostream_testkit.interop.runs import RunResult, cross
from plugins.testkit.tests.interop.fakes import alive

ROOT = Path(__file__).resolve().parents[4]
PATIENCE_S = 60.0
OURS = Implementation(command=(sys.executable, "-m", "echostream_testkit.interop"), folder=str(ROOT))
QUICK = ("connect", "echo_values", "statuses", "cancellation", "bidirectional_stream", "call_back", "drain")
"""One of each kind; test_cases.py plays them all."""


def crossable(*, encrypted: bool | None = None) -> list[str]:
    """The installed transports that two processes can meet over. ``sim`` is a network inside one process."""
    kernel = Kernel()
    specs = [kernel.transport(scheme) for scheme in kernel.known("transport") if scheme != "sim"]
    found = [spec for spec in specs if not spec.capabilities.in_process]
    return [spec.scheme for spec in found if encrypted is None or spec.capabilities.encrypted is encrypted]


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for 127.0.0.1 as files."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(folder / "certificate.pem"), append=True)
    return Tls(
        certificate=str(folder / "certificate.pem"), private_key=str(folder / "key.pem"), ca=str(folder / "ca.pem")
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not tmp_path: the path of a Unix socket has at most 107 bytes."""
    with TemporaryDirectory() as name:
        yield Path(name)


async def crossed(folder: Path, listener: Implementation, scheme: str, tls: Tls, **settings: object) -> RunResult:
    """One run of our dialer."""
    implementations = {
        "listening": Implementation(command=listener.command, env=listener.env, roles=("listener",), folder=str(ROOT)),
        "dialling": Implementation(command=OURS.command, roles=("dialer",), folder=str(ROOT)),
    }
    given: dict[str, object] = {"codecs": (Kernel().default_codecs()[0].name,), "cases": QUICK, **settings}
    plan = Plan(implementations=implementations, transports=(scheme,), tls=tls, **given)  # type: ignore[arg-type]
    (result,) = await cross(plan, folder / "runs", lambda one: None)
    return result


def wrong(kind: str) -> Implementation:
    command = (sys.executable, "-m", "plugins.testkit.tests.interop.wrong_listener", kind)
    return Implementation(command=command)


@pytest.mark.parametrize("scheme", crossable())
async def test_ours_meets_itself(scheme: str, folder: Path, tls: Tls) -> None:
    result = await crossed(folder, OURS, scheme, tls)
    assert (result.outcome, result.reason) == ("passed", "")
    assert [case.name for case in result.cases] == list(QUICK)
    assert {case.outcome for case in result.cases} == {"passed"}
    assert {role: one["name"] for role, one in result.implementations.items()} == {
        "listener": "echostream-python",
        "dialer": "echostream-python",
    }


async def wrongly(kind: str, folder: Path, *cases: str, case_timeout_s: float = 20.0) -> RunResult:
    scheme = crossable(encrypted=False)[0]
    return await crossed(folder, wrong(kind), scheme, Tls(), cases=cases, case_timeout_s=case_timeout_s)


async def test_a_listener_that_answers_wrong_sums(folder: Path) -> None:
    result = await wrongly("wrong sums", folder, "connect", "sums", "metadata")
    assert (result.outcome, result.reason) == ("failed", "")
    assert [(case.name, case.reason) for case in result.cases] == [
        ("connect", ""),
        ("sums", "sum of 0 numbers: expected 0 (int), got 1 (int)"),
        ("metadata", ""),
    ]


async def test_a_listener_that_hangs(folder: Path) -> None:
    result = await wrongly("hangs", folder, "connect", "sums", case_timeout_s=1.0)
    assert (result.outcome, result.reason) == ("failed", "")
    assert [(case.name, case.reason) for case in result.cases] == [
        ("connect", ""),
        ("sums", "not finished within 1 s"),
    ]


async def test_a_listener_that_crashes(folder: Path) -> None:
    result = await wrongly("crashes", folder, "connect", "sums", "metadata")
    assert result.outcome == "failed"
    assert result.reason == "the listener ended with status 3 while the dialer was at work: Fatal: out of memory"
    before, crash, after = result.cases
    assert before.outcome == "passed"
    assert crash.reason.startswith("Disconnected: UNAVAILABLE: interop.sum: the session with ")
    assert after.reason.startswith("ConnectFailed: ")


async def test_a_listener_that_offers_nothing(folder: Path) -> None:
    result = await wrongly("nothing", folder, "connect", "sums")
    assert (result.outcome, result.reason) == (
        "unsupported",
        "the listener does not offer it: no method 'interop.echo'",
    )
    assert result.count("unsupported") == 2


def told(role: str, url: str, **variables: str) -> dict[str, str]:
    """The environment of one process."""
    named = {"ROLE": role, "URL": url, **variables}
    return clean_environment({f"ECHOSTREAM_INTEROP_{name}": value for name, value in named.items()})


def played(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        OURS.command,
        env=environ,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("role", ["listener", "dialer"])
@pytest.mark.parametrize(
    ("url", "codecs", "reason"),
    [
        ("carrier-pigeon://roof", "json", "no plugin provides the transport 'carrier-pigeon'"),
        ("memory://here", "smoke", "no plugin provides the codec 'smoke'"),
        ("memory://here", "json", "memory:// stays within one process: a listener and a dialer are two"),
    ],
    ids=["transport", "codec", "memory"],
)
def test_what_ours_does_not_support_is_127(role: str, url: str, codecs: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = played(told(role, url, CODECS=codecs, RESULT=str(file), CASES="sums"))
    assert done.returncode == 127, done.stderr
    assert reason in done.stderr
    result = json.loads(file.read_text())
    assert (result["contract"], result["role"], result["outcome"]) == (1, role, "unsupported")
    assert reason in (result["reason"] if role == "listener" else result["cases"][0]["reason"])


def test_a_case_that_ours_does_not_know_is_127(folder: Path) -> None:
    done = played(told("dialer", "tcp://127.0.0.1:1", CASES="levitation"))
    assert done.returncode == 127
    assert "this dialer has no case 'levitation'" in done.stdout


def test_a_wrong_variable_is_one_sentence(tmp_path: Path) -> None:
    done = played(told("dialer", "tcp://127.0.0.1:1", SEED="x"))
    assert (done.returncode, done.stderr) == (1, "ECHOSTREAM_INTEROP_SEED must be a whole number, not 'x'\n")


def test_a_listener_tells_where_it_is_and_ends_with_its_lifeline(folder: Path) -> None:
    scheme = crossable(encrypted=False)[0]
    url = f"unix://{folder}/s" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    with subprocess.Popen(
        OURS.command,
        env=told("listener", url, LIFELINE="stdin"),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        word, _, address = process.stdout.readline().strip().partition(" ")
        assert (word, address.startswith(f"{scheme}://")) == ("ready", True)
        assert not address.endswith(":0")
        process.stdin.close()
        assert process.wait(timeout=PATIENCE_S) == 0


MATRIX = """
[matrix]
transports = ["{scheme}"]
cases = ["connect", "sums"]

[implementations.ours]
command = ["{{python}}", "-m", "echostream_testkit.interop"]
folder = "{root}"

[implementations.theirs]
command = ["{{python}}", "-m", "plugins.testkit.tests.interop.wrong_listener", "wrong sums"]
folder = "{root}"
roles = ["listener"]
"""


def matrix(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    file = folder / "matrix.toml"
    file.write_text(MATRIX.format(scheme=crossable(encrypted=False)[0], root=ROOT))
    command = [*OURS.command, "matrix", str(file), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment({}), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_the_matrix_writes_its_tables_and_fails_when_one_does(folder: Path) -> None:
    data, table, logs = folder / "all.json", folder / "table.md", folder / "logs"
    done = matrix(folder, "--json", str(data), "--markdown", str(table), "--logs", str(logs))
    assert done.returncode == 1, done.stderr
    assert "2 runs: 1 passed, 1 failed; cases: 3 passed, 1 failed." in done.stdout
    assert "sums, theirs <- ours" in table.read_text()
    assert json.loads(data.read_text())["totals"]["runs"] == {"passed": 1, "failed": 1}
    (kept,) = logs.iterdir()
    assert "failed sums" in (kept / "dialer.log").read_text()


def test_a_matrix_that_succeeds(folder: Path) -> None:
    done = matrix(folder, "--implementations", "ours", "--cases", "connect")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 run: 1 passed; cases: 1 passed." in done.stdout


def test_a_matrix_that_makes_no_sense(folder: Path) -> None:
    done = matrix(folder, "--implementations", "nobody")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("there is no [implementations.nobody]; known are ours, theirs")


def test_the_cases_can_be_listed() -> None:
    done = subprocess.run(
        [*OURS.command, "cases"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert "  sums                    A typed payload is computed with.\n" in done.stdout


WAITS = """
import os, sys
with open(os.environ["PIDS"], "a") as file:
    file.write(f"{os.getpid()}\\n")
if os.environ["ECHOSTREAM_INTEROP_ROLE"] == "listener":
    with open(os.environ["ECHOSTREAM_INTEROP_READY"], "w") as file:
        file.write("x://y\\n")
sys.stdin.buffer.read()
"""
"""Both roles: wait for the end of the lifeline."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda one: one.name)
async def test_ending_the_runner_ends_everything(number: signal.Signals, folder: Path) -> None:
    (folder / "waits.py").write_text(WAITS)
    pids = folder / "pids"
    (folder / "matrix.toml").write_text(
        f'[matrix]\ntransports = ["x"]\n[implementations.x]\ncommand = ["{{python}}", "{{here}}/waits.py"]\n'
        f'env = {{ PIDS = "{pids}" }}\n'
    )
    process = await asyncio.create_subprocess_exec(
        *OURS.command, "matrix", str(folder / "matrix.toml"), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    while not pids.exists() or len(pids.read_text().split()) < 2:
        await asyncio.sleep(0.02)
    process.send_signal(number)
    _, errors = await process.communicate()
    while alive(pids):
        await asyncio.sleep(0.02)
    if number is signal.SIGTERM:
        assert (process.returncode, errors) == (143, b"stopped: every process has been ended\n")
    elif number is signal.SIGINT:
        assert process.returncode == 130
    else:
        assert process.returncode == -9


def test_no_process_of_ours_reads_variables_of_the_runner() -> None:
    kept = clean_environment({"ECHOSTREAM_INTEROP_ROLE": "dialer"})
    assert [name for name in kept if name.startswith("ECHOSTREAM_")] == ["ECHOSTREAM_INTEROP_ROLE"]
    assert kept["PATH"] == os.environ["PATH"]
