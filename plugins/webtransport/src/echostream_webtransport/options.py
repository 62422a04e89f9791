"""The options of ``[transport.wt]``: those of QUIC, and what concerns HTTP."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from echostream_quic.options import QuicOptions

__all__ = ["WebTransportOptions"]

_SECRETS: Final = ("authorization", "headers")
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+")
_OURS: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"),
        *("host", "content-length", "origin", "sec-webtransport-http3-draft02"),
    }
)


class WebTransportOptions(QuicOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[transport.wt]``: what a listener and a dialer may set."""

    origins: tuple[str, ...] = ()
    """Listener: values of the Origin header that are admitted; empty: none at all, or the same host; "*": any."""
    authorization: str = ""
    """Dialer: the Authorization header that is sent. Listener: the one that is demanded. A secret."""
    origin: str = ""
    """Dialer: the Origin header that is sent; empty: none."""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Dialer: further headers of the request. Taken for secrets."""
    max_header_bytes: int = 16_384
    """Headers of one request or answer, as HTTP/3 counts them: 32 bytes more for each line."""
    max_held_streams: int = 64
    """Streams of a session that may wait until it is established; further ones are refused."""

    def __post_init__(self) -> None:
        """Refuse what could not be sent or compared later."""
        for origin in self.origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise ValueError(f'origins: write scheme://host:port without a path, or "*", not {origin!r}')
        if self.origin and not _ORIGIN.fullmatch(self.origin):
            raise ValueError(f"origin: write scheme://host:port without a path, not {self.origin!r}")
        if not _VALUE.fullmatch(self.authorization) or self.authorization != self.authorization.strip():
            raise ValueError("authorization: it must be one line of printable ASCII, such as 'Bearer …'")
        for name, value in self.headers.items():
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"headers: {name!r} cannot be the name of a header")
            if name.lower() in ("authorization", "origin"):
                raise ValueError(f"headers: set the option {name.lower()} instead of the header")
            if name.lower() in _OURS:
                raise ValueError(f"headers: {name} is not for you to set")
            if not _VALUE.fullmatch(value) or value != value.strip():
                raise ValueError(f"headers: the value of {name} must be one line of printable ASCII")

    def check(self) -> None:
        """ConfigError, naming the key, for a value that makes no sense here."""
        super().check()
        self.check_ranges(_RANGES)

    def __repr__(self) -> str:
        """The options without what may be secret."""
        shown = []
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            secret = field.name in _SECRETS and value
            shown.append(f"{field.name}={'***' if secret else repr(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


_RANGES: Final = (
    ("max_header_bytes", 1_024, 1_048_576),
    ("max_held_streams", 1, 65_536),
)
