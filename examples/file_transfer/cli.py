"""The commands: serve, upload, download, list. What goes wrong is said in a sentence, and by the exit status."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from echostream_core import EchoStreamError, Reconnect, RpcClient, RpcError, RpcServer, run
from examples.file_transfer.disk import reason
from examples.file_transfer.landing import InUse, WrongChecksum
from examples.file_transfer.progress import board, readable
from examples.file_transfer.protocol import Description
from examples.file_transfer.service import FileService
from examples.file_transfer.transfer import Outcome, Transfer

__all__ = ["main"]

_ENDPOINT: Final = "files"
"""The name of the server and of the client in a configuration file."""
_ALIVE: Final = {"keepalive_interval_s": 3.0, "keepalive_timeout_s": 3.0}
"""A peer that says nothing for so long is asked, and given up when it does not answer within the same again. The
default, 20 s each, is for connections that lie idle; here somebody is waiting."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the answer is the exit status: 0, 1 for a failure, 2 for a wrong command, 130 for Ctrl-C."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING if options.command is serve else logging.CRITICAL, format="%(message)s")
    logging.getLogger("examples.file_transfer").setLevel(logging.INFO)
    try:
        status: int = run(options.command(options))
        return status
    except KeyboardInterrupt:
        if options.command in (upload, download):
            print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Wrong as error:
        parser.error(str(error))
    except (EchoStreamError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1


class Wrong(Exception):
    """The command line makes no sense."""


def make_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(prog="python -m examples.file_transfer", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable[..., Awaitable[int]], words: str, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(function.__name__.removesuffix("_files"), help=help, description=help)
        made.set_defaults(command=function)
        made.add_argument("words", nargs="*", metavar=words, help="the URL may be left out with --config")
        made.add_argument(
            "--config", type=Path, metavar="FILE", help="take [server.files] or [client.files] from there"
        )
        made.add_argument("--dev-tls", action="store_true", help="this user's development certificate, on one machine")
        return made

    serving = command(serve, "URL", "Serve a directory on one URL or several.")
    serving.add_argument("--directory", type=Path, required=True, metavar="DIR", help="made if it is not there")
    serving.add_argument("--certificate", metavar="FILE", help="for tls and quic, PEM")
    serving.add_argument("--private-key", metavar="FILE", help="of the certificate, PEM")
    serving.add_argument("--keep-days", type=float, default=7.0, help="remove what is unfinished for so long (7)")

    sending = command(upload, "URL FILE", "Send files. An interrupted one goes on where it stopped.")
    sending.add_argument("--as", dest="name", help="store the file under this name")
    fetching = command(download, "URL NAME", "Fetch files. An interrupted one goes on where it stopped.")
    fetching.add_argument("--to", type=Path, default=Path(), metavar="DIR", help="where to put them (here)")
    for made in (sending, fetching):
        made.add_argument("--overwrite", action="store_true", help="replace another file of that name")
        made.add_argument("--parallel", type=int, default=4, metavar="N", help="so many files at once (4)")
        made.add_argument("--limit-rate", type=rate, default=0.0, metavar="RATE", help="bytes/s per file: 500K, 2M")
    for made in (sending, fetching, command(list_files, "URL", "Show what can be fetched.")):
        made.add_argument("--pin", metavar="PIN", help="accept exactly this certificate: sha256:HEX")
        made.add_argument("--ca", metavar="FILE", help="trust these certificates instead of the system's, PEM")
        made.add_argument("--wait", type=float, default=300.0, metavar="S", help="for a server that is away (300)")
        made.add_argument("--json", action="store_true", help="results as JSON, one line each")
    return parser


def rate(text: str) -> float:
    """``500K`` is 512,000 bytes per second."""
    factor = {"K": 1024, "M": 1024**2, "G": 1024**3}.get(text[-1:].upper())
    try:
        value = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"write bytes per second, such as 500K or 2M, not {text!r}")
    return value


def split(options: argparse.Namespace, what: str = "") -> tuple[list[str], list[str]]:
    """The URLs, and the rest of the words. Without a URL there must be a configuration."""
    urls = [word for word in options.words if "://" in word]
    rest = [word for word in options.words if "://" not in word]
    if not urls and options.config is None:
        raise Wrong("write a URL, such as tcp://127.0.0.1:9000, or --config FILE")
    if what and not rest:
        raise Wrong(f"write {what} behind the URL")
    if not what and rest:
        raise Wrong(f"{rest[0]!r} is no URL: write scheme://host:port")
    return urls, rest


async def serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    urls, _ = split(options)
    files = FileService(options.directory)
    removed = files.prepare(options.keep_days)
    if removed:
        logging.info("removed %d unfinished files that nobody went on with", removed)
    tls: dict[str, object] = {"dev": True} if options.dev_tls else {}
    tls |= {key: value for key in ("certificate", "private_key") if (value := getattr(options, key))}
    if options.config is None:
        # Transfers go on by themselves after a restart, so there is nothing to wait for.
        server = RpcServer(urls, files, tls=tls or None, limits=_ALIVE, drain_timeout=1.0, name=_ENDPOINT)
    else:
        overrides = {f"server.{_ENDPOINT}.tls.{key}": value for key, value in tls.items()}
        listen = {f"server.{_ENDPOINT}.listen": urls} if urls else {}
        server = RpcServer.from_config(
            options.config, name=_ENDPOINT, handlers=[files], overrides={**overrides, **listen}
        )
    async with server:
        for address in server.addresses:
            print(f"serving {files.directory} on {address}", flush=True)
        await server.serve_forever()
    return 0


async def connect(options: argparse.Namespace, urls: Sequence[str]) -> RpcClient:
    """The client: from the command line, or from the file with what the command line adds."""
    tls: dict[str, object] = {"dev": True} if options.dev_tls else {}
    tls |= {key: value for key in ("pin", "ca") if (value := getattr(options, key))}
    if options.config is None:
        limits = {**_ALIVE, "default_timeout_s": options.wait}
        return await RpcClient.connect(
            urls, tls=tls or None, limits=limits, reconnect=Reconnect(initial_delay=0.2, max_delay=3.0)
        )
    overrides = {f"client.{_ENDPOINT}.tls.{key}": value for key, value in tls.items()}
    address: dict[str, object] = {f"client.{_ENDPOINT}.url": list(urls)} if urls else {}
    return await RpcClient.from_config(options.config, _ENDPOINT, overrides={**overrides, **address})


async def upload(options: argparse.Namespace) -> int:
    """Send files, several at once."""
    urls, names = split(options, "the files")
    if options.name is not None and len(names) > 1:
        raise Wrong("--as is for a single file")

    async def send(transfer: Transfer, name: str) -> Outcome:
        return await transfer.upload(Path(name), options.name or Path(name).name, overwrite=options.overwrite)

    return await move(options, urls, names, "sent", send)


async def download(options: argparse.Namespace) -> int:
    """Fetch files, several at once."""
    urls, names = split(options, "the names of the files")
    options.to.mkdir(parents=True, exist_ok=True)

    async def fetch(transfer: Transfer, name: str) -> Outcome:
        return await transfer.download(name, options.to / Path(name).name, overwrite=options.overwrite)

    return await move(options, urls, names, "fetched", fetch)


async def move(
    options: argparse.Namespace,
    urls: Sequence[str],
    names: Sequence[str],
    done: str,
    how: Callable[[Transfer, str], Awaitable[Outcome]],
) -> int:
    """Send or fetch all ``names``; one that fails does not stop the others, but the status is 1."""
    slots = asyncio.Semaphore(max(1, options.parallel))
    results: list[str] = []
    failed = 0

    async def one(client: RpcClient, name: str) -> None:
        nonlocal failed
        async with slots:
            line = lines.line(Path(name).name)
            try:
                outcome = await how(Transfer(client, line, rate=options.limit_rate, patience=options.wait), name)
            except (EchoStreamError, OSError, InUse, WrongChecksum) as error:
                failed += 1
                line.note(f"error: {sentence(error)}")
            else:
                line.begin("done", outcome.size, outcome.size)
                results.append(report(outcome, done, as_json=options.json))

    try:
        with board() as lines:
            async with await connect(options, urls) as client, asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(one(client, name))
    finally:
        for result in results:
            print(result)
    return 1 if failed else 0


def report(outcome: Outcome, done: str, *, as_json: bool) -> str:
    """One file's result."""
    if as_json:
        return json.dumps({**asdict(outcome), "twice": outcome.twice})
    text = f"{outcome.name}: {readable(outcome.size)} {done}, sha256 {outcome.sha256}"
    first, *later = outcome.began_at
    if first == outcome.size and outcome.size:
        return f"{outcome.name}: nothing to do, sha256 {outcome.sha256}"
    if first:
        text += f"; went on from {readable(first)}"
    if later:
        interruptions = f"{len(later)} interruption{'s' if len(later) > 1 else ''}"
        text += f"; {interruptions}, {readable(outcome.twice)} travelled twice"
    return text


async def list_files(options: argparse.Namespace) -> int:
    """Show what can be fetched."""
    urls, _ = split(options)
    async with await connect(options, urls) as client:
        files = [file async for file in client.stream("files.list", returns=Description)]
    for file in files:
        if options.json:
            print(json.dumps({"name": file.name, "size": file.size, "modified": file.modified}))
        else:
            modified = datetime.fromtimestamp(file.modified).isoformat(" ", "minutes")
            print(f"{readable(file.size):>10}  {modified}  {file.name}")
    return 0


def sentence(error: Any) -> str:
    """What to tell the reader: the peer's sentence, ours, or the system's with the file that it is about."""
    if isinstance(error, RpcError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    return str(error)
