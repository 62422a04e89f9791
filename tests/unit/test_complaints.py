"""Warnings about peers are few, and say what was left out."""

from __future__ import annotations

import logging

import pytest

from echostream_core.complaints import BURST_LINES, LINES_PER_S, ComplaintLog, printable


def test_few_lines_are_written_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    log = ComplaintLog(logging.getLogger("echostream.test"), lambda: now)
    for number in range(BURST_LINES + 7):
        log.warn(f"number {number}")
    assert [record.getMessage() for record in caplog.records] == [f"number {number}" for number in range(BURST_LINES)]
    now += 1 / LINES_PER_S
    log.warn("later")
    log.warn("too soon")
    assert caplog.records[-1].getMessage() == "later (7 warnings before this one were left out)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"a\r\n\x1b[31m", r"b'a\r\n\x1b[31m'"),
        ("zeile\nzwei\u202e", r"'zeile\nzwei\u202e'"),
        (12, "'12'"),
        ("x" * 500, "'" + "x" * 80 + "'"),
    ],
)
def test_what_strangers_say_is_escaped_and_cut(text: object, shown: str) -> None:
    assert printable(text) == shown


def test_even_escaped_it_stays_short() -> None:
    assert len(printable("\n" * 500)) <= 161 + 1
    assert len(printable("\U0001f600" * 500)) <= 161
