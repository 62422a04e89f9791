"""URLs as users write them, and the order of priorities."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echostream_core import ConfigError, Priority, Url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("tcp://example.org:4433", Url("tcp", "example.org", 4433)),
        ("TCP://Example.org", Url("tcp", "example.org")),
        ("tcp://[::1]:80", Url("tcp", "::1", 80)),
        ("tcp://127.0.0.1:0", Url("tcp", "127.0.0.1", 0)),
        ("memory://calc", Url("memory", "calc")),
        ("unix:///run/a.sock", Url("unix", "", None, "/run/a.sock")),
        ("unix:///run/with%20space", Url("unix", "", None, "/run/with space")),
        ("ws://host:80/path/below", Url("ws", "host", 80, "/path/below")),
        ("a+b-c.d://host", Url("a+b-c.d", "host")),
    ],
)
def test_a_url_is_read(text: str, url: Url) -> None:
    assert Url.parse(text) == url


@pytest.mark.parametrize("text", ["tcp://example.org:4433", "tcp://[::1]:80", "memory://calc", "unix:///run/a.sock"])
def test_a_url_is_written_as_it_was_read(text: str) -> None:
    assert str(Url.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a URL: write scheme://host:port"),
        ("localhost:80", "is not a URL"),
        ("://host", "has no scheme"),
        ("tcp://host:port", "is not a valid URL"),
        ("tcp://host:70000", "is not a valid URL"),
        ("tcp://host:-1", "is not a valid URL"),
        ("tcp://[::1", "is not a valid URL"),
        ("tcp://ada:secret@host", "must not carry a user name or password"),
        ("tcp://ada@host", "must not carry a user name or password"),
        ("tcp://host?a=b", "options belong in the configuration"),
        ("tcp://host#a", "options belong in the configuration"),
    ],
)
def test_what_is_no_url_says_why_and_where(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        Url.parse(text, key="client.orders.url")
    assert caught.value.key == "client.orders.url"
    assert "secret" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_config_error(text: str) -> None:
    for candidate in (text, f"tcp://{text}", f"{text}://host"):
        try:
            url = Url.parse(candidate)
        except ConfigError:
            continue
        assert url.scheme == url.scheme.lower() != ""
        assert url.port is None or 0 <= url.port <= 65_535


def test_lower_priorities_go_first() -> None:
    assert sorted(Priority) == [Priority.CONTROL, Priority.URGENT, Priority.NORMAL, Priority.BULK]
