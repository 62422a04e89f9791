"""Discovery backends with one fault each, made of the reference backend, and the check that has to find it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from echostream_core.discovery import Announcement, Discovery, DiscoverySpec, Endpoint
from plugins.testkit.tests.reference_discovery import (
    SPEC,
    Network,
    Record,
    ReferenceAnnouncement,
    ReferenceDiscovery,
    filled_in,
    make_spec,
)

__all__ = ["MUTANTS", "OPENED", "Mutant"]

B = TypeVar("B", bound=type[ReferenceDiscovery])


@dataclass(frozen=True)
class Mutant:
    """A backend with a fault: ``fault`` is a sentence, ``caught_by`` the check, ``says`` a part of its message."""

    fault: str
    spec: DiscoverySpec
    caught_by: str
    says: str


MUTANTS: list[Mutant] = []


def fault(text: str, caught_by: str, says: str) -> Callable[[B], B]:
    """List a class as a mutant."""

    def add(discovery: B) -> B:
        MUTANTS.append(Mutant(text, make_spec(discovery), caught_by, says))
        return discovery

    return add


# --- watching --------------------------------------------------------------------------------------------------------
@fault("a watcher is told nothing until something is known", "test_first_snapshot_at_once", "a first snapshot, empty")
class WaitsForNews(ReferenceDiscovery):
    def is_news(self, told: list[Endpoint] | None, known: list[Endpoint]) -> bool:
        return super().is_news(told if told is not None else [], known)


@fault("the first snapshot is always empty", "test_first_snapshot_is_what_is_known", "the first snapshot is {}")
class BeginsEmpty(ReferenceDiscovery):
    async def snapshots(self, service: str | None) -> AsyncIterator[Sequence[Endpoint]]:
        yield []
        async for snapshot in super().snapshots(service):
            if snapshot:
                yield snapshot


@fault("only the announcer sees what it announces", "test_appear", "the announced endpoint")
class SeesItself(ReferenceDiscovery):
    def known(self, service: str | None) -> list[Endpoint]:
        own = [announcement.record for announcement in self.announcements]
        return [record.endpoint for record in own if self.belongs(record.endpoint, service)]


@fault("the announcer does not see itself", "test_appear_in_both_directions", "both endpoints")
class SeesOthers(ReferenceDiscovery):
    def known(self, service: str | None) -> list[Endpoint]:
        own = [announcement.record.endpoint for announcement in self.announcements]
        return [endpoint for endpoint in super().known(service) if endpoint not in own]


class UpdatesOnce(ReferenceAnnouncement):
    done = False

    async def update(self, endpoint: Endpoint) -> None:
        if not self.done:
            self.done = True
            await super().update(endpoint)


@fault("the second update is lost", "test_update", "the update to")
@fault("of rapid updates the first one counts", "test_rapid_updates", "the last of 20 updates")
class LosesUpdates(ReferenceDiscovery):
    announcement_class = UpdatesOnce


class AddsUpdates(ReferenceAnnouncement):
    async def update(self, endpoint: Endpoint) -> None:
        self.owner.network.records.append(Record(endpoint))
        self.owner.network.changed()


@fault("an update stands beside what it replaces", "test_update", "an instance stands twice")
class KeepsBoth(ReferenceDiscovery):
    announcement_class = AddsUpdates


class LateUpdates(ReferenceAnnouncement):
    turn = 0

    async def update(self, endpoint: Endpoint) -> None:
        self.turn += 1
        if self.turn == 5:
            asyncio.get_running_loop().call_later(0.1, setattr, self.record, "endpoint", endpoint)
            asyncio.get_running_loop().call_later(0.1, self.owner.network.changed)
        else:
            await super().update(endpoint)


@fault("an old update overtakes newer ones", "test_rapid_updates", "an older update has come later")
class Overtaken(ReferenceDiscovery):
    announcement_class = LateUpdates


class SaysNoGoodbye(ReferenceAnnouncement):
    async def withdraw(self) -> None:
        return


@fault("a goodbye is never reported", "test_vanish", "an empty snapshot after withdraw()")
class NeverVanishes(ReferenceDiscovery):
    announcement_class = SaysNoGoodbye


class LateGoodbye(ReferenceAnnouncement):
    """The goodbye travels for a while, and takes away whoever has the name when it arrives."""

    async def withdraw(self) -> None:
        asyncio.get_running_loop().call_later(0.05, self.arrives)

    def arrives(self) -> None:
        records = self.owner.network.records
        gone = self.record.endpoint
        records[:] = [
            record
            for record in records
            if (record.endpoint.service, record.endpoint.instance) != (gone.service, gone.instance)
        ]
        self.owner.network.changed()


@fault("a late goodbye takes the next announcement away", "test_flap", "has taken the last announcement away")
class Racing(ReferenceDiscovery):
    announcement_class = LateGoodbye

    async def announce(self, endpoint: Endpoint) -> Announcement:
        self.network.records.clear()
        return await super().announce(endpoint)


@fault("of several instances only the first is known", "test_several_instances", "all six instances")
class OnlyOne(ReferenceDiscovery):
    def known(self, service: str | None) -> list[Endpoint]:
        return super().known(service)[:1]


@fault("the watcher that stops takes the other one along", "test_two_watchers", "after the other watcher has stopped")
class SharedEnd(ReferenceDiscovery):
    def remove(self, waker: asyncio.Event) -> None:
        for other in self.wakers:
            self.network.wakers.remove(other)
        self.wakers.clear()


@fault("the same snapshot comes again", "test_no_snapshot_without_change", "had not changed")
class Repeats(ReferenceDiscovery):
    def is_news(self, told: list[Endpoint] | None, known: list[Endpoint]) -> bool:
        return told is None or told != known or self.asked_again()

    def asked_again(self) -> bool:
        self.asked = not getattr(self, "asked", True)
        return self.asked


@fault("all watchers share one list that changes", "test_snapshots_stay_as_they_were", "a snapshot has changed later")
class SharesTheList(ReferenceDiscovery):
    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.lists: dict[str | None, list[Endpoint]] = {}

    def known(self, service: str | None) -> list[Endpoint]:
        shared = self.lists.setdefault(service, [])
        shared[:] = super().known(service)
        return shared


@fault("services whose names begin alike are mixed", "test_services_are_apart", "holds an endpoint of")
class MixesNames(ReferenceDiscovery):
    def belongs(self, endpoint: Endpoint, service: str | None) -> bool:
        return endpoint.service.startswith(service or "")


class Renaming(ReferenceDiscovery):
    def known(self, service: str | None) -> list[Endpoint]:
        return [replace(endpoint, service=service or endpoint.service) for endpoint in super().known(service)]

    def belongs(self, endpoint: Endpoint, service: str | None) -> bool:
        return endpoint.service.startswith(service or "")


MUTANTS.append(
    Mutant("services are mixed under one name", make_spec(Renaming), "test_services_are_apart", "another service's")
)


class TakesNamesakes(ReferenceAnnouncement):
    async def withdraw(self) -> None:
        for record in list(self.owner.network.records):
            if record.endpoint.instance == self.record.endpoint.instance:
                self.owner.network.records.remove(record)
        self.owner.network.changed()


@fault("a goodbye counts for every service", "test_instances_of_two_services_are_apart", "the namesake")
class InstancesOnly(ReferenceDiscovery):
    announcement_class = TakesNamesakes


@fault("a watch of all services sees none", "test_watch_of_all_services", "the instances of both services")
class SeesNoneOfAll(ReferenceDiscovery):
    def belongs(self, endpoint: Endpoint, service: str | None) -> bool:
        return endpoint.service == service


@fault("of all services' namesakes one is seen", "test_watch_of_all_services", "the instances of both services")
class MixesNamesakes(ReferenceDiscovery):
    def known(self, service: str | None) -> list[Endpoint]:
        return list({endpoint.instance: endpoint for endpoint in super().known(service)}.values())


@fault("a watch swallows its cancellation", "test_a_watch_can_be_cancelled", "has swallowed its cancellation")
class SwallowsCancellation(ReferenceDiscovery):
    async def snapshots(self, service: str | None) -> AsyncIterator[Sequence[Endpoint]]:
        with contextlib.suppress(asyncio.CancelledError):
            async for snapshot in super().snapshots(service):
                yield snapshot


# --- announcing ------------------------------------------------------------------------------------------------------
@fault("an attribute without a value is dropped", "test_attributes_round_trip", "'empty': None")
class DropsEmpty(ReferenceDiscovery):
    async def announce(self, endpoint: Endpoint) -> Announcement:
        kept = {key: value for key, value in endpoint.attributes.items() if value}
        return await super().announce(replace(endpoint, attributes=kept))


@fault("attributes are not carried at all", "test_attributes_round_trip", "'long': None")
class DropsAttributes(ReferenceDiscovery):
    async def announce(self, endpoint: Endpoint) -> Announcement:
        return await super().announce(replace(endpoint, attributes={}))


@fault("a value ends at its first equals sign", "test_attributes_round_trip", "'signs': 'a'")
class SplitsValues(ReferenceDiscovery):
    async def announce(self, endpoint: Endpoint) -> Announcement:
        cut = {key: value.partition("=")[0] for key, value in endpoint.attributes.items()}
        return await super().announce(replace(endpoint, attributes=cut))


@fault("the order of the urls is lost", "test_urls_round_trip", "the urls arrive as ('memory://calc'")
class SortsUrls(ReferenceDiscovery):
    async def announce(self, endpoint: Endpoint) -> Announcement:
        return await super().announce(replace(endpoint, urls=tuple(sorted(endpoint.urls))))


@fault("names are made lower-case", "test_instance_names_round_trip", 'arrives as "ada\'s machine (2)"')
class LowerNames(ReferenceDiscovery):
    async def announce(self, endpoint: Endpoint) -> Announcement:
        return await super().announce(replace(endpoint, instance=endpoint.instance.lower()))


class SaysTheFirst(ReferenceAnnouncement):
    async def update(self, endpoint: Endpoint) -> None:
        before = self.endpoint
        await super().update(endpoint)
        self.endpoint = before


@fault("an announcement tells its first state", "test_announcement_tells_what_is_announced", "after the update to")
class TellsTheFirst(ReferenceDiscovery):
    announcement_class = SaysTheFirst


@fault("a name may be used twice", "test_two_instances_of_one_name", "three instances have the names ['one', 'one'")
class NamesAreNotUnique(ReferenceDiscovery):
    def free_name(self, endpoint: Endpoint) -> str:
        return endpoint.instance


@fault("the new name is another altogether", "test_two_instances_of_one_name", "does not tell that somebody asked for")
class NamesAreNumbers(ReferenceDiscovery):
    def free_name(self, endpoint: Endpoint) -> str:
        name = super().free_name(endpoint)
        return name if name == endpoint.instance else f"number {len(self.network.records)}"


class TakesTheAskedName(ReferenceAnnouncement):
    async def update(self, endpoint: Endpoint) -> None:
        self.asked = ""
        await super().update(endpoint)


@fault("an update by the first name takes it", "test_two_instances_of_one_name", "an update of 'one' makes 'one-2'")
class UpdatesTakeNames(ReferenceDiscovery):
    announcement_class = TakesTheAskedName


@fault("wildcards are passed on", "test_wildcard_hosts", "a watcher cannot dial tcp://0.0.0.0:4001")
class PassesWildcardsOn(ReferenceDiscovery):
    def seen(self, endpoint: Endpoint) -> Endpoint:
        return endpoint


@fault("wildcards are left out", "test_wildcard_hosts", "no address instead of a wildcard")
class DropsWildcards(ReferenceDiscovery):
    def seen(self, endpoint: Endpoint) -> Endpoint:
        return replace(endpoint, urls=tuple(url for url in endpoint.urls if filled_in(url) == (url,)))


class StrictGoodbye(ReferenceAnnouncement):
    async def withdraw(self) -> None:
        self.owner.network.records.remove(self.record)
        self.owner.network.changed()


@fault("the second goodbye is a ValueError", "test_withdraw_is_idempotent", "ValueError")
class WithdrawsOnce(ReferenceDiscovery):
    announcement_class = StrictGoodbye


class Resurrects(ReferenceAnnouncement):
    async def update(self, endpoint: Endpoint) -> None:
        if self.record not in self.owner.network.records:
            self.owner.network.records.append(self.record)
        await super().update(endpoint)


@fault("an update brings back what was withdrawn", "test_update_after_withdraw", "announced again")
class ComesBack(ReferenceDiscovery):
    announcement_class = Resurrects


@fault("close leaves the announcements standing", "test_close_withdraws_everything", "only what another announces")
class LeavesAnnouncements(ReferenceDiscovery):
    async def close(self) -> None:
        self.announcements.clear()
        await super().close()


@fault("close leaves the watchers waiting", "test_close_ends_watchers", "the watch has not ended within")
class LeavesWatchers(ReferenceDiscovery):
    async def close(self) -> None:
        waiting, self.wakers = self.wakers, []
        await super().close()
        self.wakers = waiting


@fault("closing twice is an error", "test_close_is_idempotent", "RuntimeError")
class ClosesOnce(ReferenceDiscovery):
    async def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        await super().close()


@fault("announcing after close is a RuntimeError", "test_announce_after_close", "RuntimeError (closed) instead of")
@fault("watching after close is a RuntimeError", "test_watch_after_close", "RuntimeError (closed) instead of")
class WrongError(ReferenceDiscovery):
    def check_open(self) -> None:
        if self.closed:
            raise RuntimeError("closed")


@fault("a closed backend goes on announcing", "test_announce_after_close", "is accepted: raise ResourceClosed")
class NeverClosed(ReferenceDiscovery):
    def check_open(self) -> None:
        return


@fault("a watch of a closed backend hangs", "test_watch_after_close", "watch() after close() hangs")
class HangsWhenClosed(ReferenceDiscovery):
    async def snapshots(self, service: str | None) -> AsyncIterator[Sequence[Endpoint]]:
        if self.closed:
            await asyncio.Event().wait()
        async for snapshot in super().snapshots(service):
            yield snapshot


@fault("suspect drops the living", "test_suspect_keeps_the_living", "has dropped an endpoint that is alive")
class DropsTheLiving(ReferenceDiscovery):
    async def suspect(self, endpoint: Endpoint) -> None:
        for record in self.network.records:
            if record.endpoint == endpoint:
                record.alive = False
        await super().suspect(endpoint)


@fault("suspect believes the registry", "test_suspect_drops_the_dead", "only the living one")
class KeepsTheDead(ReferenceDiscovery):
    async def suspect(self, endpoint: Endpoint) -> None:
        return


@fault("suspecting a stranger is a KeyError", "test_suspect_of_a_stranger", "KeyError")
class UnknownIsAnError(ReferenceDiscovery):
    async def suspect(self, endpoint: Endpoint) -> None:
        {record.endpoint.instance: record for record in self.network.records}.pop(endpoint.instance)
        await super().suspect(endpoint)


# --- what is left ----------------------------------------------------------------------------------------------------
@fault("a watcher that stops leaves its task", "test_a_watcher_that_stops_leaks_nothing", "left after close(): <coro")
class LeaksTasks(ReferenceDiscovery):
    def add(self, waker: asyncio.Event) -> None:
        super().add(waker)
        self.tasks = [*getattr(self, "tasks", []), asyncio.get_running_loop().create_task(asyncio.Event().wait())]

    async def close(self) -> None:
        await super().close()
        for task in getattr(self, "tasks", []):
            task.cancel()


@fault("a task outlives close", "test_nothing_is_left_after_close", "left after close(): <coroutine object Event.wait")
class LeaksTheKeeper(ReferenceDiscovery):
    async def announce(self, endpoint: Endpoint) -> Announcement:
        self.keeper = asyncio.get_running_loop().create_task(asyncio.Event().wait())
        return await super().announce(endpoint)


OPENED: list[int] = []
"""For the test to close."""


@fault("a descriptor outlives close", "test_nothing_is_left_after_close", "3 file descriptors")
class LeaksDescriptors(ReferenceDiscovery):
    async def announce(self, endpoint: Endpoint) -> Announcement:
        OPENED.append(os.open(os.devnull, os.O_RDONLY))
        return await super().announce(endpoint)


# --- the spec --------------------------------------------------------------------------------------------------------
SHARED = ReferenceDiscovery(Network())


def share(options: msgspec.Struct) -> Discovery:
    """The same backend for everybody."""
    return SHARED


MUTANTS += [
    Mutant(
        "all endpoints share one backend",
        replace(SPEC, factory=share),
        "test_the_backend_is_what_its_spec_says",
        "one backend per endpoint",
    ),
]
