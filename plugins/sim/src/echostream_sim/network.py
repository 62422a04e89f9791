"""The simulated network: hosts, the links between them, and the one queue of everything that is under way.

A network belongs to one :class:`~echostream_sim.loop.SimLoop`, whose clock is its time. Everything random is drawn from
streams that are derived from the seed and the names of what draws, so adding a host or a link changes nothing for the
others. Two events of one moment happen in the order in which they were scheduled.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import heapq
import random
import re
from collections.abc import Callable
from typing import Final, Literal, Unpack

from echostream_core.errors import ConfigError, ConnectFailed, ResourceBusy
from echostream_sim.clocks import Clock
from echostream_sim.hosts import DEFAULT_HOST, Address, Host, check_name, entered_hosts
from echostream_sim.paths import LOOPBACK, Direction, Packet, Path, PathSettings
from echostream_sim.recorder import Recorder

__all__ = ["Network"]

_NOTICE_BYTES: Final = 36
"""Of a notice that nobody is bound to a port: ICMP's 8 bytes, and 28 of the packet that it is about."""

_OWN = re.compile(r"localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0|")


class Network:
    """All hosts and links of one simulation; see the module's docstring. ``default`` is the path between hosts that no
    :meth:`link` names: a perfect one, unless told otherwise.
    """

    def __init__(self, seed: int = 0, *, default: Path | None = None, recorder: Recorder | None = None) -> None:
        self.seed = seed
        self.recorder = recorder if recorder is not None else Recorder()
        self.random = self.stream("network")
        """For programs that want random numbers which the seed decides."""
        self.hosts: dict[str, Host] = {}
        """By name, in the order in which they were made."""
        self._by_address: dict[str, Host] = {}
        self._default = default if default is not None else Path()
        self._paths: dict[tuple[str, str], Path] = {}
        self._directions: dict[tuple[str, str], Direction] = {}
        self._cuts: set[tuple[str, str]] = set()
        self._isolated: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._scheduled = 0
        self._packets = 0
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()

    # Hosts and links.

    def host(self, name: str, *, clock: Clock | None = None) -> Host:
        """The host of this name, made when there is none. Its clock is right unless ``clock`` says otherwise.

        ConfigError for a name that cannot stand in a URL, and for a clock when the host has one already.
        """
        known = self.hosts.get(name)
        if known is not None:
            if clock is not None:
                raise ConfigError(f"host {name!r} has its clock already: pass it when the host is made", key="clock")
            return known
        check_name(name)
        number = len(self.hosts) + 1
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        clock = clock if clock is not None else Clock()
        clock.start(lambda: self.now, self.stream("clock", name))
        host = self.hosts[name] = self._by_address[address] = Host(self, name, address, clock)
        return host

    def current_host(self) -> Host:
        """The host on which the caller runs: that of the innermost ``with host:``, or the host "main"."""
        for host in reversed(entered_hosts()):
            if host.network is self:
                return host
        return self.host(DEFAULT_HOST)

    def find_host(self, name: str, *, of: Host | None = None) -> Host | None:
        """The host with this name or address; "localhost", 127.0.0.1, 0.0.0.0 and "" are the host ``of`` itself, or
        the current one. None when there is none.
        """
        found = self.hosts.get(name) or self._by_address.get(name)
        if found is None and _OWN.fullmatch(name):
            return of if of is not None else self.current_host()
        return found

    @property
    def default(self) -> Path:
        """The path between hosts that no link names. It can be set, and counts at once."""
        return self._default

    @default.setter
    def default(self, path: Path) -> None:
        self._default = path
        for (source, destination), direction in self._directions.items():
            if source != destination and (source, destination) not in self._paths:
                direction.change(path, self.now)

    def link(self, first: str, second: str, *, reverse: Path | None = None, **settings: Unpack[PathSettings]) -> None:
        """Make the link between two hosts, or make it anew: ``settings`` are those of :class:`Path`, and hold both ways
        unless ``reverse`` says what the way from ``second`` to ``first`` is like. What is left out is as in ``Path()``.

        A link that exists is changed: what waits in its queues stays, what is under way arrives as planned.
        """
        forward = Path(**settings)
        self._set_path(first, second, forward)
        self._set_path(second, first, reverse if reverse is not None else forward)

    def change(self, source: str, destination: str, **settings: Unpack[PathSettings]) -> None:
        """Change some settings of one direction, for instance ``rate_bps``; the others stay as they are."""
        self._set_path(source, destination, self.path(source, destination).changed(**settings))

    def path(self, source: str, destination: str) -> Path:
        """What the direction from one host to another is like now."""
        if self._known(source) is self._known(destination):
            return LOOPBACK
        return self._paths.get((source, destination), self._default)

    def queue_bytes(self, source: str, destination: str) -> int:
        """What waits at the bottleneck of one direction now, headers included."""
        self._known(source), self._known(destination)
        direction = self._directions.get((source, destination))
        return direction.queue_bytes if direction is not None else 0

    def _set_path(self, source: str, destination: str, path: Path) -> None:
        if self._known(source) is self._known(destination):
            raise ConfigError(f"a link joins two hosts, and {source!r} is one", key="link")
        self._paths[source, destination] = path
        direction = self._directions.get((source, destination))
        if direction is None:
            self._direction(source, destination)
        else:
            direction.change(path, self.now)

    def _known(self, name: str) -> Host:
        host = self.hosts.get(name)
        if host is None:
            raise ConfigError(
                f"there is no host {name!r}: make it with network.host({name!r}); "
                f"there are {', '.join(self.hosts) or 'none yet'}",
                key="host",
            )
        return host

    # Partitions.

    def partition(self, first: str, second: str | None = None, *, one_way: bool = False) -> None:
        """Cut the link between two hosts, or only the way from ``first`` to ``second``; without ``second``, cut
        ``first`` off from everybody. Nothing arrives until :meth:`heal`; ``paths.py`` says what becomes of packets that
        are under way.
        """
        self._known(first)
        if second is None:
            if one_way:
                raise ConfigError("a host is cut off both ways: name the second host for one_way", key="one_way")
            self._isolated.add(first)
        else:
            self._known(second)
            self._cuts.add((first, second))
            if not one_way:
                self._cuts.add((second, first))
        self._apply_partitions()
        self._record_partition("partitioned", first, second, one_way=one_way)

    def heal(self, first: str | None = None, second: str | None = None) -> None:
        """End the partition between two hosts; the isolation of ``first`` when it stands alone; all without names."""
        if first is None:
            self._cuts.clear()
            self._isolated.clear()
        elif second is None:
            self._known(first)
            self._isolated.discard(first)
        else:
            self._known(first), self._known(second)
            self._cuts -= {(first, second), (second, first)}
        self._apply_partitions()
        self._record_partition("healed", first or "*", second, one_way=False)

    def is_partitioned(self, source: str, destination: str) -> bool:
        """Whether nothing gets from one host to another now."""
        self._known(source), self._known(destination)
        return self._is_cut(source, destination)

    def _is_cut(self, source: str, destination: str) -> bool:
        if source == destination:
            return False
        return (source, destination) in self._cuts or source in self._isolated or destination in self._isolated

    def _apply_partitions(self) -> None:
        for (source, destination), direction in self._directions.items():
            direction.partitioned = self._is_cut(source, destination)

    def _record_partition(
        self, fate: Literal["partitioned", "healed"], first: str, second: str | None, *, one_way: bool
    ) -> None:
        self.recorder.record(self.now, fate, 0, (first, 0), (second or "*", 0), 0, "one way" if one_way else "")

    def note(self, text: str) -> None:
        """Write a remark into the record, at the current host; the picture shows it. It does not change the hash."""
        name = self.current_host().name
        self.recorder.record(self.now, "note", 0, (name, 0), (name, 0), 0, text)

    # Time and chance.

    @property
    def now(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._loop.time() if self._loop is not None else 0.0

    def stream(self, *names: str) -> random.Random:
        """A random stream that depends on the seed and on these names, and on nothing else."""
        text = "\0".join((str(self.seed), *names))
        return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called by the loop: its clock is ours from now on. ResourceBusy when we have a loop."""
        if self._loop is not None and self._loop is not loop:
            raise ResourceBusy("this network has lived on another loop: make a new one for each simulation")
        self._loop = loop
        if self._events:
            self._arm()

    def schedule(self, when: float, callback: Callable[[float], None]) -> None:
        """Call ``callback(when)`` at a virtual time, behind everything that was scheduled for that time before."""
        self._scheduled += 1
        heapq.heappush(self._events, (when, self._scheduled, callback))
        if self._timer is None or when < self._timer.when():
            self._arm()

    def _arm(self) -> None:
        if self._loop is None:
            return  # sent before the simulation began: attach() arms
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._events[0][0], self._run_due, context=self._context)

    def _run_due(self) -> None:
        self._timer = None
        assert self._loop is not None
        now = self._loop.time()
        try:
            while self._events and self._events[0][0] <= now:
                when, _, callback = heapq.heappop(self._events)
                callback(when)
        finally:
            if self._events and self._timer is None:
                self._arm()

    # Packets.

    def _next_packet(self) -> int:
        self._packets += 1
        return self._packets

    def send(self, host: Host, port: int, data: bytes, destination: Address, notice: Callable[[], None] | None) -> None:
        """Called by a port: bring a packet on its way; ``notice`` is called if nobody is bound where it arrives."""
        name, number = destination
        target = self.find_host(name, of=host)
        source = (host.name, port)
        if target is None:
            if not name[-1:].isdigit():
                known = ", ".join(self.hosts)
                raise ConnectFailed(f"there is no host {name!r} on this network; there are {known}")
            # As on the internet: an address that nobody has swallows packets.
            packet = self._next_packet()
            self.recorder.record(self.now, "sent", packet, source, destination, len(data))
            self.recorder.record(self.now, "lost", packet, source, destination, len(data), "no_host")
            return
        packet_to = Packet(self._next_packet(), source, (target.name, number), data, unreachable=notice)
        self._direction(host.name, target.name).send(packet_to, self.now)

    def _direction(self, source: str, destination: str) -> Direction:
        direction = self._directions.get((source, destination))
        if direction is None:
            direction = self._directions[source, destination] = Direction(
                self.path(source, destination),
                recorder=self.recorder,
                number=self._next_packet,
                stream=lambda purpose: self.stream("path", source, destination, purpose),
                schedule=self.schedule,
                arrive=self._arrive,
                now=self.now,
            )
            direction.partitioned = self._is_cut(source, destination)
        return direction

    def _arrive(self, packet: Packet, now: float) -> None:
        name, number = packet.destination
        port = self.hosts[name].ports.get(number)
        size_bytes = len(packet.data)
        if port is None and packet.notice is None:
            self.recorder.record(now, "lost", packet.number, packet.source, packet.destination, size_bytes, "no_port")
            if packet.unreachable is not None:
                notice = Packet(
                    self._next_packet(),
                    packet.destination,
                    packet.source,
                    bytes(_NOTICE_BYTES),
                    notice=packet.unreachable,
                )
                self._direction(name, packet.source[0]).send(notice, now)
            return
        self.recorder.record(now, "delivered", packet.number, packet.source, packet.destination, size_bytes)
        try:
            if packet.notice is not None:
                packet.notice()
            elif port is not None:
                port.deliver(packet.data, packet.source)
        except Exception as error:
            # As asyncio does with a protocol that raises: the network goes on.
            assert self._loop is not None
            self._loop.call_exception_handler(
                {"message": f"the receiver at {name}:{number} raised {type(error).__name__}", "exception": error}
            )
