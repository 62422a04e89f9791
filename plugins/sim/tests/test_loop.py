from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from echostream_core.testing import Deadlock
from echostream_sim.loop import SimLoop, simulate
from echostream_sim.network import Network
from plugins.sim.tests.simulated import running_loop


def test_simulate_returns_the_result_and_closes_the_loop() -> None:
    loops = []

    async def main() -> int:
        loops.append(running_loop())
        await asyncio.sleep(3600)
        return 42

    assert simulate(main()) == 42
    assert loops[0].is_closed()
    assert loops[0].time() == 3600.0


def test_simulate_makes_a_network_of_its_seed_or_takes_one() -> None:
    async def main() -> Network:
        return running_loop().network

    network = Network(5)
    assert simulate(main(), seed=7).seed == 7
    assert simulate(main()).seed == 0
    assert simulate(main(), network=network) is network
    with pytest.raises(ValueError, match="seed = 6, but the network was made with seed 5"):
        simulate(main(), seed=6, network=network)


def test_an_error_of_the_program_is_raised() -> None:
    async def main() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError, match="nothing there"):
        simulate(main())


def test_a_program_that_waits_for_nothing_is_a_deadlock_and_not_a_hang() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        simulate(main())


def test_a_program_that_only_keeps_itself_alive_is_stopped_at_the_limit() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError, match="limit_s"):
        simulate(main(), limit_s=86_400)


def test_timers_of_one_moment_fire_in_the_order_in_which_they_were_set() -> None:
    order: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(100):
            loop.call_at(1.0, order.append, number)
        for number in range(0, 100, 3):
            loop.call_at(0.5, order.append, -number)
        await asyncio.sleep(2)

    simulate(main())
    assert order == [-number for number in range(0, 100, 3)] + list(range(100))


def test_a_timer_fires_at_its_time_to_the_bit_and_never_before() -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[float, float]] = []

        def note(when: float) -> None:
            fired.append((when, loop.time()))

        for number in range(1, 2000):
            # Closer together than asyncio's idea of the clock's resolution.
            when = number * 0.1 + number % 7 * 1e-10
            loop.call_at(when, note, when)
        await asyncio.sleep(500)
        return fired

    fired = simulate(main())
    assert len(fired) == 1999
    assert all(when == time for when, time in fired)


def test_a_jump_lands_on_the_timer_to_the_bit() -> None:
    async def main(whens: list[float]) -> list[float]:
        loop = asyncio.get_running_loop()
        fired: list[float] = []
        for when in whens:
            loop.call_at(when, lambda: fired.append(loop.time()))
        await asyncio.sleep(2 * whens[-1])
        return fired

    # Jumps of many sizes: adding the difference to the time misses some of these by a rounding.
    draw = random.Random(1)
    for _ in range(20):
        whens = [0.001]
        while whens[-1] < 1e5:
            whens.append(whens[-1] * draw.uniform(2.0, 10.0))
        assert simulate(main(whens)) == whens


def test_time_goes_on_when_it_has_run_for_years() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        # A nanosecond is less than the clock's smallest step by then.
        await asyncio.sleep(40_000_000.3)
        await asyncio.sleep(0.001)
        return loop.time()

    assert simulate(main(), limit_s=1e9) == pytest.approx(40_000_000.301, abs=1e-7)


def test_a_cancelled_timer_does_not_stop_the_clock() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        for number in range(500):
            loop.call_later(1 + number, print).cancel()
        await asyncio.sleep(0.5)
        return loop.time()

    assert simulate(main()) == 0.5


def test_sets_of_tasks_are_walked_in_the_order_in_which_they_were_made() -> None:
    async def main() -> list[str]:
        cancelled: list[str] = []

        async def stay(name: str) -> None:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                cancelled.append(name)
                raise

        names = [f"t{number}" for number in range(7)]
        tasks = {asyncio.create_task(stay(name), name=name) for name in names}
        await asyncio.sleep(1)
        order = [task.get_name() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert cancelled == order
        return order

    first = simulate(main())
    assert len(set(first)) == 7
    # Addresses would give another order in most of these runs.
    kept = []
    for number in range(5):
        kept.append(bytearray(1000 * number))
        assert simulate(main()) == first


def test_a_function_for_a_thread_runs_at_once_on_the_loops_own() -> None:
    async def main() -> tuple[float, int]:
        thread = await asyncio.to_thread(threading.get_ident)
        assert thread == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        loop = asyncio.get_running_loop()
        return loop.time(), await loop.run_in_executor(None, int, "7")

    assert simulate(main()) == (0.0, 7)


async def add_reader(loop: SimLoop, sock: socket.socket) -> None:
    loop.add_reader(sock, print)


async def add_writer(loop: SimLoop, sock: socket.socket) -> None:
    loop.add_writer(sock, print)


async def create_connection(loop: SimLoop, sock: socket.socket) -> None:
    await loop.create_connection(asyncio.Protocol, "server", 80)


async def create_server(loop: SimLoop, sock: socket.socket) -> None:
    await loop.create_server(asyncio.Protocol, "server", 80)


async def open_connection(loop: SimLoop, sock: socket.socket) -> None:
    await asyncio.open_connection("server", 80)


async def receive(loop: SimLoop, sock: socket.socket) -> None:
    await loop.sock_recv(sock, 1)


async def real_datagrams(loop: SimLoop, sock: socket.socket) -> None:
    await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)


async def start_a_process(loop: SimLoop, sock: socket.socket) -> None:
    await asyncio.create_subprocess_exec("true")


REAL: list[Callable[[SimLoop, socket.socket], Coroutine[Any, Any, None]]] = [
    add_reader,
    add_writer,
    create_connection,
    create_server,
    open_connection,
    receive,
    real_datagrams,
    start_a_process,
]


@pytest.mark.parametrize("real", REAL, ids=lambda real: real.__name__)
def test_nothing_real_gets_in(real: Callable[[SimLoop, socket.socket], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            pytest.raises(NotImplementedError, match="no real sockets, pipes or processes"),
        ):
            await real(running_loop(), sock)

    simulate(main())


def test_callbacks_from_other_threads_still_arrive() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(future.set_result, 3))
        thread.start()
        thread.join()
        return int(await future)

    assert simulate(main()) == 3
