"""Deliveries per second to many subscribers, peers interleaved: ``python -m benchmarks.fanout``."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from pathlib import Path
from shutil import which

from benchmarks.results import describe_machine

PEERS = {
    "echostream": ("uvloop",),
    "nats": ("nats",),
    "websockets": ("websockets",),
    "socketio": ("socketio", "uvicorn", "aiohttp"),
}
BASELINE = "nats"
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Measure and print a table; the status is 1 when a peer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fanout", description=__doc__)
    parser.add_argument("--peers", default=",".join(PEERS), help="some of " + ",".join(PEERS))
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--events", type=int, default=2_000, help="in one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    failed = False
    for number in range(1, arguments.rounds + 1):
        for peer in arguments.peers.split(","):
            lacking = missing(peer)
            if lacking:
                print(f"{peer}: left out, {lacking}", file=sys.stderr)
                continue
            try:
                rate, cost = measure(peer, arguments.connections, arguments.events)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{peer}: failed: {error}", file=sys.stderr)
                failed = True
                continue
            rates.setdefault(peer, []).append(rate)
            costs.setdefault(peer, []).append(cost)
            print(f"round {number}/{arguments.rounds}  {peer:<12} {rate:>12,.0f} deliveries/s", file=sys.stderr)
    machine = describe_machine()
    print(f"{machine['python']}, {machine['kernel']}, {machine['processor']}, {machine['cores_usable']} cores")
    print(f"{arguments.events} events of 64 bytes to {arguments.connections} connections, {arguments.rounds} rounds")
    base = statistics.median(rates[BASELINE]) if BASELINE in rates else None
    print(
        f"  {'peer':<12} {'median':>10} {'lowest':>10} {'highest':>10}  {'x ' + BASELINE:>7}  subscriber cpu us/event"
    )
    for peer, values in rates.items():
        median = statistics.median(values)
        ratio = f"{median / base:7.2f}" if base else "      -"
        cost = statistics.median(costs[peer])
        print(f"  {peer:<12} {median:>10,.0f} {min(values):>10,.0f} {max(values):>10,.0f}  {ratio}  {cost:.2f}")
    return 1 if failed else 0


def missing(peer: str) -> str:
    """What the peer lacks on this machine; empty when nothing."""
    for module in PEERS[peer]:
        if importlib.util.find_spec(module) is None:
            return f"the library {module} is not installed (benchmarks/requirements.txt)"
    if peer == "nats" and which("nats-server") is None:
        return "nats-server is not installed (a package of that name)"
    return ""


def measure(peer: str, connections: int, events: int) -> tuple[float, float]:
    """Deliveries per second, and the subscribers' CPU microseconds for each."""
    publisher = start(peer, "publisher")
    subscribers = None
    try:
        address = answer(publisher)
        subscribers = start(peer, "subscribers", address, str(connections))
        answer(subscribers)
        run(publisher, subscribers, max(events // 10, 1))  # caches, interned names, grown buffers
        begin = time.perf_counter()
        cpu = run(publisher, subscribers, events)
        seconds = time.perf_counter() - begin
        return events * connections / seconds, cpu / (events * connections) * 1e6
    finally:
        for process in (subscribers, publisher):
            if process is not None:
                end(process)


def run(publisher: subprocess.Popen[str], subscribers: subprocess.Popen[str], events: int) -> float:
    """Publish ``events`` and wait until all are received; the subscribers' CPU seconds."""
    tell(subscribers, events)
    answer(subscribers)
    tell(publisher, events)
    return float(answer(subscribers))


def start(*arguments: str) -> subprocess.Popen[str]:
    """One end, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fanout.ends", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answer(process: subprocess.Popen[str]) -> str:
    """The next line of a process; RuntimeError with its last words when it has ended."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        assert process.stderr is not None
        words = process.stderr.read().strip().splitlines()
        raise RuntimeError(words[-1] if words else "it ended without a word")
    return line


def tell(process: subprocess.Popen[str], count: int) -> None:
    """Write a count to a process."""
    assert process.stdin is not None
    process.stdin.write(f"{count}\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> None:
    """End a process: it ends with its input."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


if __name__ == "__main__":
    sys.exit(main())
