"""docs/conformance.md lists the checks that there are, and each check says what it proves."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from echostream_core.capabilities import Capabilities
from echostream_testkit.__main__ import main
from echostream_testkit.checks import checks_of, needs_of
from echostream_testkit.listing import markdown
from echostream_testkit.transport import TransportConformance

PAGE = Path(__file__).parents[3] / "docs" / "conformance.md"
CHECKS = checks_of(TransportConformance)
FLAGS = [field.name for field in fields(Capabilities)]


def test_the_page_lists_the_checks_that_there_are() -> None:
    shown = PAGE.read_text(encoding="utf-8").partition("<!-- checks -->\n")[2].partition("\n<!-- /checks -->")[0]
    assert shown == markdown(TransportConformance), "put the output of `python -m echostream_testkit checks` there"


def test_the_command_prints_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checks"]) == 0
    assert capsys.readouterr().out == markdown(TransportConformance) + "\n"


def test_every_check_says_in_a_sentence_what_it_proves() -> None:
    silent = [name for name, check in CHECKS.items() if not (check.__doc__ or "").partition("\n")[0].endswith(".")]
    assert not silent


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_has_checks_for_its_claim_and_for_its_absence(flag: str) -> None:
    sides = {need.claimed for check in CHECKS.values() for need in needs_of(check) if need.flag and need.key == flag}
    assert sides >= {True, False}, f"{flag}: {sides}"


def test_checks_of_a_flag_are_named_for_it() -> None:
    wrong = [
        name
        for name, check in CHECKS.items()
        for proved in [[need.key for need in needs_of(check) if need.flag]]
        if proved and not any(name.startswith(f"test_{key}_") for key in proved)
    ]
    assert not wrong
