"""What a server tells discovery of itself, and goes on telling when its backend renames it or gives it up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from echostream_core import Capabilities, ConfigError, Endpoint, ResourceClosed, RpcServer, Url
from echostream_core.advertising import Bound, reachable_urls
from echostream_core.builtin.memory import MemoryTransport
from echostream_core.discovery import Announcement
from echostream_core.engine.endpoint import Target
from echostream_core.transport import Listener, NoOptions, TransportSpec
from tests.support.finder import Directory, Medium
from tests.support.handlers import echo
from tests.support.pairs import memory_url
from tests.support.waiting import until

LOOPS = ("virtual",)


@pytest.mark.parametrize("wrong", [True, {"name": "calc"}], ids=str)
def test_what_is_no_advertise_is_a_config_error(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="advertise must be a name or an Advertise"):
        RpcServer(memory_url(), advertise=wrong, discovery=Directory(Medium()))


async def test_an_announcement_that_the_backend_has_given_up_is_made_anew() -> None:
    class Forgetful(Announcement):
        def __init__(self, endpoint: Endpoint) -> None:
            self.endpoint = endpoint

        async def update(self, endpoint: Endpoint) -> None:
            raise ResourceClosed("this announcement was withdrawn; announce it again")

        async def withdraw(self) -> None:
            return

    class Forgetting(Directory):
        async def announce(self, endpoint: Endpoint) -> Announcement:
            return Forgetful(endpoint)

    calc = RpcServer(memory_url(), echo, advertise="calc", discovery=Forgetting(Medium()), drain_timeout=0)
    async with calc:
        await until(lambda: calc.announced)
        calc.readvertise(weight=5)
        await until(lambda: calc.announced and calc.announced.attributes["weight"] == "5")


async def test_a_server_knows_the_name_that_its_backend_has_given_it_later() -> None:
    medium = Medium()
    made: list[Announcement] = []

    class Renaming(Directory):
        async def announce(self, endpoint: Endpoint) -> Announcement:
            made.append(await super().announce(endpoint))
            return made[-1]

    calc = RpcServer(memory_url(), echo, advertise="calc", discovery=Renaming(medium), drain_timeout=0)
    async with calc:
        await until(lambda: calc.announced)
        made[0].endpoint = replace(made[0].endpoint, instance="renamed")
        assert calc.announced is not None and calc.announced.instance == "renamed"
        calc.readvertise(weight=5)
        await until(lambda: "5" in {one.attributes["weight"] for one in medium.endpoints})
        assert [one.instance for one in medium.endpoints if one.attributes["weight"] == "5"] == ["renamed"]


@pytest.mark.parametrize(
    ("bound", "announced"),
    [
        (["near://127.0.0.1:1", "near://10.0.0.1:2"], ("near://10.0.0.1:2",)),
        (["near://[::1]:1", "near://0.0.0.0:2"], ("near://0.0.0.0:2",)),
        (["near://127.0.0.1:1", "near:///run/calc.sock"], ("near://127.0.0.1:1",)),
        (["near:///run/calc.sock"], ("near:///run/calc.sock",)),
    ],
    ids=["an-address", "a-wildcard", "loopback-alone", "a-socket-alone"],
)
def test_what_others_would_dial_on_their_own_machine_is_announced_only_where_there_is_nothing_else(
    bound: list[str], announced: tuple[str, ...]
) -> None:
    class Bare(Listener):
        def __init__(self, url: str) -> None:
            self.addresses = (url,)

        async def close(self) -> None:
            raise AssertionError("nobody closes it")

    def listening(text: str) -> Bound:
        spec = TransportSpec(scheme="near", factory=MemoryTransport, capabilities=Capabilities())
        return Bound(Target(Url.parse(text), spec, MemoryTransport(), NoOptions()), Bare(text))

    assert reachable_urls([listening(text) for text in bound]) == announced
