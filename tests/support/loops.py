"""The event loops on which the tests of a plugin run: asyncio's own and, where it is installed, uvloop."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Collection, Mapping

import pytest

__all__ = ["LoopFactory", "guest_loops", "real_loops"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def real_loops(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """The loops, by name; a module may name its own in ``LOOPS``. Only those in ECHOSTREAM_TEST_LOOPS, if it is set."""
    own: Mapping[str, LoopFactory] | None = getattr(getattr(item, "module", None), "LOOPS", None)
    if own is not None:
        return own
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.SelectorEventLoop}
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    chosen = os.environ.get("ECHOSTREAM_TEST_LOOPS", "").split() or list(factories)
    return {name: factory for name, factory in factories.items() if name in chosen}


def guest_loops(item: pytest.Item, on_all: Collection[str]) -> Mapping[str, LoopFactory]:
    """For a plugin that stands on another, whose sockets are tested on every loop: the modules ``on_all`` run on all of
    them too, the others on asyncio's own.
    """
    loops = real_loops(item)
    module = item.path.stem
    return loops if module in on_all or "asyncio" not in loops else {"asyncio": loops["asyncio"]}
