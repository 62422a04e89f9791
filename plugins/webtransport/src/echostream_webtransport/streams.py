"""The streams that are HTTP/3's own: control, QPACK's two, requests. Each stands where a substream would."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from echostream_webtransport._errors import Http3Error, StreamError
from echostream_webtransport.codes import (
    FRAME_CANCEL_PUSH,
    FRAME_DATA,
    FRAME_GOAWAY,
    FRAME_HEADERS,
    FRAME_MAX_PUSH_ID,
    FRAME_PUSH_PROMISE,
    FRAME_SETTINGS,
    FRAMES_OF_HTTP2,
    H3,
)
from echostream_webtransport.records import RecordReader, Take, read_varint, record
from echostream_webtransport.settings import parse_settings

if TYPE_CHECKING:
    from echostream_quic.substreams import SubstreamState
    from echostream_webtransport.dialect import WebTransport

__all__ = ["ControlStream", "CriticalStream", "IgnoredStream", "OwnStream", "QpackStream", "RequestStream"]

MAX_CONTROL_FRAME_BYTES: Final = 4_096
"""The longest frame on the control stream that has a meaning for us is SETTINGS, of some 60 bytes."""


class OwnStream:
    """A stream that the dialect reads and writes itself. What arrives is consumed at once, and kept only bounded."""

    def __init__(self, dialect: WebTransport, state: SubstreamState) -> None:
        self.dialect = dialect
        self.state = state
        self._told_end = False
        self._told_stop = False
        state.substream = self

    # What the connection calls

    def deliver(self) -> None:
        """Something has changed."""
        try:
            self._deliver()
        except Http3Error as error:
            self.dialect.broken(error)
        except StreamError as error:
            self.give_up(error.code)
            self.dialect.on_malformed(error)

    def relieved(self) -> None:
        """The queue has room again: what is written here is small, and nobody waits for it."""

    def lost(self) -> None:
        """The connection has ended."""
        self.state.outgoing.drop()

    def _deliver(self) -> None:
        state = self.state
        if state.incoming and not state.stopped:
            incoming, state.incoming = state.incoming, []
            data = b"".join(incoming)
            self.dialect.connection.consumed(state, len(data))
            self.on_data(data)
        if not self._told_end and (state.reset_code is not None or state.ended):
            self._told_end = True
            if state.reset_code is not None:
                self.on_reset(state.reset_code)
            else:
                self.on_end()
        if state.stop_code is not None and not self._told_stop:
            self._told_stop = True
            self.on_stop(state.stop_code)

    # What a kind of stream does

    def on_data(self, data: bytes) -> None:
        """The next bytes."""

    def on_end(self) -> None:
        """The peer has finished."""

    def on_reset(self, code: int) -> None:
        """The peer has given up."""

    def on_stop(self, code: int) -> None:
        """The peer reads no more; it gets the answer that QUIC wants."""
        self.dialect.connection.engine.substreams.reset(self.state, code)

    # What the dialect calls

    def write(self, data: bytes, *, end: bool = False) -> None:
        """Send ``data``, and the end if ``end``."""
        outgoing = self.state.outgoing
        if outgoing.ended or outgoing.reset_code is not None:
            return
        outgoing.push([data], end=end)
        connection = self.dialect.connection
        connection.engine.substreams.ready(self.state)
        connection.turn_soon()

    def give_up(self, code: int) -> None:
        """Neither read nor write any more."""
        connection = self.dialect.connection
        connection.engine.substreams.reset(self.state, code)
        connection.engine.substreams.stop(self.state, code)
        connection.turn_soon()


class IgnoredStream(OwnStream):
    """A stream of which we want to know nothing."""

    def __init__(self, dialect: WebTransport, state: SubstreamState, code: int) -> None:
        super().__init__(dialect, state)
        self.give_up(code)


class CriticalStream(OwnStream):
    """One that lasts as long as the connection (RFC 9114 section 6.2.1)."""

    def on_end(self) -> None:
        """The peer ended what may not end."""
        raise Http3Error(H3.CLOSED_CRITICAL_STREAM, "a critical stream was closed")

    def on_reset(self, code: int) -> None:
        """The same, rudely."""
        self.on_end()

    def on_stop(self, code: int) -> None:
        """The peer does not read what it has to."""
        self.on_end()


class ControlStream(CriticalStream):
    """SETTINGS first, then little."""

    def __init__(self, dialect: WebTransport, state: SubstreamState) -> None:
        super().__init__(dialect, state)
        self._reader = RecordReader(self._begin, self._whole)
        self._settled = False
        self._goaway: int | None = None

    def on_data(self, data: bytes) -> None:
        """Frames."""
        self._reader.feed(data)

    def _begin(self, kind: int, length: int) -> Take:
        if kind == FRAME_SETTINGS:
            if self._settled:
                raise Http3Error(H3.FRAME_UNEXPECTED, "SETTINGS twice")
        elif not self._settled:
            raise Http3Error(H3.MISSING_SETTINGS, "the control stream does not begin with SETTINGS")
        if kind in (FRAME_DATA, FRAME_HEADERS, FRAME_PUSH_PROMISE) or kind in FRAMES_OF_HTTP2:
            raise Http3Error(H3.FRAME_UNEXPECTED, f"frame 0x{kind:x} on the control stream")
        if kind == FRAME_MAX_PUSH_ID and self.dialect.dials:
            raise Http3Error(H3.FRAME_UNEXPECTED, "MAX_PUSH_ID from a server")
        if kind not in (FRAME_SETTINGS, FRAME_GOAWAY, FRAME_MAX_PUSH_ID, FRAME_CANCEL_PUSH):
            return Take.SKIP
        if length > MAX_CONTROL_FRAME_BYTES:
            raise Http3Error(H3.EXCESSIVE_LOAD, f"a frame of {length} bytes on the control stream")
        return Take.WHOLE

    def _whole(self, kind: int, value: bytes) -> None:
        if kind == FRAME_SETTINGS:
            self._settled = True
            self.dialect.on_settings(parse_settings(value))
            return
        number = read_varint(value)
        if number is None or number[1] != len(value):
            raise Http3Error(H3.FRAME_ERROR, f"frame 0x{kind:x} of {len(value)} bytes")
        if kind == FRAME_CANCEL_PUSH:
            raise Http3Error(H3.ID_ERROR, "CANCEL_PUSH, and there are no pushes")
        if kind == FRAME_GOAWAY:
            if self._goaway is not None and number[0] > self._goaway:
                raise Http3Error(H3.ID_ERROR, "GOAWAY takes back what it said")
            self._goaway = number[0]  # the session that there is goes on; there will be no other


class QpackStream(CriticalStream):
    """One of QPACK's two streams; without a dynamic table they are all but silent."""

    def __init__(self, dialect: WebTransport, state: SubstreamState, feed: Callable[[bytes], None]) -> None:
        super().__init__(dialect, state)
        self._feed = feed

    def on_data(self, data: bytes) -> None:
        """Instructions."""
        self._feed(data)


class RequestStream(OwnStream):
    """One request and its answer. What it means is told to the dialect: ``on_headers``, ``on_body``, ``on_over``."""

    def __init__(self, dialect: WebTransport, state: SubstreamState) -> None:
        super().__init__(dialect, state)
        self._reader = RecordReader(self._begin, self._whole, self._piece)
        self.headers_seen = False
        """The first header section has been read; the next one is the trailers."""

    def on_data(self, data: bytes) -> None:
        """Frames."""
        self._reader.feed(data)

    def on_end(self) -> None:
        """The request, or the answer, is complete."""
        if not self.headers_seen:
            raise StreamError(H3.REQUEST_INCOMPLETE, "it has no headers")
        self.dialect.on_over(self, None)

    def on_reset(self, code: int) -> None:
        """The peer has given it up."""
        self.dialect.on_over(self, code)

    def on_stop(self, code: int) -> None:
        """The peer does not want our half any more: a session cannot go on without it."""
        super().on_stop(code)
        self.dialect.on_over(self, code)

    def send_headers(self, block: bytes, *, end: bool = False) -> None:
        """Send a header section."""
        self.write(record(FRAME_HEADERS, block), end=end)

    def send_data(self, data: bytes, *, end: bool = False) -> None:
        """Send a part of the body."""
        self.write(record(FRAME_DATA, data), end=end)

    def _begin(self, kind: int, length: int) -> Take:
        if kind == FRAME_DATA:
            if not self.headers_seen:
                raise Http3Error(H3.FRAME_UNEXPECTED, "DATA before HEADERS")
            return Take.PIECES
        if kind == FRAME_HEADERS:
            if length > self.dialect.options.max_header_bytes:
                raise Http3Error(H3.EXCESSIVE_LOAD, f"HEADERS of {length} bytes (max_header_bytes)")
            return Take.WHOLE
        if kind in FRAMES_OF_HTTP2 or kind in _NOT_IN_REQUESTS:
            raise Http3Error(H3.FRAME_UNEXPECTED, f"frame 0x{kind:x} in a request")
        return Take.SKIP

    def _whole(self, kind: int, value: bytes) -> None:
        if self.headers_seen:
            return  # trailers: nothing in them has a meaning here
        self.headers_seen = self.dialect.on_headers(self, value)

    def _piece(self, data: bytes) -> None:
        self.dialect.on_body(self, data)


_NOT_IN_REQUESTS: Final = frozenset(
    {FRAME_CANCEL_PUSH, FRAME_SETTINGS, FRAME_PUSH_PROMISE, FRAME_GOAWAY, FRAME_MAX_PUSH_ID}
)
