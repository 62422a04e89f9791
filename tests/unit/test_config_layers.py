"""Layers: what lies over what, and where each value came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_core.config_layers import Layers, dotted, read_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("30", 30),
        ("1.5", 1.5),
        ('["a", "b"]', ["a", "b"]),
        ('"30"', "30"),
        ("{ dev = true }", {"dev": True}),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0"),
        ("plain text", "plain text"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_a_value_is_read_as_toml_else_as_text(text: str, value: object) -> None:
    assert read_value(text) == value


@given(st.text())
def test_any_text_is_some_value(text: str) -> None:
    read_value(text)


def test_later_layers_win_tables_merge_and_lists_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[server.a]\nlisten = ["x://1", "x://2"]\ndrain_s = 1\n', encoding="utf-8")
    (tmp_path / "b.toml").write_text("[server.a]\ndrain_s = 2\nhealth = true\n", encoding="utf-8")
    layers = Layers()
    layers.add_file(tmp_path / "a.toml")
    layers.add_file(tmp_path / "b.toml")
    layers.add_environment({"ECHOSTREAM__SERVER__A__DRAIN_S": "3", "PATH": "/bin", "ECHOSTREAM_X": "1"})
    layers.add_overrides(["server.a.listen=y://9"])
    assert layers.tree == {"server": {"a": {"listen": "y://9", "drain_s": 3, "health": True}}}
    assert layers.sources == {
        ("server", "a", "listen"): "command line",
        ("server", "a", "drain_s"): "environment variable ECHOSTREAM__SERVER__A__DRAIN_S",
        ("server", "a", "health"): str(tmp_path / "b.toml"),
    }
    assert layers.problems == []


def test_values_replace_tables_and_tables_values() -> None:
    layers = Layers()
    layers.add({"a": {"b": {"c": 1}}, "e": {}}, "one")
    layers.add({"a": {"b": 2}, "e": {"f": (1, 2)}}, "two")
    assert layers.tree == {"a": {"b": 2}, "e": {"f": [1, 2]}}
    assert layers.sources == {("a", "b"): "two", ("e", "f"): "two"}
    layers.add({"a": {"b": {}}, "e": {}}, "three")
    assert layers.tree == {"a": {"b": {}}, "e": {"f": [1, 2]}}
    assert layers.sources == {("a", "b"): "three", ("e", "f"): "two"}


def test_a_layer_is_not_changed_by_those_above_it() -> None:
    below: dict[str, object] = {"a": {"b": 1}}
    layers = Layers()
    layers.add(below, "one")
    layers.add({"a": {"b": 2}}, "two")
    assert below == {"a": {"b": 1}}


def test_overrides_come_as_texts_or_as_a_mapping() -> None:
    texts, mapping = Layers(), Layers()
    texts.add_overrides(['plugins.prefer."transports.m"=dist', "server.a.limits.max_streams = 9"])
    mapping.add_overrides({'plugins.prefer."transports.m"': "dist", "server.a.limits.max_streams": 9})
    assert texts.tree == mapping.tree
    assert texts.tree["plugins"] == {"prefer": {"transports.m": "dist"}}
    values_as_they_are = Layers()
    values_as_they_are.add_overrides({"a.b": "30"})
    assert values_as_they_are.tree == {"a": {"b": "30"}}


@pytest.mark.parametrize("override", ["novalue", "=3", "a..b=1", "a b=1", "a.=1", "a#=1"])
def test_an_override_that_is_none_is_a_problem(override: str) -> None:
    layers = Layers()
    layers.add_overrides([override, "fine=1"])
    assert len(layers.problems) == 1 and layers.problems[0].startswith("command line: ")
    assert layers.tree == {"fine": 1}


def test_unreadable_files_and_variables_are_problems_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[server\n", encoding="utf-8")
    (tmp_path / "latin.toml").write_bytes(b"a = '\xff'")
    layers = Layers()
    layers.add_file(tmp_path / "absent.toml")
    layers.add_file(tmp_path / "bad.toml")
    layers.add_file(tmp_path / "latin.toml")
    layers.add_environment({"ECHOSTREAM__": "1", "ECHOSTREAM__A____B": "secret"})
    assert "absent.toml: cannot be read: No such file" in layers.problems[0]
    assert "bad.toml: is not valid TOML" in layers.problems[1]
    assert "latin.toml: is not valid TOML: not UTF-8 (at byte " in layers.problems[2]
    assert "ECHOSTREAM__A____B" in layers.problems[4] and "secret" not in layers.problems[4]
    assert layers.tree == {}


def test_the_mark_that_some_editors_put_first_is_no_part_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "marked.toml"
    file.write_bytes(b"\xef\xbb\xbf[server.a]\r\ndrain_s = 1\r\n")
    layers = Layers()
    layers.add_file(file)
    assert (layers.tree, layers.problems) == ({"server": {"a": {"drain_s": 1}}}, [])


def test_paths_are_written_as_toml_writes_them() -> None:
    assert dotted(("plugins", "prefer", "transports.m")) == 'plugins.prefer."transports.m"'
    assert dotted(("server", "a-b_1")) == "server.a-b_1"
