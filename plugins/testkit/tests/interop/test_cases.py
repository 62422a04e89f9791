"""The cases in one process: each passes against our services, and fails against those that are wrong in its way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from echostream_core import RpcServer
from echostream_testkit.interop.case import CASES
from echostream_testkit.interop.contract import CaseResult, Settings
from echostream_testkit.interop.dialer import CASE_MODULES, run_case
from plugins.testkit.tests.interop.broken_services import BROKEN, InteropServices

_numbers = count(1)
PATIENCE_S = 30.0
HANGS_S = 0.5
"""What a case gets that can only notice what is wrong by waiting for it."""


@asynccontextmanager
async def listening(services: object) -> AsyncIterator[Settings]:
    url = f"memory://interop-{next(_numbers)}"
    health = type(services).__name__ != "IsIll"
    async with RpcServer(url, services, health=health, limits={"cancel_grace_s": 0.05}) as server:
        yield Settings(role="dialer", url=url)
        await server.close(drain=0.0)


async def played(name: str, services: object, timeout_s: float) -> CaseResult:
    async with listening(services) as settings:
        return await run_case(CASES[name], settings, timeout_s)


@pytest.mark.parametrize("name", CASES)
async def test_a_case_passes_against_our_services(name: str) -> None:
    result = await played(name, InteropServices(), PATIENCE_S)
    assert (result.outcome, result.reason) == ("passed", "")


@pytest.mark.parametrize("name", CASES)
async def test_a_case_fails_against_a_listener_that_is_wrong_in_its_way(name: str) -> None:
    result = await played(name, BROKEN[name](), HANGS_S)
    assert result.outcome == "failed"
    assert result.reason


async def test_a_reason_says_what_was_expected_and_what_came() -> None:
    result = await played("sums", BROKEN["sums"](), PATIENCE_S)
    assert result.reason == "sum of 0 numbers: expected 0 (int), got 1 (int)"


async def test_a_case_that_waits_in_vain_says_for_what() -> None:
    result = await played("deadline", BROKEN["deadline"](), HANGS_S)
    assert result.reason.startswith("not finished within 0.5 s; the listener has counted {'started': 1, 'cancelled': 0")


@pytest.mark.parametrize("name", sorted(set(CASES) - {"unknown_method", "health"}))
async def test_a_listener_without_the_services_is_reported_as_unsupported(name: str) -> None:
    result = await played(name, BROKEN["health"](), PATIENCE_S)
    assert result.outcome == "unsupported"
    assert result.reason.startswith("the listener does not offer it: no method 'interop.")


def test_every_case_says_in_a_sentence_what_it_proves() -> None:
    assert len(CASES) >= 15
    for case in CASES.values():
        assert case.summary.endswith("."), case.name
        assert case.run.__module__ in {module.__name__ for module in CASE_MODULES}


def test_the_seed_decides_every_random_value() -> None:
    from echostream_testkit.interop.case import Dial

    def drawn(seed: int, name: str) -> int:
        return Dial(Settings(role="dialer", url="memory://x", seed=seed), name).random.getrandbits(64)

    assert drawn(7, "sums") == drawn(7, "sums")
    assert len({drawn(7, "sums"), drawn(8, "sums"), drawn(7, "echo_bytes")}) == 3
