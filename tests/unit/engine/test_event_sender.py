"""Our events to one peer: encoded once, bounded while it is slow, and every drop counted."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from echostream_core import CloseCode, ConfigError, Disconnected, Event, LimitExceeded, RpcError, StatusCode
from echostream_core.engine import event_sender
from echostream_core.engine.event_sender import OutgoingEvent
from echostream_core.wire.limits import MAX_INTERNED
from tests.support.event_link import EventLink
from tests.support.waiting import other_tasks, settle

LOOPS = ("virtual",)


async def test_events_of_one_turn_are_one_write() -> None:
    link = EventLink()
    link.subscribe("n")
    for number in range(20):
        link.emit("n", number)
    assert link.writes == 0
    await link.turn()
    assert link.writes == 1


async def test_a_large_event_is_written_at_once_so_that_a_turn_collects_little() -> None:
    link = EventLink(room=1)
    link.subscribe("n", max_queue=10_000)
    for _ in range(30):
        link.emit("n", "x" * 100_000)
    assert link.largest_write < 200_000, "the first filled the substream, the others are held"
    assert link.sender.held == 29


async def test_what_is_not_wanted_is_not_encoded() -> None:
    link = EventLink()
    link.subscribe("n")
    event = OutgoingEvent("m", object())
    assert not link.sender.offer(event)
    assert event.frames == {}


async def test_the_bytes_are_made_once_for_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    links = [EventLink() for _ in range(100)]
    encoded = 0
    for link in links:
        link.subscribe("n")
        codecs = link.far.codecs

        def encode(value: object, plain: Any = codecs.encoders[1]) -> bytes:
            nonlocal encoded
            encoded += 1
            return bytes(plain(value))

        codecs.encoders[1] = encode
    event = OutgoingEvent("n", {"a": 1})
    assert all(link.sender.offer(event) for link in links)
    assert encoded == 1
    for link in links:
        await link.turn()
    wires = {bytes(link.wire) for link in links}
    assert len(wires) == 1


async def test_topics_beyond_the_numbers_travel_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sender, "_topic_numbers", {str(number): number for number in range(MAX_INTERNED)})
    link = EventLink()
    reading = link.subscribe("*.full")
    for _ in range(2):
        link.emit("in.full", 1)
    await link.turn()
    link.pass_bytes()
    assert [(await reading.recv()).topic for _ in range(2)] == ["in.full"] * 2
    assert link.wire.count(b"in.full") == 0


def test_threads_number_topics_without_giving_a_number_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each loop of a process may stand in a thread of its own."""
    numbered: dict[str, int] = {}
    monkeypatch.setattr(event_sender, "_topic_numbers", numbered)

    def emit(name: str) -> None:
        for number in range(50):
            OutgoingEvent(f"thread.{name}.{number}", None)

    threads = [threading.Thread(target=emit, args=name) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbered.values()) == list(range(200))


@pytest.mark.parametrize("size", [1_025, 5_000, 9_000])
async def test_an_event_over_the_peers_limit_is_not_sent_also_when_it_is_encoded_already(size: int) -> None:
    roomy, tight = EventLink(), EventLink(max_message_bytes=1_024, inline_max_bytes=1_024)
    for link in (roomy, tight):
        link.subscribe("n")
    event = OutgoingEvent("n", "x" * (size - 2))
    assert roomy.sender.offer(event)
    with pytest.raises(LimitExceeded, match=f"{size} bytes"):
        tight.sender.offer(event)
    fits = OutgoingEvent("n", "x" * 1_022)
    assert tight.sender.offer(fits)


async def test_a_name_in_full_does_not_count_as_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sender, "_topic_numbers", {str(number): number for number in range(MAX_INTERNED)})
    link = EventLink(max_message_bytes=1_024, inline_max_bytes=1_024)
    link.subscribe("**")
    assert link.sender.offer(OutgoingEvent("x" * 255, "x" * 1_022))


async def test_pausing_one_subscription_holds_nothing_for_another() -> None:
    link = EventLink()
    slow = link.subscribe("a.*")
    quick = link.subscribe("a.b")
    link.sender.flow(slow.number, paused=True)
    for number in range(10):
        link.emit("a.b", number)
    await link.run_dry()
    assert len(quick._queue) == 10
    assert link.sender.held == 10
    link.sender.flow(slow.number, paused=False)
    await link.run_dry()
    assert [(await slow.recv()).payload for _ in range(10)] == list(range(10))
    assert len(quick._queue) == 10, "once"


async def test_events_leave_in_the_order_of_emitting_whatever_they_were_held_for() -> None:
    link = EventLink()
    one, two, both = link.subscribe("a"), link.subscribe("b"), link.subscribe("*")
    for subscription in (one, two, both):
        link.sender.flow(subscription.number, paused=True)
    for number in range(9):
        link.emit("ab"[number % 2], number)
    order = []
    for subscription in (one, two, both):
        subscription.deliver = lambda event, name=subscription.pattern: order.append((event.payload, name))  # type: ignore[misc]
        link.sender.flow(subscription.number, paused=False)
    await link.run_dry()
    assert [number for number, _ in order] == sorted([*range(9), *range(9)])
    assert link.sender.held_bytes == 0


async def test_what_is_emitted_between_two_slices_stays_behind_what_is_held() -> None:
    link = EventLink()
    reading, other = link.subscribe("n", max_queue=4_096), link.subscribe("m")
    link.sender.flow(reading.number, paused=True)
    for number in range(1_000):
        link.emit("n", number)
    link.sender.flow(reading.number, paused=False)
    await asyncio.sleep(0)
    assert 0 < link.sender.held < 1_000
    link.emit("n", 1_000)
    link.emit("m", "not held for")
    await link.run_dry()
    assert [(await reading.recv()).payload for _ in range(1_001)] == list(range(1_001))
    assert (await other.recv()).payload == "not held for"


async def test_dropping_at_the_head_of_one_queue_does_not_let_it_overtake_another() -> None:
    link = EventLink(room=1)
    link.subscribe("first")
    short = link.subscribe("*", overflow="drop_oldest", max_queue=2)
    long = link.subscribe("n", overflow="drop_oldest", max_queue=100)
    link.emit("first", "fills the substream")
    await link.turn()
    for number in range(10):
        link.emit("n", number)
    order = []
    for subscription in (short, long):
        subscription.deliver = lambda event, name=subscription.overflow + subscription.pattern: order.append(  # type: ignore[misc]
            (event.payload, name)
        )
    link.room = 1 << 30
    await link.run_dry()
    numbers = [number for number, _ in order if isinstance(number, int)]
    assert numbers == sorted(numbers)
    assert len(numbers) == 12


async def test_what_was_dropped_is_told_before_the_next_event() -> None:
    link = EventLink(room=1)
    reading = link.subscribe("n", overflow="drop_oldest", max_queue=300)
    told: list[dict[str, int]] = []
    deliver = reading.deliver

    def seen(event: Event) -> None:
        told.append(dict(reading.dropped))
        deliver(event)

    link.emit("n", "fills the substream")
    await link.turn()
    for number in range(500):
        link.emit("n", number)
    reading.deliver = seen
    link.room = 1 << 30
    await link.run_dry()
    assert told[0] == {}, "this one was on its way before"
    assert told[1]["drop_oldest"] >= 200


async def test_what_is_held_is_sent_in_slices_between_which_the_loop_runs() -> None:
    link = EventLink()
    reading = link.subscribe("n", max_queue=4_096)
    link.sender.flow(reading.number, paused=True)
    for number in range(4_096):
        link.emit("n", number)
    link.sender.flow(reading.number, paused=False)
    turns = 0
    while link.sender.held:
        before = link.sender.held
        await asyncio.sleep(0)
        assert before - link.sender.held <= 256
        turns += 1
    assert turns >= 16


async def test_taking_what_is_held_for_a_thousand_subscriptions_is_no_search_each_time() -> None:
    """It was: then this took a minute."""
    link = EventLink(max_subscriptions=1_024)
    for number in range(1_000):
        subscription = link.subscribe(f"t.{number}", max_queue=100)
        link.sender.flow(subscription.number, paused=True)
    for number in range(40_000):
        link.emit(f"t.{number % 1_000}", number)
    for number in list(link.sender.interests):
        link.sender.flow(number, paused=False)
    while link.sender.held:
        await asyncio.sleep(0)
    assert link.sender.held_bytes == 0


async def test_a_flood_of_flow_frames_does_nothing_but_note_them() -> None:
    link = EventLink()
    subscriptions = [link.subscribe(f"t.{number}") for number in range(1_000)]
    for _ in range(50):
        for subscription in subscriptions:
            link.sender.flow(subscription.number, paused=True)
            link.sender.flow(subscription.number, paused=False)
    link.sender.flow(4_000_000_000, paused=True)
    assert link.writes == 0
    await link.turn()
    link.emit("t.1", 1)
    await link.turn()
    assert link.writes == 1
    assert link.sender.held == 0


async def test_bytes_are_bounded_over_all_subscriptions() -> None:
    link = EventLink(event_queue_bytes=10_000)
    subscriptions = [link.subscribe(f"t.{number}", overflow="drop_oldest") for number in range(200)]
    for subscription in subscriptions:
        link.sender.flow(subscription.number, paused=True)
    for number in range(200):
        link.emit(f"t.{number}", "x" * 990)
    assert link.sender.held_bytes <= 10_000
    assert link.sender.held == 9
    for subscription in subscriptions:
        link.sender.flow(subscription.number, paused=False)
    await link.run_dry()
    assert sum(len(one._queue) + one.dropped.get("drop_oldest", 0) for one in subscriptions) == 200


async def test_one_event_larger_than_the_bound_can_be_held() -> None:
    for policy in ("block", "drop_oldest", "drop_newest", "conflate", "disconnect"):
        link = EventLink(event_queue_bytes=1_000)
        reading = link.subscribe("n", overflow=policy)
        link.sender.flow(reading.number, paused=True)
        link.emit("n", "x" * 5_000)
        assert link.sender.held == 1, policy
        link.sender.flow(reading.number, paused=False)
        await link.run_dry()
        assert len((await reading.recv()).payload) == 5_000


async def test_an_emitter_goes_on_as_soon_as_there_is_room_whoever_made_it() -> None:
    """The bytes are common: what another subscription gives free counts as well."""
    link = EventLink(event_queue_bytes=1_000)
    stuck, moving = link.subscribe("stuck"), link.subscribe("moving")
    for subscription in (stuck, moving):
        link.sender.flow(subscription.number, paused=True)
    link.emit("moving", "x" * 900)
    event = link.emit("stuck", "x" * 200)
    ((sender, interest),) = event.full
    waiting = asyncio.ensure_future(sender.wait_for(interest))
    await link.turn()
    assert not waiting.done()
    link.sender.flow(moving.number, paused=False)
    await link.turn()
    assert waiting.done()
    assert not link.sender._full


async def test_an_emitter_goes_on_when_its_subscriber_unsubscribes_or_the_session_ends() -> None:
    for how in ("unsubscribe", "end"):
        link = EventLink()
        reading = link.subscribe("n", max_queue=1)
        link.sender.flow(reading.number, paused=True)
        event = [link.emit("n", number) for number in range(2)][-1]
        ((sender, interest),) = event.full
        waiting = asyncio.ensure_future(sender.wait_for(interest))
        await link.turn()
        if how == "unsubscribe":
            link.sender.remove(reading.number)
            await waiting
        else:
            link.sender.close(Disconnected("over"))
            with pytest.raises(Disconnected, match="over"):
                await waiting
        assert link.sender.held == link.sender.held_bytes == 0


async def test_a_peer_that_takes_nothing_while_somebody_waits_loses_its_session() -> None:
    link = EventLink(event_stall_s=5.0)
    reading = link.subscribe("n", max_queue=1)
    link.sender.flow(reading.number, paused=True)
    event = [link.emit("n", number) for number in range(2)][-1]
    begin = link.far.loop.time()
    waiting = asyncio.ensure_future(event.full[0][0].wait_for(event.full[0][1]))
    await asyncio.sleep(4.9)
    assert not link.closed
    await asyncio.sleep(0.2)
    ((code, reason),) = link.closed
    assert code == CloseCode.SLOW
    assert "event_stall_s (5 s)" in reason
    assert link.far.loop.time() - begin < 6
    link.sender.close(Disconnected("over"))
    with pytest.raises(Disconnected):
        await waiting


async def test_a_peer_that_takes_one_now_and_then_keeps_its_session() -> None:
    link = EventLink(event_stall_s=5.0)
    reading = link.subscribe("n", max_queue=5)
    link.sender.flow(reading.number, paused=True)
    event = [link.emit("n", number) for number in range(9)][-1]
    waiting = asyncio.ensure_future(event.full[0][0].wait_for(event.full[0][1]))
    (interest,) = link.sender.interests.values()
    for _ in range(3):
        await asyncio.sleep(4)
        interest.taken += 1  # as if there were room for one
    assert not link.closed
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_with_disconnect_the_session_ends_once() -> None:
    link = EventLink()
    reading = link.subscribe("n", overflow="disconnect", max_queue=2)
    link.sender.flow(reading.number, paused=True)
    for number in range(5):
        link.emit("n", number)
    assert not link.closed, "not within emit"
    await link.turn()
    assert [code for code, _ in link.closed] == [CloseCode.SLOW]


@dataclass
class Price:
    """A payload that is no map yet."""

    symbol: object
    value: float = 0.0


@pytest.mark.parametrize("form", [lambda **fields: fields, Price], ids=["map", "dataclass"])
async def test_both_ends_conflate_by_the_same_field(form: Any) -> None:
    link = EventLink()
    reading = link.subscribe("price", overflow="conflate", key="symbol")
    link.sender.flow(reading.number, paused=True)
    for value, symbol in enumerate(("a", "b", 1, True, None, "a", [1], [2])):
        link.emit("price", form(symbol=symbol, value=float(value)))
    assert link.sender.held == 6, "a, b, 1, true, null, and what cannot be a key is conflated by topic"
    link.sender.flow(reading.number, paused=False)
    await link.run_dry()
    kept = [(await reading.recv()).payload for _ in range(6)]
    assert [(one["symbol"], one["value"]) for one in kept] == [
        ("a", 5.0),
        ("b", 1.0),
        (1, 2.0),
        (True, 3.0),
        (None, 4.0),
        ([2], 7.0),
    ]
    assert reading.dropped == {"conflate": 2}


async def test_a_tuple_with_a_list_inside_is_no_key_and_no_error() -> None:
    link = EventLink()
    reading = link.subscribe("n", overflow="conflate", key="k")
    link.sender.flow(reading.number, paused=True)
    for number in range(3):
        link.emit("n", {"k": (1, [2]), "n": number})
    assert link.sender.held == 1


async def test_drops_are_told_before_a_flush_is_answered_also_when_nothing_was_taken() -> None:
    link = EventLink(event_queue_bytes=100)
    big, small = link.subscribe("big"), link.subscribe("small", overflow="drop_newest")
    for subscription in (big, small):
        link.sender.flow(subscription.number, paused=True)
    link.emit("big", "x" * 200)
    link.emit("small", 1)
    syncing = asyncio.ensure_future(link.sender.sync(1))
    await link.turn()
    assert not syncing.done()
    link.sender.flow(big.number, paused=False)
    await link.run_dry()
    assert syncing.done()
    assert small.dropped == {"drop_newest": 1}
    assert link.synced == [1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((1, "n", "block", 1, None), StatusCode.INVALID_ARGUMENT),
        ((2, "n", "conflate", 1, "x" * 256), StatusCode.INVALID_ARGUMENT),
        ((3, "n", "block", 1, None), StatusCode.RESOURCE_EXHAUSTED),
    ],
    ids=["number in use", "long key", "one too many"],
)
async def test_what_a_peer_may_not_ask_for(arguments: Any, code: StatusCode) -> None:
    link = EventLink(max_subscriptions=2)
    link.sender.add(1, "a", "block", 1, None)
    if code is StatusCode.RESOURCE_EXHAUSTED:
        link.sender.add(2, "b", "conflate", 1, "x" * 255)
    with pytest.raises(RpcError) as caught:
        link.sender.add(*arguments)
    assert caught.value.code is code


async def test_a_huge_queue_is_cut_to_what_is_allowed_and_none_is_one() -> None:
    link = EventLink(max_event_queue=100)
    assert link.sender.add(1, "a", "block", 10**18, None) == 100
    assert link.sender.add(2, "a", "block", 0, None) == 1
    assert link.sender.add(3, "a", "block", -5, None) == 1


async def test_a_number_may_be_used_again_after_it_was_given_up() -> None:
    link = EventLink()
    link.sender.add(1, "a", "block", 5, None)
    link.sender.flow(1, paused=True)
    link.emit("a", 1)
    link.sender.remove(1)
    link.sender.remove(1)
    link.sender.flow(1, paused=False)
    link.sender.add(1, "b", "block", 5, None)
    link.emit("a", 2)
    link.emit("b", 3)
    assert link.sender.held == link.sender.held_bytes == 0
    assert not link.sender._slow
    await link.turn()


async def test_after_the_peer_has_stopped_the_substream_nothing_is_wanted() -> None:
    link = EventLink()
    link.subscribe("n")
    link.emit("n", 1)
    await link.turn()
    link.sender.on_stop(7)
    assert link.carried.reset_code == 7
    assert not link.sender.offer(OutgoingEvent("n", 2))
    with pytest.raises(RpcError, match="is over") as caught:
        link.sender.add(9, "n", "block", 1, None)
    assert caught.value.code is StatusCode.FAILED_PRECONDITION


async def test_after_the_end_of_the_session_nothing_is_written() -> None:
    link = EventLink()
    reading = link.subscribe("n")
    link.emit("n", 1)
    link.far.disconnected = True
    link.sender.close(Disconnected("over"))
    assert not link.sender.offer(OutgoingEvent("n", 2))
    link.sender.on_writable()
    link.sender.flow(reading.number, paused=False)
    link.sender.remove(reading.number)
    await link.turn()
    assert link.writes == 0


async def test_ten_thousand_subscriptions_made_and_given_up_leave_nothing() -> None:
    link = EventLink()
    for number in range(10_000):
        link.sender.add(number, "n", "block", 5, None)
        link.sender.flow(number, paused=True)
        link.emit("n", number)
        link.sender.remove(number)
    assert link.sender.interests == {}
    assert link.sender.held == link.sender.held_bytes == 0
    await link.turn()
    assert link.sender._held._heap == []
    assert not link.sender._slow
    await settle()
    assert not other_tasks()


async def test_subscribing_and_unsubscribing_while_the_substream_is_full_piles_nothing_up() -> None:
    link = EventLink(room=1)
    link.subscribe("other")
    link.emit("other", "x" * 100)
    await link.turn()
    for number in range(10_000):
        link.sender.add(number, "n", "block", 5, None)
        link.emit("n", number)
        link.sender.remove(number)
    assert len(link.sender._held._heap) <= 1_100
    assert link.sender.held == link.sender.held_bytes == 0


def test_a_wrong_topic_is_refused() -> None:
    with pytest.raises(ConfigError, match="no topic"):
        OutgoingEvent("a.*", 1)
