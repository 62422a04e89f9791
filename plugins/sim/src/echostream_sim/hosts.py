"""Hosts and the ports that are bound on them, and on which host a piece of a program runs."""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias

from echostream_core.errors import ConfigError, LimitExceeded, ResourceBusy, ResourceClosed
from echostream_sim.clocks import Clock

if TYPE_CHECKING:
    from echostream_sim.network import Network

__all__ = ["DEFAULT_HOST", "MAX_PAYLOAD_BYTES", "Address", "Host", "Port", "Receiver", "entered_hosts"]

DEFAULT_HOST: Final = "main"
"""Where a program runs that has entered no host."""

MAX_PAYLOAD_BYTES: Final = 65_507
"""The largest payload of a UDP packet over IPv4. What a path takes is less, see ``Path.mtu_bytes``."""

Address: TypeAlias = tuple[str, int]
"""Name of a host, and port."""

Receiver: TypeAlias = Callable[[bytes, Address], None]
"""Called with a payload and where it came from."""

_EPHEMERAL: Final = range(49_152, 65_536)
"""IANA's dynamic ports, given out in order."""

_NAME = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")

_entered: contextvars.ContextVar[tuple[Host, ...]] = contextvars.ContextVar("echostream_sim_hosts", default=())


def entered_hosts() -> tuple[Host, ...]:
    """The hosts that the caller has entered with ``with host:``, the innermost last; of any network."""
    return _entered.get()


def check_name(name: str) -> None:
    """ConfigError for a name that could not stand in a URL."""
    if not _NAME.fullmatch(name) or name == "localhost":
        raise ConfigError(
            f"{name!r} is no name for a host: use lower-case letters, digits, dots and hyphens, not an address",
            key="name",
        )


class Port:
    """One bound port of a host: sends packets, and hands those that come to its receiver. Made by :meth:`Host.bind`."""

    def __init__(
        self,
        host: Host,
        number: int,
        receiver: Receiver,
        unreachable: Callable[[Address], None] | None,
    ) -> None:
        self.host = host
        self.number = number
        self._receiver = receiver
        self._unreachable = unreachable
        self._closed = False
        # What the receiver starts runs as this host, whoever bound the port.
        self._context = contextvars.copy_context()
        self._context.run(_entered.set, (*_entered.get(), host))

    @property
    def address(self) -> Address:
        """Name of the host, and port."""
        return self.host.name, self.number

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def send(self, data: bytes | bytearray | memoryview, destination: Address) -> None:
        """Send one packet; ``destination`` is a host's name or address, and a port. The data is copied.

        ConnectFailed for a name that no host has; LimitExceeded over 65,507 bytes; ResourceClosed after ``close``.
        Packets that a path does not take are lost on the way, without an error: see ``Path.mtu_bytes``.
        """
        if self._closed:
            raise ResourceClosed(f"port {self.number} of {self.host.name!r} is closed")
        if len(data) > MAX_PAYLOAD_BYTES:
            raise LimitExceeded(
                f"a packet of {len(data)} bytes: at most {MAX_PAYLOAD_BYTES} fit into one, send several",
                limit="MAX_PAYLOAD_BYTES",
                value=len(data),
                maximum=MAX_PAYLOAD_BYTES,
            )
        notice = None
        if self._unreachable is not None:
            unreachable = self._unreachable

            def notice() -> None:
                if not self._closed:
                    self._context.run(unreachable, destination)

        self.host.network.send(self.host, self.number, bytes(data), destination, notice)

    def deliver(self, data: bytes, source: Address) -> None:
        """Called by the network: hand a packet to the receiver, on the port's host."""
        self._context.run(self._receiver, data, source)

    def close(self) -> None:
        """Unbind the port. Packets that arrive later are lost. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self.host.ports.pop(self.number)


class Host:
    """A machine of the network. ``with host:`` what runs inside, and every task that is started inside, dials and
    listens as this host. Made by :meth:`Network.host`.
    """

    def __init__(self, network: Network, name: str, address: str, clock: Clock) -> None:
        self.network = network
        self.name = name
        self.address = address
        """A fixed IPv4 address, for programs that want one."""
        self.clock = clock
        self.ports: dict[int, Port] = {}
        """What is bound, by number."""
        self._next_ephemeral = 0

    def bind(
        self,
        port: int,
        receiver: Receiver,
        *,
        unreachable: Callable[[Address], None] | None = None,
    ) -> Port:
        """Bind a UDP port, 0 for any free one; ``receiver(data, source)`` is called for each packet that comes.

        ``unreachable(destination)`` is called when a packet of ours met a port that nobody had bound, as a host's ICMP
        tells; such a notice travels back over the network like a packet. ResourceBusy when the port is taken.
        """
        if not 0 <= port <= 65_535:
            raise ConfigError(f"a port is a number from 0 to 65535, not {port!r}", key="port")
        number = port or self._free_port()
        if number in self.ports:
            raise ResourceBusy(f"port {number} of host {self.name!r} is taken: close it there, or bind port 0")
        bound = self.ports[number] = Port(self, number, receiver, unreachable)
        return bound

    def _free_port(self) -> int:
        for _ in _EPHEMERAL:
            number = _EPHEMERAL[self._next_ephemeral % len(_EPHEMERAL)]
            self._next_ephemeral += 1
            if number not in self.ports:
                return number
        raise ResourceBusy(f"all {len(_EPHEMERAL)} ports of host {self.name!r} are taken: close some")

    def __enter__(self) -> Host:
        _entered.set((*_entered.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _entered.set(_entered.get()[:-1])

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"
