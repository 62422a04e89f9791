"""The client's face: dial a URL, then call, stream, and be called."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack, cast

from echostream_core.capabilities import Capabilities
from echostream_core.client_settings import ClientKeywords, client_settings, listed_candidates
from echostream_core.config import Config, load_config
from echostream_core.config_check import check_spelling
from echostream_core.dialing import Dialer
from echostream_core.engine.datagram_handlers import DatagramHandler, check_channel, compile_datagram_handler
from echostream_core.engine.endpoint import EndpointSettings, make_limits
from echostream_core.engine.gate import Gate
from echostream_core.engine.leftovers import Leftovers
from echostream_core.engine.listeners import collect_listeners
from echostream_core.engine.outgoing import DEFAULT_TIMEOUT, MetadataLike, _Default
from echostream_core.engine.session import Session
from echostream_core.engine.session_events import Subscribing, make_subscription
from echostream_core.engine.stream_calls import ItemStream, StreamOpening
from echostream_core.engine.subscriptions import DEFAULT_MAX_QUEUE, Key, Overflow, Subscription
from echostream_core.errors import (
    CloseCode,
    ConfigError,
    ConnectFailed,
    DeadlineExceeded,
    Disconnected,
    EchoStreamError,
    EndOfStream,
    TransportError,
)
from echostream_core.finding import Backend, Finder, Where
from echostream_core.kernel import Kernel
from echostream_core.proxy import Proxy
from echostream_core.reconnect import Reconnect, is_permanent
from echostream_core.types import Buffer, Priority
from echostream_core.wire.limits import Limits

if TYPE_CHECKING:
    from echostream_core.codec import Codec
    from echostream_core.compression import Compression
    from echostream_core.middleware import Middleware
    from echostream_core.transport import Connection

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
        self._dialer = dialer
        self._handlers = list(handlers)
        self._pipeline = settings.pipeline(self._handlers)
        self._reconnect = reconnect
        self._session: Session | None = None  # None: not connected, perhaps not yet again
        self._last: Session | None = None
        self._redial: asyncio.Task[None] | None = None
        self._gate: Gate | None = None
        self._problem: EchoStreamError | None = None
        self._closed = False
        self._leftovers = Leftovers()
        self._subscriptions: list[Subscription] = []
        self._datagram_handlers: dict[int, DatagramHandler] = {}
        self._after_reconnect: list[Callable[[], None]] = []
        self.reconnects = 0
        """How often a lost session was followed by a new one."""

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
        calls that were running fail, new ones wait for the connection. ``emulate_datagrams`` carries datagrams over
        transports of one ordered pipe too, if the server has set it as well; connecting then waits for its SETUP.
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
        await self._dialer.dial(self._begin)
        return self

    async def _begin(self, connection: Connection, url: str) -> None:
        """Make the session over ``connection`` ours; a TransportError says that it is of no use after all."""
        session = Session(connection, self._pipeline, dialer=True, on_closed=self._on_closed)
        session.datagrams.add(self._datagram_handlers)
        try:
            session.start()
        except BaseException:  # SETUP cannot be encoded
            connection.abort()
            raise
        self._session = self._last = session
        try:
            await self._settle(session, url)
        except TransportError:
            self._session = None
            raise

    async def _settle(self, session: Session, url: str) -> None:
        """Where datagrams are to be emulated, wait until the server has said whether it does, too."""
        if not self._settings.emulate_datagrams or session.capabilities.streams != "muxed":
            return
        try:
            await session.wait_for_peer(session.loop.time() + self._dialer.connect_timeout)
            self._settings.check_negotiated(session.connection, url)
        except Disconnected:
            return  # as when it is lost a moment later: ``_on_closed`` knows what to do
        except DeadlineExceeded as error:
            session.abort()
            raise ConnectFailed(f"{url}: {error.message}") from error
        except BaseException:
            session.abort()
            raise

    # -- the session, and the next one

    @property
    def session(self) -> Session:
        """The session under this client; while it is lost, the one that was."""
        session = self._session or self._last
        if session is None:
            raise ConfigError("not connected: await RpcClient.connect(...) or use it in 'async with'")
        return session

    @property
    def fallbacks(self) -> int:
        """How many URLs were tried in vain before the one that worked."""
        return self._dialer.fallbacks

    @property
    def connected(self) -> bool:
        """Whether there is a session right now."""
        return self._session is not None and not self._session.disconnected

    def _on_closed(self, session: Session, error: EchoStreamError | None) -> None:
        if self._reconnect is None or self._closed or session is not self._session:
            return
        if (error is None and not session.departure.final) or is_permanent(error):
            if error is not None:
                _logger.error("%s has ended the session for good: %s", session.peer, error)
            self._end_subscriptions(session.closed_error())  # else the application has closed the session itself
            return
        self._session = None
        self._problem = error
        if self._gate is None:
            self._gate = Gate(session.loop)
        _logger.warning("the session with %s is lost (%s); connecting again", session.peer, error or "closed")
        if self._redial is None or self._redial.done():  # else it is at it already, and will see
            self._redial = session.loop.create_task(self._dial_again(self._reconnect))

    async def _dial_again(self, reconnect: Reconnect) -> None:
        try:
            while self._session is None:
                if not await self._dial_until_it_works(reconnect):
                    return
                await self._subscribe_again(self.session)
                await self._see_its_end()
            if self._session.disconnected:
                return
            self.reconnects += 1
            _logger.info("connected again, to %s", self._session.peer)
        finally:
            if self._gate is not None:
                self._gate.open_all()
        self._tell_reconnected()

    async def _see_its_end(self) -> None:
        """A session that has failed is not ours any more as soon as its connection is gone too: wait for that."""
        if self._session is not None and self._session.disconnected:
            await asyncio.wait({self._session.closed})

    async def _dial_until_it_works(self, reconnect: Reconnect) -> bool:
        """Dial until there is a session with the peer's SETUP; False when it is time to give up."""
        for delay in reconnect.delays(self._pipeline.randomness):
            await asyncio.sleep(delay)
            try:
                await self._dial()
                # A proxy accepts connections also when nobody is behind it: that would look like success.
                await self.session.wait_for_peer(float("inf"))
            except EchoStreamError as error:
                self._problem = error
                _logger.info("connecting again: %s", error)
            except Exception as error:  # a transport that breaks its contract
                self._problem = TransportError(f"{type(error).__name__}: {error}")
                _logger.exception("connecting again: a transport has failed")
            await self._see_its_end()
            if self._session is not None:
                return not self._session.disconnected  # else it was ended for good
        _logger.error("not connected any more after %d attempts: %s", reconnect.attempts or 0, self._problem)
        self._session = self._last
        self._end_subscriptions(Disconnected(f"not connected any more: {self._problem}", not_processed=True))
        return False

    def _tell_reconnected(self) -> None:
        for callback in list(self._after_reconnect):
            try:
                callback()
            except Exception:
                _logger.exception("a callback of on_reconnect failed")

    async def _subscribe_again(self, session: Session) -> None:
        """All at once: a thousand subscriptions must not take a thousand round trips."""
        missing = [one for one in self._subscriptions if one.number < 0 and not one.ended]
        await asyncio.gather(*(self._renew(session, subscription) for subscription in missing))

    async def _renew(self, session: Session, subscription: Subscription) -> None:
        try:
            await session.events.attach(subscription)
        except Disconnected:
            return  # lost again: the next session will have it
        except EchoStreamError as error:
            _logger.error("the subscription to %r could not be renewed: %s", subscription.pattern, error)
            subscription.end(error)
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    def _end_subscriptions(self, error: EchoStreamError) -> None:
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            subscription.end(error)

    async def _wait_connected(self, timeout: float | None) -> Session:
        """The session, waiting for the next one while there is none; DeadlineExceeded when it takes too long."""
        try:
            async with asyncio.timeout(timeout):
                while self._session is None:
                    if self._closed:
                        raise Disconnected("the client is closed", not_processed=True)
                    if self._gate is None:
                        raise ConfigError("not connected: await RpcClient.connect(...) or use it in 'async with'")
                    await self._gate.wait()
                return self._session
        except TimeoutError as error:
            text = f"not connected within {timeout:g} s: {self._problem}"
            raise DeadlineExceeded(text, not_processed=True) from error

    async def _request_later(
        self,
        method: str,
        payload: object,
        timeout: float | _Default | None,
        metadata: MetadataLike | None,
        returns: Any,
        priority: Priority | None,
    ) -> Any:
        """A request that is made while the session is lost: its timeout covers the waiting."""
        loop = asyncio.get_running_loop()
        limit = self._settings.limits.default_timeout_s if isinstance(timeout, _Default) else timeout
        begin = loop.time()
        session = await self._wait_connected(limit)
        left = None if limit is None else limit - (loop.time() - begin)
        return await session.outgoing.request(method, payload, left, metadata, returns, priority)

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
        """Call the server's ``method``; await it for the answer. See ``Session.request``."""
        session = self._session
        if session is None:
            if self._last is None:
                raise ConfigError("not connected: await RpcClient.connect(...) or use it in 'async with'")
            return self._request_later(method, payload, timeout, metadata, returns, priority)
        return session.outgoing.request(method, payload, timeout, metadata, returns, priority)

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
        return ItemStream(self._opening(), method, payload, timeout, metadata, returns, priority)

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
        return StreamOpening(self._opening(), method, payload, timeout, metadata, priority)

    def _opening(self) -> Callable[[float | None], Awaitable[Session]]:
        """Where streams are opened: in the session that there is then, not in the one that is lost meanwhile."""
        if self._session is None and self._last is None:
            raise ConfigError("not connected: await RpcClient.connect(...) or use it in 'async with'")

        def wait(timeout: float | None) -> Awaitable[Session]:
            return self._wait_connected(self._settings.limits.default_timeout_s if timeout is None else timeout)

        return wait

    async def emit(self, topic: str, payload: object = None) -> bool:
        """Send an event to the server, if it listens; while the session is lost, to the next one. See
        ``Session.emit``.
        """
        session = self._session or await self._wait_connected(self._settings.limits.default_timeout_s)
        return await session.events.emit(topic, payload)

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until the server has handled all events emitted so far; see ``Session.flush``."""
        await self.session.flush(timeout)

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
        subscription.lasting = self._reconnect is not None
        subscription.call_at_end(self._detach)
        session = self._session or await self._wait_connected(self._settings.limits.default_timeout_s)
        await session.events.attach(subscription)
        self._subscriptions.append(subscription)
        if self._closed or (self._session is not None and self._session.closed.done()):  # for good, in this very turn
            self._end_subscriptions(session.closed_error())

    async def _detach(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        if self._session is not None and not self._session.disconnected:
            await self._session.events.detach(subscription)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called whenever a lost session was followed by a new one and the subscriptions are renewed.

        For what a session of the server knows of this client and a new one does not. It must return at once; what it
        raises is logged. The answer is a function that undoes this.
        """
        self._after_reconnect.append(callback)

        def forget() -> None:
            if callback in self._after_reconnect:
                self._after_reconnect.remove(callback)

        return forget

    def send_datagram(self, channel: int, payload: Buffer, *, expires_after: float | None = None) -> bool:
        """Send one datagram to the server; see ``Session.send_datagram``. Disconnected while the session is lost:
        datagrams are not kept for the next one.
        """
        session = self._session
        if session is None:
            raise self.session.closed_error()
        return session.datagrams.send(channel, payload, expires_after)

    def on_datagram(self, channel: int, callback: Callable[..., object]) -> Callable[[], None]:
        """Have ``callback`` called for the server's datagrams on ``channel``, in later sessions too; calling the
        answer ends it. See ``Session.on_datagram``.
        """
        check_channel(channel)
        handler = compile_datagram_handler(channel, callback)
        if channel in self._datagram_handlers or channel in self._pipeline.datagram_handlers:
            raise ConfigError(f"channel {channel}: another function takes its datagrams; end that first")
        if self._session is not None:
            self._session.datagrams.listen(channel, handler)
        self._datagram_handlers[channel] = handler

        def stop() -> None:
            if self._datagram_handlers.get(channel) is handler:
                del self._datagram_handlers[channel]
                if self._session is not None:
                    self._session.datagrams.forget(channel, handler)

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
        self._pipeline = self._settings.pipeline([*self._handlers, *handlers])
        self._handlers.extend(handlers)
        if self._session is not None:
            self._session.replace_pipeline(self._pipeline)

    def proxy(self, cls: type[T]) -> T:
        """An object with the methods of the ``@service`` class ``cls``; calling one calls the server."""
        return cast("T", Proxy(self, cls))

    async def close(self, *, flush: float = FLUSH_TIMEOUT) -> None:
        """End the session, and connect no more; before that, wait up to ``flush`` seconds until the server has handled
        the events emitted so far. Idempotent.
        """
        self._closed = True
        try:
            if self._redial is not None:
                self._redial.cancel()
                await asyncio.wait({self._redial})
            if self._gate is not None:
                self._gate.open_all()
            if self._session is not None and not self._session.disconnected and flush > 0:
                await self._flush_events(self._session, flush)
        finally:
            if self._session is not None:
                self._session.close_now(CloseCode.OK)
            self._end_subscriptions(EndOfStream("the client was closed"))
        if self._session is not None:
            await self._session.close(CloseCode.OK)
        if self._last is not None:
            self._leftovers.add(self._last.connection)
            await self._leftovers.clear()

    async def _flush_events(self, session: Session, timeout: float) -> None:
        try:
            if session.events.unacknowledged:
                await session.events.flush(timeout)
        except TimeoutError:
            _logger.warning("%s: the last events were not handled within %g s", session.peer, timeout)
        except Disconnected as error:
            _logger.warning("%s: the last events may be lost: %s", session.peer, error)

    async def __aenter__(self) -> RpcClient:
        """A client that was awaited can still be used in ``async with``."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; at once when the block failed."""
        await self.close(flush=0.0 if error is not None else FLUSH_TIMEOUT)
