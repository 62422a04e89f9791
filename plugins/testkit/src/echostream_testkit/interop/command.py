"""The command line: ``listener`` and ``dialer`` are our implementation, ``matrix`` crosses, ``cases`` lists."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from echostream_core import ConfigError, EchoStreamError
from echostream_testkit.interop.contract import FAILED, PASSED, PREFIX, read_settings, write_json
from echostream_testkit.interop.plan import Plan, load_plan
from echostream_testkit.interop.runs import RunResult, cross
from echostream_testkit.interop.tables import as_data, as_markdown, as_text, line_of, succeeded

__all__ = ["main"]

USAGE = 2
"""Exit status for a command line or a plan that makes no sense."""


def main(arguments: Sequence[str]) -> int:
    """Do what ``arguments`` say; without any, what the environment's role is. The exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "cases":
            return _list_cases()
        if options.command == "matrix":
            return _matrix(options)
        return _play(options.command or "")
    except EchoStreamError as error:
        sys.stderr.write(f"{error}\n")
        return USAGE if options.command == "matrix" else FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m echostream_testkit.interop",
        description="Cross implementations of EchoStream: docs/interop.md is the contract. "
        f"Without a command the role is {PREFIX}ROLE.",
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("listener", help="our listener; the rest stands in the environment")
    commands.add_parser("dialer", help="our dialer; the rest stands in the environment")
    commands.add_parser("cases", help="list the cases that our dialer knows")
    matrix = commands.add_parser("matrix", help="cross the implementations that a file names")
    matrix.add_argument("file", type=Path, metavar="FILE.toml", help="what to cross")
    for name, what in (
        ("implementations", "only these of the file"),
        ("transports", "these instead of the file's"),
        ("codecs", "these instead of the file's"),
        ("cases", "these instead of the file's"),
    ):
        matrix.add_argument(f"--{name}", type=_words, default=(), metavar="A,B", help=what)
    matrix.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    matrix.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    matrix.add_argument("--logs", type=Path, metavar="FOLDER", help="keep the logs of runs that did not pass")
    return parser


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _list_cases() -> int:
    from echostream_testkit.interop.case import CASES
    from echostream_testkit.interop.dialer import CASE_MODULES

    width = max(map(len, CASES))
    for module in CASE_MODULES:
        sys.stdout.write(f"{(module.__doc__ or '').splitlines()[0]}\n")
        for case in CASES.values():
            if case.run.__module__ == module.__name__:
                sys.stdout.write(f"  {case.name:<{width}}  {case.summary}\n")
    return PASSED


def _play(role: str) -> int:
    settings = read_settings(os.environ, role)
    if settings.role == "listener":
        from echostream_testkit.interop.listener import run_listener

        return asyncio.run(run_listener(settings))
    from echostream_testkit.interop.dialer import run_dialer

    try:
        return asyncio.run(run_dialer(settings))
    except asyncio.CancelledError:  # the lifeline has ended: nobody is left who reads a result
        return FAILED


def _matrix(options: argparse.Namespace) -> int:
    if not hasattr(os, "killpg"):
        raise ConfigError("the matrix needs process groups, which this system does not have")
    changes = {name: getattr(options, name) for name in ("implementations", "transports", "codecs", "cases")}
    plan = load_plan(options.file, changes)
    runs = asyncio.run(_cross(plan, options.logs))
    if runs is None:
        sys.stderr.write("stopped: every process has been ended\n")
        return 128 + signal.SIGTERM
    sys.stdout.write("\n" + as_text(plan, runs))
    if options.json is not None:
        write_json(options.json, as_data(plan, runs))
    if options.markdown is not None:
        options.markdown.write_text(as_markdown(plan, runs), encoding="utf-8")
    return PASSED if succeeded(runs) else FAILED


async def _cross(plan: Plan, logs: Path | None) -> list[RunResult] | None:
    """Run the plan; None when SIGTERM ended it."""

    def tell(result: RunResult) -> None:
        sys.stdout.write(line_of(result) + "\n")
        sys.stdout.flush()

    # Not below a test's own folder: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="interop-") as temporary:
        folder = logs if logs is not None else Path(temporary)
        if any(folder.glob("[0-9]*")):
            raise ConfigError(f"--logs {folder} holds the logs of an earlier matrix: remove them, or name another one")
        crossing = asyncio.ensure_future(cross(plan, folder.resolve(), tell))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, crossing.cancel)
        try:
            return await crossing
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
            return None
