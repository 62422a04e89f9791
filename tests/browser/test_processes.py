"""The tests' own machinery: what it starts ends, however it ends, and what is missing is said."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.browser import chromium as machinery
from tests.browser.chromium import Chromium, find_chromium, find_node, require

ROOT = Path(__file__).resolve().parents[2]


def test_a_browser_that_is_closed_leaves_nothing() -> None:
    browser = Chromium()
    assert len(browser.processes) > 2
    browser.close()
    assert browser.left_over() == []


def test_a_browser_whose_driver_is_killed_leaves_nothing() -> None:
    browser = Chromium()
    try:
        os.kill(browser.driver, signal.SIGKILL)
        end = time.monotonic() + 10
        while any(map(machinery.is_alive, browser.processes)) and time.monotonic() < end:
            time.sleep(0.02)
        with pytest.raises(AssertionError, match="the driver has ended"):
            browser.open("about:blank")
    finally:
        browser.close()
    assert browser.left_over() == []


def test_what_is_missing_skips_a_test_and_fails_it_where_everything_must_be_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ECHOSTREAM_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"run scripts/browser\.sh"):
        require("Node is not installed: run scripts/browser.sh")
    monkeypatch.setenv("ECHOSTREAM_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match=r"run scripts/browser\.sh"):
        require("Node is not installed: run scripts/browser.sh")


@pytest.mark.parametrize(
    ("absent", "named"),
    [
        (["node"], "Node"),
        (["chromium", "chromium-browser", "google-chrome"], "Chromium"),
        (["playwright-core"], "playwright-core"),
    ],
    ids=["node", "chromium", "playwright-core"],
)
def test_each_part_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, absent: list[str], named: str
) -> None:
    monkeypatch.delenv("ECHOSTREAM_REQUIRE_PEERS", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None if name in absent else f"/usr/bin/{name}")
    monkeypatch.setattr(machinery, "MODULES", tmp_path)
    if "playwright-core" not in absent:
        (tmp_path / "playwright-core").mkdir()
    with pytest.raises(pytest.skip.Exception, match=rf"{named}.*scripts/browser\.sh"):
        Chromium()


def test_the_script_has_nothing_to_do_when_all_is_there() -> None:
    find_node()
    find_chromium()
    if not (machinery.MODULES / "playwright-core").is_dir():
        require("playwright-core is not installed: run scripts/browser.sh")
    done = subprocess.run([ROOT / "scripts/browser.sh"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
