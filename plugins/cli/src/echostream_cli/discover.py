"""``echostream discover``: which servers are announced, now or as they come and go."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from echostream_cli.arguments import Overrides
from echostream_cli.screen import note, print_json, print_line, print_table, print_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from echostream_core import Endpoint, Kernel
    from echostream_core.config import Config

__all__ = ["EXAMPLES", "discover"]

EXAMPLES: Final = (
    "echostream discover",
    "echostream discover calc --where zone=eu --json",
    "echostream discover --watch",
    "echostream discover --set discovery.mdns.interfaces=loopback",
)


def discover(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Which service; left out: all.", show_default=False)
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only those with this attribute; may be repeated."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and tell every change; end with Ctrl-C.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.01, help="How long to look.")] = 2.0,
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The discovery backend; needed when several are installed."),
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A configuration; its discovery section counts."),
    ] = None,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="JSON; with --watch one line per change.")] = False,
) -> int:
    """List the servers that are announced, with their URLs and attributes.

    Exit status 1 when none is found. What is announced is not verified: that is done when connecting.
    """
    from echostream_core import Kernel, find_endpoints, run
    from echostream_core.commands import ExitStatus, UsageError
    from echostream_core.config import load_config

    attributes: dict[str, list[str]] = {}
    for text in where or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--where: write KEY=VALUE, not {text!r}")
        attributes.setdefault(key, []).append(value)
    loaded = load_config(*(config or ()), overrides=overrides or ())
    kernel = Kernel(loaded.plugins)
    if backend is None and len(names := kernel.discovery_names()) > 1:
        raise UsageError(f"several discovery backends are installed: {', '.join(names)}; name one with --backend")
    if watch:
        run(_watch(name, attributes, backend, kernel, loaded, compact=json))
        return ExitStatus.OK
    found = run(
        find_endpoints(name, where=attributes, timeout=timeout, discovery=backend, kernel=kernel, config=loaded)
    )
    if json:
        print_json([_plain(endpoint) for endpoint in found])
    elif found:
        print_table(("service", "instance", "urls", "attributes"), [_row(endpoint) for endpoint in found])
    if not found:
        wanted = f"no server that advertises {name!r}" if name else "no server"
        note(f"{wanted} was found within {timeout:g} s{' with these attributes' if attributes else ''}")
    return ExitStatus.OK if found else ExitStatus.FAILED


async def _watch(
    name: str | None,
    where: Mapping[str, list[str]],
    backend: str | None,
    kernel: Kernel,
    config: Config,
    *,
    compact: bool,
) -> None:
    from echostream_core import watch_endpoints

    known: dict[tuple[str, str], Endpoint] = {}
    stream = watch_endpoints(name, where=where, discovery=backend, kernel=kernel, config=config)
    async with aclosing(stream):
        async for snapshot in stream:
            now = {(endpoint.service, endpoint.instance): endpoint for endpoint in snapshot}
            for key, endpoint in known.items():
                if key not in now:
                    _tell("gone", endpoint, compact=compact)
            for key, endpoint in now.items():
                if key not in known:
                    _tell("found", endpoint, compact=compact)
                elif known[key] != endpoint:
                    _tell("changed", endpoint, compact=compact)
            known = now


def _tell(change: str, endpoint: Endpoint, *, compact: bool) -> None:
    if compact:
        print_value({"change": change, **_plain(endpoint)}, compact=True)
    else:
        print_line("  ".join([f"{change:<7}", *(cell for cell in _row(endpoint) if cell)]))


def _plain(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "service": endpoint.service,
        "instance": endpoint.instance,
        "urls": list(endpoint.urls),
        "attributes": dict(endpoint.attributes),
    }


def _row(endpoint: Endpoint) -> tuple[str, str, str, str]:
    """One line for people; what others announced is shown escaped: it may hold control characters."""
    attributes = " ".join(f"{key}={value}" for key, value in sorted(endpoint.attributes.items()))
    cells = (endpoint.service, endpoint.instance, " ".join(endpoint.urls), attributes)
    service, instance, urls, rest = ("".join(c if c.isprintable() else repr(c)[1:-1] for c in cell) for cell in cells)
    return service, instance, urls, rest
