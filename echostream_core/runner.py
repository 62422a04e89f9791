"""Run a program on the fastest event loop installed."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["loop_name", "run"]

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """As ``asyncio.run``, on uvloop (winloop on Windows) where it is installed: the ``fast`` extra.

    RuntimeError where an event loop runs already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        main.close()
        raise RuntimeError(
            "run() cannot be called while an event loop runs: await what it is given; and in a module that others "
            'import, put run() below if __name__ == "__main__":'
        )
    with asyncio.Runner(debug=debug, loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def loop_name() -> str:
    """``uvloop``, ``winloop`` or ``asyncio``: what ``run`` would use."""
    factory = _loop_factory()
    return "asyncio" if factory is None else str(factory.__module__).partition(".")[0]


def _loop_factory() -> Any:
    name = "winloop" if sys.platform == "win32" else "uvloop"
    try:
        return importlib.import_module(name).new_event_loop
    except ModuleNotFoundError:
        return None
