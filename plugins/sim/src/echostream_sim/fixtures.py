"""Fixtures for pytest: a simulated network for a test, its seed and a picture of it when the test fails.

Opt in with ``pytest_plugins = ["echostream_sim.fixtures"]`` in the conftest.py of the root folder. Then

- ``sim_network`` is the :class:`Network` of the test. An ``async`` test that asks for it (with pytest-asyncio 1.5 or
  later) runs on a :class:`SimLoop` with that network; so does one with the marker ``sim``. A plain test passes it to
  ``simulate(main(), network=sim_network)``.
- ``sim_loop_factory`` makes such loops, for other runners.
- ``--sim-seed=N`` chooses the seed (default 0), ``--sim-seed=random`` draws one per test.
- A test that fails shows its seed, what became of its packets, and where its timeline was written: below
  ``--sim-timelines=FOLDER``, or else pytest's folder for temporary files.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from echostream_sim.entropy import seeded
from echostream_sim.loop import SimLoop
from echostream_sim.network import Network

__all__ = ["sim_loop_factory", "sim_network"]

_NETWORK = pytest.StashKey[Network]()
_FOLDER = pytest.StashKey[Path]()
_RUNNING = pytest.StashKey[pytest.Item]()

_Factories: TypeAlias = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]

_FIXTURES = {"sim_network", "sim_loop_factory"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("echostream-sim", "simulated networks")
    group.addoption("--sim-seed", metavar="N", default="0", help="seed of simulated networks, or 'random' (default: 0)")
    group.addoption("--sim-timelines", metavar="FOLDER", default=None, help="where failed tests draw their network")


def pytest_configure(config: pytest.Config) -> None:
    """The marker, and a check of the seed before any test runs."""
    config.addinivalue_line("markers", "sim: run this asynchronous test on a simulated network")
    seed = config.getoption("--sim-seed")
    if seed != "random" and not re.fullmatch(r"-?\d+", seed):
        raise pytest.UsageError(f"--sim-seed must be a whole number or 'random', not {seed!r}")


def _network_of(item: pytest.Item) -> Network:
    """The network of a test, made when it is first wanted: by its loop or by its fixture, whichever comes first."""
    network = item.stash.get(_NETWORK, None)
    if network is None:
        wanted = item.config.getoption("--sim-seed")
        network = Network(secrets.randbelow(2**32) if wanted == "random" else int(wanted))
        item.stash[_NETWORK] = network
    return network


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Remember which test runs: a factory of loops is called without being told."""
    item.config.stash[_RUNNING] = item
    try:
        return (yield)
    finally:
        del item.config.stash[_RUNNING]


@pytest.hookimpl(optionalhook=True, wrapper=True, tryfirst=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Generator[None, _Factories | None, _Factories]:
    """Give tests of simulated networks their loop. Others keep theirs: what another plugin says, or the usual one,
    for pytest-asyncio takes no for no answer once somebody has this hook.
    """
    others = yield
    if _FIXTURES.intersection(getattr(item, "fixturenames", ())) or item.get_closest_marker("sim") is not None:
        return {"sim": lambda: SimLoop(_network_of(config.stash[_RUNNING]))}
    return others if others is not None else {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def sim_network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """The simulated network of this test, with the seed of ``--sim-seed``. While the test runs, what its program draws
    for itself follows from the seed too, as in :func:`simulate`.
    """
    wanted = request.config.getoption("--sim-timelines")
    request.node.stash[_FOLDER] = Path(wanted) if wanted else tmp_path_factory.getbasetemp() / "sim-timelines"
    network = _network_of(request.node)
    with seeded(network.seed):
        yield network


@pytest.fixture(autouse=True)
def _marked_sim(request: pytest.FixtureRequest) -> None:
    """A test with the marker has the network too, without asking for it."""
    if request.node.get_closest_marker("sim") is not None:
        request.getfixturevalue("sim_network")


@pytest.fixture
def sim_loop_factory(
    sim_network: Network,
) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes the loop of this test's network, for ``asyncio.Runner(loop_factory=...)``; works once per test."""
    return lambda: SimLoop(sim_network)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure what is needed to see it again."""
    report = yield
    network = item.stash.get(_NETWORK, None)
    if report.failed and network is not None:
        lines = [
            f"seed {network.seed}: run again with --sim-seed={network.seed}",
            f"{network.now:.6f} s of virtual time; {network.recorder.summary()}",
            f"hash {network.recorder.hash()}",
        ]
        folder = item.stash.get(_FOLDER, None)
        if folder is not None and network.recorder.events:
            lines.append(f"timeline: {_draw(network, item.nodeid, folder)}")
        report.sections.append(("simulated network", "\n".join(lines)))
    return report


def _draw(network: Network, name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^\w.-]+", "-", name)[-120:] + ".svg")
    network.recorder.timeline_svg(path, title=f"{name}, seed {network.seed}")
    return path
