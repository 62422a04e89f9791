from __future__ import annotations

import asyncio

import pytest

from echostream_core.errors import ConfigError, ConnectFailed, LimitExceeded, ResourceBusy, ResourceClosed
from echostream_sim.clocks import Clock
from echostream_sim.hosts import Address, Host
from echostream_sim.loop import SimLoop, simulate
from echostream_sim.network import Network
from plugins.sim.tests.simulated import LISTENING, Heard, Pair, network_of_two, running_loop


def nothing(data: bytes, source: Address) -> None:
    """Hears and forgets."""


def here() -> Host:
    return running_loop().current_host


def test_a_program_without_a_host_runs_on_main() -> None:
    async def main() -> str:
        return here().name

    assert simulate(main()) == "main"


def test_what_runs_inside_a_host_runs_on_it_and_tasks_inherit_it() -> None:
    network = network_of_two()
    seen = []

    async def see(what: str) -> None:
        await asyncio.sleep(0.1)
        seen.append((what, here().name))

    async def main() -> None:
        with network.host("client"):
            seen.append(("inside", here().name))
            inherits = asyncio.create_task(see("task"))
            asyncio.get_running_loop().call_later(0.05, lambda: seen.append(("callback", here().name)))
            with network.host("server"):
                seen.append(("deeper", here().name))
            seen.append(("again", here().name))
        seen.append(("outside", here().name))
        await inherits

    simulate(main(), network=network)
    assert seen == [
        ("inside", "client"),
        ("deeper", "server"),
        ("again", "client"),
        ("outside", "main"),
        ("callback", "client"),
        ("task", "client"),
    ]


def test_two_tasks_are_in_two_hosts_at_once() -> None:
    network = network_of_two()

    async def stay(name: str) -> list[str]:
        seen = []
        with network.host(name):
            for _ in range(3):
                await asyncio.sleep(0.1)
                seen.append(here().name)
        return seen

    async def main() -> list[list[str]]:
        return list(await asyncio.gather(stay("client"), stay("server")))

    assert simulate(main(), network=network) == [["client"] * 3, ["server"] * 3]


def test_a_host_of_another_network_does_not_count() -> None:
    foreign = Network(1).host("foreign")

    async def main() -> str:
        with foreign:
            return here().name

    assert simulate(main()) == "main"


def test_a_receiver_runs_on_its_host_whoever_bound_it() -> None:
    network = network_of_two()
    seen = []

    async def main() -> None:
        with network.host("client"):
            network.host("server").bind(7, lambda data, source: seen.append(here().name))
            network.host("client").bind(0, nothing).send(b"x", LISTENING)
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert seen == ["server"]


def test_the_receiver_is_told_who_sent() -> None:
    network = network_of_two()
    sources = []
    network.host("server").bind(7, lambda data, source: sources.append(source))
    client = network.host("client").bind(0, nothing)
    client.send(b"x", LISTENING)
    client.send(b"x", ("10.0.0.2", 7))  # the address of the second host

    async def main() -> None:
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert sources == [client.address] * 2
    assert client.address == ("client", 49152)


def test_the_data_are_copied_when_they_are_sent() -> None:
    network = network_of_two(delay_s=1.0)
    pair = Pair(network)
    buffer = bytearray(b"before")

    async def main() -> None:
        pair.client.send(memoryview(buffer), LISTENING)
        buffer[:] = b"after!"
        await asyncio.sleep(2)

    simulate(main(), network=network)
    assert pair.heard == [Heard(1.0, b"before")]


def test_a_taken_port_is_busy_until_it_is_closed() -> None:
    host = Network(1).host("a")
    first = host.bind(7, nothing)
    with pytest.raises(ResourceBusy, match="port 7 of host 'a' is taken"):
        host.bind(7, nothing)
    first.close()
    first.close()
    assert first.closed
    assert host.bind(7, nothing).number == 7
    with pytest.raises(ResourceClosed, match="port 7 of 'a' is closed"):
        first.send(b"x", ("a", 7))


def test_port_zero_is_any_free_one_in_a_fixed_order() -> None:
    host = Network(1).host("a")
    host.bind(49153, nothing)
    assert [host.bind(0, nothing).number for _ in range(3)] == [49152, 49154, 49155]


def test_a_host_runs_out_of_ports_with_an_error() -> None:
    host = Network(1).host("a")
    for _ in range(16384):
        host.bind(0, nothing)
    with pytest.raises(ResourceBusy, match="all 16384 ports"):
        host.bind(0, nothing)


def test_a_number_that_is_no_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 to 65535"):
        Network(1).host("a").bind(65536, nothing)


def test_a_packet_to_an_unknown_name_is_an_error_and_one_to_an_unknown_address_is_lost() -> None:
    network = network_of_two()
    port = network.host("client").bind(0, nothing)
    with pytest.raises(ConnectFailed, match=r"no host 'sever'.*client, server"):
        port.send(b"x", ("sever", 7))
    port.send(b"x", ("10.9.9.9", 7))
    assert network.recorder.lost == {"no_host": 1}
    assert network.recorder.summary() == "1 sent, 0 delivered, 1 lost (no_host)"


def test_a_packet_larger_than_udp_allows_is_an_error() -> None:
    port = Network(1).host("a").bind(0, nothing)
    port.send(bytes(65_507), ("a", 7))
    with pytest.raises(LimitExceeded) as caught:
        port.send(bytes(65_508), ("a", 7))
    assert (caught.value.limit, caught.value.value, caught.value.maximum) == ("MAX_PAYLOAD_BYTES", 65_508, 65_507)


def test_a_packet_to_a_port_that_nobody_has_is_lost_and_its_sender_is_told_if_it_wants() -> None:
    network = network_of_two(delay_s=0.1)
    told = []

    async def main() -> None:
        wants = network.host("client").bind(
            0, nothing, unreachable=lambda destination: told.append((network.now, destination, here().name))
        )
        network.host("client").bind(0, nothing).send(b"x", ("server", 99))
        wants.send(b"x", ("server", 99))
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert told == [(0.2, ("server", 99), "client")]
    assert network.recorder.lost == {"no_port": 2}
    assert network.recorder.of("server", "client") == {"sent": 1, "delivered": 1}


def test_a_notice_can_be_lost_like_any_packet_and_does_not_reach_a_closed_port() -> None:
    network = network_of_two(delay_s=0.1)
    told: list[Address] = []

    async def main() -> None:
        port = network.host("client").bind(0, nothing, unreachable=told.append)
        network.partition("server", "client", one_way=True)
        port.send(b"x", ("server", 99))
        await asyncio.sleep(1)
        network.heal()
        port.send(b"x", ("server", 99))
        port.close()
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert told == []
    assert network.recorder.lost == {"no_port": 2, "partition": 1}


def test_a_receiver_that_raises_is_reported_and_the_network_goes_on() -> None:
    network = network_of_two()
    heard = []

    def fail(data: bytes, source: Address) -> None:
        heard.append(data)
        raise ValueError("cannot read this")

    async def main() -> list[str]:
        reports: list[str] = []
        running_loop().set_exception_handler(lambda loop, report: reports.append(report["message"]))
        network.host("server").bind(7, fail)
        port = network.host("client").bind(0, nothing)
        port.send(b"1", LISTENING)
        port.send(b"2", LISTENING)
        await asyncio.sleep(1)
        return reports

    assert simulate(main(), network=network) == ["the receiver at server:7 raised ValueError"] * 2
    assert heard == [b"1", b"2"]


def test_packets_that_were_sent_before_the_simulation_began_arrive() -> None:
    network = network_of_two(delay_s=0.5)
    pair = Pair(network)
    pair.send(b"early")

    async def main() -> None:
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert pair.heard == [Heard(0.5, b"early")]


def test_a_host_is_made_once_and_has_its_own_address() -> None:
    network = Network(1)
    first = network.host("a")
    assert network.host("a") is first
    assert [network.host(f"h{number}").address for number in range(300)][253:256] == [
        "10.0.0.255",
        "10.0.1.0",
        "10.0.1.1",
    ]
    with pytest.raises(ConfigError, match="has its clock already"):
        network.host("a", clock=Clock())


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", "localhost", "1.2.3.4", "a:1"])
def test_a_name_that_could_not_stand_in_a_url_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no name for a host"):
        Network(1).host(name)


def test_a_link_needs_two_hosts_that_exist() -> None:
    network = Network(1)
    network.host("a")
    with pytest.raises(ConfigError, match="there is no host 'b': make it with"):
        network.link("a", "b", delay_s=1.0)
    with pytest.raises(ConfigError, match="joins two hosts"):
        network.link("a", "a")


def test_a_network_lives_with_one_loop() -> None:
    network = Network(1)
    loop = SimLoop(network)
    loop.close()
    with pytest.raises(ResourceBusy, match="make a new one"):
        SimLoop(network)


def test_random_streams_depend_on_the_seed_and_the_names_alone() -> None:
    first = Network(1).stream("a", "b").random()
    assert Network(1).stream("a", "b").random() == first
    assert Network(2).stream("a", "b").random() != first
    assert Network(1).stream("ab").random() != first
    # Written down: another machine and another version of Python must find the same.
    assert first == 0.671070883772095
