"""The kernel's own transport passes the suite that ships with the test kit, where that is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from echostream_core.testing import VirtualLoop

if TYPE_CHECKING:
    from echostream_testkit import TransportConformance
else:
    TransportConformance = pytest.importorskip(
        "echostream_testkit", reason="the suite is part of echostream-testkit, which is not installed"
    ).TransportConformance


class TestMemory(TransportConformance):
    url = "memory://{name}"


class TestMemoryInVirtualTime(TransportConformance):
    url = "memory://{name}"
    loop_factory = VirtualLoop
