"""What a peer's closing code and reason become."""

from __future__ import annotations

import pytest

from echostream_core.errors import CloseCode, ConnectionLost, EndOfStream
from echostream_core.wire.closing import closed_by_peer


def test_an_orderly_close_is_the_end_of_the_stream() -> None:
    error = closed_by_peer("memory://x", CloseCode.OK, "")
    assert isinstance(error, EndOfStream)
    assert str(error) == "closed by the peer memory://x with code 0 (OK)"


@pytest.mark.parametrize("code", [code for code in CloseCode if code])
def test_any_other_known_code_is_a_loss_that_names_it(code: CloseCode) -> None:
    error = closed_by_peer("memory://x", code, "why")
    assert isinstance(error, ConnectionLost)
    assert error.close_code == code
    assert str(error) == f"closed by the peer memory://x with code {int(code)} ({code.name}): why"


def test_a_code_that_nobody_knows_is_kept() -> None:
    error = closed_by_peer("memory://x", 0xFFFF_FFFF, "")
    assert isinstance(error, ConnectionLost)
    assert error.close_code == 0xFFFF_FFFF
    assert "unknown" in str(error)


def test_a_reason_is_escaped_and_cut() -> None:
    short = str(closed_by_peer("memory://x", 1, "a\n\x1b[2J\u202e'b'"))
    assert short.isprintable()
    assert "a\\n\\x1b[2J\\u202e" in short
    long = str(closed_by_peer("memory://x", 1, "\0" * 1000))
    assert long.endswith("…")
    assert len(long) < 300
