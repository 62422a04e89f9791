"""What stands in the place of aioquic's own parts, and where the streams of a connection begin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it is re-exported without __all__
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.congestion.base import create_congestion_control
from aioquic.quic.connection import QuicConnection, QuicConnectionError
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import StreamFinishedError
from aioquic.tls import Epoch

from echostream_core.types import Priority
from echostream_quic.options import QuicOptions
from echostream_quic.outgoing import Outgoing
from echostream_quic.pacing import Pacer
from echostream_quic.pathsize import PathSize
from echostream_quic.replacements import QuietLog, RttMonitor
from echostream_quic.substreams import Substreams, SubstreamState

__all__ = ["ACK_DELAY_S", "Choice", "Parts", "Terms"]

ONE_RTT: Final = Epoch.ONE_RTT
ACK_DELAY_S: Final = 0.005
"""How long a single packet may wait for its acknowledgement: well below the 25 ms that aioquic announces."""
BEFORE_START_BYTES: Final = 2_097_152
"""What a peer may send in all until somebody listens: the control window and a few substreams."""
SPENT_CRYPTO_BYTES: Final = 64
"""What is left of the buffers for handshake messages once it is over."""

_EPOCHS: Final[dict[frozenset[Epoch], frozenset[Epoch]]] = {}


class Terms(NamedTuple):
    """What a connection is made with; see ``Dialect`` for the last two."""

    configuration: QuicConfiguration
    options: QuicOptions
    uni_streams: int = 0
    first_is_control: bool = True


Choice = Callable[[Sequence[str]], Terms | None]
"""Given the protocols that a dialer offers: the terms of the one that serves it; None to leave things as they are."""


class Parts(QuicConnection):
    """aioquic's connection with our parts in it."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        options: QuicOptions,
        *,
        now: float,
        uni_streams: int = 0,
        first_is_control: bool = True,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._now = now
        self.choose: Choice | None = None
        """At a listener for several protocols: set it before the first packet."""
        self.opening = False
        """The peer lets us open more substreams than before."""
        self.closed_by_peer = False
        self.undecryptable = 0
        """Packets that belonged to no key of ours."""
        self._to_acknowledge = 0
        self._sealed = 0
        self._cids_due = False
        self._probes = 0
        self._sized_path: Any = None
        self._logger = self._loss._logger = QuietLog()  # type: ignore[assignment]  # same methods
        self._ack_delay = ACK_DELAY_S
        self._loss._pacer = self._pacer = Pacer(max_datagram_size=self._max_datagram_size)  # type: ignore[assignment]  # same methods
        self._loss._cc._rtt_monitor = RttMonitor()  # type: ignore[attr-defined]  # both controllers have one
        self._set_limits(options, uni_streams, first_is_control=first_is_control)

        # aioquic makes a new set of epochs for each of its 33 frame types: 7 KiB per connection.
        handlers: Any = self._QuicConnection__frame_handlers  # type: ignore[attr-defined]  # its real, mangled name
        for frame_type, (handler, epochs) in handlers.items():
            handlers[frame_type] = handler, _EPOCHS.setdefault(epochs, epochs)

    def _set_limits(self, options: QuicOptions, uni_streams: int, *, first_is_control: bool) -> None:
        """Say what the peer may do, before it is told anything."""
        self._first_is_control = first_is_control
        self._path_size = PathSize(options.max_datagram_size)
        self.substreams = Substreams(
            options,
            dials=self._is_client,
            max_data=self._local_max_data,
            max_streams=self._local_max_streams_bidi,
            max_uni_streams=self._local_max_streams_uni,
            uni_streams=uni_streams,
        )
        self._streams = self.substreams.by_id  # type: ignore[assignment]  # ours stand in for QuicStream
        self._local_max_data.value = self._local_max_data.sent = min(BEFORE_START_BYTES, self.substreams.session.limit)
        self._local_max_stream_data_bidi_local = options.window_bytes
        self._local_max_stream_data_bidi_remote = options.window_bytes
        self._local_max_stream_data_uni = options.window_bytes if uni_streams else 0
        self._local_max_streams_bidi.value = self._local_max_streams_bidi.sent = options.max_streams
        self._local_max_streams_uni.value = self._local_max_streams_uni.sent = uni_streams

    # Streams

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> SubstreamState:  # type: ignore[override]  # stands in for QuicStream
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream  # type: ignore[return-value]  # only ours are in there
        if self._stream_is_discarded(stream_id):
            raise StreamFinishedError
        if bool(stream_id & 1) != self._is_client:
            raise QuicConnectionError(QuicErrorCode.STREAM_STATE_ERROR, frame_type, "Wrong stream initiator")
        one_way = stream_id & 2
        limit = self._local_max_streams_uni if one_way else self._local_max_streams_bidi
        count = stream_id // 4 + 1
        if count > limit.value:
            raise QuicConnectionError(QuicErrorCode.STREAM_LIMIT_ERROR, frame_type, "Too many streams open")
        # Opening a stream opens all lower ones too (RFC 9000 section 2.1).
        for new_id in range(limit.used * 4 + (stream_id & 3), stream_id + 1, 4):
            outgoing = Outgoing(Priority.CONTROL if new_id == 0 and self._first_is_control else Priority.NORMAL)
            outgoing.credit = 0 if one_way else self._remote_max_stream_data_bidi_local
            state = self.substreams.add(new_id, outgoing, self._now)
        limit.used = count
        return state

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        self.opening = self.opening or not is_unidirectional

    # The handshake

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        # Looking these up by epoch, an enum, costs as much as sending a small packet.
        self._pair: Any = self._cryptos[ONE_RTT]
        self._space: QuicPacketSpace = self._spaces[ONE_RTT]
        self._late_crypto: Any = self._crypto_streams[ONE_RTT].sender
        if self.choose is not None and not self._is_client:
            self._answer_hello: Any = self.tls._server_handle_hello
            self.tls._server_handle_hello = self._on_hello  # type: ignore[method-assign]

    def _on_hello(self, input_buf: Buffer, initial_buf: Buffer, handshake_buf: Buffer) -> None:
        """Before anything of a ClientHello is answered: let the protocols that it names decide who answers."""
        assert self.choose is not None, "nobody else asks for this"
        hello = tls.pull_client_hello(Buffer(data=input_buf.data_slice(0, input_buf.capacity)))
        chosen = self.choose(hello.alpn_protocols or [])
        if chosen is not None:
            self._adopt(chosen)
        self._answer_hello(input_buf, initial_buf, handshake_buf)

    def _adopt(self, terms: Terms) -> None:
        """Go on with other terms: nothing that depends on them was sent yet."""
        configuration = self._configuration = terms.configuration
        self._loss._cc = create_congestion_control(
            configuration.congestion_control_algorithm, max_datagram_size=self._max_datagram_size
        )
        self._loss._cc._rtt_monitor = RttMonitor()  # type: ignore[attr-defined]  # both controllers have one
        datagrams = self.substreams.datagrams
        self._set_limits(terms.options, terms.uni_streams, first_is_control=terms.first_is_control)
        self.substreams.datagrams = datagrams
        context = self.tls
        context._alpn_protocols = configuration.alpn_protocols
        context.certificate = configuration.certificate
        context.certificate_chain = configuration.certificate_chain
        context.certificate_private_key = configuration.private_key
        context.handshake_extensions = [
            (tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS, self._serialize_transport_parameters())
        ]

    def _confirm_handshake(self) -> None:
        super()._confirm_handshake()
        # Nothing but session tickets would come now, and we ask for none: 48 KiB per connection.
        self._crypto_buffers = {epoch: Buffer(capacity=SPENT_CRYPTO_BYTES) for epoch in self._crypto_buffers}

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        self._cids_due = True

    def _on_new_connection_id_delivery(self, delivery: QuicDeliveryState, connection_id: Any) -> None:
        super()._on_new_connection_id_delivery(delivery, connection_id)
        self._cids_due = True


def masks_of(protection: Any, samples: Sequence[bytes]) -> bytes:
    """Sixteen bytes of mask per sample: AES takes them all at once, ChaCha20 one by one."""
    if protection._is_chacha20:
        return b"".join([protection._mask(sample).ljust(16, b"\0") for sample in samples])
    masks: bytes = protection._encryptor.update(b"".join(samples))
    return masks
