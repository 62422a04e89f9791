"""A machine with nothing but loopback, as in a container, one that gets a network while we run, and IPv6 alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from plugins.discovery_mdns.tests.namespaces import cable, ip, namespaces, need
from plugins.discovery_mdns.tests.programs import announcer

SERVICE = "calc"


@pytest.fixture
def namespace() -> Iterator[str]:
    need()
    with namespaces(1) as (name,):
        yield name


@pytest.mark.parametrize("interfaces", ["loopback", "default", "all", ["lo"]], ids=str)
async def test_loopback_alone_serves(namespace: str, interfaces: object) -> None:
    prefix = ("ip", "netns", "exec", namespace)
    async with announcer(SERVICE, "one", prefix=prefix, interfaces=interfaces, probe_s=0.12) as program:
        await program.line("itself", lambda line: line.startswith("seen one quic://127.0.0.1:4433 tcp://[::1]:4434 "))
        await program.finish()


async def test_a_network_that_comes_and_goes_is_used_and_left(namespace: str) -> None:
    prefix = ("ip", "netns", "exec", namespace)
    async with announcer(SERVICE, "one", prefix=prefix, probe_s=0.12, interface_poll_s=0.1) as program:
        await program.line("itself on loopback", lambda line: "quic://127.0.0.1:4433" in line)
        ip("-n", namespace, "link", "add", "wlan", "type", "veth", "peer", "name", "far")
        ip("-n", namespace, "addr", "add", "10.78.0.1/24", "dev", "wlan")
        ip("-n", namespace, "link", "set", "far", "up")
        ip("-n", namespace, "link", "set", "wlan", "up")
        await program.line("itself on the new network", lambda line: "one quic://10.78.0.1:4433 " in line)
        ip("-n", namespace, "addr", "del", "10.78.0.1/24", "dev", "wlan")
        ip("-n", namespace, "addr", "add", "10.79.0.1/24", "dev", "wlan")
        await program.line("itself at the new address", lambda line: "one quic://10.79.0.1:4433 " in line)
        ip("-n", namespace, "link", "del", "wlan")
        await program.line("itself on loopback again", lambda line: "quic://127.0.0.1:4433 tcp" in line)
        await program.finish()


@pytest.mark.parametrize(
    ("addresses", "seen"),
    [
        ([("fd00:77::2/64", "fd00:77::1/64")], r"tcp://\[fd00:77::1\]:4434"),
        ([], r"tcp://\[fe80::[0-9a-f:]+%[0-9]+\]:4434"),
    ],
    ids=["global", "link-local"],
)
async def test_ipv6_alone_serves(addresses: list[tuple[str, str]], seen: str) -> None:
    need()
    with cable(*addresses) as (ours, theirs):
        here, there = ("ip", "netns", "exec", ours), ("ip", "netns", "exec", theirs)
        async with (
            announcer(SERVICE, prefix=here, ip_version="v6", interfaces=["far"]) as watcher,
            announcer(SERVICE, "one", prefix=there, ip_version="v6", interfaces=["near"], probe_s=0.12) as program,
        ):
            await program.line("its announcement", "announced one".__eq__)
            line = await watcher.line("the other", lambda line: line.startswith("seen one "))
            assert re.fullmatch(seen, line.split()[2]), line
            await program.finish()
            await watcher.line("its goodbye", lambda line: line.strip() == "seen")
            await watcher.finish()
