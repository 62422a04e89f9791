"""The codecs of one session: our numbering, the peer's, and what each side can read of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from echostream_core.codec import Codec
from echostream_core.engine.binding import plain
from echostream_core.errors import CallError, EncodeError, RemoteProtocolError, StatusCode
from echostream_core.types import Buffer
from echostream_core.wire.frames import RAW

__all__ = ["SessionCodecs"]

Decode = Callable[[Buffer], object]
Encode = Callable[[object], bytes]


class SessionCodecs:
    """Codec ids are places in the *sender's own* SETUP, from 1; 0 is raw bytes."""

    __slots__ = ("_codecs", "answers", "decoders", "encode", "encoders", "out_id", "settled")

    def __init__(self, codecs: Sequence[Codec]) -> None:
        self._codecs = tuple(codecs)
        self.encoders: list[Encode] = [_raw, *(codec.encode for codec in codecs)]
        self.decoders: list[Decode | None] = [bytes]
        """By the peer's number; None: listed by the peer, not installed here."""
        self.answers: list[int] = [1]
        """The peer's number → ours of the same codec: a response uses its request's codec."""
        self.out_id = 1
        """The codec that we write with: our first, later our first that the peer lists too."""
        self.encode: Encode = codecs[0].encode
        self.settled = False
        """True once the peer's SETUP is here."""

    @property
    def names(self) -> tuple[str, ...]:
        """What our SETUP lists."""
        return tuple(codec.name for codec in self._codecs)

    def settle(self, peer: Sequence[str]) -> None:
        """The peer's SETUP lists ``peer``."""
        by_name = {codec.name: (number, codec) for number, codec in enumerate(self._codecs, 1)}
        numbers = []
        for name in peer:
            number, codec = by_name.get(name, (0, None))
            self.decoders.append(codec.decode if codec is not None else None)
            numbers.append(number)
        self.out_id = next(number for number, codec in enumerate(self._codecs, 1) if codec.name in peer)
        self.encode = self._codecs[self.out_id - 1].encode
        self.answers[RAW] = self.out_id
        self.answers += [number or self.out_id for number in numbers]
        self.settled = True

    def decoder(self, number: int) -> Decode | None:
        """How to read the peer's codec ``number``; None when we lack it. RemoteProtocolError when it was never
        listed.
        """
        if number >= len(self.decoders):
            raise RemoteProtocolError(f"codec id {number}, the peer's SETUP lists {len(self.decoders) - 1}")
        return self.decoders[number]

    def answer_id(self, number: int) -> int:
        """Our id of the codec that the peer calls ``number``: a response uses its request's codec."""
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
