"""The middleware suite passes what is right, and finds each fault by the check that is named for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import ClassVar

import pytest

from echostream_core.errors import RpcError, StatusCode
from echostream_core.middleware import Call, Handler, MiddlewareSpec, Reply
from echostream_testkit.checks import applicable, checks_of
from echostream_testkit.middleware_suite import MiddlewareConformance
from echostream_testkit.spec_checks import SpecChecks
from plugins.testkit.tests.mutations.middleware_mutants import MUTANTS, AddsMetadata, Mutant
from plugins.testkit.tests.reference_middleware import SPEC, ReferenceMiddleware, make_spec
from plugins.testkit.tests.running import failure_of


class TestReference(MiddlewareConformance):
    """As a plugin's author writes it, but for a middleware that is not installed."""

    name = "reference"

    def spec(self) -> MiddlewareSpec:
        return SPEC


class TestDeclaredChange(MiddlewareConformance):
    """A middleware that changes something passes when it says so."""

    name = "reference"
    changes: ClassVar[Collection[str]] = {"metadata": "adds a trace id"}

    def spec(self) -> MiddlewareSpec:
        return make_spec(AddsMetadata)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.fault}: {mutant.caught_by}")
def test_a_fault_is_found_by_the_check_that_names_it(mutant: Mutant) -> None:
    class Subject(TestReference):
        changes = mutant.changes

        def spec(self) -> MiddlewareSpec:
            return mutant.spec

    said = failure_of(Subject, mutant.caught_by)
    assert said is not None, f"{mutant.caught_by} lets a middleware pass although {mutant.fault}"
    assert mutant.says in said


def test_a_middleware_for_clients_is_tested_on_clients_only() -> None:
    class Subject(TestReference):
        sides = ("client",)

        def spec(self) -> MiddlewareSpec:
            return make_spec(ServerBreaker)

    left_out = set(checks_of(Subject)) - set(applicable(Subject))
    assert left_out == {"test_streams_pass"}
    assert not [said for check in applicable(Subject) if (said := failure_of(Subject, check))]


class ServerBreaker(ReferenceMiddleware):
    async def __call__(self, call: Call, following: Handler) -> Reply:
        assert call.side == "client"
        return await super().__call__(call, following)


class Retrying(ReferenceMiddleware):
    """Tries again what failed in a way that may pass: not the ordinary call, and no error of its own."""

    async def __call__(self, call: Call, following: Handler) -> Reply:
        for attempt in range(2):
            try:
                return await following(call)
            except RpcError as error:
                if not error.retryable:
                    raise
            await asyncio.sleep(0.1 * (attempt + 1))
        return await following(call)


class Guarding(ReferenceMiddleware):
    """Lets pass who shows a token, and says who it was."""

    async def __call__(self, call: Call, following: Handler) -> Reply:
        if ("conformance-token", "secret") not in call.metadata:
            raise RpcError(StatusCode.UNAUTHENTICATED, "send the metadata conformance-token")
        call.state["who"] = "somebody"
        return await following(call)


@pytest.mark.parametrize("check", checks_of(MiddlewareConformance))
def test_a_middleware_that_tries_again_passes(check: str) -> None:
    class Subject(TestReference):
        def spec(self) -> MiddlewareSpec:
            return make_spec(Retrying)

    assert failure_of(Subject, check) is None


@pytest.mark.parametrize("check", checks_of(MiddlewareConformance))
def test_a_middleware_that_demands_metadata_passes_when_the_class_says_so(check: str) -> None:
    class Subject(TestReference):
        metadata = (("conformance-token", "secret"),)
        changes: ClassVar[Collection[str]] = {"state": "says who it was"}

        def spec(self) -> MiddlewareSpec:
            return make_spec(Guarding)

    assert failure_of(Subject, check) is None


def test_every_check_of_its_own_has_a_fault_to_find() -> None:
    shared = {name for name in checks_of(MiddlewareConformance) if name in vars(SpecChecks)}
    assert {mutant.caught_by for mutant in MUTANTS} == {*checks_of(MiddlewareConformance)} - shared
