"""``echostream config``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugins.cli.tests.conftest import Run

GOOD = """\
[server.public]
listen = "memory://shop"
services = "shop_for_config:price"
drain_s = 5

[client.shop]
url = "memory://shop"
credentials.token = "hush"
insecure_credentials = true
"""
SHOP = """\
from echostream_core import handler

@handler("shop.price")
def price(item: str) -> int:
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A right configuration."""
    (tmp_path / "shop_for_config.py").write_text(SHOP, encoding="utf-8")
    path = tmp_path / "echostream.toml"
    path.write_text(GOOD, encoding="utf-8")
    return str(path)


def test_check_is_content_with_a_right_one(echostream: Run, file: str) -> None:
    done = echostream("config", "check", file)
    assert (done.status, done.out) == (0, f"{file}: ok\n")
    assert json.loads(echostream("config", "check", file, "--json").out) == {"ok": True, "problems": []}


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("server.public.lisen=memory://x", "did you mean 'listen'?"),
        ("server.public.listen=nothing://x", "E-NO-PROVIDER"),
        ("server.public.drain_s=soon", "server.public.drain_s"),
        ("server.public.codecs=jsn", "E-NO-PROVIDER"),
        ("server.public.services=shop_for_config:prize", "has no 'prize'"),
        ("server.public.services=no_such_module:x", "no module 'no_such_module'"),
        ("server.public.require=migration", "require"),
        ("sever.public.listen=x", "did you mean 'server'?"),
    ],
)
def test_check_names_the_key_and_the_fix(echostream: Run, file: str, setting: str, text: str) -> None:
    done = echostream("config", "check", file, "--set", setting)
    assert done.status == 1
    assert text in done.out
    assert "1 problem" in done.out.splitlines()[-1]
    assert done.err == ""


def test_check_reports_all_problems_at_once(echostream: Run, file: str) -> None:
    settings = ["--set", "server.public.drain_s=soon", "--set", "client.shop.urls=x"]
    found = json.loads(echostream("config", "check", file, *settings, "--json").out)
    assert found["ok"] is False
    assert len(found["problems"]) == 2


def test_check_may_leave_the_services_alone(echostream: Run, file: str) -> None:
    setting = "server.public.services=no_such_module:x"
    assert echostream("config", "check", file, "--set", setting, "--no-services").status == 0


def test_a_service_module_that_raises_is_one_more_problem(echostream: Run, file: str) -> None:
    (Path(file).parent / "falls_over_for_config.py").write_text("1 / 0\n", encoding="utf-8")
    done = echostream("config", "check", file, "--set", "server.public.services=falls_over_for_config:x")
    assert done.status == 1
    assert "ZeroDivisionError" in done.out


def test_a_later_file_overrides_an_earlier_one(echostream: Run, file: str, tmp_path: Path) -> None:
    second = tmp_path / "production.toml"
    second.write_text("[server.public]\ndrain_s = 60\n", encoding="utf-8")
    rows = {row["key"]: row for row in json.loads(echostream("config", "show", file, str(second), "--json").out)}
    assert rows["server.public.drain_s"] == {"key": "server.public.drain_s", "value": 60.0, "source": str(second)}
    assert rows["server.public.listen"]["source"] == file


def test_show_has_a_line_per_setting_with_its_source(
    echostream: Run, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOSTREAM__SERVER__PUBLIC__DRAIN_S", "7")
    lines = echostream("config", "show", file, "--set", "server.public.codecs=json").out.splitlines()
    found = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert found["server.public.drain_s"] == ["7.0", "environment variable ECHOSTREAM__SERVER__PUBLIC__DRAIN_S"]
    assert found["server.public.codecs"] == ['["json"]', "command line"]
    assert found["server.public.health"] == ["true", "default"]


def test_show_hides_secrets(echostream: Run, file: str) -> None:
    for form in ((), ("--json",)):
        done = echostream("config", "show", file, *form)
        assert "hush" not in done.out
        assert "***" in done.out


def test_schema_is_json_and_knows_the_plugins(echostream: Run) -> None:
    schema = json.loads(echostream("config", "schema").out)
    assert {"plugins", "server", "client", "transport", "codec"} <= set(schema["properties"])
    assert "memory" in schema["properties"]["transport"]["properties"]
