"""The border to aioquic: the one package that reaches into its private parts.

:class:`Engine` is aioquic's sans-I/O connection with four things replaced, and the rest (TLS, handshake,
loss recovery, congestion control, migration, the rare frames) left as it is:

* **Credit.** aioquic grants on receipt and doubles by itself. Here ``flow.py`` decides, by what was consumed.
* **Sending of application data.** aioquic walks all open streams for every packet and queues without bound.
  Here each packet asks the scheduler of ``outgoing.py``, and is built directly, without aioquic's builder.
* **Receiving of application data.** Packets under the established keys are opened in batches, and the bytes
  of one batch reach a substream in one piece.
* **Pacing.** See ``pacing.py``.

It is put together in four steps, one module each: ``parts`` (what stands in the place of aioquic's parts),
``receiving``, ``sending``, and ``engine`` (what the owner of a connection calls).

Every private name that is touched stands in ``PRIVATE``; ``tests/test_aioquic_contract.py`` checks that
aioquic still has them, that this package touches no other, and that the methods that are replaced are still
called as they were. A failure there means: read aioquic's changes before raising the version bound in
``pyproject.toml``.
"""

from __future__ import annotations

from typing import Final

from echostream_quic._aioquic.engine import Engine
from echostream_quic._aioquic.parts import Terms

__all__ = ["PRIVATE", "Engine", "Terms"]

PRIVATE: Final = {
    "QuicConnection": """
        _QuicConnection__frame_handlers _ack_delay _ack_eliciting_sent_since_receipt _assert_stream_can_receive
        _assert_stream_can_send _close_at _close_event _close_pending _configuration _confirm_handshake _crypto_buffers
        _crypto_streams _cryptos _events _get_or_create_stream _handle_connection_close_frame _handle_max_data_frame
        _handle_max_stream_data_frame _handle_reset_stream_frame _handle_stop_sending_frame _handle_stream_frame
        _handshake_complete _handshake_confirmed _handshake_done_pending _host_cids _idle_timeout _initialize
        _is_client _local_ack_delay_exponent _local_max_data _local_max_stream_data_bidi_local
        _local_max_stream_data_bidi_remote _local_max_stream_data_uni _local_max_streams_bidi _local_max_streams_uni
        _local_next_stream_id_bidi
        _local_next_stream_id_uni _logger _loss _loss_at _max_datagram_size _network_paths _on_ack_delivery
        _on_new_connection_id_delivery _pacing_at _packet_number _payload_received _peer_cid _ping_pending
        _probe_pending _remote_max_data _remote_max_data_used _remote_max_datagram_frame_size
        _remote_max_stream_data_bidi_local _remote_max_stream_data_bidi_remote _remote_max_stream_data_uni
        _remote_max_streams_bidi _remote_max_streams_uni
        _replenish_connection_ids _retire_connection_ids _send_probe _serialize_transport_parameters
        _spaces _spin_bit _state _stream_is_discarded
        _streams _unblock_streams _write_ack_frame _write_connection_limits _write_stream_limits""",
    "QuicPacketRecovery": "_cc _logger _pacer _pto_count _rtt_min _rtt_smoothed "
    "_time_of_last_sent_ack_eliciting_packet",
    "QuicCongestionControl": "_max_datagram_size _rtt_monitor",
    "CryptoPair": "_update_key _update_key_requested",
    "AEAD": "_aead _iv",
    "HeaderProtection": "_encryptor _is_chacha20 _mask",
    "QuicStreamReceiver": "_buffer _buffer_start _final_size _ranges",
    "Context": "_alpn_protocols _peer_certificate _server_handle_hello",
}
