"""Accepting connections.

An accept loop of our own, because uvloop closes a listening socket for good, and without a word, when the process has
no file descriptors left (0.22.1: ``UVStreamServer._fatal_error``), and asyncio writes a traceback per second.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from echostream_core.transport import Listener
from echostream_tcp._errors import reason_of
from echostream_tcp._log import ComplaintLog
from echostream_tcp.pipe import StreamPipe
from echostream_tcp.sockets import SocketFile, set_connection_options

__all__ = ["SocketListener"]

ACCEPTS_PER_TURN: Final = 64
"""Connections that one listening socket takes before others have their turn."""

RETRY_S: Final = 1.0
"""How long nothing is accepted when the system has run out of file descriptors or memory."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

MakePipe = Callable[[socket.socket, Any], StreamPipe | None]
"""Makes the pipe for an accepted socket and its peer's address; None: not wanted, close it."""


class SocketListener(Listener):
    """Listening sockets that make pipes of what they accept."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        addresses: tuple[str, ...],
        make_pipe: MakePipe,
        *,
        log: ComplaintLog,
        file: SocketFile | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Begin to accept. ``on_close`` is awaited once when the listener is closed."""
        self.addresses = addresses
        self._sockets = list(sockets)
        self._make_pipe = make_pipe
        self._log = log
        self._file = file
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._entering: set[asyncio.Task[None]] = set()
        self._retries: set[asyncio.TimerHandle] = set()
        self._watchers: list[asyncio.Task[None]] = []
        for sock in self._sockets:
            try:
                self._loop.add_reader(sock, self._accept, sock)
            except NotImplementedError:  # the proactor loop of Windows
                self._watchers.append(self._loop.create_task(self._accept_by_one(sock)))

    async def close(self) -> None:
        """Accept no more and free the address. Connections that were accepted go on. Idempotent."""
        sockets, self._sockets = self._sockets, []
        for retry in self._retries:
            retry.cancel()
        self._retries.clear()
        if self._file is not None:
            self._file.remove()
            self._file = None
        for watcher in self._watchers:
            watcher.cancel()
        for sock in sockets:
            if not self._watchers:
                self._loop.remove_reader(sock)
            sock.close()
        if self._entering:
            await asyncio.wait(self._entering)
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            await on_close()
        self._log.flush()

    def _accept(self, sock: socket.socket) -> None:
        """A listening socket has connections."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, peer = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(sock, error)
                    return
                continue  # this one connection is gone (ECONNABORTED, EPROTO, …): the next
            self._enter(connection, peer)

    async def _accept_by_one(self, sock: socket.socket) -> None:
        """The same for event loops that cannot watch a socket, only wait for one connection after the other."""
        while True:
            try:
                connection, peer = await self._loop.sock_accept(sock)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._log.warn(self._exhausted(error))
                    await asyncio.sleep(RETRY_S)
                continue
            self._enter(connection, peer)

    def _exhausted(self, error: OSError) -> str:
        return f"cannot accept connections, trying again in {RETRY_S:g} s: {reason_of(error)}"

    def _enter(self, connection: socket.socket, peer: Any) -> None:
        """Hand an accepted socket to the event loop."""
        connection.setblocking(False)
        set_connection_options(connection)
        try:
            pipe = self._make_pipe(connection, peer)
        except OSError:  # gone already
            pipe = None
        if pipe is None:
            connection.close()
            return
        task = self._loop.create_task(self._connect(pipe, connection))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)

    async def _connect(self, pipe: StreamPipe, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: pipe, connection)
        except OSError as error:
            self._log.warn(f"{pipe.peer_address} was lost while it was accepted: {reason_of(error)}")

    def _pause(self, sock: socket.socket, error: OSError) -> None:
        """Stop accepting for a while: what waits in the system's queue stays there."""
        self._log.warn(self._exhausted(error))
        self._loop.remove_reader(sock)

        def again() -> None:
            self._retries.discard(retry)
            self._loop.add_reader(sock, self._accept, sock)

        retry = self._loop.call_later(RETRY_S, again)
        self._retries.add(retry)
