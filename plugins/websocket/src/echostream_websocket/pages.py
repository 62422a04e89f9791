"""A few small files beside the WebSocket, for a demonstration page on the same port. Not a web server.

They are read when the listener starts and looked up by their whole path, so no request can lead out of a folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from echostream_core.errors import ConfigError

__all__ = ["Page", "load_pages"]

MAX_FILE_BYTES: Final = 1_048_576
MAX_FILES: Final = 256

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file, in memory."""

    body: bytes
    content_type: str


def load_pages(pages: Mapping[str, str]) -> dict[str, Page]:
    """URL path → page. A folder's ``index.html`` also answers the folder's own path, slash at its end.

    Hidden files are left out, and links that lead out of the folder. Raises ConfigError.
    """
    found: dict[str, Page] = {}
    for path, source in pages.items():
        if not os.path.isdir(source):
            found[path] = _load(source)
            continue
        root = os.path.realpath(source)
        base = path if path.endswith("/") else f"{path}/"
        for file in sorted(Path(root).rglob("*")):
            relative = file.relative_to(root)
            if any(part.startswith(".") for part in relative.parts) or not file.is_file():
                continue
            if not Path(os.path.realpath(file)).is_relative_to(root):
                continue
            if len(found) >= MAX_FILES:
                raise ConfigError(f"pages: {source!r} has more than {MAX_FILES} files; use a web server", key="pages")
            page = found[base + relative.as_posix()] = _load(str(file))
            if relative.name == "index.html":
                found[base + relative.as_posix().removesuffix("index.html")] = page
    return found


def _load(file: str) -> Page:
    try:
        with open(file, "rb") as opened:
            body = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"pages: {file!r} cannot be read: {reason}", key="pages") from error
    if len(body) > MAX_FILE_BYTES:
        raise ConfigError(f"pages: {file!r} has more than {MAX_FILE_BYTES} bytes: use a web server for it", key="pages")
    return Page(body, _TYPES.get(os.path.splitext(file)[1].lower(), "application/octet-stream"))
