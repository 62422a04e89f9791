from __future__ import annotations

import random

import pytest

from echostream_core.errors import ConfigError
from echostream_sim.clocks import EPOCH_S, Clock
from echostream_sim.network import Network


class Truth:
    """The network's time, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def started(clock: Clock, seed: int = 0) -> Truth:
    truth = Truth()
    clock.start(truth, random.Random(seed))
    return truth


def test_a_right_clock_shows_the_truth() -> None:
    clock = Clock()
    truth = started(clock)
    truth.now = 12.5
    assert clock.monotonic() == 12.5
    assert clock.time() == EPOCH_S + 12.5
    assert clock.time_ns() == EPOCH_S * 10**9 + 12_500_000_000
    assert clock.error_s() == 0.0


def test_an_offset_is_the_wall_clocks_alone() -> None:
    clock = Clock(offset_s=0.02)
    truth = started(clock)
    truth.now = 1.0
    assert clock.monotonic() == 1.0
    assert clock.time_ns() == EPOCH_S * 10**9 + 1_020_000_000


def test_drift_adds_up_in_both_clocks() -> None:
    clock = Clock(drift_ppm=50)
    truth = started(clock)
    truth.now = 1000.0
    assert clock.monotonic() == pytest.approx(1000.05, abs=1e-12)
    assert clock.monotonic_ns() == 1_000_050_000_000
    assert clock.error_s() == pytest.approx(0.05, abs=1e-12)


def test_a_new_drift_changes_the_speed_and_not_the_reading() -> None:
    clock = Clock(drift_ppm=50)
    truth = started(clock)
    truth.now = 300.0
    before = clock.monotonic()
    clock.drift_ppm = -80
    assert clock.monotonic() == before
    truth.now = 400.0
    assert clock.monotonic() == pytest.approx(400.0 + 300 * 50e-6 - 100 * 80e-6, abs=1e-12)


def test_a_step_moves_the_wall_clock_and_never_the_monotonic_one() -> None:
    clock = Clock()
    truth = started(clock)
    truth.now = 60.0
    clock.step(-3600.0)
    assert clock.time_ns() == (EPOCH_S + 60 - 3600) * 10**9
    assert clock.monotonic() == 60.0
    assert clock.error_s() == -3600.0


def test_a_wandering_clock_is_the_same_however_often_it_is_read() -> None:
    rarely, often = Clock(wander_ppm=5.0), Clock(wander_ppm=5.0)
    truth_of_rarely, truth_of_often = started(rarely), started(often)
    for number in range(5001):
        truth_of_often.now = number * 0.02
        often.monotonic()
    truth_of_rarely.now = truth_of_often.now
    # Reading between the steps of the walk must not take part in it.
    assert rarely.monotonic_ns() == often.monotonic_ns()
    assert rarely.error_s() != 0.0


def test_the_drift_of_a_wandering_clock_spreads_as_the_square_root_of_time() -> None:
    drifts = []
    for seed in range(400):
        clock = Clock(wander_ppm=2.0)
        truth = started(clock, seed)
        truth.now = 100.0
        drifts.append(clock.drift_ppm)
    variance = sum(drift**2 for drift in drifts) / len(drifts)
    assert variance == pytest.approx(100 * 2.0**2, rel=0.3)


def test_the_monotonic_clock_never_goes_back_whatever_happens() -> None:
    clock = Clock(wander_ppm=100_000.0, drift_ppm=-400_000)
    truth = started(clock)
    readings = []
    for number in range(500):
        truth.now = number * 0.3
        if number % 7 == 0:
            clock.step(-1.0)
        readings.append(clock.monotonic())
    assert readings == sorted(readings)


def test_each_host_has_a_clock_of_its_own() -> None:
    network = Network(3)
    clock = Clock(offset_s=1.0)
    assert network.host("wrong", clock=clock).clock is clock
    assert network.host("right").clock.error_s() == 0.0
    with pytest.raises(ConfigError, match="belongs to a host already"):
        network.host("other", clock=clock)


def test_a_clock_without_a_host_says_what_it_needs() -> None:
    with pytest.raises(RuntimeError, match="pass it to network"):
        Clock().time()


@pytest.mark.parametrize(
    ("field", "value"), [("offset_s", float("nan")), ("drift_ppm", 600_000.0), ("wander_ppm", -1.0)]
)
def test_a_wrong_setting_is_named(field: str, value: float) -> None:
    settings = {field: value}
    with pytest.raises(ConfigError, match=field):
        Clock(**settings)
