"""The tables of legal moves, and the specification that shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from echostream_core.wire.frames import FrameType, SubstreamKind
from echostream_core.wire.states import LEGAL, NEXT, By, Move, State

SPECIFICATION = (Path(__file__).resolve().parents[3] / "docs/wire.md").read_text(encoding="utf-8")
USED = tuple(kind for kind in SubstreamKind if kind is not SubstreamKind.EXTENSION)


def section(number: int) -> str:
    match = re.search(rf"^## {number}\. .*?(?=^## \d|\Z)", SPECIFICATION, re.DOTALL | re.MULTILINE)
    assert match
    return match[0]


def table(text: str, *heading: str) -> list[list[str]]:
    """The cells of the table whose heading begins with these words."""
    begin = re.escape("| " + " | ".join(heading) + " |")
    match = re.search(rf"^{begin}.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert match, f"no table that begins with {heading}"
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in match[1].splitlines()]


def test_the_table_of_states_is_that_of_the_specification() -> None:
    rows = [tuple(row) for row in table(section(8), "state", "move")]
    assert rows == [(state.name, move.value, following.name) for (state, move), following in NEXT.items()]


def test_the_diagram_of_states_is_that_of_the_specification() -> None:
    drawn = re.findall(r"^ +(\w+) --> (\w+): (.+)$", section(8), re.MULTILINE)
    assert drawn == [(state.name, following.name, move.value) for (state, move), following in NEXT.items()]


def test_the_table_of_legal_frames_is_that_of_the_specification() -> None:
    shown = {}
    for kind, opener, acceptor in table(section(3), "kind", "the opener sends"):
        for by, cell in ((By.OPENER, opener), (By.ACCEPTOR, acceptor)):
            names = [name for name in cell.split(", ") if name != "–"]
            shown[(SubstreamKind[kind], by)] = frozenset(FrameType[name] for name in names)
    assert shown == LEGAL


def test_the_numbers_of_kinds_are_those_of_the_specification() -> None:
    rows = table(section(3), "kind", "name")
    assert {row[1]: int(row[0]) for row in rows} == {kind.name: kind.value for kind in SubstreamKind}


def test_the_numbers_of_frames_are_those_of_the_specification() -> None:
    rows = table(section(4), "type", "name")
    shown = {row[1]: int(row[0], 16) for row in rows if row[1] != "grease"}
    assert shown == {kind.name: kind.value for kind in FrameType}


@pytest.mark.parametrize("move", [move for move in Move if move is not Move.CLOSED])
def test_nothing_leads_out_of_closed(move: Move) -> None:
    assert (State.CLOSED, move) not in NEXT


def test_every_state_can_be_closed() -> None:
    assert all(NEXT[(state, Move.CLOSED)] is State.CLOSED for state in State if state is not State.CLOSED)


def test_every_state_is_reached() -> None:
    reached = {State.OPENING}
    while following := {NEXT[(state, move)] for state, move in NEXT if state in reached} - reached:
        reached |= following
    assert reached == set(State)


def test_a_session_opens_once_and_never_goes_back() -> None:
    order = list(State)
    assert all(order.index(following) >= order.index(state) for (state, _), following in NEXT.items())


def test_setup_is_legal_on_the_control_substream_only() -> None:
    where = {kind for (kind, _), types in LEGAL.items() if FrameType.SETUP in types}
    assert where == {SubstreamKind.CONTROL}


def test_both_ends_of_every_kind_in_use_have_their_row() -> None:
    assert set(LEGAL) == {(kind, by) for kind in USED for by in By}
