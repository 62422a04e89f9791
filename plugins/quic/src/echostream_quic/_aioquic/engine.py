"""The engine as its owner sees it: what to ask it, what to feed it, and when to call it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aioquic.quic.connection import QuicConnectionState

from echostream_quic._aioquic.sending import Sending
from echostream_quic._errors import Ending
from echostream_quic.outgoing import Outgoing
from echostream_quic.substreams import SubstreamState

__all__ = ["Engine"]

_END_STATES: Final = (QuicConnectionState.CLOSING, QuicConnectionState.DRAINING, QuicConnectionState.TERMINATED)


class Engine(Sending):
    """One QUIC connection without I/O, its time an argument.

    The owner feeds ``receive``, then takes ``changed``, ``datagrams_received`` and aioquic's events, and
    calls ``transmit`` once per turn; it re-arms its timer to ``get_timer``.
    """

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

    def open_one_way(self, outgoing: Outgoing, now: float) -> SubstreamState:
        """A stream on which only we send; only while the peer lets us open one, see ``one_way_left``."""
        stream_id = self._local_next_stream_id_uni
        self._local_next_stream_id_uni = stream_id + 4
        outgoing.credit = self._remote_max_stream_data_uni
        return self.substreams.add(stream_id, outgoing, now)

    def one_way_left(self) -> int:
        """How many streams on which only we send the peer lets us open now."""
        return self._remote_max_streams_uni - self._local_next_stream_id_uni // 4

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
