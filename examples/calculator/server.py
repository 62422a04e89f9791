"""Serve the calculator as `echostream.toml` says, or on the URLs of the command line.

    python examples/calculator/server.py                                            # as the file says
    python examples/calculator/server.py tcp://127.0.0.1:0                          # here; port 0 is any free one
    ECHOSTREAM__SERVER__CALCULATOR__LISTEN=unix:///tmp/calc.sock python examples/calculator/server.py

The program names no transport, and `calc_app.py` neither. With the command line installed,
`echostream serve examples/calculator/echostream.toml` does the same. Ctrl-C or SIGTERM drains and stops it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from echostream_core import EchoStreamError, RpcServer, run

CONFIGURATION = Path(__file__).with_name("echostream.toml")


async def main(urls: list[str]) -> None:
    """Listen, say where, and serve until a signal comes."""
    overrides = {"server.calculator.listen": urls} if urls else {}
    async with RpcServer.from_config(CONFIGURATION, overrides=overrides) as server:
        for address in server.addresses:
            print(f"listening on {address}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        run(main(sys.argv[1:]))
    except EchoStreamError as error:
        sys.exit(f"error: {error}")
