"""The typed sections: what is accepted, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from echostream_core.config_schema import (
    ClientConfig,
    ServerConfig,
    limit_problems,
    read_endpoint,
    read_plugins,
)
from echostream_core.discovery import Advertise
from echostream_core.plugin_reports import PluginSettings


def server_problems(**section: Any) -> list[str]:
    server, problems = read_endpoint(ServerConfig, "public", {"listen": "memory://a"} | section)
    assert (server is None) == bool(problems)
    return [problem.at("server.public")[1] for problem in problems]


def test_a_server_with_everything() -> None:
    server, problems = read_endpoint(
        ServerConfig,
        "public",
        {
            "listen": ["memory://a", "memory://b"],
            "services": "calc_app:Calc",
            "codecs": ["json"],
            "middleware": "logging",
            "advertise": "calc",
            "discovery": "finder",
            "drain_s": 3,
            "tls": {"dev": True},
            "transport": {"memory": {"max_streams": 9}},
            "limits": {"max_streams": 9, "keepalive_interval_s": 1},
            "require": "datagrams",
            "authenticator": "tokens",
            "health": False,
            "reflection": True,
        },
    )
    assert problems == [] and server is not None
    assert (server.name, server.services, server.middleware) == ("public", ("calc_app:Calc",), ("logging",))
    assert (server.require, server.drain_s, server.reflection) == (("datagrams",), 3.0, True)


def test_defaults_are_the_documented_ones() -> None:
    server, _ = read_endpoint(ServerConfig, "s", {"listen": "memory://a"})
    assert server == ServerConfig(name="s", listen=("memory://a",))
    assert (server.codecs, server.tls, server.health, server.reflection) == ((), None, True, "auto")
    client, _ = read_endpoint(ClientConfig, "c", {"url": ["memory://a", "memory://b"]})
    assert client == ClientConfig(name="c", url=("memory://a", "memory://b"))
    assert (client.timeout_s, client.connect_timeout_s, client.insecure_credentials) == (None, 10.0, False)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"lisen": 1}, "server.public.lisen: there is no such setting; did you mean 'listen'?"),
        ({"name": "x"}, "server.public.name: is not written here: it is the last part of the section's title"),
        ({"listen": []}, "server.public.listen: must name at least one URL"),
        ({"listen": "nowhere"}, "server.public.listen: 'nowhere' is not a URL: write scheme://host:port"),
        ({"listen": [3]}, "server.public.listen[0]: expected `str`, got `int`"),
        ({"services": "calc"}, "server.public.services: 'calc' is not of the form module:object"),
        ({"drain_s": -1}, "server.public.drain_s: must be a number of seconds, not negative"),
        ({"advertise": " "}, "server.public.advertise: must not be empty: it is the name of the service"),
        ({"reflection": "maybe"}, "server.public.reflection: must be 'auto' or true or false, not 'maybe'"),
        ({"health": "yes"}, "server.public.health: expected `bool`, got `str`"),
        ({"limits": {"max_stream": 1}}, "server.public.limits.max_stream: there is no such limit"),
        ({"transport": {"memory": 3}}, "server.public.transport"),
    ],
)
def test_each_mistake_is_named(section: dict[str, Any], problem: str) -> None:
    (found,) = server_problems(**section)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"timeout_s": 0}, ("timeout_s", "must be a number of seconds above 0")),
        ({"connect_timeout_s": 0}, ("connect_timeout_s", "must be a number of seconds above 0")),
        ({"discover": ""}, ("discover", "must not be empty: it is the name of the service")),
    ],
    ids=str,
)
def test_a_client_is_not_left_without_time_or_a_name(settings: dict[str, Any], problem: tuple[str, str]) -> None:
    assert read_endpoint(ClientConfig, "c", {"url": "memory://a", **settings})[1] == [problem]


def test_all_mistakes_are_named_at_once() -> None:
    found = server_problems(listen="x", health=3, drain_s=-1, codec="json", limits={"max_streams": 1})
    assert [line.partition(":")[0] for line in found] == [
        "server.public.codec",
        "server.public.health",
        "server.public.listen",
        "server.public.limits.max_streams",
        "server.public.drain_s",
    ]


@pytest.mark.parametrize("name", ["Public", "a-b", "", "ä", "a.b"])
def test_names_of_endpoints_are_plain(name: str) -> None:
    server, problems = read_endpoint(ServerConfig, name, {"listen": "memory://a"})
    assert server is None and "may have only a-z, 0-9 and _" in problems[0].text


def test_an_endpoint_is_a_table_with_an_address() -> None:
    assert read_endpoint(ServerConfig, "a", 3)[1][0].text == (
        "must be a table: settings stand below a name, as in [server.main]"
    )
    assert read_endpoint(ClientConfig, "a", {})[1][0] == (
        "url",
        'is missing (or discover = "NAME", to find it by name)',
    )


def test_limits_are_checked_by_name_type_and_sense() -> None:
    good = {"max_streams": 64, "keepalive_interval_s": 0.5, "cancel_grace_s": 2}
    assert limit_problems(good) == []
    found = limit_problems(
        {
            "max_stream": 1,
            "max_streams": "many",
            "max_concurrent_calls": True,
            "max_message_bytes": 1.5,
            "cancel_grace_s": float("nan"),
            "setup_timeout_s": -1,
            "max_window_bytes": 5,
        }
    )
    assert [problem.path for problem in found] == [
        "max_stream",
        "max_streams",
        "max_concurrent_calls",
        "max_message_bytes",
        "cancel_grace_s",
        "setup_timeout_s",
        "max_window_bytes",
    ]
    assert found[0].text.endswith("did you mean 'max_streams'?")
    assert found[5].text == "must not be negative"


def test_plugins_prefer_may_hold_tables() -> None:
    settings, problems = read_plugins(
        {"autoload": "none", "allow": "a", "block": ["b"], "prefer": {"k": "x", "transports": {"m": "y"}}}
    )
    assert problems == []
    assert settings == PluginSettings(
        autoload="none", allow=("a",), block=("b",), prefer={"k": "x", "transports.m": "y"}
    )


def test_plugins_mistakes_are_named() -> None:
    settings, problems = read_plugins({"autoload": "some", "alow": [], "prefer": {"k": 1}})
    assert settings == PluginSettings()
    assert [problem.path for problem in problems] == ["alow", "autoload", "prefer.k"]
    assert read_plugins(3)[1][0].text == "must be a table"


def test_credentials_stay_out_of_a_clients_text() -> None:
    client = ClientConfig(name="c", url=("memory://a",), credentials={"token": "hush"})
    assert "hush" not in repr(client) and "hush" not in str(client)


def client_problems(**section: object) -> list[str]:
    return [f"{problem.path}: {problem.text}" for problem in read_endpoint(ClientConfig, "c", section)[1]]


def test_a_client_may_be_found_by_name_with_urls_to_fall_back_on() -> None:
    client, problems = read_endpoint(
        ClientConfig,
        "c",
        {
            "discover": "calc",
            "url": "memory://a",
            "where": {"zone": ["eu", "us"], "rack": "1"},
            "transports": "memory",
            "discover_timeout_s": 0.5,
        },
    )
    assert problems == [] and client is not None
    assert (client.discover, client.url, client.transports) == ("calc", ("memory://a",), ("memory",))
    assert client.where == {"zone": ["eu", "us"], "rack": "1"}


def test_what_only_discovery_needs_is_refused_without_it() -> None:
    assert client_problems(url="memory://a", where={"zone": "eu"}, transports="memory") == [
        "where: has no effect without discover",
        "transports: has no effect without discover",
    ]
    assert client_problems(discover="", url="memory://a") == [
        "discover: must not be empty: it is the name of the service"
    ]
    assert client_problems(discover="a", discover_timeout_s=0) == [
        "discover_timeout_s: must be a number of seconds above 0"
    ]


def test_advertise_is_a_name_or_a_table() -> None:
    server, problems = read_endpoint(ServerConfig, "s", {"listen": "memory://a", "advertise": "calc"})
    assert problems == [] and server is not None and server.advertise == "calc"
    table = {"name": "calc", "weight": 5, "tags": {"zone": "eu"}}
    server, problems = read_endpoint(ServerConfig, "s", {"listen": "memory://a", "advertise": table})
    assert problems == [] and server is not None
    assert server.advertise == Advertise("calc", weight=5, tags={"zone": "eu"})
    for wrong, words in (
        ({"name": "calc", "weihgt": 5}, "weihgt"),
        ({"name": "calc", "weight": -1}, "weight must be from 0"),
        ({"weight": 1}, "name"),
        (3, "expected"),
    ):
        _, (problem,) = read_endpoint(ServerConfig, "s", {"listen": "memory://a", "advertise": wrong})
        assert problem.path.startswith("advertise") and words in f"{problem.path}: {problem.text}"
