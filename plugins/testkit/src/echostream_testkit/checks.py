"""Checks: what they depend on, which of them apply to a plugin, and how to run them without pytest.

A check is a method ``test_…`` of a suite class. It may depend on what the plugin claims:
``@capability("reset")`` runs it where the claim is made, ``@capability("reset", claimed=False)`` where it is not.
A class names what it cannot do yet in ``known_gaps``: such a check must fail, else the entry is out of date.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

import pytest

__all__ = [
    "SUITE_VERSION",
    "CheckResult",
    "Need",
    "Outcome",
    "applicable",
    "capability",
    "checks_of",
    "gap_problems",
    "is_suite",
    "needs",
    "needs_of",
    "run_checks",
    "why_not",
]

SUITE_VERSION: Final = "1.0"
"""Version of the suites, in reports and badges: the minor rises with new checks, the major when one changes meaning."""

Outcome = Literal["passed", "failed", "known gap", "unexpected pass", "skipped", "not applicable"]

F = TypeVar("F", bound=Callable[..., object])

_NEEDS: Final = "echostream_needs"


@dataclass(frozen=True, slots=True)
class Need:
    """What a check depends on: ``name`` or ``name=level``; ``claimed`` False: on its absence, None: on neither."""

    name: str
    claimed: bool | None = True
    flag: bool = True
    """Whether the check proves this claim. False: it only cannot do without it."""

    @property
    def key(self) -> str:
        """The capability's field, without a level."""
        return self.name.partition("=")[0]


def capability(name: str, *, claimed: bool | None = True) -> Callable[[F], F]:
    """The check proves the capability ``name`` (or ``name=level``): run it only where that is claimed.

    ``claimed=False``: it proves the absence, run it where nothing is claimed; None: it holds either way.
    """
    return _with(Need(name, claimed), pytest.mark.capability(name, claimed=claimed))


def needs(name: str) -> Callable[[F], F]:
    """The check is about something else, but cannot be made without ``name``: run it only where that is there."""
    return _with(Need(name, flag=False))


def _with(need: Need, *marks: pytest.MarkDecorator) -> Callable[[F], F]:
    def mark(function: F) -> F:
        setattr(function, _NEEDS, (*needs_of(function), need))
        for decorate in marks:
            decorate(function)
        return function

    return mark


def needs_of(function: object) -> tuple[Need, ...]:
    """What a check depends on."""
    found = getattr(function, _NEEDS, ())
    return found if isinstance(found, tuple) else ()


def is_suite(cls: object) -> bool:
    """Whether ``cls`` is a class of one of the suites: it says its ``kind`` and its ``known_gaps``."""
    return isinstance(cls, type) and hasattr(cls, "known_gaps") and isinstance(getattr(cls, "kind", None), str)


def checks_of(cls: type) -> dict[str, Callable[..., object]]:
    """The checks of a suite class by name, in the order of their definition."""
    found: dict[str, Callable[..., object]] = {}
    for base in cls.__mro__:
        for name, member in vars(base).items():
            if name.startswith("test_") and callable(member):
                found.setdefault(name, member)
    return found


def why_not(cls: type, function: object) -> str:
    """Why a check does not apply to what ``cls`` tests; "" when it does.

    A class whose checks depend on something has a method ``claims(name)``, True where ``name`` is there.
    """
    wanted = [need for need in needs_of(function) if need.claimed is not None]
    claims = getattr(cls(), "claims", None) if wanted else None
    if claims is None:
        return ""
    for need in wanted:
        if bool(claims(need.name)) is not need.claimed:
            return (
                f"{need.name} is {'not ' if need.claimed else ''}claimed" if need.flag else f"there is no {need.name}"
            )
    return ""


def applicable(cls: type) -> list[str]:
    """The names of the checks that apply to what ``cls`` tests."""
    return [name for name, function in checks_of(cls).items() if not why_not(cls, function)]


def gap_problems(cls: type) -> list[str]:
    """Sentences on entries of ``known_gaps`` that mean nothing; empty when all do."""
    gaps: Mapping[str, str] = getattr(cls, "known_gaps", {})
    known = checks_of(cls)
    problems = []
    for name, reason in gaps.items():
        if name not in known:
            problems.append(f"known_gaps[{name!r}]: the suite has no check of that name; remove the entry")
        elif why := why_not(cls, known[name]):
            problems.append(f"known_gaps[{name!r}]: the check does not apply ({why}); remove the entry")
        if not reason.strip():
            problems.append(f"known_gaps[{name!r}]: write the reason")
    return problems


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check went. ``reason`` is the failure, the gap's or the skip's reason, else ""."""

    outcome: Outcome
    reason: str = ""
    duration_s: float = 0.0


def run_checks(cls: type, *, only: Iterable[str] | None = None) -> dict[str, CheckResult]:
    """Run the checks of ``cls`` that apply, in this process, without pytest; ``only`` restricts them by name.

    Each gets an instance of its own. Known gaps are judged as pytest judges them. Not from a running event loop.
    """
    wanted = None if only is None else set(only)
    found = checks_of(cls)
    if wanted is not None and not wanted <= found.keys():
        raise ValueError(f"the suite has no {', '.join(sorted(wanted - found.keys()))}")
    return {
        name: _run(cls, name, function)
        for name, function in found.items()
        if (wanted is None or name in wanted) and not why_not(cls, function)
    }


def _run(cls: type, name: str, function: Callable[..., object]) -> CheckResult:
    gap: str | None = getattr(cls, "known_gaps", {}).get(name)
    began = time.perf_counter()
    failure: str | None = None
    try:
        instance = cls()
        if inspect.iscoroutinefunction(function):
            asyncio.run(function(instance))
        else:
            function(instance)
    except pytest.skip.Exception as skipped:
        return CheckResult("skipped", str(skipped), time.perf_counter() - began)
    except (Exception, pytest.fail.Exception) as error:  # whatever a plugin under test raises is the answer
        failure = f"{type(error).__name__}: {error}"
    took_s = time.perf_counter() - began
    if gap is not None:
        return CheckResult("known gap" if failure else "unexpected pass", gap, took_s)
    return CheckResult("failed", failure, took_s) if failure is not None else CheckResult("passed", "", took_s)
