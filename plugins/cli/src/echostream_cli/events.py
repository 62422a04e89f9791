"""``echostream events``: print the events of a peer as they come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from echostream_cli.arguments import Overrides, complete_clients, complete_codecs
from echostream_cli.screen import note, print_line, print_value

if TYPE_CHECKING:
    from echostream_core.client import Connecting
    from echostream_core.engine.subscriptions import Event, Overflow

__all__ = ["EXAMPLES", "events"]

EXAMPLES: Final = (
    "echostream events tcp://127.0.0.1:9000 'chat.*'",
    "echostream events quic://127.0.0.1:4433 '**' --dev --json",
    "echostream events --config echostream.toml --client orders 'order.created' --count 1",
)


def events(
    url: Annotated[str, typer.Argument(metavar="URL", help="Whose events; left out with --config.")],
    pattern: Annotated[
        str | None,
        typer.Argument(
            metavar="PATTERN", help="Which: '*' is any one segment, '**' at the end any more.", show_default=False
        ),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Take the client from a configuration; there is no URL then."),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which client of it; needed when it has several.",
            autocompletion=complete_clients,
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(metavar="N", min=1, help="End after so many; default: never.")] = None,
    overflow: Annotated[
        str,
        typer.Option(metavar="POLICY", help="What becomes of events that come faster than they are printed."),
    ] = "drop_oldest",
    codec: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Codecs in order of preference; may be repeated.", autocompletion=complete_codecs
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificates to trust instead of the system's, PEM.")
    ] = None,
    tls_pin: Annotated[
        str | None, typer.Option(metavar="PIN", help="Accept exactly this certificate: sha256:HEX.")
    ] = None,
    dev: Annotated[bool, typer.Option("--dev", help="Accept this user's development certificate.")] = False,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON per event.")] = False,
) -> None:
    """Print the events that match a pattern, as they come.

    It ends with Ctrl-C, or after --count events. When the connection is lost it connects again; what was emitted in
    between is missed. How many events were dropped is said at the end.
    """
    from echostream_core import Url, run
    from echostream_core.commands import UsageError, dial

    words = [word for word in (url, pattern) if word is not None]
    if len(words) != (1 if config else 2):
        raise UsageError("write PATTERN beside --config FILE" if config else "write URL PATTERN")
    if client is not None and not config:
        raise UsageError("--client names a section of --config FILE, which is missing")
    tls = {"dev": dev, "ca": str(tls_ca or ""), "pin": tls_pin or ""}
    connecting = dial(
        None if config else str(Url.parse(words[0])),
        files=config or (),
        name=client,
        codecs=codec or (),
        tls={key: value for key, value in tls.items() if value} or None,
        overrides=overrides or (),
    )
    run(_print_events(connecting, words[-1], cast("Overflow", overflow), count, compact=json))


async def _print_events(
    connecting: Connecting, pattern: str, overflow: Overflow, count: int | None, *, compact: bool
) -> None:
    async with connecting as peer, peer.subscribe(pattern, overflow=overflow) as subscription:
        try:
            left = count
            while left is None or left > 0:
                _print_event(await subscription.recv(), compact=compact)
                left = None if left is None else left - 1
        finally:
            for reason, number in subscription.dropped.items():
                note(f"{number} events were not shown: {reason}")


def _print_event(event: Event, *, compact: bool) -> None:
    import msgspec

    if compact:
        shown: dict[str, Any] = {"topic": event.topic, "payload": event.payload}
        print_value(shown, compact=True)
    else:
        print_line(f"{event.topic} {msgspec.json.encode(event.payload).decode()}")
