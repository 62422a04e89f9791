"""One QUIC connection as the transport contract wants it: the engine, a socket, one timer, and the turns of the loop.

Nothing is sent and nothing is delivered inside a call of the session: calls only note what is to be done and
ask for a turn. A turn takes everything that has arrived, delivers it, and transmits once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import replace
from logging import getLogger
from typing import TYPE_CHECKING, Final, Protocol

from aioquic.quic import events

from echostream_core.capabilities import Capabilities
from echostream_core.errors import (
    CapabilityError,
    CloseCode,
    ConnectionLost,
    EchoStreamError,
    LimitExceeded,
    LocalProtocolError,
    ResourceClosed,
)
from echostream_core.transport import Connection, ConnectionReceiver
from echostream_core.types import Buffer, Priority
from echostream_core.wire.datagrams import DatagramDrops, DatagramQueue
from echostream_quic._aioquic import Engine
from echostream_quic._errors import IDLE_TIMEOUT
from echostream_quic.dialect import Dialect
from echostream_quic.endpoint import Address
from echostream_quic.options import QuicOptions
from echostream_quic.outgoing import Outgoing
from echostream_quic.substream import QuicSubstream
from echostream_quic.substreams import SubstreamState

if TYPE_CHECKING:
    from echostream_quic.tenants import Tenant

__all__ = ["CAPABILITIES", "Link", "QuicConnection"]

CAPABILITIES: Final = Capabilities(
    streams="native",
    datagrams="native",
    reset=True,
    half_close=True,
    flow_control=True,
    migration=True,
    encrypted=True,
    priorities=True,
)

CLOSE_PATIENCE_S: Final = 1.0
"""How long ``close`` waits until what was queued on the control substream is sent and acknowledged. Without the second,
a packet that the network loses would be lost for good: the farewell is the last that the peer reads."""
MAX_REASON_BYTES: Final = 512
"""CONNECTION_CLOSE has to fit one packet."""
SUSPICION_S: Final = 1.0
"""How long a peer whose port is said to be closed has to show that it is not."""
TIMER_SLACK_S: Final = 0.0005
"""A timer that fires this much early is as good as due: uvloop rounds to milliseconds."""
TIMER_STEP_S: Final = 0.000_001
"""No timer is shorter. Sums and differences of floats may put a deadline a rounding behind the clock that fired it;
where time is virtual it would not move on by itself, and the timer would fire for ever."""

_log: Final = getLogger("echostream.quic")


class Link(Protocol):
    """What carries a connection's packets: the dialer's socket, or the listener that it shares with others."""

    @property
    def blocked(self) -> bool:
        """The socket is full."""

    def send(self, datagrams: Sequence[tuple[bytes, Address]], /) -> None:
        """Send, or keep until there is room."""

    def cid_added(self, connection: QuicConnection, cid: bytes, /) -> None:
        """The peer may address the connection by ``cid`` from now on."""

    def cid_removed(self, connection: QuicConnection, cid: bytes, /) -> None:
        """The peer no longer does."""

    def verified(self, connection: QuicConnection, /) -> bool:
        """QUIC's handshake is complete: whether the peer is who it should be. What is not goes no further."""

    def established(self, connection: QuicConnection, /) -> None:
        """All handshakes are complete, and nothing was delivered yet."""

    def ended(self, connection: QuicConnection, /) -> None:
        """The connection is over; its farewell, if any, has been sent."""


class QuicConnection(Connection):
    """One end of a QUIC connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        engine: Engine,
        link: Link,
        options: QuicOptions,
        dialect: Dialect,
        *,
        dials: bool,
        local_address: str,
        peer_address: str,
    ) -> None:
        self.capabilities = CAPABILITIES
        self.dialect = dialect
        self.local_address = local_address
        self.peer_address = peer_address
        self.engine = engine
        self.datagram_drops = self._drops = DatagramDrops()
        self.tenant: Tenant | None = None
        """At a listener: whose connection it is, as far as it is known."""
        self.peer_host = ""
        """The peer's IP address when the handshake began; a listener counts by it."""
        self.farewell: Sequence[tuple[bytes, Address]] = ()
        """The packet that told the peer of our close, to be repeated if it did not arrive."""
        self.ended = False
        """Over: ``on_closed`` was called, or is all that is left to be called."""
        self._loop = loop
        self._clock = clock
        self._link = link
        self._dials = dials
        self._control: QuicSubstream | None = None
        self._receiver: ConnectionReceiver | None = None
        self._context: Context | None = None  # of our receiver: callbacks run there, not in a writer's
        self._error: EchoStreamError | None = None
        self._reported = False
        self._established = False
        self._guest_begun = False  # it was told of the handshake: what arrives is its business from then on
        self._ready = False
        self._aborting = False
        self._closing: tuple[int, str] | None = None
        self._close_by = 0.0
        self._in_turn = False
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._suspicion: asyncio.TimerHandle | None = None
        self._unopened: tuple[list[QuicSubstream], ...] = tuple([] for _ in Priority)
        self._datagrams: deque[bytes] = deque(maxlen=options.max_queued_datagrams)
        self._outgoing_datagrams = self.adopt(options, dialect)
        self.before_transmit: Callable[[], None] | None = None
        """A guest's own business before each sending, while it has any."""

    def adopt(self, options: QuicOptions, dialect: Dialect) -> DatagramQueue:
        """Go on with another dialect and its options: the handshake has just shown which one the peer speaks."""
        self.dialect = dialect
        self._datagrams = deque(maxlen=options.max_queued_datagrams)
        queue = DatagramQueue(options.max_queued_datagrams, self._loop.time, self._drops)
        self._outgoing_datagrams = self.engine.substreams.datagrams = queue
        return queue

    # The contract's Connection

    def start(self, receiver: ConnectionReceiver) -> None:
        """Begin delivery; what arrived before comes on the next turn."""
        self._receiver = receiver
        self._context = copy_context()
        if not self.ended:
            self.engine.substreams.listen()
            self.dialect.started(self)
        self._turn_soon()

    def open_substream(self, priority: Priority = Priority.NORMAL) -> QuicSubstream:
        """A new substream; the peer learns of it with the first bytes."""
        if self.ended or self._closing is not None:
            raise ResourceClosed(f"{self.peer_address}: the connection is closed")
        outgoing = Outgoing(priority)
        if priority is not Priority.CONTROL:
            return QuicSubstream(self, outgoing, None)
        if not self._dials or self._control is not None:
            raise LocalProtocolError("the dialer opens the control substream, once")
        if self.engine.streams_left() < 1:
            raise ConnectionLost(f"{self.peer_address}: the peer allows no substreams at all")
        # At once: the listener knows the control substream by its number, the lowest.
        if self.dialect.prefix:
            outgoing.prefix(self.dialect.prefix)
        self._control = QuicSubstream(self, outgoing, self.engine.open_substream(outgoing, self._clock()))
        return self._control

    def close(self, code: int, reason: str) -> None:
        """Send what is queued on the control substream, then the farewell, then ``on_closed(None)``."""
        if self.ended or self._closing is not None:
            return
        self._closing = (code & 0xFFFF_FFFF, reason)
        self._close_by = self._clock() + CLOSE_PATIENCE_S
        self._drop_all(but=self._control)
        self._turn_soon()

    def abort(self) -> None:
        """End at once. The peer is told as far as one packet can."""
        if self.ended:
            return
        self._closing = (int(CloseCode.INTERNAL), "aborted")
        self._aborting = True
        self._drop_all(but=None)
        self._turn_soon()

    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        """Queue one datagram; False when an older one was dropped to take it."""
        most = self.max_datagram_size()
        if not most:
            raise CapabilityError(f"{self.peer_address}: the peer takes no datagrams", capability="datagrams")
        prefix = self.dialect.datagram_prefix
        datagram = b"".join((prefix, *data)) if prefix else b"".join(data)
        size = len(datagram) - len(prefix)
        if size > most:
            raise LimitExceeded(
                f"a datagram of {size} bytes: the path carries at most {most} now",
                limit="max_datagram_size",
                value=size,
                maximum=most,
            )
        if self.ended or self._closing is not None:
            self._drops.closed += 1
            return True
        kept = self._outgoing_datagrams.put(datagram, expires_at)
        self._turn_soon()
        return kept

    def max_datagram_size(self) -> int:
        """What one packet carries now; it rises when the path's size has been probed."""
        if self.capabilities.datagrams == "none":
            return 0
        return max(0, self.engine.max_datagram_size() - len(self.dialect.datagram_prefix))

    # What substreams call

    def written(self, substream: QuicSubstream) -> None:
        """Something was queued on ``substream``, which is not in the scheduler."""
        if self.ended or (self._closing is not None and substream is not self._control):
            substream.lost()
            return
        stream = substream.stream
        if stream is None:
            outgoing = substream.outgoing
            if substream.waiting or not (outgoing.queued_bytes or outgoing.ended):
                return
            waiting = self._unopened[outgoing.priority]
            if waiting or self.engine.streams_left() < 1:
                substream.waiting = True
                waiting.append(substream)
                return
            stream = self._open(substream)
        self.engine.substreams.ready(stream)
        self._turn_soon()

    def consumed(self, stream: SubstreamState, size: int) -> None:
        """``size`` bytes of ``stream`` are used."""
        if self.engine.substreams.consume(stream, size, self._clock(), self.engine.rtt, self.engine.least_rtt):
            self._turn_soon()

    def reset(self, substream: QuicSubstream, code: int) -> None:
        """Our direction of ``substream`` is given up."""
        if substream.stream is None:
            substream.outgoing.drop()
            if substream.waiting:
                substream.waiting = False
                self._unopened[substream.outgoing.priority].remove(substream)
        else:
            self.engine.substreams.reset(substream.stream, self.dialect.code_out(code))
            self._turn_soon()

    def stop(self, stream: SubstreamState, code: int) -> None:
        """Nothing more is read from ``stream``."""
        self.engine.substreams.stop(stream, self.dialect.code_out(code))
        self._turn_soon()

    def reclass(self, outgoing: Outgoing, priority: Priority) -> None:
        """``outgoing`` goes with another class from now on."""
        self.engine.substreams.scheduler.reclass(outgoing, priority)

    def redeliver(self, stream: SubstreamState) -> None:
        """Something of ``stream`` waits for a receiver that is there now."""
        self.engine.substreams.note_changed(stream)
        self._turn_soon()

    # What the dialect calls

    def ready(self) -> None:
        """The handshake is complete, a guest's own included: hand the connection over."""
        self._ready = True
        self._link.established(self)

    def hand_over(self, stream: SubstreamState, *, control: bool) -> None:
        """``stream`` is a substream that the peer has opened."""
        assert self._receiver is not None, "a dialect waits for `started`"
        substream = QuicSubstream(self, stream.outgoing, stream)
        if control:
            self._control = substream
        substream.start(self._receiver.on_substream(substream))

    def without_datagrams(self) -> None:
        """The peer takes none."""
        self.capabilities = replace(self.capabilities, datagrams="none")

    def hold_datagrams(self) -> None:
        """Send none until ``release_datagrams``; they wait in their queue."""
        self.engine.substreams.datagrams = DatagramQueue(1, self._loop.time, DatagramDrops())

    def release_datagrams(self) -> None:
        """Send those that wait, and go on sending."""
        self.engine.substreams.datagrams = self._outgoing_datagrams

    def postpone_close(self, wait_s: float = CLOSE_PATIENCE_S) -> None:
        """The peer was told in other words than QUIC's: QUIC's own follow in ``wait_s``."""
        self._close_by = self._clock() + wait_s

    def end_with(self, code: int, reason: str, error: EchoStreamError | None) -> None:
        """End the connection with a code of the dialect's own, as it stands on the wire; ``error`` is our session's."""
        if self.ended:
            return
        if self._closing is None and self._error is None:
            self._error = error  # also when the peer closed right behind it
        if self.engine.ending is None:
            self.engine.close(error_code=code, reason_phrase=_cut(reason))
            self._turn_soon()

    @property
    def error(self) -> EchoStreamError | None:
        """Why it has ended, if that is known and was not our wish."""
        return self._error

    @property
    def is_ready(self) -> bool:
        """All handshakes are complete."""
        return self._ready

    @property
    def is_verified(self) -> bool:
        """QUIC's handshake is complete, and the peer is who it should be."""
        return self._established

    @property
    def is_started(self) -> bool:
        """The session listens."""
        return self._receiver is not None

    @property
    def is_closing(self) -> bool:
        """We have asked for the end."""
        return self._closing is not None

    def now(self) -> float:
        """The time by which packets are sent."""
        return self._clock()

    def turn_soon(self) -> None:
        """There is something to send."""
        self._turn_soon()

    # What the endpoint calls

    def receive(self, datagrams: Sequence[bytes], address: Address, now: float) -> None:
        """Take what one system call brought; a ``turn`` follows."""
        try:
            self.engine.receive(datagrams, address, now)
        except Exception as error:
            self._broken(error)

    def turn(self) -> None:
        """Deliver what has arrived, then transmit. Never raises: other connections share the caller."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        try:
            self._in_turn = True
            try:
                self._deliver()
            finally:
                self._in_turn = False
            self._transmit()
        except Exception as error:
            self._broken(error)

    def unreachable(self, error: OSError) -> None:
        """The network says that nobody listens at the peer's port any more.

        Anybody could have forged that, so it is no end but a suspicion: a peer that is alive answers a ping.
        """
        if self._suspicion is None and not self.ended:
            self.engine.send_ping(0)
            self._turn_soon()
            wait_s = max(SUSPICION_S, 3 * self.engine.rtt)
            self._suspicion = self._loop.call_later(wait_s, self._confirm, self._clock(), error)

    def _confirm(self, since: float, cause: OSError) -> None:
        self._suspicion = None
        if not self.ended and self.engine.heard_at <= since:
            if self._closing is None:
                self._error = ConnectionLost(f"nobody listens at {self.peer_address} any more: the connection is lost")
                self._error.__cause__ = cause
            self._finish()

    def connect(self, address: Address) -> None:
        """Begin the handshake with ``address``."""
        self.engine.connect(address, self._clock())
        self._transmit()

    def refuse(self, code: int, reason: str) -> None:
        """End the handshake with a transport error of ours, before the peer may think it complete."""
        self.engine.close(error_code=code, frame_type=0, reason_phrase=reason)

    def give_up_handshake(self) -> None:
        """The peer takes too long."""
        if not self.engine.established:
            self.refuse(0x01, IDLE_TIMEOUT)
            self.turn()
        elif not self._ready:
            self.abort()
            self.turn()

    # Turns

    def _turn_soon(self) -> None:
        if self._soon is None and not self._in_turn and not self._reported:
            self._soon = self._loop.call_soon(self._next_turn, context=self._context)

    def _next_turn(self) -> None:
        self._soon = None
        self.turn()

    def _open(self, substream: QuicSubstream) -> SubstreamState:
        if self.dialect.prefix:
            substream.outgoing.prefix(self.dialect.prefix)
        stream = self.engine.open_substream(substream.outgoing, self._clock())
        substream.opened(stream)
        return stream

    def _open_waiting(self) -> None:
        """The peer lets us open more: those that wait, the most urgent first."""
        self.engine.opening = False
        for waiting in self._unopened:
            while waiting and self.engine.streams_left() > 0:
                substream = waiting.pop(0)
                substream.waiting = False
                self.engine.substreams.ready(self._open(substream))

    def _deliver(self) -> None:
        if not self.ended:
            self._take_events()
        if self.ended or (self._receiver is None and not self._guest_begun):
            self._report()
            return
        try:
            self._deliver_changed()
        except Exception as error:
            self._callback_failed(error)

    def _deliver_changed(self) -> None:
        table, dialect = self.engine.substreams, self.dialect
        while table.changed and (self._closing is None or dialect.is_guest):
            changed, table.changed = table.changed, []
            for stream in changed:
                stream.changed = False
                if self._closing is not None and not dialect.owns(stream):
                    continue
                if stream.substream is None and not dialect.accept(self, stream):
                    continue
                stream.substream.deliver()
        receiver = self._receiver
        while self._datagrams and self._closing is None and receiver is not None:
            receiver.on_datagram(self._datagrams.popleft())

    def _callback_failed(self, error: Exception) -> None:
        """The session raised in one of its callbacks: its connection ends, and nobody else's."""
        _log.error("%s: a callback of the session failed", self.local_address, exc_info=error)
        self._error = ConnectionLost(f"{self.peer_address}: closed because a callback failed: {error!r}")
        self._error.__cause__ = error
        self.close(CloseCode.INTERNAL, "internal error")

    def _broken(self, error: Exception) -> None:
        """The library, or this plugin, has failed: the connection cannot go on, and says nothing more."""
        _log.error("%s: the connection with %s broke", self.local_address, self.peer_address, exc_info=error)
        self._error = ConnectionLost(f"{self.peer_address}: the QUIC library failed: {error!r}")
        self._error.__cause__ = error
        self._finish()

    def _take_events(self) -> None:
        next_event = self.engine.next_event
        while (event := next_event()) is not None:
            if isinstance(event, events.DatagramFrameReceived):
                data: bytes | None = event.data
                if self.dialect.is_guest:
                    data = self.dialect.datagram(event.data) if self._guest_begun else None
                if data is None:
                    continue
                if len(self._datagrams) == self._datagrams.maxlen:
                    self._drops.crowded += 1
                self._datagrams.append(data)
            elif isinstance(event, events.ConnectionIdIssued):
                self._link.cid_added(self, event.connection_id)
            elif isinstance(event, events.ConnectionIdRetired):
                self._link.cid_removed(self, event.connection_id)
            elif isinstance(event, events.HandshakeCompleted) and self.engine.established:
                self._established = True
                if not self.engine.max_datagram_size():
                    self.without_datagrams()
                if self._link.verified(self):
                    self._guest_begun = self.dialect.is_guest
                    self.dialect.handshaken(self)

    def _transmit(self) -> None:
        engine = self.engine
        if self.ended:
            return
        now = self._clock()
        if self.before_transmit is not None:
            self.before_transmit()
        if self._closing is not None and self._may_close(now):
            code, reason = self.dialect.farewell(*self._closing)
            engine.close(error_code=code, reason_phrase=_cut(reason))
        elif self._link.blocked:
            return
        if engine.opening:
            self._open_waiting()
        sent = engine.transmit(now)
        if sent:
            self._link.send(sent)
            self._take_events()  # connection ids that were issued: the peer may use them as soon as it has them
        if engine.ending is not None and not engine.close_unsent:
            self.farewell = sent
            self._finish()
            return
        if engine.substreams.relieved:
            self._tell_relieved()
        if engine.has_more(now):
            self._turn_soon()
        self._arm(now)

    def _may_close(self, now: float) -> bool:
        """The peer has all of the control substream, or we have waited long enough; and a guest has said its own."""
        if self._aborting or not self._established:
            return True
        late = now >= self._close_by
        if not late and self._control is not None:
            outgoing = self._control.outgoing
            if outgoing.sendable or outgoing.in_flight:
                return False
        code, reason = self._closing or (0, "")
        return self.dialect.may_close(self, code, reason, late=late)

    def _tell_relieved(self) -> None:
        relieved, self.engine.substreams.relieved = self.engine.substreams.relieved, []
        try:
            for stream in relieved:
                if self._closing is None:
                    stream.substream.relieved()
        except Exception as error:
            self._callback_failed(error)

    def _arm(self, now: float) -> None:
        """One timer, moved only when it has to come earlier; one that comes too early looks again."""
        at = self.engine.deadline()
        if self._closing is not None:
            at = min(at, self._close_by) if at is not None else self._close_by
        if at is None:
            return
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(TIMER_STEP_S, at - now), self._timer_fired, context=self._context)

    def _timer_fired(self) -> None:
        self._timer = None
        now = self._clock()
        at = self.engine.deadline()
        if at is not None and at <= now + TIMER_SLACK_S:
            try:
                self.engine.handle_timer(max(now, at))
            except Exception as error:
                self._broken(error)
        elif self._closing is None:
            self._arm(now)  # it was moved since
            return
        self.turn()

    # The end

    def _finish(self) -> None:
        """The engine has ended: report why, and let go of everything but what the drain needs."""
        if self.ended:
            return
        self.ended = True
        ending = self.engine.ending
        if self._error is None and self._closing is None and ending is not None:
            self._error = self.dialect.ended(self.peer_address, ending, idle_s=self.engine.idle_timeout_s)
        for handle in (self._timer, self._soon, self._suspicion):
            if handle is not None:
                handle.cancel()
        self._timer = self._soon = self._suspicion = None
        self._drop_all(but=None)
        self._link.ended(self)
        self._report()

    def _report(self) -> None:
        if self.ended and self._receiver is not None and not self._reported:
            self._reported = True
            try:
                self._receiver.on_closed(self._error)
            except Exception as error:
                _log.error("%s: a callback of the session failed", self.local_address, exc_info=error)

    def _drop_all(self, *, but: QuicSubstream | None) -> None:
        """Drop what substreams have queued."""
        for waiting in self._unopened:
            while waiting:
                waiting.pop().lost()
        for stream in list(self.engine.substreams.by_id.values()):
            if stream.substream is not None and stream.substream is not but:
                stream.substream.lost()
        self._outgoing_datagrams.close()


def _cut(reason: str) -> str:
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
