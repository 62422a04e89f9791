"""A discovery backend within one process that keeps the contract: backends of the same network see each other.

The medium is a table of records that every backend object looks into. A record whose announcer has been killed stays in
it, as it would in a registry, until somebody suspects it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import msgspec

from echostream_core.discovery import Announcement, Discovery, DiscoverySpec, Endpoint
from echostream_core.errors import ResourceClosed

__all__ = [
    "SPEC",
    "DelayedDiscovery",
    "DelayedNetwork",
    "Network",
    "Record",
    "ReferenceAnnouncement",
    "ReferenceDiscovery",
    "ReferenceOptions",
    "filled_in",
    "make_spec",
]


class ReferenceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of the reference backend."""

    network: str = "default"


@dataclass(eq=False)
class Record:
    """One announced endpoint on the medium; ``alive`` is what a probe of its announcer would find."""

    endpoint: Endpoint
    alive: bool = True


@dataclass
class Network:
    """The medium: what is announced, and who wants to be told of changes."""

    records: list[Record] = field(default_factory=list)
    wakers: list[asyncio.Event] = field(default_factory=list)

    def changed(self) -> None:
        for waker in list(self.wakers):
            waker.set()


class ReferenceAnnouncement(Announcement):
    """See the module's docstring."""

    def __init__(self, owner: ReferenceDiscovery, record: Record, asked: str) -> None:
        self.owner = owner
        self.record = record
        self.asked = asked
        self.endpoint = record.endpoint

    async def update(self, endpoint: Endpoint) -> None:
        if self.record not in self.owner.network.records:
            raise ResourceClosed("this announcement was withdrawn: announce again")
        if endpoint.instance == self.asked:
            endpoint = replace(endpoint, instance=self.record.endpoint.instance)
        self.endpoint = self.record.endpoint = endpoint
        self.owner.network.changed()

    async def withdraw(self) -> None:
        if self.record in self.owner.network.records:
            self.owner.network.records.remove(self.record)
            self.owner.network.changed()

    def kill(self) -> None:
        """The announcer's process ends without a goodbye."""
        self.record.alive = False


class ReferenceDiscovery(Discovery):
    """See the module's docstring. Mutations override one method."""

    announcement_class: type[ReferenceAnnouncement] = ReferenceAnnouncement

    def __init__(self, network: Network) -> None:
        self.network = network
        self.announcements: list[ReferenceAnnouncement] = []
        self.wakers: list[asyncio.Event] = []
        self.closed = False

    async def announce(self, endpoint: Endpoint) -> Announcement:
        self.check_open()
        record = Record(replace(endpoint, instance=self.free_name(endpoint)))
        self.network.records.append(record)
        announcement = self.announcement_class(self, record, endpoint.instance)
        self.announcements.append(announcement)
        self.network.changed()
        return announcement

    def free_name(self, endpoint: Endpoint) -> str:
        taken = {
            record.endpoint.instance
            for record in self.network.records
            if record.endpoint.service == endpoint.service and record.alive
        }
        names = (f"{endpoint.instance}-{number}" if number > 1 else endpoint.instance for number in count(1))
        return next(name for name in names if name not in taken)

    def check_open(self) -> None:
        if self.closed:
            raise ResourceClosed("this backend is closed")

    def watch(self, service: str | None = None) -> AsyncIterator[Sequence[Endpoint]]:
        return self.snapshots(service)

    async def snapshots(self, service: str | None) -> AsyncIterator[Sequence[Endpoint]]:
        self.check_open()
        waker = asyncio.Event()
        self.add(waker)
        try:
            told: list[Endpoint] | None = None
            while not self.closed:
                waker.clear()
                known = self.known(service)
                if self.is_news(told, known):
                    told = list(known)
                    yield known
                else:
                    await waker.wait()
        finally:
            self.remove(waker)

    def add(self, waker: asyncio.Event) -> None:
        self.wakers.append(waker)
        self.network.wakers.append(waker)

    def remove(self, waker: asyncio.Event) -> None:
        self.wakers.remove(waker)
        self.network.wakers.remove(waker)

    def known(self, service: str | None) -> list[Endpoint]:
        return [self.seen(record.endpoint) for record in self.network.records if self.belongs(record.endpoint, service)]

    def seen(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with addresses in place of wildcards."""
        return replace(endpoint, urls=tuple(full for url in endpoint.urls for full in filled_in(url)))

    def belongs(self, endpoint: Endpoint, service: str | None) -> bool:
        return service in (None, endpoint.service)

    def is_news(self, told: list[Endpoint] | None, known: list[Endpoint]) -> bool:
        return told is None or told != known

    async def suspect(self, endpoint: Endpoint) -> None:
        for record in list(self.network.records):
            same = (record.endpoint.service, record.endpoint.instance) == (endpoint.service, endpoint.instance)
            if same and not record.alive:
                self.network.records.remove(record)
                self.network.changed()

    async def close(self) -> None:
        self.closed = True
        for announcement in self.announcements:
            await announcement.withdraw()
        for waker in self.wakers:
            waker.set()


def filled_in(url: str) -> tuple[str, ...]:
    """The URL with the addresses of this host, which is its loopback, in place of a wildcard."""
    for wildcard, addresses in (
        ("://0.0.0.0:", ("127.0.0.1",)),
        ("://[::]:", ("[::1]",)),
        ("://:", ("127.0.0.1", "[::1]")),
    ):
        if wildcard in url:
            return tuple(url.replace(wildcard, f"://{address}:") for address in addresses)
    return (url,)


class DelayedNetwork(Network):
    """A medium on which every change travels for 0.2 s."""

    def __init__(self) -> None:
        super().__init__()
        self.visible: list[Endpoint] = []
        self.sent = 0
        self.arrived = 0

    def changed(self) -> None:
        self.sent += 1
        now = [record.endpoint for record in self.records]
        asyncio.get_running_loop().call_later(0.2, self.arrive, self.sent, now)

    def arrive(self, number: int, endpoints: list[Endpoint]) -> None:
        if number > self.arrived:  # timers of one moment go off in any order
            self.arrived, self.visible = number, endpoints
            super().changed()


class DelayedDiscovery(ReferenceDiscovery):
    """As the reference, over a slow medium."""

    def __init__(self, network: Network) -> None:
        super().__init__(_DELAYED)

    def known(self, service: str | None) -> list[Endpoint]:
        return [self.seen(endpoint) for endpoint in _DELAYED.visible if self.belongs(endpoint, service)]


_DELAYED = DelayedNetwork()
_NETWORKS: dict[str, Network] = {}


def make_spec(discovery: type[ReferenceDiscovery]) -> DiscoverySpec:
    """A spec that makes ``discovery``."""

    def make(options: msgspec.Struct) -> Discovery:
        assert isinstance(options, ReferenceOptions)
        return discovery(_NETWORKS.setdefault(options.network, Network()))

    return DiscoverySpec(
        name="reference",
        factory=make,
        options=ReferenceOptions,
        summary="The discovery backend that the suite is tested with",
    )


SPEC = make_spec(ReferenceDiscovery)
