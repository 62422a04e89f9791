"""``docs/interop.md`` tells other implementations what ours does: every variable, setting, service, case and status."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import chain
from pathlib import Path

from echostream_core.engine.handlers import collect_routes
from echostream_testkit.interop import cases_sessions, plan
from echostream_testkit.interop.case import CASES
from echostream_testkit.interop.contract import FAILED, PASSED, UNSUPPORTED, VARIABLES
from echostream_testkit.interop.dialer import CASE_MODULES
from echostream_testkit.interop.services import InteropServices

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "interop.md").read_text(encoding="utf-8")


def rows(*heading: str) -> list[list[str]]:
    """The cells of all tables whose heading begins with these words."""
    found = []
    begin = re.escape("| " + " | ".join(heading))
    for match in re.finditer(rf"^{begin}.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        found += [line.strip("| ").split(" | ") for line in match[1].splitlines()]
    return found


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_variable_is_specified_with_its_default() -> None:
    listed = {name: row for row in rows("`ECHOSTREAM_INTEROP_`") for name in names(row[0])}
    assert list(listed) == list(VARIABLES)
    for name, default in VARIABLES.items():
        if default:
            assert listed[name][2].strip("`") == default, name


def test_every_setting_of_a_matrix_is_specified_with_its_default() -> None:
    listed = {names(row[0])[0]: row[1].strip("`") for row in rows("`[matrix]`")}
    settings = {field.name: field.default for field in fields(plan.Plan)}
    assert set(listed) == set(settings) - {"implementations", "tls"}
    for name in ("parallel", "seed", "ready_timeout_s", "case_timeout_s", "timeout_s", "stop_timeout_s"):
        assert listed[name] == str(settings[name]), name
    ours = [names(row[0])[0] for row in rows("`[implementations.NAME]`")]
    assert sorted(ours) == sorted(plan.Implementation.__struct_fields__)
    assert all(f"`{name}`" in PAGE for name in plan.Tls.__struct_fields__)


def test_every_service_is_specified_with_its_parameters() -> None:
    routes = collect_routes([InteropServices()])
    listed = {names(row[0])[0]: row[1] for row in rows("method", "payload", "answer")}
    assert set(listed) == set(routes)
    for name, route in routes.items():
        if route.signature.shape == "map":
            assert names(re.sub(r"\(.*?\)", "", listed[name])) == [one for one, _, _ in route.signature.parameters], (
                name
            )


def test_what_a_dialer_serves_is_specified() -> None:
    marked = [value for name, value in vars(cases_sessions).items() if name.startswith("dialer_")]
    for name in collect_routes(marked):
        assert f"`{name}`" in PAGE


def test_every_case_is_listed_in_its_words() -> None:
    listed = {names(row[0])[0]: row[1] for row in rows("case", "what it shows")}
    assert listed == {case.name: case.summary for case in CASES.values()}
    in_order = chain.from_iterable(
        [case.name for case in CASES.values() if case.run.__module__ == module.__name__] for module in CASE_MODULES
    )
    assert list(listed) == list(in_order)


def test_every_exit_status_is_listed() -> None:
    assert [int(row[0]) for row in rows("status", "meaning")] == [PASSED, FAILED, UNSUPPORTED]


def test_the_table_of_a_run_is_there_and_nothing_in_it_failed() -> None:
    table = rows("listener", "dialer")
    assert len({row[0] for row in table}) == len({row[1] for row in table}) >= 4
    for row in table:
        for cell in row[2:]:
            passed, _, tried = cell.partition("/")
            assert passed == tried, row
