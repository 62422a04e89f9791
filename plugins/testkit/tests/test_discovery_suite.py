"""The discovery suite passes what is right, and finds each fault by the check that is named for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest

from echostream_core.discovery import Announcement, DiscoverySpec
from echostream_testkit.checks import checks_of
from echostream_testkit.discovery_suite import DiscoveryConformance
from echostream_testkit.spec_checks import SpecChecks
from plugins.testkit.tests.mutations.discovery_mutants import MUTANTS, OPENED, Mutant
from plugins.testkit.tests.reference_discovery import SPEC, DelayedDiscovery, ReferenceAnnouncement, make_spec
from plugins.testkit.tests.running import failure_of


class TestReference(DiscoveryConformance):
    """As a plugin's author writes it, but for a backend that is not installed; on a real loop."""

    name = "reference"
    options: ClassVar[Mapping[str, object]] = {"network": "test"}
    quiet_s = 0.02

    def spec(self) -> DiscoverySpec:
        return SPEC

    async def kill(self, announcement: Announcement) -> None:
        assert isinstance(announcement, ReferenceAnnouncement)
        announcement.kill()


class Virtual(TestReference):
    """The same on a virtual clock, where the usual times cost nothing."""

    __test__ = False
    quiet_s = DiscoveryConformance.quiet_s


@pytest.mark.parametrize("check", checks_of(Virtual))
def test_the_reference_passes_with_the_usual_times(check: str) -> None:
    assert failure_of(Virtual, check) is None


class Slow(Virtual):
    """Changes travel for 0.2 s, as they do in a cluster."""

    def spec(self) -> DiscoverySpec:
        return make_spec(DelayedDiscovery)


@pytest.mark.parametrize("check", checks_of(Slow))
def test_a_slow_medium_passes(check: str) -> None:
    assert failure_of(Slow, check) is None


@pytest.fixture(autouse=True)
def leaked_descriptors_are_closed() -> Iterator[None]:
    yield
    while OPENED:
        os.close(OPENED.pop())


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.fault}: {mutant.caught_by}")
def test_a_fault_is_found_by_the_check_that_names_it(mutant: Mutant) -> None:
    class Subject(Virtual):
        def spec(self) -> DiscoverySpec:
            return mutant.spec

    said = failure_of(Subject, mutant.caught_by)
    assert said is not None, f"{mutant.caught_by} lets a backend pass although {mutant.fault}"
    assert mutant.says in said


def test_every_check_of_its_own_has_a_fault_to_find() -> None:
    shared = {name for name in checks_of(DiscoveryConformance) if name in vars(SpecChecks)}
    assert {mutant.caught_by for mutant in MUTANTS} == {*checks_of(DiscoveryConformance)} - shared


def test_a_backend_that_cannot_be_killed_is_told_so() -> None:
    class Subject(Virtual):
        kill = DiscoveryConformance.kill

    said = failure_of(Subject, "test_suspect_drops_the_dead")
    assert said is not None and "override kill()" in said and "known_gaps" in said
