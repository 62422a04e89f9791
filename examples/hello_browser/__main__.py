"""The command: ``python -m examples.hello_browser --help``."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from echostream_core import EchoStreamError, run


def main() -> int:
    """Serve until Ctrl-C; the answer is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.hello_browser", description="A page that calls Python.")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (127.0.0.1)")
    parser.add_argument("--port", default=8080, type=int, metavar="NUMBER", help="TCP and UDP; 0: any free one (8080)")
    options = parser.parse_args()
    try:
        from examples.hello_browser.server import serve
    except ModuleNotFoundError as error:
        if error.name != "echostream_certs":
            raise
        print("error: certificates are missing: pip install echostream-certs", file=sys.stderr)
        return 1
    try:
        run(serve(options.host, options.port, partial(print, flush=True)))
    except EchoStreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


sys.exit(main())
