from __future__ import annotations

import random
from itertools import groupby
from math import sqrt

import pytest

from echostream_core.errors import ConfigError
from echostream_sim.loss import Chosen, GilbertElliott, GilbertElliottTime, LossModel, Random

PACKETS = 200_000


def losses(model: LossModel, packets: int = PACKETS, *, every_s: float = 0.01, seed: int = 3) -> list[bool]:
    process = model.process(random.Random(seed))
    return [process(number * every_s) for number in range(packets)]


def bursts(lost: list[bool]) -> list[int]:
    return [len(list(group)) for is_lost, group in groupby(lost) if is_lost]


def mean(numbers: list[int]) -> float:
    return sum(numbers) / len(numbers)


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5])
def test_random_loss_has_its_probability(probability: float) -> None:
    share = mean([int(one) for one in losses(Random(probability))])
    assert abs(share - probability) < 4 * sqrt(probability * (1 - probability) / PACKETS)


def test_random_loss_of_nothing_and_of_everything() -> None:
    assert not any(losses(Random(0.0), 1000))
    assert all(losses(Random(1.0), 1000))


def test_random_losses_do_not_cluster() -> None:
    assert mean(bursts(losses(Random(0.1)))) == pytest.approx(1 / 0.9, rel=0.01)


def test_exactly_the_chosen_packets_are_lost() -> None:
    assert losses(Chosen({0, 3, 4}), 6) == [True, False, False, True, True, False]


@pytest.mark.parametrize(("loss", "burst"), [(0.05, 3), (0.1, 8), (0.2, 3)])
def test_gilbert_elliott_has_its_mean_loss_and_its_mean_burst(loss: float, burst: float) -> None:
    r = 1 / burst
    model = GilbertElliott(p=r * loss / (1 - loss), r=r)
    assert model.mean_loss == pytest.approx(loss)
    lost = losses(model)
    found = bursts(lost)
    # Bursts are geometric: their standard deviation is that of their length, and their number decides the bounds.
    assert mean(found) == pytest.approx(burst, abs=4 * burst / sqrt(len(found)))
    assert sum(lost) / PACKETS == pytest.approx(loss, abs=4 * loss * sqrt(2 / len(found)))


def test_gilbert_elliott_loses_in_both_states_as_it_is_told() -> None:
    model = GilbertElliott(p=0.02, r=0.1, loss_good=0.01, loss_bad=0.5)
    assert model.mean_loss == pytest.approx((0.02 * 0.5 + 0.1 * 0.01) / 0.12)
    assert sum(losses(model)) / PACKETS == pytest.approx(model.mean_loss, rel=0.05)


def test_gilbert_elliott_with_alternating_states_loses_every_other_packet() -> None:
    lost = losses(GilbertElliott(p=1.0, r=1.0), 100)
    assert sum(lost) == 50
    assert bursts(lost) == [1] * 50


def test_a_channel_that_never_goes_bad_loses_nothing() -> None:
    assert not any(losses(GilbertElliott(p=0.0, r=0.0), 1000))


def test_gilbert_elliott_begins_in_the_long_run_mix_of_its_states() -> None:
    model = GilbertElliott(p=0.1, r=0.3)
    first = [model.process(random.Random(seed))(0.0) for seed in range(4000)]
    assert sum(first) / 4000 == pytest.approx(0.25, abs=4 * sqrt(0.25 * 0.75 / 4000))


@pytest.mark.parametrize(("bad_s", "loss"), [(0.02, 0.05), (0.06, 0.2)])
def test_gilbert_elliott_in_time_has_its_mean_loss_and_its_mean_burst(bad_s: float, loss: float) -> None:
    every_s = bad_s / 40
    model = GilbertElliottTime(mean_good_s=bad_s * (1 - loss) / loss, mean_bad_s=bad_s)
    assert model.mean_loss == pytest.approx(loss)
    lost = losses(model, every_s=every_s)
    found = bursts(lost)
    assert mean(found) * every_s == pytest.approx(bad_s, abs=5 * bad_s / sqrt(len(found)))
    assert sum(lost) / PACKETS == pytest.approx(loss, abs=4 * loss * sqrt(2 / len(found)))


def test_a_burst_in_time_lasts_as_long_whatever_is_sent_meanwhile() -> None:
    model = GilbertElliottTime(mean_good_s=1.0, mean_bad_s=0.1)
    often = losses(model, 100_000, every_s=0.001)
    rarely = losses(model, 1000, every_s=0.1)
    # The same channel, looked at more often: every hundredth answer is that of the channel looked at rarely.
    assert often[::100] == rarely
    assert any(rarely)


def test_the_losses_of_two_channels_differ_and_those_of_one_seed_do_not() -> None:
    model = Random(0.5)
    assert losses(model, 100, seed=1) == losses(model, 100, seed=1)
    assert losses(model, 100, seed=1) != losses(model, 100, seed=2)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("probability", lambda: Random(1.01)),
        ("p", lambda: GilbertElliott(-0.1, 0.5)),
        ("loss_bad", lambda: GilbertElliott(0.1, 0.5, loss_bad=2.0)),
        ("mean_bad_s", lambda: GilbertElliottTime(1.0, 0.0)),
        ("loss_good", lambda: GilbertElliottTime(1.0, 1.0, loss_good=float("nan"))),
    ],
)
def test_a_wrong_setting_is_named(field: str, make: object) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=field) as caught:
        make()
    assert caught.value.key == field
