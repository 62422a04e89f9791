"""``echostream cert``: certificates that a browser accepts without an authority."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from echostream_cli.arguments import Json
from echostream_cli.help_texts import texts
from echostream_cli.screen import note, print_json, print_line, print_pairs

__all__ = ["add_commands"]

BROWSER_EXAMPLES: Final = (
    "echostream cert browser",
    "echostream cert browser --host localhost --host 192.0.2.7 --out certificates",
    "echostream cert browser --dev --json",
)


def add_commands(group: typer.Typer, *, drawn: bool) -> None:
    """Add the commands to the group; ``drawn``: help is for a terminal."""
    group.callback()(_group)  # or typer makes the only command of a group the group itself
    group.command("browser", **texts(browser, BROWSER_EXAMPLES, drawn=drawn))(browser)


def _group() -> None:
    """Make certificates."""


def browser(
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="NAME", help="Name or IP address; may be repeated. Default: this machine's own."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the two files are written to.")] = Path(),
    days: Annotated[int, typer.Option("--days", metavar="N", help="Validity in days, at most 14.")] = 14,
    dev: Annotated[bool, typer.Option("--dev", help="Show the certificate of tls.dev = true; make none.")] = False,
    json: Json = False,
) -> None:
    """Make a certificate for WebTransport that a page names by its hash, without any authority.

    Browsers accept such a certificate for 14 days at most. When they are over, make a new one, start the server again,
    and give the page the new hash.
    """
    from echostream_core.commands import UsageError

    try:
        from echostream_certs import BrowserCertificate, browser_certificate, development_pair
    except ImportError as error:
        raise UsageError("this needs the package echostream-certs: python -m pip install echostream-certs") from error
    if dev and (host or out != Path() or days != 14):
        raise UsageError("--dev shows a certificate that there is: leave out --host, --out and --days")
    if dev:
        pair = development_pair()
        made = BrowserCertificate.read(pair.certificate_path, pair.private_key_path)
    else:
        made = browser_certificate(out, host or ["localhost", "127.0.0.1", "::1"], days=days)
    found = {
        "certificate": str(made.certificate_path),
        "private_key": str(made.private_key_path),
        "sha256": made.hash_hex,
        "sha256_base64": made.hash_base64,
        "valid_until": made.not_after.isoformat(),
        "snippet": made.snippet,
    }
    if json:
        print_json(found)
        return
    snippet = found.pop("snippet")
    print_pairs(list(found.items()))
    print_line()
    print_line(f"new WebTransport(url, {snippet});")
    note("\nNo browser connects after that: make it anew then, start the server again, and give the page the new hash.")
