"""The transports that are installed, each with what a server and a client need to use it in a test.

``memory`` is always there. The others are asked for by the kernel's index: a plugin that is not installed leaves its
parameter out, so that the kernel's tests pass without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echostream_core import Kernel
from tests.support.pairs import memory_url

__all__ = ["Endpoint", "endpoint", "installed_schemes"]

_ORDER = ("memory", "tcp", "tls", "unix", "quic")
_DEVELOPMENT_TLS = {"tls": {"dev": True}}


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
    """Those of ``among`` that are installed, in their order."""
    known = Kernel().known("transport")
    return [scheme for scheme in among if scheme in known]


def endpoint(scheme: str, folder: Path) -> Endpoint:
    """An address that nobody uses; ``folder`` is the test's own."""
    if scheme == "memory":
        return Endpoint(scheme, memory_url())
    if scheme == "unix":
        return Endpoint(scheme, f"unix://{folder / 'socket'}")
    return Endpoint(scheme, f"{scheme}://127.0.0.1:0", {} if scheme == "tcp" else dict(_DEVELOPMENT_TLS))
