"""Fixtures for all tests of the repository: event loops by name, and endpoints by transport; what keeps a run quick."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from echostream_core.testing import VirtualLoop
from tests.support.transports import Endpoint, endpoint, installed_schemes, loops_of

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_configure(config: pytest.Config) -> None:
    """Let the hundreds of processes that tests start share compiled modules, also where Python may write none.

    Where PYTHONDONTWRITEBYTECODE is set, as it is in many containers, each of them would compile the core and its
    plugins anew, which takes longer than most of what they do. The modules go into the virtual environment: the
    checkout stays as clean as was asked for.
    """
    starts_workers = getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput")
    if starts_workers or not os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        return  # workers have what they need compiled: they do this for the processes that they start
    folder = os.environ.setdefault("PYTHONPYCACHEPREFIX", os.path.join(sys.prefix, "pycache"))
    config.add_cleanup(lambda: shutil.rmtree(folder + tempfile.gettempdir(), ignore_errors=True))  # of this run only


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the loops on which a transport need not be tested; ``tests/support/transports.py`` says which."""
    left_out = {item for item in items if _is_on_a_loop_too_many(item)}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _is_on_a_loop_too_many(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if "transport" not in parameters or not isinstance(item, pytest.Function):
        return False
    factories = pytest_asyncio_loop_factories(item)
    used = [name for name, factory in factories.items() if any(value is factory for value in parameters.values())]
    return not set(used) <= set(loops_of(parameters["transport"], factories))


def pytest_collection_finish() -> None:
    """Tell the garbage collector to leave alone what lives as long as the run: modules, and thousands of tests.

    Tests that look for leaks collect twice each: going through all of that every time was a third of the whole run.
    """
    gc.collect()
    gc.freeze()


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
