"""Reads the control substream: bytes in, calls of a receiver's methods out.

This is the hottest reader of all, and written plainly for it: frames are parsed where they lie, with one
``Struct.unpack_from`` for a CALL or RESPONSE; no object per frame is made; an incomplete frame is kept as a list of
pieces and joined once. Source: docs/wire.md sections 4 and 5.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.types import Buffer
from echostream_core.wire.frames import (
    CALL,
    CALL_HEAD,
    COMPRESSED,
    FINAL,
    FULL_NAME,
    IGNORABLE,
    NAMED,
    PACKED,
    PREFIX,
    RESPONSE,
    RESPONSE_HEAD,
    FrameType,
    SubstreamKind,
)
from echostream_core.wire.limits import MAX_INTERNED, Limits
from echostream_core.wire.setup import Setup, decode_setup
from echostream_core.wire.states import LEGAL, By

__all__ = ["INLINE_ALWAYS_BYTES", "ControlReader", "ControlReceiver"]

INLINE_ALWAYS_BYTES: Final = 17_408
"""In-line bodies up to this size are always taken, whatever SETUP says later: they may have been sent before it
came."""

_KNOWN: Final = LEGAL[(SubstreamKind.CONTROL, By.OPENER)]


class ControlReceiver(Protocol):
    """What the reader calls. Views are valid during the call only."""

    def on_setup(self, setup: Setup, /) -> None:
        """The peer's SETUP: always first, exactly once."""

    def on_call(
        self,
        number: int,
        method: str,
        codec: int,
        timeout_ms: int,
        priority: int,
        metadata: Buffer | None,
        payload: Buffer,
        /,
    ) -> None:
        """An in-line CALL. ``codec`` has the bit ``PACKED`` when the payload is compressed."""

    def on_response(self, number: int, flags: int, codec: int, payload: Buffer, /) -> None:
        """The final frame of an in-line call of ours."""

    def on_cancel(self, number: int, /) -> None:
        """The peer gave up its in-line call ``number``."""

    def on_ping(self, value: int, /) -> None:
        """PING; the answer is PONG with the same value."""

    def on_pong(self, value: int, /) -> None:
        """PONG."""

    def on_goaway(self, number: int | None, code: int, reason: str, /) -> None:
        """GOAWAY; ``number`` None: the first, general one."""

    def on_flow(self, subscription: int, paused: bool, /) -> None:
        """Hold our events of the peer's ``subscription``, or send them again."""

    def on_synced(self, number: int, /) -> None:
        """The peer has handled all events before our SYNC ``number``."""

    def on_ignored(self, kind: int, /) -> None:
        """An unknown ignorable frame was skipped."""


class ControlReader:
    """Parses the control substream for one session. Not reusable after an exception."""

    __slots__ = (
        "_have",
        "_held",
        "_limits",
        "_max_frame",
        "_names",
        "_need",
        "_on_call",
        "_on_response",
        "_pieces",
        "_receiver",
        "_started",
    )

    def __init__(self, receiver: ControlReceiver, limits: Limits) -> None:
        """``limits`` are ours: what the peer sends is checked against them."""
        self._receiver = receiver
        self._on_call = receiver.on_call
        self._on_response = receiver.on_response
        self._limits = limits
        inline = max(limits.inline_max_bytes, limits.inline_max_native_bytes, INLINE_ALWAYS_BYTES)
        self._max_frame = max(inline + max(limits.max_metadata_bytes, 8_192) + 512, limits.max_error_bytes + 64, 16_448)
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 0
        self._started = False
        self._held: deque[bytes] | None = None
        self._names: list[str] = []

    def hold(self) -> None:
        """Keep what follows the current frame until ``release``: the authenticator has not answered yet."""
        self._held = deque()

    def release(self) -> None:
        """Go on after ``hold``: read what was kept, in order."""
        held, self._held = self._held, None
        while held:
            data = held.popleft()
            self.receive(data)
            if self._held is not None:
                self._held.extend(held)
                return

    @property
    def held_bytes(self) -> int:
        """How much is kept by ``hold``."""
        return sum(map(len, self._held)) if self._held else 0

    def receive(self, data: Buffer) -> None:
        """Read ``data``, which continues what came before; RemoteProtocolError ends the session."""
        if self._held is not None:
            self._held.append(bytes(data))
            return
        view = data if type(data) is memoryview else memoryview(data)
        position = self._finish_partial(view) if self._pieces else 0
        if position < 0:
            return
        size = len(view)
        if not self._started:
            if size - position >= 8:
                position = self._read_first(view, position, size)
            if self._held is not None or not self._started:
                if position < size:
                    self._keep(view[position:])
                return
        on_call = self._on_call
        on_response = self._on_response
        names = self._names
        max_frame = self._max_frame
        # One unpack serves CALL and RESPONSE: a RESPONSE's codec is the low byte of a CALL's timeout. Measured: 35 %
        # less
        # per frame than a prefix and a second unpack.
        while size - position >= 20:
            kind, flags, aux, length, number, timeout, method, codec, priority = CALL_HEAD.unpack_from(view, position)
            end = position + 8 + length
            if end > size or length > max_frame:
                break
            if kind == RESPONSE and length >= 8:
                on_response(number, flags, timeout & 0xFF, view[position + 16 : end])
            elif kind == CALL and not flags and not aux and length >= 12 and method < len(names):
                on_call(number, names[method], codec, timeout, priority, None, view[position + 20 : end])
            else:
                self._read_frame(view, position, end)
            position = end
        while size - position >= 8:
            end = position + self._frame_size(view[position : position + 8])
            if end > size:
                break
            self._read_frame(view, position, end)
            position = end
        if position < size:
            self._keep(view[position:])

    def _read_first(self, view: memoryview, position: int, size: int) -> int:
        end = position + self._frame_size(view[position : position + 8])
        if end > size:
            return position
        self._read_frame(view, position, end)
        return end

    def _keep(self, rest: memoryview) -> None:
        if self._held is not None:
            self._held.append(bytes(rest))
            return
        self._pieces = [bytes(rest)]
        self._have = len(rest)
        self._need = self._frame_size(rest) if len(rest) >= 8 else 0

    def _frame_size(self, head: Buffer) -> int:
        kind, _flags, _aux, length = PREFIX.unpack_from(head)
        if not self._started:
            if kind != FrameType.SETUP:
                raise RemoteProtocolError(f"the first frame must be SETUP, not type {kind:#04x}")
            if length > self._limits.max_setup_bytes:
                raise RemoteProtocolError(
                    f"SETUP of {length} bytes, max_setup_bytes is {self._limits.max_setup_bytes}",
                    close_code=CloseCode.LIMIT,
                )
        elif length > self._max_frame:
            raise RemoteProtocolError(
                f"a control frame of type {kind:#04x} with {length} bytes: at most {self._max_frame} travel in-line",
                close_code=CloseCode.LIMIT,
            )
        return 8 + int(length)

    def _finish_partial(self, view: memoryview) -> int:
        """Take what the kept frame still needs from ``view``; the position behind it, or -1 when it is still
        incomplete.
        """
        taken = 0
        if not self._need:
            taken = min(8 - self._have, len(view))
            self._pieces.append(bytes(view[:taken]))
            self._have += taken
            if self._have < 8:
                return -1
            self._pieces = [b"".join(self._pieces)]
            self._need = self._frame_size(self._pieces[0])
        part = view[taken : taken + self._need - self._have]
        if len(part):
            self._pieces.append(bytes(part))
            self._have += len(part)
            taken += len(part)
        if self._have < self._need:
            return -1
        frame = memoryview(b"".join(self._pieces))
        self._pieces = []
        self._have = self._need = 0
        self._read_frame(frame, 0, len(frame))
        if self._held is not None:
            if taken < len(view):
                self._held.append(bytes(view[taken:]))
            return -1
        return taken

    def _read_frame(self, view: memoryview, position: int, end: int) -> None:
        """Any complete frame, the common ones included."""
        kind, flags, aux, length = PREFIX.unpack_from(view, position)
        if not self._started:
            self._started = True
            self._receiver.on_setup(decode_setup(view[position + 8 : end]))
            return
        if kind not in _KNOWN:
            if not flags & IGNORABLE:
                raise RemoteProtocolError(f"unknown frame type {kind:#04x} on the control substream")
            self._receiver.on_ignored(kind)
            return
        least = _LEAST[kind]
        if length < least:
            raise RemoteProtocolError(f"{FrameType(kind).name} of {length} bytes, at least {least} are needed")
        if kind == CALL:
            self._read_call(view, position, end, flags, aux)
        elif kind == RESPONSE:
            _, _, _, _, number, codec = RESPONSE_HEAD.unpack_from(view, position)
            self._on_response(number, flags, codec, view[position + 16 : end])
        else:
            self._read_rare(kind, flags, aux, view[position + 8 : end])

    def _read_call(self, view: memoryview, position: int, end: int, flags: int, aux: int) -> None:
        _, _, _, _, number, timeout, method, codec, priority = CALL_HEAD.unpack_from(view, position)
        position += 20
        if flags & COMPRESSED:
            codec |= PACKED
        metadata = None
        if aux:
            if position + aux > end:
                raise RemoteProtocolError("CALL: the metadata runs over the frame's end")
            metadata = view[position : position + aux]
            position += aux
        if flags & NAMED:
            name, position = read_name(view, position, end)
            if method != FULL_NAME:
                if method != len(self._names):
                    raise RemoteProtocolError(f"CALL interns a name as {method}, the next id is {len(self._names)}")
                if method >= MAX_INTERNED:
                    raise RemoteProtocolError(
                        f"CALL interns more than {MAX_INTERNED} names", close_code=CloseCode.LIMIT
                    )
                self._names.append(name)
        elif method >= len(self._names):
            raise RemoteProtocolError(f"CALL names method {method}, {len(self._names)} are interned")
        else:
            name = self._names[method]
        self._on_call(number, name, codec, timeout, priority, metadata, view[position:end])

    def _read_rare(self, kind: int, flags: int, aux: int, body: memoryview) -> None:
        receiver = self._receiver
        if kind == FrameType.PING:
            receiver.on_ping(int.from_bytes(body[:8], "little"))
        elif kind == FrameType.PONG:
            receiver.on_pong(int.from_bytes(body[:8], "little"))
        elif kind == FrameType.CANCEL:
            receiver.on_cancel(int.from_bytes(body[:4], "little"))
        elif kind == FrameType.GOAWAY:
            number = int.from_bytes(body[:4], "little") if flags & FINAL else None
            reason = bytes(body[8 : 8 + 1024]).decode(errors="replace")
            receiver.on_goaway(number, int.from_bytes(body[4:8], "little"), reason)
        elif kind == FrameType.FLOW:
            receiver.on_flow(int.from_bytes(body[:4], "little"), bool(aux & 1))
        elif kind == FrameType.SYNCED:
            receiver.on_synced(int.from_bytes(body[:4], "little"))
        else:
            raise RemoteProtocolError("a second SETUP")


_LEAST: Final = {
    int(FrameType.SETUP): 0,
    int(FrameType.CALL): 12,
    int(FrameType.RESPONSE): 8,
    int(FrameType.CANCEL): 4,
    int(FrameType.PING): 8,
    int(FrameType.PONG): 8,
    int(FrameType.GOAWAY): 8,
    int(FrameType.FLOW): 4,
    int(FrameType.SYNCED): 4,
}


def read_name(view: memoryview, position: int, end: int) -> tuple[str, int]:
    """A method's name behind its length in one byte, and the position behind it."""
    if position >= end:
        raise RemoteProtocolError("CALL: the method's name is missing")
    size = view[position]
    if not size or position + 1 + size > end:
        raise RemoteProtocolError("CALL: the method's name is empty or runs over the frame's end")
    try:
        name = bytes(view[position + 1 : position + 1 + size]).decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("CALL: the method's name is not UTF-8") from error
    return name, position + 1 + size
