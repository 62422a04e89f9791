"""The assembly budget: never exceeded, in turn, and all of it comes back."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echostream_core.engine.assembly import AssemblyBudget, Reservation


class Claims:
    """Reservations by name, and the order in which they were granted later."""

    def __init__(self, total: int) -> None:
        self.budget = AssemblyBudget(total)
        self.granted_later: list[str] = []

    def claim(self, name: str, size: int) -> Reservation:
        return self.budget.reserve(size, lambda: self.granted_later.append(name))


def test_what_fits_is_granted_at_once() -> None:
    claims = Claims(100)
    assert claims.claim("a", 60).granted
    assert claims.claim("b", 40).granted
    assert claims.budget.used == 100
    assert claims.granted_later == []


def test_what_does_not_fit_waits_for_a_release() -> None:
    claims = Claims(100)
    first = claims.claim("a", 80)
    second = claims.claim("b", 30)
    assert not second.granted
    assert claims.budget.used == 80
    first.release()
    assert second.granted
    assert claims.granted_later == ["b"]
    assert claims.budget.used == 30


def test_a_small_claim_does_not_overtake_a_large_one_that_waits() -> None:
    claims = Claims(100)
    first = claims.claim("a", 80)
    claims.claim("large", 100)
    small = claims.claim("small", 1)
    assert not small.granted
    first.release()
    assert claims.granted_later == ["large"]


def test_leaving_the_queue_lets_those_behind_through() -> None:
    claims = Claims(100)
    claims.claim("a", 80)
    large = claims.claim("large", 100)
    small = claims.claim("small", 20)
    large.release()
    assert small.granted
    assert claims.budget.used == 100


def test_releasing_twice_gives_back_once() -> None:
    claims = Claims(100)
    claim = claims.claim("a", 60)
    claim.release()
    claim.release()
    assert claims.budget.used == 0


def test_a_release_inside_a_grant_is_safe() -> None:
    budget = AssemblyBudget(10)
    first = budget.reserve(10, lambda: None)
    granted: list[str] = []

    def release_at_once() -> None:
        granted.append("second")
        second.release()

    second = budget.reserve(10, release_at_once)
    third = budget.reserve(10, lambda: granted.append("third"))
    first.release()
    assert granted == ["second", "third"]
    assert third.granted
    assert budget.used == 10


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 20)), max_size=40))
def test_it_is_never_exceeded_and_all_of_it_returns(moves: list[tuple[int, int]]) -> None:
    claims = Claims(100)
    held: list[Reservation] = []
    for number, (size, released) in enumerate(moves):
        held.append(claims.claim(str(number), size))
        assert 0 <= claims.budget.used <= 100
        assert claims.budget.used == sum(claim.size for claim in held if claim.granted and claim.held)
        if released < len(held):
            held[released].release()
    for claim in held:
        claim.release()
    assert claims.budget.used == 0
