"""What is a topic, what is a pattern, and which matches which."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_core.errors import ConfigError
from echostream_core.wire.topics import MAX_SEGMENTS, check_pattern, check_topic, compile_pattern

TABLE = [
    ("chat.lobby", {"chat.lobby"}),
    ("chat.*", {"chat.lobby", "chat.hall"}),
    ("*.lobby", {"chat.lobby"}),
    ("*.*", {"chat.lobby", "chat.hall"}),
    ("*", {"chat"}),
    ("chat.**", {"chat.lobby", "chat.hall", "chat.lobby.joined"}),
    ("chat.*.joined", {"chat.lobby.joined"}),
    ("chat.*.**", {"chat.lobby.joined"}),
    ("*.**", {"chat.lobby", "chat.hall", "chat.lobby.joined"}),
    ("**", {"chat", "chat.lobby", "chat.hall", "chat.lobby.joined"}),
    ("news", set()),
]


@pytest.mark.parametrize(("pattern", "matched"), TABLE, ids=[pattern for pattern, _ in TABLE])
def test_a_pattern_matches_what_the_table_says(pattern: str, matched: set[str]) -> None:
    matches = compile_pattern(pattern)
    topics = ("chat", "chat.lobby", "chat.hall", "chat.lobby.joined")
    assert {topic for topic in topics if matches(topic)} == matched


segments = st.lists(st.sampled_from("ab"), min_size=1, max_size=5)


def slow_match(pattern: list[str], topic: list[str]) -> bool:
    """The rule as it is written."""
    if pattern == ["**"]:
        return len(topic) >= 1
    if not pattern or not topic:
        return pattern == topic
    return pattern[0] in ("*", topic[0]) and slow_match(pattern[1:], topic[1:])


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(("a", "b", "*")), max_size=4), st.booleans(), segments)
def test_a_compiled_pattern_is_the_rule(front: list[str], open_end: bool, topic: list[str]) -> None:
    pattern = [*front, "**"] if open_end or not front else front
    check_pattern(".".join(pattern))
    assert compile_pattern(".".join(pattern))(".".join(topic)) == slow_match(pattern, topic)


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\nb", "a\x00", "x" * 256, "\ud800", ".".join("a" * 9)]
)
def test_what_no_topic_is_no_pattern_is_either(name: str) -> None:
    with pytest.raises(ConfigError):
        check_topic(name)
    with pytest.raises(ConfigError):
        check_pattern(name)


@pytest.mark.parametrize("name", ["*", "a.*", "**", "a*"])
def test_a_topic_has_no_stars(name: str) -> None:
    with pytest.raises(ConfigError, match="patterns only"):
        check_topic(name)


@pytest.mark.parametrize("name", ["**.a", "a.**.b", "a*", "*a.b", "***", "a.**b"])
def test_stars_stand_for_whole_segments_and_two_at_the_end(name: str) -> None:
    with pytest.raises(ConfigError, match="no pattern"):
        check_pattern(name)


def test_the_limits_themselves_are_allowed() -> None:
    for name in ("x" * 255, ".".join("a" * MAX_SEGMENTS), "ä" * 127, "a.b-c_d/e:f"):
        assert check_topic(name) == name.encode()
        assert check_pattern(name) == name.encode()
