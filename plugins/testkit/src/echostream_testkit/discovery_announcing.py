"""Announcing: what is carried, how it is withdrawn, and what is left when a backend is closed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest

from echostream_core.discovery import Discovery, Endpoint
from echostream_core.errors import TransportError
from echostream_core.types import Url
from echostream_testkit.discovery_subject import DiscoverySubject, resources
from echostream_testkit.spec_checks import async_checks

__all__ = ["Announcing"]


@async_checks
class Announcing(DiscoverySubject):
    """The promises of :meth:`Discovery.announce`, ``suspect`` and ``close``."""

    async def test_attributes_round_trip(self) -> None:
        """Attributes are text to text: empty, long, beyond ASCII, with the signs that text formats split at."""
        values = {
            "empty": "",
            "space": "  two words ",
            "signs": "a=b;c,d:e\"f'g\\h\tand=more=",
            "unicode": "Grüße \N{GRINNING FACE} e\N{COMBINING ACUTE ACCENT}",
            "word": "true",
            "number": "007",
            "long": "x" * self.longest_value,
            "dotted.key-with_signs": "1",
        }
        for attributes in (values, {}, {"only": ""}):
            service = self.new_service()
            sent = Endpoint(service=service, instance="one", urls=("tcp://127.0.0.1:4001",), attributes=attributes)
            seen = dict((await self._carried(sent)).attributes)
            changed = {key: seen.get(key) for key in {*attributes, *seen} if seen.get(key) != attributes.get(key)}
            assert not changed, f"attributes that arrive otherwise: {changed!r} instead of {attributes!r}"

    async def test_urls_round_trip(self) -> None:
        """Addresses arrive as they were written, the best first."""
        urls = ("tls://[2001:db8::1]:4433", "tcp://127.0.0.1:1", "tcp://host.example:65535/a%20b/ü", "memory://calc")
        for order in (urls, urls[::-1], urls[:1]):
            service = self.new_service()
            sent = Endpoint(service=service, instance="one", urls=order, attributes={})
            seen = (await self._carried(sent)).urls
            assert seen == order, f"the urls arrive as {seen!r} instead of {order!r}"

    async def test_instance_names_round_trip(self) -> None:
        """An instance may be named as people name machines, in any script."""
        for name in ("a", "Ada's machine (2)", "node.eu-1.example", "Büro 漢字", "A"):
            seen = (await self._carried(self.endpoint(self.new_service(), name))).instance
            assert seen == name, f"the instance {name!r} arrives as {seen!r}"

    async def test_announcement_tells_what_is_announced(self) -> None:
        """``Announcement.endpoint`` is what others see, from the beginning and after an update."""
        service = self.new_service()
        endpoint = self.endpoint(service)
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(endpoint)
            assert announcement.endpoint == endpoint, f"it says {announcement.endpoint!r} instead of {endpoint!r}"
            await watcher.until("the announced endpoint", lambda known: known == {"one": announcement.endpoint})
            changed = self.endpoint(service, port=4002, turn="2")
            await announcement.update(changed)
            told = announcement.endpoint
            assert told == changed, f"after the update to {changed!r} it says {told!r}"
            await watcher.until("the update", lambda known: known == {"one": announcement.endpoint})

    async def test_two_instances_of_one_name(self) -> None:
        """A name that somebody has is made unique for who comes next; an update may use either name."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            first = await one.announce(self.endpoint(service))
            await watcher.until("the first instance", bool)
            second = await two.announce(self.endpoint(service, port=4002))
            third = await one.announce(self.endpoint(service, port=4003))
            names = [announcement.endpoint.instance for announcement in (first, second, third)]
            assert names[0] == "one", f"who came first has lost its name, it is now {names[0]!r}"
            assert len(set(names)) == 3, f"three instances have the names {names!r}"
            for name in names[1:]:
                assert "one" in name, f"{name!r} does not tell that somebody asked for 'one'"
            expected = {known.endpoint.instance: known.endpoint for known in (first, second, third)}
            ports = [known.endpoint.urls for known in (first, second, third)]
            assert len(set(ports)) == 3, f"one announcement speaks for another: {ports!r}"
            await watcher.until(f"the instances {names!r}", expected.__eq__)
            for number, name in enumerate(("one", names[1])):
                changed = replace(self.endpoint(service, port=4002, turn=str(number)), instance=name)
                await second.update(changed)
                told = second.endpoint
                assert told == replace(changed, instance=names[1]), f"an update of {name!r} makes {names[1]!r} {told!r}"
                await watcher.until(f"the update of {name!r}", {**expected, names[1]: told}.__eq__)
            await second.withdraw()
            await watcher.until("the other two", lambda known: known.keys() == {names[0], names[2]})

    async def test_wildcard_hosts(self) -> None:
        """Who listens at all addresses is seen at those by which it can be reached, in the order of its urls."""
        service = self.new_service()
        urls = ("tcp://0.0.0.0:4001/a", "tcp://host.example:4002", "tcp://[::]:4003", "tcp://:4004", "memory://calc")
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            await one.announce(Endpoint(service=service, instance="one", urls=urls, attributes={}))
            known = await watcher.until("the announced endpoint", bool)
            seen = known["one"].urls
            ports = list(dict.fromkeys(Url.parse(url).port for url in seen))
            assert None in ports and 4002 in ports, f"{urls!r} is seen as {seen!r}: what has no wildcard is missing"
            assert 4001 in ports or 4004 in ports, f"{urls!r} is seen as {seen!r}: no address instead of a wildcard"
            order = [port for port in (4001, 4002, 4003, 4004, None) if port in ports]
            assert ports == order, f"{urls!r} is seen as {seen!r}: another order"
            assert urls[1] in seen and urls[4] in seen, f"what has no wildcard host has changed: {seen!r}"
            for url in map(Url.parse, seen):
                if url.port in (4001, 4003, 4004):
                    address = ip_address(url.host.partition("%")[0] or "0.0.0.0")
                    assert not address.is_unspecified, f"a watcher cannot dial {url}"
                    version = {4001: 4, 4003: 6}.get(url.port, address.version)
                    assert address.version == version, f"{url} is seen, but IPv{version} is listened at"
                    assert (url.port == 4001) == (url.path == "/a"), f"{url} has another path"

    async def test_withdraw_is_idempotent(self) -> None:
        """A second goodbye is no error, and takes nothing from who has come in between."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(self.endpoint(service))
            await watcher.until("the announced endpoint", bool)
            await announcement.withdraw()
            await announcement.withdraw()
            await watcher.until("an empty snapshot", lambda known: not known)
            await one.announce(self.endpoint(service))
            await watcher.until("the endpoint that is announced again", bool)
            await announcement.withdraw()
            await asyncio.sleep(self.quiet_s)
            assert watcher.snapshots[-1], "a goodbye said twice has taken a later announcement away"

    async def test_update_after_withdraw(self) -> None:
        """What was withdrawn stays so: an update is a TransportError, or without effect."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(self.endpoint(service))
            await watcher.until("the announced endpoint", bool)
            await announcement.withdraw()
            await watcher.until("an empty snapshot", lambda known: not known)
            try:
                await announcement.update(self.endpoint(service, turn="2"))
            except TransportError:
                pass  # said aloud is fine as well
            await asyncio.sleep(self.quiet_s)
            assert not watcher.snapshots[-1], "update() has announced again what was withdrawn"

    async def test_close_withdraws_everything(self) -> None:
        """Closing says goodbye for all that this backend announced, and for nothing of others."""
        services = [self.new_service() for _ in range(3)]
        async with self.backends() as (one, two), self.watch(two, services[0]) as watcher:
            third = self.discovery()
            try:
                for service in services:
                    await third.announce(self.endpoint(service, "closing"))
                announcement = await third.announce(self.endpoint(services[0], "closing-2", 4002))
                await one.announce(self.endpoint(services[0], "staying", 4003))
                await watcher.until("three instances", lambda known: len(known) == 3)
            finally:
                await self.closed(third)
            await watcher.until("only what another announces", lambda known: known.keys() == {"staying"})
            await announcement.withdraw()
            await asyncio.sleep(self.quiet_s)
            assert watcher.snapshots[-1].keys() == {"staying"}, "withdraw() after close() has changed something"
            for service in services[1:]:
                async with self.watch(two, service) as other:
                    await other.until("nothing of the closed backend", lambda known: not known)

    async def test_close_ends_watchers(self) -> None:
        """Who watches a backend that is closed is told: the iteration ends, or raises a TransportError."""
        async with self.backends() as (one, _):
            watchers = [self.watch(one, service) for service in (self.new_service(), self.new_service())]
            async with watchers[0], watchers[1]:
                for watcher in watchers:
                    await watcher.until("a first snapshot", lambda known: True)
                await self.closed(one)
                for watcher in watchers:
                    error = await watcher.ended()
                    assert error is None or isinstance(error, TransportError), f"the watch ended with {error!r}"

    async def test_close_is_idempotent(self) -> None:
        """Closing twice, in turn or at once, is no error; neither is closing what was never used."""
        async with self.backends() as (one, two):
            await one.announce(self.endpoint(self.new_service()))
            await self.closed(one)
            await self.closed(one)
            await two.announce(self.endpoint(self.new_service()))
            await asyncio.gather(self.closed(two), self.closed(two))

    async def test_announce_after_close(self) -> None:
        """A closed backend announces nothing: a TransportError, for a new announcement and for an update."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(self.endpoint(service))
            await self.closed(one)
            await _is_typed(one.announce(self.endpoint(service, "late")), "announce() after close()", self.patience_s)
            await watcher.until("nothing of the closed backend", lambda known: not known)
            try:
                await announcement.update(self.endpoint(service, turn="2"))
            except TransportError:
                pass  # said aloud is fine as well
            await asyncio.sleep(self.quiet_s)
            assert not watcher.snapshots[-1], "a closed backend announces"

    async def test_watch_after_close(self) -> None:
        """Watching a closed backend ends at once or is a TransportError: nobody waits for what cannot come."""
        async with self.backends() as (one, _):
            await self.closed(one)
            await _is_typed(_read_all(one, self.new_service()), "watch() after close()", self.patience_s, must=False)

    async def test_suspect_keeps_the_living(self) -> None:
        """A dial that failed is a reason to look again; who is still there stays."""
        service = self.new_service()
        endpoint = self.endpoint(service)
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(endpoint)
            await watcher.until("the announced endpoint", bool)
            count = len(watcher.snapshots)
            await two.suspect(endpoint)
            await one.suspect(endpoint)
            await asyncio.sleep(self.quiet_s)
            for known in watcher.snapshots[count:]:
                assert "one" in known, "suspect() has dropped an endpoint that is alive"
            await announcement.update(self.endpoint(service, turn="2"))
            await watcher.until("an update after suspect()", lambda known: known["one"].attributes.get("turn") == "2")

    async def test_suspect_drops_the_dead(self) -> None:
        """Who has vanished without a goodbye is dropped when somebody suspects it; see :meth:`kill`."""
        service = self.new_service()
        endpoint = self.endpoint(service, "dying")
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(endpoint)
            await one.announce(self.endpoint(service, "living", 4002))
            await watcher.until("both endpoints", lambda known: len(known) == 2)
            await self.kill(announcement)
            await two.suspect(endpoint)
            await watcher.until("only the living one", lambda known: known.keys() == {"living"})

    async def test_suspect_of_a_stranger(self) -> None:
        """An endpoint that nobody announced, or no longer, is no error and no news."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            await one.announce(self.endpoint(service))
            await watcher.until("the announced endpoint", bool)
            count = len(watcher.snapshots)
            await two.suspect(self.endpoint(service, "stranger", 4009))
            await two.suspect(self.endpoint(self.new_service()))
            await asyncio.sleep(self.quiet_s)
            assert len(watcher.snapshots) == count, "suspecting a stranger has changed the snapshot"

    async def test_a_watcher_that_stops_leaks_nothing(self) -> None:
        """Leaving the iteration at the first snapshot, again and again, leaves no task and no descriptor behind."""
        async with self.backends() as (one, two):
            service = self.new_service()
            await two.announce(self.endpoint(service))
            await self._stop_early(one, service)  # what is made once and kept, an open socket, is no leak
            before = resources()
            for _ in range(10):
                await self._stop_early(one, service)
            await self.nothing_left(before)

    async def test_nothing_is_left_after_close(self) -> None:
        """Announcements that stand and watches that run hold no task and no descriptor once both are closed."""
        before = resources()
        for _ in range(3):
            service = self.new_service()
            one, two = self.discovery(), self.discovery()
            announcement = await one.announce(self.endpoint(service))
            await announcement.update(self.endpoint(service, turn="2"))
            async with self.watch(two, service) as watcher:
                await watcher.until("the announced endpoint", bool)
                await self.closed(one)
                await self.closed(two)
        await self.nothing_left(before)

    async def _stop_early(self, discovery: Discovery, service: str) -> None:
        stream = discovery.watch(service)
        async with asyncio.timeout(self.patience_s):
            async for _ in stream:
                break
        if (close := getattr(stream, "aclose", None)) is not None:
            await close()

    async def _carried(self, sent: Endpoint) -> Endpoint:
        """``sent`` as the other side sees it."""
        async with self.backends() as (one, two), self.watch(two, sent.service) as watcher:
            await one.announce(sent)
            known = await watcher.until(f"the announced {sent!r}", bool)
            (seen,) = known.values()
            return seen


async def _read_all(discovery: Discovery, service: str) -> None:
    async for _ in discovery.watch(service):
        pass


async def _is_typed(doing: object, what: str, patience_s: float, *, must: bool = True) -> None:
    """``doing`` raises a TransportError in time; when it need not (``must``), it may also just end."""
    assert asyncio.iscoroutine(doing)
    try:
        async with asyncio.timeout(patience_s) as limit:
            await doing
    except TransportError:
        return
    except Exception as error:  # every other class is a breach of the contract, and the check names it
        if limit.expired():
            raise AssertionError(f"{what} hangs for {patience_s} s") from None
        raise AssertionError(f"{what}: {type(error).__name__} ({error}) instead of a TransportError") from error
    if must:
        pytest.fail(f"{what} is accepted: raise ResourceClosed")
