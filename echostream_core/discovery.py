"""The discovery contract: finding and announcing endpoints. Snapshots and a watch of endpoints, never sockets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from echostream_core.transport import NoOptions

__all__ = ["Announcement", "Discovery", "DiscoverySpec", "Endpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One running instance of a service, as a discovery backend sees it."""

    service: str
    """The name it is advertised under."""
    instance: str
    """Unique among the instances of the service, stable while it runs."""
    urls: tuple[str, ...]
    """Where it listens, best first."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Codecs, server id, weight, user tags: text to text."""


class Announcement(ABC):
    """An endpoint that is being announced."""

    @abstractmethod
    async def update(self, endpoint: Endpoint) -> None:
        """Announce ``endpoint`` in place of the one before."""

    @abstractmethod
    async def withdraw(self) -> None:
        """Say goodbye and stop announcing. Idempotent."""


class Discovery(ABC):
    """Finds and announces endpoints. Made by ``DiscoverySpec.factory`` once per endpoint of ours."""

    @abstractmethod
    async def announce(self, endpoint: Endpoint) -> Announcement:
        """Make ``endpoint`` known until ``withdraw``. TransportError when the backend cannot be reached."""

    @abstractmethod
    def watch(self, service: str) -> AsyncIterator[Sequence[Endpoint]]:
        """Snapshots of all known instances of ``service``: at once what is known, then again after every change."""

    @abstractmethod
    async def suspect(self, endpoint: Endpoint) -> None:
        """Dialling ``endpoint`` failed: verify it again, and drop it if it is stale."""

    @abstractmethod
    async def close(self) -> None:
        """Withdraw everything and free all resources. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoverySpec:
    """What the hook ``echostream_discovery`` hands over: one per backend name."""

    name: str
    factory: Callable[[Any], Discovery]
    """Makes the backend from its validated options (an instance of ``options``)."""
    options: type[msgspec.Struct] = NoOptions
    """The schema of ``[discovery.NAME]``."""
    summary: str = ""
