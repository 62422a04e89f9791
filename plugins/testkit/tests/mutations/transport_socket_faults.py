"""Faults of what opens sockets: addresses, dials, listeners, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

import msgspec

from echostream_core.errors import ConnectFailed
from echostream_core.transport import Acceptor, Connection, Listener, Pipe
from echostream_core.types import Url
from plugins.testkit.tests.mutations.transport_mutation import Mutation, pipe
from plugins.testkit.tests.mutations.transport_pipe import PlainListener, PlainPipe, PlainTransport

__all__ = ["ALIVE", "LEFT_SOCKETS", "SOCKET_FAULTS", "TASKS"]


LEFT_SOCKETS: Final[list[socket.socket]] = []
"""Sockets that faulty transports have left open; whoever runs a mutation closes them."""

# Listening and dialling.


class AddressesKeepPortZero(PlainListener):
    def __init__(self, server: asyncio.Server) -> None:
        super().__init__(server)
        self.addresses = ("plain://127.0.0.1:0",)


class AddressesOfAnotherScheme(PlainListener):
    def __init__(self, server: asyncio.Server) -> None:
        super().__init__(server)
        self.addresses = tuple(address.replace("plain", "tcp") for address in self.addresses)


class ConnectionsWithoutAddresses(PlainPipe):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._accept is None:
            self.peer_address = "127.0.0.1"


class SharesItsPort(PlainTransport):
    """A port in use is no error: every listener of the machine may have it too."""

    reuse_port = True


class BindsWithoutTranslation(PlainTransport):
    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        try:
            return await super().listen(url, options, accept)
        except ConnectFailed as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None


class DialsWithoutTranslation(PlainTransport):
    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        try:
            return await super().dial(url, options)
        except ConnectFailed as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None


class DialsWithoutCause(PlainTransport):
    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        try:
            return await super().dial(url, options)
        except ConnectFailed as error:
            raise ConnectFailed(str(error)) from None


class DialSaysNotWhere(PlainTransport):
    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        try:
            return await super().dial(url, options)
        except ConnectFailed as error:
            raise ConnectFailed("connection refused") from error.__cause__


class CancelledDialLeavesItsSocket(PlainTransport):
    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        loop = asyncio.get_running_loop()
        pipe = self.pipe_class(None)
        sock = socket.socket()
        sock.setblocking(False)
        LEFT_SOCKETS.append(sock)
        try:
            await loop.sock_connect(sock, (url.host, url.port or 0))
        except OSError as error:
            sock.close()
            raise ConnectFailed(f"nobody listens at {url}") from error
        await loop.create_connection(lambda: pipe, sock=sock)
        LEFT_SOCKETS.remove(sock)
        return pipe


class FailedDialLeavesItsSocket(PlainTransport):
    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (url.host, url.port or 0))
        except OSError as error:
            LEFT_SOCKETS.append(sock)
            raise ConnectFailed(f"nobody listens at {url}") from error
        sock.close()
        return await super().dial(url, options)


class CancelledDialGoesOn(PlainTransport):
    """The work is done by a task that nobody cancels."""

    async def dial(self, url: Url, options: msgspec.Struct) -> Pipe:
        return await asyncio.shield(asyncio.ensure_future(super().dial(url, options)))


class CloseTakesConnectionsAlong(PlainTransport):
    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        accepted: list[Connection | Pipe] = []

        def remember(made: Connection | Pipe) -> None:
            accepted.append(made)
            accept(made)

        listener = await super().listen(url, options, remember)
        assert isinstance(listener, PlainListener)
        return _Greedy(listener.server, accepted)


class _Greedy(PlainListener):
    def __init__(self, server: asyncio.Server, accepted: list[Connection | Pipe]) -> None:
        super().__init__(server)
        self.accepted = accepted

    async def close(self) -> None:
        for made in self.accepted:
            made.abort()
        await super().close()


class CloseWaitsForConnections(PlainListener):
    """As ``Server.wait_closed`` does from Python 3.12.1 on; but the suite, when it tidies up, does not wait again."""

    asked = False

    async def close(self) -> None:
        await super().close()
        asked, self.asked = self.asked, True
        while not asked and any(not pipe.gone for pipe in ALIVE):
            await asyncio.sleep(0.001)


class Alive(PlainPipe):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        ALIVE.append(self)
        super().connection_made(transport)


ALIVE: Final[list[PlainPipe]] = []


class CloseKeepsListening(PlainListener):
    async def close(self) -> None:
        LEFT_SOCKETS.extend(sock.dup() if hasattr(sock, "dup") else sock for sock in self.server.sockets)
        await super().close()


# What is left behind.


class LeavesADescriptor(PlainPipe):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        LEFT_SOCKETS.append(socket.socket(fileno=os.dup(sock.fileno())))


class LeavesATask(PlainPipe):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        TASKS.append(asyncio.ensure_future(asyncio.sleep(3_600)))


TASKS: Final[list[asyncio.Task[None]]] = []


class KeepsItsConnections(PlainTransport):
    """A list of all connections that is only ever added to."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        kept: list[Connection | Pipe] = []

        def remember(made: Connection | Pipe) -> None:
            kept.append(made)
            accept(made)

        return await super().listen(url, options, remember)


ADDRESSES = (
    pipe("keeps port 0 in its addresses", "test_addresses_can_be_dialled", listener=AddressesKeepPortZero),
    pipe("gives addresses of another scheme", "test_addresses_can_be_dialled", listener=AddressesOfAnotherScheme),
    pipe("does not know the peer's URL", "test_connections_know_both_addresses", pipe=ConnectionsWithoutAddresses),
    pipe(
        "shares a port that is in use", "test_socket_handover_absent_refuses_a_second_listener", transport=SharesItsPort
    ),
    pipe(
        "raises OSError when it cannot bind",
        "test_address_that_cannot_be_bound_is_connect_failed",
        transport=BindsWithoutTranslation,
    ),
    pipe(
        "raises OSError when refused",
        "test_dial_without_a_listener_is_connect_failed",
        "test_foreign_errors_stay_inside",
        transport=DialsWithoutTranslation,
    ),
    pipe("loses the cause of a failed dial", "test_failed_dial_chains_its_cause", transport=DialsWithoutCause),
    pipe("does not say whom it dialled", "test_dial_without_a_listener_is_connect_failed", transport=DialSaysNotWhere),
    pipe(
        "leaves the socket of a cancelled dial",
        "test_cancelled_dial_leaves_nothing_behind",
        transport=CancelledDialLeavesItsSocket,
    ),
    pipe(
        "goes on with a cancelled dial",
        "test_cancelled_dial_leaves_nothing_behind",
        transport=CancelledDialGoesOn,
        pipe=Alive,  # else it depends on the garbage collector how long the connection stays
    ),
    pipe(
        "leaves the socket of a refused dial",
        "test_failed_dials_leave_nothing_behind",
        transport=FailedDialLeavesItsSocket,
    ),
    pipe(
        "closes its connections with the listener",
        "test_draining_listener_keeps_its_connections",
        "test_draining_listener_loses_nothing",
        transport=CloseTakesConnectionsAlong,
    ),
    pipe(
        "waits for its connections to close the listener",
        "test_draining_listener_keeps_its_connections",
        listener=CloseWaitsForConnections,
        pipe=Alive,
    ),
    pipe("goes on listening after close", "test_address_is_free_after_close", listener=CloseKeepsListening),
)

LEFTOVERS = (
    pipe(
        "leaves a descriptor per connection",
        "test_closing_leaves_no_task_and_no_descriptor",
        "test_aborting_leaves_no_task_and_no_descriptor",
        pipe=LeavesADescriptor,
    ),
    pipe("leaves a task per connection", "test_closing_leaves_no_task_and_no_descriptor", pipe=LeavesATask),
    pipe("keeps its connections for ever", "test_closed_connections_are_forgotten", transport=KeepsItsConnections),
)

SOCKET_FAULTS: Final[tuple[Mutation, ...]] = (*ADDRESSES, *LEFTOVERS)
