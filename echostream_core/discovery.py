"""The discovery contract: finding and announcing endpoints. Snapshots and a watch of endpoints, never sockets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from echostream_core.errors import ConfigError
from echostream_core.transport import NoOptions
from echostream_core.types import Url

__all__ = ["Advertise", "Announcement", "Discovery", "DiscoverySpec", "Endpoint"]

DEFAULT_WEIGHT: Final = 100
MAX_WEIGHT: Final = 1_000_000
OWN_ATTRIBUTES: Final = frozenset({"server", "transports", "codecs", "weight"})
"""The attributes that a server sets by itself; no tag may be called so."""


class Advertise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a server is announced: ``RpcServer(..., advertise=Advertise("calc", tags={"zone": "eu"}))``, or the table
    ``[server.NAME.advertise]``. A text alone is the name.
    """

    name: str
    """What clients discover it by."""
    weight: int = DEFAULT_WEIGHT
    """Its share of new clients beside the weights of the other instances; 0: only where there is no other."""
    tags: dict[str, str] = {}
    """Attributes of the user's own, which ``where`` can ask for."""
    instance: str = ""
    """A name for this instance; empty: made of the host's name and the server's id."""
    urls: tuple[str, ...] = ()
    """Addresses to announce instead of the listening ones, for a server behind a proxy or an address translation."""

    def __post_init__(self) -> None:
        """ConfigError, naming the field, for a value that makes no sense."""
        for field_name in ("name", "instance"):
            text = getattr(self, field_name)
            if not isinstance(text, str):
                raise ConfigError(
                    f"advertise: {field_name} must be a text, not {text!r}", key=f"advertise.{field_name}"
                )
        if not self.name.strip():
            raise ConfigError("advertise: the name must not be empty", key="advertise.name")
        if type(self.weight) is not int:  # True and 1.5 would be announced as they are, and count as 100 for others
            raise ConfigError(f"advertise: weight must be a whole number, not {self.weight!r}", key="advertise.weight")
        if not 0 <= self.weight <= MAX_WEIGHT:
            raise ConfigError(
                f"advertise: weight must be from 0 to {MAX_WEIGHT}, not {self.weight}", key="advertise.weight"
            )
        if not isinstance(self.tags, Mapping):
            raise ConfigError(f"advertise: tags must be a table, not {self.tags!r}", key="advertise.tags")
        for tag, value in self.tags.items():
            if not isinstance(tag, str) or not isinstance(value, str):
                raise ConfigError(f"advertise: the tag {tag!r} must be a text, not {value!r}", key="advertise.tags")
        taken = sorted(OWN_ATTRIBUTES.intersection(self.tags))
        if taken:
            raise ConfigError(f"advertise: the tag {taken[0]!r} is set by the server itself", key="advertise.tags")
        if isinstance(self.urls, str):
            raise ConfigError(f"advertise: urls must be a list, not {self.urls!r}", key="advertise.urls")
        for url in self.urls:
            Url.parse(url, key="advertise.urls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One running instance of a service, as a discovery backend sees it."""

    service: str
    """The name it is advertised under."""
    instance: str
    """Unique among the instances of the service, stable while it runs."""
    urls: tuple[str, ...]
    """Where it listens, best first. A wildcard host (``0.0.0.0``, ``[::]``) is for ``announce`` only: it stands for
    whatever address of this host others reach it by, and what ``watch`` yields has such addresses in its place."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Text to text. Ours are ``server`` (its id), ``transports`` and ``codecs`` (names, comma-separated) and ``weight``
    (a whole number, 100 unless said otherwise); all others are the user's tags."""


class Announcement(ABC):
    """An endpoint that is being announced."""

    endpoint: Endpoint
    """What is announced now, under the instance name that it got."""

    @abstractmethod
    async def update(self, endpoint: Endpoint) -> None:
        """Announce ``endpoint`` in place of the one before.

        Its instance may be the name that was asked for at first or the one that it got: both mean the latter.
        """

    @abstractmethod
    async def withdraw(self) -> None:
        """Say goodbye and stop announcing. Idempotent."""


class Discovery(ABC):
    """Finds and announces endpoints. Made by ``DiscoverySpec.factory`` once per endpoint of ours."""

    @abstractmethod
    async def announce(self, endpoint: Endpoint) -> Announcement:
        """Make ``endpoint`` known until ``withdraw``. TransportError when the backend cannot be reached.

        An instance name that somebody else has already is made unique by the backend; ``Announcement.endpoint`` tells.
        """

    @abstractmethod
    def watch(self, service: str | None = None) -> AsyncIterator[Sequence[Endpoint]]:
        """Snapshots of all known instances of ``service`` (None: of every service): at once what is known, perhaps
        nothing yet, then again after every change.
        """

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
