"""The codecs of one session: our numbering, the peer's, and what each side can read of the other; and compression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from echostream_core.codec import Codec
from echostream_core.compression import Compression, DecompressedTooLarge
from echostream_core.engine.binding import plain
from echostream_core.errors import CallError, DecodeError, EncodeError, RemoteProtocolError, StatusCode
from echostream_core.types import Buffer
from echostream_core.wire.frames import COMPRESSED, PACKED, RAW
from echostream_core.wire.limits import DEFAULT_MAX_MESSAGE_BYTES

__all__ = ["SessionCodecs", "status_of"]

Decode = Callable[[Buffer], object]
Encode = Callable[[object], bytes]

NEVER: Final = 1 << 62
"""No body is that long: the threshold where nothing is compressed, so that being off costs one comparison."""


def status_of(error: DecodeError) -> StatusCode:
    """The status of a payload that could not be read."""
    too_large = isinstance(error, DecompressedTooLarge)
    return StatusCode.RESOURCE_EXHAUSTED if too_large else StatusCode.INVALID_ARGUMENT


class SessionCodecs:
    """Codec ids are places in the *sender's own* SETUP, from 1; 0 is raw bytes."""

    __slots__ = (
        "_codecs",
        "_compress",
        "_compression",
        "_decompress",
        "_max_bytes",
        "answers",
        "compress_from",
        "compression",
        "decoders",
        "encode",
        "encoders",
        "out_id",
        "out_key",
        "settled",
    )

    def __init__(
        self,
        codecs: Sequence[Codec],
        compression: Sequence[Compression] = (),
        max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        """``max_bytes``: what a payload of the peer may have when it is decompressed."""
        self._codecs = tuple(codecs)
        self._compression = tuple(compression)
        self._max_bytes = max_bytes
        self._compress: Callable[[Buffer], bytes | None] | None = None
        self._decompress: Callable[[Buffer, int], bytes] | None = None
        self.compress_from = NEVER
        """Bodies of so many bytes are worth a ``pack``; ``NEVER`` until the peer's SETUP lists what we can."""
        self.compression = ""
        """The name of what we compress with."""
        self.encoders: list[Encode] = [_raw, *(codec.encode for codec in codecs)]
        self.decoders: list[Decode | None] = [bytes]
        """By the peer's number; None: listed by the peer, not installed here."""
        self.answers: list[int] = [1]
        """The peer's number → ours of the same codec: a response uses its request's codec."""
        self.out_id = 1
        """The codec that we write with: our first, later our first that the peer lists too."""
        self.encode: Encode = codecs[0].encode
        self.out_key = (codecs[0].name, 1)
        """Name and number of that codec: sessions with the same key can be sent the same bytes."""
        self.settled = False
        """True once the peer's SETUP is here."""

    @property
    def names(self) -> tuple[str, ...]:
        """What our SETUP lists."""
        return tuple(codec.name for codec in self._codecs)

    @property
    def compression_names(self) -> tuple[str, ...]:
        """What our SETUP lists."""
        return tuple(one.name for one in self._compression)

    def settle(self, peer: Sequence[str], compression: Sequence[str] = ()) -> None:
        """The peer's SETUP lists the codecs ``peer`` and ``compression``."""
        by_name = {codec.name: (number, codec) for number, codec in enumerate(self._codecs, 1)}
        numbers = []
        for name in peer:
            number, codec = by_name.get(name, (0, None))
            self.decoders.append(codec.decode if codec is not None else None)
            numbers.append(number)
        self.out_id = next(number for number, codec in enumerate(self._codecs, 1) if codec.name in peer)
        self.encode = self._codecs[self.out_id - 1].encode
        self.out_key = (self._codecs[self.out_id - 1].name, self.out_id)
        self.answers[RAW] = self.out_id
        self.answers += [number or self.out_id for number in numbers]
        self.settled = True
        ours = {one.name: one for one in self._compression}
        # Each side's own order decides about what it sends, and both lists are known to both: no name has to travel.
        for name, one in ours.items():
            if name in compression:
                self._compress, self.compress_from, self.compression = one.compress, max(one.min_bytes, 1), name
                break
        self._decompress = next((ours[name].decompress for name in compression if name in ours), None)

    def compress(self, body: Buffer) -> bytes | None:
        """``body``, which has ``compress_from`` bytes or more, in fewer; None when it does not get smaller."""
        assert self._compress is not None
        packed = self._compress(body)
        return packed if packed is not None and len(packed) < len(body) else None

    def pack(self, body: bytes) -> tuple[int, bytes]:
        """What to send for ``body``, which has ``compress_from`` bytes or more: the flags and the payload."""
        packed = self.compress(body)
        return (0, body) if packed is None else (COMPRESSED, packed)

    def _unpacking(self, number: int) -> Decode | None:
        decompress, max_bytes = self._decompress, self._max_bytes
        if decompress is None:
            raise RemoteProtocolError("a compressed payload, and the two SETUPs have no compression in common")
        decode = self.decoder(number & ~PACKED)
        if decode is None:
            return None
        return lambda payload: decode(decompress(payload, max_bytes))

    def decoder(self, number: int) -> Decode | None:
        """How to read the peer's codec ``number``, with ``PACKED`` what is compressed; None when we lack it.
        RemoteProtocolError when it was never listed, or nothing may be compressed.
        """
        if number & PACKED:
            return self._unpacking(number)
        if number >= len(self.decoders):
            raise RemoteProtocolError(f"codec id {number}, the peer's SETUP lists {len(self.decoders) - 1}")
        return self.decoders[number]

    def answer_id(self, number: int) -> int:
        """Our id of the codec that the peer calls ``number``: a response uses its request's codec."""
        number &= ~PACKED
        return self.answers[number] if number < len(self.answers) else self.out_id

    def name(self, number: int) -> str:
        """The name of our codec ``number``."""
        return "raw" if number == RAW else self._codecs[number - 1].name

    def encode_with(self, number: int, value: object) -> bytes:
        """``value`` in our codec ``number``; rich types are made plain first. CallError says what cannot be carried."""
        encode = self.encoders[number]
        try:
            return encode(value)
        except EncodeError:
            pass
        return self.encode_rich(number, value)

    def encode_rich(self, number: int, value: object) -> bytes:
        """``value``, which our codec ``number`` has refused as it is, made plain first."""
        try:
            return self.encoders[number](plain(value))
        except EncodeError as error:
            raise CallError(StatusCode.INVALID_ARGUMENT, f"cannot be sent: {error}", not_processed=True) from error


def _raw(value: object) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise EncodeError(f"raw content is bytes, not {type(value).__name__}", path="$")
