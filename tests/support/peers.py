"""Independent programs that tests run ours against: what is absent is skipped, or fails where it has to be there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

__all__ = ["absent", "is_required"]

VARIABLE = "ECHOSTREAM_REQUIRE_PEERS"
"""``1`` for all of them, or names separated by commas: browser, quinn, autobahn, nginx, node, avahi."""


def is_required(peer: str) -> bool:
    """Whether tests against ``peer`` must not be skipped here."""
    wanted = os.environ.get(VARIABLE, "")
    return wanted == "1" or peer in wanted.split(",")


def absent(peer: str, reason: str) -> NoReturn:
    """Skip the test, because ``peer`` is not to be had; fail it where that is required."""
    if is_required(peer):
        pytest.fail(f"{VARIABLE}={os.environ[VARIABLE]}, but {reason}", pytrace=False)
    pytest.skip(reason)
