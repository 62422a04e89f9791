"""``echostream plugins``: what is installed, what it provides, whether it works, and why one is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from echostream_cli.arguments import Json, PluginConfig, complete_keys, complete_plugins
from echostream_cli.help_texts import texts
from echostream_cli.screen import print_json, print_line, print_pairs, print_table

if TYPE_CHECKING:
    from echostream_core.plugin_reports import PluginReport

__all__ = ["add_commands"]


LIST_EXAMPLES: Final = (
    "echostream plugins list",
    "echostream plugins list --json | jq -r '.[].provides[]'",
)
CHECK_EXAMPLES: Final = (
    "echostream plugins check",
    "echostream plugins check --config echostream.toml",
)
INSPECT_EXAMPLES: Final = (
    "echostream plugins inspect tcp",
    "echostream plugins inspect echostream-codec-msgpack --json",
)
WHY_EXAMPLES: Final = (
    "echostream plugins why tcp",
    "echostream plugins why codec.msgpack",
    "echostream plugins why quic://127.0.0.1:4433 --config echostream.toml",
)
NEW_EXAMPLES: Final = (
    "echostream plugins new transport brook",
    'echostream plugins new codec tagged --author "Ada Lovelace" --directory plugins/tagged',
)


def add_commands(group: typer.Typer, *, drawn: bool) -> None:
    """Add the commands to the group; ``drawn``: help is for a terminal."""
    group.command("list", **texts(list_, LIST_EXAMPLES, drawn=drawn))(list_)
    group.command("check", **texts(check, CHECK_EXAMPLES, drawn=drawn))(check)
    group.command("inspect", **texts(inspect, INSPECT_EXAMPLES, drawn=drawn))(inspect)
    group.command("why", **texts(why, WHY_EXAMPLES, drawn=drawn))(why)
    group.command("new", **texts(new, NEW_EXAMPLES, drawn=drawn))(new)


def list_(config: PluginConfig = None, json: Json = False) -> None:
    """List what is installed and what it provides. Nothing is imported."""
    from echostream_core.commands import list_plugins, make_kernel, plugin_rows

    reports = list_plugins(make_kernel(config or ()))
    if json:
        print_json([report.as_dict() for report in reports])
        return
    header, *rows = plugin_rows(reports)
    print_table(header, rows)


def check(config: PluginConfig = None, json: Json = False) -> int:
    """Load every plugin, and say which are broken, why, and how to mend them.

    Exit status 1 when one is broken. A broken plugin disturbs nobody who does not refer to it.
    """
    from echostream_core.commands import ExitStatus, check_plugins, make_kernel, verdict_rows

    reports = check_plugins(make_kernel(config or ()))
    broken = [report for report in reports if not report.ok]
    if json:
        print_json([report.as_dict() for report in reports])
    else:
        header, *rows = verdict_rows(reports)
        print_table(header, rows)
        print_line()
        print_line(_summary(reports, broken))
    return ExitStatus.FAILED if broken else ExitStatus.OK


def inspect(
    name: Annotated[
        str,
        typer.Argument(help="A plugin, a distribution, or a key that it provides.", autocompletion=complete_plugins),
    ],
    config: PluginConfig = None,
    json: Json = False,
) -> int:
    """Show one plugin: where it comes from, its capabilities, its options with their defaults."""
    from echostream_core.commands import ExitStatus, inspect_plugin, make_kernel

    found = inspect_plugin(make_kernel(config or ()), name)
    if json:
        print_json(found)
    else:
        _print_plugin(found)
    return ExitStatus.FAILED if found["code"] else ExitStatus.OK


def why(
    name: Annotated[
        str, typer.Argument(help="A scheme, codec, … or URL; also KIND.NAME.", autocompletion=complete_keys)
    ],
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="transport, codec, middleware, …; left out: whichever knows it.")
    ] = None,
    config: PluginConfig = None,
    json: Json = False,
) -> int:
    """Explain step by step which plugin provides something, or why none does."""
    from echostream_core.commands import ExitStatus, make_kernel
    from echostream_core.commands import why as explain

    found: dict[str, Any] = explain(make_kernel(config or ()), name, kind)
    if json:
        print_json(found)
    else:
        print_line(f"{found['kind']} {found['name']}")
        for number, step in enumerate(found["steps"], 1):
            print_line(f"{number}. {step}")
    return ExitStatus.OK if found["resolved"] else ExitStatus.FAILED


def new(
    kind: Annotated[
        str, typer.Argument(help="transport, codec, discovery or middleware.", autocompletion=complete_new_kinds)
    ],
    name: Annotated[str, typer.Argument(help="The scheme or name that it provides.")],
    directory: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="The package's folder; left out: a new one named like the distribution."),
    ] = None,
    author: Annotated[str | None, typer.Option(metavar="TEXT", help="Who stands in its metadata and licence.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds something already.")] = False,
    json: Json = False,
) -> None:
    """Make a complete package for a new plugin.

    It works as it stands: install it, and it passes its conformance suite. Then change what it does.
    """
    from echostream_core.commands import make_kernel, new_plugin, new_plugin_lines

    made = new_plugin(make_kernel(), kind, name, directory=directory, author=author, force=force)
    if json:
        print_json(made.as_dict())
        return
    for line in new_plugin_lines(made):
        print_line(line)


def complete_new_kinds(incomplete: str) -> list[str]:
    """The kinds that there are templates for."""
    from echostream_core.scaffold import GROUPS

    return [kind for kind in GROUPS if kind.startswith(incomplete)]


def _summary(reports: list[PluginReport], broken: list[PluginReport]) -> str:
    if not broken:
        return f"All {len(reports)} plugins are well."
    return f"{len(broken)} of {len(reports)} plugins have a problem."


def _print_plugin(found: dict[str, Any]) -> None:
    rows = [
        ("plugin", found["name"]),
        ("distribution", f"{found['distribution']} {found['version']}".strip()),
        ("installed from", f"{found['origin']}{' (editable)' if found['editable'] else ''}"),
        ("object", found["reference"]),
        ("state", found["state"]),
        ("hooks", ", ".join(found["hooks"])),
        ("problem", f"{found['code']}: {found['problem']}" if found["code"] else found["problem"]),
        ("fix", found["fix"]),
        *(("note", text) for text in found["notes"]),
    ]
    print_pairs([(name, value) for name, value in rows if value])
    for offer in found["offers"]:
        print_line()
        _print_offer(offer)


def _print_offer(offer: dict[str, Any]) -> None:
    print_line(f"{offer['kind']} {offer['name']}" + (f": {offer['summary']}" if offer.get("summary") else ""))
    if "problem" in offer:
        print_line(f"  {offer['problem']}")
        return
    rows = []
    capabilities, gaps = offer.get("capabilities", {}), offer.get("notes", {})
    can = [name if value is True else f"{name} ({value})" for name, value in capabilities.items() if _holds(value)]
    cannot = [
        f"{name} ({gaps[name]})" if name in gaps else name for name, value in capabilities.items() if not _holds(value)
    ]
    rows += [("can", ", ".join(can))] if can else []
    rows += [("cannot", ", ".join(cannot))] if cannot else []
    rows += [
        (option["name"], f"{option['type']}, {'required' if option['required'] else _default(option['default'])}")
        for option in offer["options"]
    ]
    print_pairs(rows, indent="  ")


def _holds(capability: object) -> bool:
    return capability not in (False, "none")


def _default(value: object) -> str:
    if value in ("", None, (), [], {}):
        return "default: none"
    if isinstance(value, bool):
        return f"default: {str(value).lower()}"
    return f"default: {value}"
