"""Frames of RFC 6455: bytes in, calls out, and the bytes of what is sent. No socket, no clock, no asyncio.

What is strict here: reserved bits (no extension is ever negotiated, so a compressed frame is an error and a compression
bomb impossible), reserved operation codes, masking in the right direction only, lengths in their shortest form,
control frames whole and small, fragments in order, close codes that may be sent, and UTF-8 in texts, judged as it
arrives.

A message is never assembled here: its payload is handed on as it comes in, so what a peer declares costs no memory.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.types import Buffer
from echostream_websocket._mask import apply_mask, next_mask, rotated

__all__ = ["BINARY", "CLOSE", "PING", "PONG", "TEXT", "FrameError", "FrameReader", "FrameReceiver", "close_payload"]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NORMAL: Final = 1_000
GOING_AWAY: Final = 1_001
PROTOCOL_ERROR: Final = 1_002
UNSUPPORTED_DATA: Final = 1_003
NO_STATUS: Final = 1_005
"""Stands for a close frame without a code; never sent."""
INVALID_DATA: Final = 1_007
MESSAGE_TOO_BIG: Final = 1_009

MAX_CONTROL_BYTES: Final = 125
_MAX_HEAD_BYTES: Final = 14
_SENDABLE_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
"""Codes below 3000 that may stand in a close frame: RFC 6455 section 7.4.1, and the IANA registry of 2024."""

_WHOLE_BINARY: Final = 0x80 | BINARY

GATHER_BYTES: Final = 16_384
"""Up to this size the buffers of a message are joined with its header, which is cheaper than to hand on a list."""

_U16: Final = struct.Struct("!H")
_U64: Final = struct.Struct("!Q")
_HEAD_U16: Final = struct.Struct("!BBH")
_HEAD_U64: Final = struct.Struct("!BBQ")

_Utf8: Final = codecs.getincrementaldecoder("utf-8")


class FrameError(RemoteProtocolError):
    """The peer sent what it must not; ``code`` is the WebSocket close code that it is told."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message, close_code=CloseCode.LIMIT if code == MESSAGE_TOO_BIG else CloseCode.PROTOCOL)
        self.code = code


class FrameReceiver(Protocol):
    """What the reader calls."""

    def on_payload(self, opcode: int, data: Buffer, last: bool, /) -> None:
        """A piece of a TEXT or BINARY message, unmasked, perhaps empty; ``last`` ends the message.

        Valid during the call where the peer does not mask.
        """

    def on_ping(self, payload: bytes, /) -> None:
        """Answer with a PONG of the same payload."""

    def on_pong(self, payload: bytes, /) -> None:
        """The answer to a PING, or a life sign nobody asked for."""

    def on_close(self, code: int, reason: str, /) -> None:
        """The peer's close frame, after which nothing is read; ``code`` is 1005 when it gave none."""


class FrameReader:
    """Reads what one peer sends, in any portions.

    The receiver sets ``stopped`` to be left alone within ``feed``: the rest is fed again later.
    """

    __slots__ = (
        "_accepts_text",
        "_control",
        "_decoder",
        "_final",
        "_held",
        "_left",
        "_mask",
        "_masked",
        "_max_message_bytes",
        "_message",
        "_message_bytes",
        "_opcode",
        "_receiver",
        "stopped",
    )

    def __init__(
        self, receiver: FrameReceiver, *, masked: bool, max_message_bytes: int, accepts_text: bool = True
    ) -> None:
        """``masked``: whether the peer must mask, as clients do. Without ``accepts_text`` a text is refused (1003)."""
        self._receiver = receiver
        self._masked = masked
        self._max_message_bytes = max_message_bytes
        self._accepts_text = accepts_text
        self._decoder: codecs.IncrementalDecoder | None = None
        self._held = b""  # the beginning of a frame's header
        self._left = -1  # payload of this frame that has not arrived; -1: between two frames
        self._mask = b""
        self._opcode = 0  # of this frame
        self._final = True
        self._message = 0  # opcode of the message that is going on, 0: none
        self._message_bytes = 0
        self._control = b""
        self.stopped = False

    def feed(self, data: Buffer) -> int:
        """Read ``data``; the number of bytes used is less than all only when the receiver has set ``stopped``.

        Raises FrameError, after which the reader is of no more use.
        """
        view = data if isinstance(data, memoryview) else memoryview(data)
        size = len(view)
        position = 0
        while not self.stopped:
            left = self._left
            if left < 0:
                if position == size:
                    break
                if not self._held and not self._message and view[position] == _WHOLE_BINARY:
                    behind = self._whole_message(view, position, size)
                    if behind:
                        position = behind
                        continue
                position = self._read_head(view, position, size)
                left = self._left
                if left < 0:
                    break
            if left and position == size:
                break
            end = position + left
            if end > size:
                end = size
            piece = view[position:end]
            count = end - position
            position = end
            if self._masked and count:
                unmasked = apply_mask(piece, self._mask)
                if count < left:
                    self._mask = rotated(self._mask, count)
                self._take(unmasked, left - count)
            else:
                self._take(piece, left - count)
        return position

    def _whole_message(self, view: memoryview, position: int, size: int) -> int:
        """The usual case, in a third of the time: a short message in one frame that is all here. 0: it is not that."""
        begin = position + 2
        if begin > size:
            return 0
        length = view[position + 1]
        if self._masked:
            length -= 0x80
            begin += 4
        behind = begin + length
        if not 0 <= length < 126 or behind > size or length > self._max_message_bytes:
            return 0
        piece: Buffer = view[begin:behind]
        if self._masked:
            piece = apply_mask(piece, bytes(view[begin - 4 : begin]))
        self._receiver.on_payload(BINARY, piece, True)
        return behind

    def _take(self, piece: Buffer, left: int) -> None:
        """Hand on a piece of a frame; ``left`` bytes of the frame are still to come."""
        self._left = left or -1
        if self._opcode >= CLOSE:
            self._control += piece
            if not left:
                payload, self._control = self._control, b""
                self._dispatch_control(payload)
            return
        opcode = self._message
        last = self._final and not left
        if last:
            self._message = 0
        if opcode == TEXT:
            self._check_text(piece, last)
        self._receiver.on_payload(opcode, piece, last)

    # --- headers

    def _read_head(self, view: memoryview, position: int, size: int) -> int:
        """Read a frame's header; ``_left`` stays -1 while it is incomplete. Returns the position behind it."""
        before = 0
        head: Buffer = view
        if self._held:
            before = len(self._held)
            head = self._held + view[position : position + _MAX_HEAD_BYTES - before]
            start, end = 0, len(head)
        else:
            start, end = position, size
        if end - start < 2:
            self._held = bytes(head[start:end])
            return size
        first, second = head[start], head[start + 1]
        length = second & 0x7F
        at = start + 2
        if length >= 126:
            at += 2 if length == 126 else 8
        behind = at + 4 if second & 0x80 else at
        if behind > end:
            self._check_head(first, second)
            self._held = bytes(head[start:end])
            return size
        if length == 126:
            (length,) = _U16.unpack_from(head, start + 2)
            if length < 126:
                raise FrameError(PROTOCOL_ERROR, f"the length {length} is not written in its shortest form")
        elif length == 127:
            (length,) = _U64.unpack_from(head, start + 2)
            if length < 65_536 or length >= 1 << 63:
                raise FrameError(PROTOCOL_ERROR, f"the length {length} is not written in its shortest form")
        self._check_head(first, second)
        if second & 0x80:
            self._mask = bytes(head[at:behind])
        self._begin_frame(first, length)
        self._held = b""
        return position + behind - start - before

    def _check_head(self, first: int, second: int) -> None:
        """Judge the first two bytes of a frame."""
        if first & 0x70:
            raise FrameError(PROTOCOL_ERROR, "a reserved bit is set, but no extension (such as compression) was agreed")
        if bool(second & 0x80) != self._masked:
            raise FrameError(
                PROTOCOL_ERROR, "a client's frame is not masked" if self._masked else "a server's frame is masked"
            )
        opcode = first & 0x0F
        if opcode >= CLOSE:
            if opcode > PONG:
                raise FrameError(PROTOCOL_ERROR, f"the operation code {opcode:#x} is reserved")
            if not first & 0x80:
                raise FrameError(PROTOCOL_ERROR, "a control frame is fragmented")
            if second & 0x7F > MAX_CONTROL_BYTES:
                raise FrameError(PROTOCOL_ERROR, f"a control frame has more than {MAX_CONTROL_BYTES} bytes")
        elif opcode > BINARY:
            raise FrameError(PROTOCOL_ERROR, f"the operation code {opcode:#x} is reserved")
        elif opcode == CONTINUATION:
            if not self._message:
                raise FrameError(PROTOCOL_ERROR, "a continuation frame continues nothing")
        elif self._message:
            raise FrameError(PROTOCOL_ERROR, "a new message begins within another")
        elif opcode == TEXT and not self._accepts_text:
            raise FrameError(UNSUPPORTED_DATA, "texts are not understood here, only binary messages")

    def _begin_frame(self, first: int, length: int) -> None:
        opcode = first & 0x0F
        self._opcode = opcode
        self._left = length
        if opcode >= CLOSE:
            return
        self._final = first >= 0x80
        if opcode:
            self._message = opcode
            self._message_bytes = length
            if opcode == TEXT:
                self._decoder = _Utf8()
        else:
            self._message_bytes += length
        if self._message_bytes > self._max_message_bytes:
            raise FrameError(
                MESSAGE_TOO_BIG,
                f"a message of {self._message_bytes} bytes or more; max_message_bytes is {self._max_message_bytes}",
            )

    # --- what frames contain

    def _check_text(self, piece: Buffer, last: bool) -> None:
        assert self._decoder is not None
        try:
            self._decoder.decode(piece, last)
        except UnicodeDecodeError as error:
            raise FrameError(INVALID_DATA, "a text is not UTF-8") from error
        if last:
            self._decoder = None

    def _dispatch_control(self, payload: bytes) -> None:
        if self._opcode == PING:
            self._receiver.on_ping(payload)
        elif self._opcode == PONG:
            self._receiver.on_pong(payload)
        else:
            code, reason = _read_close(payload)
            self.stopped = True
            self._receiver.on_close(code, reason)


def _read_close(payload: bytes) -> tuple[int, str]:
    if not payload:
        return NO_STATUS, ""
    if len(payload) == 1:
        raise FrameError(PROTOCOL_ERROR, "a close frame has half a code")
    (code,) = _U16.unpack_from(payload)
    if code not in _SENDABLE_CODES and not 3_000 <= code < 5_000:
        raise FrameError(PROTOCOL_ERROR, f"the close code {code} must not be sent")
    try:
        return code, payload[2:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise FrameError(INVALID_DATA, "the reason in a close frame is not UTF-8") from error


# --- writing


def close_payload(code: int, reason: str = "") -> bytes:
    """What a close frame carries; ``reason`` is cut to what fits."""
    if code == NO_STATUS:
        return b""
    cut = reason.encode("utf-8", "replace")[: MAX_CONTROL_BYTES - 2].decode("utf-8", "ignore")
    return _U16.pack(code) + cut.encode("utf-8")


_SHORT_HEADS: Final = tuple(bytes((0x80 | BINARY, length)) for length in range(126))


def _head(opcode: int, length: int, mask_bit: int) -> bytes:
    if length < 126:
        return bytes((0x80 | opcode, mask_bit | length))
    if length < 65_536:
        return _HEAD_U16.pack(0x80 | opcode, mask_bit | 126, length)
    return _HEAD_U64.pack(0x80 | opcode, mask_bit | 127, length)


def plain_frame(opcode: int, buffers: Sequence[Buffer], size: int) -> Sequence[Buffer]:
    """A whole message in one frame as a server sends it; ``size`` is that of all ``buffers``. Large ones not copied."""
    head = _SHORT_HEADS[size] if size < 126 and opcode == BINARY else _head(opcode, size, 0)
    if size <= GATHER_BYTES:
        return (b"".join((head, *buffers)),)
    return [head, *buffers]


def masked_frame(opcode: int, buffers: Sequence[Buffer], size: int) -> Sequence[Buffer]:
    """The same as a client sends it: masked, which copies once."""
    mask = next_mask()
    head = _head(opcode, size, 0x80) + mask
    if size <= GATHER_BYTES:
        return (head + apply_mask(buffers[0] if len(buffers) == 1 else b"".join(buffers), mask),)
    pieces: list[Buffer] = [head]
    for buffer in buffers:
        pieces.append(apply_mask(buffer, mask))
        mask = rotated(mask, len(buffer))
    return pieces
