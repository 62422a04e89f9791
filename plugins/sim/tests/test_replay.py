from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

from echostream_core import RpcClient, RpcServer, handler
from echostream_sim.loop import simulate
from echostream_sim.network import Network
from plugins.sim.tests.simulated import running_loop

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import asyncio
import sys

from echostream_sim.delay import Exponential
from echostream_sim.loop import simulate
from echostream_sim.loss import GilbertElliott
from echostream_sim.network import Network
from echostream_sim.clocks import Clock


async def main():
    network = asyncio.get_running_loop().network
    names = {"ant", "bee", "cat", "dog"}  # walked in another order in every process
    for name in sorted(names):
        network.host(name, clock=Clock(wander_ppm=1.0))
    for name in names:
        for other in names - {name}:
            network.link(
                name, other, delay_s=0.01, jitter=Exponential(0.005), loss=GilbertElliott(0.02, 0.3),
                rate_bps=2e6, queue_bytes=8000, reorder=0.02, duplicate=0.02,
            )
    ports = {}
    for name in sorted(names):
        def answer(data, source, name=name):
            if len(data) > 20:
                ports[name].send(data[: len(data) // 2], source)
        ports[name] = network.hosts[name].bind(7, answer)

    async def chatter(name):
        choose = network.stream("chatter", name)
        for _ in range(150):
            await asyncio.sleep(round(choose.expovariate(50), 3))
            ports[name].send(bytes(choose.randrange(1400)), (choose.choice(sorted(names)), 7))

    # Both the tasks of a group and a set that is waited for are walked in the order of their hashes.
    tasks = {asyncio.create_task(chatter(name)) for name in sorted(names)}
    done, _ = await asyncio.wait(tasks)
    for task in done:
        ports["ant"].send(bytes(sorted(task.get_name().encode())), ("bee", 7))
    network.partition("ant", "bee")
    forever = [asyncio.create_task(chatter(name)) for name in sorted(names)]
    await asyncio.sleep(0.5)


network = Network(int(sys.argv[1]))
simulate(main(), network=network)
print(network.recorder.hash(), network.recorder.summary(), [h.clock.time_ns() for h in network.hosts.values()])
"""


def run(seed: int, hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(seed)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_seed_replays_bit_by_bit_in_another_process_with_other_hashes() -> None:
    outputs = {run(7, hash_seed) for hash_seed in ("1", "4242")}
    assert len(outputs) == 1, outputs
    assert "lost (loss)" in outputs.pop()


def drawn_in_a_simulation(seed: int, *, seed_entropy: bool = True) -> tuple[bytes, float]:
    async def main() -> tuple[bytes, float]:
        return os.urandom(8), random.Random().random()

    return simulate(main(), seed=seed, seed_entropy=seed_entropy)


def test_what_a_program_draws_for_itself_follows_from_the_seed_while_it_is_simulated() -> None:
    first = drawn_in_a_simulation(7)
    assert drawn_in_a_simulation(7) == first
    assert drawn_in_a_simulation(8) != first
    assert drawn_in_a_simulation(7, seed_entropy=False) != first
    # And is real again afterwards.
    assert os.urandom(8) != first[0]


@handler("echo")
async def echo(text: str) -> str:
    return text


async def calls(count: int, *, every_s: float) -> float:
    """Calls over a bad link, one after the other; when the last one was answered."""
    network = running_loop().network
    network.host("client")
    with network.host("server"):
        server = RpcServer("sim://server:4433", echo)
        await server.start()
    network.link("client", "server", delay_s=0.02, jitter=0.002, loss=0.1, rate_bps=1e6)
    with network.host("client"):
        async with RpcClient.connect("sim://server:4433") as client:
            for number in range(count):
                assert await client.request("echo", str(number)) == str(number)
                await asyncio.sleep(every_s)
    await server.close()
    return running_loop().time()


def test_a_program_on_the_kernel_replays() -> None:
    def played(seed: int) -> tuple[float, str]:
        network = Network(seed)
        return simulate(calls(50, every_s=0.0), network=network), network.recorder.hash()

    first = played(7)
    assert played(7) == first
    assert played(8) != first


def test_an_hour_with_a_call_every_ten_seconds_is_simulated_to_its_end() -> None:
    # In well under a second of ours: nothing here waits.
    assert 3600 < simulate(calls(360, every_s=10.0), seed=7) < 3700
