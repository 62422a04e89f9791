"""The event loops on which the tests of a plugin run: asyncio's own and, where it is installed, uvloop."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Mapping

import pytest

__all__ = ["LoopFactory", "real_loops"]

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
