"""Asking, listening, and telling watches: the table is fed, refreshed, and read when it has changed."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from echostream_core.complaints import ComplaintLog
from echostream_discovery_mdns._log import logger
from echostream_discovery_mdns.table import Table

if TYPE_CHECKING:
    from echostream_discovery_mdns._zeroconf import Engine, Heard

__all__ = ["Browser", "Watch"]

FIRST_QUESTION_S: Final = (0.02, 0.12)
"""A random time before the first question. Source: RFC 6762 section 5.2."""
FIRST_INTERVAL_S: Final = 1.0
INTERVAL_FACTOR: Final = 3.0
MAX_INTERVAL_S: Final = 3_600.0
"""Between two questions for all instances; between them what is announced is heard anyway."""
SWEEP_S: Final = 1.0
"""How often the table is looked over for what expires or has to be asked for."""
SOON_S: Final = 0.12
"""The same when an instance has appeared that has not told everything."""
SETTLE_S: Final = 0.02
"""How long changes are gathered before watches are told: a flood of packets makes 50 snapshots a second at most."""
MAX_NAMES: Final = 32
"""How many instances one sweep asks for: two packets."""


class Watch:
    """One watch: which service, and whether there is news."""

    __slots__ = ("news", "service")

    def __init__(self, service: str | None) -> None:
        self.service = service
        self.news = asyncio.Event()


class Browser:
    """Keeps a table of the network's instances for as long as somebody watches."""

    def __init__(self, engine: Engine, max_instances: int) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._log = ComplaintLog(logger, self._loop.time)
        self.table = Table(max_instances, self._log.warn)
        self._watches: set[Watch] = set()
        self._told = 0
        self._lost = 0
        self._signs: dict[str, asyncio.Future[None]] = {}
        self._interval_s = FIRST_INTERVAL_S
        self._question: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._settle: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """The loop's time, in seconds."""
        return self._loop.time()

    def add(self, service: str | None) -> Watch:
        """Begin to watch; what is not known yet is asked for."""
        watch = Watch(service)
        self._watches.add(watch)
        self._want()
        self.ask_anew()
        if self._sweep is None:
            self._sweep_in(SWEEP_S)
        return watch

    def remove(self, watch: Watch) -> None:
        """End a watch. After the last one nobody asks any more; what comes unasked is still heard."""
        self._watches.discard(watch)
        self._want()
        if not self._watches:
            self._stop_timers()

    def close(self) -> None:
        """Stop all timers, and wake all watches."""
        self._stop_timers()
        for watch in self._watches:
            watch.news.set()

    def ask_anew(self) -> None:
        """Begin the series of questions again, for a new watch or a new interface."""
        if not self._watches:
            return
        if self._question is not None:
            self._question.cancel()
        self._interval_s = FIRST_INTERVAL_S
        self._question = self._loop.call_later(random.uniform(*FIRST_QUESTION_S), self._ask)

    def hear(self, heard: Heard) -> None:
        """Take in what a packet says."""
        table, now = self.table, self.now()
        before = len(table)
        for name, ttl_s in heard.pointers:
            table.pointer(name, ttl_s, now)
        for name, target, port, ttl_s in heard.services:
            table.service(name, target, port, ttl_s, now)
            sign = self._signs.get(name.lower())
            if sign is not None and ttl_s > 0 and not sign.done():
                sign.set_result(None)
        for host, addresses in heard.addresses.items():
            table.addresses(host, addresses, flush=host in heard.flushed, now=now)
        for name, data, ttl_s in heard.texts:
            table.text(name, data, ttl_s, now)
        if len(table) > before and self._watches:
            self._sweep_in(SOON_S)
        self._tell_soon()

    async def verify(self, name: str, patience_s: float) -> None:
        """Ask an instance for a sign of life, twice, and drop it when it gives none within ``patience_s``."""
        key = name.lower()
        sign = self._signs[key] = self._loop.create_future()
        try:
            for _ in range(2):
                self._engine.ask_for_life(name)
                await asyncio.wait([sign], timeout=patience_s / 2)
                if sign.done():
                    return
            self.table.forget(name)
            self._ask_for_the_lost()
            self._tell_soon()
        finally:
            del self._signs[key]

    def _want(self) -> None:
        services = {watch.service for watch in self._watches}
        self.table.want(None if None in services else {service for service in services if service is not None})

    def _stop_timers(self) -> None:
        for timer in (self._question, self._sweep, self._settle):
            if timer is not None:
                timer.cancel()
        self._question = self._sweep = self._settle = None

    def _ask(self) -> None:
        self._engine.ask_for_instances(self.table.known_answers(self.now()))
        self._question = self._loop.call_later(self._interval_s, self._ask)
        self._interval_s = min(self._interval_s * INTERVAL_FACTOR, MAX_INTERVAL_S)

    def _ask_for_the_lost(self) -> None:
        """Begin the series of questions again when somebody went without a goodbye: a network that was away for a
        while would be seen as empty until the next question, for up to an hour.
        """
        if self.table.lost == self._lost:
            return
        self._lost = self.table.lost
        if self._question is not None and self._question.when() - self.now() > FIRST_INTERVAL_S * INTERVAL_FACTOR:
            self.ask_anew()

    def _sweep_in(self, delay_s: float) -> None:
        if self._sweep is not None:
            if self._sweep.when() <= self.now() + delay_s:
                return
            self._sweep.cancel()
        self._sweep = self._loop.call_later(delay_s, self._look_over)

    def _look_over(self) -> None:
        self._sweep = None
        if names := self.table.due(self.now(), MAX_NAMES):
            self._engine.ask_for_details(names)
        if hosts := self.table.hosts_due(self.now(), MAX_NAMES):
            self._engine.ask_for_addresses(hosts)
        self._ask_for_the_lost()
        self._tell_soon()
        self._sweep_in(SWEEP_S)

    def _tell_soon(self) -> None:
        if self.table.changes != self._told and self._settle is None and self._watches:
            self._settle = self._loop.call_later(SETTLE_S, self._tell)

    def _tell(self) -> None:
        self._settle = None
        self._told = self.table.changes
        for watch in self._watches:
            watch.news.set()
