"""Reading a configuration: the layers together, every problem at once, each with its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from echostream_core.config import Config, load_config
from echostream_core.errors import ConfigError
from echostream_core.plugin_reports import PluginSettings

FILE = """
[plugins]
block = ["some-dist"]
[server.public]
listen = ["memory://calc", "memory://more"]
services = ["calc_app:Calc", "calc_app:add"]
codecs = ["json"]
[transport.memory]
max_streams = 64
[client.orders]
url = "memory://orders"
credentials = { token = "hush" }
[middleware.logging]
level = "info"
[authenticator.tokens]
file = "tokens.txt"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "echostream.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_a_file_becomes_typed_sections(file: Path) -> None:
    config = load_config(file, environ={})
    assert config.plugins == PluginSettings(block=("some-dist",))
    assert config.server().listen == ("memory://calc", "memory://more")
    assert config.client("orders").url == ("memory://orders",)
    assert config.section("transport", "memory") == {"max_streams": 64}
    assert config.section("authenticator", "tokens") == {"file": "tokens.txt"}
    assert config.section("authenticator", "none") == config.section("nothing", "at_all") == {}
    assert "hush" not in repr(config)


def test_the_environment_and_the_command_line_lie_over_the_file(file: Path) -> None:
    environ = {
        "ECHOSTREAM__SERVER__PUBLIC__LISTEN": "memory://env",
        "ECHOSTREAM__TRANSPORT__MEMORY__MAX_STREAMS": "32",
        "ECHOSTREAM__CLIENT__ORDERS__TIMEOUT_S": "1.5",
    }
    config = load_config(file, environ=environ, overrides=["client.orders.timeout_s=2"])
    assert config.server("public").listen == ("memory://env",)
    assert config.transport == {"memory": {"max_streams": 32}}
    assert config.client().timeout_s == 2.0
    assert config.source(("server", "public", "listen")).endswith("ECHOSTREAM__SERVER__PUBLIC__LISTEN")
    assert config.source(("client", "orders", "timeout_s")) == "command line"
    assert config.source(("client", "orders", "url")) == str(file)
    assert config.source(("client", "orders", "require")) == "default"


def test_later_files_lie_over_earlier_ones(file: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.toml"
    more.write_text('[server.public]\ncodecs = ["other"]\n', encoding="utf-8")
    config = load_config(file, more, environ={})
    assert config.server().codecs == ("other",)
    assert config.server().services == ("calc_app:Calc", "calc_app:add")


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSTREAM__SERVER__S__LISTEN", "memory://a")
    assert load_config().server().listen == ("memory://a",)
    assert load_config(environ={}).servers == {}


def test_nothing_at_all_is_a_configuration() -> None:
    assert load_config(environ={}) == Config()


def test_all_problems_come_at_once_with_file_and_key(file: Path) -> None:
    file.write_text(
        '[sever.a]\nx = 1\n[server.public]\nlisen = "memory://a"\n[client.c]\nurl = "memory://a"\n'
        "timeout_s = -1\n[plugins]\nautoload = 1\n[middleware]\nlogging = 3\n[transport]\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={"ECHOSTREAM__CLIENT__C__RETRY": "1"}, overrides=["nonsense"])
    variable = "environment variable ECHOSTREAM__CLIENT__C__RETRY"
    lines = str(caught.value).splitlines()
    assert lines[0] == "8 problems:"
    assert sorted(lines[1:]) == sorted(
        [
            "  command line: write KEY=VALUE, not 'nonsense'",
            f"  {file}: plugins.autoload: expected `str`, got `int`; write 'referenced' or 'all' or 'none'",
            f"  {file}: server.public.lisen: there is no such setting; did you mean 'listen'?",
            f"  {file}: server.public.listen: is missing",
            f"  {variable}: client.c.retry: there is no such setting; known are codecs, compression, "
            "connect_timeout_s, credentials, discover, discover_timeout_s, discovery, emulate_datagrams, "
            "insecure_credentials, limits, middleware, reconnect, require, timeout_s, tls, transport, transports, "
            "url, where",
            f"  {file}: client.c.timeout_s: must be a number of seconds above 0",
            f"  {file}: sever: there is no such section; did you mean 'server'?",
            f"  {file}: middleware.logging: must be a table of options",
        ]
    )


def test_one_problem_is_said_plainly_and_has_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environ={}, overrides={"server.a.listen": "memory://a", "server.a.drain_s": "long"})
    assert str(caught.value) == "command line: server.a.drain_s: expected `float`, got `str`"
    assert caught.value.key == "server.a.drain_s"


def test_a_section_that_should_hold_tables_says_so() -> None:
    with pytest.raises(ConfigError, match=r"server: write a table \[server\.NAME\]"):
        load_config(environ={}, overrides={"server": 3})


def test_kinds_of_plugins_may_have_sections() -> None:
    config = load_config(environ={}, overrides={"rooms_backplane.local.size": 3})
    assert config.components == {"rooms_backplane": {"local": {"size": 3}}}


def test_an_endpoint_is_picked_by_name_or_as_the_only_one() -> None:
    one = load_config(environ={}, overrides={"server.a.listen": "memory://a"})
    assert one.server() is one.server("a")
    with pytest.raises(ConfigError, match=r"there is no section \[server\.b\]; there are: a"):
        one.server("b")
    with pytest.raises(ConfigError, match="name one of the client sections; there are: none"):
        one.client()
