"""The suite of the test kit on ``wt://``."""

from __future__ import annotations

from typing import Any, ClassVar

from echostream_testkit import TransportConformance


class TestWebTransport(TransportConformance):
    url = "wt://127.0.0.1:0/session"
    options: ClassVar[dict[str, Any]] = {"tls": {"dev": True}, "idle_timeout_s": 2.0}
