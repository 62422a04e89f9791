from __future__ import annotations

import asyncio
import json
from pathlib import Path as File

from echostream_sim.loop import simulate
from echostream_sim.network import Network
from echostream_sim.paths import Path
from echostream_sim.recorder import Event, Recorder
from plugins.sim.tests.simulated import Pair, network_of_two, play


def lossy(seed: int = 1, *, max_events: int | None = None) -> Network:
    return network_of_two(
        seed,
        recorder=Recorder(max_events=max_events),
        delay_s=0.02,
        loss=0.1,
        duplicate=0.1,
        reorder=0.1,
        rate_bps=1e6,
        queue_bytes=3000,
    )


def many(count: int = 300) -> list[tuple[float, bytes]]:
    return [(number * 0.007, bytes(900)) for number in range(count)]


def test_every_step_of_a_packet_is_recorded() -> None:
    network = network_of_two(delay_s=0.5, rate_bps=8000.0)
    play(network, (1.0, bytes(972)))
    source, destination = ("client", 49152), ("server", 7)
    assert network.recorder.events == (
        Event(1.0, "sent", 1, *source, *destination, 972, "", 0),
        Event(1.0, "queued", 1, *source, *destination, 972, "", 1000),
        Event(2.0, "dequeued", 1, *source, *destination, 972, "", 0),
        Event(2.5, "delivered", 1, *source, *destination, 972, "", 0),
    )


def test_partitions_and_notes_are_recorded_at_their_time() -> None:
    network = network_of_two()

    async def main() -> None:
        await asyncio.sleep(1)
        network.partition("client", "server", one_way=True)
        await asyncio.sleep(1)
        with network.hosts["client"]:
            network.note("gives up")
        network.heal("client", "server")
        network.partition("server")

    simulate(main(), network=network)
    assert network.recorder.events == (
        Event(1.0, "partitioned", 0, "client", 0, "server", 0, 0, "one way", 0),
        Event(2.0, "note", 0, "client", 0, "client", 0, 0, "gives up", 0),
        Event(2.0, "healed", 0, "client", 0, "server", 0, 0, "", 0),
        Event(2.0, "partitioned", 0, "server", 0, "*", 0, 0, "", 0),
    )


def test_one_seed_has_one_hash_and_another_seed_has_another() -> None:
    hashes = [play(lossy(), *many()).network.recorder.hash() for _ in range(2)]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 64
    assert play(lossy(2), *many()).network.recorder.hash() != hashes[0]


def test_the_hash_notices_time_and_size_and_ignores_contents_and_notes() -> None:
    def after(at: float, data: bytes, *, note: bool = False) -> str:
        network = network_of_two()
        if note:
            network.note("a remark")
        return play(network, (at, data)).network.recorder.hash()

    usual = after(1.0, b"abc")
    assert after(1.0, b"xyz") == usual
    assert after(1.0, b"abc", note=True) == usual
    assert after(1.0, b"abcd") != usual
    assert after(1.0 + 1e-12, b"abc") != usual


def test_a_ring_keeps_the_newest_events_and_the_counts_of_all() -> None:
    full = play(lossy(), *many()).network.recorder
    ring = play(lossy(max_events=50), *many()).network.recorder
    assert ring.events == full.events[-50:]
    assert ring.forgotten == len(full.events) - 50
    assert (ring.counts, ring.lost, ring.hash()) == (full.counts, full.lost, full.hash())


def test_a_recorder_can_be_off_and_still_counts_and_hashes() -> None:
    off = play(lossy(max_events=0), *many()).network.recorder
    assert off.events == ()
    assert off.hash() == play(lossy(), *many()).network.recorder.hash()


def test_the_counts_of_a_direction_are_its_own() -> None:
    network = network_of_two(loss=1.0, reverse=Path())
    pair = Pair(network)

    async def main() -> None:
        for _ in range(3):
            pair.send(b"x")
        pair.send_back(b"x")
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert network.recorder.of("client", "server") == {"sent": 3, "lost": 3, "lost:loss": 3}
    assert network.recorder.of("server", "client") == {"sent": 1, "delivered": 1}
    assert network.recorder.of("server", "nobody") == {}
    network.recorder.of("client", "server").clear()
    assert network.recorder.of("client", "server").total() == 9


def test_the_summary_says_what_became_of_the_packets() -> None:
    network = network_of_two(delay_s=5.0, duplicate=1.0, mtu_bytes=1000)
    pair = Pair(network)

    async def main() -> None:
        pair.send(bytes(1200))
        pair.send(b"early")
        await asyncio.sleep(6)
        pair.send(b"late")

    simulate(main(), network=network)
    assert network.recorder.summary() == "3 sent, 2 duplicated, 2 delivered, 1 lost (too_large), 2 under way"


def test_the_events_are_written_as_lines_of_json(tmp_path: File) -> None:
    recorder = play(lossy(), *many(20)).network.recorder
    file = tmp_path / "record.jsonl"
    recorder.write_jsonl(file)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [Event(**line) for line in lines] == list(recorder.events)
    assert set(lines[0]) == set(Event._fields)
