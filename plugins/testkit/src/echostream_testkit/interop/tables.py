"""What came of a matrix, for people and for programs: a table on the terminal, Markdown, JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from echostream_testkit.interop.contract import CONTRACT_VERSION
from echostream_testkit.interop.plan import Plan, scheme_of
from echostream_testkit.interop.runs import RunResult

__all__ = ["as_data", "as_markdown", "as_text", "line_of", "succeeded"]

_HEAD: Final = ("listener", "dialer")
_SHOWN: Final = 4
"""Of one case, this many failures are told in full: what is broken everywhere has one reason."""


def succeeded(runs: Sequence[RunResult]) -> bool:
    """True when no run failed and at least one passed: a matrix in which nothing was tried proves nothing."""
    outcomes = {run.outcome for run in runs}
    return "failed" not in outcomes and "passed" in outcomes


def line_of(run: RunResult) -> str:
    """One run in one line: as it is printed when it ends."""
    pairing = run.pairing
    over = f"{pairing.transport}/{pairing.codec}"
    where = f"{pairing.listener} <- {pairing.dialer}  {over}"
    reason = f"  {run.reason}" if run.reason else ""
    return f"{run.outcome:<11} {where}  {counts_of([run])}  {run.seconds:.1f} s{reason}"


def counts_of(runs: Sequence[RunResult]) -> str:
    """``72/72``: cases passed of those that were tried; what is not supported or went wrong as a whole follows."""
    passed = sum(run.count("passed") for run in runs)
    failed = sum(run.count("failed") for run in runs)
    unsupported = sum(run.count("unsupported") for run in runs)
    broken = sum(run.outcome == "failed" and not run.count("failed") for run in runs)
    absent = sum(run.outcome == "unsupported" and not run.cases for run in runs)
    parts = [f"{passed}/{passed + failed}"] if passed or failed else []
    parts += [f"{unsupported} unsupported"] if unsupported else []
    parts += [f"{absent} not supported at all"] if absent else []
    parts += [f"{broken} broken off"] if broken else []
    return ", ".join(parts) or "nothing"


def as_text(plan: Plan, runs: Sequence[RunResult]) -> str:
    """A table in columns, then every failure in a line of its own."""
    table = _table(plan, runs)
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    failures = [f"  {place}: {reason}" for place, reason in _troubles(runs, "failed")]
    if failures:
        lines += ["", "Failed:", *failures]
    missing = [f"  {place}: {reason}" for place, reason in _troubles(runs, "unsupported")]
    if missing:
        lines += ["", "Not supported:", *missing]
    return "\n".join([*lines, "", _sentence(runs), ""])


def as_markdown(plan: Plan, runs: Sequence[RunResult]) -> str:
    """The same table as Markdown, with who was crossed, and lists of what failed or is not supported."""
    lines = ["| name | program | version | runtime |", "|---|---|---|---|"]
    for name, described in _described(plan, runs).items():
        lines.append(f"| {name} | {described['name']} | {described['version']} | {described['runtime']} |")
    table = _table(plan, runs)
    lines += ["", *_markdown_rows(table[:1]), "|---" * len(table[0]) + "|", *_markdown_rows(table[1:])]
    for title, outcome in (("Failed", "failed"), ("Not supported", "unsupported")):
        troubles = _troubles(runs, outcome)
        if troubles:
            lines += ["", f"{title}:", "", *(f"- {place}: {reason}" for place, reason in troubles)]
    return "\n".join([*lines, "", _sentence(runs), ""])


def as_data(plan: Plan, runs: Sequence[RunResult]) -> dict[str, object]:
    """Everything, for the JSON file."""
    return {
        "contract": CONTRACT_VERSION,
        "transports": [scheme_of(transport) for transport in plan.transports],
        "codecs": list(plan.codecs),
        "cases": list(plan.cases),
        "seed": plan.seed,
        "implementations": _described(plan, runs),
        "succeeded": succeeded(runs),
        "totals": {"runs": dict(Counter(run.outcome for run in runs)), "cases": _case_totals(runs)},
        "runs": [run.as_dict() for run in runs],
    }


def _table(plan: Plan, runs: Sequence[RunResult]) -> list[list[str]]:
    """A row per listener and dialer, a column per transport, codecs summed up in the cells."""
    schemes = list(dict.fromkeys(scheme_of(transport) for transport in plan.transports))
    rows = [[*_HEAD, *schemes]]
    for listener, dialer in dict.fromkeys((run.pairing.listener, run.pairing.dialer) for run in runs):
        cells = []
        for scheme in schemes:
            among = [
                run
                for run in runs
                if (run.pairing.listener, run.pairing.dialer, run.pairing.transport) == (listener, dialer, scheme)
            ]
            cells.append(counts_of(among))
        rows.append([listener, dialer, *cells])
    return rows


def _markdown_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _troubles(runs: Sequence[RunResult], outcome: str) -> list[tuple[str, str]]:
    """What has this outcome and why: runs as a whole by their reason, and each case with the runs it has it in."""
    whole: dict[str, list[str]] = {}
    by_case: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        pairing = run.pairing
        place = f"{pairing.listener} <- {pairing.dialer}, {pairing.transport}, {pairing.codec}"
        cases = [case for case in run.cases if case.outcome == outcome]
        if run.outcome == outcome and run.reason and not (outcome == "unsupported" and cases):
            whole.setdefault(run.reason, []).append(place)
        if len(cases) > 1 and len({case.reason for case in cases}) == 1:
            whole.setdefault(f"{len(cases)} cases: {cases[0].reason}", []).append(place)
        else:
            for case in cases:
                by_case.setdefault(case.name, []).append((place, case.reason))
    found = [(_among(places), reason) for reason, places in whole.items()]
    for name, places in by_case.items():
        found += [(f"{name}, {place}", reason) for place, reason in places[:_SHOWN]]
        if len(places) > _SHOWN:
            found.append((name, f"and in {len(places) - _SHOWN} more runs"))
    return found


def _among(places: Sequence[str]) -> str:
    more = f" and {len(places) - 1} more runs" if len(places) > 1 else ""
    return places[0] + more


def _described(plan: Plan, runs: Sequence[RunResult]) -> dict[str, dict[str, str]]:
    """What each implementation says of itself; "?" for one that never wrote a result."""
    found = {name: dict.fromkeys(("name", "version", "runtime"), "?") for name in plan.implementations}
    for run in runs:
        for role, name in (("listener", run.pairing.listener), ("dialer", run.pairing.dialer)):
            found[name] |= run.implementations.get(role, {})
    for name, one in plan.implementations.items():
        if one.version:
            found[name]["version"] = one.version
    return found


def _case_totals(runs: Sequence[RunResult]) -> dict[str, int]:
    return dict(Counter(case.outcome for run in runs for case in run.cases))


def _sentence(runs: Sequence[RunResult]) -> str:
    ended = Counter(run.outcome for run in runs)
    cases = _case_totals(runs)
    parts = [f"{ended[outcome]:,} {outcome}" for outcome in ("passed", "failed", "unsupported") if ended[outcome]]
    counted = [f"{cases[outcome]:,} {outcome}" for outcome in ("passed", "failed", "unsupported") if outcome in cases]
    return (
        f"{len(runs):,} run{'s' if len(runs) != 1 else ''}: {', '.join(parts)}; cases: {', '.join(counted) or 'none'}."
    )
