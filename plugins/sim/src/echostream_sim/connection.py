"""One connection over the simulated network as the transport contract wants it: the engine, a timer, and turns.

Nothing is sent and nothing is delivered inside a call of the session: calls only note what is to be done and ask for a
turn. A turn delivers what has arrived, in the receiver's context, and then sends what the path takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context, copy_context
from logging import getLogger
from typing import Final, Protocol

from echostream_core.capabilities import Capabilities
from echostream_core.errors import (
    CloseCode,
    ConnectionLost,
    EchoStreamError,
    LimitExceeded,
    RemoteProtocolError,
)
from echostream_core.transport import Connection, ConnectionReceiver
from echostream_core.types import Buffer, Priority
from echostream_core.wire.closing import closed_by_peer
from echostream_sim import link_frames as wire
from echostream_sim.link_engine import Engine
from echostream_sim.link_reader import Reader
from echostream_sim.link_recovery import SLACK_S
from echostream_sim.link_substream import SimSubstream
from echostream_sim.options import SimOptions

__all__ = ["CAPABILITIES", "Carriage", "SimConnection"]

CAPABILITIES: Final = Capabilities(
    streams="native",
    datagrams="native",
    reset=True,
    half_close=True,
    flow_control=True,
    in_process=True,
    priorities=True,
)

CLOSE_PATIENCE_S: Final = 1.0
"""How long ``close`` waits for room to send what is queued on the control substream before it reports the end."""
LINGER_S: Final = 5.0
"""How long a farewell is repeated, behind the session's back, until the peer has acknowledged it."""

_log: Final = getLogger("echostream.sim")


class Carriage(Protocol):
    """What carries a connection's packets: the dialer's port, or the listener's, which others share."""

    def send(self, packet: bytes, /) -> None:
        """One packet to the connection's peer. The network decides what becomes of it."""

    def release(self) -> None:
        """The connection needs no packets any more."""


class SimConnection(Connection):
    """One end of a connection over the simulated network."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        number: int,
        options: SimOptions,
        carriage: Carriage,
        *,
        dials: bool,
        peer_max_streams: int,
        local_address: str,
        peer_address: str,
    ) -> None:
        self.capabilities = CAPABILITIES
        self.local_address = local_address
        self.peer_address = peer_address
        self.engine = Engine(
            number,
            options,
            dials=dials,
            peer_max_streams=peer_max_streams,
            wake_up=self._turn_soon,
            clock=loop.time,
        )
        self.reader = Reader(self.engine)
        self.reader.heard_at = loop.time()
        self.datagram_drops = self.engine.datagrams.drops
        self._loop = loop
        self._options = options
        self._carriage = carriage
        self._receiver: ConnectionReceiver | None = None
        self._context: Context | None = None  # of our receiver: callbacks run there, not in a writer's
        self._error: EchoStreamError | None = None
        self._ended = False  # closed by either side, or lost: nothing is delivered any more but on_closed
        self._report_at: float | None = None  # when close reports the end at the latest
        self._linger_until: float | None = None
        self._reported = False
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # The contract's Connection

    def start(self, receiver: ConnectionReceiver) -> None:
        """Begin delivery; what arrived before comes on the next turn."""
        self._receiver = receiver
        self._context = copy_context()
        self.reader.listening = True
        self._turn_soon()

    def open_substream(self, priority: Priority = Priority.NORMAL) -> SimSubstream:
        """A new substream; the peer learns of it with the first bytes."""
        self.engine.check_open()
        return self.engine.open(priority)

    def close(self, code: int, reason: str) -> None:
        """Send what is queued on the control substream, then the farewell, then ``on_closed(None)``."""
        if self._ended:
            return
        self._ended = True
        now = self._loop.time()
        self._report_at = now + CLOSE_PATIENCE_S
        self._linger_until = now + LINGER_S
        self.engine.say_farewell(code, reason)
        self._turn_soon()

    def abort(self) -> None:
        """End at once. The peer is told with one packet, which may be lost."""
        if not self.engine.closed:
            self._carriage.send(wire.SHORT.pack(wire.GONE, self.engine.number))
            self._ended = True
            self._release()
            self._turn_soon()

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        """Queue one datagram; False when an older one was dropped to take it."""
        datagram = b"".join(data)
        most = self.max_datagram_size()
        if len(datagram) > most:
            raise LimitExceeded(
                f"a datagram of {len(datagram)} bytes: packets here carry at most {most} (packet_bytes)",
                limit="max_datagram_size",
                value=len(datagram),
                maximum=most,
            )
        if self._ended:
            self.engine.datagrams.drops.closed += 1
            return True
        latest = self._loop.time() + self._options.datagram_expiry_s
        kept = self.engine.datagrams.put(datagram, latest if expires_at is None else min(expires_at, latest))
        self._turn_soon()
        return kept

    def max_datagram_size(self) -> int:
        """What one packet carries beside its header."""
        return self._options.packet_bytes - wire.HEADER_BYTES - wire.DATAGRAM_HEAD.size

    # What the carriage calls

    def begin(self) -> None:
        """The handshake is complete on the dialer's side: tell the listener."""
        self._turn_soon()

    def receive(self, packet: bytes) -> None:
        """One packet of this connection has arrived; a turn follows."""
        if self.engine.closed:
            return
        try:
            self.reader.receive(packet, self._loop.time())
        except RemoteProtocolError as error:
            self._fail(error, error.close_code, str(error))
        self._turn_soon()

    def peer_gone(self) -> None:
        """The peer's end knows nothing of this connection (any more)."""
        if not self.engine.closed:
            self._lose(ConnectionLost(f"{self.peer_address}: the peer has dropped the connection without a farewell"))
            self._turn_soon()

    # Turns

    def _turn_soon(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        self._soon = None
        try:
            self._deliver()
        except Exception as error:
            _log.exception("%s: a callback of the session failed", self.local_address)
            failure = ConnectionLost(f"{self.peer_address}: closed because a callback failed: {error!r}")
            failure.__cause__ = error
            self._fail(failure, CloseCode.INTERNAL, "internal error")
        self._transmit()
        self._report()

    def _deliver(self) -> None:
        receiver, reader, engine = self._receiver, self.reader, self.engine
        if receiver is not None:
            while reader.changed and not self._ended:
                changed, reader.changed = reader.changed, []
                for stream in changed:
                    stream.changed = False
                    if self._ended:
                        break
                    if stream.receiver is None:
                        stream.receiver = receiver.on_substream(stream)
                    if not self._ended:
                        stream.deliver()
            while reader.datagrams and not self._ended:
                receiver.on_datagram(memoryview(reader.datagrams.popleft()))
            while engine.writable and not self._ended:
                engine.writable.pop(0).receiver.on_writable()  # type: ignore[union-attr]  # it has sent, so it is started
        if reader.farewell is not None and (receiver is not None or self._ended):
            self._part(*reader.farewell)

    def _part(self, code: int, reason: str) -> None:
        """The peer has said its last; acknowledge it, as it waits for that."""
        self.engine.acknowledge_at = self._loop.time()
        self._transmit()
        self._lose(closed_by_peer(self.peer_address, code, reason))

    def _transmit(self) -> None:
        engine = self.engine
        if engine.closed:
            return
        now = self._loop.time()
        for packet in engine.transmit(now):
            self._carriage.send(packet)
        if engine.writable and not self._ended:
            self._turn_soon()
        if self._linger_until is not None and self._farewell_settled(now):
            self._release()
            return
        self._arm(now)

    def _farewell_settled(self, now: float) -> bool:
        """Our farewell has arrived, or has been repeated for long enough."""
        engine = self.engine
        if self._linger_until is not None and now + SLACK_S >= self._linger_until:
            return True
        return engine.farewell_sent and not engine.waiting and not engine.recovery.sent

    def _arm(self, now: float) -> None:
        """One timer, moved only when it has to come earlier; one that comes too early looks again."""
        engine = self.engine
        at = engine.deadline
        if engine.waiting:
            paced_at = engine.recovery.next_send_at(now)
            if paced_at is not None and (at is None or paced_at < at):
                at = paced_at
        for other in (self._linger_until, self._report_at if not self._reported else None):
            if other is not None and (at is None or other < at):
                at = other
        if at is None:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(max(at, now), self._timer_fired, context=self._context)

    def _timer_fired(self) -> None:
        self._timer = None
        engine = self.engine
        now = self._loop.time()
        silent_since = max(self.reader.heard_at, engine.recovery.waiting_since)
        if engine.recovery.sent and now - silent_since >= self._options.give_up_s:
            self._lose(
                ConnectionLost(
                    f"{self.peer_address} has acknowledged nothing for {self._options.give_up_s:g} s: "
                    "the connection is lost (give_up_s)"
                )
            )
        else:
            engine.timed_out(now)
        if self._soon is None:
            self._turn()

    # The end

    def _fail(self, error: EchoStreamError, code: int, reason: str) -> None:
        """We end the connection, and not because the session wished it."""
        if not self._ended:
            self._error = error
            self.close(code, reason)

    def _lose(self, error: EchoStreamError) -> None:
        """The connection is gone without our doing."""
        if not self._ended:
            self._ended = True
            self._error = error
        self._release()

    def _release(self) -> None:
        """Let go of everything but the report that may be due."""
        if not self.engine.closed:
            self.engine.shut()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._carriage.release()

    def _report(self) -> None:
        if not self._ended or self._reported or self._receiver is None:
            return
        patient = self._report_at is not None and self._loop.time() + SLACK_S < self._report_at
        if patient and not self.engine.farewell_sent and not self.engine.closed:
            return
        self._reported = True
        try:
            self._receiver.on_closed(self._error)
        except Exception:
            _log.exception("%s: a callback of the session failed", self.local_address)
