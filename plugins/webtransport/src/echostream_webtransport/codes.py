"""Numbers: of HTTP/3 and of WebTransport, and how codes of 32 bits travel among HTTP/3's own.

Sources: RFC 9114 section 8.1, RFC 9204 section 6, RFC 9297, draft-ietf-webtrans-http3 (02 and later).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from echostream_core.errors import CloseCode

__all__ = [
    "CAPSULE_CLOSE",
    "CAPSULE_DRAIN",
    "FRAME_DATA",
    "FRAME_HEADERS",
    "FRAME_WEBTRANSPORT",
    "H3",
    "STREAM_WEBTRANSPORT",
    "code_from_wire",
    "code_to_wire",
    "is_application",
    "name_of",
]


class H3(IntEnum):
    """Errors of HTTP/3, QPACK and WebTransport."""

    DATAGRAM_ERROR = 0x33
    NO_ERROR = 0x100
    GENERAL_PROTOCOL_ERROR = 0x101
    INTERNAL_ERROR = 0x102
    STREAM_CREATION_ERROR = 0x103
    CLOSED_CRITICAL_STREAM = 0x104
    FRAME_UNEXPECTED = 0x105
    FRAME_ERROR = 0x106
    EXCESSIVE_LOAD = 0x107
    ID_ERROR = 0x108
    SETTINGS_ERROR = 0x109
    MISSING_SETTINGS = 0x10A
    REQUEST_REJECTED = 0x10B
    REQUEST_CANCELLED = 0x10C
    REQUEST_INCOMPLETE = 0x10D
    MESSAGE_ERROR = 0x10E
    CONNECT_ERROR = 0x10F
    VERSION_FALLBACK = 0x110
    QPACK_DECOMPRESSION_FAILED = 0x200
    QPACK_ENCODER_STREAM_ERROR = 0x201
    QPACK_DECODER_STREAM_ERROR = 0x202
    WEBTRANSPORT_SESSION_GONE = 0x170D7B68
    WEBTRANSPORT_BUFFERED_STREAM_REJECTED = 0x3994BD84


FRAME_DATA: Final = 0x00
FRAME_HEADERS: Final = 0x01
FRAME_CANCEL_PUSH: Final = 0x03
FRAME_SETTINGS: Final = 0x04
FRAME_PUSH_PROMISE: Final = 0x05
FRAME_GOAWAY: Final = 0x07
FRAME_MAX_PUSH_ID: Final = 0x0D
FRAME_WEBTRANSPORT: Final = 0x41
"""Begins a bidirectional WebTransport stream; behind it stands the session's id where others have a length."""
FRAMES_OF_HTTP2: Final = frozenset({0x02, 0x06, 0x08, 0x09})
"""Reserved, and an error wherever they appear (RFC 9114 section 7.2.8)."""

STREAM_CONTROL: Final = 0x00
STREAM_PUSH: Final = 0x01
STREAM_QPACK_ENCODER: Final = 0x02
STREAM_QPACK_DECODER: Final = 0x03
STREAM_WEBTRANSPORT: Final = 0x54

CAPSULE_CLOSE: Final = 0x2843
CAPSULE_DRAIN: Final = 0x78AE
MAX_CLOSE_REASON_BYTES: Final = 1_024

_FIRST: Final = 0x52E4A40FA8DB
_LAST: Final = 0x52E5AC983162


def code_to_wire(code: int) -> int:
    """An application's 32-bit code as an error of HTTP/3: the reserved ones (0x1f * n + 0x21) are left out."""
    code &= 0xFFFF_FFFF
    return _FIRST + code + code // 0x1E


def code_from_wire(code: int) -> int:
    """The application's code that ``code`` stands for. Errors that are HTTP/3's own become the nearest of ours."""
    if not is_application(code):
        return int(_OURS.get(code, CloseCode.INTERNAL))
    shifted = code - _FIRST
    return shifted - shifted // 0x1F


def is_application(code: int) -> bool:
    """Whether ``code`` stands for a code of an application."""
    return _FIRST <= code <= _LAST and (code - 0x21) % 0x1F != 0


def name_of(code: int) -> str:
    """An error of HTTP/3 by name and number."""
    try:
        return f"H3_{H3(code).name} (0x{code:x})"
    except ValueError:
        return f"HTTP/3 error 0x{code:x}"


_OURS: Final[dict[int, CloseCode]] = {
    H3.NO_ERROR: CloseCode.OK,
    H3.REQUEST_CANCELLED: CloseCode.CANCELLED,
    H3.WEBTRANSPORT_SESSION_GONE: CloseCode.CANCELLED,
    H3.REQUEST_REJECTED: CloseCode.REFUSED,
    H3.WEBTRANSPORT_BUFFERED_STREAM_REJECTED: CloseCode.REFUSED,
    H3.EXCESSIVE_LOAD: CloseCode.LIMIT,
}
