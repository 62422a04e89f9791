"""Header sections as HTTP/3 sends them: QPACK without a dynamic table, so that nothing waits and nothing is kept.

The border to pylsqpack, and to aioquic's rules for what a header section may hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import pylsqpack
from aioquic.h3.connection import ProtocolError, validate_request_headers, validate_response_headers

from echostream_webtransport._errors import Http3Error, StreamError
from echostream_webtransport.codes import H3

__all__ = ["HeaderCodec", "TooLarge"]

LINE_BYTES: Final = 32
"""What each line costs beside its name and value (RFC 9114 section 4.2.2)."""


class TooLarge(Exception):
    """A header section is larger than we said that we take."""


class HeaderCodec:
    """Both directions of one connection."""

    __slots__ = ("_decoder", "_encoder", "_most")

    def __init__(self, max_header_bytes: int) -> None:
        self._most = max_header_bytes
        self._decoder = pylsqpack.Decoder(0, 0)
        self._encoder = pylsqpack.Encoder()

    def encode(self, stream_id: int, headers: Iterable[tuple[str, str]]) -> bytes:
        """A header section. Nothing has to go over the encoder's stream for it: there is no dynamic table."""
        lines = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
        _, block = self._encoder.encode(stream_id, lines)
        return block

    def request(self, stream_id: int, block: bytes) -> Mapping[str, str]:
        """The lines of a request by name. TooLarge, StreamError or Http3Error when they are not in order."""
        lines = self._decode(stream_id, block)
        try:
            validate_request_headers(lines)
        except ProtocolError as error:
            raise StreamError(H3.MESSAGE_ERROR, error.reason_phrase) from error
        return _by_name(lines)

    def response(self, stream_id: int, block: bytes) -> Mapping[str, str]:
        """The lines of an answer by name. TooLarge, StreamError or Http3Error when they are not in order."""
        lines = self._decode(stream_id, block)
        try:
            validate_response_headers(lines)
        except ProtocolError as error:
            raise StreamError(H3.MESSAGE_ERROR, error.reason_phrase) from error
        return _by_name(lines)

    def feed_encoder(self, data: bytes) -> None:
        """What the peer's encoder says: that it uses no dynamic table, or nothing."""
        try:
            self._decoder.feed_encoder(data)
        except pylsqpack.EncoderStreamError as error:
            raise Http3Error(H3.QPACK_ENCODER_STREAM_ERROR, "a dynamic table that was not offered") from error

    def feed_decoder(self, data: bytes) -> None:
        """What the peer's decoder says: that it gave up a stream, or nothing."""
        try:
            self._encoder.feed_decoder(data)
        except pylsqpack.DecoderStreamError as error:
            raise Http3Error(H3.QPACK_DECODER_STREAM_ERROR, "news of a dynamic table that is not used") from error

    def _decode(self, stream_id: int, block: bytes) -> list[tuple[bytes, bytes]]:
        try:
            _, lines = self._decoder.feed_header(stream_id, block)
        except (pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked) as error:
            raise Http3Error(H3.QPACK_DECOMPRESSION_FAILED, "a header section that cannot be read") from error
        if sum(len(name) + len(value) + LINE_BYTES for name, value in lines) > self._most:
            raise TooLarge
        return lines


def _by_name(lines: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Lines of the same name are joined as RFC 9110 section 5.3 does it."""
    found: dict[str, str] = {}
    for raw_name, raw_value in lines:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found
