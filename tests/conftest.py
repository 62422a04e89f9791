"""Fixtures for all tests of the repository: event loops by name, and endpoints by transport."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from echostream_core.testing import VirtualLoop
from tests.support.transports import Endpoint, endpoint, installed_schemes

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factories() -> dict[str, LoopFactory]:
    """The loops that there are, by name."""
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop, "virtual": VirtualLoop}
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    chosen = os.environ.get("ECHOSTREAM_TEST_LOOPS", "").split() or list(factories)
    return {name: factory for name, factory in factories.items() if name in chosen}


def pytest_asyncio_loop_factories(item: pytest.Function) -> dict[str, LoopFactory]:
    """The loops that a module names in ``LOOPS``: its tests run on each that is installed."""
    factories = loop_factories()
    wanted = getattr(item.module, "LOOPS", ("asyncio",))
    return {name: factories[name] for name in wanted if name in factories}


@pytest.fixture(scope="session")
def dev_certificates() -> Iterator[Path]:
    """A folder of their own for development certificates; they are made once per run."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECHOSTREAM_DEV_DIR", folder)
        yield Path(folder)


@pytest.fixture(params=installed_schemes())
def transport(request: pytest.FixtureRequest, dev_certificates: Path) -> Iterator[Endpoint]:
    """One endpoint per installed transport: tests with this fixture run over each."""
    # Not tmp_path: the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory() as folder:
        yield endpoint(request.param, Path(folder))
