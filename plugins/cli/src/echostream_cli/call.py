"""``echostream call``: call one method and print its answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from echostream_cli.arguments import Overrides, complete_clients, complete_codecs
from echostream_cli.screen import print_value

if TYPE_CHECKING:
    from echostream_core.client import Connecting
    from echostream_core.commands import CallRequest

__all__ = ["EXAMPLES", "call"]

EXAMPLES: Final = (
    'echostream call tcp://127.0.0.1:9000 math.add \'{"a": 2, "b": 3}\'',
    "echostream call quic://127.0.0.1:4433 calc.primes 100 --dev --codec msgpack",
    "echostream call --config echostream.toml --client orders orders.list @query.json",
    "echo '\"ada\"' | echostream call tcp://127.0.0.1:9000 users.get -",
)


def call(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to call; left out with --config.")],
    method: Annotated[str | None, typer.Argument(metavar="METHOD", help="What to call.", show_default=False)] = None,
    payload: Annotated[
        str | None,
        typer.Argument(
            metavar="PAYLOAD", help="What to send: JSON, @FILE with JSON, or - for standard input.", show_default=False
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
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", help="Default: 30; for items none.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Sent beside the payload; may be repeated.")
    ] = None,
    codec: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Codecs in order of preference; may be repeated.", autocompletion=complete_codecs
        ),
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream", help="Whether the method yields items; left out: finds out.", show_default=False
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
    json: Annotated[bool, typer.Option("--json", help="One line of JSON per answer or item.")] = False,
) -> None:
    """Call a method and print its answer as JSON.

    The items of a method that yields several are printed one by one, as they come.
    """
    from echostream_core import run
    from echostream_core.commands import CallRequest, UsageError, dial

    words = [word for word in (url, method, payload) if word is not None]
    address = None if config else _url(words.pop(0))
    if not words or len(words) > 2:
        raise UsageError("write METHOD [PAYLOAD] beside --config FILE" if config else "write URL METHOD [PAYLOAD]")
    if client is not None and not config:
        raise UsageError("--client names a section of --config FILE, which is missing")
    request = CallRequest(
        method=words[0],
        payload=_payload(words[1]) if len(words) > 1 else None,
        timeout=timeout,
        metadata=_pairs(metadata or ()),
        stream=stream,
    )
    tls = {"dev": dev, "ca": str(tls_ca or ""), "pin": tls_pin or ""}
    connecting = dial(
        address,
        files=config or (),
        name=client,
        codecs=codec or (),
        tls={key: value for key, value in tls.items() if value} or None,
        overrides=overrides or (),
    )
    run(_print_answer(connecting, request, compact=json))


async def _print_answer(connecting: Connecting, request: CallRequest, *, compact: bool) -> None:
    from echostream_core.commands import call as call_method

    async with connecting as peer:
        async for item in call_method(peer, request):
            print_value(item, compact=compact)


def _url(text: str) -> str:
    from echostream_core import ConfigError, Url
    from echostream_core.commands import UsageError

    try:
        return str(Url.parse(text))
    except ConfigError as error:
        raise UsageError(f"URL: {error}") from error


def _payload(text: str) -> object:
    import sys

    import msgspec

    from echostream_core.commands import UsageError

    source = "standard input" if text == "-" else text[1:] if text.startswith("@") else ""
    try:
        if text == "-":
            text = sys.stdin.read()
        elif source:
            text = Path(source).read_text(encoding="utf-8")
        return msgspec.json.decode(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"PAYLOAD: {source} cannot be read: {reason}") from error
    except msgspec.DecodeError as error:
        hint = "" if source else "; a text needs quotes of its own: '\"text\"'"
        raise UsageError(f"{source or 'PAYLOAD'} is not JSON: {error}{hint}") from error


def _pairs(texts: list[str] | tuple[str, ...]) -> dict[str, str]:
    from echostream_core.commands import UsageError

    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--metadata: write KEY=VALUE, not {text!r}")
        pairs[key] = value
    return pairs
