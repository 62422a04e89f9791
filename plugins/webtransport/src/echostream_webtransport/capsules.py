"""The capsules on a session's CONNECT stream: how either side says good-bye (RFC 9297, draft-ietf-webtrans-http3)."""

from __future__ import annotations

from collections.abc import Callable

from echostream_webtransport._errors import Http3Error
from echostream_webtransport.codes import CAPSULE_CLOSE, CAPSULE_DRAIN, H3, MAX_CLOSE_REASON_BYTES
from echostream_webtransport.records import RecordReader, Take, record

__all__ = ["CapsuleReader", "close_capsule"]

_CODE_BYTES = 4


def close_capsule(code: int, reason: str) -> bytes:
    """CLOSE_WEBTRANSPORT_SESSION; a reason that is too long is cut between two characters."""
    text = reason.encode()[:MAX_CLOSE_REASON_BYTES].decode(errors="ignore").encode()
    return record(CAPSULE_CLOSE, (code & 0xFFFF_FFFF).to_bytes(_CODE_BYTES) + text)


class CapsuleReader:
    """Takes the data of a CONNECT stream, cut anywhere. ``on_close(code, reason)`` comes at most once.

    Capsules that are not known are skipped, whatever their length; of none more is kept than the longest that is.
    """

    def __init__(self, on_close: Callable[[int, str], None]) -> None:
        self._on_close = on_close
        self._reader = RecordReader(self._begin, self._whole)
        self._closed = False
        self.draining = False
        """The peer has said that it would like the session to end."""

    @property
    def in_the_middle(self) -> bool:
        """An end now would cut a capsule off."""
        return not self._closed and self._reader.in_the_middle

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Http3Error for a capsule that cannot be right."""
        if not self._closed:  # what follows the good-bye has no meaning any more
            self._reader.feed(data)

    def _begin(self, kind: int, length: int) -> Take:
        if kind == CAPSULE_CLOSE:
            if not _CODE_BYTES <= length <= _CODE_BYTES + MAX_CLOSE_REASON_BYTES:
                raise Http3Error(H3.MESSAGE_ERROR, f"CLOSE_WEBTRANSPORT_SESSION of {length} bytes")
            return Take.WHOLE
        if kind == CAPSULE_DRAIN:
            self.draining = True
        return Take.SKIP

    def _whole(self, kind: int, value: bytes) -> None:
        if not self._closed:
            self._closed = True
            self._on_close(int.from_bytes(value[:_CODE_BYTES]), value[_CODE_BYTES:].decode(errors="replace"))
