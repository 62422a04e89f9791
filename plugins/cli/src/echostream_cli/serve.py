"""``echostream serve``: run the servers of a configuration."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Final

import typer

from echostream_cli.arguments import ConfigFiles, Overrides, complete_servers
from echostream_cli.screen import note, print_line

__all__ = ["EXAMPLES", "LogLevel", "serve"]

EXAMPLES: Final = (
    "echostream serve echostream.toml",
    "echostream serve echostream.toml --name public --set server.public.listen=tcp://127.0.0.1:9000",
    "ECHOSTREAM__SERVER__PUBLIC__DRAIN_S=5 echostream serve echostream.toml",
)


class LogLevel(StrEnum):
    """From which level on the log goes to standard error."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def serve(
    files: ConfigFiles,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Serve only this one; may be repeated.", autocompletion=complete_servers),
    ] = None,
    overrides: Overrides = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON line per bound address and per change of state.")
    ] = False,
    stop_with_input: Annotated[
        bool, typer.Option("--stop-with-input", help="Stop at the end of standard input too, as a child does.")
    ] = False,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged, on standard error.")] = LogLevel.warning,
) -> None:
    """Start the servers of a configuration and print their addresses.

    SIGTERM and Ctrl-C drain them: no new calls are taken, the running ones finish. A second one drops those too.
    """
    import logging

    import msgspec

    from echostream_core import run
    from echostream_core.serving import ServeEvent
    from echostream_core.serving import serve as serve_files

    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")

    def report(event: ServeEvent) -> None:
        if json:
            print_line(msgspec.json.encode(event.as_dict()).decode())
        elif event.event == "listening":
            print_line(f"{event.server}: listening on {event.address}")
        elif event.event == "ready" and sys.stderr.isatty():
            note("Ctrl-C drains and stops.")
        elif event.event == "draining":
            note(f"{event.reason}: draining; a second signal drops the calls that still run.")

    run(serve_files(files, names=name or (), overrides=overrides or (), report=report, stop_with_input=stop_with_input))
