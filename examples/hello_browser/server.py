"""The server of the page: WebSocket and the page's own files on a TCP port, WebTransport on a UDP port.

They are two servers with the same handlers, because the first one's port has to be known before the second can be told
which pages may connect to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from echostream_certs import browser_certificate
from echostream_core import Context, Kernel, RpcError, RpcServer, StatusCode, handler, service

__all__ = ["PAGE", "Hello", "serve"]

PAGE: Final = Path(__file__).parent / "page"
"""What browsers get to see: this folder, and nothing else of the example."""

_DRAIN_S: Final = 2.0
_PATH: Final = "/hello"
_EVERYWHERE: Final = ("0.0.0.0", "[::]")
_GREETINGS: Final = {"de": "Hallo", "en": "Hello", "es": "Hola", "fr": "Bonjour", "it": "Ciao", "ja": "こんにちは"}


@service("hello")
class Hello:
    """What the page calls."""

    def __init__(self) -> None:
        self.address: dict[str, object] | None = None
        """Host, port, path and certificate of WebTransport, once it listens; host None: any of this machine."""

    @handler
    def echo(self, value: object) -> object:
        """The value itself: for measuring."""
        return value

    @handler
    async def greet(self, name: str, ctx: Context) -> str:
        """A greeting in the language of the page, which the server asks the page for."""
        language = await ctx.session.request("page.language", timeout=2.0)
        word = _GREETINGS.get(str(language).partition("-")[0], _GREETINGS["en"])
        return f"{word}, {name}!"

    @handler
    def webtransport(self) -> dict[str, object]:
        """Where WebTransport listens, and by which certificate it is known."""
        if self.address is None:
            raise RpcError(StatusCode.UNAVAILABLE, "This server has no WebTransport: install echostream-webtransport.")
        return self.address


async def serve(host: str, port: int, report: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``port`` 0 is any free one. ``report`` is told where to find the page."""
    hello = Hello()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hello-browser-")))
        page = RpcServer(
            f"ws://{host}:{port}{_PATH}",
            hello,
            transport={"ws": {"pages": {"/": str(PAGE)}}},
            drain_timeout=_DRAIN_S,
            name="hello",
        )
        await stack.enter_async_context(page)
        address = urlsplit(page.addresses[0])
        if "wt" in Kernel().known("transport"):
            # The same number over UDP, if it is free there too: easier to open in a firewall. With port 0 any will do.
            url = f"wt://{host}:{port}{_PATH}"
            made = browser_certificate(folder, ["localhost", "127.0.0.1"])  # a new one at each start
            direct = RpcServer(
                url,
                hello,
                tls={"certificate": str(made.certificate_path), "private_key": str(made.private_key_path)},
                transport={"wt": {"origins": origins(address.netloc)}},
                drain_timeout=_DRAIN_S,
                name="hello",
            )
            await stack.enter_async_context(direct)
            bound = urlsplit(direct.addresses[0])
            hello.address = {
                "host": None if host in _EVERYWHERE else bound.netloc.rpartition(":")[0],
                "port": bound.port,
                "path": bound.path,
                "certificateHash": made.hash_base64,
            }
        # Browsers hold no page of 0.0.0.0 for secure, but every page of localhost.
        shown = f"localhost:{address.port}" if host in _EVERYWHERE else address.netloc
        report(f"open http://{shown}/ in a browser")
        await page.serve_forever()


def origins(authority: str) -> list[str]:
    """The pages that may connect: ours, under each name that this machine has for itself."""
    host, _, port = authority.rpartition(":")
    return [f"http://{name}:{port}" for name in dict.fromkeys([host, "localhost", "127.0.0.1", "[::1]"])]
