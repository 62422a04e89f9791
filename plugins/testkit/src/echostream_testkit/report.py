"""The conformance report: what was tested, in which version, and how each check went; JSON and plain data.

Shape (``format`` 1)::

    {"format": 1, "suite_version": "1.0", "kernel_version": "0.1.0", "python": "3.12.1",
     "classes": [{"class": "tests/test_conformance.py::TestTcp", "kind": "transport", "name": "tcp", "url": "tcp://…",
                  "distribution": "echostream-tcp", "version": "0.1.0", "capabilities": {"reset": true, …} or null,
                  "not_applicable": {"test_x": "why"},
                  "checks": {"test_y": {"outcome": "passed", "reason": "", "duration_s": 0.01}}}]}
"""

from __future__ import annotations

import json
import logging
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from echostream_core.kernel import Kernel
from echostream_testkit.checks import SUITE_VERSION, CheckResult, Outcome, checks_of, why_not

__all__ = ["BadReport", "Collector", "Report", "counts", "describe", "read_report", "table", "write_report"]

Report: TypeAlias = dict[str, Any]

_FORMAT: Final = 1
_ORDER: Final[tuple[Outcome, ...]] = ("failed", "unexpected pass", "known gap", "skipped", "passed", "not applicable")
"""How outcomes are listed: what needs attention first."""

_MOST_REASON: Final = 2_000
_logger = logging.getLogger("echostream.testkit")


class BadReport(ValueError):
    """A file that is no conformance report, or one of another format."""


def describe(cls: type) -> dict[str, Any]:
    """What a suite class tests, as plain data: kind, name, URL, distribution, version, capability record.

    The last is None where the plugin cannot be asked.
    """
    instance = cls()
    kind = str(getattr(cls, "kind", ""))
    url = getattr(cls, "url", None)
    name = url.partition("://")[0] if isinstance(url, str) else str(getattr(cls, "name", ""))
    kernel = Kernel()
    provider = next((plugin for plugin in kernel.plugins() if f"{kind}.{name}" in plugin.provides), None)
    record = getattr(instance, "record", None)
    claimed = None
    left_out: dict[str, str] = {}
    try:
        claimed = record().as_dict() if callable(record) else None
        left_out = {check: why for check, function in checks_of(cls).items() if (why := why_not(cls, function))}
    except Exception:  # the plugin is broken or not there: the checks say so, and the report must not be lost for it
        _logger.debug("%s cannot be described", cls.__name__, exc_info=True)
    return {
        "kind": kind,
        "name": name,
        "url": url,
        "distribution": provider.distribution if provider else None,
        "version": provider.version if provider else None,
        "capabilities": claimed,
        "not_applicable": left_out,
    }


class Collector:
    """Gathers the reports of pytest, of which there are three per check: set-up, call and teardown."""

    def __init__(self) -> None:
        self._classes: dict[str, dict[str, Any]] = {}

    def add(self, report: pytest.TestReport, about: Mapping[str, Any]) -> None:
        """Take one of them; ``about`` is what the plugin has attached to it."""
        found = self._classes.setdefault(about["class"], {"class": about["class"], "checks": {}})
        found.update(about.get("subject", {}))
        if report.when == "call" or report.outcome != "passed":
            result = _result(report)
            before = found["checks"].get(about["check"])
            if before is None or result.outcome == "failed":
                found["checks"][about["check"]] = asdict(result)

    def report(self) -> Report:
        """Everything so far."""
        return {
            "format": _FORMAT,
            "suite_version": SUITE_VERSION,
            "kernel_version": version("echostream-core"),
            "python": platform.python_version(),
            "classes": list(self._classes.values()),
        }


def _result(report: pytest.TestReport) -> CheckResult:
    duration_s = round(report.duration, 4)
    gap = getattr(report, "wasxfail", None)
    if report.skipped and gap is not None:
        return CheckResult("known gap", gap.removeprefix("known gap: "), duration_s)
    if report.failed and report.longreprtext.startswith("[XPASS(strict)]"):
        return CheckResult("unexpected pass", report.longreprtext, duration_s)
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        said = crash.message if crash is not None else report.longreprtext
        where = "" if report.when == "call" else f"{report.when}: "
        return CheckResult("failed", f"{where}{said}"[:_MOST_REASON], duration_s)
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        return CheckResult("skipped", reason.removeprefix("Skipped: "), duration_s)
    return CheckResult("passed", "", duration_s)


def write_report(file: Path, report: Report) -> None:
    """Write it, keys in their order, one check per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_report(file: Path) -> Report:
    """Read it back; BadReport says what is wrong with the file."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadReport(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise BadReport(f"{file} is no JSON: {error}") from error
    if not isinstance(report, dict) or "suite_version" not in report or not isinstance(report.get("classes"), list):
        raise BadReport(f"{file} is no conformance report: make one with pytest --conformance-report={file}")
    if report.get("format") != _FORMAT:
        raise BadReport(f"{file} has the format {report.get('format')!r}; this version reads {_FORMAT}")
    return report


def counts(found: Mapping[str, Any]) -> Counter[str]:
    """How many checks of one class had each outcome."""
    numbers = Counter(check["outcome"] for check in found["checks"].values())
    numbers["not applicable"] = len(found.get("not_applicable", {}))
    return numbers


def table(report: Report, *, everything: bool = False) -> Iterator[str]:
    """The report as lines for people: a summary for each class, then what did not pass; or every check."""
    yield f"suite {report['suite_version']}, echostream-core {report['kernel_version']}, Python {report['python']}"
    for found in report["classes"]:
        numbers = counts(found)
        total = ", ".join(f"{numbers[outcome]} {outcome}" for outcome in reversed(_ORDER) if numbers[outcome])
        subject = found.get("url") or found.get("name") or "?"
        provider = f" ({found['distribution']} {found['version']})" if found.get("distribution") else ""
        yield ""
        yield f"{found.get('kind', '?')} {subject}{provider}: {total}"
        for name, check in sorted(found["checks"].items(), key=lambda item: _ORDER.index(item[1]["outcome"])):
            if everything or check["outcome"] != "passed":
                reason = check["reason"].strip().splitlines()
                yield f"  {check['outcome']:<15}  {name}" + (f"  {reason[0][:160]}" if reason else "")
        if everything:
            yield from (f"  {'not applicable':<15}  {name}  {why}" for name, why in found["not_applicable"].items())
