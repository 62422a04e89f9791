"""The transports that are installed, each with what a server and a client need to use it in a test.

``memory`` is always there. The others are asked for by the kernel's index: a plugin that is not installed leaves its
parameter out, so that the kernel's tests pass without it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echostream_core import Kernel
from tests.support.pairs import memory_url

__all__ = ["ONE_LOOP", "Endpoint", "endpoint", "installed_schemes", "loops_of"]

_ORDER = ("memory", "tcp", "tls", "unix", "quic", "ws", "wss", "wt")
_WITHOUT_TLS = ("tcp", "ws")
_DEVELOPMENT_TLS = {"tls": {"dev": True}}

ONE_LOOP = {"tls": "uvloop", "unix": "asyncio", "ws": "uvloop", "wss": "asyncio", "wt": "asyncio"}
"""Transports over which tests with the fixture ``transport`` run on one loop only, and on which.

Each is a wrapper of one that runs on every loop: ``tls`` and ``unix`` share all but the socket with ``tcp``, ``ws`` and
``wss`` are pipes above it, and ``wt`` stands on ``quic``. Together they meet both loops, and what is their own is
tested with their plugins.
"""


@dataclass(frozen=True)
class Endpoint:
    """Where to listen, and the keywords that both ends need beside the URL."""

    scheme: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def muxed(self) -> bool:
        """True where the kernel's mux makes the substreams."""
        return Kernel().transport(self.scheme).capabilities.streams == "muxed"

    @property
    def encrypted(self) -> bool:
        """True where credentials may travel."""
        return Kernel().transport(self.scheme).capabilities.encrypted


def installed_schemes(*, among: tuple[str, ...] = _ORDER) -> list[str]:
    """Those of ``among`` that are installed, in their order; only those in ECHOSTREAM_TEST_TRANSPORTS, if it is set."""
    known = Kernel().known("transport")
    chosen = os.environ.get("ECHOSTREAM_TEST_TRANSPORTS", "").split() or among
    return [scheme for scheme in among if scheme in known and scheme in chosen]


def loops_of(scheme: str, loops: Collection[str]) -> list[str]:
    """Those of ``loops`` on which ``scheme`` is to be tested: one for a wrapper, if it is among them, otherwise all."""
    own = ONE_LOOP.get(scheme, "")
    return [own] if own in loops else list(loops)


def endpoint(scheme: str, folder: Path) -> Endpoint:
    """An address that nobody uses; ``folder`` is the test's own."""
    if scheme == "memory":
        return Endpoint(scheme, memory_url())
    if scheme == "unix":
        return Endpoint(scheme, f"unix://{folder / 'socket'}")
    return Endpoint(scheme, f"{scheme}://127.0.0.1:0", {} if scheme in _WITHOUT_TLS else dict(_DEVELOPMENT_TLS))
