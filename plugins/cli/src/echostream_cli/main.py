"""The ``echostream`` command: puts the commands together, runs one, and turns what went wrong into a sentence.

A command returns its exit status (nothing: 0); the statuses stand in ``echostream_core.commands.ExitStatus``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.main import get_command

from echostream_cli import bench, call, cert, config, demo, discover, events, plugins, serve, version
from echostream_cli.help_texts import block, texts
from echostream_cli.plugin_commands import CommandGroup, ReaderGone
from echostream_cli.screen import draws, note, print_line

__all__ = ["application", "main"]

HELP: Final = "EchoStream: one program over any transport, chosen by configuration."
START_HERE: Final = (
    "echostream demo                     see every transport and codec at work",
    "echostream serve echostream.toml    run the servers of a configuration",
    "echostream plugins list             what is installed",
)


class _Debug:
    """Whether a traceback is wanted; set by the option before a command runs."""

    wanted = False


def application(debug: _Debug | None = None) -> typer.Typer:
    """The application with all built-in commands; help is drawn on a terminal and plain elsewhere."""
    debug = debug or _Debug()
    drawn = draws()
    app = typer.Typer(
        cls=CommandGroup,
        help=HELP,
        epilog=block("Start here:", START_HERE, drawn=drawn),
        no_args_is_help=True,
        rich_markup_mode="rich" if drawn else None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )

    @app.callback()
    def options(
        _version: Annotated[
            bool,
            typer.Option("--version", help="Print the versions of all parts.", callback=_on_version, is_eager=True),
        ] = False,
        traceback: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    ) -> None:
        debug.wanted = traceback

    app.command(**texts(serve.serve, serve.EXAMPLES, drawn=drawn))(serve.serve)
    app.command(**texts(call.call, call.EXAMPLES, drawn=drawn))(call.call)
    app.command(**texts(events.events, events.EXAMPLES, drawn=drawn))(events.events)
    app.command(**texts(discover.discover, discover.EXAMPLES, drawn=drawn))(discover.discover)
    for name, module, text in (
        ("plugins", plugins, "See what is installed, and whether it works."),
        ("config", config, "Check, show and describe configurations."),
        ("cert", cert, "Make certificates that browsers accept."),
    ):
        group = typer.Typer(no_args_is_help=True, help=text)
        module.add_commands(group, drawn=drawn)
        app.add_typer(group, name=name)
    app.command(**texts(demo.demo, demo.EXAMPLES, drawn=drawn))(demo.demo)
    further = ("Options of the benchmarks:", bench.OPTIONS)
    bench_texts = texts(bench.bench, bench.EXAMPLES, drawn=drawn, further=further)
    app.command(**bench_texts, context_settings=bench.SETTINGS)(bench.bench)
    app.command(**texts(version.version, drawn=drawn))(version.version)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    debug = _Debug()
    command = get_command(application(debug))
    try:
        status = command.main(arguments, prog_name="echostream", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return _usage(error)
    except typer.Abort:
        return _failed(KeyboardInterrupt())
    except ReaderGone:
        return _failed(BrokenPipeError())
    except (Exception, KeyboardInterrupt) as error:
        if debug.wanted:
            raise
        return _failed(error)
    return status if isinstance(status, int) else 0


def _on_version(wanted: bool) -> None:
    if wanted:
        version.print_versions(json=False)
        raise typer.Exit


def _usage(error: Any) -> int:
    """A command line that typer could not read: say what is wrong and where help is."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        if message:
            print_line(message)
        return int(error.exit_code)
    note(f"error: {message}")
    if context is not None:
        note(f"{context.get_usage()}\nTry '{context.command_path} --help'.")
    return int(error.exit_code)


def _failed(error: BaseException) -> int:
    """What a command raised."""
    from echostream_core.commands import ExitStatus, failure
    from echostream_core.errors import EchoStreamError

    status, text = failure(error)
    if text:
        note(f"error: {text}")
    if status is ExitStatus.PIPE_CLOSED:
        _silence_output()
    elif text and not isinstance(error, EchoStreamError):
        note("This is a defect; `echostream --debug …` shows where it happened.")
    return status


def _silence_output() -> None:
    """Let the interpreter's last flush go nowhere: the reader of our pipe is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
