"""Requirement lines: what is understood, what is left alone, what is missing."""

from __future__ import annotations

import sys

import pytest

from echostream_core.requirements import Requirement, normalise

INSTALLED = {"some-library": "1.4", "echostream-core": "0.1.0"}


def problem_of(line: str) -> str | None:
    requirement = Requirement.parse(line)
    assert requirement is not None
    return requirement.problem(INSTALLED.get)


@pytest.mark.parametrize(
    "line",
    [
        "some-library",
        "Some_Library>=1.2",
        "some.library (>=1.2,<2)",
        "some-library[fast,safe] >=1.2 ; python_version >= '3.11'",
        "some-library @ https://example.org/some_library-9.whl",
        "absent; extra == 'all'",
        "absent ; python_version < '3.0'",
        f'absent; sys_platform != "{sys.platform}"',
        "absent; python_version >= '3.0' and sys_platform == 'amiga'",
        "absent; implementation_name == 'cpython'",
        "absent; (python_version > '2') or os_name == 'nt'",
    ],
)
def test_these_are_met_or_do_not_apply(line: str) -> None:
    assert problem_of(line) is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("absent>=1 ; python_version >= '3'", "absent>=1 is required but not installed"),
        ("absent; sys_platform == 'amiga' or python_version >= '3'", "absent is required but not installed"),
        ("some-library >=2", "some-library >=2 is required but 1.4 is installed"),
        ("echostream-core>=9,<10", "echostream-core>=9,<10 is required but 0.1.0 is installed"),
    ],
)
def test_these_are_missing(line: str, problem: str) -> None:
    assert problem_of(line) == problem


@pytest.mark.parametrize("line", ["", "!!", ">=1.0", "name with spaces >=1"])
def test_a_line_that_is_no_requirement_is_left_alone(line: str) -> None:
    assert Requirement.parse(line) is None


def test_names_are_compared_normalised() -> None:
    assert normalise("EchoStream__Codec.MsgPack") == "echostream-codec-msgpack"
