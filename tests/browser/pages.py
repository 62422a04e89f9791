"""A small web server of the tests' own: an empty page, the client of the example, and the JavaScript of the tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

__all__ = ["PAGE", "serving_pages"]

PAGE: Final = Path(__file__).resolve().parents[2] / "examples" / "hello_browser" / "page"
_HERE: Final = Path(__file__).parent
_EMPTY: Final = b'<!doctype html><meta charset="utf-8"><title>test</title><link rel="icon" href="data:,">'


def _content(path: str) -> bytes | None:
    """What is served: ``/``, ``/client/NAME`` and ``/tests/NAME``."""
    _, _, rest = path.partition("/")
    folder, _, name = rest.partition("/")
    if not rest:
        return _EMPTY
    root = {"client": PAGE / "echostream", "tests": _HERE}.get(folder)
    file = root / name if root is not None and name and "/" not in name else None
    return file.read_bytes() if file is not None and file.suffix in (".js", ".mjs") and file.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = _content(self.path)
        self.send_response(200 if content is not None else 404)
        kind = "text/html" if self.path == "/" else "text/javascript"
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the tests' output is for failures."""


@contextmanager
def serving_pages() -> Iterator[str]:
    """The origin of a server that runs in a thread of its own, such as ``http://127.0.0.1:40123``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
