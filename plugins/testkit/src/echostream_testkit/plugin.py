"""The pytest plugin: selects the checks that apply, judges known gaps strictly, and writes the report.

A check that a capability rules out is deselected, not skipped: it says nothing about the plugin. A known gap is an
expected failure with its reason, and strict: the day it passes, its entry must go. An entry that names no check, or one
that does not apply, fails.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, Final

import pytest

from echostream_testkit.checks import gap_problems, is_suite, why_not
from echostream_testkit.report import Collector, describe, write_report

__all__ = [
    "Broken",
    "ReportWriter",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_makereport",
]

_OPTION: Final = "conformance_report"
_DESCRIBED: Final = pytest.StashKey[dict[type, dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--conformance-report=FILE.json``."""
    parser.getgroup("echostream").addoption(
        "--conformance-report",
        dest=_OPTION,
        metavar="FILE",
        help="write what the conformance suites found, as JSON, for `python -m echostream_testkit`",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the collector when a report is asked for."""
    config.addinivalue_line(
        "markers", "capability(name, claimed=True): a conformance check of what a plugin claims, or does not claim"
    )
    file = config.getoption(_OPTION, None)
    if file and not hasattr(config, "workerinput"):  # with pytest-xdist, the controller writes
        config.pluginmanager.register(ReportWriter(Path(file)), "echostream-conformance-report")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the checks that do not apply, and mark the known gaps."""
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    judged: dict[type, str] = {}
    for item in items:
        cls = _suite_of(item)
        if cls is None:
            kept.append(item)
            continue
        if cls not in judged:
            judged[cls] = "\n".join(_problems(cls))
            if judged[cls] and item.parent is not None:
                kept.append(Broken.from_parent(item.parent, name="known_gaps", problem=judged[cls]))
        name = _check_name(item)
        try:
            left = bool(why_not(cls, getattr(cls, name, None)))
        except Exception:  # the plugin is broken: each check says so when it runs, in its own words
            left = False
        (left_out if left else kept).append(item)
        gap = getattr(cls, "known_gaps", {}).get(name)
        if gap is not None and not left:
            item.add_marker(pytest.mark.xfail(reason=f"known gap: {gap}", strict=True))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = kept


class Broken(pytest.Item):
    """Stands beside the checks of a class whose ``known_gaps`` are wrong, and fails."""

    def __init__(self, *, problem: str, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]  # what pytest's from_parent passes on
        self._problem = problem

    def runtest(self) -> None:
        """Fail."""
        pytest.fail(self._problem, pytrace=False)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands."""
        return self.path, None, f"{self.parent.name if self.parent else ''}: known_gaps"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the report needs, as plain data: it also passes between processes."""
    report = yield
    cls = _suite_of(item)
    if cls is not None and item.config.getoption(_OPTION, None):
        about: dict[str, object] = {"class": item.nodeid.rpartition("::")[0], "check": _check_name(item)}
        if call.when == "setup":
            described = item.config.stash.setdefault(_DESCRIBED, {})
            if cls not in described:
                described[cls] = describe(cls)
            about["subject"] = described[cls]
        report.conformance = about  # type: ignore[attr-defined]  # reports take what plugins attach, and pass it on
    return report


class ReportWriter:
    """Collects what the checks found, and writes it at the end of the session."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._collector = Collector()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what ``pytest_runtest_makereport`` has attached."""
        about = getattr(report, "conformance", None)
        if about is not None:
            self._collector.add(report, about)

    def pytest_sessionfinish(self) -> None:
        """Write the report."""
        write_report(self._file, self._collector.report())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where it is."""
        terminalreporter.write_line(f"conformance report: {self._file}")


def _suite_of(item: pytest.Item) -> type | None:
    cls = getattr(item, "cls", None)
    return cls if is_suite(cls) else None


def _check_name(item: pytest.Item) -> str:
    return getattr(item, "originalname", None) or item.name


def _problems(cls: type) -> list[str]:
    try:
        return gap_problems(cls)
    except Exception:  # as above
        return []
