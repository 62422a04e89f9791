"""The commands: serve and join. What goes wrong is said in a sentence, and by the exit status."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from echostream_core import EchoStreamError, Reconnect, RpcClient, RpcError, RpcServer, run
from examples.chat.conversation import Conversation
from examples.chat.protocol import check_name
from examples.chat.screen import opened_screen
from examples.chat.service import Chat, make_rooms, name_of

__all__ = ["main"]

_ALIVE_S: Final = 3.0
"""A peer that says nothing for so long is asked, and given up when it does not answer within the same again. Else those
who vanish would be shown as present for 40 s."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the answer is the exit status: 0, 1 for a failure, 2 for a wrong command, 130 for Ctrl-C."""
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING if options.command is serve else logging.CRITICAL, format="%(message)s")
    try:
        status: int = run(options.command(options))
        return status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RpcError as error:
        print(f"error: {error.message}", file=sys.stderr)
    except (EchoStreamError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def make_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = argparse.ArgumentParser(prog="python -m examples.chat", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable[..., Awaitable[int]], name: str, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=function)
        made.add_argument("--dev-tls", action="store_true", help="this user's development certificate, on one machine")
        return made

    serving = command(serve, "serve", "Run the server on one URL or several.")
    serving.add_argument("urls", nargs="+", metavar="URL")
    serving.add_argument("--history", type=Path, metavar="FILE", help="keep what was said there; else in memory")
    serving.add_argument("--certificate", metavar="FILE", help="for tls and quic, PEM")
    serving.add_argument("--private-key", metavar="FILE", help="of the certificate, PEM")

    joining = command(enter, "join", "Enter a room and talk.")
    joining.add_argument("url", metavar="URL")
    joining.add_argument("--room", default="lobby", help="(lobby)")
    joining.add_argument("--name", required=True, type=name_option, help="who you are")
    joining.add_argument("--pin", metavar="PIN", help="accept exactly this certificate: sha256:HEX")
    joining.add_argument("--ca", metavar="FILE", help="trust these certificates instead of the system's, PEM")
    return parser


def name_option(text: str) -> str:
    """A name, or what is wrong with it."""
    try:
        return check_name(text)
    except RpcError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def tls_of(options: argparse.Namespace, *names: str) -> dict[str, object] | None:
    """The TLS settings that the command line gives."""
    tls: dict[str, object] = {"dev": True} if options.dev_tls else {}
    tls |= {name: value for name in names if (value := getattr(options, name))}
    return tls or None


async def serve(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    async with make_rooms(options.history) as rooms:
        server = RpcServer(
            options.urls,
            rooms,
            Chat(rooms),
            authenticator=name_of,
            tls=tls_of(options, "certificate", "private_key"),
            limits={"keepalive_interval_s": _ALIVE_S, "keepalive_timeout_s": _ALIVE_S},
            drain_timeout=2.0,
            name="chat",
        )
        async with server:
            for address in server.addresses:
                print(f"listening on {address}", flush=True)
            await server.serve_forever()
    return 0


async def enter(options: argparse.Namespace) -> int:
    """Talk until /quit, the end of the input, or Ctrl-C."""
    async with RpcClient.connect(
        options.url,
        credentials={"name": options.name},
        insecure_credentials=True,  # a name is no secret
        tls=tls_of(options, "pin", "ca"),
        limits={"keepalive_interval_s": _ALIVE_S, "keepalive_timeout_s": _ALIVE_S},
        reconnect=Reconnect(initial_delay=0.2, max_delay=3.0),
    ) as client:
        with opened_screen(f"{options.name}> ") as screen:
            await Conversation(client, options.room, options.name, screen).hold()
    return 0
