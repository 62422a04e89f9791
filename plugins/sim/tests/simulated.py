"""Two hosts and what one of them heard: for tests that send packets by hand."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Unpack

from echostream_sim.hosts import Address, Port
from echostream_sim.loop import SimLoop, simulate
from echostream_sim.network import Network
from echostream_sim.paths import Path, PathSettings
from echostream_sim.recorder import Recorder

LISTENING = ("server", 7)


class Heard(NamedTuple):
    """One packet that arrived, and when."""

    time_s: float
    data: bytes


def network_of_two(
    seed: int = 1,
    *,
    reverse: Path | None = None,
    recorder: Recorder | None = None,
    **settings: Unpack[PathSettings],
) -> Network:
    """A network with the hosts ``client`` and ``server``, and this path between them."""
    network = Network(seed, recorder=recorder)
    network.host("client")
    network.host("server")
    network.link("client", "server", reverse=reverse, **settings)
    return network


class Pair:
    """A port of the client's, and the server's port 7, which remembers."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.heard: list[Heard] = []
        self.heard_back: list[Heard] = []
        self.client: Port = network.hosts["client"].bind(0, self._heard_back)
        self.server: Port = network.hosts["server"].bind(7, self._heard)

    def _heard(self, data: bytes, source: Address) -> None:
        self.heard.append(Heard(self.network.now, data))

    def _heard_back(self, data: bytes, source: Address) -> None:
        self.heard_back.append(Heard(self.network.now, data))

    def send(self, data: bytes) -> None:
        """One packet from the client to the server."""
        self.client.send(data, LISTENING)

    def send_back(self, data: bytes) -> None:
        """One packet from the server to the client."""
        self.server.send(data, self.client.address)

    @property
    def times(self) -> list[float]:
        """When the server heard something."""
        return [one.time_s for one in self.heard]


def play(network: Network, *sendings: tuple[float, bytes], until_s: float = 1000.0) -> Pair:
    """Send these packets from the client to the server, each at its time, and wait until nothing is under way."""
    pair = Pair(network)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for at, data in sendings:
            loop.call_at(at, pair.send, data)
        await asyncio.sleep(until_s)

    simulate(main(), network=network)
    return pair


def running_loop() -> SimLoop:
    """The loop of the simulation that the caller runs in."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop
