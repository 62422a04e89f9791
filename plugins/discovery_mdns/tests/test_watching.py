"""Watches on loopback: strangers, floods, refreshing, and the dead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from zeroconf._dns import DNSPointer, DNSRecord, DNSService, DNSText
from zeroconf._protocol.outgoing import DNSOutgoing

from echostream_core.discovery import Endpoint
from echostream_core.errors import ResourceClosed
from echostream_discovery_mdns import watching
from echostream_discovery_mdns.names import SERVICE_TYPE, full_name
from echostream_discovery_mdns.txt import Advert, encode
from plugins.discovery_mdns.tests.loopback import backends, endpoint, multicast, service_name, until
from plugins.discovery_mdns.tests.silencing import silence

HOST = "stranger.local."


def packet(*records: DNSRecord) -> bytes:
    """A response of a stranger's own making."""
    out = DNSOutgoing(0x8400)
    for record in records:
        out.add_answer_at_time(record, 0)
    (made,) = out.packets()
    return bytes(made)


def packets(*records: DNSRecord) -> list[bytes]:
    """One for each record."""
    return [packet(record) for record in records]


def announced(label: str, data: bytes, ttl_s: int = 120) -> tuple[DNSRecord, ...]:
    name = full_name(label)
    return (
        DNSPointer(SERVICE_TYPE, 12, 1, ttl_s, name),
        DNSService(name, 33, 0x8001, ttl_s, 0, 0, 4001, HOST),
        DNSText(name, 16, 0x8001, ttl_s, data),
    )


def advert(service: str, url: str = "tcp://192.0.2.1:1") -> bytes:
    return encode(Advert(service=service, instance="", urls=(url,), attributes={}))


async def test_a_foreign_announcement_in_our_form_is_seen_and_its_goodbye_too() -> None:
    service = service_name()
    async with backends(1) as (one,), multicast() as send:
        await until(one, service, lambda seen: not seen)
        send(packet(*announced(f"Living Room {service}", advert(service))))
        (seen,) = await until(one, service, bool)
        assert (seen.instance, seen.urls) == (f"Living Room {service}", ("tcp://192.0.2.1:1",))
        send(packet(*announced(f"Living Room {service}", advert(service), ttl_s=0)))
        await until(one, service, lambda seen: not seen)


async def test_malformed_records_and_packets_hurt_nobody(caplog: pytest.LogCaptureFixture) -> None:
    service = service_name()
    async with backends(2) as (one, two), multicast() as send:
        await until(two, service, lambda seen: not seen)
        for number, data in enumerate(
            [b"", b"\xff", b"\x05\xff\xff\xff\xff\xff", b"\x0cservice=calc", b"\x00" * 4_097]
        ):
            for part in packets(*announced(f"bad-{number}-{service}", data)):
                send(part)
        whole = packet(*announced(f"cut-{service}", advert(service)))
        for end in range(len(whole)):
            send(whole[:end])
        send(packet(*announced("\N{REPLACEMENT CHARACTER}" * 21, advert(service))))
        label = b"\xff" * 63  # no UTF-8: longer when it is read than when it was written
        send(whole.replace(b"\x13cut-" + service.encode(), b"\x3f" + label))
        await one.announce(endpoint(service))
        seen = await until(two, service, lambda seen: "one" in [found.instance for found in seen])
        assert {found.instance for found in seen} <= {"one", f"cut-{service}", "\N{REPLACEMENT CHARACTER}" * 21}
        lines = [record.getMessage() for record in caplog.records if f"-{service}" in record.getMessage()]
        assert len(lines) == 5, "one line for each malformed record"
        assert all(record.name != "asyncio" for record in caplog.records)


@pytest.mark.slow
async def test_a_flood_of_5000_instances_is_bounded_and_who_comes_after_it_is_seen() -> None:
    service, flooded = service_name(), service_name()
    async with backends(2, max_instances=50) as (one, two), multicast() as send:
        await until(two, service, lambda seen: not seen)
        browser = await two._open()
        watch = two.watch(flooded)
        await anext(watch)
        for number in range(5_000):
            send(packet(*announced(f"flood-{number}-{flooded}", advert(flooded if number % 2 else "elsewhere"))))
            if number % 20 == 0:
                await asyncio.sleep(0)
        await until(two, flooded, lambda seen: len(seen) == 50)
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert len(browser.table) <= 50 + 1_024
        await one.announce(endpoint(service))
        await until(two, service, lambda seen: [found.instance for found in seen] == ["one"])


async def test_a_flood_of_names_without_contents_makes_few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_name()
    async with backends(1) as (one,), multicast() as send:
        await until(one, service, lambda seen: not seen)
        asked: list[Sequence[str]] = []
        monkeypatch.setattr(one.engine, "ask_for_details", asked.append)
        watch = one.watch(service)
        await anext(watch)
        for number in range(2_000):
            send(packet(DNSPointer(SERVICE_TYPE, 12, 1, 2**31 - 1, full_name(f"{number}-{service}"))))
            if number % 20 == 0:
                await asyncio.sleep(0)
        browser = await one._open()
        while not asked:
            await asyncio.sleep(0.02)
        assert len(browser.table) <= 1_024
        assert all(len(names) <= watching.MAX_NAMES for names in asked)
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_who_watches_later_learns_of_what_was_announced_long_before() -> None:
    service = service_name()
    async with backends(2) as (one, two):
        await one.announce(endpoint(service))
        await asyncio.sleep(1.1)
        assert await until(two, service, bool) == (endpoint(service),)


@pytest.mark.slow
async def test_an_instance_that_lives_longer_than_its_lifetime_is_asked_and_stays() -> None:
    service = service_name()
    async with backends(2, ttl_s=5) as (one, two):
        await one.announce(endpoint(service))
        seen: list[Sequence[Endpoint]] = []

        async def read() -> None:
            async for snapshot in two.watch(service):
                seen.append(snapshot)

        task = asyncio.get_running_loop().create_task(read())
        await asyncio.sleep(7)
        task.cancel()
        await asyncio.wait([task])
        assert seen[-1] == (endpoint(service),) and all(len(snapshot) <= 1 for snapshot in seen)
        assert () not in seen[seen.index((endpoint(service),)) :]


@pytest.mark.slow
async def test_the_dead_go_by_themselves_when_their_lifetime_is_over() -> None:
    service = service_name()
    async with backends(2, ttl_s=5) as (one, two):
        announcement = await one.announce(endpoint(service))
        await until(two, service, bool)
        await silence(announcement)
        await until(two, service, lambda seen: not seen)


async def test_suspecting_asks_once_however_many_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_name()
    async with backends(2, suspect_s=0.4) as (one, two):
        announcement = await one.announce(endpoint(service))
        await one.announce(endpoint(service, "two"))
        watch = two.watch(service)
        while len(await anext(watch)) < 2:
            pass
        await silence(announcement)
        asked: list[str] = []
        ask = two.engine.ask_for_life

        def counted(name: str) -> None:
            asked.append(name)
            ask(name)

        monkeypatch.setattr(two.engine, "ask_for_life", counted)
        suspicions = [asyncio.ensure_future(two.suspect(endpoint(service))) for _ in range(5)]
        await asyncio.sleep(0.1)
        suspicions[0].cancel()
        await asyncio.wait(suspicions)
        assert asked == [full_name(f"{service}/one")] * 2
        assert [found.instance for found in await anext(watch)] == ["two"]
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator
        with pytest.raises(asyncio.CancelledError):
            suspicions[0].result()


async def test_suspecting_the_living_returns_with_its_answer() -> None:
    service = service_name()
    async with backends(2, suspect_s=30) as (one, two):
        await one.announce(endpoint(service))
        await until(two, service, bool)
        async with asyncio.timeout(8):
            await two.suspect(endpoint(service))
        assert await until(two, service, bool) == (endpoint(service),)


async def test_all_that_have_the_name_of_a_suspect_are_asked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_name()
    async with backends(1) as (one,):
        browser = await one._open()
        watch = one.watch(service)
        await anext(watch)
        for label in (f"{service}/one", "stranger"):
            name = full_name(label)
            browser.table.service(name, HOST, 1, 120, browser.now())
            data = encode(Advert(service=service, instance="one", urls=("tcp://192.0.2.1:1",), attributes={}))
            browser.table.text(name, data, 120, browser.now())
        asked: list[str] = []

        async def verify(name: str, patience_s: float) -> None:
            asked.append(name)
            while len(asked) < 2:
                await asyncio.sleep(0.01)

        monkeypatch.setattr(browser, "verify", verify)
        async with asyncio.timeout(8):
            await one.suspect(endpoint(service))
        assert len(asked) == 2
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_who_is_dropped_without_a_goodbye_is_looked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_name()
    async with backends(1, suspect_s=0.1) as (one,):
        browser = await one._open()
        watch = one.watch(service)
        await anext(watch)
        name = full_name(f"{service}/one")
        browser.table.service(name, HOST, 1, 120, browser.now())
        browser.table.text(name, advert(service), 120, browser.now())
        assert browser._question is not None
        browser._question.cancel()
        browser._question = asyncio.get_running_loop().call_later(3_000, browser._ask)
        await one.suspect(endpoint(service))
        assert len(browser.table) == 0
        assert browser._question.when() - browser.now() < 1
        asked = asyncio.Event()
        monkeypatch.setattr(one.engine, "ask_for_instances", lambda known: asked.set())
        async with asyncio.timeout(8):
            await asked.wait()
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_closing_ends_a_suspicion() -> None:
    service = service_name()
    async with backends(2, suspect_s=30) as (one, two):
        announcement = await one.announce(endpoint(service))
        await until(two, service, bool)
        await silence(announcement)
        pending = asyncio.get_running_loop().create_task(two.suspect(endpoint(service)))
        await asyncio.sleep(0.05)
        await two.close()
        await pending
        with pytest.raises(ResourceClosed):
            await two.suspect(endpoint(service))


async def test_after_the_last_watch_nothing_is_asked_and_what_is_heard_is_kept() -> None:
    service = service_name()
    async with backends(2) as (one, two):
        await until(two, service, lambda seen: not seen)
        browser = await two._open()
        assert (browser._question, browser._sweep, browser._settle) == (None, None, None)
        await one.announce(endpoint(service))
        await asyncio.sleep(0.1)
        assert await anext(two.watch(service)) == (endpoint(service),)
