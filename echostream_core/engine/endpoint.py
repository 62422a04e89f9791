"""From what a user asked for, in code or in configuration, to transports with options and a compiled pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import msgspec

from echostream_core.builtin.events import Events
from echostream_core.codec import Codec
from echostream_core.components import Authenticator
from echostream_core.compression import Compression
from echostream_core.config import Config
from echostream_core.config_schema import ClientConfig, ServerConfig
from echostream_core.engine.datagram_handlers import collect_datagram_handlers
from echostream_core.engine.handlers import collect_routes
from echostream_core.engine.listeners import collect_listeners
from echostream_core.engine.muxed import MuxedConnection
from echostream_core.engine.pipeline import Pipeline
from echostream_core.errors import CapabilityError, ConfigError
from echostream_core.kernel import Kernel
from echostream_core.middleware import Middleware
from echostream_core.options import suggestion
from echostream_core.tls_options import TlsOptions
from echostream_core.transport import Connection, Pipe, Transport, TransportSpec
from echostream_core.types import Url
from echostream_core.wire.limits import Limits

__all__ = ["EndpointSettings", "Target", "make_limits"]


@dataclass(frozen=True, slots=True)
class Target:
    """One URL with the transport that serves it, ready to listen or dial."""

    url: Url
    spec: TransportSpec
    transport: Transport
    options: msgspec.Struct
    patience_s: float = float("inf")
    """For dialling it, where that is less than the client has for any: it is others' word that somebody is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """What one endpoint was told, before any plugin is looked up."""

    kernel: Kernel
    side: Literal["server", "client"]
    codecs: Sequence[str | Codec] = ()
    compression: Sequence[str | Compression] = ()
    middleware: Sequence[str | Middleware] = ()
    tls: Mapping[str, object] | None = None
    transport: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    require: Sequence[str] = ()
    emulate_datagrams: bool = False
    authenticator: str | Authenticator | None = None
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    name: str = ""
    reflection: Literal["auto", "on", "off"] = "auto"
    config: Config | None = field(default=None, repr=False)
    section: ServerConfig | ClientConfig | None = field(default=None, repr=False)

    def targets(self, urls: Sequence[str]) -> list[Target]:
        """The transports of ``urls``; errors are E-NO-PROVIDER and the like, or ConfigError naming the key."""
        if not urls:
            raise ConfigError("no URL given: pass at least one, such as 'memory://name'")
        found = [self._target(Url.parse(text)) for text in urls]
        if self.tls and not any("tls" in target.options.__struct_fields__ for target in found):
            schemes = ", ".join(dict.fromkeys(target.url.scheme for target in found))
            raise ConfigError(f"tls= was given, but none of the transports takes it: {schemes}", key="tls")
        return found

    def _target(self, url: Url) -> Target:
        spec = self.kernel.transport(url.scheme)
        options = self._options(spec)
        key = f"transport.{spec.scheme}"
        tls = getattr(options, "tls", None)
        if isinstance(tls, TlsOptions) and spec.capabilities.encrypted:
            check = tls.check_listener if self.side == "server" else tls.check_dialer
            check(f"{key}.tls")
        transport = spec.factory()
        capabilities = transport.configured(options, spec.capabilities)
        if self.emulate_datagrams:
            capabilities = capabilities.with_emulated_datagrams()
        missing = capabilities.unmet(self.require)
        if missing:
            notes = "; ".join(
                spec.notes[need.partition("=")[0]] for need in missing if need.partition("=")[0] in spec.notes
            )
            raise ConfigError(
                f"require: {url.scheme}:// cannot do {', '.join(missing)}" + (f" ({notes})" if notes else ""),
                key="require",
            )
        return Target(url, spec, transport, options)

    def _options(self, spec: TransportSpec) -> msgspec.Struct:
        if self.config is not None:
            return self.config.transport_options(self.kernel, spec.scheme, self.section)
        mapping = dict(self.transport.get(spec.scheme, {}))
        if self.tls and "tls" in spec.options.__struct_fields__:
            mapping["tls"] = {**dict(self.tls), **_mapping(mapping.get("tls"))}
        return self.kernel.build_options(spec, mapping, key=f"transport.{spec.scheme}")

    def pipeline(self, targets: Sequence[object]) -> Pipeline:
        """Compile codecs, chain, handlers and listeners."""
        middleware = tuple(self._middleware(layer) for layer in self.middleware)
        server = self.side == "server"
        return Pipeline(
            routes=collect_routes([*targets, Events()]),
            listeners=collect_listeners(targets),
            datagram_handlers=collect_datagram_handlers(targets),
            codecs=self._codecs(),
            compression=self._compression(),
            limits=self.limits,
            server_middleware=middleware if server else (),
            client_middleware=() if server else middleware,
            authenticator=self._authenticator() if server else None,
            credentials=dict(self.credentials),
            name=self.name,
            reflection=self.reflection,
        )

    def _codecs(self) -> tuple[Codec, ...]:
        codecs: list[Codec] = []
        if self.codecs:
            for item in self.codecs:
                codecs.append(self._codec(item) if isinstance(item, str) else item)
        else:
            codecs.extend(self._codec(spec.name) for spec in self.kernel.default_codecs())
        if not any(codec.name == "json" for codec in codecs):
            codecs.append(self._codec("json"))
        names = [codec.name for codec in codecs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"codecs: {twice!r} is listed twice", key="codecs")
        return tuple(codecs)

    def _codec(self, name: str) -> Codec:
        spec = self.kernel.codec(name)
        return spec.factory(self._section_options("codec", name, spec))

    def _compression(self) -> tuple[Compression, ...]:
        if isinstance(self.compression, str):
            raise ConfigError(f"compression is a list: compression=[{self.compression!r}]", key="compression")
        made = tuple(self._one_compression(item) if isinstance(item, str) else item for item in self.compression)
        names = [compression.name for compression in made]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"compression: {twice!r} is listed twice", key="compression")
        return made

    def _one_compression(self, name: str) -> Compression:
        spec = self.kernel.component("compression", name)
        made: Any = spec.factory(self._section_options("compression", name, spec))
        return made  # type: ignore[no-any-return]  # a component's factory answers as its kind demands

    def _middleware(self, layer: str | Middleware) -> Middleware:
        if not isinstance(layer, str):
            return layer
        spec = self.kernel.middleware(layer)
        return spec.factory(self._section_options("middleware", layer, spec))

    def _authenticator(self) -> Authenticator | None:
        if not isinstance(self.authenticator, str):
            return self.authenticator
        spec = self.kernel.component("authenticator", self.authenticator)
        made: Any = spec.factory(self._section_options("authenticator", self.authenticator, spec))
        return made  # type: ignore[no-any-return]  # a component's factory answers as its kind demands

    def _section_options(self, kind: str, name: str, spec: Any) -> msgspec.Struct:
        if self.config is not None:
            return self.config.options(self.kernel, kind, name)
        return self.kernel.build_options(spec, {}, key=f"{kind}.{name}")

    def connection(self, made: Connection | Pipe) -> Connection:
        """What a transport yielded as a connection with substreams; needs that it lacks are refused."""
        if isinstance(made, Pipe):
            role: Literal["listener", "dialer"] = "listener" if self.side == "server" else "dialer"
            made = MuxedConnection(made, role, limits=self.limits, emulate_datagrams=self.emulate_datagrams)
        return made

    def check_negotiated(self, connection: Connection, url: str) -> None:
        """CapabilityError when the connection turned out to lack what ``require`` asks for.

        Emulated datagrams count as there until the peer's SETUP is here: check again then.
        """
        capabilities = connection.capabilities
        if isinstance(connection, MuxedConnection) and connection.datagrams_open:
            capabilities = capabilities.with_emulated_datagrams()
        missing = capabilities.unmet(self.require)
        if missing:
            hint = " (the peer has not set emulate_datagrams)" if self.emulate_datagrams else ""
            raise CapabilityError(
                f"{url}: the connection cannot do {', '.join(missing)}{hint}", capability=missing[0].partition("=")[0]
            )


def make_limits(changes: Mapping[str, float] | Limits | None) -> Limits:
    """``Limits`` with changes by name; ConfigError names a wrong one and suggests the nearest."""
    if changes is None:
        return Limits()
    if isinstance(changes, Limits):
        limits = changes
    else:
        known = [item.name for item in fields(Limits)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"limits: there is no limit {name!r}{suggestion(name, known)}", key=f"limits.{name}")
        limits = Limits().with_changes(**changes)
    problems = limits.check()
    if problems:
        raise ConfigError(f"limits: {'; '.join(problems)}", key="limits")
    return limits


def _mapping(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}


SessionMade = Callable[[Connection], None]
