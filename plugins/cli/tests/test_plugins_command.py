"""``echostream plugins``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from echostream_core import resolver
from plugins.cli.tests.conftest import Done, Run, install, process

BROKEN = "raise ImportError('no such luck')\n"


@pytest.fixture
def with_broken(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with one plugin that cannot be imported."""
    folder = tmp_path / "site"
    install(
        folder,
        "acme-broken",
        BROKEN,
        {"plugins": {"broken": "acme_broken"}, "transports": {"acme": "acme_broken"}},
    )
    return folder


def run_with(site: Path, *arguments: str) -> Done:
    """The command, with what is installed in ``site``."""
    return process(*arguments, folder=site, environ={"PYTHONPATH": str(site)})


def test_list_has_a_line_per_plugin_with_what_it_provides(echostream: Run) -> None:
    done = echostream("plugins", "list")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["NAME", "DISTRIBUTION", "VERSION", "PROVIDES"]
    assert [line.split()[0::3] for line in lines if line.startswith("memory ")] == [["memory", "transport.memory"]]


def test_list_as_json_is_the_reports(echostream: Run) -> None:
    reports = json.loads(echostream("plugins", "list", "--json").out)
    assert {"memory", "json"} <= {report["name"] for report in reports}
    assert {report["state"] for report in reports} == {"indexed"}


def test_check_finds_nothing_wrong_with_ours(echostream: Run) -> None:
    done = echostream("plugins", "check")
    assert done.status == 0, done.out
    assert done.out.splitlines()[-1].endswith("plugins are well.")


def test_check_names_the_broken_one_with_code_and_fix(with_broken: Path) -> None:
    done = run_with(with_broken, "plugins", "check")
    assert done.status == 1
    (line,) = [line for line in done.out.splitlines() if "acme-broken/broken" in line]
    assert line.startswith("E-IMPORT ")
    assert "no such luck" in line
    assert "uninstall" in line or "block" in line
    assert "Traceback" not in done.err


def test_check_as_json(with_broken: Path) -> None:
    done = run_with(with_broken, "plugins", "check", "--json")
    assert done.status == 1
    reports = {report["name"]: report for report in json.loads(done.out)}
    assert reports["broken"]["code"] == "E-IMPORT"
    assert reports["memory"]["code"] == ""


def test_a_blocked_plugin_is_not_checked(with_broken: Path) -> None:
    (with_broken / "echostream.toml").write_text('[plugins]\nblock = ["acme-broken"]\n', encoding="utf-8")
    done = run_with(with_broken, "plugins", "check", "--config", "echostream.toml")
    assert done.status == 0
    assert any(line.startswith("blocked") and "acme-broken" in line for line in done.out.splitlines())
    assert "problem" in run_with(with_broken, "plugins", "list", "--config", "echostream.toml").out.lower()


@pytest.mark.parametrize("name", ["memory", "echostream-core/memory", "transport.memory"])
def test_inspect_finds_a_plugin_by_any_of_its_names(echostream: Run, name: str) -> None:
    done = echostream("plugins", "inspect", name)
    assert done.status == 0
    assert "echostream-core" in done.out
    assert "\ntransport memory" in done.out
    assert any(line.split()[:2] == ["can", "streams"] for line in done.out.splitlines())


def test_inspect_shows_each_option_with_its_default(echostream: Run) -> None:
    found = json.loads(echostream("plugins", "inspect", "json", "--json").out)
    (offer,) = found["offers"]
    assert offer["kind"] == "codec"
    for option in offer["options"]:
        assert {"name", "type", "required"} <= set(option)
        assert "Annotated" not in option["type"]


def test_inspect_of_a_broken_plugin_says_what_is_wrong(with_broken: Path) -> None:
    done = run_with(with_broken, "plugins", "inspect", "broken")
    assert done.status == 1
    assert "E-IMPORT: " in done.out


def test_inspect_suggests_the_nearest_name(echostream: Run) -> None:
    done = echostream("plugins", "inspect", "memry")
    assert done.status == 2
    assert "did you mean 'memory'?" in done.err


def test_inspect_of_a_distribution_with_several_plugins_asks_which(echostream: Run) -> None:
    done = echostream("plugins", "inspect", "echostream-core")
    assert done.status == 2
    assert "echostream-core/memory" in done.err


@pytest.mark.parametrize("name", ["memory", "transport.memory", "transports.memory", "memory://here"])
def test_why_explains_the_way_to_a_plugin(echostream: Run, name: str) -> None:
    done = echostream("plugins", "why", name)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == "transport memory"
    assert lines[-1].endswith("transport memory is provided by echostream-core/memory")


def test_why_says_what_to_install(echostream: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_hints", lambda: {"transport": {"pigeon": "echostream-pigeon"}})
    done = echostream("plugins", "why", "pigeon")
    assert done.status == 1
    assert "E-NO-PROVIDER" in done.out
    assert "pip install echostream-pigeon" in done.out


def test_why_as_json(echostream: Run) -> None:
    found = json.loads(echostream("plugins", "why", "json", "--json").out)
    assert (found["kind"], found["name"], found["resolved"]) == ("codec", "json", True)
    found = json.loads(echostream("plugins", "why", "nobody", "--kind", "codec", "--json").out)
    assert found["resolved"] is False


def test_new_makes_a_package_and_says_what_to_do_next(echostream: Run, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    done = echostream("plugins", "new", "codec", "tagged", "--directory", str(folder), "--author", "Ada Lovelace")
    assert (done.status, done.err) == (0, "")
    assert "  src/echostream_codec_tagged/codec.py" in done.out.splitlines()
    assert done.out.splitlines()[-1] == f"  python -m pytest {folder}"
    assert "Ada Lovelace" in (folder / "LICENSE").read_text(encoding="utf-8")


def test_new_as_json(echostream: Run, tmp_path: Path) -> None:
    done = echostream("plugins", "new", "middleware", "call-log", "--directory", str(tmp_path), "--json")
    assert json.loads(done.out)["distribution"] == "echostream-middleware-call-log"


def test_new_refuses_a_folder_that_holds_something_until_it_is_forced(echostream: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    arguments = ("plugins", "new", "codec", "tagged", "--directory", str(tmp_path))
    done = echostream(*arguments)
    assert (done.status, done.out) == (2, "")
    assert "--force" in done.err
    assert echostream(*arguments, "--force").status == 0
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_new_refuses_a_name_with_advice(echostream: Run) -> None:
    done = echostream("plugins", "new", "transport", "My_Pipe")
    assert (done.status, done.out) == (2, "")
    assert "write 'my-pipe'" in done.err
