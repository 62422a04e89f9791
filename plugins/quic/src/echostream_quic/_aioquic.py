"""The border to aioquic: the one module that reaches into its private parts.

:class:`Engine` is aioquic's sans-I/O connection with four things replaced, and the rest (TLS, handshake,
loss recovery, congestion control, migration, the rare frames) left as it is:

* **Credit.** aioquic grants on receipt and doubles by itself. Here ``flow.py`` decides, by what was consumed.
* **Sending of application data.** aioquic walks all open streams for every packet and queues without bound.
  Here each packet asks the scheduler of ``outgoing.py``, and is built directly, without aioquic's builder.
* **Receiving of application data.** Packets under the established keys are opened in batches, and the bytes
  of one batch reach a substream in one piece.
* **Pacing.** See ``pacing.py``.

Every private name that is touched stands in ``PRIVATE``; ``tests/test_aioquic_contract.py`` checks that
aioquic still has them, that this module touches no other, and that the methods that are replaced are still
called as they were. A failure there means: read aioquic's changes before raising the version bound in
``pyproject.toml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aioquic.buffer import UINT_VAR_MAX, Buffer  # type: ignore[attr-defined]  # it is re-exported without __all__
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicConnectionState
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicStreamFrame,
    decode_packet_number,
    push_ack_frame,
)
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import FinalSizeError, StreamFinishedError
from aioquic.tls import Epoch
from cryptography.exceptions import InvalidTag

from echostream_core.types import Priority
from echostream_quic import frames
from echostream_quic._errors import Ending
from echostream_quic.options import MIN_DATAGRAM_BYTES, QuicOptions
from echostream_quic.outgoing import Outgoing
from echostream_quic.pacing import Pacer
from echostream_quic.packets import LEAST_PACKET_BYTES, OVERHEAD_BYTES, PacketBatch
from echostream_quic.pathsize import BLACK_HOLE_TIMEOUTS, PathSize
from echostream_quic.replacements import PacketContext, QuietLog, RttMonitor, SentPacket
from echostream_quic.substreams import LEAST_ROOM_BYTES, Handlers, Substreams, SubstreamState

__all__ = ["PRIVATE", "Engine"]

PRIVATE: Final = {
    "QuicConnection": """
        _QuicConnection__frame_handlers _ack_delay _ack_eliciting_sent_since_receipt _assert_stream_can_receive
        _assert_stream_can_send _close_at _close_event _close_pending _confirm_handshake _crypto_buffers
        _crypto_streams _cryptos _events _get_or_create_stream _handle_connection_close_frame _handle_max_data_frame
        _handle_max_stream_data_frame _handle_reset_stream_frame _handle_stop_sending_frame _handle_stream_frame
        _handshake_complete _handshake_confirmed _handshake_done_pending _host_cids _idle_timeout _initialize
        _is_client _local_ack_delay_exponent _local_max_data _local_max_stream_data_bidi_local
        _local_max_stream_data_bidi_remote _local_max_stream_data_uni _local_max_streams_bidi _local_max_streams_uni
        _local_next_stream_id_bidi _logger _loss _loss_at _max_datagram_size _network_paths _on_ack_delivery
        _on_new_connection_id_delivery _pacing_at _packet_number _payload_received _peer_cid _ping_pending
        _probe_pending _remote_max_data _remote_max_data_used _remote_max_datagram_frame_size
        _remote_max_stream_data_bidi_local _remote_max_stream_data_bidi_remote _remote_max_streams_bidi
        _replenish_connection_ids _retire_connection_ids _send_probe _spaces _spin_bit _state _stream_is_discarded
        _streams _unblock_streams _write_ack_frame _write_connection_limits _write_stream_limits""",
    "QuicPacketRecovery": "_cc _logger _pacer _pto_count _rtt_min _rtt_smoothed "
    "_time_of_last_sent_ack_eliciting_packet",
    "QuicCongestionControl": "_max_datagram_size _rtt_monitor",
    "CryptoPair": "_update_key _update_key_requested",
    "AEAD": "_aead _iv",
    "HeaderProtection": "_encryptor _is_chacha20 _mask",
    "QuicStreamReceiver": "_buffer _buffer_start _final_size _ranges",
    "Context": "_peer_certificate",
}
"""Every private name of aioquic that this module touches, by the class that has it."""

MAX_PACKETS_PER_TURN: Final = 88
"""How many packets one turn of the loop may build, two full system calls; then it looks at what has arrived."""
ACKNOWLEDGE_EVERY: Final = 8
"""Packets after which an acknowledgement goes out with the next packets, or at the end of the batch. RFC 9000 section
13.2.2 advises two, and allows more where acknowledging is a burden: here it is a sixth of the work for small calls.
Two holds for the beginning, when the peer's window is small, and a gap is told at once."""
BEGINNING_PACKETS: Final = 100
ACK_DELAY_S: Final = 0.005
"""How long a single packet may wait for its acknowledgement: well below the 25 ms that aioquic announces."""
ACK_FRAME_BYTES: Final = 640
"""Room for all the ranges that aioquic keeps, in ordinary networks; ``push_ack_frame`` leaves out the oldest else."""
PROBES_PER_TIMEOUT: Final = 2
"""Packets that go out when acknowledgements fail to come. RFC 9002 section 6.2.4 allows two; with aioquic's one, a
path that loses every fifth packet each way was given up as idle now and then."""
PACKETS_PER_KEY: Final = 1 << 22
"""AES-GCM is safe for 2**23 packets under one key (RFC 9001 section 6.6); aioquic does not count them."""
BEFORE_START_BYTES: Final = 2_097_152
"""What a peer may send in all until somebody listens: the control window and a few substreams."""
SPENT_CRYPTO_BYTES: Final = 64
"""What is left of the buffers for handshake messages once it is over."""
MAX_GAPS: Final = 1_024
"""Pieces of one substream that may lie behind gaps. A megabyte has 700 packets; beyond this somebody wants to see us
sort (each piece costs aioquic time in proportion to those before it)."""

_ACKED: Final = QuicDeliveryState.ACKED
_ONE_RTT: Final = Epoch.ONE_RTT
_EPOCHS: Final[dict[frozenset[Epoch], frozenset[Epoch]]] = {}
_BYTE: Final = tuple(bytes((value,)) for value in range(256))
_END_STATES: Final = (QuicConnectionState.CLOSING, QuicConnectionState.DRAINING, QuicConnectionState.TERMINATED)


class Engine(QuicConnection):
    """One QUIC connection without I/O, its time an argument.

    The owner feeds ``receive``, then takes ``changed``, ``datagrams_received`` and aioquic's events, and
    calls ``transmit`` once per turn; it re-arms its timer to ``get_timer``.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        options: QuicOptions,
        *,
        now: float,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._options = options
        self._now = now
        self.substreams = Substreams(
            options, dials=self._is_client, max_data=self._local_max_data, max_streams=self._local_max_streams_bidi
        )
        self.opening = False
        """The peer lets us open more substreams than before."""
        self.closed_by_peer = False
        self.undecryptable = 0
        """Packets that belonged to no key of ours."""
        self._to_acknowledge = 0
        self._sealed = 0
        self._cids_due = False
        self._probes = 0
        self._path_size = PathSize(options.max_datagram_size)
        self._sized_path: Any = None
        self._streams = self.substreams.by_id  # type: ignore[assignment]  # ours stand in for QuicStream
        self._replace_parts(options)

    def _replace_parts(self, options: QuicOptions) -> None:
        """Put our parts in the place of aioquic's, before anything is sent."""
        self._logger = self._loss._logger = QuietLog()  # type: ignore[assignment]  # same methods
        self._ack_delay = ACK_DELAY_S
        self._loss._pacer = self._pacer = Pacer(max_datagram_size=self._max_datagram_size)  # type: ignore[assignment]  # same methods
        self._loss._cc._rtt_monitor = RttMonitor()  # type: ignore[attr-defined]  # both controllers have one
        self._local_max_data.value = self._local_max_data.sent = min(BEFORE_START_BYTES, self.substreams.session.limit)
        self._local_max_stream_data_bidi_local = options.window_bytes
        self._local_max_stream_data_bidi_remote = options.window_bytes
        self._local_max_stream_data_uni = 0
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = options.max_streams
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = 0

        # aioquic makes a new set of epochs for each of its 33 frame types: 7 KiB per connection.
        handlers: Any = self._QuicConnection__frame_handlers  # type: ignore[attr-defined]  # its real, mangled name
        for frame_type, (handler, epochs) in handlers.items():
            handlers[frame_type] = handler, _EPOCHS.setdefault(epochs, epochs)

    # What the owner asks

    @property
    def established(self) -> bool:
        """The handshake is complete and nobody has ended the connection."""
        return self._handshake_complete and self._close_event is None

    @property
    def begun(self) -> bool:
        """A packet came that could be decrypted."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def ending(self) -> Ending | None:
        """How the connection ends or has ended; None while it lives."""
        event = self._close_event
        if event is None:
            return None
        return Ending(event.error_code, event.frame_type is None, event.reason_phrase, self.closed_by_peer)

    @property
    def close_unsent(self) -> bool:
        """CONNECTION_CLOSE is still to be sent."""
        return self._close_pending

    @property
    def close_at(self) -> float | None:
        """When the idle timeout, or the closing or draining period, ends."""
        return self._close_at

    @property
    def idle_timeout_s(self) -> float:
        """The silence after which the connection is lost, as both ends agreed."""
        return self._idle_timeout()

    @property
    def peer_certificate(self) -> Any:
        """The certificate that the peer has shown and proved to own, or None."""
        return self.tls._peer_certificate

    @property
    def rtt(self) -> float:
        """Smoothed round trip time in seconds; 0.0 before the first measurement."""
        return self._loss._rtt_smoothed

    @property
    def least_rtt(self) -> float:
        """The path's own round trip time in seconds, without what stands in queues; 0.3 ms at the least, for aioquic
        measures nothing below 1 ms.
        """
        return min(self._loss._rtt_min, 1.0) - 0.0007

    @property
    def heard_at(self) -> float:
        """When the last packet of the established connection came; 0.0 before."""
        return self._space.largest_received_time or 0.0

    @property
    def packet_bytes(self) -> int:
        """The UDP payload that packets may have now."""
        return self._max_datagram_size

    def max_datagram_size(self) -> int:
        """The largest datagram that fits one packet now; 0 when the peer takes none."""
        announced = self._remote_max_datagram_frame_size
        if not announced:
            return 0
        return max(0, min(announced, self._max_datagram_size - OVERHEAD_BYTES) - 3)

    # What the owner does

    def streams_left(self) -> int:
        """How many substreams the peer lets us open now."""
        return self._remote_max_streams_bidi - self._local_next_stream_id_bidi // 4

    def open_substream(self, outgoing: Outgoing, now: float) -> SubstreamState:
        """Give ``outgoing`` a substream of ours; only while ``streams_left``."""
        stream_id = self._local_next_stream_id_bidi
        self._local_next_stream_id_bidi = stream_id + 4
        outgoing.credit = self._remote_max_stream_data_bidi_remote
        return self.substreams.add(stream_id, outgoing, now)

    def receive(self, datagrams: Sequence[bytes], addr: Any, now: float) -> None:
        """Take the datagrams of one wake-up. Never raises for what a peer sent."""
        self._now = now
        if self._close_event is not None:
            return
        path = self._network_paths[0] if self._network_paths else None
        if (
            path is None
            or path.addr != addr
            or not path.is_validated
            or not self._handshake_complete
            or self._pair.recv.hp is None
        ):
            for data in datagrams:
                self.receive_datagram(data, addr, now)
            return
        self._receive_batch(datagrams, addr, now)

    def transmit(self, now: float) -> list[tuple[bytes, Any]]:
        """What to send now, with addresses. Call it once per turn, then look at ``get_timer``."""
        self._now = now
        if not self._network_paths or self._state in _END_STATES:
            return []
        if self._has_rare_frames():
            sent: list[tuple[bytes, Any]] = self.datagrams_to_send(now)
            self._cids_due = not all(cid.was_sent for cid in self._host_cids)
        else:
            self._pacing_at = None
            sent = []
        if self._handshake_complete and self._close_event is None:
            self._watch_path(now)
            self._send_packets(sent, now)
        return sent

    def deadline(self) -> float | None:
        """When ``handle_timer`` or ``transmit`` is to be called next: ``get_timer``, done cheaply where it can be."""
        if not self._handshake_confirmed or self._state in _END_STATES or not self._network_paths[0].is_validated:
            return self.get_timer()
        space, loss = self._space, self._loss
        at: float = self._close_at  # type: ignore[assignment]  # set since the first packet
        if space.ack_at is not None and space.ack_at < at:
            at = space.ack_at
        if self._pacing_at is not None and self._pacing_at < at:
            at = self._pacing_at
        lost_at = space.loss_time
        if lost_at is None and space.ack_eliciting_in_flight:
            patience = loss.get_probe_timeout() * (1 << loss._pto_count)
            lost_at = loss._time_of_last_sent_ack_eliciting_packet + patience
        self._loss_at = lost_at
        return lost_at if lost_at is not None and lost_at < at else at

    def has_more(self, now: float) -> bool:
        """``transmit`` stopped only because it had built enough for one turn."""
        return (
            self._pacing_at is None
            and self.substreams.waiting
            and self._close_event is None
            and self._handshake_complete
            and self._network_paths[0].is_validated
            and self._loss._cc.congestion_window - self._loss._cc.bytes_in_flight >= self._max_datagram_size
            and self._pacer.allowance(now) > 0
        )

    # Receiving

    def _receive_batch(self, datagrams: Sequence[bytes], addr: Any, now: float) -> None:
        """Packets with short headers from the active path, under the established keys; the others one by one."""
        recv, space = self._pair.recv, self._space
        received = space.received_packets
        masks = _masks(recv.hp, [data[13:29].ljust(16, b"\0") for data in datagrams])
        context = PacketContext(self.host_cid, self._network_paths[0], now)
        at = -16
        opened = False
        for data in datagrams:
            at += 16
            first = data[0] ^ (masks[at] & 0x1F) if data else 0
            if (
                len(data) < LEAST_PACKET_BYTES
                or first & 0xD8 != 0x40
                or data[1:9] != self.host_cid
                or (first >> 2) & 1 != recv.key_phase
            ):
                self.receive_datagram(data, addr, now)
                if self._close_event is not None:
                    return
                continue
            length = (first & 3) + 1
            end = 9 + length
            shown = int.from_bytes(data[9:end]) ^ int.from_bytes(masks[at + 1 : at + 1 + length])
            expected = space.expected_packet_number
            number = decode_packet_number(shown, length * 8, expected)
            if number in received:
                continue
            aead = recv.aead
            try:
                plain = aead._aead.decrypt(
                    (aead._iv ^ number).to_bytes(12), data[end:], _BYTE[first] + data[1:9] + shown.to_bytes(length)
                )
            except InvalidTag:
                self.undecryptable += 1
                continue
            if number != expected:
                self._to_acknowledge += ACKNOWLEDGE_EVERY  # a gap, or what fills one: the peer should know at once
            if number >= expected:
                space.expected_packet_number = number + 1
            opened = True
            try:
                eliciting = self._read_stream_packet(plain) or self._payload_received(context, plain)[0]  # type: ignore[arg-type]  # same attributes
            except QuicConnectionError as error:
                self._logger.info("%s", error)
                self.close(error_code=error.error_code, frame_type=error.frame_type, reason_phrase=error.reason_phrase)
            if self._close_event is not None:
                return
            self._note_received(space, number, now, eliciting=eliciting)
        if opened:
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = False

    def _note_received(self, space: QuicPacketSpace, number: int, now: float, *, eliciting: bool) -> None:
        if number > space.largest_received_packet:
            space.largest_received_packet = number
            space.largest_received_time = now
        space.ack_queue.add(number)
        space.received_packets.add(number)
        if len(space.ack_queue) > MAX_ACK_RANGES:
            space.ack_queue.shift()
        if eliciting:
            self._to_acknowledge += 1
            if space.ack_at is None:
                space.ack_at = now + ACK_DELAY_S

    def _read_stream_packet(self, plain: bytes) -> bool:
        """Read a packet that holds one STREAM frame and nothing else, as bulk does; False: read it frame by frame."""
        frame = frames.read_stream(plain)
        if frame is None:
            return False
        frame_type, stream_id, offset, data = frame
        try:
            self._take_stream_data(frame_type, stream_id, offset, data)
        except StreamFinishedError:
            pass  # it is over, and what comes late is ignored
        return True

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> SubstreamState:  # type: ignore[override]  # stands in for QuicStream
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream  # type: ignore[return-value]  # only ours are in there
        if self._stream_is_discarded(stream_id):
            raise StreamFinishedError
        if bool(stream_id & 1) != self._is_client:
            raise QuicConnectionError(QuicErrorCode.STREAM_STATE_ERROR, frame_type, "Wrong stream initiator")
        limit = self._local_max_streams_bidi
        count = stream_id // 4 + 1
        if stream_id & 2 or count > limit.value:
            raise QuicConnectionError(QuicErrorCode.STREAM_LIMIT_ERROR, frame_type, "Too many streams open")
        # Opening a stream opens all lower ones too (RFC 9000 section 2.1).
        for new_id in range(limit.used * 4 + (stream_id & 1), stream_id + 1, 4):
            outgoing = Outgoing(Priority.CONTROL if new_id == 0 else Priority.NORMAL)
            outgoing.credit = self._remote_max_stream_data_bidi_local
            state = self.substreams.add(new_id, outgoing, self._now)
        limit.used = count
        return state

    def _handle_stream_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        stream_id = buf.pull_uint_var()
        offset = buf.pull_uint_var() if frame_type & 4 else 0
        size = buf.pull_uint_var() if frame_type & 2 else buf.capacity - buf.tell()
        self._take_stream_data(frame_type, stream_id, offset, buf.pull_bytes(size))

    def _take_stream_data(self, frame_type: int, stream_id: int, offset: int, data: bytes) -> None:
        """Check one STREAM frame as aioquic does, and pass on what is in order."""
        end = offset + len(data)
        if end > UINT_VAR_MAX:
            raise QuicConnectionError(QuicErrorCode.FRAME_ENCODING_ERROR, frame_type, "offset is over 2^62 - 1")
        stream: Any = self._streams.get(stream_id)
        if stream is None:
            self._assert_stream_can_receive(frame_type, stream_id)
            stream = self._get_or_create_stream(frame_type, stream_id)
        receiver = stream.receiver
        if end > stream.window.granted:
            raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, frame_type, "Over stream data limit")
        new = end - receiver.highest_offset
        if new > 0:
            limit = self._local_max_data
            if limit.used + new > limit.value:
                raise QuicConnectionError(QuicErrorCode.FLOW_CONTROL_ERROR, frame_type, "Over connection data limit")
            limit.used += new
        if (
            offset == receiver._buffer_start
            and data
            and not receiver._buffer
            and receiver._final_size is None
            and not receiver.is_finished
        ):
            receiver._buffer_start = receiver.highest_offset = end
            if frame_type & 1:
                receiver._final_size = end
                receiver.is_finished = True
            self.substreams.arrived(stream, data, ended=bool(frame_type & 1))
            return
        try:
            event = receiver.handle_frame(QuicStreamFrame(offset=offset, data=data, fin=bool(frame_type & 1)))
        except FinalSizeError as error:
            raise QuicConnectionError(QuicErrorCode.FINAL_SIZE_ERROR, frame_type, str(error)) from error
        if event is not None:
            self.substreams.arrived(stream, event.data, ended=event.end_stream)
        if len(receiver._ranges) > MAX_GAPS:
            raise QuicConnectionError(QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "Too many gaps in a stream")

    def _handle_reset_stream_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        super()._handle_reset_stream_frame(context, frame_type, buf)
        # aioquic has checked everything and tells of it by an event; the substream takes it from here.
        if self._events and isinstance(self._events[-1], events.StreamReset):
            event: Any = self._events.pop()
            state: Any = self._streams[event.stream_id]
            state.receiver._buffer = bytearray()
            self.substreams.reset_arrived(state, event.error_code, state.receiver.highest_offset)

    def _handle_stop_sending_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        stream_id = buf.pull_uint_var()
        code = buf.pull_uint_var()
        self._assert_stream_can_send(frame_type, stream_id)
        self.substreams.stop_arrived(self._get_or_create_stream(frame_type, stream_id), code)

    def _handle_max_stream_data_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        stream_id = buf.pull_uint_var()
        credit = buf.pull_uint_var()
        self._assert_stream_can_send(frame_type, stream_id)
        self.substreams.credit_arrived(self._get_or_create_stream(frame_type, stream_id), credit)

    def _handle_max_data_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        super()._handle_max_data_frame(context, frame_type, buf)
        self.substreams.session_credit_arrived()

    def _handle_connection_close_frame(self, context: Any, frame_type: int, buf: Buffer) -> None:
        living = self._close_event is None
        super()._handle_connection_close_frame(context, frame_type, buf)
        self.closed_by_peer = self.closed_by_peer or (living and self._close_event is not None)

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        self.opening = self.opening or not is_unidirectional

    def _confirm_handshake(self) -> None:
        super()._confirm_handshake()
        # Nothing but session tickets would come now, and we ask for none: 48 KiB per connection.
        self._crypto_buffers = {epoch: Buffer(capacity=SPENT_CRYPTO_BYTES) for epoch in self._crypto_buffers}

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        # Looking these up by epoch, an enum, costs as much as sending a small packet.
        self._pair: Any = self._cryptos[_ONE_RTT]
        self._space: QuicPacketSpace = self._spaces[_ONE_RTT]
        self._late_crypto: Any = self._crypto_streams[_ONE_RTT].sender

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._cids_due = True

    def _on_new_connection_id_delivery(self, delivery: QuicDeliveryState, connection_id: Any) -> None:
        super()._on_new_connection_id_delivery(delivery, connection_id)
        self._cids_due = True

    # Sending

    def _has_rare_frames(self) -> bool:
        """Whether aioquic's own writer is needed: for the handshake, the close, connection ids, paths and new keys."""
        path = self._network_paths[0]
        return (
            not self._handshake_confirmed
            or self._close_pending
            or self._handshake_done_pending
            or bool(self._ping_pending)
            or bool(self._retire_connection_ids)
            or bool(path.remote_challenges)
            or not (path.is_validated or path.local_challenge_sent)
            or self._cids_due
            or not self._late_crypto.buffer_is_empty
            or (
                len(self._network_paths) > 1
                and any(
                    other.remote_challenges or not (other.is_validated or other.local_challenge_sent)
                    for other in self._network_paths[1:]
                )
            )
        )

    def _write_connection_limits(self, builder: Any, space: QuicPacketSpace) -> None:
        """Aioquic's writer leaves the limits to ours."""

    def _write_stream_limits(self, builder: Any, space: QuicPacketSpace, stream: Any) -> None:
        """Aioquic's writer leaves the limits to ours."""

    def _write_ack_frame(self, builder: Any, space: QuicPacketSpace, now: float) -> None:
        super()._write_ack_frame(builder, space, now)
        if space.is_application_data:
            self._to_acknowledge = 0

    def _send_packets(self, sent: list[tuple[bytes, Any]], now: float) -> None:
        """Build packets of application data, as many as pacing, congestion and one turn allow."""
        pair, space = self._pair, self._space
        if pair.send.aead is None:
            return
        if pair._update_key_requested:
            pair._update_key("local_update")
        path = self._network_paths[0]
        substreams, pacer = self.substreams, self._pacer
        packet_bytes, most = self._max_datagram_size, self.max_datagram_size()
        prefix = _BYTE[0x41 | self._spin_bit << 5 | pair.key_phase << 2] + self._peer_cid.cid
        packets = PacketBatch(prefix, pair.send.aead._iv, pair.send.aead._aead.encrypt)
        room_bytes = packet_bytes - packets.overhead
        window = self._loss._cc.congestion_window - self._loss._cc.bytes_in_flight
        acknowledge_every = ACKNOWLEDGE_EVERY if space.expected_packet_number > BEGINNING_PACKETS else 2
        tokens = pacer.allowance(now)
        spent = 0
        while len(packets.bodies) < MAX_PACKETS_PER_TURN:
            probe = self._probe_pending
            room = room_bytes
            if not path.is_validated:
                room = min(room, 3 * path.bytes_received - path.bytes_sent - packets.overhead)
                if room < LEAST_ROOM_BYTES:
                    break
            pieces: list[bytes] = []
            handlers: Handlers = []
            if space.ack_at is not None and (self._to_acknowledge >= acknowledge_every or space.ack_at <= now):
                room -= self._add_ack(pieces, handlers, space, now)
            acknowledging = len(pieces)
            if probe or (window >= packet_bytes and tokens > 0):
                if acknowledging and len(space.ack_queue) > 1 and self._packet_number % 8 == 0:
                    # Or the peer never acknowledges our acknowledgements, and the ranges are never forgotten.
                    pieces.append(frames.PING)
                    room -= 1
                self._remote_max_data_used += substreams.fill(
                    pieces, handlers, room, self._remote_max_data - self._remote_max_data_used, most=most
                )
            if probe:
                self._probes -= 1
                self._probe_pending = self._probes > 0
                if len(pieces) == acknowledging:
                    pieces.append(frames.PING)
            if not pieces:
                break
            size = packets.seal(self._packet_number, b"".join(pieces))
            eliciting = len(pieces) > acknowledging
            self._register(SentPacket(self._packet_number, now, size, eliciting, handlers), space)
            self._packet_number += 1
            path.bytes_sent += size
            if not eliciting:
                break
            window -= size
            tokens -= size
            spent += size
            if size < packet_bytes - LEAST_ROOM_BYTES and not (self._probe_pending or substreams.datagrams.waiting):
                break  # it had room left, so there is nothing more
        pacer.spend(spent)
        if window >= packet_bytes and substreams.waiting:
            self._pacing_at = pacer.next_send_time(now)
        probe_size = self._path_size.wanted(now) if self._handshake_confirmed and path.is_validated else 0
        if probe_size:
            self._add_size_probe(packets, probe_size, space, now)
        if packets.bodies:
            packets.protect(_masks(pair.send.hp, packets.samples()), path.addr, sent)
        self._sealed += len(packets.bodies)
        if self._sealed > PACKETS_PER_KEY:
            self._sealed = 0
            self.request_key_update()

    def _send_probe(self) -> None:
        super()._send_probe()
        self._probes = PROBES_PER_TIMEOUT

    def _register(self, packet: SentPacket, space: QuicPacketSpace) -> None:
        """Tell loss recovery and the congestion controller, as aioquic's ``_flush_builder`` does."""
        loss, now = self._loss, packet.sent_time
        space.sent_packets[packet.packet_number] = packet  # type: ignore[assignment]  # same attributes
        if packet.is_ack_eliciting:
            space.ack_eliciting_in_flight += 1
            if self._handshake_confirmed:
                loss._time_of_last_sent_ack_eliciting_packet = now
            if not self._ack_eliciting_sent_since_receipt:
                self._close_at = now + self._idle_timeout()
                self._ack_eliciting_sent_since_receipt = True
        if packet.in_flight:
            loss._cc.on_packet_sent(packet=packet)  # type: ignore[arg-type]  # same attributes

    def _add_size_probe(self, packets: PacketBatch, size: int, space: QuicPacketSpace, now: float) -> None:
        """A packet of ``size`` bytes, to see whether the path carries it. Its loss is no sign of congestion."""
        self._path_size.on_way = True
        payload = frames.PING.ljust(size - packets.overhead, b"\0")
        packets.seal(self._packet_number, payload)
        packet = SentPacket(self._packet_number, now, size, True, [(self._on_size_probe, (size,))])
        packet.in_flight = False
        self._register(packet, space)
        self._packet_number += 1

    def _on_size_probe(self, delivery: QuicDeliveryState, size: int) -> None:
        if delivery is _ACKED:
            self._path_size.carried(size)
            self._resize()
        else:
            self._path_size.lost(size)

    def _resize(self) -> None:
        """Packets have the path's size from now on."""
        size = self._max_datagram_size = self._path_size.size
        self._pacer.resize(size)
        controller: Any = self._loss._cc
        controller._max_datagram_size = size

    def _watch_path(self, now: float) -> None:
        """Back to small packets on another path, and on one that seems to swallow large ones."""
        path = self._network_paths[0]
        if path is not self._sized_path:
            if self._sized_path is not None:
                self._path_size.begin_again(now, suspect=False)
                self._resize()
            self._sized_path = path
        elif self._loss._pto_count >= BLACK_HOLE_TIMEOUTS and self._path_size.size > MIN_DATAGRAM_BYTES:
            self._path_size.begin_again(now, suspect=True)
            self._resize()

    def _add_ack(self, pieces: list[bytes], handlers: Handlers, space: QuicPacketSpace, now: float) -> int:
        """Add an ACK frame; its size."""
        ranges = space.ack_queue
        received_at = space.largest_received_time or now
        delay = int((now - received_at) * 1_000_000) >> self._local_ack_delay_exponent
        last = ranges[-1]
        if len(ranges) == 1:
            piece = frames.frame(frames.ACK, last.stop - 1, delay, 0, last.stop - 1 - last.start)
        else:
            buf = Buffer(capacity=ACK_FRAME_BYTES)
            buf.push_uint_var(frames.ACK)
            push_ack_frame(buf, ranges, delay, ACK_FRAME_BYTES - 8)
            piece = buf.data
        pieces.append(piece)
        handlers.append((self._on_ack_delivery, (space, space.largest_received_packet)))
        space.ack_at = None
        self._to_acknowledge = 0
        return len(piece)


def _masks(protection: Any, samples: Sequence[bytes]) -> bytes:
    """Sixteen bytes of mask per sample: AES takes them all at once, ChaCha20 one by one."""
    if protection._is_chacha20:
        return b"".join([protection._mask(sample).ljust(16, b"\0") for sample in samples])
    masks: bytes = protection._encryptor.update(b"".join(samples))
    return masks
