"""EchoStream inside HTTP/3: the dialect that both ends of a WebTransport session speak.

Streams of the session are QUIC streams with a prefix. They go straight to the QUIC plugin's table of substreams, so its
credit, scheduler and pacing hold for them; only HTTP/3's own streams come by here. See docs/webtransport.md for how
EchoStream's wire protocol lies on WebTransport.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from echostream_core.errors import CloseCode, ConnectionLost, EchoStreamError, RemoteProtocolError
from echostream_core.types import Priority
from echostream_core.wire.closing import closed_by_peer
from echostream_quic.connection import QuicConnection
from echostream_quic.dialect import Dialect, Ending
from echostream_quic.frames import varint
from echostream_quic.outgoing import Outgoing
from echostream_quic.substreams import SubstreamState
from echostream_webtransport._errors import Http3Error, StreamError, connection_closed
from echostream_webtransport.capsules import CapsuleReader, close_capsule
from echostream_webtransport.codes import (
    FRAME_SETTINGS,
    FRAME_WEBTRANSPORT,
    H3,
    STREAM_CONTROL,
    STREAM_PUSH,
    STREAM_QPACK_DECODER,
    STREAM_QPACK_ENCODER,
    STREAM_WEBTRANSPORT,
    code_from_wire,
    code_to_wire,
    is_application,
    name_of,
)
from echostream_webtransport.headers import HeaderCodec
from echostream_webtransport.options import WebTransportOptions
from echostream_webtransport.records import read_varint, record
from echostream_webtransport.settings import encode_settings, has_datagrams, local_settings
from echostream_webtransport.streams import (
    ControlStream,
    CriticalStream,
    IgnoredStream,
    OwnStream,
    QpackStream,
    RequestStream,
)

__all__ = ["WebTransport"]

LAST_WORDS_S: Final = 0.05
"""Between the peer's answer to our good-bye and QUIC's. In Chromium 156 a CONNECTION_CLOSE that comes at once overtakes
the news of the capsule: 20 of 400 pages were told "Connection lost." in place of code and reason; with 10 ms none."""
UNI_STREAMS: Final = 16
"""HTTP/3 needs three from its peer; some add one without a meaning, and WebTransport's own are refused."""


class WebTransport(Dialect):
    """What listener and dialer have in common."""

    alpn = "h3"
    uni_streams = UNI_STREAMS
    first_is_control = False
    is_guest = True
    dials = False

    def __init__(self, options: WebTransportOptions) -> None:
        super().__init__()
        self.configure(options)
        self.connection: QuicConnection
        self.session_id: int | None = None
        """The stream of the CONNECT request of our one session, once there is one."""
        self._connect: RequestStream | None = None
        self._capsules = CapsuleReader(self._on_close_capsule)
        self._peers: dict[int, OwnStream] = {}  # kind → the peer's control stream and QPACK's two
        # Streams of a session that wait for it, or until it is known which of them is the control substream.
        self._held: dict[int, tuple[SubstreamState, int]] = {}
        self._control_id: int | None = None
        # Requests that have come before the peer's SETTINGS: unread until those are here.
        self._early: dict[int, SubstreamState] | None = {}
        self._said = False
        self._heard = False

    def configure(self, options: WebTransportOptions) -> None:
        """Go by ``options``; before anything was said."""
        self.options = options
        self.codec = HeaderCodec(options.max_header_bytes)

    # The beginning

    def handshaken(self, connection: QuicConnection) -> None:
        """QUIC's handshake is complete: say what we can do."""
        self.connection = connection
        if connection.engine.one_way_left() < 1:
            self.broken(Http3Error(H3.STREAM_CREATION_ERROR, "no stream for SETTINGS is allowed"))
            return
        state = connection.engine.open_one_way(Outgoing(Priority.NORMAL), connection.now())
        control = CriticalStream(self, self._own(state))
        settings = encode_settings(local_settings(self.options.max_header_bytes))
        control.write(varint(STREAM_CONTROL) + record(FRAME_SETTINGS, settings))

    def _own(self, state: SubstreamState) -> SubstreamState:
        """What HTTP/3 itself says goes before what its guest says, as the control substream does."""
        state.outgoing.priority = Priority.CONTROL
        return state

    def on_settings(self, settings: Mapping[int, int]) -> None:
        """The peer's SETTINGS are here."""
        if not has_datagrams(settings):
            self.connection.without_datagrams()
        early, self._early = self._early or {}, None
        for stream in early.values():
            self.connection.engine.substreams.note_changed(stream)

    def begin_session(self, stream: RequestStream) -> None:
        """``stream`` carries our session from now on."""
        session_id = stream.state.stream_id
        self._connect = stream
        self.session_id = session_id
        self.prefix = varint(FRAME_WEBTRANSPORT) + varint(session_id)
        for held, wanted in list(self._held.values()):
            if wanted != session_id:
                del self._held[held.stream_id]
                IgnoredStream(self, held, H3.WEBTRANSPORT_BUFFERED_STREAM_REJECTED)
        self.datagram_prefix = varint(session_id // 4)

    def started(self, connection: QuicConnection) -> None:
        """The session listens: look again at the streams that came before it."""
        self._look_again()

    # Requests, for those who make and answer them

    def on_headers(self, stream: RequestStream, block: bytes) -> bool:
        """The headers of a request or answer; False when others are to follow."""
        raise NotImplementedError

    def on_body(self, stream: RequestStream, data: bytes) -> None:
        """A part of a request's or answer's body: capsules, on our session's stream."""
        if stream is self._connect:
            self._capsules.feed(data)

    def on_malformed(self, error: StreamError) -> None:
        """A request or answer was not in order: its stream has been given up."""

    def on_over(self, stream: RequestStream, code: int | None) -> None:
        """The peer has ended a request or answer, or (``code``) given it up."""
        if stream is not self._connect:
            return
        if code is not None:
            self._session_over(ConnectionLost(f"{self.connection.peer_address} reset the session: {name_of(code)}"))
        elif self._capsules.in_the_middle:
            self._session_over(ConnectionLost(f"{self.connection.peer_address} ended the session within a capsule"))
        elif not self._heard:
            self._session_over(closed_by_peer(self.connection.peer_address, 0, ""))

    def _on_close_capsule(self, code: int, reason: str) -> None:
        self._session_over(closed_by_peer(self.connection.peer_address, code, reason))

    def _session_over(self, error: EchoStreamError) -> None:
        """The peer has said good-bye. If we had said it before, that was its answer."""
        self._heard = True
        if self._said:
            self.connection.postpone_close(LAST_WORDS_S)
        else:
            self.connection.end_with(H3.NO_ERROR, "", error)

    def broken(self, error: Http3Error) -> None:
        """The peer broke the rules: the connection ends."""
        peer = self.connection.peer_address
        reason = f"{peer} broke the rules of HTTP/3: {name_of(error.code)}: {error.reason}"
        self.connection.end_with(error.code, error.reason, self.failure(reason))

    def failure(self, reason: str) -> EchoStreamError:
        """The error for our side when the peer has broken the rules."""
        return RemoteProtocolError(reason)

    # New streams

    def accept(self, connection: QuicConnection, stream: SubstreamState) -> bool:
        """Find out what a new stream is; True when it has an owner now."""
        try:
            return self._accept(stream)
        except Http3Error as error:
            self.broken(error)
            return False

    def owns(self, stream: SubstreamState) -> bool:
        """While the connection closes, HTTP/3's own streams are still read."""
        return isinstance(stream.substream, OwnStream) or (stream.substream is None and bool(stream.stream_id & 2))

    def _accept(self, stream: SubstreamState) -> bool:
        stream_id = stream.stream_id
        if stream_id in self._held:
            return self._pass_on(stream)
        if self._early is not None and stream_id in self._early:
            return False
        kind = self._pull_varint(stream) if stream_id & 2 else self._pull_prefix(stream)
        if kind is None:
            if stream.ended or stream.reset_code is not None:
                IgnoredStream(self, stream, H3.REQUEST_CANCELLED)
                self._look_again()
                return True
            return False
        if stream_id & 2:
            self._take_one_way(kind, stream)
            return True
        if kind >= 0:
            return self._hold(kind, stream)
        if self.dials:
            raise Http3Error(H3.STREAM_CREATION_ERROR, "a server has opened a request")
        if self._early is not None:
            self._early[stream_id] = stream
            return False
        self._look_again()
        RequestStream(self, self._own(stream))
        return True

    def _pull_prefix(self, stream: SubstreamState) -> int | None:
        """The session that a bidirectional stream belongs to, the prefix being consumed; -1: none, it is a request."""
        data = b"".join(stream.incoming)
        kind = read_varint(data)
        if kind is None:
            return None
        if kind[0] != FRAME_WEBTRANSPORT:
            return -1
        session = read_varint(data, kind[1])
        if session is None:
            return None
        self._consume(stream, data, session[1])
        return session[0]

    def _pull_varint(self, stream: SubstreamState) -> int | None:
        data = b"".join(stream.incoming)
        kind = read_varint(data)
        if kind is None:
            return None
        self._consume(stream, data, kind[1])
        return kind[0]

    def _consume(self, stream: SubstreamState, data: bytes, size: int) -> None:
        stream.incoming = [data[size:]] if len(data) > size else []
        self.connection.consumed(stream, size)

    def _take_one_way(self, kind: int, stream: SubstreamState) -> None:
        """A unidirectional stream of the peer has said what it is."""
        if kind in (STREAM_CONTROL, STREAM_QPACK_ENCODER, STREAM_QPACK_DECODER):
            if kind in self._peers:
                raise Http3Error(H3.STREAM_CREATION_ERROR, "a second stream of a kind of which there is one")
            if kind == STREAM_CONTROL:
                self._peers[kind] = ControlStream(self, stream)
            else:
                feed = self.codec.feed_encoder if kind == STREAM_QPACK_ENCODER else self.codec.feed_decoder
                self._peers[kind] = QpackStream(self, stream, feed)
        elif kind == STREAM_PUSH:
            raise Http3Error(H3.ID_ERROR if self.dials else H3.STREAM_CREATION_ERROR, "a push that was not allowed")
        else:
            # EchoStream has no unidirectional streams, and what is not known has to be let pass.
            ours = kind == STREAM_WEBTRANSPORT
            IgnoredStream(self, stream, code_to_wire(CloseCode.REFUSED) if ours else H3.STREAM_CREATION_ERROR)

    def _hold(self, session_id: int, stream: SubstreamState) -> bool:
        """A stream of a session: ours, or one that may still become ours."""
        if session_id & 3:
            raise Http3Error(H3.ID_ERROR, f"{session_id} cannot be a session")
        if self.session_id is None:
            refused = len(self._held) >= self.options.max_held_streams
        else:
            refused = session_id != self.session_id
        if refused:
            IgnoredStream(self, stream, H3.WEBTRANSPORT_BUFFERED_STREAM_REJECTED)
            self._look_again()
            return True
        self._held[stream.stream_id] = stream, session_id
        return self._pass_on(stream)

    def _pass_on(self, stream: SubstreamState) -> bool:
        """Hand a held stream to the session, if there is one and its control substream is known."""
        connection, stream_id = self.connection, stream.stream_id
        if self.session_id is None or not connection.is_started or connection.is_closing:
            return False
        if self._control_id is None and not self.dials:
            lowest = min(self._held)
            if self._undecided_below(lowest):
                return False
            self._control_id = lowest
            connection.engine.substreams.make_control(self._held[lowest][0])
            if stream_id != lowest:
                self._look_again()
                return False
        del self._held[stream_id]
        if stream_id == self._control_id:
            self._look_again()
        connection.hand_over(stream, control=stream_id == self._control_id)
        return True

    def _undecided_below(self, stream_id: int) -> bool:
        """Whether one of the dialer's streams between the CONNECT request and ``stream_id`` may still be anything."""
        return any(
            state.substream is None and state.stream_id not in self._held
            for state in self.connection.engine.substreams.by_id.values()
            if not state.stream_id & 3 and (self.session_id or 0) < state.stream_id < stream_id
        )

    def _look_again(self) -> None:
        """Something was decided on which streams that are held may have waited."""
        table = self.connection.engine.substreams
        for stream_id in sorted(self._held):
            table.note_changed(self._held[stream_id][0])
        if self._held:
            self.connection.turn_soon()

    # Datagrams and codes

    def datagram(self, data: bytes) -> bytes | None:
        """What stands behind the number of our session; None: it is for another, or for none yet."""
        number = read_varint(data)
        if number is None:
            self.broken(Http3Error(H3.DATAGRAM_ERROR, "a datagram without a stream"))
            return None
        if self.session_id is None or number[0] * 4 != self.session_id:
            if self.connection.datagram_drops is not None:
                self.connection.datagram_drops.early += 1
            return None
        return data[number[1] :]

    def code_out(self, code: int) -> int:
        """A code of ours among HTTP/3's."""
        return code_to_wire(code)

    def code_in(self, code: int) -> int:
        """What an error of HTTP/3 means to us."""
        return code_from_wire(code)

    # The end

    def may_close(self, connection: QuicConnection, code: int, reason: str, *, late: bool) -> bool:
        """Say good-bye in WebTransport's words first, and give the peer the time to read them."""
        if self._connect is None or not connection.is_ready:
            return True
        if not self._said:
            self._said = True
            self._connect.send_data(close_capsule(code, reason), end=True)
            connection.postpone_close()
            return False
        return late

    def farewell(self, code: int, reason: str) -> tuple[int, str]:
        """QUIC's good-bye: an orderly one when the peer has WebTransport's, else our code among HTTP/3's."""
        if self._connect is None or (self._said and self._connect.state.outgoing.finished):
            return H3.NO_ERROR, ""
        return code_to_wire(code), reason

    def ended(self, peer: str, ending: Ending, *, idle_s: float) -> EchoStreamError:
        """Why the session has ended."""
        if ending.by_peer and ending.application:
            return connection_closed(peer, ending)
        return super().ended(peer, ending, idle_s=idle_s)


def is_orderly(ending: Ending) -> bool:
    """Whether HTTP/3 was left without an error."""
    return ending.application and (ending.code == H3.NO_ERROR or is_application(ending.code))
