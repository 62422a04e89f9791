"""What may stand in ``echostream.toml``: the typed sections of endpoints and plugins, and their checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import Final, Literal, TypeVar

import msgspec

from echostream_core.discovery import Advertise
from echostream_core.errors import ConfigError
from echostream_core.options import OptionProblem, option_problems, suggestion
from echostream_core.plugin_reports import PluginSettings
from echostream_core.types import Url
from echostream_core.wire.limits import Limits

__all__ = [
    "ENDPOINT_NAME",
    "LISTS",
    "ClientConfig",
    "ServerConfig",
    "limit_problems",
    "read_endpoint",
    "read_plugins",
]

Tables = dict[str, dict[str, object]]
"""Name → its table, as written: the plugin's own schema checks it later."""

ENDPOINT_NAME: Final = re.compile(r"[a-z0-9_]+")
_SERVICE: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
LISTS: Final = ("listen", "url", "services", "codecs", "compression", "middleware", "require", "transports")
"""Settings that are lists, and may be written as one text."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``[server.NAME]``: an endpoint that listens."""

    name: str
    """The part of the section's title after ``server.``; the endpoint's identity across reloads."""
    listen: tuple[str, ...]
    """URLs to listen on."""
    services: tuple[str, ...] = ()
    """What is served: ``module:object``, a handler, a service class or a list of them."""
    codecs: tuple[str, ...] = ()
    """In order of preference; empty: all installed ones, by priority."""
    compression: tuple[str, ...] = ()
    """What messages may be compressed with, in order of preference; options stand in ``[compression.NAME]``."""
    middleware: tuple[str, ...] = ()
    """From the outermost to the innermost; options stand in ``[middleware.NAME]``."""
    advertise: str | Advertise | None = None
    """The name under which discovery announces it, or a table ``[server.NAME.advertise]`` with tags and a weight."""
    discovery: str | None = None
    """The backend that announces it; None: the only one installed."""
    drain_s: float = 30.0
    """How long running calls may take to finish when it stops."""
    tls: dict[str, object] | None = None
    """TLS settings for all its transports that take them, over those of ``[transport.SCHEME]``."""
    transport: Tables = {}
    """Overrides of ``[transport.SCHEME]`` for this endpoint, by scheme."""
    limits: dict[str, int | float] = {}
    """Changes to the limits, by name."""
    require: tuple[str, ...] = ()
    """Capabilities that each of its transports must have: ``datagrams``, ``streams=native``."""
    emulate_datagrams: bool = False
    """Carry datagrams over transports of one ordered pipe too, where the peer has set it as well."""
    authenticator: str | None = None
    """The component that checks credentials; its options stand in ``[authenticator.NAME]``."""
    health: bool = True
    """Whether the health service answers."""
    reflection: Literal["auto"] | bool = "auto"
    """Whether the reflection service answers; ``auto``: local and authenticated sessions only."""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``[client.NAME]``: an endpoint that dials."""

    name: str
    """The part of the section's title after ``client.``."""
    url: tuple[str, ...] = ()
    """Where to connect; of several the first that works. With ``discover``: where to, when nothing is found."""
    discover: str | None = None
    """The name that its server advertises; found by the discovery backend."""
    where: dict[str, str | list[str]] = {}
    """Attributes that a discovered server must have: a value, or several to choose from."""
    transports: tuple[str, ...] = ()
    """The only URL schemes to use of what is discovered, best first."""
    discovery: str | None = None
    """The backend that finds it; None: the only one installed."""
    discover_timeout_s: float = 5.0
    """For finding a server that answers."""
    codecs: tuple[str, ...] = ()
    """In order of preference; empty: all installed ones, by priority."""
    compression: tuple[str, ...] = ()
    """What messages may be compressed with, in order of preference; options stand in ``[compression.NAME]``."""
    middleware: tuple[str, ...] = ()
    """From the outermost to the innermost; options stand in ``[middleware.NAME]``."""
    credentials: dict[str, str] = {}
    """What is shown to the server's authenticator. Secret."""
    tls: dict[str, object] | None = None
    """TLS settings for all its transports that take them, over those of ``[transport.SCHEME]``."""
    transport: Tables = {}
    """Overrides of ``[transport.SCHEME]`` for this endpoint, by scheme."""
    limits: dict[str, int | float] = {}
    """Changes to the limits, by name."""
    require: tuple[str, ...] = ()
    """Capabilities that each of its transports must have."""
    emulate_datagrams: bool = False
    """Carry datagrams over transports of one ordered pipe too, where the peer has set it as well."""
    timeout_s: float | None = None
    """Default timeout of its requests; None: the limit ``default_timeout_s``."""
    connect_timeout_s: float = 10.0
    """For establishing a session, handshake included."""
    reconnect: bool = True
    """Replace a session that was lost by a new one."""
    insecure_credentials: bool = False
    """Send credentials even where the connection is not encrypted."""

    def __repr__(self) -> str:
        """Without the credentials: this may end in a log."""
        return f"ClientConfig(name={self.name!r}, url={self.url!r})"


E = TypeVar("E", ServerConfig, ClientConfig)


def read_endpoint(kind: type[E], name: str, section: object) -> tuple[E | None, list[OptionProblem]]:
    """The typed section of one endpoint, or None and everything that is wrong with it."""
    if not ENDPOINT_NAME.fullmatch(name):
        return None, [OptionProblem("", f"the endpoint's name {name!r} may have only a-z, 0-9 and _")]
    if not isinstance(section, Mapping):
        section = "server" if kind is ServerConfig else "client"
        return None, [OptionProblem("", f"must be a table: settings stand below a name, as in [{section}.main]")]
    values = {key: _listed(key, value) for key, value in section.items()}
    problems = []
    if "name" in values:
        problems.append(OptionProblem("name", "is not written here: it is the last part of the section's title"))
    values["name"] = name
    problems += option_problems(kind, values, hidden=("name",))
    problems += _value_problems(values)
    if kind is ClientConfig:
        problems += _client_problems(values)
    if problems:
        return None, problems
    return msgspec.convert(values, kind), []


def read_plugins(section: object) -> tuple[PluginSettings, list[OptionProblem]]:
    """The section ``[plugins]``; ``prefer`` may hold tables: ``prefer.transports.X`` needs no quotes."""
    if not isinstance(section, Mapping):
        return PluginSettings(), [OptionProblem("", "must be a table")]
    values = dict(section)
    prefer = values.get("prefer")
    if isinstance(prefer, Mapping):
        values["prefer"] = _flat(prefer)
    for key in ("allow", "block"):
        if isinstance(values.get(key), str):
            values[key] = [values[key]]
    problems = option_problems(PluginSettings, values)
    return (PluginSettings() if problems else msgspec.convert(values, PluginSettings)), problems


def limit_problems(changes: Mapping[str, object]) -> list[OptionProblem]:
    """What is wrong with changes to :class:`Limits`: names, types, and values that make no sense."""
    known = {item.name: str(item.type) for item in fields(Limits)}
    problems: list[OptionProblem] = []
    good: dict[str, float] = {}
    for name, value in changes.items():
        if name not in known:
            problems.append(OptionProblem(name, f"there is no such limit{suggestion(name, known)}"))
        elif isinstance(value, bool) or not isinstance(value, int | float):
            problems.append(OptionProblem(name, f"must be a number, not {type(value).__name__}"))
        elif known[name] == "int" and not isinstance(value, int):
            problems.append(OptionProblem(name, "must be a whole number"))
        elif not isfinite(value):
            problems.append(OptionProblem(name, "must be finite"))
        else:
            good[name] = value
    for text in Limits().with_changes(**good).check():
        name = text.partition(" ")[0]
        problems.append(OptionProblem(name, text.removeprefix(f"{name} ")))
    return problems


def _client_problems(values: Mapping[str, object]) -> list[OptionProblem]:
    """What a client's settings mean only together."""
    problems: list[OptionProblem] = []
    if "discover" not in values:
        if "url" not in values:
            problems.append(OptionProblem("url", 'is missing (or discover = "NAME", to find it by name)'))
        problems += [
            OptionProblem(key, "has no effect without discover")
            for key in ("where", "transports", "discovery", "discover_timeout_s")
            if key in values
        ]
    seconds = values.get("discover_timeout_s")
    if isinstance(seconds, int | float) and not 0 < seconds < float("inf"):
        problems.append(OptionProblem("discover_timeout_s", "must be a number of seconds above 0"))
    return problems


def _value_problems(values: Mapping[str, object]) -> list[OptionProblem]:
    """What types do not say: URLs, services, limits, durations."""
    problems: list[OptionProblem] = []
    for key in ("listen", "url"):
        urls = values.get(key)
        if isinstance(urls, list):
            if not urls:
                problems.append(OptionProblem(key, "must name at least one URL"))
            for url in urls:
                if isinstance(url, str):
                    try:
                        Url.parse(url)
                    except ConfigError as error:
                        problems.append(OptionProblem(key, str(error)))
    services = values.get("services")
    if isinstance(services, list):
        for service in services:
            if isinstance(service, str) and not _SERVICE.fullmatch(service):
                problems.append(OptionProblem("services", f"{service[:80]!r} is not of the form module:object"))
    limits = values.get("limits")
    if isinstance(limits, Mapping):
        problems += [OptionProblem(f"limits.{path}", text) for path, text in limit_problems(limits)]
    seconds = values.get("drain_s")
    if isinstance(seconds, int | float) and not 0 <= seconds < float("inf"):
        problems.append(OptionProblem("drain_s", "must be a number of seconds, not negative"))
    for key in ("timeout_s", "connect_timeout_s"):
        seconds = values.get(key)
        if isinstance(seconds, int | float) and not 0 < seconds < float("inf"):
            problems.append(OptionProblem(key, "must be a number of seconds above 0"))
    for key in ("advertise", "discover"):
        name = values.get(key)
        if isinstance(name, str) and not name.strip():
            problems.append(OptionProblem(key, "must not be empty: it is the name of the service"))
    return problems


def _listed(key: str, value: object) -> object:
    return [value] if key in LISTS and isinstance(value, str) else value


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
