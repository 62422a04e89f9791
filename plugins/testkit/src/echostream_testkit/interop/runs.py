"""Runs: a listener and a dialer are started, watched and ended, and what became of them is told precisely."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from echostream_core import ConfigError
from echostream_testkit.interop.contract import (
    CONTRACT_VERSION,
    FAILED,
    PASSED,
    PREFIX,
    UNSUPPORTED,
    CaseResult,
    Outcome,
    overall,
)
from echostream_testkit.interop.plan import Pairing, Plan
from echostream_testkit.interop.programs import Program, clean_environment

__all__ = ["RunResult", "cross"]

_POLL_S: Final = 0.02
_MARGIN_S: Final = 15.0
"""What a dialer gets beyond ``timeout_s`` to write its result and end by itself, before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What became of one run."""

    pairing: Pairing
    outcome: Outcome
    reason: str = ""
    """What went wrong with the run as a whole, cases aside: "" when both roles kept to the contract."""
    cases: tuple[CaseResult, ...] = ()
    seconds: float = 0.0
    implementations: dict[str, dict[str, str]] = field(default_factory=dict)
    """By role: what the result files say of themselves."""

    def count(self, outcome: Outcome) -> int:
        """How many cases ended so."""
        return sum(case.outcome == outcome for case in self.cases)

    def as_dict(self) -> dict[str, object]:
        """The run as plain data."""
        return {
            "listener": self.pairing.listener,
            "dialer": self.pairing.dialer,
            "transport": self.pairing.transport,
            "codec": self.pairing.codec,
            "outcome": self.outcome,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "implementations": self.implementations,
            "cases": [case.as_dict() for case in self.cases],
        }


async def cross(
    plan: Plan, folder: Path, on_result: Callable[[RunResult], None] = lambda result: None
) -> list[RunResult]:
    """Run every pairing of ``plan``, at most ``plan.parallel`` at once; results in the order of the plan.

    Each run has a folder of its own below ``folder``, which is removed when it has passed: what is left are the logs of
    the others. When this is cancelled, all processes are killed first.
    """
    slots = asyncio.Semaphore(plan.parallel)

    async def one(number: int, pairing: Pairing) -> RunResult:
        async with slots:
            place = folder / f"{number:04}"
            place.mkdir(parents=True)
            begin = asyncio.get_running_loop().time()
            result = await run(plan, pairing, place)
            result = replace(result, seconds=asyncio.get_running_loop().time() - begin)
            if result.outcome == "passed":
                shutil.rmtree(place)
            on_result(result)
            return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number, pairing)) for number, pairing in enumerate(plan.pairings(), 1)]
    return [task.result() for task in tasks]


async def run(plan: Plan, pairing: Pairing, folder: Path) -> RunResult:
    """One run. Nothing of it is alive when this returns or raises."""
    programs: list[Program] = []
    try:
        return await _Run(plan, pairing, folder, programs).go()
    except ConfigError as error:
        return RunResult(pairing=pairing, outcome="failed", reason=str(error))
    finally:
        for program in programs:
            await asyncio.shield(program.kill())


class _Run:
    def __init__(self, plan: Plan, pairing: Pairing, folder: Path, programs: list[Program]) -> None:
        self.plan = plan
        self.pairing = pairing
        self.folder = folder
        self.programs = programs

    async def go(self) -> RunResult:
        listener = await self._start("listener", self.pairing.listen.replace("{folder}", str(self.folder)))
        url = await self._ready(listener)
        if url is None:
            return self._never_ready(listener)
        dialer = await self._start("dialer", url)
        status = await dialer.wait(self.plan.timeout_s + _MARGIN_S)
        early = listener.status is not None
        stopped = await listener.stop(self.plan.stop_timeout_s)
        cases, problems = self._cases(dialer, status)
        if early:
            said = listener.last_words()
            problems.insert(0, f"the listener ended with {listener.ending()} while the dialer was at work: {said}")
        elif stopped is None:
            problems.append(f"the listener did not end within {self.plan.stop_timeout_s:g} s of SIGTERM")
        elif stopped != PASSED:
            problems.append(f"the listener ended with {listener.ending()} on SIGTERM: {listener.last_words()}")
        outcome: Outcome = "failed" if problems else overall(cases)
        reason = "; ".join(problems)
        if not reason and outcome == "unsupported" and cases:
            reason = cases[0].reason
        return self._result(outcome, reason, cases)

    def _result(self, outcome: Outcome, reason: str, cases: Sequence[CaseResult] = ()) -> RunResult:
        described = {}
        for role in ("listener", "dialer"):
            content = self._read(role)
            if isinstance(content, dict) and isinstance(content.get("implementation"), dict):
                described[role] = {str(key): str(value) for key, value in content["implementation"].items()}
        return RunResult(
            pairing=self.pairing, outcome=outcome, reason=reason, cases=tuple(cases), implementations=described
        )

    async def _start(self, role: str, url: str) -> Program:
        plan = self.plan
        name = self.pairing.listener if role == "listener" else self.pairing.dialer
        one = plan.implementations[name]
        told = {
            "ROLE": role,
            "URL": url,
            "CASES": ",".join(plan.cases),
            "CODECS": self.pairing.codec,
            "SEED": str(plan.seed),
            "RESULT": str(self._file(role)),
            "CASE_TIMEOUT_S": f"{plan.case_timeout_s:g}",
            # A listener's clock begins earlier and must not end first.
            "TIMEOUT_S": f"{plan.timeout_s + (2 * _MARGIN_S if role == 'listener' else 0):g}",
            "LIFELINE": "stdin",
        }
        if role == "listener":
            told |= {"READY": str(self.folder / "ready")}
            told |= {"TLS_CERTIFICATE": plan.tls.certificate, "TLS_PRIVATE_KEY": plan.tls.private_key}
        else:
            told |= {"TLS_CA": plan.tls.ca or plan.tls.certificate, "TLS_SERVER_NAME": plan.tls.server_name}
        variables = {PREFIX + key: value for key, value in told.items() if value}
        folder = Path(one.folder) if one.folder else None
        log = self.folder / f"{role}.log"
        program = await Program.start(one.command, clean_environment({**one.env, **variables}), log, folder=folder)
        self.programs.append(program)
        return program

    def _file(self, role: str) -> Path:
        return self.folder / f"{role}.json"

    async def _ready(self, listener: Program) -> str | None:
        """The URL that the listener tells; None when it ends first, or is too slow."""
        ready = self.folder / "ready"
        loop = asyncio.get_running_loop()
        until = loop.time() + self.plan.ready_timeout_s
        while listener.status is None and loop.time() < until:
            if ready.exists():
                told = ready.read_text(encoding="utf-8")
                if told.endswith("\n"):  # else somebody is still writing it
                    return told.strip()
            await asyncio.sleep(_POLL_S)
        return None

    def _never_ready(self, listener: Program) -> RunResult:
        said = listener.last_words()
        if listener.status == UNSUPPORTED:
            content = self._read("listener")
            reason = str(content.get("reason") or "") if isinstance(content, dict) else ""
            return self._result("unsupported", f"the listener: {reason or said or 'exit status 127'}")
        if listener.status is None:
            limit = self.plan.ready_timeout_s
            return self._result("failed", f"the listener was not ready within {limit:g} s{_quoted(said)}")
        return self._result("failed", f"the listener ended with {listener.ending()} before it was ready{_quoted(said)}")

    def _cases(self, dialer: Program, status: int | None) -> tuple[list[CaseResult], list[str]]:
        """What the dialer reports of each case, and where it breaks the contract."""
        content = self._read("dialer")
        said = _quoted(dialer.last_words())
        if status is None:
            limit = self.plan.timeout_s + _MARGIN_S
            problems = [f"the dialer did not end within {limit:g} s{said}"]
        elif status not in (PASSED, FAILED, UNSUPPORTED):
            problems = [f"the dialer ended with {dialer.ending()}, which is none of 0, 1 and 127{said}"]
        else:
            problems = []
        if isinstance(content, str):
            if status == UNSUPPORTED:
                reason = f"the dialer: exit status 127{said}"
                names = self.plan.cases
                return [CaseResult(name=name, outcome="unsupported", reason=reason) for name in names], problems
            return [], [*problems, content if problems else f"{content}{said}"]
        try:
            cases = [CaseResult.from_dict(one) for one in content.get("cases", ())]
        except (ConfigError, TypeError, AttributeError) as error:
            return [], [*problems, f"the dialer's result cannot be used: {error}"]
        reported = {case.name for case in cases}
        missing = [name for name in self.plan.cases if name != "all" and name not in reported]
        cases += [CaseResult(name=name, outcome="failed", reason="the dialer did not report it") for name in missing]
        expected = {"passed": PASSED, "failed": FAILED, "unsupported": UNSUPPORTED}[overall(cases)]
        if not problems and not missing and status != expected:
            problems.append(f"the dialer ended with status {status}, its result file stands for {expected}")
        return cases, problems

    def _read(self, role: str) -> dict[str, Any] | str:
        """A result file, or a sentence on what is wrong with it."""
        try:
            content = json.loads(self._file(role).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return f"the {role} wrote no result"
        except ValueError as error:
            return f"the {role}'s result is no JSON: {error}"
        if not isinstance(content, dict) or content.get("contract") != CONTRACT_VERSION:
            return f"the {role}'s result is not of contract {CONTRACT_VERSION}"
        return content


def _quoted(said: str) -> str:
    return f"; its last words: {said}" if said else ""
