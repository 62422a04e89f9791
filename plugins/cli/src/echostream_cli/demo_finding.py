"""How the demo's client comes to its server: by mDNS on the loopback interface, or by addresses that it was told."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from echostream_core import EchoStreamError, Kernel, PluginMissingDependency, PluginNotFound, watch_endpoints
from echostream_core.config import load_config

__all__ = ["BACKEND", "Finding", "find_server", "new_name"]

BACKEND: Final = "mdns"
PATIENCE_S: Final = 8.0


@dataclass(slots=True)
class Finding:
    """What came of looking for the server."""

    name: str = ""
    """Under which it is announced; empty: the backend is not there, and addresses are used."""
    instance: str = ""
    """Who answered; empty: nobody."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Scheme → URL, as it is announced; without Unix sockets, which no other machine can reach."""
    seconds: float = 0.0
    """How long that took, from the moment at which the server was ready."""
    problem: str = ""
    """Why it was not found, or what to install."""

    @property
    def found(self) -> bool:
        """Whether discovery has found it."""
        return bool(self.instance)

    def as_dict(self) -> dict[str, object]:
        """The finding as plain data."""
        return {
            "backend": BACKEND,
            "instance": self.instance,
            "seconds": round(self.seconds, 3),
            "problem": self.problem,
        }


def new_name() -> Finding:
    """A name that no other demo on this machine uses; without one where the backend is not installed."""
    try:
        Kernel().discovery(BACKEND)
    except (PluginNotFound, PluginMissingDependency) as error:
        _, found, command = error.fix.partition("pip install ")
        return Finding(problem=f"not installed: pip install {command}" if found else str(error))
    except EchoStreamError as error:
        return Finding(problem=str(error))
    return Finding(name=f"demo-{secrets.token_hex(4)}")


async def find_server(finding: Finding, configuration: Path) -> None:
    """Wait until the server is seen; what came of it goes to ``finding``.

    Once, not for each combination: a responder may not repeat within a second what it has just said, so that asking
    again takes as long.
    """
    begin = time.perf_counter()
    config = load_config(configuration)
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with aclosing(watch_endpoints(finding.name, discovery=BACKEND, config=config)) as snapshots:
                async for snapshot in snapshots:
                    if snapshot:
                        finding.instance = snapshot[0].instance
                        finding.addresses = {url.partition("://")[0]: url for url in snapshot[0].urls}
                        break
    except TimeoutError:
        finding.problem = f"the server was not seen within {PATIENCE_S:g} s"
    except EchoStreamError as error:
        finding.problem = str(error)
    finding.seconds = time.perf_counter() - begin
