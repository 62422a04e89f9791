"""Datagrams of one session: the verbs, the way in and out, and the counters.

A datagram is two bytes of channel and the payload, handed to the connection as it is: what waits, expires and is
dropped there is the transport's business (docs/decisions/0013-datagrams.md). What arrives is given to its channel's
function at once, so nothing is kept here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from echostream_core.engine.datagram_handlers import DatagramHandler, check_channel, compile_datagram_handler
from echostream_core.engine.muxed import MuxedConnection
from echostream_core.errors import CallError, ConfigError, EchoStreamError, StatusCode
from echostream_core.types import Buffer
from echostream_core.wire.datagrams import CHANNEL_BYTES, FIRST_CHANNEL, LAST_CHANNEL, DatagramDrops
from echostream_core.wire.setup import DATAGRAMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from echostream_core.engine.session import Session
    from echostream_core.transport import Substream, SubstreamReceiver
    from echostream_core.wire.setup import Setup

__all__ = ["DatagramVerbs", "SessionDatagrams"]

_logger: Final = logging.getLogger("echostream.datagrams")


class SessionDatagrams:
    """``session.datagrams``: how many were sent, received and dropped, and how large they may be."""

    # It is also what the connection calls: the session's own on_datagram is a verb of the application.
    __slots__ = ("_handlers", "_session", "dropped", "received", "sent")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._handlers: dict[int, DatagramHandler] = dict(session.pipeline.datagram_handlers)
        self.sent = 0
        """Datagrams that ``send_datagram`` has taken, those that were dropped later included."""
        self.received = 0
        """Datagrams that were given to a function."""
        drops = session.connection.datagram_drops
        self.dropped: DatagramDrops = DatagramDrops() if drops is None else drops
        """Those that were dropped at this end, in both directions, by reason."""

    def __repr__(self) -> str:
        return f"<SessionDatagrams sent={self.sent} received={self.received} {self.dropped}>"

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload right now; it changes with the path. 0 where there are no datagrams."""
        return max(0, self._session.connection.max_datagram_size() - CHANNEL_BYTES)

    # -- ours

    def send(self, channel: int, payload: Buffer, expires_after: float | None) -> bool:
        """See ``Session.send_datagram``."""
        session = self._session
        if not (type(channel) is int and FIRST_CHANNEL <= channel <= LAST_CHANNEL):
            check_channel(channel)
        if not isinstance(payload, (bytes, bytearray)):
            payload = _octets(payload)
        expires_at = None
        if expires_after is not None:
            if not expires_after > 0:
                raise ConfigError(f"expires_after must be above 0 seconds, or None for never, not {expires_after!r}")
            expires_at = session.loop.time() + expires_after
        if session.disconnected:
            raise session.closed_error()
        kept = session.connection.send_datagram((channel.to_bytes(CHANNEL_BYTES, "little"), payload), expires_at)
        self.sent += 1
        return kept

    # -- the peer's

    def listen(self, channel: int, handler: DatagramHandler) -> Callable[[], None]:
        """Give the channel's datagrams to ``handler``; the answer ends that. ConfigError when another has them."""
        if channel in self._handlers:
            raise ConfigError(f"channel {channel}: another function takes its datagrams; end that first")
        self._handlers[channel] = handler
        return lambda: self.forget(channel, handler)

    def forget(self, channel: int, handler: DatagramHandler) -> None:
        """Give ``handler`` the channel's datagrams no more. Idempotent."""
        if self._handlers.get(channel) is handler:
            del self._handlers[channel]

    def add(self, handlers: Mapping[int, DatagramHandler]) -> None:
        """More of the endpoint's handlers; a function of this session keeps its channel."""
        for channel, handler in handlers.items():
            self._handlers.setdefault(channel, handler)

    # -- SETUP

    @property
    def capabilities(self) -> int:
        """What our SETUP says of them."""
        connection = self._session.connection
        return DATAGRAMS if isinstance(connection, MuxedConnection) and connection.datagrams_open else 0

    def on_setup(self, setup: Setup) -> None:
        """The peer's SETUP says whether it takes emulated ones."""
        connection = self._session.connection
        if isinstance(connection, MuxedConnection):
            connection.settle_datagrams(peer_takes_them=bool(setup.capabilities & DATAGRAMS))

    # -- what the connection calls

    def on_substream(self, substream: Substream) -> SubstreamReceiver:
        """The peer opened a substream."""
        return self._session.on_substream(substream)

    def on_datagram(self, data: Buffer) -> None:
        """One datagram of the peer. Nothing in it can break a rule: it is given to a function, or counted."""
        session = self._session
        if not session.accepted:
            self.dropped.early += 1
        elif len(data) < CHANNEL_BYTES:
            self.dropped.malformed += 1
        else:
            channel = data[0] | data[1] << 8
            handler = self._handlers.get(channel)
            if handler is not None:
                self.received += 1
                self._hand_over(channel, handler, bytes(data[CHANNEL_BYTES:]))
            elif channel < FIRST_CHANNEL:
                self.dropped.reserved += 1
            else:
                self.dropped.unheard += 1

    def on_closed(self, error: EchoStreamError | None) -> None:
        """The connection is gone."""
        self._session.on_closed(error)

    def _hand_over(self, channel: int, handler: DatagramHandler, payload: bytes) -> None:
        session = self._session
        try:
            if handler.takes_session:
                handler.function(payload, session)
            else:
                handler.function(payload)
        except Exception:  # the application's own code: it concerns one datagram, not the connection
            _logger.exception("%s: the function for datagrams of channel %d failed", session.peer, channel)


class DatagramVerbs:
    """The session's verbs for datagrams."""

    __slots__ = ()

    datagrams: SessionDatagrams

    def send_datagram(self, channel: int, payload: Buffer, *, expires_after: float | None = None) -> bool:
        """Send one datagram on ``channel`` (256 to 65,535): it arrives once, whole, or not at all, and perhaps late.

        Nothing waits: it goes when there is room, unless ``expires_after`` seconds are over then. False when the
        bounded queue was full and has dropped an older one for it. Raises CapabilityError where the connection has no
        datagrams, LimitExceeded beyond ``datagrams.max_payload_bytes`` (nothing is cut up), Disconnected after the
        end, ConfigError for a reserved channel, CallError for a payload that is not bytes.
        """
        return self.datagrams.send(channel, payload, expires_after)

    def on_datagram(self, channel: int, callback: Callable[..., object]) -> Callable[[], None]:
        """Have ``callback(payload)`` or ``callback(payload, session)`` called for each of the peer's datagrams.

        A plain function, called on the event loop as they arrive. Calling the answer ends it. ConfigError for a
        reserved channel, one that has a function already, or a callback that cannot be called so.
        """
        check_channel(channel)
        return self.datagrams.listen(channel, compile_datagram_handler(channel, callback))


def _octets(payload: object) -> memoryview:
    """Any other bytes-like object as a view of its bytes."""
    try:
        view = memoryview(payload)  # type: ignore[arg-type]  # that is what is tried
        return view if view.itemsize == 1 and view.ndim == 1 else view.cast("B")
    except TypeError as error:
        kind = type(payload).__name__
        text = f"a datagram carries bytes, not {kind} as it is: encode it first"
        raise CallError(StatusCode.INVALID_ARGUMENT, text, not_processed=True) from error
