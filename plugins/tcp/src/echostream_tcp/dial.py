"""Reaching a listener's socket: the first address that answers, with the errors of all when none does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from echostream_core.types import Url
from echostream_tcp._errors import caused_by, connect_failed
from echostream_tcp.sockets import Address, resolve, set_connection_options

__all__ = ["connect_network", "connect_unix"]

STAGGER_S: Final = 0.25
"""Head start of one address over the next. Source: RFC 8305 section 5."""

BUSY_RETRY_S: Final = 0.02
"""How often a Unix socket whose listener is behind is tried."""


async def connect_network(url: Url) -> socket.socket:
    """A connected, non-blocking socket to the URL's host and port, over IPv6 or IPv4. ConnectFailed when none answers.

    Not the event loop's ``create_connection(host, port)``: uvloop's tries one address after the other with no head
    start, and both loops make one text of the errors of all.
    """
    addresses = _interleaved(await resolve(url))
    if len(addresses) == 1:
        try:
            return await _connect(addresses[0])
        except OSError as error:
            raise connect_failed(url, [error]) from error
    return await _race(url, addresses)


async def connect_unix(url: Url) -> socket.socket:
    """A connected, non-blocking socket to the URL's path. ConnectFailed when nobody listens there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(url.path)
                return sock
            except BlockingIOError:
                # The listener's queue is full. Nothing is under way, so the event loop's sock_connect would wait for
                # nothing and take the first wake-up for success.
                await asyncio.sleep(BUSY_RETRY_S)
    except OSError as error:
        sock.close()
        raise connect_failed(url, [error]) from error
    except BaseException:
        sock.close()
        raise


async def _connect(address: Address) -> socket.socket:
    family, target = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, target)
        set_connection_options(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def _race(url: Url, addresses: Sequence[Address]) -> socket.socket:
    """Try ``addresses`` in turn, each with a head start over the next; the first that answers wins (RFC 8305)."""
    loop = asyncio.get_running_loop()
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                running.add(loop.create_task(_connect(waiting.pop(0))))
            done, running = await asyncio.wait(
                running, timeout=STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None and winner is None:
                    winner = task.result()
                elif error is None:
                    task.result().close()
                elif isinstance(error, OSError):
                    errors.append(error)
                else:
                    raise error
    finally:
        try:
            await _drop(running)
        except asyncio.CancelledError:
            if winner is not None:
                winner.close()  # nobody will have it
            raise
    if winner is None:
        failure = connect_failed(url, errors)
        raise caused_by(failure, errors[0])
    return winner


async def _drop(running: set[asyncio.Task[socket.socket]]) -> None:
    """Cancel the attempts that nobody wants any more, and close what they had."""
    for task in running:
        task.cancel()
        task.add_done_callback(_close_socket)
    if running:
        await asyncio.wait(running)


def _close_socket(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _interleaved(addresses: list[Address]) -> list[Address]:
    """``addresses`` with the families in turn, beginning with the first's."""
    if not addresses:
        return []
    first = [item for item in addresses if item[0] == addresses[0][0]]
    others = [item for item in addresses if item[0] != addresses[0][0]]
    mixed: list[Address] = []
    while first or others:
        mixed += first[:1] + others[:1]
        first, others = first[1:], others[1:]
    return mixed
