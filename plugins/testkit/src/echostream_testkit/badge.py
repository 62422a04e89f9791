"""Badges for a README: one image per certified class, from a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from echostream_testkit.report import Report, counts

__all__ = ["badge", "badge_row"]

_SERVICE: Final = "https://img.shields.io/badge"


def badge_row(report: Report) -> str:
    """One line of Markdown with a badge for each class."""
    return " ".join(badge(found, report["suite_version"]) for found in report["classes"])


def badge(found: Mapping[str, Any], suite_version: str) -> str:
    """The badge of one class: green when everything passed, yellow with known gaps, red with failures.

    What was skipped or does not apply is not counted. The text says how many checks of how many passed.
    """
    numbers = counts(found)
    failed = numbers["failed"] + numbers["unexpected pass"]
    gaps = numbers["known gap"]
    total = numbers["passed"] + failed + gaps
    said = f"{numbers['passed']}/{total} passed"
    if gaps:
        said += f", {gaps} known {'gap' if gaps == 1 else 'gaps'}"
    colour = "red" if failed or not total else "yellow" if gaps else "brightgreen"
    label = f"{found.get('kind', '')} {found.get('name', '')} conformance {suite_version}"
    return f"![{label}: {said}]({_SERVICE}/{_escaped(label)}-{_escaped(said)}-{colour})"


def _escaped(text: str) -> str:
    """As the badge service reads it: doubled dashes and underscores, then percent-encoded."""
    return quote(text.replace("-", "--").replace("_", "__"), safe="")
