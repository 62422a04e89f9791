from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from echostream_sim.loop import simulate
from echostream_sim.loss import Chosen
from echostream_sim.network import Network
from echostream_sim.recorder import Event, Recorder
from echostream_sim.timeline import draw_timeline
from plugins.sim.tests.simulated import Pair, network_of_two, play

SVG = "{http://www.w3.org/2000/svg}"


def drawn(recorder: Recorder, **options: object) -> ElementTree.Element:
    text = draw_timeline(recorder.events, **options)  # type: ignore[arg-type]  # a test's own options
    return ElementTree.fromstring(text)


def packets(picture: ElementTree.Element) -> list[ElementTree.Element]:
    return [path for path in picture.iter(f"{SVG}path") if path.get("class") == "packet"]


def captions(picture: ElementTree.Element) -> list[str]:
    return [path.findtext(f"{SVG}title") or "" for path in packets(picture)]


def texts(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def points(path: ElementTree.Element) -> list[tuple[float, float]]:
    line = (path.get("d") or "").split("M")[1]
    found = [tuple(map(float, point.split())) for point in line.split("L")]
    return [(x, y) for x, y in found]


def test_a_packet_is_a_line_from_its_sender_to_its_receiver() -> None:
    network = network_of_two(delay_s=0.5)
    pair = play(network, (0.0, b"abc"), (0.5, b"defg"))
    picture = drawn(pair.network.recorder, width_px=1140)
    assert captions(picture) == [
        "packet 1, 3 bytes, client:49152 to server:7, sent at 0.000000 s, delivered at 0.500000 s",
        "packet 2, 4 bytes, client:49152 to server:7, sent at 0.500000 s, delivered at 1.000000 s",
    ]
    first, second = (points(path) for path in packets(picture))
    # One second is 1,000 pixels wide here.
    assert [x for x, _ in first] == [112.0, 612.0]
    assert [x for x, _ in second] == [612.0, 1112.0]
    client, server = (
        float(text.get("y") or 0) - 4 for text in picture.iter(f"{SVG}text") if text.get("class") == "host"
    )
    assert [y for _, y in first] == [client, server]
    assert "delivered: 2" in texts(picture)


def test_a_packet_waits_along_its_lane_while_it_is_in_the_queue() -> None:
    network = network_of_two(delay_s=1.0, rate_bps=8000.0)
    picture = drawn(play(network, (0.0, bytes(972)), (0.0, bytes(972))).network.recorder, width_px=440 + 700)
    second = points(packets(picture)[1])
    # Sent at 0, out of the queue at 2 s, there at 3 s.
    assert [round(x) for x, _ in second] == [112, 112, 779, 1112]
    assert second[1][1] == second[2][1]
    assert "queue of client → server, at most 2,000 bytes" in texts(picture)


def test_each_fate_has_its_colour_and_its_count() -> None:
    network = network_of_two(loss=Chosen({1}), rate_bps=1e5, queue_bytes=3000, mtu_bytes=1500, delay_s=0.1)
    pair = Pair(network)

    async def main() -> None:
        for size in (1000, 1000, 1000, 1000, 1000, 2000):
            pair.send(bytes(size))
        pair.client.send(b"x", ("server", 99))
        pair.client.send(b"x", ("192.0.2.1", 99))
        await asyncio.sleep(2)
        network.partition("client", "server")
        pair.send(b"x")
        network.heal()
        network.change("client", "server", duplicate=1.0, reorder=1.0)
        pair.send(b"x")
        await asyncio.sleep(1)
        pair.send(b"x")

    simulate(main(), network=network)
    picture = drawn(network.recorder)
    assert [text for text in texts(picture) if ": " in text] == [
        "delivered: 2",
        "delivered copy: 1",
        "held back: 1",
        "lost on the way: 1",
        "queue full: 2",
        "partition: 1",
        "over the MTU: 1",
        "nobody on the port: 1",
        "no such host: 1",
        "under way: 2",
    ]
    assert len({path.get("stroke") for path in packets(picture)}) == 9  # both kinds of nobody share theirs
    crosses = [path for path in packets(picture) if "l6 6m0-6l-6 6" in (path.get("d") or "")]
    assert len(crosses) == 7
    assert [text.text for text in picture.iter(f"{SVG}text") if text.get("class") == "host"] == ["client", "server"]


def test_partitions_are_shaded_from_cut_to_heal() -> None:
    network = network_of_two()
    network.host("third")
    pair = Pair(network)

    async def main() -> None:
        pair.send(b"x")
        await asyncio.sleep(1)
        network.partition("client", "server")
        await asyncio.sleep(2)
        network.heal("server", "client")
        network.partition("server")
        await asyncio.sleep(1)
        pair.send(b"x")

    simulate(main(), network=network)
    picture = drawn(network.recorder, width_px=1140)
    shaded = [rect for rect in picture.iter(f"{SVG}rect") if rect.get("fill") == "url(#cut)"]
    assert [(rect.get("x"), rect.get("width"), rect.findtext(f"{SVG}title")) for rect in shaded] == [
        ("362.0", "500.0", "client ↔ server partitioned, 1 s to 3 s"),
        ("862.0", "250.0", "server is cut off, 3 s to 4 s"),
    ]


def test_names_and_notes_are_escaped() -> None:
    network = Network(1)

    async def main() -> None:
        with network.host("a"):
            network.note("x < y & z")
            network.host("a").bind(7, lambda data, source: None).send(b"x", ("localhost", 7))
        await asyncio.sleep(1)

    simulate(main(), network=network)
    picture = drawn(network.recorder, title="<T&T>")
    assert "x < y & z" in texts(picture)
    assert "<T&T>" in texts(picture)


def test_a_part_of_the_time_can_be_drawn() -> None:
    network = network_of_two(delay_s=0.1, rate_bps=1e5)
    recorder = play(network, *((number * 1.0, bytes(500)) for number in range(100))).network.recorder
    picture = drawn(recorder, start_s=20.0, end_s=22.0)
    assert [caption.split(",")[0] for caption in captions(picture)] == ["packet 21", "packet 22", "packet 23"]
    assert {"20 s", "21 s", "22 s"} < set(texts(picture))


def test_of_too_many_packets_the_lost_ones_are_drawn_first_and_the_others_are_counted() -> None:
    network = network_of_two(loss=Chosen(range(5, 100, 10)))
    picture = drawn(play(network, *((n * 0.01, b"x") for n in range(100))).network.recorder, max_packets=30)
    assert len(packets(picture)) == 30
    assert sum("lost" in caption for caption in captions(picture)) == 10
    assert "70 delivered packets are not drawn" in texts(picture)


def test_a_record_whose_beginning_is_forgotten_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    network = network_of_two(delay_s=0.1, rate_bps=1e5, recorder=Recorder(max_events=7))
    recorder = play(network, *((number * 0.05, bytes(500)) for number in range(50))).network.recorder
    recorder.timeline_svg(tmp_path / "t.svg", title="the end")
    picture = ElementTree.fromstring((tmp_path / "t.svg").read_text(encoding="utf-8"))
    assert packets(picture)
    assert "193 older events are no longer in the record" in texts(picture)


@pytest.mark.parametrize(
    "events",
    [[], [Event(1.0, "sent", 1, "a", 1, "b", 2, 3, "", 0)], [Event(1.0, "note", 0, "a", 0, "a", 0, 0, "alone", 0)]],
    ids=["nothing", "one packet under way", "one note"],
)
def test_hardly_anything_can_be_drawn_too(events: list[Event]) -> None:
    picture = ElementTree.fromstring(draw_timeline(events))
    assert len(packets(picture)) == sum(event.fate == "sent" for event in events)
