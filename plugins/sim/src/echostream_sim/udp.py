"""Simulated UDP behind asyncio's own interface: datagram endpoints and the resolver.

Programs that open ``create_datagram_endpoint`` run unchanged. They see IPv4 addresses, as on a real machine: each host
has a fixed one. Errors are those that asyncio gives: OSError and ``error_received``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from echostream_core.errors import ConfigError, ConnectFailed, ResourceBusy
from echostream_sim.hosts import MAX_PAYLOAD_BYTES, Host, Port
from echostream_sim.network import Network

if TYPE_CHECKING:
    from echostream_sim.loop import SimLoop

__all__ = ["SimDatagramTransport", "open_endpoint", "resolve"]

P = TypeVar("P", bound=asyncio.BaseProtocol)

_KINDS = ((socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP))
_ANYWHERE = "0.0.0.0"


def resolve(
    network: Network, host: bytes | str | None, port: bytes | str | int | None, *, family: int, type: int, flags: int
) -> list[Any]:
    """What ``socket.getaddrinfo`` would answer on the current host; gaierror where it would raise that."""
    name = host.decode() if isinstance(host, bytes) else host
    number = _port_number(port)
    if family not in (socket.AF_UNSPEC, socket.AF_INET):
        raise socket.gaierror(socket.EAI_FAMILY, "the simulated network has IPv4 addresses only")
    if not name:
        address = _ANYWHERE if flags & socket.AI_PASSIVE else "127.0.0.1"
    elif _is_address(name):
        address = name
    elif flags & socket.AI_NUMERICHOST:
        raise socket.gaierror(socket.EAI_NONAME, f"{name!r} is no IPv4 address")
    else:
        found = network.find_host(name)
        if found is None:
            known = ", ".join(network.hosts) or "none yet"
            raise socket.gaierror(socket.EAI_NONAME, f"there is no host {name!r} on this network; there are {known}")
        address = "127.0.0.1" if name == "localhost" else found.address
    kinds = [(kind, proto) for kind, proto in _KINDS if type in (0, kind)]
    if not kinds:
        raise socket.gaierror(socket.EAI_SOCKTYPE, "the simulated network has SOCK_DGRAM and SOCK_STREAM only")
    return [(socket.AF_INET, kind, proto, "", (address, number)) for kind, proto in kinds]


def _port_number(port: bytes | str | int | None) -> int:
    if port is None:
        return 0
    try:
        return int(port)
    except ValueError:
        raise socket.gaierror(socket.EAI_SERVICE, f"{port!r} is no port: use a number") from None


def _is_address(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except OSError:
        return False
    return True


async def open_endpoint(
    loop: SimLoop,
    protocol_factory: Callable[[], P],
    local_addr: tuple[str, int] | None,
    remote_addr: tuple[str, int] | None,
    *,
    family: int,
) -> tuple[asyncio.DatagramTransport, P]:
    """Bind a port of the current host and connect a protocol to it. OSError as from a real socket."""
    host = loop.network.current_host()
    local = (_ANYWHERE, 0)
    if local_addr is not None:
        local = resolve(loop.network, *local_addr, family=family, type=socket.SOCK_DGRAM, flags=0)[0][4]
        if loop.network.find_host(local[0], of=host) is not host:
            raise OSError(errno.EADDRNOTAVAIL, f"{local_addr[0]!r} is not an address of host {host.name!r}")
    remote = None
    if remote_addr is not None:
        remote = resolve(loop.network, *remote_addr, family=family, type=socket.SOCK_DGRAM, flags=0)[0][4]
    protocol = protocol_factory()
    transport = SimDatagramTransport(loop, host, protocol, local, remote)
    # As asyncio does it: made on the next turn, and before this returns.
    made = loop.create_future()
    loop.call_soon(transport.make, made)
    await made
    return transport, protocol


class SimDatagramTransport(asyncio.DatagramTransport):
    """One UDP endpoint. A packet is sent at once: nothing is ever buffered here."""

    def __init__(
        self,
        loop: SimLoop,
        host: Host,
        protocol: asyncio.BaseProtocol,
        local: tuple[str, int],
        remote: tuple[str, int] | None,
    ) -> None:
        try:
            self._port: Port = host.bind(local[1], self._received, unreachable=self._unreachable if remote else None)
        except ResourceBusy as error:
            raise OSError(errno.EADDRINUSE, str(error)) from error
        except ConfigError as error:
            raise OverflowError(str(error)) from error
        sockname = (host.address if remote and local[0] == _ANYWHERE else local[0], self._port.number)
        super().__init__({"sockname": sockname, "peername": remote, "socket": None})
        self._loop = loop
        self._network = host.network
        self._remote = remote
        self._protocol = cast("asyncio.DatagramProtocol", protocol)  # it need not inherit from it
        self._closing = False
        self._is_made = False

    def make(self, made: asyncio.Future[None]) -> None:
        """Tell the protocol; called once."""
        self._is_made = True
        try:
            self._protocol.connection_made(self)
        finally:  # one that raises is reported by the loop, and the endpoint is there all the same, as in asyncio
            if not made.cancelled():
                made.set_result(None)

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Send one packet to ``addr``, or to the address that the endpoint was connected to.

        A packet over 65,507 bytes is an OSError (EMSGSIZE) at the protocol's ``error_received``; one over the path's
        MTU is lost without a word. After ``close`` nothing is sent.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._remote is not None:
            if addr not in (None, self._remote):
                raise ValueError(f"Invalid address: must be None or {self._remote}")
            addr = self._remote
        elif addr is None:
            raise ValueError("this endpoint is not connected: sendto needs an address")
        if self._closing:
            return
        if len(data) > MAX_PAYLOAD_BYTES:
            self._error(OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE)))
            return
        try:
            self._port.send(data, (addr[0], addr[1]))
        except ConnectFailed as error:
            self._error(socket.gaierror(socket.EAI_NONAME, str(error)))

    def _received(self, data: bytes, source: tuple[str, int]) -> None:
        address = (self._address_of(source[0]), source[1])
        if self._remote is not None and not self._is_from_remote(source):
            return  # a connected socket hears its peer only
        if self._is_made and not self._closing:
            self._protocol.datagram_received(data, address)

    def _address_of(self, name: str) -> str:
        if name == self._port.host.name and self._remote is not None and self._remote[0].startswith("127."):
            return self._remote[0]
        return self._network.hosts[name].address

    def _is_from_remote(self, source: tuple[str, int]) -> bool:
        assert self._remote is not None
        peer = self._network.find_host(self._remote[0], of=self._port.host)
        return peer is not None and (peer.name, self._remote[1]) == source

    def _unreachable(self, destination: tuple[str, int]) -> None:
        self._error(ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))

    def _error(self, error: OSError) -> None:
        if not self._closing:
            self._protocol.error_received(error)

    def close(self) -> None:
        """Unbind the port; ``connection_lost(None)`` follows on the next turn of the loop."""
        if not self._closing:
            self._closing = True
            self._port.close()
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """The same: there is nothing buffered to throw away."""
        self.close()

    def is_closing(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Another protocol from now on."""
        self._protocol = cast("asyncio.DatagramProtocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol."""
        return self._protocol
