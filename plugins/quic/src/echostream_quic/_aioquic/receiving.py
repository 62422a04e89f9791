"""Receiving: packets under the established keys in batches, and what they say of streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aioquic.buffer import UINT_VAR_MAX, Buffer  # type: ignore[attr-defined]  # it is re-exported without __all__
from aioquic.quic import events
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicErrorCode, QuicStreamFrame, decode_packet_number
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import FinalSizeError, StreamFinishedError
from cryptography.exceptions import InvalidTag

from echostream_quic import frames
from echostream_quic._aioquic.parts import ACK_DELAY_S, Parts, masks_of
from echostream_quic.packets import LEAST_PACKET_BYTES
from echostream_quic.replacements import PacketContext

__all__ = ["ACKNOWLEDGE_EVERY", "Receiving"]

ACKNOWLEDGE_EVERY: Final = 8
"""Packets after which an acknowledgement goes out with the next packets, or at the end of the batch. RFC 9000 section
13.2.2 advises two, and allows more where acknowledging is a burden: here it is a sixth of the work for small calls.
Two holds for the beginning, when the peer's window is small, and a gap is told at once."""
MAX_GAPS: Final = 1_024
"""Pieces of one substream that may lie behind gaps. A megabyte has 700 packets; beyond this somebody wants to see us
sort (each piece costs aioquic time in proportion to those before it)."""

_BYTE: Final = tuple(bytes((value,)) for value in range(256))


class Receiving(Parts):
    """What arrives."""

    def _receive_batch(self, datagrams: Sequence[bytes], addr: Any, now: float) -> None:
        """Packets with short headers from the active path, under the established keys; the others one by one."""
        recv, space = self._pair.recv, self._space
        received = space.received_packets
        masks = masks_of(recv.hp, [data[13:29].ljust(16, b"\0") for data in datagrams])
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
