"""A subscription as its owner sees it: reading, callbacks, what waits, and the end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from echostream_core import ConfigError, Disconnected, EndOfStream, Event, RemoteProtocolError, ResourceBusy
from echostream_core.engine.session_events import make_subscription
from echostream_core.engine.subscriptions import Subscription, conflation_key
from tests.support.waiting import other_tasks, settle

LOOPS = ("virtual",)


class Feed:
    """Stands in the receiver's place: gives events to one subscription, and hears what it asks for."""

    def __init__(self, subscription: Subscription, *, max_bytes: int = 1 << 30, max_late: int = 1 << 30) -> None:
        self.subscription = subscription
        self.flows: list[bool] = []
        self.disconnects: list[Exception] = []
        self.max_queue_bytes = max_bytes
        self.max_late_bytes = max_late
        self.tasks: list[asyncio.Task[Any]] = []
        events = SimpleNamespace(receiver=self)
        self.session: Any = SimpleNamespace(peer="test://peer", run_handler=self._run, events=events)
        subscription.attach(self, 7)  # type: ignore[arg-type]  # what a subscription needs of a receiver

    def _run(self, coroutine: Any) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))
        return self.tasks[-1]

    def flow(self, number: int, *, paused: bool) -> None:
        assert number == 7
        self.flows.append(paused)

    def disconnect(self, error: Exception) -> None:
        self.disconnects.append(error)

    def give(self, *payloads: object, topic: str = "n", size: int = 1) -> None:
        for payload in payloads:
            self.subscription.deliver(Event(topic, payload, self.session, size))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"pattern": "a..b"}, "no pattern"),
        ({"overflow": "drop"}, "known are block, drop_oldest"),
        ({"max_queue": 0}, "max_queue"),
        ({"max_queue": True}, "max_queue"),
        ({"max_queue": 1.5}, "max_queue"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": False}, "concurrency"),
        ({"key": "k"}, "key= is for overflow='conflate'"),
        ({"key": 1, "overflow": "conflate"}, "name of a field"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Subscription(**{"pattern": "n", **arguments})


async def test_what_waits_can_be_read_after_unsubscribing() -> None:
    subscription = Subscription("n")
    feed = Feed(subscription)
    feed.give(1, 2)
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    feed.give(3)
    assert [event.payload async for event in subscription] == [1, 2]
    with pytest.raises(EndOfStream):
        await subscription.recv()


async def test_a_reader_that_waits_is_woken_by_an_event_and_by_each_end() -> None:
    for end in (EndOfStream("x"), Disconnected("x")):
        subscription = Subscription("n")
        feed = Feed(subscription)
        reading = asyncio.ensure_future(subscription.recv())
        await settle(2)
        feed.give("now")
        assert (await reading).payload == "now"
        reading = asyncio.ensure_future(subscription.recv())
        await settle(2)
        subscription.end(end)
        with pytest.raises(type(end)):
            await reading


async def test_two_readers_are_one_too_many_and_a_cancelled_one_loses_nothing() -> None:
    subscription = Subscription("n")
    feed = Feed(subscription)
    first = asyncio.ensure_future(subscription.recv())
    await settle(2)
    with pytest.raises(ResourceBusy, match="another task"):
        await subscription.recv()
    feed.give(1)
    first.cancel()
    await asyncio.wait({first})
    assert (await subscription.recv()).payload == 1


async def test_a_subscription_with_a_callback_cannot_be_read() -> None:
    with pytest.raises(ResourceBusy, match="callback"):
        await make_subscription("n", callback=print).recv()


async def test_block_asks_for_a_pause_once_and_goes_on_at_half() -> None:
    subscription = Subscription("n", max_queue=4)
    feed = Feed(subscription)
    feed.give(*range(10))
    assert feed.flows == [True]
    for _ in range(7):
        await subscription.recv()
    assert feed.flows == [True]
    await subscription.recv()
    assert feed.flows == [True, False]
    await subscription.recv()
    await subscription.recv()
    assert feed.flows == [True, False], "once"


async def test_bytes_count_as_well_as_events() -> None:
    subscription = Subscription("n", max_queue=1_000)
    feed = Feed(subscription, max_bytes=1_000)
    feed.give(*range(11), size=100)
    assert feed.flows == [True]
    for _ in range(6):
        await subscription.recv()
    assert feed.flows == [True, False]
    for overflow, kept in (("drop_oldest", range(1, 11)), ("drop_newest", range(10)), ("conflate", [10])):
        subscription = Subscription("n", max_queue=1_000, overflow=overflow)  # type: ignore[arg-type]
        Feed(subscription, max_bytes=1_000).give(*range(11), size=100)
        await subscription.unsubscribe()
        assert [event.payload async for event in subscription] == list(kept), overflow
        assert subscription.dropped == {overflow: 11 - len(kept)}


async def test_a_peer_that_does_not_heed_the_pause_breaks_the_rules() -> None:
    subscription = Subscription("n", max_queue=1)
    feed = Feed(subscription, max_late=1_000)
    with pytest.raises(RemoteProtocolError, match="paused"):
        feed.give(*range(1_000), size=100)
    assert len(subscription._queue) <= 1_000 // 100 + 1


async def test_what_came_late_of_a_session_that_has_ended_is_not_held_against_the_other_one() -> None:
    subscription = Subscription("n", max_queue=1)
    old, new = Feed(subscription, max_late=10_000), Feed(subscription, max_late=10_000)
    old.give(*range(90), size=80)
    new.give(*range(60), size=80)
    assert (old.flows, new.flows) == ([True], [True])
    subscription.detach(old)  # type: ignore[arg-type]
    new.give(*range(40), size=80)
    with pytest.raises(RemoteProtocolError, match="paused"):
        new.give(*range(1_000), size=80)


async def test_after_its_end_it_asks_for_nothing_more() -> None:
    subscription = Subscription("n", max_queue=1)
    feed = Feed(subscription)
    feed.give(1, 2, 3)
    await subscription.unsubscribe()
    assert [event.payload async for event in subscription] == [1, 2, 3]
    assert feed.flows == [True]


async def test_disconnect_ends_it_and_what_came_before_can_be_read() -> None:
    subscription = Subscription("n", overflow="disconnect", max_queue=2)
    feed = Feed(subscription)
    feed.give(1, 2, 3, 4)
    assert len(feed.disconnects) == 1
    assert subscription.dropped == {"disconnect": 1}
    assert [(await subscription.recv()).payload for _ in range(2)] == [1, 2]
    with pytest.raises(Exception, match="max_queue = 2"):
        await subscription.recv()


async def test_a_callback_gets_one_at_a_time_in_order_and_no_task_is_left() -> None:
    running = most = 0
    heard: list[object] = []

    async def callback(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(event.payload % 3)
        heard.append(event.payload)
        running -= 1

    subscription = make_subscription("n", callback=callback)
    Feed(subscription).give(*range(10))
    await subscription.settled()
    assert heard == list(range(10))
    assert most == 1
    await settle()
    assert not other_tasks()


async def test_with_concurrency_several_run_and_all_of_them_are_waited_for() -> None:
    """The third may be ready before the first: that settles nothing."""
    running = most = 0
    done: list[object] = []

    async def callback(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(10 if event.payload == 0 else 1)
        running -= 1
        done.append(event.payload)

    subscription = make_subscription("n", callback=callback, concurrency=2)
    feed = Feed(subscription)
    feed.give(0, 1)
    await settle(3)
    settling = asyncio.ensure_future(subscription.settled())
    await settle(3)
    feed.give(2, 3, 4)
    await asyncio.sleep(9)
    assert not settling.done(), "event 0 is still being handled"
    await settling
    assert 0 in done
    assert most == 2
    await asyncio.sleep(20)


async def test_a_callback_that_fails_is_counted_and_logged_and_the_next_event_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[object] = []
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    async def callback(event: Event) -> None:
        if event.payload == 1:
            raise ValueError("as planned")
        if event.payload == 2:
            await cancelled  # a cancellation that is not its own
        heard.append(event.payload)

    def in_place(event: Event) -> None:
        if event.payload == 1:
            raise ValueError("as planned")
        if event.payload == 2:
            cancelled.result()
        heard.append(event.payload)

    for function in (callback, in_place):
        heard.clear()
        subscription = make_subscription("n", callback=function)
        Feed(subscription).give(*range(4))
        await subscription.settled()
        assert heard == [0, 3]
        assert subscription.failures == 2
    assert len([record for record in caplog.records if record.exc_info]) == 4


async def test_cancelling_its_task_is_not_a_failure_of_the_callback() -> None:
    async def callback(event: Event) -> None:
        await asyncio.sleep(100)

    subscription = make_subscription("n", callback=callback)
    feed = Feed(subscription)
    feed.give(1)
    await settle(2)
    feed.tasks[0].cancel()
    await asyncio.wait(feed.tasks)
    assert feed.tasks[0].cancelled()
    assert subscription.failures == 0


async def test_a_plain_function_that_returns_a_coroutine_is_a_mistake(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None: ...

    subscription = make_subscription("n", callback=lambda event: work())
    Feed(subscription).give(1)
    assert subscription.failures == 1
    assert "make it an async def" in caplog.text


async def test_a_callback_may_unsubscribe_and_is_not_called_again() -> None:
    heard: list[object] = []

    async def callback(event: Event) -> None:
        heard.append(event.payload)
        await subscription.unsubscribe()

    subscription = make_subscription("n", callback=callback)
    feed = Feed(subscription)
    feed.give(1, 2, 3)
    settling = asyncio.ensure_future(subscription.settled())
    await asyncio.gather(*feed.tasks)
    await settling
    assert heard == [1]
    assert subscription.dropped == {"unsubscribed": 2}


async def test_a_callback_may_be_given_events_while_it_runs() -> None:
    heard: list[object] = []

    def callback(event: Event) -> None:
        heard.append(event.payload)
        if len(heard) < 3:
            feed.give(len(heard))

    subscription = make_subscription("n", callback=callback)
    feed = Feed(subscription)
    feed.give(0)
    assert heard == [0, 1, 2]


async def test_a_key_function_that_fails_falls_back_to_the_topic(caplog: pytest.LogCaptureFixture) -> None:
    subscription = Subscription("n", overflow="conflate", key=lambda event: event.payload["k"])
    feed = Feed(subscription)
    feed.give({"k": 1}, {"k": 2}, {"k": 1, "new": True}, {}, {"k": []}, {"other": 1})
    await subscription.unsubscribe()
    kept = [event.payload async for event in subscription]
    assert kept == [{"k": 1, "new": True}, {"k": 2}, {"other": 1}]
    assert subscription.dropped == {"conflate": 3}
    assert subscription.failures == 3


async def test_a_payload_of_the_wrong_type_is_counted_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    subscription = make_subscription("n", returns=int)
    Feed(subscription).give(1, "2", 3)
    await subscription.unsubscribe()
    assert [event.payload async for event in subscription] == [1, 3]
    assert subscription.dropped == {"invalid": 1}


def test_what_the_peer_is_asked_for() -> None:
    assert Subscription("n").request(1) == {"number": 1, "pattern": "n", "policy": "block", "max_queue": 1_024}
    field = Subscription("n", overflow="conflate", key="k").request(1)
    assert (field["policy"], field["key"]) == ("conflate", "k")
    function = Subscription("n", overflow="conflate", key=lambda event: 1).request(1)
    assert function["policy"] == "drop_oldest"
    assert "key" not in function


def test_keys() -> None:
    assert conflation_key("t", {"k": 1}, None) == "t"
    assert conflation_key("t", "text", "k") == "t"
    assert conflation_key("t", {"k": [1]}, "k") == "t"
    assert conflation_key("t", {"k": 1}, "k") != conflation_key("t", {"k": True}, "k")
    assert conflation_key("t", {"k": 1}, "k") != conflation_key("u", {"k": 1}, "k")
    assert conflation_key("t", {}, "k") == conflation_key("t", {"k": None}, "k")
