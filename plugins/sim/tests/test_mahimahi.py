from __future__ import annotations

from pathlib import Path

import pytest

from echostream_core.errors import ConfigError
from echostream_sim.mahimahi import MahimahiTrace


def test_a_trace_is_read_and_written_in_its_format(tmp_path: Path) -> None:
    file = tmp_path / "link.up"
    file.write_text("0\n0\n5\n\n5\n12\n", encoding="ascii")
    trace = MahimahiTrace.read(file)
    assert trace.times_ms == (0, 0, 5, 5, 12)
    assert trace.period_s == 0.012
    assert trace.mean_bps == 5 * 1500 * 8 / 0.012
    trace.write(tmp_path / "copy")
    assert MahimahiTrace.read(tmp_path / "copy") == trace


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0\nten\n", ":2: 'ten' is no number of milliseconds"),
        ("1.5\n", ":1: '1.5' is no number"),
        ("-3\n", ":1: '-3' is no number"),
        ("5\n4\n", ":2: 4 ms comes after 5 ms"),
        ("", "the last time must be over 0 ms"),
        ("0\n0\n", "the last time must be over 0 ms"),
        ("é\n", ":1: "),
    ],
    ids=["word", "fraction", "negative", "unordered", "empty", "zeros", "not ascii"],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "broken"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        MahimahiTrace.read(file)
    assert problem in str(caught.value)


def test_opportunities_go_round_at_the_last_time() -> None:
    trace = MahimahiTrace([2, 5, 5])
    assert [trace.time_s(number) for number in range(7)] == [0.002, 0.005, 0.005, 0.007, 0.010, 0.010, 0.012]
    assert list(trace.opportunities(0.005, 0.010)) == [0.007, 0.010, 0.010]


def test_a_trace_that_begins_at_zero_has_two_opportunities_where_it_goes_round() -> None:
    trace = MahimahiTrace([0, 5])
    assert [trace.time_s(number) for number in range(5)] == [0.0, 0.005, 0.005, 0.010, 0.010]


def test_an_opportunity_of_this_very_moment_has_gone() -> None:
    trace = MahimahiTrace([1, 2, 3])
    for number in range(3000):
        here = trace.time_s(number)
        assert trace.first_after(here) == number + 1
        assert trace.first_after(here - 1e-9) == number
    assert trace.first_after(-1.0) == 0


def test_a_constant_trace_has_its_rate() -> None:
    trace = MahimahiTrace.constant(12e6)
    assert trace.times_ms == tuple(range(1, 1001))
    assert trace.mean_bps == 12e6
    uneven = MahimahiTrace.constant(1e6)
    assert uneven.mean_bps == pytest.approx(1e6, rel=0.01)
    assert uneven.period_s == 1.0
    gaps = {later - earlier for earlier, later in zip(uneven.times_ms, uneven.times_ms[1:], strict=False)}
    assert gaps == {12, 13}


def test_a_rate_too_small_for_the_period_is_refused() -> None:
    with pytest.raises(ConfigError, match="lengthen period_ms"):
        MahimahiTrace.constant(1000.0)
