"""Announcements on loopback: names that are taken, rivals, updates that change the name, and an end at any time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from echostream_core.discovery import Endpoint
from echostream_core.errors import ConfigError, ResourceClosed, TransportError
from echostream_discovery_mdns import announcing
from echostream_discovery_mdns._zeroconf import Engine, Heard
from echostream_discovery_mdns.addresses import Links
from echostream_discovery_mdns.names import full_name
from plugins.discovery_mdns.tests.loopback import backends, endpoint, service_name, until


def names(seen: Sequence[Endpoint]) -> list[str]:
    return [found.instance for found in seen]


async def test_a_name_that_another_process_has_gets_a_number_and_no_probe_ends_unheard() -> None:
    service = service_name()
    async with backends(3) as (one, two, three):
        for backend, expected in ((one, "one"), (two, "one-2"), (three, "one-3")):
            announcement = await backend.announce(endpoint(service))
            assert announcement.endpoint.instance == expected
        await until(one, service, lambda seen: names(seen) == ["one", "one-2", "one-3"])


async def test_a_name_that_was_announced_long_ago_is_defended() -> None:
    service = service_name()
    async with backends(2) as (one, two):
        await one.announce(endpoint(service))
        await asyncio.sleep(1.2)
        assert (await two.announce(endpoint(service, "ONE"))).endpoint.instance == "ONE-2"


async def test_the_same_name_in_another_service_is_free() -> None:
    async with backends(2) as (one, two):
        assert (await one.announce(endpoint(service_name()))).endpoint.instance == "one"
        assert (await two.announce(endpoint(service_name()))).endpoint.instance == "one"


async def test_a_goodbye_makes_the_name_free_at_once() -> None:
    service = service_name()
    async with backends(2) as (one, two):
        announcement = await one.announce(endpoint(service))
        await until(two, service, bool)
        await announcement.withdraw()
        assert (await two.announce(endpoint(service))).endpoint.instance == "one"
        await until(one, service, lambda seen: names(seen) == ["one"])


async def test_an_announcement_waits_for_the_goodbye_of_its_own_name() -> None:
    service = service_name()
    async with backends(2, probe_s=0) as (one, two):
        announcement = await one.announce(endpoint(service))
        leaving = asyncio.get_running_loop().create_task(announcement.withdraw())
        await asyncio.sleep(0)
        again = await one.announce(endpoint(service, turn="2"))
        assert again.endpoint.instance == "one"
        await leaving
        await asyncio.sleep(0.3)
        assert (await until(two, service, bool))[0].attributes == {"turn": "2"}


async def test_two_that_claim_one_name_at_the_same_time_end_up_with_two(caplog: pytest.LogCaptureFixture) -> None:
    service = service_name()
    async with backends(2, probe_s=0) as (one, two):
        for backend in (one, two):
            await backend._open()
        first, second = await asyncio.gather(
            one.announce(endpoint(service, "one", "tcp://127.0.0.1:4001")),
            two.announce(endpoint(service, "one", "tcp://127.0.0.1:4002")),
        )
        for backend in (one, two):
            seen = await until(backend, service, lambda seen: names(seen) == ["one", "one-2"])
            assert {found.urls for found in seen} == {("tcp://127.0.0.1:4001",), ("tcp://127.0.0.1:4002",)}
        assert {first.endpoint.instance, second.endpoint.instance} == {"one", "one-2"}
        assert [record.getMessage() for record in caplog.records if record.name == "echostream.mdns"] == [
            f"another instance of '{service}' is named 'one': this one is now 'one-2'"
        ]


@pytest.mark.parametrize("how", ["withdraw", "update"])
async def test_an_answer_that_waits_is_taken_back_when_it_is_not_true_any_more(how: str) -> None:
    service = service_name()
    heard: list[Heard] = []
    stranger = Engine(Links(("127.0.0.1",), (), ()), 120, heard.append)
    async with backends(1) as (one,):
        try:
            await stranger.start()
            announcement = await one.announce(endpoint(service))
            await asyncio.sleep(0.6)  # the announcement has been repeated: an answer has to wait for another second
            stranger.ask_for_instances([])
            await asyncio.sleep(0.05)
            waiting = [group for group in one.engine._zeroconf.out_delay_queue.queue if group.answers]
            assert waiting, "the question comes too late for an answer that waits"
            await (announcement.withdraw() if how == "withdraw" else announcement.update(endpoint(service, turn="2")))
            heard.clear()
            await asyncio.sleep(1.6)
            name = full_name(f"{service}/one")
            texts = [data for batch in heard for text_name, data, ttl_s in batch.texts if text_name == name and ttl_s]
            assert all(b"@turn=2" in data for data in texts)
            if how == "withdraw":
                assert not [batch for batch in heard if (name, 120.0) in batch.pointers]
        finally:
            await stranger.close()


async def test_when_somebody_has_every_name_that_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with backends(1) as (one,):
        monkeypatch.setattr(type(one), "heard_lately", lambda self, name: True)
        with pytest.raises(TransportError, match=r"no name for the instance 'one' .* each of 12 that were tried"):
            await one.announce(endpoint(service_name()))
        assert one.claims == {}


async def test_after_four_names_random_ones_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_name()
    taken = {full_name(f"{service}/{name}") for name in ("one", "one-2", "one-3", "one-4")}
    async with backends(1) as (one,):
        monkeypatch.setattr(type(one), "heard_lately", lambda self, name: name in taken)
        announcement = await one.announce(endpoint(service))
        assert announcement.endpoint.instance.startswith("one-") and len(announcement.endpoint.instance) == 8


async def test_an_update_may_change_name_and_service() -> None:
    service, other = service_name(), service_name()
    async with backends(2) as (one, two):
        announcement = await one.announce(endpoint(service))
        await until(two, service, bool)
        await announcement.update(endpoint(service, "two"))
        await until(two, service, lambda seen: names(seen) == ["two"])
        await announcement.update(endpoint(other, "two"))
        await until(two, service, lambda seen: not seen)
        await until(two, other, lambda seen: names(seen) == ["two"])
        assert announcement.endpoint == endpoint(other, "two")
        await announcement.withdraw()
        await until(two, other, lambda seen: not seen)
        assert one.claims == {}


async def test_an_update_that_is_too_large_changes_nothing() -> None:
    service = service_name()
    async with backends(2) as (one, two):
        announcement = await one.announce(endpoint(service))
        with pytest.raises(ConfigError, match="the attribute 'notes'"):
            await announcement.update(endpoint(service, notes="x" * 2_000))
        with pytest.raises(ConfigError, match="the attribute 'notes'"):
            await announcement.update(endpoint(service, "two", notes="x" * 2_000))
        with pytest.raises(ConfigError, match="no address"):
            await announcement.update(Endpoint(service=service, instance="one", urls=(), attributes={}))
        assert announcement.endpoint == endpoint(service)
        assert await until(two, service, bool) == (endpoint(service),)


async def test_what_cannot_be_announced_opens_no_socket() -> None:
    async with backends(1) as (one,):
        for wrong in (endpoint("", "one"), endpoint("calc", ""), endpoint("calc", notes="x" * 2_000)):
            with pytest.raises(ConfigError):
                await one.announce(wrong)
        assert one._engine is None


async def test_a_long_name_with_dots_arrives_whole() -> None:
    service, name = service_name(), "node.eu-1.example " * 12
    async with backends(2) as (one, two):
        await one.announce(endpoint(service, name))
        await one.announce(endpoint(service, name + "x"))
        await until(two, service, lambda seen: names(seen) == [name, name + "x"])


async def test_closing_ends_an_announcement_under_way() -> None:
    async with backends(1, probe_s=5) as (one,):
        await one._open()
        pending = asyncio.get_running_loop().create_task(one.announce(endpoint(service_name())))
        await asyncio.sleep(0.05)
        await one.close()
        with pytest.raises(ResourceClosed):
            await pending


async def test_a_cancelled_announcement_leaves_its_name_free() -> None:
    service = service_name()
    async with backends(1, probe_s=5) as (one,):
        pending = asyncio.get_running_loop().create_task(one.announce(endpoint(service)))
        await asyncio.sleep(0.05)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        assert one.claims == {}


async def test_an_update_after_the_goodbye_is_an_error() -> None:
    service = service_name()
    async with backends(1) as (one,):
        announcement = await one.announce(endpoint(service))
        await asyncio.gather(announcement.withdraw(), announcement.withdraw())
        with pytest.raises(ResourceClosed, match="was withdrawn"):
            await announcement.update(endpoint(service, turn="2"))


async def test_a_goodbye_goes_on_when_who_waits_for_it_is_cancelled() -> None:
    service = service_name()
    async with backends(2, probe_s=0) as (one, two):
        announcement = await one.announce(endpoint(service))
        await until(two, service, bool)
        leaving = asyncio.ensure_future(announcement.withdraw())
        for _ in range(3):
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await until(two, service, lambda seen: not seen)
        again = await one.announce(endpoint(service, turn="2"))
        assert again.endpoint.instance == "one"
        assert len(one.engine._zeroconf.registry.async_get_service_infos()) == 1


async def test_an_update_that_is_cancelled_in_its_goodbye_leaves_no_ghost() -> None:
    service = service_name()
    async with backends(2, probe_s=0) as (one, two):
        announcement = await one.announce(endpoint(service))
        await until(two, service, bool)
        updating = asyncio.ensure_future(announcement.update(endpoint(service, "two")))
        for _ in range(3):
            await asyncio.sleep(0)
        updating.cancel()
        await asyncio.wait([updating])
        await until(two, service, lambda seen: not seen)
        assert one.claims == {} and not one.engine._zeroconf.registry.async_get_service_infos()


async def test_a_withdrawal_that_is_cancelled_behind_something_else_holds_up_nobody() -> None:
    service = service_name()
    async with backends(1, probe_s=0) as (one,):
        announcement = await one.announce(endpoint(service))
        async with announcement._lock:
            leaving = asyncio.ensure_future(announcement.withdraw())
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
        async with asyncio.timeout(8):
            assert (await one.announce(endpoint(service))).endpoint.instance == "one"


async def test_who_finds_no_other_name_goes_on_looking_for_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = service_name()
    monkeypatch.setattr(announcing, "CHANGE_S", 0.01)
    async with backends(2, probe_s=0) as (one, two):
        announcement = await one.announce(endpoint(service))
        with monkeypatch.context() as everything_is_taken:
            everything_is_taken.setattr(type(one), "heard_lately", lambda self, name: True)
            announcement.hear_rival("zzz.local.")
            await asyncio.sleep(0.05)
            assert one.claims == {}
            with pytest.raises(ConfigError, match="the attribute 'notes'"):
                await announcement.update(endpoint(service, notes="x" * 2_000))
            await announcement.update(endpoint(service, turn="2"))
        changed = endpoint(service, "one-2", turn="2")
        await until(two, service, lambda seen: changed in seen)
        assert announcement.endpoint == changed
        assert sum("is not announced for now" in record.getMessage() for record in caplog.records) == 1
        await announcement.withdraw()


async def test_a_rival_that_must_give_way_is_told_off_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = service_name()
    async with backends(1) as (one,):
        announcement = await one.announce(endpoint(service))
        said: list[object] = []

        async def say_again() -> None:
            said.append(announcement)

        monkeypatch.setattr(announcement, "say_again", say_again)
        for _ in range(5):
            announcement.hear_rival("aaa.local.")
        await asyncio.sleep(0)
        assert len(said) == 1 and announcement.endpoint.instance == "one"
        announcement._defended_at -= announcing.DEFENCE_S
        announcement.hear_rival("aaa.local.")
        await asyncio.sleep(0)
        assert len(said) == 2
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_who_gives_way_announces_what_it_announced_last() -> None:
    service = service_name()
    async with backends(2) as (one, two):
        announcement = await one.announce(endpoint(service))
        await announcement.update(endpoint(service, "one", "tcp://127.0.0.1:4002", turn="2"))
        announcement.hear_rival("zzz.local.")
        changed = endpoint(service, "one-2", "tcp://127.0.0.1:4002", turn="2")
        await until(two, service, lambda seen: changed in seen)
        assert announcement.endpoint == changed


async def test_somebody_who_takes_each_name_makes_us_change_it_only_so_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(announcing, "CHANGE_S", 60.0)
    async with backends(1, probe_s=0) as (one,):
        announcement = await one.announce(endpoint(service_name()))
        for _ in range(30):
            for _ in range(3):
                announcement.hear_rival("zzz.local.")
            await asyncio.sleep(0)
            changing = announcement._changing
            if changing is not None:
                await asyncio.wait([changing], timeout=0.02)
        lines = [record for record in caplog.records if record.name == "echostream.mdns"]
        assert len(lines) == announcing.QUICK_CHANGES
        assert len(one._tasks) == 1, "one that waits"
