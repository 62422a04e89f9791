"""Every limit: documented, checked, and the same in the code and in the specification."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from echostream_core.wire import control, limits
from echostream_core.wire.limits import INITIAL_MAX_CALLS, INITIAL_WINDOW_BYTES, Limits
from tests.unit.wire.test_states import section, table

SOURCE = Path(limits.__file__).read_text(encoding="utf-8")
NAMES = [item.name for item in fields(Limits)]
DEFAULTS: dict[str, float] = asdict(Limits())
CONSTANTS = {
    "DEFAULT_MAX_MESSAGE_BYTES": limits.DEFAULT_MAX_MESSAGE_BYTES,
    "INITIAL_WINDOW_BYTES": limits.INITIAL_WINDOW_BYTES,
    "MAX_MUX_DATAGRAM_BYTES": limits.MAX_MUX_DATAGRAM_BYTES,
    "MAX_MUX_FRAME_BYTES": limits.MAX_MUX_FRAME_BYTES,
    "INITIAL_MAX_CALLS": limits.INITIAL_MAX_CALLS,
    "MAX_INTERNED": limits.MAX_INTERNED,
    "INLINE_ALWAYS_BYTES": control.INLINE_ALWAYS_BYTES,
}
LEAST = {
    "max_concurrent_calls": INITIAL_MAX_CALLS,
    "max_window_bytes": INITIAL_WINDOW_BYTES,
    "max_setup_bytes": 256,
    "max_error_bytes": 256,
    "max_streams": 4,
    "max_message_bytes": 1_024,
}


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def name(cell: str) -> str:
    return cell.strip("`")


def changed(**changes: Any) -> Limits:
    return Limits().with_changes(**changes)


def test_the_specification_lists_every_limit_with_its_default() -> None:
    shown = {name(row[0]): number(row[1]) for row in table(section(10), "limit", "default")}
    assert shown == DEFAULTS


def test_the_specification_lists_every_constant_with_its_value() -> None:
    shown = {name(row[0]): number(row[1]) for row in table(section(10), "constant", "value")}
    assert shown == CONSTANTS
    assert set(limits.__all__) - {"Limits"} <= set(CONSTANTS)


def test_every_limit_in_the_specification_has_a_reason() -> None:
    for row in [*table(section(10), "limit", "default"), *table(section(10), "constant", "value")]:
        assert len(row[-1]) > 10, row


def test_the_defaults_make_sense() -> None:
    assert Limits().check() == []


def test_a_call_of_the_initial_kind_fits_into_the_defaults() -> None:
    assert Limits().inline_max_bytes <= control.INLINE_ALWAYS_BYTES
    assert Limits().max_concurrent_calls >= INITIAL_MAX_CALLS


@pytest.mark.parametrize("limit", NAMES)
def test_no_limit_may_be_negative(limit: str) -> None:
    assert any(text.startswith(f"{limit} must not be negative") for text in changed(**{limit: -1}).check())


@pytest.mark.parametrize("limit", sorted(LEAST))
def test_a_limit_has_a_least_value(limit: str) -> None:
    # The in-line limit must not be over the longest message: it is moved out of the way here.
    assert changed(**{limit: LEAST[limit]}, inline_max_bytes=0).check() == []
    problems = changed(**{limit: LEAST[limit] - 1}, inline_max_bytes=0).check()
    assert [text for text in problems if text.startswith(f"{limit} must be at least {LEAST[limit]}")]


@pytest.mark.parametrize(("limit", "most"), [("max_metadata_bytes", 65_535), ("max_message_bytes", 0xFFFF_FFFF)])
def test_a_limit_must_fit_its_length_field(limit: str, most: int) -> None:
    assert changed(**{limit: most}).check() == []
    assert any(text.startswith(limit) for text in changed(**{limit: most + 1}).check())


def test_what_travels_in_line_is_no_longer_than_a_message() -> None:
    assert changed(max_message_bytes=20_000, inline_max_bytes=20_000).check() == []
    assert changed(max_message_bytes=20_000, inline_max_bytes=20_001).check() != []


def test_every_problem_is_listed() -> None:
    problems = changed(max_streams=0, max_setup_bytes=-1, max_metadata_bytes=70_000).check()
    assert {text.split()[0] for text in problems} == {"max_streams", "max_setup_bytes", "max_metadata_bytes"}


def test_an_unknown_limit_is_refused() -> None:
    with pytest.raises(TypeError):
        changed(max_everything=1)


def test_a_change_leaves_the_others_alone() -> None:
    assert changed(max_streams=5) == Limits(max_streams=5)


def test_every_limit_is_explained_in_the_code() -> None:
    body = SOURCE[SOURCE.index("class Limits") : SOURCE.index("def check")]
    explained = set(re.findall(r'^    (\w+): (?:int|float) = [\w.]+\n    """', body, re.MULTILINE))
    # These stand directly below a sibling that explains both.
    assert set(NAMES) - explained <= {"max_metadata_entries", "max_unfinished_setups_per_address"}
