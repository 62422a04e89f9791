"""Finding among strangers: addresses that swallow what is sent, records that would deceive, backends that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream_core import Advertise, ConfigError, ConnectFailed, RpcClient, RpcServer, Url, find_endpoints
from echostream_core.builtin.memory import MemoryTransport
from tests.support.finder import Directory, Medium
from tests.support.handlers import echo
from tests.support.pairs import memory_url
from tests.unit.test_discovering import Finders, Locked, connected, endpoint, kernel_with, server

LOOPS = ("virtual",)


async def test_a_server_that_starts_anew_at_its_old_address_is_tried_again() -> None:
    medium = Medium()
    url = memory_url()
    medium.put(endpoint("one", url, server="first"))
    finding = asyncio.ensure_future(connected(RpcClient.discover("calc", discovery=Directory(medium))))
    await asyncio.sleep(1)
    async with RpcServer(url, echo):
        medium.put(endpoint("one", url, server="first", zone="eu"))
        await asyncio.sleep(1)
        assert not finding.done(), "the same server, whatever else has changed"
        medium.put(endpoint("one", url, server="second"))
        client = await finding
        await client.close()


@pytest.mark.parametrize("address", ["tcp://a/%0a%1b[31m", "tcp://a\u202eb:1", "tcp://a\x9b31m:1"], ids=ascii)
async def test_an_address_that_would_write_into_our_terminal_is_neither_dialled_nor_shown(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    medium = Medium()
    async with RpcServer(memory_url(), echo) as calc:
        medium.put(endpoint("one", address, address + "/2", calc.addresses[0]))
        async with RpcClient.discover("calc", discovery=Directory(medium)) as client:
            assert client.fallbacks == 0
        medium.put(endpoint("one", address))
        with pytest.raises(ConnectFailed, match="has signs that cannot be shown") as caught:
            await RpcClient.discover("calc", discovery=Directory(medium), timeout=1)
    assert (str(caught.value) + caplog.text).replace("\n", "").isprintable()


async def test_a_function_that_stumbles_over_a_strangers_attributes_passes_him_over() -> None:
    medium = Medium()
    medium.put(endpoint("stranger", weight="1000000"))
    where: dict[str, Any] = {"where": lambda one: one.attributes["zone"] == "eu", "discovery": Directory(medium)}
    eu = Advertise("calc", tags={"zone": "eu"})
    async with server(medium, eu) as calc, RpcClient.discover("calc", **where) as client:
        assert client.peer == calc.addresses[0]
    with pytest.raises(ConnectFailed, match="'stranger': where= has failed for it: KeyError: \"'zone'\""):
        await RpcClient.discover("calc", timeout=1, **where)


async def test_a_backend_with_a_defect_leaves_the_fallback(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Directory):
        def watch(self, service: str | None = None) -> AsyncIterator[Any]:
            raise RuntimeError("a defect of the backend")

    url = memory_url()
    fallen_back = RpcClient.discover("calc", discovery=Broken(Medium()), fallback=[url])
    async with RpcServer(url, echo), fallen_back as client:
        assert client.peer == url
    assert "the discovery backend has failed" in caplog.text
    with pytest.raises(ConnectFailed, match="discovery of 'calc' failed: the discovery backend has failed") as caught:
        await RpcClient.discover("calc", discovery=Broken(Medium()))
    assert caught.value.__cause__ is not None and isinstance(caught.value.__cause__.__cause__, RuntimeError)


async def test_why_the_network_cannot_be_asked_is_said_in_the_error() -> None:
    medium = Medium()
    medium.broken = True
    with pytest.raises(ConnectFailed, match="discovery of 'calc' failed: the medium is broken"):
        await RpcClient.discover("calc", discovery=Directory(medium), timeout=1)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"where": {"rack": 1}}, "where: 'rack' must be a text or a list of texts, as attributes are, not 1"),
        ({"where": {"rack": ["1", 2]}}, "where: 'rack' must be a text or a list of texts"),
        ({"where": "zone=eu"}, "where must be a table of attributes or a function, not 'zone=eu'"),
        ({"timeout": "3"}, "timeout must be a number of seconds above 0, not '3'"),
        ({"discovery": 5}, "discovery must be a backend, its name"),
    ],
    ids=["where-number", "where-list", "where-text", "timeout", "discovery"],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_asked(keywords: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RpcClient.discover("calc", **{"discovery": Directory(Medium()), **keywords})
    if "where" in keywords:
        with pytest.raises(ConfigError, match=words):
            await find_endpoints("calc", discovery=Directory(Medium()), **keywords)


@pytest.mark.parametrize("timeout", [-1, float("nan"), None])
async def test_the_time_for_looking_around_is_a_number_from_0_on(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout must be a number of seconds from 0 on"):
        await find_endpoints("calc", discovery=Directory(Medium()), timeout=timeout)


async def test_one_text_is_a_list_of_one() -> None:
    medium = Medium()
    async with server(medium) as calc:
        async with RpcClient.discover("calc", transports="memory", discovery=Directory(medium)) as client:
            assert client.peer == calc.addresses[0]
        url = calc.addresses[0]
        async with RpcClient.discover("other", fallback=url, discovery=Directory(medium), timeout=1) as client:
            assert client.peer == url


@pytest.mark.parametrize("how", ["two servers", "one server with two addresses"])
async def test_one_address_that_swallows_what_is_sent_to_it_does_not_hide_another(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = memory_url()
    dial = MemoryTransport.dial

    async def dial_or_wait(self: MemoryTransport, url: Url, options: Any) -> Any:
        if str(url) == silent:
            await asyncio.sleep(1_000)
        return await dial(self, url, options)

    monkeypatch.setattr(MemoryTransport, "dial", dial_or_wait)
    medium = Medium()
    async with RpcServer(memory_url(), echo) as calc:
        (good,) = calc.addresses
        if how == "two servers":
            medium.put(endpoint("silent", silent, weight="1"), endpoint("good", good, weight="0"))
        else:
            medium.put(endpoint("one", silent, good))
        async with RpcClient.discover("calc", discovery=Directory(medium), timeout=5, connect_timeout=10) as client:
            assert client.peer == good


async def test_two_that_announce_one_silent_address_are_not_dialled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dial(self: MemoryTransport, url: Url, options: Any) -> Any:
        await asyncio.sleep(1_000)

    monkeypatch.setattr(MemoryTransport, "dial", dial)
    medium = Medium()
    url = memory_url()
    medium.put(endpoint("one", url), endpoint("two", url))
    for timeout, connect_timeout, patience in ((5, 10, 5), (5, 4, 4), (0.5, 10, 3)):
        with pytest.raises(ConnectFailed, match=f"{url} did not answer within {patience} s"):
            await RpcClient.discover(
                "calc", discovery=Directory(medium), timeout=timeout, connect_timeout=connect_timeout
            )


async def test_after_the_time_what_differs_most_from_the_first_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernel_with(Finders("lookup"))
    kernel.register(Locked(), name="locked")
    dialled: list[str] = []

    async def dial(self: MemoryTransport, url: Url, options: object) -> Any:
        dialled.append(str(url))
        await asyncio.sleep(60)

    monkeypatch.setattr(MemoryTransport, "dial", dial)
    medium = Medium()
    medium.put(
        endpoint("one", "known://one", "unknown://one", weight="1"),
        endpoint("two", "known://two", "unknown://two", weight="0"),
    )
    with pytest.raises(ConnectFailed, match="none of 2 URLs worked"):
        await RpcClient.discover("calc", discovery=Directory(medium), kernel=kernel, timeout=5, connect_timeout=10)
    assert dialled == ["known://one", "unknown://two"]
