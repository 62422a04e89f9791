"""Faults of listening and dialling, and what they leave behind."""

from __future__ import annotations

import asyncio
import os
from typing import ClassVar, Final

import msgspec

from echostream_core.errors import ConnectFailed, ConnectionLost
from echostream_core.transport import (
    Acceptor,
    Connection,
    ConnectionReceiver,
    Listener,
    Pipe,
)
from echostream_core.types import Url
from plugins.testkit.tests.mutations.transport_mutation import Mutation, native
from plugins.testkit.tests.mutations.transport_native import (
    LayeredConnection,
    LayeredListener,
    LayeredTransport,
)

__all__ = ["DIAL_FAULTS", "LEFT"]


# Listening and dialling.


class RaisesOSError(LayeredTransport):
    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        try:
            return await super().dial(url, options)
        except ConnectFailed as error:
            raise ConnectionRefusedError(111, "Connection refused") from error


class WaitsForAListener(LayeredTransport):
    """A dial to nobody goes on trying."""

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        while True:
            try:
                return await super().dial(url, options)
            except ConnectFailed:
                await asyncio.sleep(0.05)


class DialGoesOnWhenCancelled(LayeredTransport):
    """A task of its own does the work, and nobody cancels that: the connection comes about, and nobody has it."""

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        return await asyncio.shield(asyncio.ensure_future(super().dial(url, options)))


class DialLeavesATask(LayeredTransport):
    """Cancelled, it leaves the task that should have watched over it."""

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        watch = asyncio.create_task(asyncio.sleep(3_600))
        connection = await super().dial(url, options)
        watch.cancel()
        return connection


class DialLeavesADescriptor(LayeredTransport):
    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        LEFT.append(os.open(os.devnull, os.O_RDONLY))
        connection = await super().dial(url, options)
        os.close(LEFT.pop())
        return connection


class RefusesDialsAtOnce(LayeredTransport):
    running: ClassVar[list[Url]] = []

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        if len(self.running) >= 8:
            raise ConnectFailed(f"{url}: eight dials are under way")
        self.running.append(url)
        try:
            return await super().dial(url, options)
        finally:
            self.running.remove(url)


class BadAddressIsAForeignError(LayeredTransport):
    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        if not url.host:
            raise ValueError(f"{url} has no name")
        return await super().dial(url, options)


class CloseTakesConnectionsAlong(LayeredListener):
    async def close(self) -> None:
        for connection in self.accepted:
            connection.close(6, "the listener is closed")
        await super().close()


class CloseKeepsTheAddress(LayeredListener):
    async def close(self) -> None:
        pass


class KeepsTheAddressWhileConnected(LayeredListener):
    """The address is free once the last connection has gone."""

    async def close(self) -> None:
        while any(not getattr(connection.inner, "closed", True) for connection in self.accepted):
            await asyncio.sleep(0.01)
        await super().close()


class DialsTheNewestListener(LayeredTransport):
    """Whatever is dialled, the listener that came last answers."""

    newest: ClassVar[list[Url]] = []

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        listener = await super().listen(url, options, accept)
        self.newest[:] = [url]
        return listener

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection:
        return await super().dial(self.newest[0], options)


class SecondListenerCloseIsAnError(LayeredListener):
    closed = False

    async def close(self) -> None:
        if self.closed:
            raise ConnectionLost("the listener is closed already")
        self.closed = True
        await super().close()


class OneFailureEndsTheListener(LayeredTransport):
    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        failed = False

        def accept_until_failure(connection: Connection | Pipe) -> None:
            nonlocal failed
            if failed:
                raise ConnectFailed("the acceptor has failed before")
            try:
                accept(connection)
            except Exception:
                failed = True
                raise

        return await super().listen(url, options, accept_until_failure)


# What is left behind.


class LeavesATask(LayeredConnection):
    """Each connection has a task that watches it, also when it is gone."""

    def start(self, receiver: ConnectionReceiver) -> None:
        self.watch = asyncio.ensure_future(asyncio.sleep(3_600))
        super().start(receiver)


class LeavesADescriptor(LayeredConnection):
    def start(self, receiver: ConnectionReceiver) -> None:
        LEFT.append(os.open(os.devnull, os.O_RDONLY))
        super().start(receiver)


LEFT: Final[list[int]] = []
"""Descriptors that faulty transports have left open; whoever runs a mutation closes them."""


class KeepsItsConnections(LayeredTransport):
    """A list of all connections that is only ever added to."""

    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        kept: list[Connection | Pipe] = []

        def remember(made: Connection | Pipe) -> None:
            kept.append(made)
            accept(made)

        return await super().listen(url, options, remember)


DIALS = (
    native(
        "raises OSError at a dial to nobody", "test_dial_without_a_listener_is_connect_failed", transport=RaisesOSError
    ),
    native("waits for a listener", "test_dial_without_a_listener_is_connect_failed", transport=WaitsForAListener),
    native(
        "goes on with a cancelled dial",
        "test_cancelled_dial_leaves_nothing_behind",
        transport=DialGoesOnWhenCancelled,
    ),
    native("leaves a task of a cancelled dial", "test_cancelled_dial_leaves_nothing_behind", transport=DialLeavesATask),
    native(
        "leaves a descriptor of a failed dial",
        "test_cancelled_dial_leaves_nothing_behind",
        "test_failed_dials_leave_nothing_behind",
        transport=DialLeavesADescriptor,
    ),
    native("refuses the ninth dial at once", "test_dials_at_once_all_succeed", transport=RefusesDialsAtOnce),
    native(
        "raises ValueError for a bad address",
        "test_address_that_is_no_address_is_a_config_error",
        transport=BadAddressIsAForeignError,
    ),
    native(
        "closes its connections with the listener",
        "test_draining_listener_keeps_its_connections",
        listener=CloseTakesConnectionsAlong,
    ),
    native(
        "keeps the address of a closed listener",
        "test_address_is_free_after_close",
        "test_draining_listener_takes_nobody_new",
        listener=CloseKeepsTheAddress,
    ),
    native(
        "keeps the address while connections go on",
        "test_address_is_free_while_connections_go_on",
        listener=KeepsTheAddressWhileConnected,
    ),
    native("dials the newest listener", "test_addresses_of_two_listeners_differ", transport=DialsTheNewestListener),
    native(
        "raises at a second close of a listener",
        "test_listener_close_is_idempotent",
        listener=SecondListenerCloseIsAnError,
    ),
    native(
        "accepts nobody after an acceptor's error",
        "test_failing_acceptor_drops_only_its_connection",
        transport=OneFailureEndsTheListener,
    ),
)

LEFTOVERS = (
    native(
        "leaves a task per connection",
        "test_closing_leaves_no_task_and_no_descriptor",
        "test_aborting_leaves_no_task_and_no_descriptor",
        connection=LeavesATask,
    ),
    native(
        "leaves a descriptor per connection",
        "test_closing_leaves_no_task_and_no_descriptor",
        "test_aborting_leaves_no_task_and_no_descriptor",
        connection=LeavesADescriptor,
    ),
    native("keeps its connections for ever", "test_closed_connections_are_forgotten", transport=KeepsItsConnections),
)

DIAL_FAULTS: Final[tuple[Mutation, ...]] = (*DIALS, *LEFTOVERS)
