"""The transport ``sim``: native connections whose bytes travel as packets over the simulated network."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from echostream_core.errors import ConfigError, ConnectFailed
from echostream_core.transport import Acceptor, Transport, TransportSpec
from echostream_core.types import Url
from echostream_sim.connection import CAPABILITIES, SimConnection
from echostream_sim.hosts import Host, entered_hosts
from echostream_sim.link_ports import SimListener, connect
from echostream_sim.loop import SimLoop
from echostream_sim.network import Network
from echostream_sim.options import SimOptions

__all__ = ["SPEC", "SimTransport"]

DIALING_HOST: Final = "client"
"""Where a dialer stands that has entered no host."""

_numbers: Final[WeakKeyDictionary[Network, count[int]]] = WeakKeyDictionary()
"""How connections are numbered, per network: a second run in the same process counts as the first did."""


class SimTransport(Transport):
    """Connects hosts of one simulated network. Works inside ``echostream_sim.simulate`` only."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> SimListener:
        """Bind ``url`` on the current host, else on the host that it names. Port 0: any free one."""
        network = _network(url)
        port = _port(url)
        host = _entered(network)
        if host is None:
            host = network.host(url.host) if url.host else network.current_host()
        elif network.find_host(url.host, of=host) is not host:
            raise ConnectFailed(
                f"cannot listen on {url} from the host {host.name!r}: write sim://{host.name}:{port}, "
                f"or enter the other host with `with network.host({url.host!r}):`"
            )
        return SimListener(asyncio.get_running_loop(), host, port, url, _checked(options), accept)

    async def dial(self, url: Url, options: msgspec.Struct) -> SimConnection:
        """Connect from the current host, else from the host "client", with whoever listens at ``url``."""
        network = _network(url)
        port = _port(url)
        host = _entered(network) or network.host(DIALING_HOST)
        if not url.host or not port:
            raise ConfigError(f"{url} names nobody to connect to: write sim://HOST:PORT")
        target = network.find_host(url.host, of=host)
        if target is None:
            known = ", ".join(network.hosts)
            raise ConnectFailed(f"cannot find {url.host!r} of {url}: the network's hosts are {known}")
        number = next(_numbers.setdefault(network, count(1)))
        return await connect(asyncio.get_running_loop(), host, target, url, port, number, _checked(options))


def _network(url: Url) -> Network:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, SimLoop):
        raise ConnectFailed(
            f"{url}: there is no simulated network on this event loop; run the program inside a simulation with "
            "echostream_sim.simulate(main()), or use another transport"
        )
    return loop.network


def _entered(network: Network) -> Host | None:
    """The host that the caller has entered last, None outside of all."""
    return next((host for host in reversed(entered_hosts()) if host.network is network), None)


def _checked(options: msgspec.Struct) -> SimOptions:
    return options if isinstance(options, SimOptions) else SimOptions()


def _port(url: Url) -> int:
    if url.port is None:
        raise ConfigError(f"{url} has no port: write {url.scheme}://{url.host or 'HOST'}:4433")
    if url.path not in {"", "/"}:
        raise ConfigError(f"{url}: there are no paths here, write {url.scheme}://{url.host}:{url.port}")
    return url.port


SPEC: Final = TransportSpec(
    scheme="sim",
    factory=SimTransport,
    capabilities=CAPABILITIES,
    options=SimOptions,
    summary="a simulated network on a virtual clock: seeded delay, loss and partitions, for tests",
    notes={
        "encrypted": "nothing leaves the process; run quic:// over the simulated UDP for real TLS",
        "migration": "a dialer keeps its port",
        "peer_identity": "hosts are names, and nobody proves theirs",
    },
)
"""What the hook hands over."""
