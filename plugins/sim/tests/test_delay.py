from __future__ import annotations

import random
from collections.abc import Callable
from math import exp, sqrt
from statistics import fmean, median, stdev

import pytest

from echostream_core.errors import ConfigError
from echostream_sim.delay import DelayModel, Exponential, LogNormal, Normal, Trace, Uniform

PACKETS = 50_000


def extras(model: DelayModel, packets: int = PACKETS) -> list[float]:
    process = model.process(random.Random(5))
    return [process(number * 0.01) for number in range(packets)]


def test_normal_jitter_has_its_deviation_and_no_mean() -> None:
    found = extras(Normal(0.002))
    assert fmean(found) == pytest.approx(0.0, abs=4 * 0.002 / sqrt(PACKETS))
    assert stdev(found) == pytest.approx(0.002, rel=0.02)


def test_log_normal_jitter_has_its_median_and_its_tail() -> None:
    found = sorted(extras(LogNormal(0.003, sigma=0.5)))
    assert found[0] > 0.0
    assert median(found) == pytest.approx(0.003, rel=0.02)
    # The 84.13 % quantile of a normal distribution is one deviation from its middle.
    assert found[round(0.8413 * PACKETS)] == pytest.approx(0.003 * exp(0.5), rel=0.02)


def test_exponential_jitter_has_its_mean_and_as_large_a_deviation() -> None:
    found = extras(Exponential(0.030))
    assert min(found) >= 0.0
    assert fmean(found) == pytest.approx(0.030, rel=0.02)
    assert stdev(found) == pytest.approx(0.030, rel=0.02)


def test_uniform_jitter_keeps_to_its_bounds() -> None:
    found = extras(Uniform(0.001, 0.004))
    assert 0.001 <= min(found) < 0.00101
    assert 0.00399 < max(found) <= 0.004


def test_a_trace_holds_each_point_until_the_next() -> None:
    process = Trace([(0.0, 0.010), (1.0, 0.200), (2.5, 0.0)]).process(random.Random(0))
    assert [process(at) for at in (0.0, 0.999, 1.0, 2.4, 2.5, 1e6)] == [0.010, 0.010, 0.200, 0.200, 0.0, 0.0]


def test_a_trace_with_a_period_begins_again() -> None:
    process = Trace([(0.0, 0.010), (1.0, 0.200)], period_s=2.0).process(random.Random(0))
    assert [process(at) for at in (1.5, 2.0, 3.0, 4.5)] == [0.200, 0.010, 0.200, 0.010]


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("std_s", lambda: Normal(-1.0)),
        ("median_s", lambda: LogNormal(0.0)),
        ("sigma", lambda: LogNormal(0.1, sigma=float("inf"))),
        ("mean_s", lambda: Exponential(0.0)),
        ("high_s", lambda: Uniform(0.2, 0.1)),
        ("period_s", lambda: Trace([(0.0, 0.1), (2.0, 0.1)], period_s=2.0)),
    ],
)
def test_a_wrong_setting_is_named(field: str, make: Callable[[], DelayModel]) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        make()
    assert caught.value.key == field


@pytest.mark.parametrize(
    "points",
    [[], [(1.0, 0.1)], [(0.0, 0.1), (0.0, 0.2)], [(0.0, -0.1)]],
    ids=["none", "late beginning", "one moment twice", "negative"],
)
def test_wrong_points_of_a_trace_are_refused(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match="points"):
        Trace(points)
