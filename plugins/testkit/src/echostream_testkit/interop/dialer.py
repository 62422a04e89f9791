"""Our dialer: runs the cases one after the other, each with connections of its own, and reports."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from echostream_core import RpcError
from echostream_testkit.interop import cases_calls, cases_sessions, cases_streams
from echostream_testkit.interop.case import CASES, Case, CaseFailed, Dial, is_missing
from echostream_testkit.interop.contract import (
    CONTRACT_VERSION,
    FAILED,
    PASSED,
    UNSUPPORTED,
    CaseResult,
    Settings,
    implementation,
    overall,
    write_json,
)
from echostream_testkit.interop.listener import NotSupported, check_support, lifeline

__all__ = ["CASE_MODULES", "run_case", "run_dialer"]

CASE_MODULES = (cases_calls, cases_streams, cases_sessions)
"""Importing them is what fills ``CASES``."""

_GRACE_S = 5.0
"""What a case gets to clean up after its time is over."""


async def run_dialer(settings: Settings) -> int:
    """Run the cases that ``settings`` name; the exit status. The result file is written anew after each case."""
    try:
        check_support(settings)
    except NotSupported as error:
        names = list(CASES) if "all" in settings.cases else settings.cases
        results = [CaseResult(name=name, outcome="unsupported", reason=str(error)) for name in names]
        _report(settings, results)
        sys.stderr.write(f"dialer: unsupported: {error}\n")
        return UNSUPPORTED
    me = asyncio.current_task()
    assert me is not None
    results = []
    loop = asyncio.get_running_loop()
    begin = loop.time()
    async with lifeline(settings, me.cancel):
        for name in list(CASES) if "all" in settings.cases else settings.cases:
            left = settings.timeout_s - (loop.time() - begin)
            if name not in CASES:
                result = CaseResult(name=name, outcome="unsupported", reason=f"this dialer has no case {name!r}")
            elif left <= 0:
                reason = f"not begun: the {settings.timeout_s:g} s for all cases are over"
                result = CaseResult(name=name, outcome="failed", reason=reason)
            else:
                result = await run_case(CASES[name], settings, min(left, settings.case_timeout_s))
            results.append(result)
            _report(settings, results)
            reason = f": {result.reason}" if result.reason else ""
            sys.stdout.write(f"{result.outcome} {name} {result.seconds:.2f} s{reason}\n")
            sys.stdout.flush()
    return {"passed": PASSED, "failed": FAILED, "unsupported": UNSUPPORTED}[overall(results)]


async def run_case(case: Case, settings: Settings, timeout_s: float) -> CaseResult:
    """Run one case for at most ``timeout_s``; whatever happens becomes a result."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    task = asyncio.ensure_future(case.run(Dial(settings, case.name)))
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        late = not done
        if late:
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=_GRACE_S)
    finally:
        task.cancel()
    seconds = loop.time() - begin
    if not done:
        reason = f"not finished within {timeout_s:g} s, and did not stop when it was cancelled"
        return CaseResult(name=case.name, outcome="failed", reason=reason, seconds=seconds)
    if late:
        return CaseResult(
            name=case.name, outcome="failed", reason=await _reason_of_lateness(task, timeout_s), seconds=seconds
        )
    error = task.exception()
    if error is None:
        return CaseResult(name=case.name, outcome="passed", seconds=seconds)
    if isinstance(error, RpcError) and is_missing(error):
        reason = f"the listener does not offer it: {error.message}"
        return CaseResult(name=case.name, outcome="unsupported", reason=reason, seconds=seconds)
    return CaseResult(name=case.name, outcome="failed", reason=_reason_of(error), seconds=seconds)


async def _reason_of_lateness(task: asyncio.Future[None], timeout_s: float) -> str:
    """What a case that was cancelled was waiting for, as far as it says so in the notes of its exception."""
    notes: list[str] = []
    try:
        await task
    except asyncio.CancelledError as error:
        notes = getattr(error, "__notes__", [])
    except Exception as error:
        notes = [_reason_of(error)]
    return "; ".join([f"not finished within {timeout_s:g} s", *notes])


def _reason_of(error: BaseException) -> str:
    return str(error) if isinstance(error, CaseFailed) else f"{type(error).__name__}: {error}"


def _report(settings: Settings, results: Sequence[CaseResult]) -> None:
    if settings.result is not None:
        content = {"contract": CONTRACT_VERSION, "role": "dialer", "implementation": implementation()}
        cases = [result.as_dict() for result in results]
        write_json(settings.result, {**content, "outcome": overall(results), "cases": cases})
