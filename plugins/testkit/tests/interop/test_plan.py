"""The file of a matrix: who meets whom over what, and errors that say what to mend."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from echostream_core import ConfigError
from echostream_testkit.interop.plan import Pairing, load_plan

SMALL = """
[matrix]
transports = ["tcp"]
{matrix}

[implementations.a]
command = ["{{python}}", "{{here}}/a.py"]
env = {{ X = "{{here}}" }}
{a}

[implementations.b]
command = ["b"]
"""


def written(folder: Path, *, matrix: str = "", a: str = "", more: str = "") -> Path:
    file = folder / "matrix.toml"
    file.write_text(SMALL.format(matrix=matrix, a=a) + more)
    return file


def met(folder: Path, **settings: str) -> list[tuple[str, str]]:
    return [(one.listener, one.dialer) for one in load_plan(written(folder, **settings)).pairings()]


def test_all_meet_all(tmp_path: Path) -> None:
    assert met(tmp_path) == [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]


def test_each_may_meet_itself_or_the_others_only(tmp_path: Path) -> None:
    assert met(tmp_path, matrix='pairs = "same"') == [("a", "a"), ("b", "b")]
    assert met(tmp_path, matrix='pairs = "different"') == [("a", "b"), ("b", "a")]


def test_one_that_plays_one_role_only(tmp_path: Path) -> None:
    assert met(tmp_path, a='roles = ["dialer"]') == [("b", "a"), ("b", "b")]


def test_places_in_commands_and_variables_are_filled_in(tmp_path: Path) -> None:
    plan = load_plan(written(tmp_path))
    assert plan.implementations["a"].command == (sys.executable, f"{tmp_path}/a.py")
    assert plan.implementations["a"].env == {"X": str(tmp_path)}


def test_a_transport_is_a_scheme_or_a_url(tmp_path: Path) -> None:
    file = written(tmp_path)
    plan = load_plan(file, {"transports": ["tcp", "unix", "ws://[::1]:0/x"], "codecs": ["json", "cbor"]})
    pairings = [one for one in plan.pairings() if (one.listener, one.dialer) == ("a", "b")]
    common = {"listener": "a", "dialer": "b"}
    ipv6 = "ws://[::1]:0/x"
    assert pairings == [
        Pairing(**common, transport="tcp", listen="tcp://127.0.0.1:0", codec="json"),
        Pairing(**common, transport="tcp", listen="tcp://127.0.0.1:0", codec="cbor"),
        Pairing(**common, transport="unix", listen="unix://{folder}/socket", codec="json"),
        Pairing(**common, transport="unix", listen="unix://{folder}/socket", codec="cbor"),
        Pairing(**common, transport="ws", listen=ipv6, codec="json"),
        Pairing(**common, transport="ws", listen=ipv6, codec="cbor"),
    ]


def test_the_command_line_chooses_among_the_implementations(tmp_path: Path) -> None:
    plan = load_plan(written(tmp_path), {"implementations": ["b"], "cases": ["drain"]})
    assert list(plan.implementations) == ["b"]
    assert plan.cases == ("drain",)
    with pytest.raises(ConfigError, match=r"there is no \[implementations.c\]; known are a, b"):
        load_plan(written(tmp_path), {"implementations": ["c"]})


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"matrix": "paralel = 2"}, "unknown field `paralel`"),
        ({"matrix": "parallel = 0"}, "parallel must be above 0, not 0"),
        ({"matrix": "timeout_s = -1.0"}, "timeout_s must be above 0"),
        ({"matrix": "codecs = []"}, "codecs is empty"),
        ({"a": 'roles = ["server"]'}, "Invalid enum value 'server'"),
        ({"a": "roles = []"}, "needs a command and at least one role"),
        ({"more": "[implementations.'a b']\ncommand = ['x']"}, "'a b' is no name"),
        ({"more": "[tls]\nca = 'missing.pem'"}, r"\[tls\] ca: there is no file missing.pem"),
        ({"more": "[tls"}, "matrix.toml: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said(settings: dict[str, str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_plan(written(tmp_path, **settings))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml cannot be read: No such file"):
        load_plan(tmp_path / "none.toml")


def test_nobody_to_meet(tmp_path: Path) -> None:
    file = written(tmp_path, a='roles = ["dialer"]')
    with pytest.raises(ConfigError, match="nobody meets anybody"):
        load_plan(file, {"implementations": ["a"]})
