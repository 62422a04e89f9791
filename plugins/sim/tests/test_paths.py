from __future__ import annotations

import asyncio
import random
from dataclasses import fields

import pytest

from echostream_core.errors import ConfigError
from echostream_sim.delay import Exponential, Normal, Uniform
from echostream_sim.loop import simulate
from echostream_sim.loss import Chosen, LossProcess
from echostream_sim.mahimahi import MahimahiTrace
from echostream_sim.network import Network
from echostream_sim.paths import Path, PathSettings
from plugins.sim.tests.simulated import Heard, Pair, network_of_two, play


def numbered(count: int, *, every_s: float = 0.001, size: int = 100) -> list[tuple[float, bytes]]:
    return [(number * every_s, number.to_bytes(4, "big") + bytes(size - 4)) for number in range(count)]


def numbers_of(pair: Pair) -> list[int]:
    return [int.from_bytes(data[:4], "big") for _, data in pair.heard]


def test_a_packet_takes_the_delay_to_the_bit() -> None:
    pair = play(network_of_two(delay_s=0.02), (0.0, b"a"), (0.3, b"b"))
    assert pair.heard == [Heard(0.02, b"a"), Heard(0.3 + 0.02, b"b")]


def test_a_path_without_settings_delivers_at_once_and_in_order() -> None:
    pair = play(network_of_two(), (1.0, b"a"), (1.0, b"b"))
    assert pair.heard == [Heard(1.0, b"a"), Heard(1.0, b"b")]


def test_the_way_back_can_be_another() -> None:
    network = network_of_two(delay_s=0.01, reverse=Path(delay_s=0.5))
    pair = Pair(network)

    async def main() -> None:
        pair.send(b"there")
        pair.send_back(b"back")
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert pair.heard == [Heard(0.01, b"there")]
    assert pair.heard_back == [Heard(0.5, b"back")]


def test_jitter_reorders_nothing_by_default() -> None:
    pair = play(network_of_two(delay_s=0.02, jitter=Uniform(0.0, 0.05)), *numbered(500))
    assert numbers_of(pair) == list(range(500))
    assert pair.times == sorted(pair.times)


def test_jitter_reorders_where_that_is_asked_for() -> None:
    pair = play(network_of_two(delay_s=0.02, jitter=Uniform(0.0, 0.05), fifo=False), *numbered(500))
    assert sorted(numbers_of(pair)) == list(range(500))
    assert numbers_of(pair) != list(range(500))
    # Each one has its own delay: nobody waited for another.
    assert all(
        0.02 <= at - number * 0.001 < 0.07 + 1e-9 for (at, _), number in zip(pair.heard, numbers_of(pair), strict=True)
    )


def test_a_number_as_jitter_is_a_normal_deviation() -> None:
    by_number = play(network_of_two(delay_s=0.02, jitter=0.002), *numbered(50))
    by_model = play(network_of_two(delay_s=0.02, jitter=Normal(0.002)), *numbered(50))
    assert by_number.heard == by_model.heard
    assert len({round(at - number * 0.001, 9) for number, (at, _) in enumerate(by_number.heard)}) > 40


def test_jitter_never_delivers_before_the_packet_was_sent() -> None:
    pair = play(network_of_two(delay_s=0.001, jitter=0.1, fifo=False), *numbered(300, every_s=1.0))
    assert [event.time_s for event in pair.network.recorder.events] == sorted(
        event.time_s for event in pair.network.recorder.events
    )
    assert all(at >= number for (at, _), number in zip(pair.heard, numbers_of(pair), strict=True))
    assert sum(at == number for (at, _), number in zip(pair.heard, numbers_of(pair), strict=True)) > 100


def test_reordered_packets_are_held_back_and_overtaken() -> None:
    network = network_of_two(delay_s=0.02, reorder=0.1, reorder_delay_s=0.0055)
    pair = play(network, *numbered(1000))
    late = [number for (at, _), number in zip(pair.heard, numbers_of(pair), strict=True) if at > number * 0.001 + 0.021]
    assert network.recorder.counts["held"] == len(late)
    assert 60 < len(late) < 140
    arrived = numbers_of(pair)
    for number in late[:-10]:
        # Held for 5.5 ms at one packet per ms: the next five came before, unless they were held too.
        before = arrived[: arrived.index(number)]
        overtook = [later for later in before if later > number]
        assert overtook == [later for later in range(number + 1, number + 6) if later not in late]


def test_duplicates_arrive_twice_and_are_recorded_as_copies() -> None:
    network = network_of_two(delay_s=0.02, duplicate=0.2)
    pair = play(network, *numbered(1000))
    copies = network.recorder.counts["duplicated"]
    assert 150 < copies < 250
    assert len(pair.heard) == 1000 + copies
    assert network.recorder.counts["sent"] == 1000


def test_the_chosen_packet_is_lost_and_no_other() -> None:
    network = network_of_two(loss=Chosen({2}))
    pair = play(network, *numbered(5))
    assert numbers_of(pair) == [0, 1, 3, 4]
    assert network.recorder.lost == {"loss": 1}


def test_a_model_of_ones_own_will_do() -> None:
    class EveryOther:
        def process(self, stream: random.Random) -> LossProcess:
            answers = iter(range(10**9))
            return lambda _now: next(answers) % 2 == 1

    assert numbers_of(play(network_of_two(loss=EveryOther()), *numbered(6))) == [0, 2, 4]


def test_a_packet_over_the_mtu_vanishes_and_one_of_its_size_does_not() -> None:
    network = network_of_two(mtu_bytes=1300)
    fits = network.path("client", "server").max_payload_bytes
    assert fits == 1272
    pair = play(network, (0.0, bytes(fits)), (0.0, bytes(fits + 1)))
    assert [len(data) for _, data in pair.heard] == [fits]
    assert network.recorder.lost == {"too_large": 1}


def test_the_rate_is_exact_on_the_virtual_clock() -> None:
    # 972 bytes and 28 of headers at 8 kbit/s: one second each.
    network = network_of_two(rate_bps=8000.0, delay_s=0.25, queue_bytes=None)
    pair = play(network, *((0.0, bytes(972)) for _ in range(100)))
    assert pair.times == [number + 1 + 0.25 for number in range(100)]


def test_a_tail_drop_keeps_the_queue_at_its_bound_from_both_sides() -> None:
    network = network_of_two(rate_bps=8000.0, queue_bytes=5000)
    pair = play(network, *((0.0, bytes(972)) for _ in range(9)), (1.0, bytes(972)), (1.0, bytes(972)))
    # Five fill the queue to the byte; at 1.0 s one has just left, so one more fits and not two.
    assert pair.times == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert network.recorder.lost == {"queue": 5}
    assert max(event.queue_bytes for event in network.recorder.events) == 5000


def test_opportunities_of_a_trace_are_used_exactly() -> None:
    trace = MahimahiTrace([7, 7, 20, 33])
    network = network_of_two(trace=trace, queue_bytes=None)
    pair = play(network, *((0.0, bytes(1472)) for _ in range(40)))
    assert pair.times == [trace.time_s(number) for number in range(40)]


def test_a_faster_link_begins_in_the_middle_of_a_packet() -> None:
    network = network_of_two(rate_bps=8000.0)
    pair = Pair(network)

    async def main() -> None:
        for _ in range(3):
            pair.send(bytes(972))
        await asyncio.sleep(1.5)
        network.change("client", "server", rate_bps=16000.0)
        await asyncio.sleep(10)

    simulate(main(), network=network)
    assert pair.times == [1.0, 1.75, 2.25]


def test_a_queue_survives_a_change_from_rate_to_trace_and_to_no_limit() -> None:
    network = network_of_two(rate_bps=8000.0)
    pair = Pair(network)

    async def main() -> None:
        for _ in range(5):
            pair.send(bytes(972))
        await asyncio.sleep(1.5)
        network.change("client", "server", trace=MahimahiTrace([250]))
        assert network.path("client", "server").rate_bps is None
        assert network.queue_bytes("client", "server") == 4000
        await asyncio.sleep(0.3)
        network.change("client", "server", trace=None)
        assert network.queue_bytes("client", "server") == 0
        await asyncio.sleep(1)

    simulate(main(), network=network)
    # One opportunity of 1,500 bytes at 1.75 s; everything else is let go at 1.8 s.
    assert pair.times == [1.0, 1.75, 1.8, 1.8, 1.8]


def test_a_smaller_queue_drops_what_comes_and_not_what_it_holds() -> None:
    network = network_of_two(rate_bps=8000.0)
    pair = Pair(network)

    async def main() -> None:
        for _ in range(4):
            pair.send(bytes(972))
        network.change("client", "server", queue_bytes=2000)
        pair.send(bytes(972))
        await asyncio.sleep(20)

    simulate(main(), network=network)
    assert pair.times == [1.0, 2.0, 3.0, 4.0]
    assert network.recorder.lost == {"queue": 1}


def test_a_changed_loss_counts_from_now_on() -> None:
    network = network_of_two()
    pair = Pair(network)

    async def main() -> None:
        pair.send(b"before")
        network.change("client", "server", loss=1.0)
        pair.send(b"after")
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert [data for _, data in pair.heard] == [b"before"]


def test_more_jitter_loses_the_same_packets() -> None:
    calm = play(network_of_two(loss=0.2), *numbered(200))
    wild = play(network_of_two(loss=0.2, jitter=Exponential(0.01), reorder=0.1, duplicate=0.0), *numbered(200))
    assert set(numbers_of(calm)) == set(numbers_of(wild))
    assert len(calm.heard) < 200


def test_another_link_changes_nothing_for_this_one() -> None:
    def losses(*, others: bool) -> list[int]:
        network = network_of_two(loss=0.3)
        if others:
            network.host("third")
            network.link("third", "client", loss=0.5, delay_s=1.0)
            port = network.hosts["third"].bind(0, lambda data, source: None)
            for _ in range(50):
                port.send(b"x", ("client", 7))
        return numbers_of(play(network, *numbered(100)))

    assert losses(others=True) == losses(others=False)


def test_the_two_directions_of_a_link_draw_apart() -> None:
    network = network_of_two(loss=0.5)
    pair = Pair(network)

    async def main() -> None:
        for number in range(100):
            pair.send(bytes([number]))
            pair.send_back(bytes([number]))
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert [data for _, data in pair.heard] != [data for _, data in pair.heard_back]


def test_a_host_that_talks_to_itself_loses_nothing() -> None:
    network = Network(1, default=Path(loss=1.0, delay_s=1.0))
    heard = []
    port = network.host("alone").bind(7, lambda data, source: heard.append((network.now, data, source)))

    async def main() -> None:
        port.send(b"a" * 9000, ("localhost", 7))
        assert heard == []  # never inside the call
        await asyncio.sleep(0)
        await asyncio.sleep(0.1)

    simulate(main(), network=network)
    assert heard == [(0.0, b"a" * 9000, ("alone", 7))]


def test_the_default_path_joins_those_whom_no_link_names() -> None:
    network = Network(1, default=Path(delay_s=0.1))
    network.host("client")
    network.host("server")
    pair = Pair(network)

    async def main() -> None:
        pair.send(b"a")
        await asyncio.sleep(1)
        network.default = Path(delay_s=0.3)
        pair.send(b"b")
        await asyncio.sleep(1)

    simulate(main(), network=network)
    assert pair.heard == [Heard(0.1, b"a"), Heard(1.3, b"b")]


WRONG: list[tuple[str, PathSettings]] = [
    ("delay_s", {"delay_s": -0.1}),
    ("jitter", {"jitter": float("nan")}),
    ("loss", {"loss": 1.5}),
    ("rate_bps", {"rate_bps": 0.0}),
    ("trace", {"rate_bps": 1e6, "trace": MahimahiTrace([1])}),
    ("queue_bytes", {"rate_bps": 1e6, "queue_bytes": 1499}),
    ("queue_packets", {"queue_packets": 0}),
    ("reorder", {"reorder": -1.0}),
    ("reorder_delay_s", {"reorder_delay_s": float("inf")}),
    ("duplicate", {"duplicate": 2.0}),
    ("mtu_bytes", {"mtu_bytes": 28}),
    ("overhead_bytes", {"overhead_bytes": -1}),
]


@pytest.mark.parametrize(("field", "settings"), WRONG, ids=[field for field, _ in WRONG])
def test_a_wrong_setting_is_named(field: str, settings: PathSettings) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        Path(**settings)
    assert caught.value.key == field


def test_links_take_every_setting_of_a_path() -> None:
    assert set(PathSettings.__annotations__) == {field.name for field in fields(Path)}
