"""Reads the frames of one call, response or stream substream: any size, each assembled piece by piece.

The reader counts nothing against credit: it tells the engine when a frame begins (so that memory can be reserved) and
when it is complete. Source: docs/wire.md sections 3 and 4.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, Protocol

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.types import Buffer
from echostream_core.wire.control import read_name
from echostream_core.wire.frames import (
    CALL,
    CALL_HEAD,
    COMPRESSED,
    DATA,
    FULL_NAME,
    IGNORABLE,
    NAMED,
    PACKED,
    PREFIX,
    RESPONSE,
    RESPONSE_HEAD,
)

__all__ = [
    "CallHead",
    "FrameReceiver",
    "MessageReader",
    "encode_call_head",
    "encode_data_head",
    "encode_response_head",
    "parse_call",
    "parse_response",
]

CallHead = tuple[int, int, str, int, int, Buffer | None, memoryview]
"""number, timeout_ms, method, codec (with ``PACKED`` when the payload is compressed), class, metadata, payload."""

_CALL_FIELDS: Final = Struct("<IIHBB")
_RESPONSE_FIELDS: Final = Struct("<IB3x")


class FrameReceiver(Protocol):
    """What the reader calls."""

    def on_frame_begin(self, kind: int, length: int, /) -> None:
        """A frame's prefix is here, ``length`` bytes follow. Raise RemoteProtocolError to refuse it."""

    def on_skipped(self, size: int, /) -> None:
        """``size`` bytes of a frame that may be ignored went by."""

    def on_frame(self, kind: int, flags: int, aux: int, body: bytes, /) -> None:
        """A frame is complete; ``body`` may be kept."""


class MessageReader:
    """Parses one direction of one substream."""

    __slots__ = (
        "_aux",
        "_flags",
        "_have",
        "_head",
        "_kind",
        "_legal",
        "_need",
        "_pieces",
        "_receiver",
        "_skip",
    )

    def __init__(self, receiver: FrameReceiver, legal: frozenset[int]) -> None:
        """``legal``: the frame types that may come (a row of ``states.LEGAL``)."""
        self._receiver = receiver
        self._legal = legal
        self._head = b""
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = -1
        self._skip = 0
        self._kind = self._flags = self._aux = 0

    @property
    def between_frames(self) -> bool:
        """True when no frame is half-read: an end is clean here."""
        return self._need < 0 and not self._head and not self._skip

    def receive(self, data: Buffer) -> None:
        """Read ``data``, which continues what came before; RemoteProtocolError for what is not legal here."""
        view = data if type(data) is memoryview else memoryview(data)
        size = len(view)
        position = 0
        while position < size:
            if self._skip:
                step = min(self._skip, size - position)
                self._skip -= step
                position += step
                self._receiver.on_skipped(step)
            elif self._need < 0:
                step = min(8 - len(self._head), size - position)
                self._head += bytes(view[position : position + step])
                position += step
                if len(self._head) == 8:
                    self._begin()
            else:
                part = bytes(view[position : position + self._need - self._have])
                position += len(part)
                self._pieces.append(part)
                self._have += len(part)
                if self._have == self._need:
                    self._complete()

    def _begin(self) -> None:
        kind, flags, aux, length = PREFIX.unpack(self._head)
        self._head = b""
        if kind not in self._legal:
            if not flags & IGNORABLE:
                raise RemoteProtocolError(f"frame type {kind:#04x} is not allowed on this substream")
            if length > 65_536:
                raise RemoteProtocolError(f"ignorable frame of {length} bytes", close_code=CloseCode.LIMIT)
            self._skip = length
            self._receiver.on_skipped(8)
            return
        self._receiver.on_frame_begin(kind, length)
        self._kind, self._flags, self._aux = kind, flags, aux
        self._need = length
        self._have = 0
        if not length:
            self._complete()

    def _complete(self) -> None:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        self._need = -1
        self._receiver.on_frame(self._kind, self._flags, self._aux, body)


def parse_call(flags: int, aux: int, body: Buffer) -> CallHead:
    """The fields of a complete CALL frame from a substream of its own, where the name stands in full."""
    view = memoryview(body)
    if len(view) < 12:
        raise RemoteProtocolError("CALL: the head is cut off")
    number, timeout, method, codec, priority = _CALL_FIELDS.unpack_from(view)
    if not flags & NAMED or method != FULL_NAME:
        raise RemoteProtocolError("CALL on a substream of its own must carry the method's name in full")
    if 12 + aux > len(view):
        raise RemoteProtocolError("CALL: the metadata runs over the frame's end")
    if flags & COMPRESSED:
        codec |= PACKED
    metadata = view[12 : 12 + aux] if aux else None
    name, position = read_name(view, 12 + aux, len(view))
    return number, timeout, name, codec, priority, metadata, view[position:]


def parse_response(body: Buffer) -> tuple[int, int, memoryview]:
    """number, codec and payload of a complete RESPONSE frame."""
    view = memoryview(body)
    if len(view) < 8:
        raise RemoteProtocolError("RESPONSE: the head is cut off")
    number, codec = _RESPONSE_FIELDS.unpack_from(view)
    return number, codec, view[8:]


def encode_call_head(
    number: int,
    timeout_ms: int,
    method: bytes,
    method_id: int,
    codec: int,
    priority: int,
    metadata: bytes,
    size: int,
    flags: int = 0,
) -> bytes:
    """All of a CALL frame but its payload of ``size`` bytes, the method's name included; ``flags`` beside NAMED."""
    length = 12 + len(metadata) + 1 + len(method) + size
    head = CALL_HEAD.pack(CALL, NAMED | flags, len(metadata), length, number, timeout_ms, method_id, codec, priority)
    return b"".join((head, metadata, bytes((len(method),)), method))


def encode_response_head(number: int, flags: int, codec: int, size: int) -> bytes:
    """All of a RESPONSE frame but its payload of ``size`` bytes."""
    return RESPONSE_HEAD.pack(RESPONSE, flags, 0, 8 + size, number, codec)


def encode_data_head(codec: int, size: int, flags: int = 0) -> bytes:
    """All of a DATA frame but its item of ``size`` bytes."""
    return PREFIX.pack(DATA, flags, codec, size)
