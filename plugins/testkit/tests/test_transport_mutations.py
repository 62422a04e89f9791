"""The transport suite passes what is right, and finds each fault by the checks that are named for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from echostream_testkit.checks import applicable, checks_of, run_checks
from echostream_testkit.transport import TransportConformance
from plugins.testkit.tests.mutations.transport_connection_faults import CONNECTION_FAULTS
from plugins.testkit.tests.mutations.transport_datagram_faults import DATAGRAM_FAULTS
from plugins.testkit.tests.mutations.transport_dial_faults import DIAL_FAULTS
from plugins.testkit.tests.mutations.transport_ending_faults import ENDING_FAULTS
from plugins.testkit.tests.mutations.transport_flags import LIES
from plugins.testkit.tests.mutations.transport_mutation import Mutation
from plugins.testkit.tests.mutations.transport_pipe_faults import PIPE_FAULTS
from plugins.testkit.tests.mutations.transport_socket_faults import SOCKET_FAULTS
from plugins.testkit.tests.mutations.transport_spec_faults import SPEC_FAULTS
from plugins.testkit.tests.mutations.transport_subjects import (
    SUBJECTS,
    Subject,
    subject_of,
    tidied,
)
from plugins.testkit.tests.mutations.transport_substream_faults import SUBSTREAM_FAULTS
from plugins.testkit.tests.mutations.transport_wired_faults import WIRED_FAULTS

NATIVE_FAULTS = (*SUBSTREAM_FAULTS, *ENDING_FAULTS, *CONNECTION_FAULTS, *DATAGRAM_FAULTS, *DIAL_FAULTS)
MUTATIONS = (*NATIVE_FAULTS, *PIPE_FAULTS, *SOCKET_FAULTS, *WIRED_FAULTS, *SPEC_FAULTS)

UNTOUCHED = "test_addresses_of_two_listeners_differ"
"""A check that no fault of the native transport touches but those of listeners: who fails it does not run at all."""

BUGS = ("AttributeError", "NameError", "UnboundLocalError", "KeyError", "IndexError")
"""With these a mutant would fail because it is badly written, and prove nothing."""

UNPROVED: frozenset[str] = frozenset()
"""Checks that no mutation proves."""

METADATA = "Metadata-Version: 2.4\nName: conformance-subjects\nVersion: 1.0\n"
MODULES = "plugins.testkit.tests.mutations.transport_"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes that get our path find the two transports on sockets, as distributions that are installed."""
    info = tmp_path / "conformance_subjects-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA, encoding="utf-8")
    entries = f"plain = {MODULES}pipe\nwired = {MODULES}wired\n"
    (info / "entry_points.txt").write_text(
        f"[echostream.v1.plugins]\n{entries}[echostream.v1.transports]\n{entries}", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[3])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", SUBJECTS)
def test_a_correct_transport_passes_every_check(name: str) -> None:
    patient = subject_of(SUBJECTS[name].tested, patience_s=20.0)
    with tidied(patient.tested):
        results = run_checks(patient)
    failed = {check: result.reason for check, result in results.items() if result.outcome != "passed"}
    assert not failed
    assert results.keys() == set(applicable(patient))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.spec.scheme} {mutation.name}")
def test_a_fault_is_found_by_the_checks_that_name_it(mutation: Mutation) -> None:
    native = mutation in NATIVE_FAULTS
    control = {UNTOUCHED} - set(mutation.caught_by) if native else set()
    # Whoever waits for what a fault on real sockets never does shall not wait long: to fail is what is expected.
    subject = subject_of(mutation.spec) if native else subject_of(mutation.spec, patience_s=0.5)
    with tidied(mutation.spec):
        results = run_checks(subject, only={*mutation.caught_by, *control})
    assert results.keys() == {*mutation.caught_by, *control}, "a check does not apply to this transport"
    found = {check: result.reason for check, result in results.items() if result.outcome == "failed"}
    survived = set(mutation.caught_by) - found.keys()
    assert not survived, f"a transport that {mutation.name} passes {', '.join(sorted(survived))}"
    assert not found.keys() & control, found
    assert not [reason for reason in found.values() if reason.startswith(BUGS)]


def test_every_check_has_a_fault_or_a_lie_that_it_finds() -> None:
    proved = {check for mutation in MUTATIONS for check in mutation.caught_by}
    proved |= {check for lie in LIES for check in lie.caught_by}
    unproved = checks_of(TransportConformance).keys() - proved
    assert sorted(unproved) == sorted(UNPROVED)


def test_names_of_mutations_are_unique() -> None:
    names = [(mutation.spec.scheme, mutation.name) for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
    assert issubclass(subject_of(MUTATIONS[0].spec), Subject)
