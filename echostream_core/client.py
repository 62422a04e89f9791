"""The client's face: dial a URL, then call, stream, and be called."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.config import Config, load_config
from echostream_core.engine.endpoint import EndpointSettings, Target, make_limits
from echostream_core.engine.handlers import collect_routes, make_route, method_mark, service_name
from echostream_core.engine.outgoing import DEFAULT_TIMEOUT, MetadataLike, _Default
from echostream_core.engine.session import Session
from echostream_core.engine.stream_calls import ItemStream, StreamOpening
from echostream_core.errors import CloseCode, ConfigError, ConnectFailed, TransportError
from echostream_core.kernel import Kernel, default_kernel
from echostream_core.types import Priority
from echostream_core.wire.limits import Limits

if TYPE_CHECKING:
    from echostream_core.codec import Codec
    from echostream_core.middleware import Middleware

__all__ = ["Connecting", "RpcClient"]

T = TypeVar("T")
CONNECT_TIMEOUT: Final = 10.0
"""Seconds for dialling one URL, handshake included."""

_logger = logging.getLogger("echostream.client")


class Connecting:
    """What ``RpcClient.connect`` returns: await it for the client, or use it in ``async with``."""

    def __init__(self, client: RpcClient) -> None:
        self._client = client

    def __await__(self) -> Generator[Any, None, RpcClient]:
        """Dial; the answer is the connected client, which the caller closes."""
        return self._client._dial().__await__()

    async def __aenter__(self) -> RpcClient:
        """Dial."""
        return await self._client._dial()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self._client.close()


class RpcClient:
    """One end of a session that we dialled. It has the session's verbs; the server may call its handlers.

    Made by ``connect`` or ``from_config``.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        targets: Sequence[Target],
        handlers: Sequence[object],
        connect_timeout: float,
    ) -> None:
        self._settings = settings
        self._targets = targets
        self._connect_timeout = connect_timeout
        self._handlers = list(handlers)
        self._pipeline = settings.pipeline(collect_routes(self._handlers))
        self._session: Session | None = None
        self.fallbacks = 0
        """How many URLs were tried in vain before the one that worked."""

    @classmethod
    def connect(
        cls,
        url: str | Sequence[str],
        *handlers: object,
        codecs: Sequence[str | Codec] = (),
        tls: Mapping[str, object] | None = None,
        transport: Mapping[str, Mapping[str, object]] | None = None,
        middleware: Sequence[str | Middleware] = (),
        limits: Mapping[str, float] | Limits | None = None,
        require: Sequence[str] = (),
        credentials: Mapping[str, str] | None = None,
        insecure_credentials: bool = False,
        connect_timeout: float = CONNECT_TIMEOUT,
        name: str = "",
        kernel: Kernel | None = None,
    ) -> Connecting:
        """Dial ``url``, or the first of several that works: await it, or ``async with RpcClient.connect(...) as
        client``.

        ``handlers`` are what the server may call here. ``credentials`` go to the server's authenticator, and only
        over an encrypted connection unless ``insecure_credentials``. ``connect_timeout`` in seconds for each URL.
        Raises ConnectFailed when none works, ConfigError and PluginError for wrong arguments.
        """
        settings = EndpointSettings(
            kernel=kernel or default_kernel(),
            side="client",
            codecs=codecs,
            middleware=middleware,
            tls=tls,
            transport=transport or {},
            limits=make_limits(limits),
            require=require,
            credentials=credentials or {},
            name=name,
        )
        urls = [url] if isinstance(url, str) else list(url)
        return cls._connecting(settings, urls, handlers, connect_timeout, insecure_credentials)

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
        changes = dict(section.limits)
        if section.timeout_s is not None:
            changes["default_timeout_s"] = section.timeout_s
        settings = EndpointSettings(
            kernel=kernel or Kernel(config.plugins),
            side="client",
            codecs=section.codecs,
            middleware=section.middleware,
            tls=section.tls,
            limits=make_limits(changes),
            require=section.require,
            credentials=section.credentials,
            name=section.name,
            config=config,
            section=section,
        )
        return cls._connecting(settings, section.url, handlers, section.connect_timeout_s, section.insecure_credentials)

    @classmethod
    def _connecting(
        cls,
        settings: EndpointSettings,
        urls: Sequence[str],
        handlers: Sequence[object],
        connect_timeout: float,
        insecure_credentials: bool,
    ) -> Connecting:
        targets = settings.targets(urls)
        if settings.credentials and not insecure_credentials:
            for target in targets:
                if not target.spec.capabilities.encrypted and not target.spec.capabilities.in_process:
                    raise ConfigError(
                        f"credentials are not sent over {target.url.scheme}://, which is not encrypted: "
                        "use an encrypted transport, or set insecure_credentials = true",
                        key="credentials",
                    )
        return Connecting(cls(settings, targets, handlers, connect_timeout))

    async def _dial(self) -> RpcClient:
        problems: list[TransportError] = []
        for target in self._targets:
            try:
                async with asyncio.timeout(self._connect_timeout):
                    made = await target.transport.dial(target.url, target.options)
            except TimeoutError:
                problems.append(ConnectFailed(f"{target.url} did not answer within {self._connect_timeout:g} s"))
            except TransportError as error:
                problems.append(error)
            else:
                connection = self._settings.connection(made)
                try:
                    self._settings.check_negotiated(connection.capabilities, str(target.url))
                except TransportError as error:
                    connection.abort()
                    problems.append(error)
                else:
                    self._session = Session(connection, self._pipeline, dialer=True)
                    try:
                        self._session.start()
                    except BaseException:  # SETUP cannot be encoded
                        connection.abort()
                        raise
                    return self
            if len(problems) < len(self._targets):
                self.fallbacks += 1
                _logger.warning("%s; trying the next URL", problems[-1])
        if len(problems) == 1:
            raise problems[0]
        listed = "; ".join(str(problem) for problem in problems)
        raise ConnectFailed(f"none of {len(problems)} URLs worked: {listed}") from problems[-1]

    @property
    def session(self) -> Session:
        """The session under this client."""
        if self._session is None:
            raise ConfigError("not connected: await RpcClient.connect(...) or use it in 'async with'")
        return self._session

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
        session = self._session or self.session
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
        """The items that the server's ``method`` yields; see ``Session.stream``."""
        return self.session.stream(
            method, payload, timeout=timeout, metadata=metadata, returns=returns, priority=priority
        )

    def open_stream(
        self,
        method: str,
        payload: object = None,
        *,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        priority: Priority | None = None,
    ) -> StreamOpening:
        """Open a stream to the server's stream handler; see ``Session.open_stream``."""
        return self.session.open_stream(method, payload, timeout=timeout, metadata=metadata, priority=priority)

    async def ping(self) -> float:
        """Seconds for one round trip."""
        return await self.session.ping()

    def add(self, *handlers: object) -> None:
        """Serve more handlers to the server from now on. ConfigError for a name that is taken."""
        routes = collect_routes([*self._handlers, *handlers])
        self._handlers.extend(handlers)
        self._pipeline = self._settings.pipeline(routes)
        if self._session is not None:
            self._session.replace_pipeline(self._pipeline)

    def proxy(self, cls: type[T]) -> T:
        """An object with the methods of the ``@service`` class ``cls``; calling one calls the server."""
        return cast("T", _Proxy(self, cls))

    async def close(self) -> None:
        """End the session. Idempotent."""
        if self._session is not None:
            await self._session.close(CloseCode.OK)

    async def __aenter__(self) -> RpcClient:
        """A client that was awaited can still be used in ``async with``."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()


class _Proxy:
    """Calls ``service.method`` for each method of a service class, with its signature's payload shape."""

    def __init__(self, client: RpcClient, cls: type) -> None:
        self._client = client
        self._class = cls
        self._prefix = service_name(cls)

    def __getattr__(self, attribute: str) -> Any:
        function = getattr(self._class, attribute, None)
        mark = method_mark(function) if function is not None else None
        if function is None or mark is None:
            raise AttributeError(f"{self._class.__name__} has no handler {attribute!r}")
        name = f"{self._prefix}.{mark[0] or attribute}"
        route = make_route(name, function.__get__(object()), mark[1])
        signature = route.signature
        names = [parameter for parameter, _, _ in signature.parameters]
        returns = None if signature.returns is inspect.Parameter.empty else signature.returns
        kind = route.kind

        def call(*args: Any, **kwargs: Any) -> Any:
            if len(args) > len(names):
                raise TypeError(f"{name} takes {len(names)} arguments, {len(args)} were given")
            given = dict(zip(names, args, strict=False))
            for key, value in kwargs.items():
                if key not in names or key in given:
                    raise TypeError(f"{name} got an unexpected or repeated argument {key!r}")
                given[key] = value
            for name_, _, default in signature.parameters:
                if default is msgspec.NODEFAULT and name_ not in given:
                    raise TypeError(f"{name} is missing the argument {name_!r}")
            if signature.shape == "one":
                payload: Any = next(iter(given.values()), None)
            else:
                payload = given if names else None
            if kind == "generator":
                return self._client.stream(name, payload, returns=returns)
            if kind == "stream":
                return self._client.open_stream(name, payload)
            return self._client.request(name, payload, returns=returns)

        self.__dict__[attribute] = call
        return call
