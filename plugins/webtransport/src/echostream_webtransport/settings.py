"""SETTINGS: what we say, so that browsers of yesterday and today take us for a WebTransport peer; what a peer must say.

Chromium speaks draft 02 of WebTransport and asks for ENABLE_WEBTRANSPORT; newer clients ask for the count of sessions
that later drafts have. Who knows only one of them ignores the other, so both are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from echostream_quic.frames import varint
from echostream_webtransport._errors import Http3Error
from echostream_webtransport.codes import H3
from echostream_webtransport.records import read_varint

__all__ = ["encode_settings", "has_datagrams", "has_webtransport", "local_settings", "parse_settings"]

QPACK_MAX_TABLE_CAPACITY: Final = 0x01
MAX_FIELD_SECTION_SIZE: Final = 0x06
QPACK_BLOCKED_STREAMS: Final = 0x07
ENABLE_CONNECT_PROTOCOL: Final = 0x08
"""RFC 9220 section 3: a server's permission for CONNECT with ``:protocol``."""
H3_DATAGRAM: Final = 0x33
H3_DATAGRAM_DRAFT04: Final = 0xFFD277
ENABLE_WEBTRANSPORT: Final = 0x2B603742
"""draft-ietf-webtrans-http3-02."""
WEBTRANSPORT_MAX_SESSIONS: Final = 0xC671706A
"""Drafts 07 to 12."""
WT_MAX_SESSIONS: Final = 0x14E9CD29
"""Drafts 13 and later."""
GREASE: Final = 0x21 + 0x1F * 0x2A
"""One of those that every peer has to ignore (RFC 9114 section 7.2.4.1)."""

_OF_HTTP2: Final = frozenset({0x00, 0x02, 0x03, 0x04, 0x05})
_FLAGS: Final = (ENABLE_CONNECT_PROTOCOL, H3_DATAGRAM)


def local_settings(max_header_bytes: int) -> dict[int, int]:
    """What we say, as listener and as dialer."""
    return {
        QPACK_MAX_TABLE_CAPACITY: 0,
        QPACK_BLOCKED_STREAMS: 0,
        MAX_FIELD_SECTION_SIZE: max_header_bytes,
        ENABLE_CONNECT_PROTOCOL: 1,
        H3_DATAGRAM: 1,
        H3_DATAGRAM_DRAFT04: 1,
        ENABLE_WEBTRANSPORT: 1,
        WEBTRANSPORT_MAX_SESSIONS: 1,
        WT_MAX_SESSIONS: 1,
        GREASE: 1,
    }


def encode_settings(settings: Mapping[int, int]) -> bytes:
    """The value of a SETTINGS frame."""
    return b"".join(varint(number) for setting in settings.items() for number in setting)


def parse_settings(value: bytes) -> dict[int, int]:
    """The settings in the value of a SETTINGS frame; Http3Error for what may not stand there."""
    settings: dict[int, int] = {}
    at = 0
    while at < len(value):
        key = read_varint(value, at)
        setting = read_varint(value, key[1]) if key is not None else None
        if key is None or setting is None:
            raise Http3Error(H3.FRAME_ERROR, "SETTINGS end in the middle of one")
        if key[0] in _OF_HTTP2 or key[0] in settings:
            raise Http3Error(H3.SETTINGS_ERROR, f"setting 0x{key[0]:x} is reserved, or there twice")
        if key[0] in _FLAGS and setting[0] > 1:
            raise Http3Error(H3.SETTINGS_ERROR, f"setting 0x{key[0]:x} must be 0 or 1")
        settings[key[0]] = setting[0]
        at = setting[1]
    return settings


def has_webtransport(settings: Mapping[int, int]) -> bool:
    """Whether a server that sent ``settings`` takes WebTransport sessions."""
    return any(settings.get(key) for key in (ENABLE_WEBTRANSPORT, WEBTRANSPORT_MAX_SESSIONS, WT_MAX_SESSIONS))


def has_datagrams(settings: Mapping[int, int]) -> bool:
    """Whether the peer takes the datagrams of HTTP/3."""
    return bool(settings.get(H3_DATAGRAM) or settings.get(H3_DATAGRAM_DRAFT04))
