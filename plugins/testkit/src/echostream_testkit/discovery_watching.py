"""Watching: what appears, changes and vanishes is seen, by everybody who asked for it and by nobody else."""

from __future__ import annotations

import asyncio

from echostream_core.discovery import Endpoint
from echostream_testkit.discovery_subject import DiscoverySubject, Known
from echostream_testkit.spec_checks import async_checks

__all__ = ["Watching"]


def _shows(*expected: Endpoint) -> Known:
    """The snapshot of these instances and no others."""
    return {endpoint.instance: endpoint for endpoint in expected}


@async_checks
class Watching(DiscoverySubject):
    """The promises of :meth:`Discovery.watch`."""

    async def test_first_snapshot_at_once(self) -> None:
        """A watcher is told at once, also when what is known is nothing."""
        async with self.backends() as (one, _), self.watch(one, self.new_service()) as watcher:
            await watcher.until("a first snapshot, empty", lambda known: not known)

    async def test_first_snapshot_is_what_is_known(self) -> None:
        """What the backend knows already is in the first snapshot of one more watcher."""
        service = self.new_service()
        endpoint = self.endpoint(service)
        async with self.backends() as (one, two), self.watch(two, service) as early:
            await one.announce(endpoint)
            await early.until("the announced endpoint", lambda known: "one" in known)
            async with self.watch(two, service) as late:
                await late.until("a first snapshot", lambda known: True)
                assert late.snapshots[0] == _shows(endpoint), f"the first snapshot is {late.snapshots[0]!r}"

    async def test_appear(self) -> None:
        """What one process announces, another sees, as it was announced."""
        service = self.new_service()
        endpoint = self.endpoint(service)
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            await watcher.until("an empty snapshot", lambda known: not known)
            await one.announce(endpoint)
            known = await watcher.until("the announced endpoint", bool)
            assert known == _shows(endpoint), f"{endpoint!r} is seen as {known!r}"

    async def test_appear_in_both_directions(self) -> None:
        """Each sees the other's, and its own."""
        service = self.new_service()
        first, second = self.endpoint(service, "first"), self.endpoint(service, "second", 4002)
        async with (
            self.backends() as (one, two),
            self.watch(one, service) as here,
            self.watch(two, service) as there,
        ):
            await one.announce(first)
            await two.announce(second)
            for watcher in (here, there):
                await watcher.until("both endpoints", lambda known: known == _shows(first, second))

    async def test_update(self) -> None:
        """An update takes the place of what was announced before: urls and attributes, one after the other."""
        service = self.new_service()
        versions = [
            self.endpoint(service, port=4002),
            self.endpoint(service, port=4002, weight="10"),
            self.endpoint(service, port=4002, weight="20", zone="b"),
            self.endpoint(service, port=4003),
        ]
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(self.endpoint(service))
            await watcher.until("the announced endpoint", bool)
            for version in versions:
                await announcement.update(version)
                await watcher.until(f"the update to {version!r}", _shows(version).__eq__)

    async def test_rapid_updates(self) -> None:
        """Updates may be taken together, but the last one counts."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(self.endpoint(service))
            for number in range(20):
                await announcement.update(self.endpoint(service, turn=str(number)))
            last = self.endpoint(service, turn="19")
            await watcher.until("the last of 20 updates", lambda known: known == _shows(last))
            await asyncio.sleep(self.quiet_s)
            assert watcher.snapshots[-1] == _shows(last), "an older update has come later"

    async def test_vanish(self) -> None:
        """A goodbye is seen: the snapshot after it is empty."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(self.endpoint(service))
            await watcher.until("the announced endpoint", bool)
            await announcement.withdraw()
            await watcher.until("an empty snapshot after withdraw()", lambda known: not known)

    async def test_flap(self) -> None:
        """There, gone, there, gone, in quick succession: what holds at the end is what is seen at the end."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            for turn in range(5):
                endpoint = self.endpoint(service, turn=str(turn))
                announcement = await one.announce(endpoint)
                await announcement.withdraw()
            announcement = await one.announce(endpoint)
            await watcher.until("the last announcement of six", lambda known: known == _shows(endpoint))
            await asyncio.sleep(self.quiet_s)
            assert watcher.snapshots[-1] == _shows(endpoint), "an earlier goodbye has taken the last announcement away"
            await announcement.withdraw()
            await watcher.until("nothing after the last goodbye", lambda known: not known)
            await asyncio.sleep(self.quiet_s)
            assert not watcher.snapshots[-1], "what was withdrawn has come back"

    async def test_several_instances(self) -> None:
        """Instances of both processes stand side by side; one that goes leaves the others."""
        service = self.new_service()
        endpoints = {f"node-{number}": self.endpoint(service, f"node-{number}", 4001 + number) for number in range(6)}
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcements = {
                name: await (one if number % 2 else two).announce(endpoint)
                for number, (name, endpoint) in enumerate(endpoints.items())
            }
            await watcher.until("all six instances", lambda known: known == endpoints)
            for name, announcement in announcements.items():
                await announcement.withdraw()
                del endpoints[name]
                await watcher.until(f"all but {name}", lambda known: known == endpoints)

    async def test_two_watchers(self) -> None:
        """Two watchers of one backend see the same, and one that stops takes nothing from the other."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as first:
            async with self.watch(two, service) as second:
                announcement = await one.announce(self.endpoint(service))
                for watcher in (first, second):
                    await watcher.until("the announced endpoint", bool)
            await announcement.update(self.endpoint(service, turn="2"))
            await first.until("an update after the other watcher has stopped", lambda known: _turn(known) == "2")
            await announcement.withdraw()
            await first.until("an empty snapshot", lambda known: not known)

    async def test_no_snapshot_without_change(self) -> None:
        """No news is no snapshot: not from time alone, from an equal update, or from another service."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(self.endpoint(service))
            await watcher.until("the announced endpoint", bool)
            await asyncio.sleep(self.quiet_s)
            count = len(watcher.snapshots)
            await asyncio.sleep(self.quiet_s)
            assert len(watcher.snapshots) == count, "a snapshot came although nothing had changed"
            await announcement.update(self.endpoint(service))
            await one.announce(self.endpoint(self.new_service()))
            await asyncio.sleep(self.quiet_s)
            assert len(watcher.snapshots) == count, "a snapshot came although this service had not changed"
            for before, after in zip(watcher.snapshots, watcher.snapshots[1:], strict=False):
                assert before != after, f"the same snapshot came twice in a row: {after!r}"

    async def test_snapshots_stay_as_they_were(self) -> None:
        """A snapshot belongs to who received it: later changes come in snapshots of their own."""
        service = self.new_service()
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            announcement = await one.announce(self.endpoint(service))
            await watcher.until("the announced endpoint", bool)
            await announcement.update(self.endpoint(service, turn="2"))
            await watcher.until("the update", lambda known: _turn(known) == "2")
            await announcement.withdraw()
            await watcher.until("an empty snapshot", lambda known: not known)
            for original, copy in zip(watcher.originals, watcher.snapshots, strict=True):
                assert {endpoint.instance: endpoint for endpoint in original} == copy, "a snapshot has changed later"

    async def test_services_are_apart(self) -> None:
        """A watcher sees its service only, and not those whose names begin or end alike."""
        service = self.new_service()
        others = [service + "s", service[:-1], f"x{service}", f"{service}-2"]
        async with self.backends() as (one, two), self.watch(two, service) as watcher:
            for number, other in enumerate(others):
                await one.announce(self.endpoint(other, f"other-{number}"))
            endpoint = self.endpoint(service)
            await one.announce(endpoint)
            await watcher.until("the endpoint of this service", lambda known: "one" in known)
            await asyncio.sleep(self.quiet_s)
            for known in watcher.snapshots:
                assert known.keys() <= {"one"}, f"a snapshot of {service!r} holds another service's {known!r}"

    async def test_instances_of_two_services_are_apart(self) -> None:
        """An instance's name is unique within its service only."""
        first, second = self.new_service(), self.new_service()
        async with (
            self.backends() as (one, two),
            self.watch(two, first) as at_first,
            self.watch(two, second) as at_second,
        ):
            announcement = await one.announce(self.endpoint(first))
            endpoint = self.endpoint(second, port=4002)
            await one.announce(endpoint)
            await at_first.until("the first service's endpoint", lambda known: known == _shows(self.endpoint(first)))
            await at_second.until("the second service's endpoint", lambda known: known == _shows(endpoint))
            await announcement.withdraw()
            await at_first.until("an empty snapshot", lambda known: not known)
            await asyncio.sleep(self.quiet_s)
            assert at_second.snapshots[-1] == _shows(endpoint), "the namesake of another service has gone with it"

    async def test_watch_of_all_services(self) -> None:
        """A watch without a service sees the instances of every service, namesakes side by side, and what others do."""
        services = [self.new_service() for _ in range(2)]
        first, second = (self.endpoint(service, port=4001 + number) for number, service in enumerate(services))

        def ours(known: Known) -> list[Endpoint]:  # others may use the medium as well
            return sorted(
                (endpoint for endpoint in known.values() if endpoint.service in services), key=lambda seen: seen.urls
            )

        async with self.backends() as (one, two), self.watch(two, None) as watcher:
            await watcher.until("a first snapshot", lambda known: True)
            announcement = await one.announce(first)
            await two.announce(second)
            await watcher.until("the instances of both services", lambda known: ours(known) == [first, second])
            async with self.watch(two, services[0]) as narrow:
                await narrow.until("the instance of one service", lambda known: known == _shows(first))
            changed = self.endpoint(services[0], port=4001, turn="2")
            await announcement.update(changed)
            await watcher.until("an update of one service", lambda known: ours(known) == [changed, second])
            await announcement.withdraw()
            await watcher.until("only the other service's instance", lambda known: ours(known) == [second])

    async def test_a_watch_can_be_cancelled(self) -> None:
        """A watcher that waits for news ends promptly when its task is cancelled."""
        async with self.backends() as (one, _):
            first = asyncio.Event()
            service = self.new_service()

            async def read() -> None:
                async for _ in one.watch(service):
                    first.set()

            task = asyncio.get_running_loop().create_task(read())
            async with asyncio.timeout(self.patience_s):
                await first.wait()
            task.cancel()
            await asyncio.wait([task], timeout=self.patience_s)
            assert task.done(), f"the watch goes on {self.patience_s} s after it was cancelled"
            assert task.cancelled(), "the watch has swallowed its cancellation"


def _turn(known: Known) -> str:
    return known["one"].attributes.get("turn", "") if "one" in known else ""
