"""``echostream config``: is a configuration right, what is in force, and what may be written."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from echostream_cli.arguments import ConfigFiles, Json, Overrides, PluginConfig
from echostream_cli.help_texts import texts
from echostream_cli.screen import print_json, print_line, print_table

__all__ = ["add_commands"]


CHECK_EXAMPLES: Final = (
    "echostream config check echostream.toml",
    "echostream config check base.toml production.toml --set server.public.drain_s=10",
)
SHOW_EXAMPLES: Final = (
    "echostream config show echostream.toml",
    "echostream config show echostream.toml | grep -v 'default$'",
)
SCHEMA_EXAMPLES: Final = ("echostream config schema > echostream.schema.json",)


def add_commands(group: typer.Typer, *, drawn: bool) -> None:
    """Add the commands to the group; ``drawn``: help is for a terminal."""
    group.command("check", **texts(check, CHECK_EXAMPLES, drawn=drawn))(check)
    group.command("show", **texts(show, SHOW_EXAMPLES, drawn=drawn))(show)
    group.command("schema", **texts(schema, SCHEMA_EXAMPLES, drawn=drawn))(schema)


def check(
    files: ConfigFiles,
    services: Annotated[bool, typer.Option("--services/--no-services", help="Import the service modules too.")] = True,
    overrides: Overrides = None,
    json: Json = False,
) -> int:
    """Find every problem of a configuration before anything is started.

    Keys, values, the plugins that it needs and their options, capabilities, services; the environment counts.
    Exit status 1 when there is a problem.
    """
    from echostream_core.commands import ExitStatus, check_config

    problems = check_config(files, overrides or (), services=services)
    if json:
        print_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems:
            print_line(problem)
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        print_line(f"{', '.join(map(str, files))}: {count if problems else 'ok'}")
    return ExitStatus.FAILED if problems else ExitStatus.OK


def show(files: ConfigFiles, overrides: Overrides = None, json: Json = False) -> None:
    """Show every setting in force with its value and where it was set. Secrets are hidden."""
    from echostream_core.commands import show_config

    rows = show_config(files, overrides or ())
    if json:
        print_json(rows)
        return
    print_table(
        ["key", "value", "source"], [[str(row["key"]), _toml(row["value"]), str(row["source"])] for row in rows]
    )


def schema(config: PluginConfig = None) -> None:
    """Print the JSON Schema of the configuration file, for an editor; installed plugins add their options."""
    from echostream_core.commands import config_schema, make_kernel

    print_json(config_schema(make_kernel(config or ())))


def _toml(value: object) -> str:
    """A value as TOML writes it: texts, numbers, truth values and lists look the same in JSON."""
    import msgspec

    return msgspec.json.encode(value).decode()
