"""What can be configured: ``[transport.ws]`` and ``[transport.wss]``.

Listeners and dialers share a section; what is for one of them only says so.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Final

import msgspec

from echostream_core.tls_options import TlsOptions

__all__ = ["PORT_WIDE", "WsOptions", "WssOptions"]

PORT_WIDE: Final = (
    "tls",
    "backlog",
    "handshake_timeout_s",
    "max_handshakes",
    "max_handshakes_per_address",
    "trusted_proxies",
)
"""Settings that all listeners on one port share; the others are each path's own."""

_SECRETS: Final = ("authorization", "headers", "proxy")
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")
_OURS: Final = frozenset(
    {"host", "upgrade", "connection", "origin", "content-length", "transfer-encoding", "proxy-authorization"}
)


class WsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of ``ws://``."""

    backlog: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 1_024
    """Connections that may wait to be accepted; the system has a maximum of its own (net.core.somaxconn)."""
    handshake_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """How long the handshakes, TLS's included, may take: on a listener in all, on a dialer each."""
    max_handshakes: Annotated[int, msgspec.Meta(ge=1)] = 4_096
    """Listener: connections of one port that have not finished the handshake; further ones are closed at once."""
    max_handshakes_per_address: Annotated[int, msgspec.Meta(ge=1)] = 1_024
    """The same for one address; ``trusted_proxies`` are exempt."""
    max_message_bytes: Annotated[int, msgspec.Meta(ge=125, le=1 << 40)] = 1_048_576
    """A larger message from the peer ends the connection with code 1009. Ours have no more than this either, and 64 KiB
    at most: below that, set it at both ends."""
    ping_interval_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How often an empty WebSocket ping is sent; 0: never, the session's own PING keeps the connection alive."""
    origins: list[str] = []
    """Listener: values of the Origin header that are admitted; empty: none at all, or the same host; "*": any."""
    authorization: str = ""
    """Dialer: the Authorization header that is sent. Listener: the one that is demanded. A secret."""
    insecure_authorization: bool = False
    """Dialer: send ``authorization`` and ``headers`` over ``ws://`` to other machines too, readable by all between."""
    headers: dict[str, str] = {}
    """Dialer: further headers of the request. Taken for secrets."""
    proxy: str = "auto"
    """Dialer: "auto" (environment and system, but never for loopback), "none", or a URL: http, https, socks4, socks4a,
    socks5 or socks5h."""
    health_path: str = "/health"
    """Listener: where a plain GET is answered with 200 and {"status":"ok"}; empty: nowhere."""
    pages: dict[str, str] = {}
    """Listener: path of the URL → a file, or a folder, that a plain GET is answered with. Read at the start."""
    trusted_proxies: list[str] = []
    """Listener: addresses and networks whose X-Forwarded-For says who the peer is."""

    def __post_init__(self) -> None:
        """Refuse what could not be used later."""
        for value in self.trusted_proxies:
            try:
                ip_network(value)
            except ValueError as error:
                raise ValueError(f"trusted_proxies: {value!r} is no address and no network: {error}") from error
        for origin in self.origins:
            _check_origin(origin)
        for path in (self.health_path, *self.pages):
            if path and not path.startswith("/"):
                raise ValueError(f"{'pages' if path in self.pages else 'health_path'}: {path!r} must begin with /")
        if not _VALUE.fullmatch(self.authorization) or self.authorization != self.authorization.strip():
            raise ValueError("authorization: it must be one line of printable ASCII, such as 'Bearer …'")
        for name, value in self.headers.items():
            _check_header(name, value)
        if self.proxy not in ("auto", "none") and "://" not in self.proxy:
            raise ValueError('proxy: write "auto", "none" or a URL such as http://host:port')

    def __repr__(self) -> str:
        """The options without what may be secret."""
        shown = []
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            default = field.default
            if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            if value != default:
                secret = field.name in _SECRETS and value not in ("", "auto", "none", {})
                shown.append(f"{field.name}={'***' if secret else repr(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


class WssOptions(WsOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of ``wss://``."""

    tls: TlsOptions = TlsOptions()
    """Certificates and whom to trust."""


def _check_origin(origin: str) -> None:
    """Refuse, besides nonsense, what no browser ever sends: who wrote it would wonder why all are turned away."""
    if origin in ("*", "null"):
        return
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
        raise ValueError(f'origins: write scheme://host:port without a path, or "*", not {origin!r}')
    if origin.startswith(("ws://", "wss://")):
        raise ValueError(f"origins: {origin!r} is no page's: pages come from http:// or https://")
    if "*" in origin:
        raise ValueError(f'origins: there are no patterns such as {origin!r}: list each origin, or "*" for all')
    if not origin.isascii():
        raise ValueError(f"origins: write the host of {origin!r} as browsers send it, in ASCII (xn--…)")


def _check_header(name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"headers: {name!r} cannot be the name of a header")
    lower = name.lower()
    if lower == "authorization":
        raise ValueError("headers: set the option authorization instead of the header")
    if lower in _OURS or lower.startswith("sec-websocket-"):
        raise ValueError(f"headers: {name} is not for you to set")
    if not _VALUE.fullmatch(value) or value != value.strip():
        raise ValueError(f"headers: the value of {name} must be one line of printable ASCII")
