from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

CONFTEST = 'pytest_plugins = ["echostream_sim.fixtures"]\n'

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

TESTS = """
import asyncio
import os

import pytest

from echostream_sim.loop import SimLoop, simulate

drawn = []


async def talk(network):
    heard = []
    network.host("server").bind(7, lambda data, source: heard.append(data))
    network.host("client")
    network.link("client", "server", delay_s=60, loss=0.5)
    port = network.host("client").bind(0, lambda data, source: None)
    for _ in range(20):
        port.send(b"x", ("server", 7))
    await asyncio.sleep(3600)
    return heard


async def test_on_the_loop(sim_network):
    assert asyncio.get_running_loop().network is sim_network
    assert len(await talk(sim_network)) < 20
    assert asyncio.get_running_loop().time() == 3600


def test_by_hand(sim_network):
    assert len(simulate(talk(sim_network), network=sim_network)) < 20


def test_with_a_runner(sim_network, sim_loop_factory):
    with asyncio.Runner(loop_factory=sim_loop_factory) as runner:
        assert len(runner.run(talk(sim_network))) < 20


@pytest.mark.sim
async def test_marked():
    await asyncio.sleep(1e6)
    assert isinstance(asyncio.get_running_loop(), SimLoop)
    drawn.append(os.urandom(8))


def test_chance_follows_from_the_seed(sim_network):
    assert os.urandom(8) == drawn[0]


async def test_another_keeps_its_loop_and_its_chance():
    assert not isinstance(asyncio.get_running_loop(), SimLoop)
    assert os.urandom(8) != drawn[0]


async def test_that_fails(sim_network):
    assert len(await talk(sim_network)) == 20
"""


def run(folder: Path, *arguments: str) -> str:
    """What pytest prints, run in a folder of its own."""
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / "test_it.py").write_text(TESTS, encoding="utf-8")
    (folder / "pytest.ini").write_text(INI, encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment = {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "pytest_asyncio.plugin",
        "-p",
        "no:cacheprovider",
        f"--basetemp={folder / 'temp'}",
        *arguments,
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=50)
    return done.stdout + done.stderr


def test_tests_run_on_a_simulated_network_and_a_failure_shows_how_to_see_it_again(tmp_path: Path) -> None:
    output = run(tmp_path, "--sim-seed=7")
    assert "1 failed, 6 passed" in output
    assert "seed 7: run again with --sim-seed=7" in output
    assert re.search(r"3600\.000000 s of virtual time; 20 sent, \d+ delivered, \d+ lost \(loss\)", output)
    hashes = re.findall(r"hash ([0-9a-f]{64})", output)
    [picture] = re.findall(r"timeline: (.*\.svg)", output)
    assert Path(picture) == tmp_path / "temp" / "sim-timelines" / "test_it.py-test_that_fails.svg"
    title = ElementTree.parse(picture).findtext("{http://www.w3.org/2000/svg}title")
    assert title == "test_it.py::test_that_fails, seed 7"
    again = run(tmp_path, "--sim-seed=7", "-k", "fails", "--sim-timelines=pictures")
    assert re.findall(r"hash ([0-9a-f]{64})", again) == hashes
    assert (tmp_path / "pictures").is_dir()
    other = run(tmp_path, "--sim-seed=8", "-k", "fails")
    assert re.findall(r"hash ([0-9a-f]{64})", other) != hashes


def test_a_random_seed_is_drawn_and_shown(tmp_path: Path) -> None:
    output = run(tmp_path, "--sim-seed=random", "-k", "fails")
    seeds = re.findall(r"run again with --sim-seed=(\d+)", output)
    assert len(seeds) == 1
    hashes = re.findall(r"hash ([0-9a-f]{64})", output)
    again = run(tmp_path, f"--sim-seed={seeds[0]}", "-k", "fails")
    assert re.findall(r"hash ([0-9a-f]{64})", again) == hashes


def test_a_seed_that_is_no_number_is_refused(tmp_path: Path) -> None:
    assert "--sim-seed must be a whole number or 'random', not '1.5'" in run(tmp_path, "--sim-seed=1.5")
