"""The server's face: listen on URLs, serve handlers, stop gracefully."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from traceback import extract_tb
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from echostream_core.advertising import Advertiser, Bound
from echostream_core.builtin.health import Health
from echostream_core.builtin.reflection import Reflection
from echostream_core.complaints import ComplaintLog
from echostream_core.config import Config, load_config
from echostream_core.config_check import check_spelling
from echostream_core.discovery import Advertise, Endpoint
from echostream_core.engine.endpoint import EndpointSettings, Target, make_limits
from echostream_core.engine.leftovers import Leftovers
from echostream_core.engine.session import Session
from echostream_core.engine.session_events import send_to_all
from echostream_core.errors import CloseCode, ConfigError, EchoStreamError
from echostream_core.finding import Backend
from echostream_core.kernel import Kernel, default_kernel
from echostream_core.plugin_reports import ConfigDiff, StateEvent
from echostream_core.transport import Connection, Listener, Pipe
from echostream_core.types import Url
from echostream_core.wire.limits import Limits

if TYPE_CHECKING:
    from echostream_core.codec import Codec
    from echostream_core.components import Authenticator
    from echostream_core.compression import Compression
    from echostream_core.middleware import Middleware

__all__ = ["RpcServer", "load_service"]

_MAX_BURST: Final = 32
"""Broadcasts without letting the loop run: a publisher that awaits nothing else must not starve it."""

_logger = logging.getLogger("echostream.server")


class RpcServer:
    """Serves handlers on one URL or several, whatever their transports are.

    ``async with RpcServer("memory://calc", add, Calc()) as server`` listens; ``await server.serve_forever()`` runs
    until SIGTERM or SIGINT, then drains. All arguments after the handlers are optional keywords; most stand in a TOML
    file as well, see ``from_config``.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *handlers: object,
        codecs: Sequence[str | Codec] = (),
        compression: Sequence[str | Compression] = (),
        tls: Mapping[str, object] | None = None,
        transport: Mapping[str, Mapping[str, object]] | None = None,
        middleware: Sequence[str | Middleware] = (),
        limits: Mapping[str, float] | Limits | None = None,
        require: Sequence[str] = (),
        emulate_datagrams: bool = False,
        authenticator: str | Authenticator | None = None,
        advertise: str | Advertise | None = None,
        discovery: Backend = None,
        drain_timeout: float = 30.0,
        health: bool = True,
        reflection: Literal["auto"] | bool = "auto",
        name: str = "",
        kernel: Kernel | None = None,
        config: Config | None = None,
    ) -> None:
        """``drain_timeout`` in seconds; ``transport`` maps a URL scheme to its options. ``emulate_datagrams``: over
        transports of one ordered pipe too, with peers that have set it as well. ``advertise`` is the name under which
        the ``discovery`` backend (its name, ``{name: options}``, or None for the only one installed) announces it, from
        the start until it drains. ``config`` is ``from_config``'s.

        Nothing is bound yet. Raises ConfigError and PluginError for what is wrong with the arguments.
        """
        self.name = name
        self.health = Health()
        """The health service's state: ``server.health.set("NOT_SERVING", "orders")``."""
        self._settings = EndpointSettings(
            kernel=kernel or default_kernel(),
            side="server",
            codecs=codecs,
            compression=compression,
            middleware=middleware,
            tls=tls,
            transport=transport or {},
            limits=make_limits(limits),
            require=require,
            emulate_datagrams=emulate_datagrams,
            authenticator=authenticator,
            name=name,
            reflection="auto" if reflection == "auto" else "on" if reflection else "off",
            config=config,
            section=config.server(name) if config is not None else None,
        )
        targets: list[object] = list(handlers)
        if health:
            targets.append(self.health)
        if reflection is not False:
            targets.append(Reflection(lambda: self._pipeline.routes, self._settings.reflection))
        self._targets = self._settings.targets([urls] if isinstance(urls, str) else list(urls))
        self._pipeline = self._settings.pipeline(targets)
        self._drain_timeout = drain_timeout
        self._advertiser: Advertiser | None = None
        if advertise is not None:
            wanted = Advertise(advertise) if isinstance(advertise, str) else advertise
            names = [codec.name for codec in self._pipeline.codecs]
            self._advertiser = Advertiser(self._settings, wanted, discovery, names)
        self._listeners: list[Listener] = []
        self._sessions: dict[Session, None] = {}  # in their order: a set would close them in that of their addresses
        self._unfinished: dict[Session, str] = {}
        self._unfinished_by_address: Counter[str] = Counter()
        self._leftovers = Leftovers()
        self._complaints: ComplaintLog | None = None
        self._state = "stopped"
        self._stop: asyncio.Event | None = None
        self._pid = 0
        self._closing: asyncio.Task[None] | None = None
        self._burst = 0

    @classmethod
    def from_config(
        cls,
        *files: str | os.PathLike[str],
        name: str | None = None,
        handlers: Sequence[object] = (),
        overrides: Mapping[str, object] | Iterable[str] = (),
        kernel: Kernel | None = None,
    ) -> RpcServer:
        """The server ``[server.NAME]`` of a configuration (the only one without ``name``), environment included.

        ``handlers`` are served besides the configured services. Raises ConfigError with every problem found.
        """
        config = load_config(*files, overrides=overrides)
        section = config.server(name)
        kernel = kernel or Kernel(config.plugins)
        ask_plugins(config, kernel)
        folders = {str(Path(file).resolve().parent) for file in files}
        services: list[object] = []
        for reference in section.services:
            services.extend(load_service(reference, folders))
        return cls(
            section.listen,
            *services,
            *handlers,
            codecs=section.codecs,
            compression=section.compression,
            tls=section.tls,
            middleware=section.middleware,
            limits=section.limits,
            require=section.require,
            emulate_datagrams=section.emulate_datagrams,
            authenticator=section.authenticator,
            advertise=section.advertise,
            discovery=section.discovery,
            drain_timeout=section.drain_s,
            health=section.health,
            reflection=section.reflection,
            name=section.name,
            kernel=kernel,
            config=config,
        )

    @property
    def addresses(self) -> list[str]:
        """The bound URLs, ports resolved; empty before ``start``."""
        return [address for listener in self._listeners for address in listener.addresses]

    @property
    def sessions(self) -> list[Session]:
        """The sessions that are open, SETUP finished."""
        return [session for session in self._sessions if session not in self._unfinished]

    @property
    def announced(self) -> Endpoint | None:
        """What discovery tells others of this server right now; None before the first announcement, which follows
        ``start`` by itself as soon as the network allows, and without ``advertise``.
        """
        return None if self._advertiser is None else self._advertiser.announced

    def readvertise(self, *, weight: int | None = None, tags: dict[str, str] | None = None) -> None:
        """Announce another ``weight`` or other ``tags`` from now on; None leaves them as they are.

        Raises ConfigError for values that are not allowed and where ``advertise`` was not given, ResourceClosed before
        ``start`` and after ``close``.
        """
        if self._advertiser is None:
            raise ConfigError("this server is not advertised: pass advertise=", key="advertise")
        self._advertiser.change(weight=weight, tags=tags)

    @property
    def state(self) -> str:
        """``stopped``, ``starting``, ``serving`` or ``draining``."""
        return self._state

    async def start(self) -> None:
        """Bind all URLs; none stays bound when one fails. Raises ConnectFailed or ConfigError."""
        if self._state != "stopped":
            raise ConfigError("this server has been started already")
        self._set_state("starting")
        self._pid = os.getpid()
        try:
            for target in self._targets:
                listener = await target.transport.listen(target.url, target.options, self._acceptor(target))
                self._listeners.append(listener)
        except BaseException:
            await self._close_listeners()
            self._set_state("stopped")
            raise
        self.health.revive()
        self._set_state("serving")
        if self._advertiser is not None:
            self._advertiser.start([Bound(*pair) for pair in zip(self._targets, self._listeners, strict=True)])
        for address in self.addresses:
            _logger.info("listening on %s", address)

    async def close(self, *, drain: float | None = None) -> None:
        """Stop accepting, let running calls finish for ``drain`` seconds (default: ``drain_timeout``), close.
        Idempotent.
        """
        if self._state == "stopped":
            return
        if self._closing is None:
            timeout = self._drain_timeout if drain is None else drain
            self._closing = asyncio.get_running_loop().create_task(self._close(timeout))
        await asyncio.shield(self._closing)

    async def _close(self, timeout: float) -> None:
        self._set_state("draining")
        self.health.shutdown()
        if self._advertiser is not None:
            await self._advertiser.stop()  # before the address is gone: nobody shall be sent to a closed door
        await self._close_listeners()
        for session in list(self._unfinished):
            session.close_now(CloseCode.GOING_AWAY, "shutting down")
        await asyncio.gather(*(session.drain(timeout) for session in self.sessions))
        for session in list(self._sessions):
            session.abort()
        await self._leftovers.clear()
        self._set_state("stopped")
        self._closing = None
        if self._stop is not None:
            self._stop.set()

    async def broadcast(self, topic: str, payload: object = None) -> int:
        """Send an event to every session that has subscribed to ``topic``; how many did.

        It is encoded once per codec. All get it at once; then this waits for those whose subscription has the policy
        ``block`` and holds too much. Raises as ``Session.emit`` does, when all the others have it.
        """
        senders = [session.events.sender for session in self._sessions if session not in self._unfinished]
        count = await send_to_all([sender for sender in senders if sender is not None], topic, payload)
        self._burst += 1
        if self._burst >= _MAX_BURST:
            self._burst = 0
            await asyncio.sleep(0)
        return count

    async def serve_forever(self) -> None:
        """Serve until SIGTERM, SIGINT or ``close``; then drain and stop. A second signal stops at once."""
        if self._state == "stopped":
            await self.start()
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        signals = 0

        def on_signal(number: int) -> None:
            nonlocal signals
            signals += 1
            if signals > 1:
                _logger.warning("second signal: stopping at once")
                for session in list(self._sessions):
                    session.abort()
                return
            _logger.info("%s: draining, at most %.0f s", signal.Signals(number).name, self._drain_timeout)
            assert self._stop is not None
            self._stop.set()

        installed = []
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, on_signal, number)
                installed.append(number)
            except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or Windows
                _logger.debug("no handler for %s here", number)
        try:
            await self._stop.wait()
            await self.close()
        finally:
            for number in installed:
                loop.remove_signal_handler(number)

    async def __aenter__(self) -> RpcServer:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and stop; at once when the block failed."""
        await self.close(drain=0.0 if error is not None else None)

    # -- sessions

    def _acceptor(self, target: Target) -> Callable[[Connection | Pipe], None]:
        def accept(made: Connection | Pipe) -> None:
            if os.getpid() != self._pid:
                made.abort()
                raise ConfigError("this process was forked from a running server: start servers after the fork")
            address = _address_of(made.peer_address)
            limits = self._settings.limits
            if (
                len(self._unfinished) >= limits.max_unfinished_setups
                or self._unfinished_by_address[address] >= limits.max_unfinished_setups_per_address
            ):
                self._complain(f"{made.peer_address}: refused: too many sessions without SETUP")
                made.abort()
                return
            try:
                connection = self._settings.connection(made)
                self._settings.check_negotiated(connection, target.spec.scheme)
            except EchoStreamError as error:
                self._complain(f"{made.peer_address}: refused: {error}")
                made.abort()
                return
            session = Session(
                connection,
                self._pipeline,
                dialer=False,
                on_ready=self._session_ready,
                on_closed=self._session_closed,
            )
            self._sessions[session] = None
            self._unfinished[session] = address
            self._unfinished_by_address[address] += 1
            session.start()

        return accept

    def _complain(self, text: str) -> None:
        """Warn of a peer that is turned away: a flood of them must not fill the log."""
        if self._complaints is None:
            self._complaints = ComplaintLog(_logger, asyncio.get_running_loop().time)
        self._complaints.warn(text)

    def _session_ready(self, session: Session) -> None:
        self._forget_unfinished(session)
        if self._state == "draining":
            session.close_now(CloseCode.GOING_AWAY, "shutting down")
            return
        try:
            self._settings.check_negotiated(session.connection, session.peer)
        except EchoStreamError as error:
            self._complain(f"refused: {error}")
            session.close_now(CloseCode.VERSION, str(error))

    def _session_closed(self, session: Session, error: EchoStreamError | None) -> None:
        self._forget_unfinished(session)
        self._sessions.pop(session, None)
        self._leftovers.add(session.connection)
        if error is not None:
            _logger.debug("%s: session ended: %s", session.peer, error)

    def _forget_unfinished(self, session: Session) -> None:
        address = self._unfinished.pop(session, None)
        if address is not None:
            self._unfinished_by_address[address] -= 1
            if not self._unfinished_by_address[address]:
                del self._unfinished_by_address[address]

    async def _close_listeners(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            await listener.close()

    def _set_state(self, state: str) -> None:
        self._state = state
        self._settings.kernel.announce(StateEvent(kind="server", name=self.name, state=state))


def ask_plugins(config: Config, kernel: Kernel) -> None:
    """Let the plugins object to ``config``, then tell them that the kernel is ready. ConfigError with every
    objection.
    """
    check_spelling(config, kernel)
    problems = kernel.validate(ConfigDiff(old=None, new=config))
    if problems:
        raise ConfigError("; ".join(problems))
    kernel.ready()


def load_service(reference: str, folders: Iterable[str] = ()) -> list[object]:
    """What ``module:object`` names: a handler, a service instance or class (made without arguments), or a list of them.

    ``folders`` are searched for the module before ``sys.path``. ConfigError says which part was not found.
    """
    module_name, _, attribute = reference.partition(":")
    added = [folder for folder in folders if folder not in sys.path]
    sys.path[:0] = added
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise ConfigError(
                f"services: there is no module {module_name!r} (from {reference!r})", key="services"
            ) from error
        raise ConfigError(f"services: {reference!r} cannot be imported: {error}", key="services") from error
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        text = f"services: importing {module_name!r} (from {reference!r}) raised {_described(error)}"
        raise ConfigError(text, key="services") from error
    finally:
        for folder in added:
            sys.path.remove(folder)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"services: module {module_name!r} has no {attribute!r}", key="services")
        found = getattr(found, part)
    if isinstance(found, (list, tuple)):
        return list(found)
    try:
        return [found() if isinstance(found, type) else found]
    except Exception as error:
        text = f"services: making {reference!r} raised {_described(error)}; name an instance where arguments are needed"
        raise ConfigError(text, key="services") from error


def _described(error: BaseException) -> str:
    """``KeyError: 'HOME' (shop.py:12)``: what was raised, and the innermost line that is not ours."""
    ours = (str(Path(__file__).parent), "<frozen ", str(importlib.__file__))
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _address_of(url: str) -> str:
    try:
        return Url.parse(url).host
    except ConfigError:
        return url
