from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_sim.delay import Exponential, LogNormal, Uniform
from echostream_sim.loop import simulate
from echostream_sim.loss import GilbertElliott, GilbertElliottTime
from echostream_sim.mahimahi import MahimahiTrace
from echostream_sim.network import Network
from echostream_sim.paths import Path, PathSettings
from echostream_sim.recorder import Event
from plugins.sim.tests.simulated import LISTENING, Pair

probabilities = st.sampled_from([0.0, 0.05, 0.3, 1.0])
sizes = st.sampled_from([0, 1, 400, 1272, 1472, 1473, 3000])
losses = st.one_of(
    probabilities,
    st.builds(GilbertElliott, probabilities, probabilities, probabilities, probabilities),
    st.builds(GilbertElliottTime, st.floats(0.01, 1.0), st.floats(0.01, 1.0)),
)
jitters = st.one_of(
    st.just(0.0),
    st.builds(Exponential, st.floats(0.001, 0.1)),
    st.builds(LogNormal, st.floats(0.001, 0.1), st.floats(0.0, 1.5)),
    st.builds(Uniform, st.just(0.0), st.floats(0.0, 0.2)),
)
rates: st.SearchStrategy[dict[str, object]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"rate_bps": st.floats(1e4, 1e8)}),
    st.fixed_dictionaries(
        {"trace": st.lists(st.integers(1, 200), min_size=1, max_size=20).map(sorted).map(MahimahiTrace)}
    ),
)


@st.composite
def paths(draw: st.DrawFn) -> PathSettings:
    settings: PathSettings = {
        "delay_s": draw(st.floats(0.0, 0.5)),
        "jitter": draw(jitters),
        "loss": draw(losses),
        "reorder": draw(probabilities),
        "reorder_delay_s": draw(st.floats(0.0, 0.1)),
        "duplicate": draw(probabilities),
        "fifo": draw(st.booleans()),
        "queue_bytes": draw(st.sampled_from([None, 1500, 6000])),
        "queue_packets": draw(st.sampled_from([None, 1, 4])),
    }
    settings.update(draw(rates))  # type: ignore[typeddict-item]  # the strategies above give these keys
    return settings


Step = tuple[float, str, int]
steps = st.lists(
    st.tuples(
        st.floats(0.0, 3.0),
        st.sampled_from(["send", "send", "send", "send", "send back", "cut", "heal", "change", "close"]),
        sizes,
    ),
    max_size=40,
)


def played(seed: int, there: PathSettings, back: PathSettings, change: PathSettings, plan: list[Step]) -> Network:
    """Send packets, and cut, heal, change and close meanwhile."""
    network = Network(seed)
    network.host("client")
    network.host("server")
    network.link("client", "server", reverse=Path(**back), **there)
    pair = Pair(network)
    actions = {
        "send": lambda size: pair.send(bytes(size)),
        "send back": lambda size: None if pair.server.closed else pair.send_back(bytes(size)),
        "cut": lambda size: network.partition("client", "server"),
        "heal": lambda size: network.heal("client", "server"),
        "change": lambda size: network.link("client", "server", **change),
        "close": lambda size: pair.server.close(),
    }

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for at, action, size in plan:
            loop.call_at(at, actions[action], size)
        await asyncio.sleep(4000)

    simulate(main(), network=network)
    return network


def journeys(network: Network) -> dict[int, list[Event]]:
    """The events of each packet."""
    found: dict[int, list[Event]] = {}
    for event in network.recorder.events:
        if event.packet:
            found.setdefault(event.packet, []).append(event)
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), paths(), paths(), paths(), steps)
def test_no_packet_is_lost_without_a_recorded_reason(
    seed: int, there: PathSettings, back: PathSettings, change: PathSettings, plan: list[Step]
) -> None:
    network = played(seed, there, back, change, plan)
    for events in journeys(network).values():
        assert events[0].fate in ("sent", "duplicated")
        assert [event.fate for event in events[1:-1]] in (
            [],
            ["queued"],
            ["held"],
            ["queued", "dequeued"],
            ["queued", "dequeued", "held"],
        )
        last = events[-1]
        assert last.fate in ("delivered", "lost")
        assert bool(last.reason) == (last.fate == "lost")
        # Once in a queue, a packet leaves it.
        fates = Counter(event.fate for event in events)
        assert fates["queued"] == fates["dequeued"]
    counts = network.recorder.counts
    assert counts["sent"] + counts["duplicated"] == counts["delivered"] + counts["lost"]
    assert counts["lost"] == network.recorder.lost.total()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), paths(), steps)
def test_no_packet_is_delivered_before_its_delay_and_its_transmission(
    seed: int, path: PathSettings, plan: list[Step]
) -> None:
    network = played(seed, path, path, path, [step for step in plan if step[1] != "change"])
    rate_bps = path.get("rate_bps")
    for events in journeys(network).values():
        begun, ended = events[0], events[-1]
        if ended.fate != "delivered":
            continue
        least_s = path["delay_s"]
        if rate_bps is not None:
            least_s += (begun.size_bytes + 28) * 8 / rate_bps
        if any(event.fate == "held" for event in events):
            least_s += path["reorder_delay_s"]
        assert ended.time_s - begun.time_s >= least_s - 1e-9


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), paths(), steps)
def test_a_fifo_path_delivers_in_order_all_that_it_did_not_hold_back(
    seed: int, path: PathSettings, plan: list[Step]
) -> None:
    network = played(seed, {**path, "fifo": True}, {}, {}, [step for step in plan if step[1] != "change"])
    arrived = [
        events[-1]
        for events in journeys(network).values()
        if events[0].destination == LISTENING[0]
        and events[-1].fate == "delivered"
        and all(event.fate != "held" for event in events)
    ]
    # The record is in the order of arrival; the numbers are in the order of sending.
    order = {id(event): place for place, event in enumerate(network.recorder.events)}
    assert all(order[id(one)] < order[id(other)] for one, other in pairwise(arrived))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), paths(), paths(), steps)
def test_a_seed_always_replays(seed: int, path: PathSettings, change: PathSettings, plan: list[Step]) -> None:
    first = played(seed, path, path, change, plan).recorder
    second = played(seed, path, path, change, plan).recorder
    assert first.events == second.events
    assert first.hash() == second.hash()
    assert [event.time_s for event in first.events] == sorted(event.time_s for event in first.events)
