"""Servers are announced and found by name. On a clock that does not wait."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from echostream_core import (
    Advertise,
    Capabilities,
    ConfigError,
    ConnectFailed,
    Endpoint,
    Kernel,
    PluginNotFound,
    ResourceClosed,
    RpcClient,
    RpcServer,
    TransportError,
    Url,
    find_endpoints,
    hookimpl,
    watch_endpoints,
)
from echostream_core.builtin.memory import MemoryTransport
from echostream_core.discovery import Announcement, DiscoverySpec
from echostream_core.finding import by_weight, matches
from echostream_core.plugin_reports import PluginSettings
from echostream_core.tls_options import TlsOptions
from echostream_core.transport import TransportSpec
from tests.support.finder import Directory, Medium
from tests.support.handlers import Watched, echo
from tests.support.pairs import memory_url
from tests.support.waiting import other_tasks, settle, until

LOOPS = ("virtual",)


def endpoint(instance: str = "one", *urls: str, service: str = "calc", **attributes: str) -> Endpoint:
    return Endpoint(service=service, instance=instance, urls=urls or (memory_url(),), attributes=attributes)


@asynccontextmanager
async def server(medium: Medium, advertise: str | Advertise = "calc", **keywords: Any) -> AsyncIterator[RpcServer]:
    """A server that is announced already."""
    made = RpcServer(memory_url(), echo, advertise=advertise, discovery=Directory(medium), drain_timeout=0, **keywords)
    async with made:
        await until(lambda: made.announced)
        yield made


@pytest.fixture(autouse=True)
async def nothing_stays() -> AsyncIterator[None]:
    """No task outlives its test."""
    yield
    await settle()
    assert not other_tasks()


# Announcing


async def test_a_server_is_announced_with_what_clients_choose_by() -> None:
    medium = Medium()
    async with server(medium, Advertise("calc", weight=7, tags={"zone": "eu"}), codecs=["json"]) as calc:
        (seen,) = medium.endpoints
        assert seen == calc.announced
        assert (seen.service, seen.urls) == ("calc", tuple(calc.addresses))
        server_id = seen.attributes["server"]
        assert len(server_id) == 16 and seen.instance.endswith(server_id[:8])
        assert {**seen.attributes} == {
            "server": server_id,
            "transports": "memory",
            "codecs": "json",
            "weight": "7",
            "zone": "eu",
        }
    assert medium.endpoints == []
    assert calc.announced is None


async def test_it_is_withdrawn_before_its_address_is_gone() -> None:
    medium = Medium()
    order: list[str] = []
    async with server(medium) as calc:
        url = calc.addresses[0]
        original = medium.put

        def put(*endpoints: Endpoint) -> None:
            order.append(f"withdrawn with {len(calc.addresses)} addresses")
            original(*endpoints)

        medium.put = put  # type: ignore[method-assign]  # to see when it happens
    assert order == ["withdrawn with 1 addresses"]
    with pytest.raises(ConnectFailed):
        await RpcClient.connect(url)


async def test_weight_and_tags_change_while_it_serves() -> None:
    medium = Medium()
    async with server(medium) as calc:
        calc.readvertise(weight=0, tags={"phase": "maintenance"})
        await until(lambda: medium.endpoints[0].attributes.get("phase") == "maintenance")
        assert medium.endpoints[0].attributes["weight"] == "0"
        calc.readvertise(weight=3)
        await until(lambda: medium.endpoints[0].attributes["weight"] == "3")
        assert medium.endpoints[0].attributes["phase"] == "maintenance"
        with pytest.raises(ConfigError, match="weight must be from 0 to 1000000, not -1"):
            calc.readvertise(weight=-1)
    with pytest.raises(ResourceClosed, match="not announced"):
        calc.readvertise(weight=1)
    with pytest.raises(ConfigError, match="pass advertise="):
        RpcServer(memory_url()).readvertise(weight=1)


async def test_a_taken_instance_name_is_made_unique_and_kept_in_updates() -> None:
    medium = Medium()
    wanted = Advertise("calc", instance="calc on ada")
    async with server(medium, wanted) as first, server(medium, wanted) as second:
        assert first.announced is not None and second.announced is not None
        assert (first.announced.instance, second.announced.instance) == ("calc on ada", "calc on ada-2")
        second.readvertise(weight=1)
        await until(lambda: [one.attributes["weight"] for one in medium.endpoints] == ["100", "1"])
        assert [one.instance for one in medium.endpoints] == ["calc on ada", "calc on ada-2"]


async def test_serving_does_not_wait_for_discovery_and_announces_when_it_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    medium = Medium()
    medium.broken = True
    calc = RpcServer(memory_url(), echo, advertise="calc", discovery=Directory(medium))
    async with calc:
        async with RpcClient.connect(calc.addresses[0]) as client:
            assert await client.request("echo", 1) == 1
        await asyncio.sleep(10)
        assert calc.announced is None
        assert "'calc' is not announced: the medium is broken; trying again in 4 s" in caplog.text
        medium.broken = False
        await until(lambda: calc.announced)
        medium.broken = True
        calc.readvertise(weight=5)
        await asyncio.sleep(1)
        medium.broken = False
        await until(lambda: medium.endpoints[0].attributes["weight"] == "5")
    assert medium.endpoints == []


async def test_a_backend_that_raises_anything_does_not_take_the_server_down(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Directory):
        async def announce(self, endpoint: Endpoint) -> Any:
            raise RuntimeError("a defect of the backend")

    async with RpcServer(memory_url(), echo, advertise="calc", discovery=Broken(Medium())) as calc:
        await settle()
        assert "the discovery backend has failed" in caplog.text
        async with RpcClient.connect(calc.addresses[0]) as client:
            assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("fault", ["hangs", "raises"])
async def test_a_goodbye_that_fails_neither_holds_up_the_end_nor_leaves_the_backend_open(fault: str) -> None:
    class Last(Announcement):
        def __init__(self, endpoint: Endpoint) -> None:
            self.endpoint = endpoint

        async def update(self, endpoint: Endpoint) -> None:
            raise AssertionError("nothing has changed")

        async def withdraw(self) -> None:
            if fault == "raises":
                raise RuntimeError("a defect of the backend")
            await asyncio.sleep(1_000)

    class Stubborn(Directory):
        async def announce(self, endpoint: Endpoint) -> Announcement:
            return Last(endpoint)

    made: list[Stubborn] = []

    def make(options: object) -> Stubborn:
        made.append(Stubborn(Medium()))
        return made[-1]

    class Plugin:
        @hookimpl
        def echostream_discovery(self) -> list[DiscoverySpec]:
            return [DiscoverySpec(name="stubborn", factory=make)]

    kernel = Kernel(PluginSettings(autoload="none"))
    kernel.register(Plugin(), name="stubborn")
    calc = RpcServer(memory_url(), echo, advertise="calc", kernel=kernel, drain_timeout=0)
    await calc.start()
    await until(lambda: calc.announced)
    begin = asyncio.get_running_loop().time()
    await calc.close()
    assert asyncio.get_running_loop().time() - begin <= 2
    assert [one.closed for one in made] == [True]


async def test_given_urls_are_announced_in_place_of_the_bound_ones() -> None:
    medium = Medium()
    async with server(medium, Advertise("calc", urls=("memory://front", "memory://back"))):
        assert medium.endpoints[0].urls == ("memory://front", "memory://back")


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"name": " "}, "the name must not be empty"),
        ({"name": "a", "weight": 1_000_001}, "weight must be from 0 to 1000000, not 1000001"),
        ({"name": "a", "tags": {"codecs": "x"}}, "the tag 'codecs' is set by the server itself"),
        ({"name": "a", "urls": ("nowhere",)}, "'nowhere' is not a URL"),
        ({"name": "a", "urls": "tcp://a:1"}, "urls must be a list, not 'tcp://a:1'"),
        ({"name": 5}, "name must be a text, not 5"),
        ({"name": "a", "instance": None}, "instance must be a text, not None"),
        ({"name": "a", "weight": "100"}, "weight must be a whole number, not '100'"),
        ({"name": "a", "weight": 1.5}, "weight must be a whole number, not 1.5"),
        ({"name": "a", "weight": True}, "weight must be a whole number, not True"),
        ({"name": "a", "tags": ["eu"]}, "tags must be a table"),
        ({"name": "a", "tags": {"rack": 1}}, "the tag 'rack' must be a text, not 1"),
    ],
)
def test_what_cannot_be_advertised_is_named(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Advertise(**keywords)


# Finding


async def test_a_client_finds_its_server_by_name() -> None:
    medium = Medium()
    directory = Directory(medium)
    async with server(medium) as calc, RpcClient.discover("calc", discovery=directory) as client:
        assert client.peer == calc.addresses[0]
        assert await client.request("echo", 1) == 1
        assert not directory.closed, "a backend that was handed in stays open"
    assert not medium.watchers


async def test_it_waits_for_a_server_that_comes_later() -> None:
    medium = Medium()
    finding = asyncio.ensure_future(connected(RpcClient.discover("calc", discovery=Directory(medium), timeout=60)))
    await asyncio.sleep(50)
    async with server(medium) as calc:
        client = await finding
        assert client.peer == calc.addresses[0]
        await client.close()


async def connected(connecting: Any) -> RpcClient:
    client = await connecting
    assert isinstance(client, RpcClient)
    return client


async def test_nothing_found_is_said_with_the_name_and_the_time() -> None:
    with pytest.raises(ConnectFailed, match="no server that advertises 'calc' was found within 3 s"):
        await RpcClient.discover("calc", discovery=Directory(Medium()), timeout=3)


async def test_what_was_found_but_does_not_fit_is_said_too() -> None:
    medium = Medium()
    medium.put(
        endpoint("far", zone="us"),
        endpoint("foreign", "carrierpigeon://coop:1", zone="eu"),
    )
    with pytest.raises(ConnectFailed) as caught:
        await RpcClient.discover("calc", where={"zone": "eu"}, discovery=Directory(medium), timeout=1)
    text = str(caught.value)
    assert "that fits" in text
    assert "'far' does not match where= (zone='us')" in text
    assert "'foreign' cannot be used: E-NO-PROVIDER: no plugin provides the transport 'carrierpigeon'" in text


async def test_where_chooses_and_a_dead_endpoint_is_suspected_and_passed_over() -> None:
    medium = Medium()
    directory = Directory(medium)
    directory.stale = {"dead"}
    async with server(medium, Advertise("calc", tags={"zone": "eu"})) as calc:
        dead = endpoint("dead", zone="eu", weight="1000000")
        wrong = endpoint("wrong", zone="us", weight="1000000")
        medium.put(*medium.endpoints, dead, wrong)
        async with RpcClient.discover("calc", where={"zone": "eu"}, discovery=directory) as client:
            assert client.peer == calc.addresses[0]
            assert client.fallbacks == 1
        assert directory.suspected == ["dead"]
        assert "dead" not in {one.instance for one in medium.endpoints}


async def test_an_endpoint_of_which_one_url_works_is_not_suspected() -> None:
    medium = Medium()
    directory = Directory(medium)
    async with RpcServer(memory_url(), echo) as calc:
        medium.put(endpoint("one", "carrierpigeon://coop:1", memory_url(), calc.addresses[0]))
        async with RpcClient.discover("calc", discovery=directory) as client:
            assert client.peer == calc.addresses[0]
    assert directory.suspected == []


async def test_an_address_that_comes_back_changed_is_tried_again() -> None:
    medium = Medium()
    async with RpcServer(memory_url(), echo) as calc:
        medium.put(endpoint("one"))
        finding = asyncio.ensure_future(connected(RpcClient.discover("calc", discovery=Directory(medium))))
        await asyncio.sleep(1)
        medium.put(endpoint("one", calc.addresses[0]))
        client = await finding
        await client.close()


async def test_the_list_of_urls_is_the_fallback(caplog: pytest.LogCaptureFixture) -> None:
    medium = Medium()
    async with RpcServer(memory_url(), echo) as calc:
        urls = [memory_url(), calc.addresses[0]]
        for _ in range(2):
            async with RpcClient.discover("calc", discovery=Directory(medium), fallback=urls, timeout=1) as client:
                assert client.peer == calc.addresses[0]
            medium.broken = True
        assert "no server that advertises 'calc' was found within 1 s; falling back to the list of URLs" in caplog.text
        assert "discovery of 'calc' failed: the medium is broken" in caplog.text
        with pytest.raises(ConnectFailed) as caught:
            await RpcClient.discover("calc", discovery=Directory(medium), timeout=1)
        assert isinstance(caught.value.__cause__, TransportError)


async def test_after_a_lost_session_it_looks_anew() -> None:
    medium = Medium()
    async with server(medium) as first:
        client = await RpcClient.discover("calc", discovery=Directory(medium))
        assert client.peer == first.addresses[0]
    async with server(medium) as second:
        assert await client.request("echo", 1) == 1
        assert client.peer == second.addresses[0]
        await client.close()


async def test_when_its_server_drains_it_goes_over_to_another_one_that_is_announced() -> None:
    medium = Medium()
    watched = Watched()
    keywords: dict[str, Any] = {"discovery": Directory(medium), "drain_timeout": 60}
    old = RpcServer(memory_url(), echo, watched, advertise="calc", **keywords)
    async with old, RpcClient.discover("calc", discovery=Directory(medium), timeout=60) as client:
        running = asyncio.ensure_future(client.request("watched.wait"))
        await watched.reached(begun=1)
        async with RpcServer(memory_url(), echo, advertise="calc", **keywords) as new:
            await until(lambda: new.announced)
            closing = asyncio.ensure_future(old.close())
            await until(lambda: client.session.departure.announced)
            assert await client.request("echo", 1) == 1
            assert client.peer == new.addresses[0]
            assert not running.done()
            watched.go_on.set()
            assert await running == "done"
            await closing


async def test_new_clients_are_shared_by_weight() -> None:
    known = [endpoint("a", weight="300"), endpoint("b", weight="100"), endpoint("idle", weight="0"), endpoint("c")]
    randomness = random.Random(1)
    orders = [[one.instance for one in by_weight(known, randomness)] for _ in range(2_000)]
    firsts = Counter(order[0] for order in orders)
    assert set(firsts) == {"a", "b", "c"}
    assert 1_100 < firsts["a"] < 1_300 and 320 < firsts["b"] < 480 and 320 < firsts["c"] < 480
    assert {order[-1] for order in orders} == {"idle"}


@pytest.mark.parametrize("weight", ["", "-1", "1e9", "²", "9" * 10, "nan"])
async def test_a_weight_that_is_none_counts_as_the_default(weight: str) -> None:
    known = [endpoint("a", weight=weight), endpoint("b", weight="100")]
    randomness = random.Random(1)
    firsts = Counter(by_weight(known, randomness)[0].instance for _ in range(400))
    assert 150 < firsts["a"] < 250


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, True),
        ({}, True),
        ({"zone": "eu"}, True),
        ({"zone": ["us", "eu"]}, True),
        ({"zone": "us"}, False),
        ({"zone": "eu,us"}, False),
        ({"zone": "eu", "rack": "1"}, False),
        ({"codecs": "json"}, True),
        ({"codecs": ["cbor", "msgpack"]}, True),
        ({"codecs": "msgpack,json"}, False),
        ({"transports": "quic"}, True),
        (lambda one: one.instance == "one", True),
        (lambda one: len(one.urls) > 1, False),
    ],
)
def test_where_compares_attributes_or_asks(where: Any, expected: bool) -> None:
    one = endpoint("one", zone="eu", codecs="msgpack, json", transports="quic,tcp")
    assert matches(one, where) is expected


async def test_a_crowd_that_does_not_answer_takes_no_longer_than_one_dial_more(monkeypatch: pytest.MonkeyPatch) -> None:
    medium = Medium()
    medium.put(*(endpoint(f"number {number}") for number in range(1_000)))
    dials = 0

    async def dial(self: MemoryTransport, url: Url, options: object) -> Any:
        nonlocal dials
        dials += 1
        await asyncio.sleep(60)

    monkeypatch.setattr(MemoryTransport, "dial", dial)
    begin = asyncio.get_running_loop().time()
    with pytest.raises(ConnectFailed, match="none of 3 URLs worked"):
        await RpcClient.discover("calc", discovery=Directory(medium), timeout=5, connect_timeout=2)
    assert asyncio.get_running_loop().time() - begin == pytest.approx(6)
    assert dials == 3


async def test_sockets_of_this_machine_are_dialled_only_when_they_were_asked_for() -> None:
    class Local:
        @hookimpl
        def echostream_transports(self) -> list[TransportSpec]:
            return [TransportSpec(scheme="local", factory=MemoryTransport, capabilities=Capabilities())]

    kernel = kernel_with(Finders("lookup"))
    kernel.register(Local(), name="local")
    medium = Medium()
    medium.put(endpoint("one", "local:///run/docker.sock"))
    with pytest.raises(ConnectFailed, match="local is used only when transports= lists it"):
        await RpcClient.discover("calc", discovery=Directory(medium), kernel=kernel, timeout=1)
    with pytest.raises(ConnectFailed, match=r"cannot be dialled: local:///run/docker\.sock has no name"):
        await RpcClient.discover("calc", transports=["local"], discovery=Directory(medium), kernel=kernel, timeout=1)


async def test_transports_name_the_only_schemes_and_their_order() -> None:
    medium = Medium()
    async with server(medium):
        with pytest.raises(PluginNotFound, match="carrierpigeon"):
            await RpcClient.discover("calc", transports=["carrierpigeon"], discovery=Directory(medium))
        async with RpcClient.discover("calc", transports=["memory"], discovery=Directory(medium)) as client:
            assert client.peer.startswith("memory:")


async def test_credentials_need_a_word_on_whom_to_trust() -> None:
    medium = Medium()
    with pytest.raises(ConfigError, match=r"tls\.server_name, tls\.ca or tls\.pin") as caught:
        await RpcClient.discover("calc", discovery=Directory(medium), credentials={"token": "s3cret"})
    assert "s3cret" not in str(caught.value)
    async with server(medium) as calc:
        keywords: dict[str, Any] = {"discovery": Directory(medium), "credentials": {"token": "s3cret"}}
        async with RpcClient.discover("calc", insecure_credentials=True, **keywords) as client:
            assert client.peer == calc.addresses[0]


class Locked:
    """A plugin with two transports that encrypt."""

    class Options(msgspec.Struct, frozen=True):
        tls: TlsOptions = TlsOptions()

    @hookimpl
    def echostream_transports(self) -> list[TransportSpec]:
        return [
            TransportSpec(
                scheme=scheme,
                factory=MemoryTransport,
                capabilities=Capabilities(encrypted=True),
                options=self.Options,
            )
            for scheme in ("known", "unknown")
        ]


async def test_trust_in_one_transport_is_none_in_another() -> None:
    kernel = kernel_with(Finders("lookup"))
    kernel.register(Locked(), name="locked")
    medium = Medium()
    keywords: dict[str, Any] = {
        "discovery": Directory(medium),
        "kernel": kernel,
        "credentials": {"token": "s3cret"},
        "transport": {"known": {"tls": {"server_name": "calc.example"}}},
        "timeout": 1,
    }
    medium.put(endpoint("evil", "unknown://evil"))
    with pytest.raises(ConnectFailed, match="not sent over unknown:// to whoever announces it: say whom to trust"):
        await RpcClient.discover("calc", **keywords)
    medium.put(endpoint("good", "known://nobody"))
    with pytest.raises(ConnectFailed, match="known://nobody"):  # it was dialled
        await RpcClient.discover("calc", **keywords)


async def test_with_tls_only_what_encrypts_is_used() -> None:
    kernel = kernel_with(Finders("lookup"))
    kernel.register(Locked(), name="locked")
    medium = Medium()
    async with RpcServer(memory_url(), echo) as calc:
        medium.put(endpoint("one", calc.addresses[0]))
        with pytest.raises(ConnectFailed, match="tls= was given, but none of the transports takes it: memory"):
            await RpcClient.discover(
                "calc", tls={"server_name": "calc"}, discovery=Directory(medium), kernel=kernel, timeout=1
            )


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_the_time_for_finding_is_a_number_above_0(timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout must be a number of seconds above 0"):
        RpcClient.discover("calc", discovery=Directory(Medium()), timeout=timeout)


async def test_watching_tells_every_change_and_nothing_else() -> None:
    medium = Medium()
    seen: list[list[str]] = []

    async def read() -> None:
        async for snapshot in watch_endpoints("calc", where={"zone": "eu"}, discovery=Directory(medium)):
            seen.append([one.instance for one in snapshot])

    task = asyncio.ensure_future(read())
    await settle()
    for endpoints in ([endpoint("b", zone="eu")], [endpoint("b", zone="eu"), endpoint("x", zone="us")]):
        medium.put(*endpoints)
        await settle()
    medium.put(endpoint("b", zone="eu"), endpoint("a", zone="eu"), endpoint("a", service="other", zone="eu"))
    await settle()
    task.cancel()
    await asyncio.wait({task})
    assert seen[0] == [] and seen[-1] == ["a", "b"]
    assert not medium.watchers


async def test_all_services_are_found_in_order() -> None:
    medium = Medium()
    medium.put(endpoint("b"), endpoint("a"), endpoint("z", service="audio"))
    found = await find_endpoints(discovery=Directory(medium))
    assert [(one.service, one.instance) for one in found] == [("audio", "z"), ("calc", "a"), ("calc", "b")]
    assert [one.instance for one in await find_endpoints("audio", discovery=Directory(medium))] == ["z"]


# Which backend


class Finders:
    """A plugin with some backends."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.medium = Medium()
        self.made: list[Directory] = []

    @hookimpl
    def echostream_discovery(self) -> list[DiscoverySpec]:
        return [DiscoverySpec(name=name, factory=self.make) for name in self.names]

    def make(self, options: object) -> Directory:
        self.made.append(Directory(self.medium))
        return self.made[-1]


def kernel_with(plugin: Finders) -> Kernel:
    """A kernel that sees no installed plugin but this."""
    kernel = Kernel(PluginSettings(autoload="none"))
    kernel.register(plugin, name="finders")
    return kernel


async def test_the_only_backend_is_taken_and_closed() -> None:
    plugin = Finders("lookup")
    kernel = kernel_with(plugin)
    calc = RpcServer(memory_url(), echo, advertise="calc", kernel=kernel)
    async with calc:
        await until(lambda: calc.announced)
        async with RpcClient.discover("calc", kernel=kernel) as client:
            assert client.peer == calc.addresses[0]
    assert len(plugin.made) == 2 and all(made.closed for made in plugin.made)


def test_none_and_several_are_errors_that_say_what_to_do() -> None:
    with pytest.raises(PluginNotFound, match="no discovery backend is installed") as caught:
        RpcServer(memory_url(), advertise="calc", kernel=Kernel(PluginSettings(autoload="none")))
    assert caught.value.fix.startswith("pip install echostream-") and "URLs" in caught.value.fix
    kernel = kernel_with(Finders("one", "two"))
    with pytest.raises(ConfigError, match="several discovery backends are installed: one, two"):
        RpcClient.discover("calc", kernel=kernel)
    RpcClient.discover("calc", discovery="two", kernel=kernel)
    with pytest.raises(PluginNotFound, match="'three'"):
        RpcClient.discover("calc", discovery="three", kernel=kernel)
    with pytest.raises(ConfigError, match=r"discovery\.two\.speed: there is no such setting"):
        RpcClient.discover("calc", discovery={"two": {"speed": 3}}, kernel=kernel)
    with pytest.raises(ConfigError, match="names one backend"):
        RpcClient.discover("calc", discovery={"one": {}, "two": {}}, kernel=kernel)
