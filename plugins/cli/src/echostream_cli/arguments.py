"""Options that several commands share, and what the shell completes them with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ConfigFiles",
    "Json",
    "Overrides",
    "PluginConfig",
    "complete_clients",
    "complete_codecs",
    "complete_keys",
    "complete_plugins",
    "complete_servers",
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

ConfigFiles = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="The configuration, TOML; a later file overrides an earlier one."),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated."),
]

PluginConfig = Annotated[
    list[Path] | None,
    typer.Option("--config", metavar="FILE", help="The configuration whose plugins section counts."),
]


def complete_plugins(incomplete: str) -> list[tuple[str, str]]:
    """The names of plugins and what they provide."""
    from echostream_core.commands import list_plugins, make_kernel

    reports = list_plugins(make_kernel())
    found = [(report.name, f"{report.distribution} {report.version}") for report in reports]
    return [item for item in found if item[0].startswith(incomplete)]


def complete_keys(incomplete: str) -> list[tuple[str, str]]:
    """Whatever plugins provide: schemes, codecs and so on."""
    from echostream_core.commands import list_plugins, make_kernel

    found = [
        (provided.partition(".")[2], f"{provided.partition('.')[0]} of {report.distribution}")
        for report in list_plugins(make_kernel())
        for provided in report.provides
    ]
    return [item for item in found if item[0].startswith(incomplete)]


def complete_codecs(incomplete: str) -> list[str]:
    """The codecs that are installed."""
    from echostream_core.commands import make_kernel

    return [name for name in make_kernel().known("codec") if name.startswith(incomplete)]


def complete_servers(context: typer.Context, incomplete: str) -> list[str]:
    """The servers of the configuration named before."""
    return _sections(context, "server", incomplete)


def complete_clients(context: typer.Context, incomplete: str) -> list[str]:
    """The clients of the configuration named before."""
    return _sections(context, "client", incomplete)


def _sections(context: typer.Context, kind: str, incomplete: str) -> list[str]:
    import tomllib

    words = list(context.args)  # what stands before an unfinished option is not yet told apart
    for value in context.params.values():
        words += value if isinstance(value, (list, tuple)) else [value]
    names: list[str] = []
    for word in words:
        try:
            section = tomllib.loads(Path(str(word)).read_text(encoding="utf-8")).get(kind)
        except (OSError, ValueError):  # not a file, or not yet a right one: nothing to complete with
            continue
        names += section if isinstance(section, dict) else []
    return [name for name in names if name.startswith(incomplete)]
