"""The runner tells precisely what went wrong, whoever it was, and leaves no process behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from echostream_testkit.interop.plan import Implementation, Plan
from echostream_testkit.interop.runs import RunResult, cross
from plugins.testkit.tests.interop.fakes import LISTENS, PASSES, alive, crossing, reporting

HANGS = "sys.stdin.buffer.read()"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
"""What does not end by itself; a limit that is passed with it is short, all others are long."""


async def outcome_of(plan: Plan, folder: Path) -> RunResult:
    (result,) = await cross(plan, folder / "runs", lambda one: None)
    assert alive(folder / "pids") == []
    return result


async def test_a_run_passes_when_both_keep_to_the_contract(tmp_path: Path) -> None:
    result = await outcome_of(crossing(LISTENS, PASSES, tmp_path), tmp_path)
    assert (result.outcome, result.reason) == ("passed", "")
    assert [(case.name, case.outcome) for case in result.cases] == [("one", "passed"), ("two", "passed")]
    assert result.implementations == {"listener": {"name": "fake", "version": "9", "runtime": "none"}}
    assert list((tmp_path / "runs").iterdir()) == [], "the logs of a run that passed are of no use"


async def test_both_are_told_everything_by_the_environment(tmp_path: Path) -> None:
    shows = "print(json.dumps(told), flush=True)\n"
    plan = crossing(shows + LISTENS, shows + reporting("failed", 1), tmp_path, transports=("x://{folder}/y",), seed=7)
    await outcome_of(plan, tmp_path)
    listener, dialer = (
        json.loads((tmp_path / "runs" / "0001" / f"{role}.log").read_text()) for role in ("listener", "dialer")
    )
    folder = str(tmp_path / "runs" / "0001")
    common = {"CASES": "one,two", "CODECS": "json", "SEED": "7", "LIFELINE": "stdin", "CASE_TIMEOUT_S": "20"}
    assert common.items() <= listener.items()
    assert common.items() <= dialer.items()
    assert (listener["ROLE"], dialer["ROLE"]) == ("listener", "dialer")
    assert listener["URL"] == dialer["URL"] == f"x://{folder}/y"
    assert "READY" in listener
    assert "READY" not in dialer


@pytest.mark.parametrize(
    ("listener", "reason"),
    [
        (
            "print('no such port', file=sys.stderr); sys.exit(5)",
            "with status 5 before it was ready; its last words: no",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the listener ended with signal SIGKILL before it was ready"),
    ],
    ids=["ends", "is killed"],
)
async def test_a_listener_that_never_gets_ready(listener: str, reason: str, tmp_path: Path) -> None:
    result = await outcome_of(crossing(listener, PASSES, tmp_path), tmp_path)
    assert result.outcome == "failed"
    assert reason in result.reason


async def test_a_listener_that_says_nothing(tmp_path: Path) -> None:
    result = await outcome_of(crossing(DEAF + HANGS, PASSES, tmp_path, ready_timeout_s=0.3), tmp_path)
    assert (result.outcome, result.reason) == ("failed", "the listener was not ready within 0.3 s")


async def test_half_a_url_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    slow = "write('READY', 'x://half')\ntime.sleep(0.2)\n"
    result = await outcome_of(crossing(slow + LISTENS, PASSES, tmp_path), tmp_path)
    assert result.outcome == "passed"


async def test_a_listener_that_supports_nothing(tmp_path: Path) -> None:
    plan = crossing("print('no such transport here'); sys.exit(127)", PASSES, tmp_path)
    result = await outcome_of(plan, tmp_path)
    assert (result.outcome, result.reason) == ("unsupported", "the listener: no such transport here")


async def test_a_listener_that_crashes_under_the_dialer(tmp_path: Path) -> None:
    crashes = """
while len(open(os.environ["PIDS"]).read().split()) < 2:
    time.sleep(0.02)
print("out of memory", flush=True)
os._exit(3)
"""
    sees_it = """
def runs(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True

listener = int(open(os.environ["PIDS"]).readline())
while runs(listener):
    time.sleep(0.02)
"""
    listener = LISTENS.replace("sys.stdin.buffer.read()", crashes)
    result = await outcome_of(crossing(listener, sees_it + reporting("failed", 1), tmp_path), tmp_path)
    assert result.outcome == "failed"
    assert result.reason == "the listener ended with status 3 while the dialer was at work: out of memory"
    assert result.count("failed") == 2, "what the dialer has seen of it is kept"


async def test_a_listener_that_does_not_stop(tmp_path: Path) -> None:
    listener = LISTENS.replace("lambda *_: os._exit(0)", "signal.SIG_IGN")
    result = await outcome_of(crossing(listener, PASSES, tmp_path, stop_timeout_s=0.3), tmp_path)
    assert (result.outcome, result.reason) == ("failed", "the listener did not end within 0.3 s of SIGTERM")


async def test_a_listener_that_does_not_stop_in_order(tmp_path: Path) -> None:
    listener = LISTENS.replace("os._exit(0)", "(print('tasks were left', flush=True), os._exit(4))")
    result = await outcome_of(crossing(listener, PASSES, tmp_path), tmp_path)
    assert result.reason == "the listener ended with status 4 on SIGTERM: tasks were left"


async def test_a_child_of_a_listener_ends_with_it(tmp_path: Path) -> None:
    child = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    starts = f"pid(subprocess.Popen([sys.executable, '-S', '-c', {child!r}]).pid)\n"
    result = await outcome_of(crossing(starts + LISTENS, PASSES, tmp_path), tmp_path)
    assert result.outcome == "passed"
    assert len((tmp_path / "pids").read_text().split()) == 3


@pytest.mark.parametrize(
    ("dialer", "reason"),
    [
        ("sys.exit(0)", "the dialer wrote no result"),
        ("write('RESULT', '{'); sys.exit(0)", "the dialer's result is no JSON: "),
        (reporting("passed", 0, contract=99), "the dialer's result is not of contract 1"),
        (reporting("splendid", 0), "the dialer's result cannot be used: a case needs name and outcome"),
        (reporting("passed", 1), "the dialer ended with status 1, its result file stands for 0"),
        (reporting("failed", 0), "the dialer ended with status 0, its result file stands for 1"),
        (reporting("passed", 3), "the dialer ended with status 3, which is none of 0, 1 and 127"),
        ("print('what?', file=sys.stderr); sys.exit(2)", "none of 0, 1 and 127; its last words: what?"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the dialer ended with signal SIGSEGV"),
    ],
    ids=["no result", "no JSON", "contract", "outcome", "says 1", "says 0", "says 3", "usage", "crash"],
)
async def test_a_dialer_that_breaks_the_contract(dialer: str, reason: str, tmp_path: Path) -> None:
    result = await outcome_of(crossing(LISTENS, dialer, tmp_path), tmp_path)
    assert result.outcome == "failed"
    assert reason in result.reason


async def test_a_dialer_that_hangs_keeps_what_it_has_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream_testkit.interop.runs._MARGIN_S", 0.2)
    hangs = DEAF + reporting("passed", 0, cases="one").replace("sys.exit(0)", HANGS)
    result = await outcome_of(crossing(LISTENS, hangs, tmp_path, timeout_s=0.5), tmp_path)
    assert (result.outcome, result.reason) == ("failed", "the dialer did not end within 0.7 s")
    assert [(case.name, case.outcome) for case in result.cases] == [("one", "passed"), ("two", "failed")]
    assert result.cases[1].reason == "the dialer did not report it"


async def test_a_case_that_is_not_reported_has_failed(tmp_path: Path) -> None:
    result = await outcome_of(crossing(LISTENS, reporting("passed", 0, cases="two"), tmp_path), tmp_path)
    assert result.outcome == "failed"
    assert [(case.name, case.reason) for case in result.cases if case.outcome == "failed"] == [
        ("one", "the dialer did not report it")
    ]


@pytest.mark.parametrize("dialer", [reporting("unsupported", 127), "print('so it is'); sys.exit(127)"])
async def test_a_dialer_that_supports_none_of_the_cases(dialer: str, tmp_path: Path) -> None:
    result = await outcome_of(crossing(LISTENS, dialer, tmp_path), tmp_path)
    assert result.outcome == "unsupported"
    assert "so it is" in result.reason
    assert result.count("unsupported") == 2


async def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    plan = crossing(LISTENS, PASSES, tmp_path)
    missing = Implementation(command=("no-such-program",), roles=("dialer",))
    plan = Plan(
        implementations={"listening": plan.implementations["listening"], "dialling": missing},
        transports=("x",),
        codecs=("json",),
    )
    result = await outcome_of(plan, tmp_path)
    assert (result.outcome, result.reason) == (
        "failed",
        "'no-such-program' cannot be started: No such file or directory",
    )


async def test_cancelling_the_runner_ends_every_process(tmp_path: Path) -> None:
    plan = crossing(DEAF + LISTENS, DEAF + HANGS, tmp_path)
    crossed = asyncio.ensure_future(cross(plan, tmp_path / "runs", lambda one: None))
    pids = tmp_path / "pids"
    while not pids.exists() or len(pids.read_text().split()) < 2:
        await asyncio.sleep(0.02)
    crossed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await crossed
    assert alive(pids) == []


async def test_runs_come_in_the_order_of_the_plan_however_many_run_at_once(tmp_path: Path) -> None:
    plan = crossing(LISTENS, PASSES, tmp_path, transports=("a", "b"), codecs=("json", "other"), parallel=4)
    told: list[RunResult] = []
    results = await cross(plan, tmp_path / "runs", told.append)
    assert [(one.pairing.transport, one.pairing.codec) for one in results] == [
        ("a", "json"),
        ("a", "other"),
        ("b", "json"),
        ("b", "other"),
    ]
    assert len(told) == 4
    assert {one.outcome for one in results} == {"passed"}
    assert alive(tmp_path / "pids") == []
