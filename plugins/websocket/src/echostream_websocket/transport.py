"""The transports ``ws://host:port/path`` and ``wss://host:port/path``. What they need is imported when it is used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError
from echostream_core.transport import Acceptor, Listener, Pipe, Transport
from echostream_core.types import Url
from echostream_websocket.options import WsOptions, WssOptions

if TYPE_CHECKING:
    from echostream_tcp.tls_transport import TlsDialer

__all__ = ["WSS_CAPABILITIES", "WS_CAPABILITIES", "WsTransport", "WssTransport"]

WS_CAPABILITIES: Final = Capabilities(
    streams="muxed", datagrams="none", reset=True, half_close=True, flow_control=True, priorities=True
)
WSS_CAPABILITIES: Final = replace(WS_CAPABILITIES, encrypted=True, peer_identity=True)
_ANONYMOUS: Final = replace(WSS_CAPABILITIES, peer_identity=False)

_O = TypeVar("_O", bound=msgspec.Struct)


class WsTransport(Transport):
    """``ws://host:port/path``: one WebSocket over TCP, one pipe."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Listen at the URL's path; other paths of the same port may have listeners of their own."""
        from echostream_websocket.ports import listen_at

        return await listen_at(bindable(url), checked(options, WsOptions), accept, WS_CAPABILITIES)

    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        """Connect, through a proxy where there is one, and shake hands."""
        from echostream_websocket.dialing import dial_websocket

        return await dial_websocket(dialable(url, 80), checked(options, WsOptions), WS_CAPABILITIES, None)


class WssTransport(Transport):
    """``wss://host:port/path``: one WebSocket over TLS, one pipe."""

    def __init__(self) -> None:
        self._dialer: TlsDialer | None = None

    def configured(self, options: msgspec.Struct, capabilities: Capabilities) -> Capabilities:
        """A listener knows its peers by ``tls.client_ca`` only; a dialer knows its listener by the certificate."""
        from echostream_tcp.tls_transport import proves_peers

        proves = proves_peers(checked(options, WssOptions).tls)
        return replace(capabilities, peer_identity=capabilities.peer_identity and proves)

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """As ``ws://``, over TLS."""
        from echostream_websocket.ports import listen_at

        settings = checked(options, WssOptions)
        capabilities = WSS_CAPABILITIES if settings.tls.client_ca else _ANONYMOUS
        return await listen_at(bindable(url), settings, accept, capabilities)

    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        """Connect, verify the certificate or compare it with the pin, and shake hands."""
        from echostream_tcp.tls_transport import TlsDialer
        from echostream_websocket.dialing import dial_websocket

        url = dialable(url, 443)
        settings = checked(options, WssOptions)
        if self._dialer is None:
            hint = "is it a server without TLS? Then its URL begins with ws://"
            self._dialer = TlsDialer(alpn="http/1.1", alpn_demanded=False, plain_hint=hint)
        return await dial_websocket(url, settings, self.configured(settings, WSS_CAPABILITIES), self._dialer)


def checked(options: msgspec.Struct, wanted: type[_O]) -> _O:
    """``options``, which must be of the type that the spec names."""
    if not isinstance(options, wanted):
        raise ConfigError(f"options of type {wanted.__name__} are needed, not {type(options).__name__}")
    return options


def bindable(url: Url) -> Url:
    """``url``; ConfigError when it does not say which port to listen at."""
    if url.port is None:
        raise ConfigError(f"{url} has no port; write {url.scheme}://{url.host or 'host'}:port{url.path}")
    return url


def dialable(url: Url, default: int) -> Url:
    """``url``, with the scheme's port where it has none; ConfigError when it cannot be dialled."""
    if not url.host:
        raise ConfigError(f"{url} has no host to connect to; write {url.scheme}://host:port/path")
    if url.port == 0:
        raise ConfigError(f"{url}: port 0 is for listeners only; write the port that the server told")
    return url if url.port is not None else replace(url, port=default)
