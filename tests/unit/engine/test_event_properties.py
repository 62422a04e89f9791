"""Whatever the interleaving of emitting, reading, stalling and pausing: nothing is lost without being counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_core.engine.subscriptions import Subscription
from echostream_core.testing import VirtualLoop
from tests.support.event_link import EventLink

POLICIES = ("block", "drop_oldest", "drop_newest", "conflate")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.integers(1, 12)),
        st.tuples(st.just("read"), st.integers(1, 8)),
        st.tuples(st.just("pass"), st.integers(1, 400)),
        st.tuples(st.sampled_from(("turn", "flows", "room", "stall")), st.just(0)),
    ),
    max_size=60,
)


def run(work: Awaitable[None]) -> None:
    async def inner() -> None:
        await work

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(inner())


class Model:
    """One subscription of each kind on one link, and what has become of every event."""

    def __init__(self, policy: str, max_queue: int, held_bytes: int, key: str | None) -> None:
        self.link = EventLink(room=300, event_queue_bytes=held_bytes)
        self.policy = policy
        self.key = key
        self.max_queue = max_queue
        self.held_bytes = held_bytes
        self.emitted: dict[str, list[int]] = {"a.x": [], "a.y": []}
        self.wide = self.subscribe("a.*")
        self.narrow = self.subscribe("a.x")
        self.received: dict[str, list[int]] = {"wide": [], "narrow": []}

    def subscribe(self, pattern: str) -> Subscription:
        keywords = {"key": self.key} if self.policy == "conflate" else {}
        return self.link.subscribe(pattern, overflow=self.policy, max_queue=self.max_queue, **keywords)

    def emit(self, count: int) -> None:
        for _ in range(count):
            total = sum(map(len, self.emitted.values()))
            topic = "a.x" if total % 3 else "a.y"
            self.emitted[topic].append(total)
            event = self.link.emit(topic, {"id": total % 4, "n": total})
            if event.full:
                return  # an emitter waits here

    def read(self, count: int) -> None:
        for name, subscription in (("wide", self.wide), ("narrow", self.narrow)):
            for _ in range(min(count, len(subscription._queue))):
                self.received[name].append(subscription._pop().payload["n"])

    async def step(self, what: str, count: int) -> None:
        match what:
            case "emit":
                self.emit(count)
            case "read":
                self.read(count)
            case "pass":
                self.link.pass_bytes(count)
            case "turn":
                await self.link.turn()
            case "flows":
                self.link.pass_flows()
            case "room":
                self.link.make_room()
            case "stall":
                self.link.full = self.link.sender._blocked = self.link.sender._slow = True
        self.check_bounds()

    def check_bounds(self) -> None:
        sender = self.link.sender
        held = [one.queue for one in sender.interests.values()]
        assert sender.held == sum(map(len, held))
        if self.policy == "conflate":
            frames = [item.frame for queue in held for item in queue._items.values()]  # type: ignore[union-attr]
        else:
            frames = [item.frame for queue in held for item in queue]  # type: ignore[union-attr]
        assert sender.held_bytes == sum(map(len, frames))
        extra = 1 if self.policy == "block" else 0
        assert all(len(queue) <= max(self.max_queue, 1) + extra for queue in held) or self.policy == "block"
        if self.policy != "block":
            assert sender.held_bytes <= self.held_bytes or sender.held == 1
            assert len(self.wide._queue) <= self.max_queue

    async def finish(self) -> None:
        """Everything moves again until nothing is left."""
        while True:
            before = (self.received["wide"][-1:], self.received["narrow"][-1:], self.link.sender.held)
            await self.link.run_dry()
            self.read(1 << 20)
            await self.link.run_dry()
            self.check_bounds()
            if before == (self.received["wide"][-1:], self.received["narrow"][-1:], self.link.sender.held):
                break
        assert self.link.sender.held == self.link.sender.held_bytes == 0
        assert not self.link.violations

    def check(self) -> None:
        everything = sorted(self.emitted["a.x"] + self.emitted["a.y"])
        for name, wanted, subscription in (
            ("wide", everything, self.wide),
            ("narrow", self.emitted["a.x"], self.narrow),
        ):
            received = self.received[name]
            assert len(received) + sum(subscription.dropped.values()) == len(wanted), (name, subscription.dropped)
            assert set(subscription.dropped) <= {self.policy}
            assert set(received) <= set(wanted)
            assert len(set(received)) == len(received), "once"
            if self.policy == "block":
                assert received == wanted
            elif self.policy != "conflate":
                assert received == sorted(received), "in order"
            else:
                for key in range(4):
                    same = [number for number in received if number % 4 == key]
                    if self.key == "id" and name == "narrow":
                        assert same == sorted(same), "in order for each key"
        if self.policy in ("drop_oldest", "conflate") and everything:
            assert everything[-1] in self.received["wide"], "the newest is kept"


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=120, deadline=None, derandomize=True)
@given(plan=steps, max_queue=st.integers(1, 6), held_bytes=st.sampled_from((60, 200, 1 << 20)), keyed=st.booleans())
def test_received_and_dropped_are_what_was_emitted(
    policy: str, plan: list[tuple[str, int]], max_queue: int, held_bytes: int, keyed: bool
) -> None:
    async def work() -> None:
        model = Model(policy, max_queue, held_bytes, "id" if keyed else None)
        for what, count in plan:
            await model.step(what, count)
        await model.finish()
        model.check()

    run(work())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(plan=steps, max_queue=st.integers(1, 6))
def test_with_disconnect_it_is_all_in_order_up_to_the_end(plan: list[tuple[str, int]], max_queue: int) -> None:
    async def work() -> None:
        model = Model("disconnect", max_queue, 1 << 20, None)
        for what, count in plan:
            await model.step(what, count)
        await model.link.turn()
        ended = bool(model.link.closed)
        if not ended:
            await model.finish()
        else:
            model.read(1 << 20)
        received = model.received["wide"]
        assert received == list(range(len(received)))
        if not ended and not model.link.closed:
            model.check()

    run(work())
