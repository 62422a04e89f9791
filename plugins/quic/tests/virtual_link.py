"""Two engines and a network between them, without sockets and in virtual time: what happens is decided by a seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from aioquic.quic.configuration import QuicConfiguration

from echostream_core.types import Priority
from echostream_quic._aioquic import Engine
from echostream_quic.options import QuicOptions
from echostream_quic.outgoing import Outgoing
from echostream_quic.substreams import SubstreamState

CLIENT = ("192.0.2.1", 1000)
SERVER = ("192.0.2.2", 4433)


@dataclass
class Weather:
    """What the network does to packets, each way."""

    delay_s: float = 0.010
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicates: float = 0.0
    largest_bytes: int = 65_535
    bytes_per_s: float = 0.0  # 0: no limit
    queue_s: float = 0.1


class End:
    """One engine and a session that reads what arrives and remembers it."""

    def __init__(self, engine: Engine, address: tuple[str, int]) -> None:
        self.engine = engine
        self.address = address
        self.events: list[object] = []
        self.received: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.consume = True
        self.on_data: Callable[[SubstreamState, bytes], None] | None = None
        self.free_at = 0.0
        self.sent_packets = 0
        self.sent_bytes = 0

    def open(self, now: float, priority: Priority = Priority.NORMAL) -> SubstreamState:
        return self.engine.open_substream(Outgoing(priority), now)

    def write(self, state: SubstreamState, data: bytes, *, end: bool = False) -> None:
        if state.outgoing.reset_code is None and state.stop_code is None:
            state.outgoing.push([data], end=end)
            self.engine.substreams.ready(state)

    def deliver(self, now: float) -> None:
        """What a connection does: take the events, then what has arrived on substreams."""
        while (event := self.engine.next_event()) is not None:
            self.events.append(event)
        table = self.engine.substreams
        while table.changed:
            changed, table.changed = table.changed, []
            for state in changed:
                state.changed = False
                data = b"".join(state.incoming)
                state.incoming = []
                self.received.setdefault(state.stream_id, bytearray()).extend(data)
                if data and self.consume:
                    table.consume(state, len(data), now, self.engine.rtt, self.engine.least_rtt)
                if data and self.on_data is not None:
                    self.on_data(state, data)
                if state.reset_code is not None:
                    self.resets[state.stream_id] = state.reset_code
                elif state.ended:
                    self.ended.add(state.stream_id)
                if state.stop_code is not None and state.stream_id not in self.stops:
                    self.stops[state.stream_id] = state.stop_code
                    table.reset(state, state.stop_code)


@dataclass(order=True)
class _Arrival:
    at: float
    number: int
    data: bytes = field(compare=False)
    source: tuple[str, int] = field(compare=False)
    target: End = field(compare=False)


class VirtualLink:
    """The network. ``run`` moves time from event to event."""

    def __init__(
        self,
        client_configuration: QuicConfiguration,
        server_configuration: QuicConfiguration,
        *,
        options: QuicOptions | None = None,
        weather: Weather | None = None,
        seed: int = 0,
        uni_streams: int = 0,
    ) -> None:
        options = options or QuicOptions()
        self.now = 1000.0
        self.weather = weather or Weather()
        self.random = random.Random(seed)
        self._number = 0
        self._arrivals: list[_Arrival] = []
        client = Engine(client_configuration, options, now=self.now, uni_streams=uni_streams)
        server = Engine(
            server_configuration,
            options,
            now=self.now,
            uni_streams=uni_streams,
            original_destination_connection_id=client.original_destination_connection_id,
        )
        self.client = End(client, CLIENT)
        self.server = End(server, SERVER)
        client.connect(SERVER, self.now)
        self.dropped = 0

    def handshake(self) -> None:
        """Until both ends may talk."""
        self.run(lambda: self.client.engine.established and self.server.engine.established)
        for end in (self.client, self.server):
            end.engine.substreams.listen()

    def run(self, until: Callable[[], bool], *, limit_s: float = 600.0) -> None:
        """Until ``until`` says so; AssertionError when it does not within ``limit_s`` of virtual time."""
        stop = self.now + limit_s
        while True:
            if until():
                return
            for end in (self.client, self.server):
                self._transmit(end)
            self._step(stop)

    def run_for(self, duration_s: float) -> None:
        """Let time pass."""
        stop = self.now + duration_s
        while True:
            for end in (self.client, self.server):
                self._transmit(end)
            if not self._step(stop, quiet=True):
                self.now = stop
                return

    def _step(self, stop: float, *, quiet: bool = False) -> bool:
        timers = [at for end in (self.client, self.server) if (at := end.engine.get_timer()) is not None]
        arrival = self._arrivals[0].at if self._arrivals else None
        next_at = min([*timers, *([arrival] if arrival is not None else [])], default=None)
        if next_at is None or next_at > stop:
            endings = self.client.engine.ending, self.server.engine.ending
            assert quiet, f"nothing happens any more before {stop}: stuck at {self.now}, {endings}"
            return False
        self.now = max(self.now, next_at)
        if arrival is not None and arrival <= self.now:
            self._arrive()
        else:
            # aioquic compares sums with differences of floats: at the very moment of a deadline it may not see it due.
            self.now += 1e-6
            for end in (self.client, self.server):
                at = end.engine.get_timer()
                if at is not None and at <= self.now:
                    end.engine.handle_timer(self.now)
                    end.deliver(self.now)
        return True

    def _arrive(self) -> None:
        first = heapq.heappop(self._arrivals)
        batch = [first.data]
        while (
            self._arrivals
            and self._arrivals[0].at <= self.now
            and self._arrivals[0].target is first.target
            and self._arrivals[0].source == first.source
        ):
            batch.append(heapq.heappop(self._arrivals).data)
        first.target.engine.receive(batch, first.source, self.now)
        first.target.deliver(self.now)

    def _transmit(self, end: End) -> None:
        target = self.server if end is self.client else self.client
        while True:
            sent = end.engine.transmit(self.now)
            for data, _address in sent:
                end.sent_packets += 1
                end.sent_bytes += len(data)
                self._carry(data, end, target)
            if not sent or not end.engine.has_more(self.now):
                return

    def _carry(self, data: bytes, end: End, target: End) -> None:
        weather, dice = self.weather, self.random
        if len(data) > weather.largest_bytes or dice.random() < weather.loss:
            self.dropped += 1
            return
        leaves = self.now
        if weather.bytes_per_s:
            leaves = max(self.now, end.free_at)
            if leaves - self.now > weather.queue_s:
                self.dropped += 1
                return
            end.free_at = leaves = leaves + len(data) / weather.bytes_per_s
        for _ in range(2 if dice.random() < weather.duplicates else 1):
            self._number += 1
            at = leaves + weather.delay_s + dice.random() * weather.jitter_s
            heapq.heappush(self._arrivals, _Arrival(at, self._number, data, end.address, target))
