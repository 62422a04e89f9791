"""Shell completion: commands, options, and names that the installation knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.cli.tests.conftest import process


def complete(folder: Path, line: str) -> list[str]:
    """What bash offers at the end of ``line``."""
    words = line.split(" ")
    environ = {
        "_ECHOSTREAM_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = process(folder=folder, environ=environ)
    assert "Traceback" not in done.err
    return done.out.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("echostream pl", ["plugins"]),
        ("echostream plugins wh", ["why"]),
        ("echostream demo --tran", ["--transports"]),
        ("echostream plugins inspect mem", ["memory"]),
        ("echostream plugins why js", ["json"]),
        ("echostream call memory://x a.b --codec js", ["json"]),
    ],
)
def test_commands_options_and_plugins_are_completed(tmp_path: Path, line: str, offered: list[str]) -> None:
    assert complete(tmp_path, line) == offered


def test_the_servers_of_the_file_are_completed(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text('[server.public]\nlisten = "memory://x"\n[client.shop]\n', encoding="utf-8")
    assert complete(tmp_path, "echostream serve shop.toml --name p") == ["public"]
    assert complete(tmp_path, "echostream call --config shop.toml --client s") == ["shop"]
    assert complete(tmp_path, "echostream serve nowhere.toml --name p") == []


def test_the_script_for_a_shell_is_shown(tmp_path: Path) -> None:
    environ = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = process("--show-completion", "bash", folder=tmp_path, environ=environ)
    assert done.status == 0
    assert "_ECHOSTREAM_COMPLETE=complete_bash" in done.out
