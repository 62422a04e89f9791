"""A backend whose machine changes: interfaces that cannot be opened yet, a pause in sleep, an end in the middle."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable

import pytest

from echostream_core.errors import TransportError
from echostream_discovery_mdns import addresses, discovery
from echostream_discovery_mdns.addresses import Links
from echostream_discovery_mdns.announcing import MdnsAnnouncement
from echostream_discovery_mdns.discovery import MdnsDiscovery
from plugins.discovery_mdns.tests.loopback import PATIENCE_S, backends, endpoint, options, service_name

POLL_S = 0.02


async def come(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(POLL_S)


async def test_a_backend_that_is_closed_while_it_opens_looks_at_interfaces_no_more() -> None:
    backend = MdnsDiscovery(options())
    opening = asyncio.ensure_future(anext(backend.watch("calc"), None))
    while backend._engine is None:
        await asyncio.sleep(0)
    await backend.close()
    assert await opening is None
    assert backend._poll is None


async def watch(backend: MdnsDiscovery) -> None:
    async for _ in backend.watch("calc"):
        pass


async def announce(backend: MdnsDiscovery) -> None:
    await backend.announce(endpoint("calc"))


async def test_who_is_cancelled_while_the_sockets_open_leaves_none_behind() -> None:
    async with backends(1) as (one,):
        await one._open()
        before = os.listdir("/dev/fd")
        for turns, announces in itertools.product(range(8), (False, True)):
            backend = MdnsDiscovery(options(probe_s=10))
            using = asyncio.ensure_future(announce(backend) if announces else watch(backend))
            for _ in range(turns):
                await asyncio.sleep(0)
            using.cancel()
            await asyncio.wait([using])
            await backend.close()
        await asyncio.sleep(0)
        assert os.listdir("/dev/fd") == before


async def test_a_system_that_is_out_of_descriptors_for_a_while_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_descriptors() -> object:
        raise OSError(24, "Too many open files")

    async with backends(1, interface_poll_s=POLL_S) as (one,):
        await one._open()
        monkeypatch.setattr(addresses, "machine_interfaces", out_of_descriptors)
        await come(lambda: "goes on with what it had" in caplog.text)
        monkeypatch.undo()
        looked = asyncio.Event()

        def choose(options: object) -> Links:
            looked.set()
            return one._links

        monkeypatch.setattr(discovery, "choose", choose)
        await come(looked.is_set)
        assert all(record.name != "asyncio" for record in caplog.records)


async def test_what_cannot_be_opened_yet_is_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    from zeroconf import _engine
    from zeroconf._utils import net

    add = net.add_interface
    refused: list[object] = []

    def not_yet(listener: object, interface: object, **how: object) -> object:
        if len(refused) < 2:
            refused.append(interface)
            return None
        return add(None, interface, **how)  # type: ignore[arg-type]  # of loopback we are in the group already

    async with backends(1, interface_poll_s=POLL_S) as (one,):
        await one._open()
        monkeypatch.setattr(_engine, "add_interface", not_yet)
        links = Links(("127.0.0.1", "127.0.0.2"), (), ("127.0.0.1",), (), (1, 2))
        monkeypatch.setattr(discovery, "choose", lambda options: links)
        monkeypatch.setattr(discovery, "LATE_ANSWER_S", 0.0)
        await come(lambda: len(one.engine._zeroconf.engine.senders) == 2)
        assert refused == ["127.0.0.2"] * 2


async def test_what_can_never_be_opened_is_tried_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async with backends(1, interface_poll_s=0.001) as (one,):
        await one._open()
        tries: list[object] = []

        async def use(former: Links, links: Links) -> None:
            tries.append(links)

        monkeypatch.setattr(one.engine, "lacks", lambda links: True)
        monkeypatch.setattr(one.engine, "use", use)
        await come(lambda: len(tries) == discovery.MAX_TRIES)
        await asyncio.sleep(0.05)
        assert len(tries) == discovery.MAX_TRIES


async def test_a_change_that_fails_half_way_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with backends(1, interface_poll_s=POLL_S, probe_s=0) as (one,):
        announcement = await one.announce(endpoint(service_name()))
        tries = 0
        use = one.engine.use

        async def fails_at_first(former: Links, links: Links) -> None:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise TransportError("mDNS cannot be used: no buffer space")
            await use(former, links)

        said: list[MdnsAnnouncement] = []

        async def say_again() -> None:
            said.append(announcement)

        monkeypatch.setattr(announcement, "say_again", say_again)
        monkeypatch.setattr(one.engine, "use", fails_at_first)
        links = Links(("127.0.0.1",), (), ("127.0.0.1", "127.0.0.2"), (), one._links.indexes_v4)
        monkeypatch.setattr(discovery, "choose", lambda options: links)
        await come(lambda: said)
        lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [line.getMessage() for line in lines] == ["mDNS cannot be used: no buffer space; trying again"]


async def test_after_a_sleep_everybody_is_doubted_and_we_say_that_we_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_name()
    async with backends(1, interface_poll_s=POLL_S, probe_s=0) as (one,):
        announcement = await one.announce(endpoint(service))
        watch = one.watch(service)
        await anext(watch)
        browser = await one._open()
        done: list[str] = []

        async def say_again() -> None:
            done.append("said")

        monkeypatch.setattr(announcement, "say_again", say_again)
        monkeypatch.setattr(browser.table, "doubt", lambda now: done.append("doubted"))
        monkeypatch.setattr(browser, "ask_anew", lambda: done.append("asked"))
        begin = discovery.suspended_s()
        monkeypatch.setattr(discovery, "suspended_s", lambda: begin + discovery.SLEPT_S / 2)
        await asyncio.sleep(5 * POLL_S)
        assert done == [], "a nap"
        monkeypatch.setattr(discovery, "suspended_s", lambda: begin + 2 * discovery.SLEPT_S)
        await come(lambda: len(done) == 3)
        assert done == ["doubted", "asked", "said"]
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_with_a_network_that_was_left_go_those_that_were_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "LATE_ANSWER_S", 0.0)
    async with backends(1, interface_poll_s=POLL_S) as (one,):
        browser = await one._open()
        doubted: list[float] = []
        monkeypatch.setattr(browser.table, "doubt", doubted.append)
        for senders in (("127.0.0.1", "127.0.0.2"), ("127.0.0.2",)):
            assert doubted == []
            links = Links(senders, (), senders, (), (1,) * len(senders))
            monkeypatch.setattr(discovery, "choose", lambda options, links=links: links)
            await come(lambda links=links: one._links == links and one._settled)  # type: ignore[misc]  # it has a default
        assert len(doubted) == 1
