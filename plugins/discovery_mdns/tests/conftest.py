"""Every asynchronous test runs on asyncio's own loop; a module may name more in ``LOOPS``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    """The loops, by name."""
    wanted: Sequence[str] = getattr(getattr(item, "module", None), "LOOPS", ("asyncio",))
    if wanted == ("uvloop",):
        uvloop = pytest.importorskip("uvloop")
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.SelectorEventLoop}
