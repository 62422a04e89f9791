"""One announcement: the name is claimed, the records are published, and a namesake is given way to or told off."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from echostream_core.complaints import printable
from echostream_core.discovery import Announcement, Endpoint
from echostream_core.errors import ConfigError, ResourceClosed, TransportError
from echostream_core.types import Url
from echostream_discovery_mdns import txt
from echostream_discovery_mdns._log import logger
from echostream_discovery_mdns.names import full_name, instance_of, label_of, numbered

if TYPE_CHECKING:
    from echostream_discovery_mdns._zeroconf import Engine, Published

__all__ = ["Announcer", "MdnsAnnouncement"]

PROBES: Final = 3
"""How often is asked whether a name is taken. Source: RFC 6762 section 8.1."""
NUMBERED_TRIES: Final = 4
"""Names with a number that are tried; then random ones are, so that a hundred namesakes need not try a hundred."""
MAX_TRIES: Final = 12
DEFENCE_S: Final = 1.0
"""How long to wait before a name is defended again, in seconds."""
QUICK_CHANGES: Final = 5
"""How often a name is given up at once; then somebody is at play who takes each."""
CHANGE_S: Final = 5.0
"""How long to wait before each further time. Source: RFC 6762 section 8.1."""


class Announcer(Protocol):
    """What an announcement needs of the backend that it belongs to."""

    claims: dict[str, MdnsAnnouncement]
    """DNS name, in lower case → who of ours has it."""
    probe_s: float

    @property
    def engine(self) -> Engine:
        """The sockets. ResourceClosed when they are closed."""

    @property
    def announced_addresses(self) -> Sequence[str]:
        """Ours, for A and AAAA records."""

    def heard_lately(self, name: str) -> bool:
        """Whether another host has said within the last second that the DNS name is its own."""

    def next_revision(self) -> tuple[str, int]:
        """Who we are, and a number that grows."""

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done, and end it when the backend is closed."""


class MdnsAnnouncement(Announcement):
    """See :class:`Announcement`. An update with the instance's first name is one of the name that it got."""

    def __init__(self, owner: Announcer, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._owner = owner
        self._requested = endpoint
        self._name = ""
        self._published: Published | None = None
        self._rival: asyncio.Event | None = None
        self._lock = asyncio.Lock()
        self._left = asyncio.Event()
        self._leaving = False
        self._withdrawing: asyncio.Task[None] | None = None
        self._searching = False
        self._defended_at = -DEFENCE_S
        self._changes = 0
        self._changing: asyncio.Task[None] | None = None
        self._record(endpoint, "")  # what cannot be announced is refused before anything is sent

    async def start(self) -> None:
        """Claim a name, and announce. TransportError when no name can be had."""
        async with self._lock:
            await self._claim_and_publish(self._requested)

    async def update(self, endpoint: Endpoint) -> None:
        """Announce ``endpoint`` instead. ConfigError when it is too large; what was announced before stays then."""
        async with self._lock:
            self._check_standing()
            names = (self._requested.instance, self.endpoint.instance)
            if endpoint.service == self.endpoint.service and endpoint.instance in names:
                named = replace(endpoint, instance=self.endpoint.instance)
                if self._published is None:
                    self._record(named, "")
                    self.endpoint = named  # announced as soon as there is a name for it
                elif named != self.endpoint:
                    await self._publish_again(named)
                return
            self._record(endpoint, "")
            await self._goodbye()
            self._requested = endpoint
            await self._claim_and_publish(endpoint)

    async def withdraw(self) -> None:
        """Say goodbye; returns when it has been sent, after 0.25 s. That goes on when who waits for it is cancelled."""
        if self._withdrawing is None:
            self._leaving = True
            if self._rival is not None:
                self._rival.set()  # a probe need not go on
            self._withdrawing = asyncio.get_running_loop().create_task(self._withdraw())
        await asyncio.shield(self._withdrawing)

    async def _withdraw(self) -> None:
        async with self._lock:
            try:
                await self._goodbye()
            finally:
                self._left.set()

    async def say_again(self) -> None:
        """Announce with the addresses that this machine has now."""
        async with self._lock:
            if self._published is not None and not self._leaving:
                await self._publish_again(self.endpoint)

    def hear_rival(self, target: str) -> None:
        """Somebody else says that our name is his; ``target`` is his host."""
        if self._rival is not None:
            self._rival.set()
            return
        if self._published is None or self._leaving:
            return
        now = asyncio.get_running_loop().time()
        if self._owner.engine.host > target.lower():  # the later data wins: RFC 6762 section 8.2
            if now - self._defended_at >= DEFENCE_S:
                self._defended_at = now
                self._owner.keep(asyncio.get_running_loop().create_task(self.say_again()))
        elif self._changing is None or self._changing.done():
            self._changing = asyncio.get_running_loop().create_task(self._give_way())
            self._owner.keep(self._changing)

    def _check_standing(self) -> None:
        if self._leaving or (self._published is None and not self._searching):
            raise ResourceClosed(f"{self.endpoint.service}: this announcement was withdrawn; announce it again")

    async def _claim_and_publish(self, endpoint: Endpoint, taken: str = "") -> None:
        """Find a name that is free, and is not the DNS name ``taken``; then announce."""
        owner = self._owner
        for attempt in range(1, MAX_TRIES + 1):
            instance = numbered(endpoint.instance, attempt)
            if attempt > NUMBERED_TRIES:
                instance = f"{endpoint.instance}-{secrets.token_hex(2)}"
            label = label_of(endpoint.service, instance)
            key = full_name(label).lower()
            while (holder := owner.claims.get(key)) is not None and holder._leaving:
                await holder._left.wait()
            if holder is not None or key == taken:
                continue
            owner.claims[key] = self
            try:
                free = await self._probe(full_name(label))
                if self._leaving:
                    raise ResourceClosed("this announcement was withdrawn before its name was found to be free")
                if free:
                    self._name = full_name(label)
                    self.endpoint = replace(endpoint, instance=instance)
                    port, data = self._record(self.endpoint, label)
                    self._published = await owner.engine.publish(self._name, port, data, owner.announced_addresses)
                    return
            except BaseException:
                del owner.claims[key]
                raise
            del owner.claims[key]
        raise TransportError(
            f"no name for the instance {endpoint.instance!r} of {endpoint.service!r} can be had: "
            f"somebody on the network says to have each of {MAX_TRIES} that were tried"
        )

    async def _probe(self, name: str) -> bool:
        """Whether nobody has said within ``probe_s`` that the name is his.

        An answer that equals what was announced a moment ago does not reach us, zeroconf takes it for a repetition: so
        what was heard within the last second counts as well.
        """
        rival = self._rival = asyncio.Event()
        try:
            for _ in range(PROBES if self._owner.probe_s else 0):
                if self._owner.heard_lately(name):
                    return False
                self._owner.engine.probe(name)
                try:
                    async with asyncio.timeout(self._owner.probe_s / PROBES):
                        await rival.wait()
                except TimeoutError:
                    continue
                return False
            return not self._owner.heard_lately(name)
        finally:
            self._rival = None

    async def _publish_again(self, endpoint: Endpoint) -> None:
        assert self._published is not None
        port, data = self._record(endpoint, label_of(endpoint.service, endpoint.instance))
        await self._owner.engine.republish(self._published, port, data, self._owner.announced_addresses)
        self.endpoint = endpoint

    async def _goodbye(self) -> None:
        published, self._published = self._published, None
        if published is not None:
            try:
                await self._owner.engine.goodbye(published)
            finally:
                del self._owner.claims[self._name.lower()]

    async def _give_way(self) -> None:
        """Take another name."""
        self._changes += 1
        if self._changes > QUICK_CHANGES:
            await asyncio.sleep(CHANGE_S)
        while not await self._has_another_name():
            await asyncio.sleep(CHANGE_S)

    async def _has_another_name(self) -> bool:
        """False when none can be had for now: somebody says to have each. He may not do so for ever."""
        async with self._lock:
            if self._leaving or (self._published is None and not self._searching):
                return True
            published, self._published = self._published, None
            before = self.endpoint.instance
            if published is not None:
                if self._searching:  # an update has found one meanwhile
                    self._published, self._searching = published, False
                    return True
                del self._owner.claims[self._name.lower()]
                self._owner.engine.give_up(published)
            try:
                endpoint = replace(self.endpoint, instance=self._requested.instance)
                await self._claim_and_publish(endpoint, taken=self._name.lower())
            except ResourceClosed:
                return True
            except TransportError as error:
                if not self._searching:
                    self._searching = True
                    logger.warning("%s is not announced for now: %s", printable(before), error)
                return False
            self._searching = False
            logger.warning(
                "another instance of %s is named %s: this one is now %s",
                printable(self.endpoint.service),
                printable(before),
                printable(self.endpoint.instance),
            )
            return True

    def _record(self, endpoint: Endpoint, label: str) -> tuple[int, bytes]:
        """Port and TXT record. ConfigError when the endpoint cannot be announced."""
        if not endpoint.urls:
            raise ConfigError(f"the endpoint {endpoint.instance!r} has no address to announce")
        label = label or label_of(endpoint.service, endpoint.instance)
        advert = txt.Advert(
            service=endpoint.service,
            instance="" if instance_of(label, endpoint.service) == endpoint.instance else endpoint.instance,
            urls=tuple(endpoint.urls),
            attributes=endpoint.attributes,
            revision=self._owner.next_revision(),
        )
        data = txt.encode(advert)
        ports = (Url.parse(url).port for url in endpoint.urls)
        return next((port for port in ports if port), 0), data
