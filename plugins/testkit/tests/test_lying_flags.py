"""A transport that lies about one capability fails that flag's checks, and no others; the same one, honest, fails none.

This is what makes the suite's answer useful: the name of the failing check is the name of the wrong claim.
"""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest

from echostream_core.capabilities import Capabilities
from echostream_testkit.checks import CheckResult, applicable, checks_of, needs_of, run_checks
from echostream_testkit.transport import TransportConformance
from plugins.testkit.tests.mutations.transport_flags import CLAIMS, DISHONEST, LIES, MODESTIES, Lie
from plugins.testkit.tests.mutations.transport_subjects import SUBJECTS, Subject, subject_of, tidied

DEAR = {"test_import_budget", "test_in_process_absent_can_be_dialled_from_another_process"}
"""Checks that start an interpreter: only where the lie is about them, and for honest transports in
``test_transport_mutations.py``."""

PARTIAL = [
    lie
    for lie in (*CLAIMS, *MODESTIES)
    if lie.truth not in [subject.tested.capabilities for subject in SUBJECTS.values()]
]
"""Lies whose honest transport is not one of the three that are tested as they are."""


def run(subject: type[Subject], *dear: str) -> dict[str, CheckResult]:
    """The whole suite; of what is dear only what is named."""
    with tidied(subject.tested):
        return run_checks(subject, only=[name for name in applicable(subject) if name not in DEAR or name in dear])


def flags_of(check: str) -> set[str]:
    """The capabilities that a check proves."""
    return {need.key for need in needs_of(checks_of(TransportConformance)[check]) if need.flag}


def name_of(lie: Lie) -> str:
    """The test's id."""
    return lie.name


@pytest.mark.parametrize("lie", LIES, ids=name_of)
def test_a_lie_fails_its_flags_checks_and_no_others(lie: Lie) -> None:
    subject = subject_of(lie.lying())
    if DEAR.intersection(lie.caught_by):  # another process does not know a virtual clock
        subject = subject_of(lie.lying(), loop_factory=asyncio.new_event_loop, patience_s=20.0)
    results = run(subject, *lie.caught_by)
    failed = {check: result.reason for check, result in results.items() if result.outcome != "passed"}
    assert failed.keys() >= set(lie.caught_by)
    strangers = {check: reason for check, reason in failed.items() if lie.field not in flags_of(check)}
    assert not strangers


@pytest.mark.parametrize("lie", PARTIAL, ids=name_of)
def test_the_same_transport_with_an_honest_record_passes(lie: Lie) -> None:
    results = run(subject_of(lie.honest()))
    failed = {check: result.reason for check, result in results.items() if result.outcome != "passed"}
    assert not failed


def test_every_capability_is_lied_about_in_both_directions() -> None:
    every = {field.name for field in fields(Capabilities)}
    assert {lie.field for lie in CLAIMS} == every
    assert {lie.field for lie in (*MODESTIES, *DISHONEST)} == every - {"migration"}, (
        "what survives a change of address is a protocol of its own"
    )


def test_a_flags_checks_carry_its_name() -> None:
    for check in checks_of(TransportConformance):
        for flag in flags_of(check):
            assert check.startswith(f"test_{flag}_") or len(flags_of(check)) > 1, (check, flag)
