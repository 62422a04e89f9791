"""The demo's parts that need no server: verdicts, the music, its own environment. The whole: tests/e2e/test_demo.py."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import pytest

from echostream_cli.demo_audio import RATE_HZ, write_music
from echostream_cli.demo_run import DemoReport
from echostream_cli.demo_screen import print_report
from echostream_cli.demo_setup import DemoFailed, environment, running_server, write_configuration
from echostream_cli.demo_trials import CHECKS, Row
from echostream_core.config import load_config

GOOD = dict.fromkeys(CHECKS, True)


def row(*, transport: str = "t", codec: str = "c", **changes: object) -> Row:
    """A row that is good but for the changes."""
    made = Row(transport, codec, 0.1, 0.2, 12345.6, 78.9, dict(GOOD))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_row_is_ok_when_every_check_held() -> None:
    assert row().ok
    assert row().verdict == "ok"


@pytest.mark.parametrize(
    ("bad", "verdict"),
    [
        (row(checks={**GOOD, "file": False}, problems=["file: damaged"]), "FAILED: file"),
        (row(problems=["cancel: a", "64 in flight: b"]), "FAILED: cancel, 64 in flight"),
        (row(checks={}), "FAILED"),
        (row(checks={name: True for name in CHECKS if name != "cancel"}), "FAILED"),
        (row(missing="not installed: pip install x", checks={}), "not installed: pip install x"),
    ],
)
def test_a_row_is_not_ok_when_anything_is_wrong_or_was_not_come_to(bad: Row, verdict: str) -> None:
    assert not bad.ok
    assert bad.verdict == verdict


def test_the_report_is_the_sum_of_its_rows() -> None:
    assert DemoReport(rows=[row()]).ok
    assert not DemoReport(rows=[]).ok
    assert not DemoReport(rows=[row(), row(problems=["file: damaged"])]).ok
    assert not DemoReport(rows=[row()], problems=["the server ended with status 1"]).ok


def test_what_is_missing_fails_only_when_it_was_asked_for_by_name() -> None:
    install = "not installed: pip install x"
    missing = row(transport="t", codec="x", missing=install, checks={})
    rows = [row(transport="t", codec="c"), missing]
    assert DemoReport(rows=rows, missing={"x": install}).ok
    assert DemoReport(rows=rows, missing={"x": install}, required={"t"}).ok, "the transport that was named is there"
    assert not DemoReport(rows=rows, missing={"x": install}, required={"x"}).ok
    assert not DemoReport(rows=[missing], missing={"x": install}).ok, "nothing was tried"


def test_the_table_shows_figures_failures_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    bad = row(transport="u", checks={**GOOD, "file": False}, problems=["file: the file arrived damaged"])
    install = "not installed: pip install x"
    missing = row(transport="x", missing=install, checks={})
    rows = [row(), bad, missing]
    print_report(DemoReport(rows=rows, missing={"x": install}, file_name="a.wav", file_bytes=3_500_000, seconds=12.0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["t", "c", "0.10", "0.20", "12,346", "78.9", "ok", "ok"]
    assert lines[2].split() == ["u", "c", "0.10", "0.20", "12,346", "78.9", "FAILED", "FAILED"]
    assert lines[3].split() == ["x", "c", "-", "-", "-", "-", "-", "not", "installed"]
    assert "FAILED u c, file: the file arrived damaged" in lines
    assert lines[-2:] == ["x: not installed: pip install x", "1 of 3 combinations failed, 1 not installed."]


def test_the_music_is_a_file_that_can_be_played(tmp_path: Path) -> None:
    write_music(tmp_path / "music.wav", chords=5)
    with wave.open(str(tmp_path / "music.wav"), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, RATE_HZ)
        assert file.getnframes() == 5 * 2.5 * RATE_HZ
        samples = memoryview(file.readframes(file.getnframes())).cast("h")
    assert max(samples) > 10_000, "it can be heard"
    assert max(abs(value) for value in samples) < 32_000, "and does not clip"


def test_the_configuration_files_are_right(tmp_path: Path) -> None:
    write_configuration(tmp_path, ["memory://a", "memory://b"], encrypted=["memory"])
    config = load_config(tmp_path / "server.toml", tmp_path / "client.toml", environ={})
    assert config.server().listen == ("memory://a", "memory://b")
    assert config.client().url == ("memory://a",)
    assert config.section("transport", "memory") == {"tls": {"dev": True}}


def test_the_environment_is_as_before_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSTREAM__SERVER__X__LISTEN", "memory://x")
    before = dict(os.environ)
    with pytest.raises(ValueError, match="out"), environment({"ADDED": "1"}, without="ECHOSTREAM__"):
        assert os.environ["ADDED"] == "1"
        assert "ECHOSTREAM__SERVER__X__LISTEN" not in os.environ
        raise ValueError("out")
    assert dict(os.environ) == before


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    write_configuration(tmp_path, ["memory://x"], [], services="no_such_module:Demo")
    with pytest.raises(DemoFailed, match="no module 'no_such_module'"), running_server(tmp_path):
        pass
