"""The backend: one set of sockets for everything that an endpoint of ours announces and watches."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from echostream_core.discovery import Discovery, Endpoint
from echostream_core.errors import ConfigError, ResourceClosed, TransportError
from echostream_discovery_mdns._log import logger
from echostream_discovery_mdns.addresses import Links, choose
from echostream_discovery_mdns.announcing import MdnsAnnouncement
from echostream_discovery_mdns.options import MdnsOptions
from echostream_discovery_mdns.watching import Browser

if TYPE_CHECKING:
    from echostream_discovery_mdns._zeroconf import Engine, Heard

__all__ = ["MdnsDiscovery"]


LATELY_S = 1.0
"""Longer than the 0.8 seconds for which zeroconf takes a packet for a repetition."""

SLEPT_S = 5.0
"""A machine that was suspended for longer announces itself again, and believes what it has heard only if it hears it
again: it has missed who came and went."""

MAX_TRIES = 12
"""How often it is tried to open what could not be opened: the address of an IPv6 interface that has just come cannot be
bound for a second or two, one that somebody else has can never."""

LATE_ANSWER_S = 1.5
"""Until then an answer with our former addresses may still be sent, which was waiting for others to go with it."""


class MdnsDiscovery(Discovery):
    """Finds and announces endpoints on the local network. Its sockets are opened on first use."""

    def __init__(self, options: MdnsOptions) -> None:
        self._options = options
        self._links = Links((), (), ())
        self._engine: Engine | None = None
        self._browser: Browser | None = None
        self._opening = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._verifying: dict[str, asyncio.Task[None]] = {}
        self._poll: asyncio.TimerHandle | None = None
        self._complained = ""
        self._settled = True
        self._tries = 0
        self._suspended_s = suspended_s()
        self._announcer = secrets.token_hex(4)
        self._revision = 0
        self.probe_s = options.probe_s
        self.claims: dict[str, MdnsAnnouncement] = {}
        """DNS name, in lower case → who of ours has it."""

    async def announce(self, endpoint: Endpoint) -> MdnsAnnouncement:
        """Announce ``endpoint``; returns when its name is known to be free and it has been sent, after ``probe_s``.

        ConfigError when it cannot be announced as it is: too large, or without a name or an address.
        """
        self._check_open()
        announcement = MdnsAnnouncement(self, endpoint)
        await self._open()
        await announcement.start()
        return announcement

    async def watch(self, service: str | None = None) -> AsyncIterator[Sequence[Endpoint]]:
        """Snapshots, sorted by name; one more at most 20 ms after each change, or after a packet with several."""
        browser = await self._open()
        watch = browser.add(service)
        try:
            told: Sequence[Endpoint] | None = None
            while self._closing is None:
                watch.news.clear()
                known = browser.table.endpoints(service, browser.now())
                if told is None or known != told:
                    told = known
                    yield known
                else:
                    await watch.news.wait()
        finally:
            browser.remove(watch)

    async def suspect(self, endpoint: Endpoint) -> None:
        """Ask the instance for a sign of life; returns when it has come, or when it was dropped for giving none.

        That takes ``suspect_s`` at most. Who suspects the same instance meanwhile waits for the same answer.
        """
        self._check_open()
        if self._browser is None:
            return
        answers: list[asyncio.Task[None]] = []
        for instance in self._browser.table.find(endpoint.service, endpoint.instance):
            key = instance.name.lower()
            task = self._verifying.get(key)
            if task is None:
                task = self._verifying[key] = asyncio.get_running_loop().create_task(self._verify(instance.name))
                self.keep(task)
            answers.append(task)
        if answers:
            await asyncio.wait(answers)

    async def close(self) -> None:
        """Say goodbye for everything, end all watches, and close the sockets."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    # What announcements need.

    @property
    def engine(self) -> Engine:
        """The sockets. ResourceClosed when they are closed."""
        if self._engine is None:
            raise ResourceClosed("this mDNS backend is closed")
        return self._engine

    @property
    def announced_addresses(self) -> Sequence[str]:
        """Ours, for A and AAAA records."""
        return self._links.announced

    def heard_lately(self, name: str) -> bool:
        """Whether another host has said within the last second that the DNS name is its own."""
        if self._browser is None or self._engine is None:
            return False
        instance = self._browser.table.get(name)
        return (
            instance is not None
            and instance.target not in ("", self._engine.host)
            and self._browser.now() - instance.heard_at < LATELY_S
        )

    def next_revision(self) -> tuple[str, int]:
        """Who we are, and a number that grows."""
        self._revision += 1
        return self._announcer, self._revision

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done, and end it when the backend is closed."""
        self._tasks.add(task)
        task.add_done_callback(self._done)

    # Inside.

    def _check_open(self) -> None:
        if self._closing is not None:
            raise ResourceClosed("this mDNS backend is closed")

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._closing is None:
            logger.error("mDNS failed at a task in the background", exc_info=error)

    async def _open(self) -> Browser:
        async with self._opening:
            self._check_open()
            if self._browser is None:
                from echostream_discovery_mdns._zeroconf import Engine

                self._links = choose(self._options)
                engine = Engine(self._links, self._options.ttl_s, self._hear)
                browser = Browser(engine, self._options.max_instances)
                browser.table.live_in(self._links.networks, self._links.own)
                self._engine, self._browser = engine, browser
                try:
                    await engine.start()
                except BaseException:
                    self._engine = self._browser = None
                    raise
                self._poll_later()
            return self._browser

    async def _verify(self, name: str) -> None:
        assert self._browser is not None
        try:
            await self._browser.verify(name, self._options.suspect_s)
        finally:
            del self._verifying[name.lower()]

    def _hear(self, heard: Heard) -> None:
        if self._engine is None or self._browser is None:
            return
        for name, target, _, ttl_s in heard.services:
            claim = self.claims.get(name.lower())
            if claim is not None and ttl_s > 0 and target.lower() != self._engine.host:
                claim.hear_rival(target)
        self._browser.hear(heard)

    def _poll_later(self) -> None:
        if self._options.interface_poll_s and self._closing is None:
            loop = asyncio.get_running_loop()
            self._poll = loop.call_later(self._options.interface_poll_s, self._poll_interfaces)

    def _poll_interfaces(self) -> None:
        assert self._engine is not None and self._browser is not None
        try:
            links = choose(self._options)
        except (ConfigError, TransportError) as error:
            self._warn(f"{error}; mDNS goes on with what it had")
            self._poll_later()
            return
        before, self._suspended_s = self._suspended_s, suspended_s()
        slept = self._suspended_s - before > SLEPT_S
        if slept or links != self._links:
            self._tries = 0
        lacks = self._engine.lacks(links) and self._tries < MAX_TRIES
        if slept or links != self._links or not self._settled or lacks:
            self.keep(asyncio.get_running_loop().create_task(self._move(links, slept=slept)))
        else:
            if links.own != self._links.own:
                self._links = links
                self._browser.table.live_in(links.networks, links.own)
            self._complained = ""
            self._poll_later()

    async def _move(self, links: Links, *, slept: bool) -> None:
        """Go on with other interfaces or addresses, and after a pause; until it has come about it is tried again."""
        assert self._engine is not None and self._browser is not None
        former, self._links = self._links, links
        is_news = slept or links != former or not self._settled
        self._settled = False
        self._tries += 1
        if links != former:
            logger.info("the addresses of this machine are now %s", ", ".join(links.announced))
        left = {*former.senders_v4, *former.senders_v6} - {*links.senders_v4, *links.senders_v6}
        if slept or left:
            self._browser.table.doubt(self._browser.now())
        try:
            lacked = self._engine.lacks(links)
            await self._engine.use(former, links)
            if is_news or (lacked and not self._engine.lacks(links)):
                await self._settle_in(links)
            self._settled = True
        except TransportError as error:
            if self._closing is None:
                self._warn(f"{error}; trying again")
        finally:
            self._poll_later()

    async def _settle_in(self, links: Links) -> None:
        """Learn who is here, and tell that we are."""
        assert self._browser is not None
        self._browser.table.live_in(links.networks, links.own)
        self._browser.ask_anew()
        for delay_s in (0.0, LATE_ANSWER_S):
            await asyncio.sleep(delay_s)
            for announcement in list(self.claims.values()):
                await announcement.say_again()

    def _warn(self, text: str) -> None:
        if text != self._complained:
            self._complained = text
            logger.warning("%s", text)

    async def _close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        async with self._opening:
            if self._engine is None or self._browser is None:
                return
            self._browser.close()
            try:
                await asyncio.gather(*(announcement.withdraw() for announcement in list(self.claims.values())))
            finally:
                engine, self._engine = self._engine, None
                await engine.close()


def suspended_s() -> float:
    """For how many seconds this machine has been suspended since it was started; always 0 where no clock tells."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
