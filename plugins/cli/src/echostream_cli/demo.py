"""``echostream demo``: one unchanged program over every transport and codec, in two processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from echostream_cli.arguments import Json
from echostream_cli.screen import print_json

__all__ = ["EXAMPLES", "demo"]

EXAMPLES: Final = (
    "echostream demo",
    "echostream demo --quick --transports tcp --codecs msgpack,json",
    "echostream demo --file holiday.mp4 --json > demo.json",
)


def demo(
    file: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The file to send; left out: some music, made for it.")
    ] = None,
    transports: Annotated[
        str | None, typer.Option(metavar="LIST", help="Schemes, comma-separated; default: quic,wt,tls,ws,tcp.")
    ] = None,
    codecs: Annotated[
        str | None, typer.Option(metavar="LIST", help="Codecs, comma-separated; default: msgpack,cbor,json.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Measure briefly: same checks, rough figures.")] = False,
    json: Json = False,
) -> int:
    """Watch one unchanged program talk over every transport with every codec.

    A server starts in a second process and announces itself on this machine by mDNS. The client finds it by its name,
    calls it and is called back, cancels a call, lets one time out, measures, and sends a file whose SHA-256 is
    compared. Only the configuration differs from one line to the next.

    Exit status 1 when anything failed. What is not installed is left out, and is a failure only when it was asked for
    by name. The figures of this small machine-local demo are no benchmark: see echostream bench.
    """
    from echostream_cli.demo_run import CODECS, TRANSPORTS, DemoPlan, run_demo
    from echostream_cli.demo_screen import print_report, progress
    from echostream_core.commands import ExitStatus

    plan = DemoPlan(
        transports=_names(transports, "--transports"),
        codecs=_names(codecs, "--codecs"),
        file=file,
        quick=quick,
    )
    combinations = len(plan.transports or TRANSPORTS) * len(plan.codecs or CODECS)
    with _terminable() as terminated:
        try:
            with progress(combinations) as shown:
                report = run_demo(plan, shown)
        except KeyboardInterrupt:
            return ExitStatus.TERMINATED if terminated else ExitStatus.INTERRUPTED
    if json:
        print_json(report.as_dict())
    else:
        print_report(report)
    return ExitStatus.OK if report.ok else ExitStatus.FAILED


def _names(text: str | None, option: str) -> tuple[str, ...]:
    from echostream_core.commands import UsageError

    if text is None:
        return ()
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if not names:
        raise UsageError(f"{option}: name at least one")
    return names


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """Have SIGTERM end the block as Ctrl-C does, so that everything is cleared away; the list tells it happened."""
    terminated: list[int] = []

    def on_term(number: int, _frame: FrameType | None) -> None:
        terminated.append(number)
        signal.raise_signal(signal.SIGINT)

    try:
        previous = signal.signal(signal.SIGTERM, on_term)
    except ValueError:  # not the main thread: whoever started us there also ends us
        yield terminated
        return
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:  # as a shell starts what runs in the background; then SIGTERM would do nothing
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, previous)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
