"""A small and correct pipe transport over TCP, to be made faulty: ``plain://127.0.0.1:0``.

It does by asyncio's ordinary means what the contract asks of a pipe, and is laid out so that one overridden method is
one fault. Not for use: it knows one address per host name, and reads into a buffer of its own at every turn.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.errors import ConfigError, ConnectFailed, ConnectionLost, EchoStreamError, EndOfStream
from echostream_core.hookspecs import hookimpl
from echostream_core.transport import Acceptor, Listener, Pipe, PipeReceiver, Transport, TransportSpec
from echostream_core.types import Buffer, Url

__all__ = [
    "PLAIN_CAPABILITIES",
    "SCHEME",
    "PlainListener",
    "PlainOptions",
    "PlainPipe",
    "PlainTransport",
    "echostream_transports",
    "plain_spec",
]

SCHEME: Final = "plain"
PLAIN_CAPABILITIES: Final = Capabilities(
    streams="muxed", reset=True, half_close=True, flow_control=True, priorities=True
)
HIGH_WATER_BYTES: Final = 65_536
LINGER_S: Final = 2.0
"""How long after our end the peer's is awaited: a socket closed with data on its way to it answers with a reset."""

_log: Final = logging.getLogger("echostream.plain")


class PlainOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options in ``[transport.plain]``."""

    backlog: int = 100
    """Connections that the system keeps for us until they are accepted."""

    def __post_init__(self) -> None:
        """Reject values that cannot work."""
        if self.backlog < 1:
            raise ValueError("backlog must be at least 1")


class PlainPipe(Pipe, asyncio.Protocol):
    """One TCP connection. ``accept`` is given for those that a listener makes."""

    capabilities = PLAIN_CAPABILITIES

    def __init__(self, accept: Acceptor | None = None) -> None:
        self.local_address = self.peer_address = f"{SCHEME}://?"
        self.error: EchoStreamError | None = None
        self.closing = False
        """Closed or aborted by us; nothing more is delivered but ``on_closed``."""
        self.gone = False
        self.full = False
        self.waiting = False
        self.paused = False
        self.receiver: PipeReceiver | None = None
        self._accept = accept
        self._transport: asyncio.Transport
        self._linger: asyncio.TimerHandle | None = None

    @property
    def transport(self) -> asyncio.Transport:
        """What the event loop gave us."""
        return self._transport

    # What the mux calls.

    def start(self, receiver: PipeReceiver) -> None:
        """Begin delivery."""
        self.receiver = receiver
        if self.gone:
            asyncio.get_running_loop().call_soon(self.tell_closed)
        elif not self.paused:
            self.transport.resume_reading()

    def write(self, buffers: Sequence[Buffer]) -> bool:
        """Queue ``buffers``; False while more than the mark wait."""
        if self.closing or self.gone or self.transport.is_closing():
            return True
        self.transport.write(b"".join(buffers))
        self.waiting = self.full
        return not self.full

    def pause(self) -> None:
        """Stop delivering."""
        self.paused = True
        if not (self.closing or self.gone):
            self.transport.pause_reading()

    def resume(self) -> None:
        """Deliver again."""
        self.paused = False
        if self.receiver is not None and not (self.closing or self.gone):
            self.transport.resume_reading()

    def close(self) -> None:
        """Send what is queued, end our direction, and await the end of the peer's for a moment."""
        if self.closing or self.gone:
            return
        self.closing = True
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits(0)  # resume_writing now means: all is sent
            if not self.transport.get_write_buffer_size():
                self.end_our_side()

    def abort(self) -> None:
        """End at once; the peer sees a reset."""
        if not self.gone:
            self.closing = True
            sock = self.transport.get_extra_info("socket")
            if sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there; it is read from ``start`` on."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        self._transport.pause_reading()
        self.local_address = address_of(self._transport.get_extra_info("sockname"))
        self.peer_address = address_of(self._transport.get_extra_info("peername"))
        if self._accept is not None:
            try:
                self._accept(self)
            except Exception:
                _log.exception("%s: the acceptor failed on a connection; it is dropped", self.local_address)
                self.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self.receiver is not None and not self.closing:
            self.receiver.on_data(data)

    def eof_received(self) -> bool:
        """The peer has finished: a pipe ends as a whole."""
        if not self.closing:
            self.error = EndOfStream(f"{self.peer_address} has closed the connection")
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # the peer may never read again, and closing would wait for that
        return False

    def pause_writing(self) -> None:
        """More than the mark wait."""
        self.full = True

    def resume_writing(self) -> None:
        """There is room again, or all is sent when we are closing."""
        self.full = False
        if self.closing:
            if not self.transport.is_closing():
                self.end_our_side()
        elif self.waiting and self.receiver is not None:
            self.waiting = False
            self.receiver.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.gone = True
        if self._linger is not None:
            self._linger.cancel()
        if not self.closing and self.error is None:
            self.error = self.lost(exc)
        if self.receiver is not None:
            self.tell_closed()

    # Inside.

    def lost(self, cause: Exception | None) -> EchoStreamError | None:
        """The error for an end that is neither ours nor the peer's."""
        error = ConnectionLost(f"the connection to {self.peer_address} is lost: {cause or 'it was cut off'}")
        error.__cause__ = cause
        return error

    def tell_closed(self) -> None:
        """The last callback."""
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.on_closed(self.error)

    def end_our_side(self) -> None:
        """All is sent."""
        try:
            self.transport.write_eof()
        except OSError:  # the peer was faster with a reset
            self.transport.abort()
            return
        self.transport.resume_reading()
        if self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)


class PlainListener(Listener):
    """One listening socket."""

    def __init__(self, server: asyncio.Server) -> None:
        self.server = server
        self.addresses = tuple(address_of(sock.getsockname()) for sock in server.sockets)

    async def close(self) -> None:
        """Free the address. ``wait_closed`` would wait for the connections, which go on."""
        self.server.close()


class PlainTransport(Transport):
    """``plain://127.0.0.1:PORT``."""

    pipe_class: Callable[[Acceptor | None], PlainPipe] = PlainPipe
    listener_class: Callable[[asyncio.Server], PlainListener] = PlainListener
    reuse_port: bool = False

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        """Bind ``url``."""
        if url.port is None:
            raise ConfigError(f"{url} has no port: write {SCHEME}://host:port")
        backlog = getattr(options, "backlog", 100)  # a mutation may bring options of its own
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: self.pipe_class(accept),
                url.host,
                url.port,
                backlog=backlog,
                reuse_port=self.reuse_port or None,
            )
        except OSError as error:
            raise ConnectFailed(f"cannot listen at {url}: {error.strerror}; choose another port, 0 for any") from error
        return self.listener_class(server)

    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        """Connect to ``url``."""
        if not url.port:
            raise ConfigError(f"{url} has no port to connect to: write {SCHEME}://host:port")
        pipe = self.pipe_class(None)
        try:
            await asyncio.get_running_loop().create_connection(lambda: pipe, url.host, url.port)
        except OSError as error:
            raise ConnectFailed(f"nobody listens at {url}; is the server started?") from error
        return pipe


def address_of(name: tuple[str, int] | None) -> str:
    """A socket's name as a URL."""
    return f"{SCHEME}://{name[0]}:{name[1]}" if name else f"{SCHEME}://?"


def plain_spec(
    factory: Callable[[], Transport] = PlainTransport,
    capabilities: Capabilities = PLAIN_CAPABILITIES,
    options: type[msgspec.Struct] = PlainOptions,
) -> TransportSpec:
    """The transport's spec, or that of a faulty variant."""
    return TransportSpec(
        scheme=SCHEME, factory=factory, capabilities=capabilities, options=options, summary="TCP, plain and simple"
    )


@hookimpl
def echostream_transports() -> Sequence[TransportSpec]:
    """Offer it, where a test has installed it."""
    return [plain_spec()]
