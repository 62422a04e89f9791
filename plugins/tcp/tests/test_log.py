"""The log of those who are turned away."""

from __future__ import annotations

import asyncio

import pytest

from echostream_tcp import _log
from echostream_tcp._log import ComplaintLog
from plugins.tcp.tests.recording import LogLines


async def test_a_few_lines_are_written_and_the_rest_is_counted(log: LogLines) -> None:
    complaints = ComplaintLog("tls://x:1")
    for number in range(_log.BURST_LINES + 7):
        complaints.warn(f"number {number}")
    assert log.lines == [f"tls://x:1: number {number}" for number in range(_log.BURST_LINES)]
    complaints.flush()
    complaints.flush()
    assert log.lines[-1] == "tls://x:1: 7 more of such warnings were left out"
    assert len(log.lines) == _log.BURST_LINES + 1


async def test_the_count_is_told_without_being_asked(log: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_log, "SUMMARY_S", 0.01)
    monkeypatch.setattr(_log, "BURST_LINES", 1)
    monkeypatch.setattr(_log, "LINES_PER_S", 0.0)
    complaints = ComplaintLog("tls://x:1")
    for _ in range(3):
        complaints.warn("x")
    assert (await log.wait(2))[1] == "tls://x:1: 2 more of such warnings were left out"


async def test_lines_become_free_again_with_time(log: LogLines, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now, raising=False)
    complaints = ComplaintLog("tls://x:1")
    for _ in range(_log.BURST_LINES):
        complaints.warn("x")
    now += 2.5
    for _ in range(4):
        complaints.warn("y")
    assert log.lines.count("tls://x:1: y") == 2
    complaints.flush()
