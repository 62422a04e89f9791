"""The configuration: read from its layers into frozen, typed sections, each value with its source.

Layers, each over the one before: defaults, files (TOML), ``ECHOSTREAM__SECTION__KEY`` in the environment, the
command line. What can be judged without plugins is judged here, all of it at once; ``Config.check`` judges
the rest with a kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from echostream_core import config_check
from echostream_core.config_layers import Layers, Path, dotted
from echostream_core.config_schema import ClientConfig, ServerConfig, read_endpoint, read_plugins
from echostream_core.errors import ConfigError
from echostream_core.options import OptionProblem
from echostream_core.plugin_reports import PluginSettings

if TYPE_CHECKING:
    from echostream_core.kernel import Kernel

__all__ = ["ClientConfig", "Config", "ServerConfig", "load_config"]

E = TypeVar("E", ServerConfig, ClientConfig)

Section = Mapping[str, Mapping[str, object]]
"""Name → its options, as written."""

Report = Callable[[Path, Iterable[OptionProblem]], None]

_PLUGIN_SECTIONS: Final = ("transport", "codec", "discovery", "middleware")
_SECTIONS: Final = ("plugins", "server", "client", *_PLUGIN_SECTIONS)
_COMPONENT_KINDS: Final = ("authenticator", "check", "command", "config_resolver", "extension", "resource")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A configuration that is well-formed. Whether its plugins exist and accept it, ``check`` says."""

    plugins: PluginSettings = field(default_factory=PluginSettings)
    servers: Mapping[str, ServerConfig] = field(default_factory=dict)
    clients: Mapping[str, ClientConfig] = field(default_factory=dict)
    transport: Section = field(default_factory=dict, repr=False)
    codec: Section = field(default_factory=dict, repr=False)
    discovery: Section = field(default_factory=dict, repr=False)
    middleware: Section = field(default_factory=dict, repr=False)
    components: Mapping[str, Section] = field(default_factory=dict, repr=False)
    """The sections of all other kinds: kind → name → options."""
    sources: Mapping[Path, str] = field(default_factory=dict, repr=False)
    """Where each value was set last: a file, an environment variable or the command line. Absent: a default.
    """

    def section(self, kind: str, name: str) -> Mapping[str, object]:
        """The options of ``[kind.name]`` as written, empty when the section is absent."""
        sections: Section = getattr(self, kind) if kind in _PLUGIN_SECTIONS else self.components.get(kind, {})
        return sections.get(name, {})

    def server(self, name: str | None = None) -> ServerConfig:
        """The server ``name``, or without a name the only one; ConfigError lists those that there are."""
        return _pick("server", name, self.servers)

    def client(self, name: str | None = None) -> ClientConfig:
        """The client ``name``, or without a name the only one; ConfigError lists those that there are."""
        return _pick("client", name, self.clients)

    def source(self, path: Path) -> str:
        """Where the value at ``path``, or the first one below it, was set: "default" when nowhere."""
        for known, source in self.sources.items():
            if known[: len(path)] == path:
                return source
        return "default"

    def check(self, kernel: Kernel) -> list[str]:
        """Every problem that the plugins have with it, one sentence each; loads those that it refers to."""
        return config_check.check(self, kernel)

    def transport_options(
        self, kernel: Kernel, scheme: str, endpoint: ServerConfig | ClientConfig | None = None
    ) -> msgspec.Struct:
        """The validated options of a transport, with what ``endpoint`` changes; ConfigError names what is wrong."""
        return config_check.transport_options(self, kernel, scheme, endpoint)

    def options(self, kernel: Kernel, kind: str, name: str) -> msgspec.Struct:
        """The validated options of any other kind of thing, from ``[kind.name]``."""
        return kernel.build_options(kernel.spec(kind, name), self.section(kind, name), key=dotted((kind, name)))


def load_config(
    *files: str | os.PathLike[str],
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | Iterable[str] = (),
) -> Config:
    """Read all layers. One ConfigError lists every problem: the file or variable, the key, and the nearest
    right one.

    ``environ`` defaults to the process's environment; ``overrides`` are ``key=value`` texts of a command
    line, or a mapping from dotted keys to values.
    """
    layers = Layers()
    for file in files:
        layers.add_file(file)
    layers.add_environment(os.environ if environ is None else environ)
    layers.add_overrides(overrides)
    problems = [("", text) for text in layers.problems]
    config = _read(layers, problems)
    if problems:
        texts = [text for _, text in problems]
        message = (
            texts[0] if len(texts) == 1 else f"{len(texts)} problems:\n" + "\n".join(f"  {text}" for text in texts)
        )
        raise ConfigError(message, key=problems[0][0])
    return config


def _read(layers: Layers, problems: list[tuple[str, str]]) -> Config:
    """The typed sections of ``layers``; what is wrong goes to ``problems``: pairs of key and sentence."""
    locate = Config(sources=layers.sources).source

    def report(path: Path, found: Iterable[OptionProblem]) -> None:
        for problem in found:
            key, text = problem.at(dotted(path))
            exact = (*path, *problem.path.split(".")) if problem.path else path
            source = locate(exact)
            if source == "default":
                source = locate(path)
            problems.append((key, text if source == "default" else f"{source}: {text}"))

    plugins, found = read_plugins(layers.tree.get("plugins", {}))
    report(("plugins",), found)
    servers: dict[str, ServerConfig] = {}
    for name, section in _tables(layers.tree, "server", report):
        server, found = read_endpoint(ServerConfig, name, section)
        report(("server", name), found)
        if server is not None:
            servers[name] = server
    clients: dict[str, ClientConfig] = {}
    for name, section in _tables(layers.tree, "client", report):
        client, found = read_endpoint(ClientConfig, name, section)
        report(("client", name), found)
        if client is not None:
            clients[name] = client
    sections: dict[str, dict[str, Mapping[str, object]]] = {}
    for kind in layers.tree:
        if kind in ("plugins", "server", "client"):
            continue
        near = get_close_matches(kind, [*_SECTIONS, *_COMPONENT_KINDS], 1, cutoff=0.8)
        if near and near[0] != kind:
            report((kind,), [OptionProblem("", f"there is no such section; did you mean {near[0]!r}?")])
            continue
        sections[kind] = {}
        for name, section in _tables(layers.tree, kind, report):
            if isinstance(section, Mapping):
                sections[kind][name] = section
            else:
                report((kind, name), [OptionProblem("", "must be a table of options")])
    return Config(
        plugins=plugins,
        servers=servers,
        clients=clients,
        **{kind: sections.pop(kind, {}) for kind in _PLUGIN_SECTIONS},
        components=sections,
        sources=dict(layers.sources),
    )


def _pick(kind: str, name: str | None, endpoints: Mapping[str, E]) -> E:
    listed = ", ".join(endpoints) or "none"
    if name is None:
        if len(endpoints) == 1:
            return next(iter(endpoints.values()))
        raise ConfigError(f"name one of the {kind} sections; there are: {listed}", key=kind)
    if name not in endpoints:
        raise ConfigError(f"there is no section [{kind}.{name}]; there are: {listed}", key=f"{kind}.{name}")
    return endpoints[name]


def _tables(tree: Mapping[str, object], kind: str, report: Report) -> list[tuple[str, object]]:
    section = tree.get(kind, {})
    if isinstance(section, Mapping):
        return list(section.items())
    report((kind,), [OptionProblem("", f"write a table [{kind}.NAME]")])
    return []
