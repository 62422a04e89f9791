"""The functions behind the command line: they take and return plain data, and print nothing.

Both command lines use them: ``python -m echostream_core``, which every installation has, and the command of the
distribution with tables and progress bars. How a command ends is one table, :class:`ExitStatus`. What only some of them
need is imported there: looking at plugins takes neither an event loop nor TLS.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from echostream_core.config import Config, load_config
from echostream_core.config_layers import ENVIRONMENT_PREFIX
from echostream_core.errors import ConfigError, EchoStreamError, PluginError, RpcError, StatusCode
from echostream_core.index import canonical_kind
from echostream_core.kernel import Kernel
from echostream_core.options import struct_in, suggestion
from echostream_core.plugin_reports import PluginReport
from echostream_core.registry import Spec
from echostream_core.resolver import package_hint
from echostream_core.transport import TransportSpec

if TYPE_CHECKING:
    from echostream_core.client import Connecting, RpcClient
    from echostream_core.scaffold import NewPlugin

__all__ = [
    "CallRequest",
    "ExitStatus",
    "UsageError",
    "aligned",
    "call",
    "check_config",
    "check_plugins",
    "config_schema",
    "dial",
    "failure",
    "inspect_plugin",
    "list_plugins",
    "make_kernel",
    "new_plugin",
    "new_plugin_lines",
    "plugin_rows",
    "show_config",
    "verdict_rows",
    "why",
]

Files = Sequence[str | os.PathLike[str]]
Overrides = Mapping[str, object] | Iterable[str]

_KINDS: Final = ("transport", "codec", "discovery", "middleware")


class ExitStatus(IntEnum):
    """How a command ends. This is the only table of it; the documentation is made from here."""

    OK = 0
    """It did what was asked. ``serve`` that was stopped by a signal and has drained ends so too."""
    FAILED = 1
    """It could not, and standard error says why; or it was to look for problems, and found some."""
    USAGE = 2
    """The command line makes no sense; nothing was done."""
    INTERRUPTED = 130
    """Ended by Ctrl-C (128 + SIGINT)."""
    PIPE_CLOSED = 141
    """Whoever read the output went away, as ``head`` does (128 + SIGPIPE)."""
    TERMINATED = 143
    """Ended by SIGTERM (128 + SIGTERM)."""


class UsageError(EchoStreamError):
    """An argument of the command line makes no sense; the message names it."""


def failure(error: BaseException) -> tuple[ExitStatus, str]:
    """The status for an exception that ended a command, and the text for standard error ("" for none)."""
    if isinstance(error, KeyboardInterrupt):
        return ExitStatus.INTERRUPTED, ""
    if isinstance(error, BrokenPipeError):
        return ExitStatus.PIPE_CLOSED, ""
    if isinstance(error, EchoStreamError):
        status = ExitStatus.USAGE if isinstance(error, UsageError) else ExitStatus.FAILED
        return status, str(error) or type(error).__name__
    return ExitStatus.FAILED, f"unexpected {type(error).__name__}: {error}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns, two spaces between them: readable, and good for ``grep`` and ``awk``."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# Plugins


def make_kernel(files: Files = (), overrides: Overrides = ()) -> Kernel:
    """A kernel with the ``[plugins]`` of a configuration. Without files only that part of the environment counts."""
    if files:
        return Kernel(load_config(*files, overrides=overrides).plugins)
    prefix = f"{ENVIRONMENT_PREFIX}PLUGINS__"
    environ = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    return Kernel(load_config(environ=environ, overrides=overrides).plugins)


def list_plugins(kernel: Kernel) -> list[PluginReport]:
    """Every plugin as its metadata describes it; nothing is imported."""
    return kernel.plugins()


def plugin_rows(reports: Iterable[PluginReport]) -> list[list[str]]:
    """Reports as rows of text, the heading first; a column for problems only where there are any."""
    reports = list(reports)
    header = ["name", "distribution", "version", "provides"]
    rows = [
        [report.name, report.distribution or "-", report.version or "-", ", ".join(report.provides) or "-"]
        for report in reports
    ]
    if any(report.problem for report in reports):
        header.append("problem")
        for row, report in zip(rows, reports, strict=True):
            row.append(": ".join(filter(None, (report.code, report.problem))) or "-")
    return [header, *rows]


def verdict_rows(reports: Iterable[PluginReport]) -> list[list[str]]:
    """Checked reports as rows of text, the heading first; the verdict is ``ok``, ``blocked`` or an error code."""
    rows = [["verdict", "plugin", "version", "problem"]]
    for report in reports:
        verdict = report.code or ("blocked" if report.state == "blocked" else "ok")
        plugin = "/".join(filter(None, (report.distribution, report.name)))
        place = f"See {report.where}" if report.code and report.where else ""
        told = ". ".join(filter(None, (report.problem, report.fix, place))).replace("?. ", "? ")
        problem = told or "; ".join(report.notes) or "-"
        rows.append([verdict, plugin, report.version or "-", problem])
    return rows


def check_plugins(kernel: Kernel) -> list[PluginReport]:
    """Load every plugin that the settings allow, and report on each; ``report.ok`` says whether it is well."""
    return kernel.check()


def inspect_plugin(kernel: Kernel, name: str) -> dict[str, object]:
    """All that is known of one plugin, loaded for it: its report, and what each of its offers can do and be told.

    ``name`` is a plugin's, a distribution's, or a key that it provides. UsageError suggests the nearest one.
    """
    report = _find(kernel, name)
    identity = (report.distribution, report.name)
    offers: list[dict[str, object]] = []
    for provided in report.provides:
        kind, _, key = provided.partition(".")
        try:
            offers.append(_describe(kind, kernel.spec(kind, key)))
        except PluginError as error:
            offers.append({"kind": kind, "name": key, "problem": str(error)})
    report = next(item for item in kernel.plugins() if (item.distribution, item.name) == identity)
    return {**report.as_dict(), "offers": offers}


def why(kernel: Kernel, name: str, kind: str | None = None) -> dict[str, object]:
    """How ``name`` is resolved: ``kind``, ``name``, ``resolved``, and ``steps``, the last of which is the outcome.

    ``name`` may be a key, ``kind.key`` or the beginning of a URL. Without a kind it is the one that knows the key.
    """
    key = name.partition("://")[0]
    prefix, dot, rest = key.partition(".")
    if "://" in name:
        kind = kind or "transport"
    elif dot and canonical_kind(prefix) in {*_KINDS, *kernel.kinds()}:
        kind, key = kind or prefix, rest
    kind = canonical_kind(kind) if kind else _kind_of(kernel, key)
    steps = kernel.why(kind, key)
    try:
        kernel.spec(kind, key)
    except PluginError:
        return {"kind": kind, "name": key, "resolved": False, "steps": steps}
    return {"kind": kind, "name": key, "resolved": True, "steps": steps}


def new_plugin(
    kernel: Kernel,
    kind: str,
    name: str,
    *,
    directory: str | None = None,
    author: str | None = None,
    force: bool = False,
) -> NewPlugin:
    """Write a complete package for a new plugin into ``directory``, default: a new folder named like the distribution.

    UsageError, with what to write instead, for a kind or name that cannot be, and for a folder that holds something
    already; ``force`` then replaces the files of the same names and keeps the others.
    """
    from echostream_core import scaffold

    reports = kernel.plugins()
    if force:  # the package that is made anew may be installed
        reports = [item for item in reports if item.distribution != scaffold.distribution_of(kind, name)]
    installed = {report.distribution for report in reports}
    providers = [item.distribution or item.name for item in reports if f"{kind}.{name}" in item.provides]
    provider = providers[0] if providers else package_hint(kind, name)
    problem = scaffold.check_kind(kind) or scaffold.check_name(kind, name, provider, installed)
    problem = problem or scaffold.check_author(author or "-")
    if problem:
        raise UsageError(problem)
    names = scaffold.Names(kind=kind, name=name)
    folder = Path(directory or names.distribution)
    texts = scaffold.render(names, author or f"The authors of {names.distribution}")
    try:
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise UsageError(
                f"{folder} exists and is not empty; name another folder with --directory, or add --force, which "
                f"replaces {sum((folder / path).exists() for path in texts)} of the files in it"
            )
        scaffold.write(texts, folder)
    except OSError as error:
        raise UsageError(
            f"cannot write {error.filename or folder}: {error.strerror}; choose another --directory"
        ) from error
    return scaffold.describe(names, folder, texts)


def new_plugin_lines(made: NewPlugin) -> list[str]:
    """What was made and what to do next, as lines of text."""
    return [
        f"{made.folder}: the {made.kind} {made.name!r}, distribution {made.distribution}",
        *(f"  {path}" for path in made.files),
        "Next:",
        *(f"  {command}" for command in made.next),
    ]


def _find(kernel: Kernel, name: str) -> PluginReport:
    reports = kernel.plugins()
    by_name = [item for item in reports if name in (item.name, item.distribution, f"{item.distribution}/{item.name}")]
    exact = [item for item in by_name if name != item.distribution]
    by_key = [item for item in reports if any(name in (key, key.partition(".")[2]) for key in item.provides)]
    found = exact or by_name or by_key
    if not found:
        known = {item.name for item in reports} | {key.partition(".")[2] for item in reports for key in item.provides}
        raise UsageError(f"no plugin is called {name!r} or provides it{suggestion(name, known)}")
    if len(found) > 1:
        choices = ", ".join(f"{item.distribution}/{item.name}" for item in found)
        raise UsageError(f"{name!r} is more than one plugin; name one of: {choices}")
    return found[0]


def _kind_of(kernel: Kernel, key: str) -> str:
    knowing = [kind for kind in (*_KINDS, *kernel.kinds()) if key in kernel.known(kind)]
    published = [kind for kind in _KINDS if package_hint(kind, key)]
    return (knowing or published or ["transport"])[0]


def _describe(kind: str, spec: Spec) -> dict[str, object]:
    described: dict[str, object] = {
        "kind": kind,
        "name": spec.scheme if isinstance(spec, TransportSpec) else spec.name,
        "summary": spec.summary,
    }
    if isinstance(spec, TransportSpec):
        described["capabilities"] = spec.capabilities.as_dict()
        described["notes"] = dict(spec.notes)
    described["options"] = _options(spec.options)
    return described


def _options(schema: type[msgspec.Struct], prefix: str = "") -> list[dict[str, object]]:
    """Name, type and default of each option; those of a nested table under its name and a dot."""
    options: list[dict[str, object]] = []
    for item in msgspec.structs.fields(schema):
        name = prefix + item.encode_name
        nested = struct_in(item.type)
        if nested is not None:
            options += _options(nested, f"{name}.")
            continue
        option: dict[str, object] = {"name": name, "type": _type_name(item.type), "required": item.required}
        if not item.required:
            made = item.default is msgspec.NODEFAULT
            option["default"] = msgspec.to_builtins(item.default_factory() if made else item.default)
        options.append(option)
    return options


def _type_name(annotation: Any) -> str:
    """``int``, ``str | None``, ``'reno' | 'cubic'``: without the bounds of an ``Annotated``."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, inner))
    if annotation is NoneType:
        return "None"
    if isinstance(origin, type):
        return f"{origin.__name__}[{', '.join('...' if part is ... else _type_name(part) for part in inner)}]"
    return annotation.__name__ if isinstance(annotation, type) and not inner else str(annotation)


# Configuration


def check_config(files: Files, overrides: Overrides = (), *, services: bool = True) -> list[str]:
    """Every problem of a configuration, one sentence each: its keys, its plugins, and with ``services`` its handlers.

    Plugins that it refers to are loaded and service modules imported; nothing is started.
    """
    try:
        config = load_config(*files, overrides=overrides)
    except ConfigError as error:
        return _sentences(error)
    problems = config.check(Kernel(config.plugins))
    if services:
        problems += _service_problems(config, files)
    return problems


def show_config(files: Files, overrides: Overrides = ()) -> list[dict[str, object]]:
    """Every setting with its value and where it was set, secrets hidden: ``key``, ``value``, ``source``."""
    from echostream_core.config_show import show

    config = load_config(*files, overrides=overrides)
    return [{"key": key, "value": value, "source": source} for key, value, source in show(config)]


def config_schema(kernel: Kernel) -> dict[str, object]:
    """The JSON Schema of a configuration file, with the options of every plugin that is installed."""
    from echostream_core.config_json_schema import json_schema

    return json_schema(kernel)


def _sentences(error: ConfigError) -> list[str]:
    first, *others = str(error).splitlines()
    return [line.strip() for line in others] if others and first.endswith(" problems:") else [first, *others]


def _service_problems(config: Config, files: Files) -> list[str]:
    """Found within an event loop, as a server imports: a module that runs a program of its own then fails, and does not
    run it instead of the check.
    """
    import asyncio

    async def within() -> list[str]:
        return _problems_of_services(config, files)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()  # no Runner: Ctrl-C has to end an import that takes long
    else:
        return _problems_of_services(config, files)
    try:
        return loop.run_until_complete(within())
    finally:
        loop.close()


def _problems_of_services(config: Config, files: Files) -> list[str]:
    from echostream_core.engine.handlers import collect_routes
    from echostream_core.server import load_service

    folders = {str(Path(file).resolve().parent) for file in files}
    problems: list[str] = []
    for server in config.servers.values():
        found: list[object] = []
        for reference in server.services:
            try:
                found.extend(load_service(reference, folders))
            except ConfigError as error:
                problems.append(f"server.{server.name}.{error}")
        try:
            collect_routes(found)
        except ConfigError as error:
            problems.append(f"server.{server.name}.services: {error}")
    return problems


# Calls


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """One call from the command line."""

    method: str
    payload: object = None
    timeout: float | None = None
    """Seconds; None: the client's default."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    stream: bool | None = None
    """Whether the method yields items. None: find out by calling it."""


def dial(
    url: str | None = None,
    *,
    files: Files = (),
    name: str | None = None,
    codecs: Sequence[str] = (),
    tls: Mapping[str, object] | None = None,
    overrides: Iterable[str] = (),
) -> Connecting:
    """The client for ``url``, or for ``[client.NAME]`` of a configuration, which ``codecs`` and ``tls`` change.

    ``overrides`` hold for both; with ``url``, neither files nor the environment count.
    """
    from echostream_core.client import RpcClient

    overrides = list(overrides)
    if url is not None and not overrides:
        return RpcClient.connect(url, codecs=codecs, tls=tls, name="command-line")
    environ: Mapping[str, str] | None = None
    if url is not None:
        files, environ, name = (), {}, "command_line"
        overrides.append(f"client.{name}.url={msgspec.json.encode(url).decode()}")
    config = load_config(*files, environ=environ, overrides=overrides)
    section = f"client.{config.client(name).name}"
    if codecs:
        overrides.append(f"{section}.codecs={msgspec.json.encode(list(codecs)).decode()}")
    for key, value in (tls or {}).items():
        overrides.append(f"{section}.tls.{key}={msgspec.json.encode(value).decode()}")
    if overrides:
        config = load_config(*files, environ=environ, overrides=overrides)
    return RpcClient.from_loaded(config, name)


async def call(client: RpcClient, request: CallRequest) -> AsyncIterator[Any]:
    """The answer of a method, or one after the other the items of a method that yields several."""
    from echostream_core.engine.outgoing import DEFAULT_TIMEOUT

    if not request.stream:
        timeout = DEFAULT_TIMEOUT if request.timeout is None else request.timeout
        try:
            yield await client.request(
                request.method, request.payload, timeout=timeout, metadata=request.metadata or None
            )
            return
        except RpcError as error:
            # The answer of a peer whose method is a generator; the call was not processed, so asking again is safe.
            is_stream = error.code is StatusCode.UNIMPLEMENTED and "is a stream" in error.message
            if request.stream is False or not is_stream:
                raise
    items = client.stream(request.method, request.payload, timeout=request.timeout, metadata=request.metadata or None)
    async with items:
        async for item in items:
            yield item
