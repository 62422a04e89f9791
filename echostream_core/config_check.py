"""Does a configuration fit the plugins that it names? Everything is judged before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import msgspec

from echostream_core.config_layers import dotted
from echostream_core.config_schema import ClientConfig, ServerConfig, limit_problems
from echostream_core.errors import ConfigError, EchoStreamError
from echostream_core.options import option_problems, struct_in, suggestion
from echostream_core.plugin_reports import ConfigDiff
from echostream_core.resolver import package_hint
from echostream_core.tls_options import TlsOptions
from echostream_core.transport import TransportSpec
from echostream_core.types import Url

if TYPE_CHECKING:
    from echostream_core.config import Config
    from echostream_core.kernel import Kernel

__all__ = ["check", "check_spelling", "transport_options"]

KINDS: Final = ("transport", "codec", "discovery", "middleware")
"""What has sections of its own for its options."""
Endpoint = ServerConfig | ClientConfig
Keys = dict[tuple[str, ...], tuple[str, ...]]
"""Path of a merged option → the full key under which it was written."""


def transport_options(config: Config, kernel: Kernel, scheme: str, endpoint: Endpoint | None = None) -> msgspec.Struct:
    """The validated options of ``scheme``: ``[transport.SCHEME]`` below the ``tls`` and the overrides of
    ``endpoint``.

    PluginError when nobody provides the scheme, ConfigError with every problem otherwise.
    """
    spec = kernel.transport(scheme)
    merged, keys = _merged(config, spec, endpoint)
    problems = [_place(config, spec, keys, path, text) for path, text in option_problems(spec.options, merged)]
    if problems:
        raise ConfigError("\n".join(problems), key=dotted(("transport", scheme)))
    options = msgspec.convert(merged, spec.options)
    tls = getattr(options, "tls", None)
    if isinstance(tls, TlsOptions) and endpoint is not None:
        key = dotted(("transport", scheme, "tls"))
        if isinstance(endpoint, ServerConfig):
            tls.check_listener(key)
        else:
            tls.check_dialer(key)
    return options


def check_spelling(config: Config, kernel: Kernel) -> None:
    """ConfigError for the section of a plugin whose name is a misspelt one of what is installed: it would count for
    nothing, and ``[discovery.mdsn]`` is meant to keep a server off the network.

    What is merely not installed may be somebody else's who shares the file: only ``check`` objects to that.
    """
    for kind in KINDS:
        known = kernel.known(kind)
        for name in getattr(config, kind):
            if name not in known and package_hint(kind, name) is None and get_close_matches(name, known, 1):
                text = f"no plugin provides the {kind} {name!r}{suggestion(name, known)}"
                raise ConfigError(_sourced(config, (kind, name), text), key=dotted((kind, name)))


def check(config: Config, kernel: Kernel) -> list[str]:
    """Every problem, one sentence each, none twice."""
    problems: list[str] = []
    used: set[tuple[str, str]] = set()
    endpoints: list[Endpoint] = [*config.servers.values(), *config.clients.values()]
    for endpoint in endpoints:
        problems += _check_endpoint(config, kernel, endpoint, used)
    for kind in KINDS:
        for name in getattr(config, kind):
            if (kind, name) not in used:
                problems += _check_section(config, kernel, kind, name)
    for kind, sections in config.components.items():
        if kind not in kernel.kinds():
            known = [
                "plugins",
                "server",
                "client",
                "transport",
                "codec",
                "discovery",
                "middleware",
                *kernel.kinds(),
            ]
            problems.append(_sourced(config, (kind,), f"there is no such section{suggestion(kind, set(known))}"))
            continue
        for name in sections:
            if (kind, name) not in used:
                problems += _check_section(config, kernel, kind, name)
    if not problems:
        problems += kernel.validate(ConfigDiff(old=None, new=config))
    return list(dict.fromkeys(problems))


def _check_endpoint(config: Config, kernel: Kernel, endpoint: Endpoint, used: set[tuple[str, str]]) -> list[str]:
    title = ("server" if isinstance(endpoint, ServerConfig) else "client", endpoint.name)
    urls = endpoint.listen if isinstance(endpoint, ServerConfig) else endpoint.url
    urls_key = "listen" if isinstance(endpoint, ServerConfig) else "url"
    problems = [_sourced(config, (*title, "limits", path), text) for path, text in limit_problems(endpoint.limits)]
    specs: list[TransportSpec] = []
    schemes = [(urls_key, Url.parse(url).scheme) for url in urls]  # the schema has seen that they can be read
    if isinstance(endpoint, ClientConfig):
        schemes += [("transports", scheme) for scheme in endpoint.transports]
    for setting, scheme in schemes:
        try:
            spec = kernel.transport(scheme)
        except EchoStreamError as error:
            problems.append(_sourced(config, (*title, setting), str(error)))
            continue
        used.add(("transport", spec.scheme))
        if spec not in specs:
            specs.append(spec)
            problems += _check_transport(config, kernel, endpoint, title, spec)
    if endpoint.tls and specs and len(specs) == len(set(urls)) and not any(map(_takes_tls, specs)):
        names = " and ".join(spec.scheme for spec in specs)
        text = f"has no effect: {names} {'does' if len(specs) == 1 else 'do'} not encrypt"
        problems.append(_sourced(config, (*title, "tls"), text))
    for scheme in endpoint.transport if isinstance(endpoint, ServerConfig) or endpoint.discover is None else ():
        if scheme not in {url.partition(":")[0].lower() for url in urls}:
            text = f"has no effect: no URL of this endpoint begins with {scheme}:"
            problems.append(_sourced(config, (*title, "transport", scheme), text))
    named = [("codec", "codecs", name) for name in endpoint.codecs]
    named += [("middleware", "middleware", name) for name in endpoint.middleware]
    named += [("compression", "compression", name) for name in endpoint.compression]
    if isinstance(endpoint, ServerConfig):
        named += [("authenticator", "authenticator", endpoint.authenticator)] if endpoint.authenticator else []
    wants_discovery = endpoint.advertise if isinstance(endpoint, ServerConfig) else endpoint.discover
    if endpoint.discovery:
        named.append(("discovery", "discovery", endpoint.discovery))
    elif wants_discovery:
        setting = "advertise" if isinstance(endpoint, ServerConfig) else "discover"
        try:
            named.append(("discovery", setting, kernel.default_discovery().name))
        except EchoStreamError as error:
            problems.append(_sourced(config, (*title, setting), str(error)))
    for kind, setting, name in named:
        used.add((kind, name))
        problems += _check_section(config, kernel, kind, name, (*title, setting))
    return problems


def _check_transport(
    config: Config, kernel: Kernel, endpoint: Endpoint, title: tuple[str, str], spec: TransportSpec
) -> list[str]:
    try:
        options = transport_options(config, kernel, spec.scheme, endpoint)
    except ConfigError as error:
        if error.key == dotted(("transport", spec.scheme)):
            return str(error).splitlines()
        return [_sourced(config, title, str(error))]
    section = ("transport", spec.scheme)
    try:
        capabilities = spec.factory().configured(options, spec.capabilities)
    except EchoStreamError as error:
        return [_sourced(config, section, str(error))]
    except Exception as error:  # the plugin's own code: whatever it raises is one more problem, not our end
        return [_sourced(config, section, f"the transport failed on its options: {type(error).__name__}: {error}")]
    if endpoint.emulate_datagrams:
        capabilities = capabilities.with_emulated_datagrams()
    require = (*title, "require")
    try:
        unmet = capabilities.unmet(endpoint.require, key=dotted(require))
    except ConfigError as error:
        return [_sourced(config, require, str(error))]
    return [
        _sourced(config, require, f"{need} is not met by the transport {spec.scheme!r}{_note(spec, need)}")
        for need in unmet
    ]


def _check_section(
    config: Config, kernel: Kernel, kind: str, name: str, named_in: tuple[str, ...] | None = None
) -> list[str]:
    """Does ``name`` exist and accept ``[kind.name]``? ``named_in`` is the setting that refers to it."""
    here = (kind, name)
    try:
        spec = kernel.spec(kind, name)
    except EchoStreamError as error:
        return [_sourced(config, named_in or here, str(error))]
    found = option_problems(spec.options, config.section(kind, name))
    return [_sourced(config, (*here, *path.split(".")) if path else here, text) for path, text in found]


def _merged(config: Config, spec: TransportSpec, endpoint: Endpoint | None) -> tuple[dict[str, object], Keys]:
    """The options of a transport with later layers over earlier ones, and where each was written."""
    merged: dict[str, object] = {}
    keys: Keys = {}
    _lay(merged, keys, config.transport.get(spec.scheme, {}), (), ("transport", spec.scheme))
    if endpoint is not None:
        title = ("server" if isinstance(endpoint, ServerConfig) else "client", endpoint.name)
        if endpoint.tls is not None and _takes_tls(spec):
            _lay(merged, keys, {"tls": endpoint.tls}, (), title)
        override = endpoint.transport.get(spec.scheme, {})
        _lay(merged, keys, override, (), (*title, "transport", spec.scheme))
    return merged, keys


def _lay(
    into: dict[str, object],
    keys: Keys,
    layer: Mapping[str, object],
    path: tuple[str, ...],
    title: tuple[str, ...],
) -> None:
    for key, value in layer.items():
        here = (*path, key)
        old = into.get(key)
        if isinstance(value, Mapping):
            nested = dict(old) if isinstance(old, Mapping) else {}
            into[key] = nested
            keys.setdefault(here, (*title, *here))
            _lay(nested, keys, value, here, title)
        else:
            into[key] = value
            keys[here] = (*title, *here)


def _place(config: Config, spec: TransportSpec, keys: Keys, path: str, text: str) -> str:
    """The sentence about the merged option ``path``, under the key where it was written."""
    parts = tuple(path.split(".")) if path else ()
    plain = tuple(part.partition("[")[0] for part in parts)
    return _sourced(config, keys.get(plain, ("transport", spec.scheme, *parts)), text)


def _sourced(config: Config, path: tuple[str, ...], text: str) -> str:
    """``file: key: text``; the key only once, the file only where the value came from one."""
    key = dotted(path)
    source = config.source(path)
    sentence = text if text.startswith(key) else f"{key}: {text}"
    return sentence if source == "default" else f"{source}: {sentence}"


def _takes_tls(spec: TransportSpec) -> bool:
    return any(
        field.name == "tls" and struct_in(field.type) is TlsOptions for field in msgspec.structs.fields(spec.options)
    )


def _note(spec: TransportSpec, need: str) -> str:
    reason = spec.notes.get(need.partition("=")[0])
    return f" ({reason})" if reason else ""
