"""The client's face: dial a URL, then call, stream, and be called."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack, cast

from echostream_core.capabilities import Capabilities
from echostream_core.client_sessions import ClientSessions
from echostream_core.client_settings import ClientKeywords, client_settings, listed_candidates
from echostream_core.config import Config, load_config
from echostream_core.config_check import check_spelling
from echostream_core.dialing import Dialer
from echostream_core.engine.datagram_handlers import check_channel, compile_datagram_handler
from echostream_core.engine.endpoint import EndpointSettings, make_limits
from echostream_core.engine.listeners import collect_listeners
from echostream_core.engine.outgoing import DEFAULT_TIMEOUT, Action, MetadataLike, _Default, asking
from echostream_core.engine.session import Session
from echostream_core.engine.session_events import Subscribing, make_subscription
from echostream_core.engine.stream_calls import ItemStream, StreamOpening
from echostream_core.engine.subscriptions import DEFAULT_MAX_QUEUE, Key, Overflow, Subscription
from echostream_core.errors import (
    ConfigError,
)
from echostream_core.finding import Backend, Finder, Where
from echostream_core.kernel import Kernel
from echostream_core.proxy import Proxy
from echostream_core.reconnect import Reconnect
from echostream_core.types import Buffer, Priority
from echostream_core.wire.limits import Limits

if TYPE_CHECKING:
    from echostream_core.codec import Codec
    from echostream_core.compression import Compression
    from echostream_core.middleware import Middleware

__all__ = ["Connecting", "RpcClient"]

T = TypeVar("T")
CONNECT_TIMEOUT: Final = 10.0
"""Seconds for dialling one URL, handshake included."""
DISCOVER_TIMEOUT: Final = 5.0
"""Seconds for finding a server by name."""
FLUSH_TIMEOUT: Final = 5.0
"""Seconds that ``close`` gives the server to handle the last events."""

_logger = logging.getLogger("echostream.client")


class Connecting:
    """What ``RpcClient.connect`` returns: await it for the client, or use it in ``async with``."""

    def __init__(self, client: RpcClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(RpcClient, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        text = f"not connected yet, so there is no {name}: write 'client = await …', or 'async with … as client'"
        raise AttributeError(text)

    def __await__(self) -> Generator[Any, None, RpcClient]:
        """Dial; the answer is the connected client, which the caller closes."""
        return self._client._dial().__await__()

    async def __aenter__(self) -> RpcClient:
        """Dial."""
        return await self._client._dial()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; at once when the block failed."""
        await self._client.close(flush=0.0 if error is not None else FLUSH_TIMEOUT)


class RpcClient:
    """One end of a session that we dialled. It has the session's verbs; the server may call its handlers.

    Made by ``connect`` or ``from_config``.
    """

    def __init__(
        self,
        dialer: Dialer,
        handlers: Sequence[object],
        reconnect: Reconnect | None = None,
    ) -> None:
        settings = self._settings = dialer.settings
        self._handlers = list(handlers)
        self._sessions = ClientSessions(dialer, settings.pipeline(self._handlers), reconnect)

    @classmethod
    def connect(
        cls,
        url: str | Sequence[str],
        *handlers: object,
        codecs: Sequence[str | Codec] = (),
        compression: Sequence[str | Compression] = (),
        tls: Mapping[str, object] | None = None,
        transport: Mapping[str, Mapping[str, object]] | None = None,
        middleware: Sequence[str | Middleware] = (),
        limits: Mapping[str, float] | Limits | None = None,
        require: Sequence[str] = (),
        emulate_datagrams: bool = False,
        credentials: Mapping[str, str] | None = None,
        insecure_credentials: bool = False,
        connect_timeout: float = CONNECT_TIMEOUT,
        reconnect: bool | Reconnect = True,
        name: str = "",
        kernel: Kernel | None = None,
    ) -> Connecting:
        """Dial ``url``, or the first of several that works: await it, or ``async with RpcClient.connect(...) as
        client``.

        ``handlers`` are what the server may call here. ``credentials`` go to the server's authenticator, and only
        over an encrypted connection unless ``insecure_credentials``. ``connect_timeout`` in seconds for each URL.
        A session that is lost later is replaced by a new one, with its subscriptions, unless ``reconnect`` is False;
        calls that were running fail, new ones wait for the connection. When the server goes away in order, running
        ones are finished in the old session and new ones made in the new one. ``emulate_datagrams`` carries datagrams
        over transports of one ordered pipe too, if the server has set it as well; connecting then waits for its SETUP.
        Raises ConnectFailed when none works, ConfigError and PluginError for wrong arguments.
        """
        settings = client_settings(
            {
                "codecs": codecs,
                "compression": compression,
                "middleware": middleware,
                "tls": tls,
                "transport": transport,
                "limits": limits,
                "require": require,
                "emulate_datagrams": emulate_datagrams,
                "credentials": credentials,
                "name": name,
                "kernel": kernel,
            }
        )
        candidates = listed_candidates(settings, [url] if isinstance(url, str) else list(url), insecure_credentials)
        return cls._connecting(Dialer(settings, candidates, connect_timeout), handlers, reconnect)

    @classmethod
    def discover(
        cls,
        service: str,
        *handlers: object,
        where: Where = None,
        transports: Sequence[str] = (),
        timeout: float = DISCOVER_TIMEOUT,
        fallback: Sequence[str] = (),
        discovery: Backend = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        reconnect: bool | Reconnect = True,
        insecure_credentials: bool = False,
        **keywords: Unpack[ClientKeywords],
    ) -> Connecting:
        """Find a server that advertises ``service``, and dial it: await it, or use it in ``async with``.

        Of several, one is drawn by their weights; the next one is tried when it does not answer, and the discovery
        backend verifies it. ``where`` names the attributes that it must have (``{"zone": "eu"}``, also several values
        to choose from), or is a function of an ``Endpoint``. ``transports`` lists the only schemes to use, best first.
        ``timeout`` in seconds for finding a server that answers; then the URLs of ``fallback`` are dialled.
        ``discovery``: the backend's name, ``{name: options}``, or None for the only one installed. All else is as in
        ``connect``. After a lost session it is looked for anew.
        Raises ConnectFailed when nothing is found or answers, ConfigError and PluginError for wrong arguments, among
        them credentials without a word on whom to trust (``tls``): discovery proves nothing.
        """
        settings = client_settings(keywords)
        finder = Finder(
            settings,
            service,
            where=where,
            transports=transports,
            fallback=fallback,
            timeout=timeout,
            discovery=discovery,
            insecure_credentials=insecure_credentials,
        )
        return cls._connecting(Dialer(settings, finder.candidates, connect_timeout, found=True), handlers, reconnect)

    @classmethod
    def from_config(
        cls,
        file: str | os.PathLike[str],
        name: str | None = None,
        *handlers: object,
        overrides: Mapping[str, object] | Iterable[str] = (),
        kernel: Kernel | None = None,
    ) -> Connecting:
        """Dial what ``[client.NAME]`` says (the only client without ``name``), environment included."""
        config = load_config(file, overrides=overrides)
        return cls.from_loaded(config, name, *handlers, kernel=kernel)

    @classmethod
    def from_loaded(
        cls, config: Config, name: str | None = None, *handlers: object, kernel: Kernel | None = None
    ) -> Connecting:
        """As ``from_config``, from a configuration that is loaded already."""
        section = config.client(name)
        kernel = kernel or Kernel(config.plugins)
        check_spelling(config, kernel)
        changes = dict(section.limits)
        if section.timeout_s is not None:
            changes["default_timeout_s"] = section.timeout_s
        settings = EndpointSettings(
            kernel=kernel,
            side="client",
            codecs=section.codecs,
            compression=section.compression,
            middleware=section.middleware,
            tls=section.tls,
            limits=make_limits(changes),
            require=section.require,
            emulate_datagrams=section.emulate_datagrams,
            credentials=section.credentials,
            name=section.name,
            config=config,
            section=section,
        )
        if section.discover is None:
            candidates = listed_candidates(settings, section.url, section.insecure_credentials)
        else:
            candidates = Finder(
                settings,
                section.discover,
                where=section.where,
                transports=section.transports,
                fallback=section.url,
                timeout=section.discover_timeout_s,
                discovery=section.discovery,
                insecure_credentials=section.insecure_credentials,
            ).candidates
        found = section.discover is not None
        dialer = Dialer(settings, candidates, section.connect_timeout_s, found=found)
        return cls._connecting(dialer, handlers, section.reconnect)

    @classmethod
    def _connecting(cls, dialer: Dialer, handlers: Sequence[object], reconnect: bool | Reconnect) -> Connecting:
        again = reconnect if isinstance(reconnect, Reconnect) else Reconnect() if reconnect else None
        return Connecting(cls(dialer, handlers, again))

    async def _dial(self) -> RpcClient:
        await self._sessions.begin()
        return self

    # -- the session, and the next one

    @property
    def session(self) -> Session:
        """The session under this client; while it is lost, the one that was."""
        return self._sessions.session

    @property
    def fallbacks(self) -> int:
        """How many URLs were tried in vain before the one that worked."""
        return self._sessions.dialer.fallbacks

    @property
    def connected(self) -> bool:
        """Whether there is a session right now."""
        return self._sessions.connected

    @property
    def reconnects(self) -> int:
        """How often a session that was lost, or whose server went away, was followed by a new one."""
        return self._sessions.reconnects

    @property
    def capabilities(self) -> Capabilities:
        """What the connection can do."""
        return self.session.capabilities

    @property
    def peer(self) -> str:
        """The server's end as a URL."""
        return self.session.peer

    def request(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float | _Default | None = DEFAULT_TIMEOUT,
        metadata: MetadataLike | None = None,
        returns: Any = None,
        priority: Priority | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Call the server's ``method``; await it for the answer. See ``Session.request``.

        What the server has not processed because the session was at its end is asked again in the next one, within
        ``timeout``.
        """
        sessions = self._sessions
        session = sessions.current
        if session is not None:
            return session.outgoing.request(method, payload, timeout, metadata, returns, priority, sessions.again)

        sessions.check()
        action = asking(method, payload, metadata, returns, priority)
        return sessions.run(action, self._default_timeout if isinstance(timeout, _Default) else timeout)

    def stream(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        returns: Any = None,
        priority: Priority | None = None,
    ) -> ItemStream:
        """The items that the server's ``method`` yields; see ``Session.stream``.

        Opened with the first item; while the session is lost, that waits for the next one.
        """
        self._sessions.check()
        return ItemStream(self._open, method, payload, timeout, metadata, returns, priority)

    def open_stream(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        priority: Priority | None = None,
    ) -> StreamOpening:
        """Open a stream to the server's stream handler; while the session is lost, in the next one. See
        ``Session.open_stream``.
        """
        self._sessions.check()
        return StreamOpening(self._open, method, payload, timeout, metadata, priority)

    def _open(self, action: Action, timeout: float | None) -> Awaitable[Any]:
        """Streams are opened in the session that there is then, not in the one that is lost meanwhile."""
        return self._sessions.run(action, timeout, patience=self._default_timeout)

    @property
    def _default_timeout(self) -> float | None:
        return self._settings.limits.default_timeout_s

    async def emit(self, topic: str, payload: object = None) -> bool:
        """Send an event to the server, if it listens; while the session is lost, to the next one. See
        ``Session.emit``.
        """
        session = self._sessions.current
        if session is None or session.disconnected:
            session = await self._sessions.wait(self._default_timeout)
        return await session.events.emit(topic, payload)

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until the server has handled all events emitted so far; see ``Session.flush``."""
        await self._sessions.flush(timeout)

    def subscribe(
        self,
        pattern: str,
        *,
        overflow: Overflow = "block",
        max_queue: int = DEFAULT_MAX_QUEUE,
        key: Key = None,
        returns: Any = None,
    ) -> Subscribing:
        """The server's events that match ``pattern``: ``async with client.subscribe("chat.*") as events``.

        It goes on with the next session when this one is lost; what was emitted in between is missed. See
        ``Session.subscribe``.
        """
        made = make_subscription(pattern, overflow=overflow, max_queue=max_queue, key=key, returns=returns)
        return Subscribing(made, self._attach)

    def on(
        self,
        pattern: str,
        callback: Callable[..., Any],
        *,
        overflow: Overflow = "block",
        max_queue: int = DEFAULT_MAX_QUEUE,
        key: Key = None,
        concurrency: int = 1,
        returns: Any = None,
    ) -> Subscribing:
        """Have ``callback`` called for the server's events that match ``pattern``, in later sessions too. See
        ``Session.on``.
        """
        made = make_subscription(
            pattern,
            callback=callback,
            overflow=overflow,
            max_queue=max_queue,
            key=key,
            concurrency=concurrency,
            returns=returns,
        )
        return Subscribing(made, self._attach)

    async def _attach(self, subscription: Subscription) -> None:
        subscription.call_at_end(self._sessions.unsubscribe)
        await self._sessions.subscribe(subscription, self._default_timeout)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called whenever a lost session was followed by a new one and the subscriptions are renewed.

        For what a session of the server knows of this client and a new one does not. It must return at once; what it
        raises is logged. The answer is a function that undoes this.
        """
        callbacks = self._sessions.after_reconnect
        callbacks.append(callback)

        def forget() -> None:
            if callback in callbacks:
                callbacks.remove(callback)

        return forget

    def send_datagram(self, channel: int, payload: Buffer, *, expires_after: float | None = None) -> bool:
        """Send one datagram to the server; see ``Session.send_datagram``. Disconnected while the session is lost:
        datagrams are not kept for the next one.
        """
        session = self._sessions.current
        if session is None:
            raise self.session.closed_error()
        return session.datagrams.send(channel, payload, expires_after)

    def on_datagram(self, channel: int, callback: Callable[..., object]) -> Callable[[], None]:
        """Have ``callback`` called for the server's datagrams on ``channel``, in later sessions too; calling the
        answer ends it. See ``Session.on_datagram``.
        """
        check_channel(channel)
        handler = compile_datagram_handler(channel, callback)
        sessions = self._sessions
        handlers = sessions.datagram_handlers
        if channel in handlers or channel in sessions.pipeline.datagram_handlers:
            raise ConfigError(f"channel {channel}: another function takes its datagrams; end that first")
        for session in sessions.all:
            session.datagrams.listen(channel, handler)
        handlers[channel] = handler

        def stop() -> None:
            if handlers.get(channel) is handler:
                del handlers[channel]
                for session in sessions.all:
                    session.datagrams.forget(channel, handler)

        return stop

    async def ping(self) -> float:
        """Seconds for one round trip."""
        return await self.session.ping()

    def add(self, *handlers: object) -> None:
        """Serve more handlers to the server from now on. ConfigError for a name that is taken, and for a listener: what
        this client listens to from the beginning was told when it connected; use ``on``.
        """
        if listeners := collect_listeners(handlers):
            raise ConfigError(
                f"add: a listener of {listeners[0].pattern!r}: use 'await client.on(...)' while connected"
            )
        pipeline = self._sessions.pipeline = self._settings.pipeline([*self._handlers, *handlers])
        self._handlers.extend(handlers)
        for session in self._sessions.all:
            session.replace_pipeline(pipeline)

    def proxy(self, cls: type[T]) -> T:
        """An object with the methods of the ``@service`` class ``cls``; calling one calls the server."""
        return cast("T", Proxy(self, cls))

    async def close(self, *, flush: float = FLUSH_TIMEOUT) -> None:
        """End the session, and connect no more; before that, wait up to ``flush`` seconds until the server has handled
        the events emitted so far. Idempotent.
        """
        await self._sessions.close(flush)

    async def __aenter__(self) -> RpcClient:
        """A client that was awaited can still be used in ``async with``."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; at once when the block failed."""
        await self.close(flush=0.0 if error is not None else FLUSH_TIMEOUT)
