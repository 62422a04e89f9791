"""Reads and writes the events substream: one per direction, opened by the side that sends events.

An event names its topic by a number that a TOPIC frame has introduced, so that the same bytes serve every session of a
broadcast. Frames are parsed where they lie, as on the control substream. Source: docs/wire.md section 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, Protocol

from echostream_core.errors import CloseCode, ConfigError, RemoteProtocolError
from echostream_core.types import Buffer
from echostream_core.wire.frames import COMPRESSED, FULL_NAME, IGNORABLE, NAMED, PACKED, PREFIX, FrameType
from echostream_core.wire.limits import MAX_INTERNED, Limits
from echostream_core.wire.topics import check_topic

__all__ = [
    "EVENT_HEAD",
    "POLICIES",
    "EventsReader",
    "EventsReceiver",
    "address_event",
    "encode_dropped",
    "encode_event",
    "encode_flow",
    "encode_sync",
    "encode_synced",
    "encode_topic",
]

EVENT_HEAD: Final = Struct("<BBHIHH")
"""prefix (aux: codec), topic number, how many subscriptions are addressed (0: all that match)."""
_EVENT: Final = 0x08
_DROPPED: Final = Struct("<BBHIII")
_SYNC: Final = Struct("<BBHII")
POLICIES: Final = ("block", "drop_oldest", "drop_newest", "conflate", "disconnect")
"""What becomes of events that a slow subscriber has no room for; on the wire by their places."""
MAX_ADDRESSED: Final = 1_024
"""Subscriptions that one EVENT names. Protocol constant: no session has more."""


def encode_event(topic: bytes, number: int, codec: int, body: bytes, flags: int = 0) -> bytes:
    """EVENT to all that match; ``topic`` stands in full when ``number`` is ``FULL_NAME``."""
    if number != FULL_NAME:
        return EVENT_HEAD.pack(_EVENT, flags, codec, 4 + len(body), number, 0) + body
    head = EVENT_HEAD.pack(_EVENT, NAMED | flags, codec, 5 + len(topic) + len(body), FULL_NAME, 0)
    return b"".join((head, bytes((len(topic),)), topic, body))


def address_event(frame: bytes, subscriptions: Sequence[int]) -> list[Buffer]:
    """The same event for ``subscriptions`` only: some others that match are not to have it, or not yet.

    In two pieces: its payload is not copied.
    """
    kind, flags, codec, length, number, _ = EVENT_HEAD.unpack_from(frame)
    count = len(subscriptions)
    head = EVENT_HEAD.pack(kind, flags, codec, length + 4 * count, number, count)
    return [head + Struct(f"<{count}I").pack(*subscriptions), memoryview(frame)[EVENT_HEAD.size :]]


def encode_topic(topic: bytes, number: int) -> bytes:
    """TOPIC: from here on ``number`` stands for ``topic``."""
    return PREFIX.pack(FrameType.TOPIC, 0, number, len(topic)) + topic


def encode_dropped(subscription: int, reason: int, count: int) -> bytes:
    """DROPPED: ``count`` more events of ``subscription`` were dropped by the sender's queue."""
    return _DROPPED.pack(FrameType.DROPPED, 0, reason, 8, subscription, count)


def encode_sync(number: int) -> bytes:
    """SYNC: everything before it was sent before flush ``number`` was asked for."""
    return _SYNC.pack(FrameType.SYNC, 0, 0, 4, number)


def encode_flow(subscription: int, *, paused: bool) -> bytes:
    """FLOW, on the control substream: hold the events of ``subscription``, or send them again."""
    return _SYNC.pack(FrameType.FLOW, 0, int(paused), 4, subscription)


def encode_synced(number: int) -> bytes:
    """SYNCED, on the control substream: all events before SYNC ``number`` have been handled."""
    return _SYNC.pack(FrameType.SYNCED, 0, 0, 4, number)


class EventsReceiver(Protocol):
    """What the reader calls. Views are valid during the call only."""

    def on_event(self, topic: str, codec: int, payload: memoryview, subscriptions: tuple[int, ...], /) -> None:
        """One event; ``codec`` with ``PACKED``: it is compressed. ``subscriptions`` empty: for all that match."""

    def on_dropped(self, subscription: int, reason: int, count: int, /) -> None:
        """The sender dropped events of ``subscription``."""

    def on_sync(self, number: int, /) -> None:
        """All events that were sent before flush ``number`` have been read."""


class EventsReader:
    """Parses the events substream for one session. Not reusable after an exception."""

    __slots__ = ("_limits", "_need", "_on_event", "_partial", "_receiver", "_topics")

    def __init__(self, receiver: EventsReceiver, limits: Limits) -> None:
        """``limits`` are ours: what the peer sends is checked against them."""
        self._receiver = receiver
        self._on_event = receiver.on_event
        self._limits = limits
        self._topics: dict[int, str] = {}
        self._partial = bytearray()  # not a list of pieces: a peer may send a frame byte by byte
        self._need = 0

    def receive(self, data: Buffer) -> None:
        """Read ``data``, which continues what came before; RemoteProtocolError ends the session."""
        view = data if type(data) is memoryview else memoryview(data)
        position = self._finish_partial(view) if self._partial else 0
        if position < 0:
            return
        size = len(view)
        topics = self._topics
        on_event = self._on_event
        most = self._limits.max_message_bytes
        while size - position >= 12:
            kind, flags, codec, length, number, count = EVENT_HEAD.unpack_from(view, position)
            end = position + 8 + length
            if end > size or length > most:
                break
            if kind == _EVENT and not flags and not count and length >= 4 and number in topics:
                on_event(topics[number], codec, view[position + 12 : end], ())
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
            self._partial = bytearray(view[position:])
            self._need = self._frame_size(self._partial) if len(self._partial) >= 8 else 0

    @property
    def between_frames(self) -> bool:
        """True when no frame is half-read: an end is clean here."""
        return not self._partial

    def _frame_size(self, head: Buffer) -> int:
        kind, _flags, _aux, length = PREFIX.unpack_from(head)
        most = self._limits.max_message_bytes + 4 * MAX_ADDRESSED + 512 if kind == _EVENT else 1_024
        if length > most:
            raise RemoteProtocolError(
                f"a frame of type {kind:#04x} with {length} bytes on the events substream: at most {most} are taken",
                close_code=CloseCode.LIMIT,
            )
        return 8 + int(length)

    def _finish_partial(self, view: memoryview) -> int:
        partial = self._partial
        taken = 0
        if not self._need:
            taken = min(8 - len(partial), len(view))
            partial += view[:taken]
            if len(partial) < 8:
                return -1
            self._need = self._frame_size(partial)
        more = min(self._need - len(partial), len(view) - taken)
        partial += view[taken : taken + more]
        if len(partial) < self._need:
            return -1
        self._partial = bytearray()
        self._need = 0
        self._read_frame(memoryview(partial), 0, len(partial))
        return taken + more

    def _read_frame(self, view: memoryview, position: int, end: int) -> None:
        kind, flags, aux, length = PREFIX.unpack_from(view, position)
        least = _LEAST.get(kind)
        if least is None:
            if not flags & IGNORABLE:
                raise RemoteProtocolError(f"frame type {kind:#04x} is not allowed on the events substream")
            return
        if length < least:
            raise RemoteProtocolError(f"{FrameType(kind).name} of {length} bytes, at least {least} are needed")
        body = view[position + 8 : end]
        if kind == _EVENT:
            self._read_event(flags, aux, body)
        elif kind == FrameType.TOPIC:
            self._introduce(aux, body)
        elif kind == FrameType.DROPPED:
            subscription, count = _TWO.unpack_from(body)
            self._receiver.on_dropped(subscription, aux, count)
        else:
            self._receiver.on_sync(int.from_bytes(body[:4], "little"))

    def _introduce(self, number: int, body: memoryview) -> None:
        if number >= MAX_INTERNED:
            raise RemoteProtocolError(
                f"TOPIC numbers a topic as {number}, numbers end at {MAX_INTERNED - 1}", close_code=CloseCode.LIMIT
            )
        if number in self._topics:
            raise RemoteProtocolError(f"TOPIC {number} is introduced a second time")
        self._topics[number] = _read_topic(body)

    def _read_event(self, flags: int, codec: int, body: memoryview) -> None:
        number, count = _TWO_SHORT.unpack_from(body)
        position = 4 + 4 * count
        if count > MAX_ADDRESSED or position > len(body):
            raise RemoteProtocolError("EVENT: the subscriptions run over the frame's end")
        addressed = Struct(f"<{count}I").unpack_from(body, 4)
        if flags & NAMED:
            size = body[position] if position < len(body) else 0
            if number != FULL_NAME or position + 1 + size > len(body):
                raise RemoteProtocolError("EVENT: the topic's name is missing, cut off, or has a number as well")
            topic = _read_topic(body[position + 1 : position + 1 + size])
            position += 1 + size
        elif number not in self._topics:
            raise RemoteProtocolError(f"EVENT names topic {number}, which was not introduced")
        else:
            topic = self._topics[number]
        payload = body[position:]
        if len(payload) > self._limits.max_message_bytes:
            raise RemoteProtocolError(
                f"an event of {len(payload)} bytes, max_message_bytes is {self._limits.max_message_bytes}",
                close_code=CloseCode.LIMIT,
            )
        self._on_event(topic, codec | PACKED if flags & COMPRESSED else codec, payload, addressed)


def _read_topic(data: memoryview) -> str:
    try:
        topic = bytes(data).decode()
        check_topic(topic)
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("a topic is not UTF-8") from error
    except ConfigError as error:
        raise RemoteProtocolError(f"a topic that breaks the rules: {error}") from error
    return topic


_TWO: Final = Struct("<II")
_TWO_SHORT: Final = Struct("<HH")
_LEAST: Final = {_EVENT: 4, int(FrameType.TOPIC): 1, int(FrameType.DROPPED): 8, int(FrameType.SYNC): 4}
