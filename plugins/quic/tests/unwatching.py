"""An event loop that cannot watch sockets, as Windows' proactor loop: real sockets, but no ``add_reader``."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

__all__ = ["UnwatchingLoop"]


class UnwatchingLoop(asyncio.SelectorEventLoop):
    """asyncio's own transports use private methods, and so work here."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]  # it takes anything
        raise NotImplementedError

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]  # it takes anything
        raise NotImplementedError
