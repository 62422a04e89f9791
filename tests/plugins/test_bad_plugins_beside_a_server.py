"""Six bad plugins beside a real server: it starts, the command line names them, and who refers to one cannot start."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.six_bad import CODES, install_six_bad_plugins

ROOT = Path(__file__).resolve().parents[2]
needs_cli_and_tcp = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("echostream_cli", "echostream_tcp")),
    reason="needs echostream-cli and echostream-tcp",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("six_bad")
    install_six_bad_plugins(folder)
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, input="", check=False)


@needs_cli_and_tcp
def test_plugins_check_names_all_six_with_their_codes(environment: dict[str, str]) -> None:
    ran = run(environment, "echostream_cli", "plugins", "check")
    assert ran.returncode == 1
    for distribution, (_, code) in CODES.items():
        assert distribution in ran.stdout, ran.stdout
        assert code in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr


@needs_cli_and_tcp
def test_a_tcp_server_starts_and_drains(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text('[server.public]\nlisten = "tcp://127.0.0.1:0"\n', encoding="utf-8")
    ran = run(environment, "echostream_core", "serve", str(file), "--json", "--stop-with-input")
    assert ran.returncode == 0, ran.stderr
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert any("tcp://127.0.0.1:" in json.dumps(event) for event in events)


@pytest.mark.parametrize(("scheme", "code"), CODES.values(), ids=list(CODES))
def test_who_refers_to_a_bad_one_cannot_start(
    environment: dict[str, str], tmp_path: Path, scheme: str, code: str
) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text(f'[server.public]\nlisten = "{scheme}://127.0.0.1:0"\n', encoding="utf-8")
    ran = run(environment, "echostream_core", "serve", str(file))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert code in ran.stderr
    assert "Traceback" not in ran.stderr
