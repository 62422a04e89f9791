"""Sending: packets of application data, built directly; probes, acknowledgements, and the size of packets."""

from __future__ import annotations

from typing import Any, Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it is re-exported without __all__
from aioquic.quic.packet import push_ack_frame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.recovery import QuicPacketSpace

from echostream_quic import frames
from echostream_quic._aioquic.parts import masks_of
from echostream_quic._aioquic.receiving import ACKNOWLEDGE_EVERY, Receiving
from echostream_quic.options import MIN_DATAGRAM_BYTES
from echostream_quic.packets import CID_BYTES, OVERHEAD_BYTES, PacketBatch
from echostream_quic.pathsize import BLACK_HOLE_TIMEOUTS
from echostream_quic.replacements import SentPacket
from echostream_quic.substreams import LEAST_ROOM_BYTES, Handlers

__all__ = ["Sending"]

MAX_PACKETS_PER_TURN: Final = 88
"""How many packets one turn of the loop may build, two full system calls; then it looks at what has arrived."""
BEGINNING_PACKETS: Final = 100
ACK_FRAME_BYTES: Final = 640
"""Room for all the ranges that aioquic keeps, in ordinary networks; ``push_ack_frame`` leaves out the oldest else."""
PROBES_PER_TIMEOUT: Final = 2
"""Packets that go out when acknowledgements fail to come. RFC 9002 section 6.2.4 allows two; with aioquic's one, a
path that loses every fifth packet each way was given up as idle now and then."""
PACKETS_PER_KEY: Final = 1 << 22
"""AES-GCM is safe for 2**23 packets under one key (RFC 9001 section 6.6); aioquic does not count them."""

_ACKED: Final = QuicDeliveryState.ACKED
_BYTE: Final = tuple(bytes((value,)) for value in range(256))


class Sending(Receiving):
    """What leaves."""

    def max_datagram_size(self) -> int:
        """The largest datagram that fits one packet now; 0 when the peer takes none."""
        announced = self._remote_max_datagram_frame_size
        if not announced:
            return 0
        # Others' connection ids have up to 20 bytes: what is sized by ours would wait for a larger packet for ever.
        overhead = OVERHEAD_BYTES + max(0, len(self._peer_cid.cid) - CID_BYTES)
        return max(0, min(announced, self._max_datagram_size - overhead) - 3)

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
            packets.protect(masks_of(pair.send.hp, packets.samples()), path.addr, sent)
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
