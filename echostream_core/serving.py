"""What ``serve`` does: start the servers of a configuration, tell their addresses, drain all of them on a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from echostream_core.commands import Files, UsageError
from echostream_core.config import load_config
from echostream_core.errors import ConfigError
from echostream_core.kernel import Kernel
from echostream_core.plugin_reports import ConfigDiff
from echostream_core.server import RpcServer

__all__ = ["ServeEvent", "serve"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeEvent:
    """One thing that whoever started ``serve`` wants to know."""

    event: Literal["listening", "ready", "draining", "stopped"]
    """An address is bound; all of them are; no new calls are taken; everything is closed."""
    server: str = ""
    """The endpoint's name; of ``listening`` only."""
    address: str = ""
    """The bound URL, port resolved; of ``listening`` only."""
    reason: str = ""
    """What ended the service (``SIGTERM``, ``end of input``); of ``draining`` only."""

    def as_dict(self) -> dict[str, str]:
        """The event as plain data, without what does not concern it."""
        everything = {"event": self.event, "server": self.server, "address": self.address, "reason": self.reason}
        return {key: value for key, value in everything.items() if value}


async def serve(
    files: Files,
    *,
    names: Sequence[str] = (),
    overrides: Iterable[str] = (),
    report: Callable[[ServeEvent], None] = lambda event: None,
    stop_with_input: bool = False,
) -> None:
    """Serve ``[server.NAME]`` for each of ``names`` (default: all of them) until SIGTERM or SIGINT, then drain.

    A second signal drops the calls that still run. ``stop_with_input``: the end of standard input stops it too, so that
    it does not outlive a parent that holds the other end of a pipe. When one server cannot start, none stays up.
    Raises ConfigError, PluginError, ConnectFailed.
    """
    servers = _make(files, names, list(overrides))
    stopping: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    started: list[RpcServer] = []
    # From here on, not only once all are up: a signal that comes early is obeyed in the same way.
    with _signal_handlers(lambda number: _on_signal(number, stopping, started)):
        watcher = asyncio.ensure_future(_input_ended(stopping)) if stop_with_input else None
        try:
            for server in servers:
                await server.start()
                started.append(server)
                for address in server.addresses:
                    report(ServeEvent(event="listening", server=server.name, address=address))
            report(ServeEvent(event="ready"))
            report(ServeEvent(event="draining", reason=await stopping))
            await asyncio.gather(*(server.close() for server in started))
        finally:
            if watcher is not None:
                watcher.cancel()
            # Only where something failed is anybody still up here: those calls cannot be waited for.
            await asyncio.gather(*(server.close(drain=0.0) for server in started))
    report(ServeEvent(event="stopped"))


def _make(files: Files, names: Sequence[str], overrides: list[str]) -> list[RpcServer]:
    config = load_config(*files, overrides=overrides)
    if not config.servers:
        listed = ", ".join(map(str, files))
        raise ConfigError(f"{listed}: there is nothing to serve: add a section [server.NAME]", key="server")
    kernel = Kernel(config.plugins)
    chosen = [config.server(name).name for name in dict.fromkeys(names)] or list(config.servers)
    servers = [RpcServer.from_config(*files, name=name, overrides=overrides, kernel=kernel) for name in chosen]
    problems = kernel.validate(ConfigDiff(old=None, new=config))
    if problems:
        raise ConfigError("\n".join(problems))
    kernel.ready()
    return servers


def _on_signal(number: signal.Signals, stopping: asyncio.Future[str], servers: list[RpcServer]) -> None:
    """The first signal begins the draining, a second one ends it."""
    if not stopping.done():
        stopping.set_result(number.name)
        return
    for server in servers:
        for session in server.sessions:
            session.abort()


async def _input_ended(stopping: asyncio.Future[str]) -> None:
    """Resolve ``stopping`` at the end of standard input."""
    reader = asyncio.StreamReader()
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
    except (OSError, ValueError) as error:
        if not stopping.done():
            stopping.set_exception(UsageError(f"standard input is no pipe, its end cannot be waited for: {error}"))
        return
    try:
        while await reader.read(65_536):
            pass
        if not stopping.done():
            stopping.set_result("end of input")
    finally:
        transport.close()


@contextmanager
def _signal_handlers(on_signal: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Have ``on_signal`` called on the loop for SIGTERM and SIGINT while the block runs."""
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            try:
                loop.add_signal_handler(number, on_signal, number)
            except NotImplementedError:  # Windows: signals arrive between two bytecodes of the main thread
                signal.signal(number, lambda caught, _: loop.call_soon_threadsafe(on_signal, signal.Signals(caught)))
        yield
    finally:
        for number in _SIGNALS:
            try:
                loop.remove_signal_handler(number)
            except NotImplementedError:
                pass
            signal.signal(number, previous[number])
