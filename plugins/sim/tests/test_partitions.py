from __future__ import annotations

import asyncio

import pytest

from echostream_core.errors import ConfigError
from echostream_sim.loop import simulate
from echostream_sim.network import Network
from plugins.sim.tests.simulated import Heard, Pair, network_of_two


def test_nothing_passes_during_a_partition_and_everything_after_it() -> None:
    network = network_of_two(delay_s=0.1)
    pair = Pair(network)

    async def main() -> None:
        network.partition("client", "server")
        assert network.is_partitioned("client", "server")
        assert network.is_partitioned("server", "client")
        pair.send(b"lost")
        pair.send_back(b"lost")
        await asyncio.sleep(1)
        network.heal("client", "server")
        pair.send(b"there")
        pair.send_back(b"back")
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert pair.heard == [Heard(1.1, b"there")]
    assert pair.heard_back == [Heard(1.1, b"back")]
    assert network.recorder.lost == {"partition": 2}


def test_what_would_arrive_during_the_partition_is_lost_and_what_would_arrive_after_it_is_not() -> None:
    network = network_of_two(delay_s=1.0)
    pair = Pair(network)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(0.0, pair.send, b"before")  # due at 1.0, before the cut
        loop.call_at(0.5, pair.send, b"during")  # due at 1.5, inside it
        loop.call_at(1.05, pair.send, b"under way")  # due at 2.05, after it
        loop.call_at(1.2, network.partition, "client", "server")
        loop.call_at(2.0, network.heal, "client", "server")
        await asyncio.sleep(5)

    simulate(main(), network=network)
    assert [one.data for one in pair.heard] == [b"before", b"under way"]
    assert network.recorder.lost == {"partition": 1}


def test_a_queue_goes_on_being_emptied_into_a_partition() -> None:
    network = network_of_two(rate_bps=8000.0)
    pair = Pair(network)

    async def main() -> None:
        for _ in range(4):
            pair.send(bytes(972))
        loop = asyncio.get_running_loop()
        loop.call_at(1.5, network.partition, "client", "server")
        loop.call_at(3.5, network.heal, "client", "server")
        await asyncio.sleep(10)

    simulate(main(), network=network)
    assert pair.times == [1.0, 4.0]


def test_a_partition_can_be_one_way() -> None:
    network = network_of_two()
    pair = Pair(network)

    async def main() -> None:
        network.partition("client", "server", one_way=True)
        assert not network.is_partitioned("server", "client")
        pair.send(b"lost")
        pair.send_back(b"back")
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert pair.heard == []
    assert [one.data for one in pair.heard_back] == [b"back"]


def three_hosts() -> Network:
    network = Network(1)
    for name in ("a", "b", "c"):
        network.host(name)
    return network


def cuts(network: Network) -> set[str]:
    names = list(network.hosts)
    return {one + other for one in names for other in names if network.is_partitioned(one, other)}


def test_a_host_can_be_cut_off_from_everybody() -> None:
    network = three_hosts()
    network.partition("a")
    assert cuts(network) == {"ab", "ba", "ac", "ca"}
    network.host("d")  # also from hosts that come later
    assert network.is_partitioned("d", "a")
    network.heal("a")
    assert cuts(network) == set()


def test_healing_a_pair_leaves_other_partitions() -> None:
    network = three_hosts()
    network.partition("a", "b")
    network.partition("b", "c")
    network.heal("b", "a")
    assert cuts(network) == {"bc", "cb"}
    network.partition("a")
    network.heal()
    assert cuts(network) == set()


def test_partitioning_twice_needs_healing_once() -> None:
    network = three_hosts()
    network.partition("a", "b")
    network.partition("a", "b")
    network.heal("a", "b")
    assert cuts(network) == set()


def test_an_unknown_host_is_named_with_those_that_there_are() -> None:
    network = three_hosts()
    with pytest.raises(ConfigError, match=r"there is no host 'aa'.*there are a, b, c"):
        network.partition("aa", "b")
    with pytest.raises(ConfigError, match="there is no host 'bb'"):
        network.heal("a", "bb")
    with pytest.raises(ConfigError, match="one_way"):
        network.partition("a", one_way=True)


def test_a_partition_holds_for_hosts_that_have_never_talked() -> None:
    network = Network(1)
    network.host("client")
    network.host("server")
    network.partition("client", "server")
    pair = Pair(network)

    async def main() -> None:
        pair.send(b"lost")
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert pair.heard == []
    assert network.recorder.lost == {"partition": 1}
