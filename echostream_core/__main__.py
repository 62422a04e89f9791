"""``python -m echostream_core``: look at plugins and serve a configuration with nothing but the kernel installed.

Plain text, or JSON with ``--json``. Errors go to standard error as ``error: …``; the exit statuses stand in
:class:`echostream_core.commands.ExitStatus`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import msgspec

from echostream_core import __version__
from echostream_core.commands import (
    ExitStatus,
    aligned,
    check_plugins,
    failure,
    list_plugins,
    make_kernel,
    new_plugin,
    new_plugin_lines,
    plugin_rows,
    verdict_rows,
)

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; a user's mistake gets a sentence, never a traceback."""
    arguments = _parser().parse_args(argv)
    try:
        status: ExitStatus = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt) as error:
        status, text = failure(error)
        if text:
            print(f"error: {text}", file=sys.stderr)
        if status is ExitStatus.PIPE_CLOSED:
            # The interpreter flushes once more at its end, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m echostream_core",
        description="Look at plugins and serve a configuration, with nothing but the kernel installed.",
        epilog="exit status: "
        + ", ".join(f"{status.value} {status.name.lower().replace('_', ' ')}" for status in ExitStatus),
    )
    parser.add_argument("--version", action="version", version=f"echostream-core {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    plugins = commands.add_parser("plugins", help="what is installed, and whether it works")
    actions = plugins.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, action, text in (
        ("list", _list, "every plugin as its metadata describes it; nothing is imported"),
        ("check", _check, "load every plugin and report on each; status 1 when one is broken"),
    ):
        command = actions.add_parser(name, help=text, description=text)
        command.add_argument("--config", metavar="FILE", action="append", default=[], help="whose [plugins] count")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=action)

    text = "make a complete package for a new plugin: it installs, and passes its conformance suite"
    command = actions.add_parser("new", help=text, description=text)
    command.add_argument("kind", metavar="KIND", help="transport, codec, discovery or middleware")
    command.add_argument("name", metavar="NAME", help="the scheme or name that it provides")
    command.add_argument(
        "--directory", metavar="DIR", help="the package's folder; default: named like the distribution"
    )
    command.add_argument("--author", metavar="TEXT", help="who stands in its metadata and licence")
    command.add_argument("--force", action="store_true", help="write into a folder that holds something already")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_new)

    text = "start the servers of a configuration; SIGTERM and Ctrl-C drain them"
    command = commands.add_parser("serve", help=text, description=text)
    command.add_argument("file", metavar="FILE", nargs="+", help="TOML; a later file overrides an earlier one")
    command.add_argument("--name", action="append", default=[], help="serve only [server.NAME]; may be repeated")
    command.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override one setting")
    command.add_argument("--json", action="store_true", help="one JSON line per address and change of state")
    command.add_argument("--stop-with-input", action="store_true", help="stop at the end of standard input too")
    command.add_argument(
        "--log-level", default="warning", choices=["debug", "info", "warning", "error"], help="default: warning"
    )
    command.set_defaults(run=_serve)
    return parser


def _list(arguments: argparse.Namespace) -> ExitStatus:
    reports = list_plugins(make_kernel(arguments.config))
    if arguments.json:
        _print_json([report.as_dict() for report in reports])
        return ExitStatus.OK
    _print_rows(plugin_rows(reports))
    return ExitStatus.OK


def _check(arguments: argparse.Namespace) -> ExitStatus:
    reports = check_plugins(make_kernel(arguments.config))
    if arguments.json:
        _print_json([report.as_dict() for report in reports])
    else:
        _print_rows(verdict_rows(reports))
    return ExitStatus.OK if all(report.ok for report in reports) else ExitStatus.FAILED


def _new(arguments: argparse.Namespace) -> ExitStatus:
    made = new_plugin(
        make_kernel(),
        arguments.kind,
        arguments.name,
        directory=arguments.directory,
        author=arguments.author,
        force=arguments.force,
    )
    if arguments.json:
        _print_json(made.as_dict())
    else:
        print(*new_plugin_lines(made), sep="\n")
    return ExitStatus.OK


def _serve(arguments: argparse.Namespace) -> ExitStatus:
    import logging

    from echostream_core import run
    from echostream_core.serving import ServeEvent, serve

    logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")

    def report(event: ServeEvent) -> None:
        if arguments.json:
            print(msgspec.json.encode(event.as_dict()).decode(), flush=True)
        elif event.event == "listening":
            print(f"{event.server}: listening on {event.address}", flush=True)
        elif event.event == "draining":
            print(f"{event.reason}: draining", file=sys.stderr, flush=True)

    run(
        serve(
            arguments.file,
            names=arguments.name,
            overrides=arguments.set,
            report=report,
            stop_with_input=arguments.stop_with_input,
        )
    )
    return ExitStatus.OK


def _print_rows(rows: list[list[str]]) -> None:
    header, *others = rows
    print(*aligned([[name.upper() for name in header], *others]), sep="\n")


def _print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


if __name__ == "__main__":
    sys.exit(main())
