"""The peer's events: whoever sends them, each reaches those that want it, and what breaks a rule ends the session."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import pytest

from echostream_core import CloseCode, Disconnected, Event, LimitExceeded, RemoteProtocolError
from echostream_core.engine.session_events import make_subscription
from echostream_core.engine.subscriptions import Subscription
from echostream_core.wire.events import encode_event, encode_sync, encode_topic
from tests.support.event_link import EventLink

LOOPS = ("virtual",)


def waiting(subscription: Subscription) -> list[Event]:
    """What waits to be read."""
    assert isinstance(subscription._queue, deque)
    return list(subscription._queue)


async def test_what_is_addressed_reaches_those_alone_and_only_if_they_are_still_there() -> None:
    link = EventLink()
    one, two = link.subscribe("n"), link.subscribe("n")
    link.receiver.on_event("n", 1, memoryview(b"1"), ())
    link.receiver.on_event("n", 1, memoryview(b"2"), (two.number, 99))
    gone = two.number
    await two.unsubscribe()
    link.receiver.unregister(two)
    link.receiver.on_event("n", 1, memoryview(b"3"), (gone,))
    assert [event.payload for event in waiting(one)] == [1]
    assert [event.payload for event in waiting(two)] == [1, 2]
    assert link.receiver.received == 3


async def test_a_subscription_that_comes_or_goes_counts_from_the_next_event_on() -> None:
    link = EventLink()
    first = link.subscribe("*")
    link.receiver.on_event("n", 1, memoryview(b"1"), ())
    second = link.subscribe("n")
    link.receiver.on_event("n", 1, memoryview(b"2"), ())
    link.receiver.unregister(first)
    link.receiver.on_event("n", 1, memoryview(b"3"), ())
    assert [event.payload for event in waiting(first)] == [1, 2]
    assert [event.payload for event in waiting(second)] == [2, 3]


async def test_an_event_that_cannot_be_decoded_is_counted_and_the_session_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = EventLink()
    reading = link.subscribe("n")
    link.receiver.on_event("n", 1, memoryview(b"{"), ())
    link.receiver.on_event("n", 1, memoryview(b"1"), ())
    assert reading.dropped == {"undecodable": 1}
    assert [event.payload for event in waiting(reading)] == [1]
    assert "cannot be decoded" in caplog.text


async def test_a_codec_that_was_never_listed_breaks_the_rules_if_anybody_wants_the_event() -> None:
    link = EventLink()
    link.subscribe("n")
    link.receiver.on_event("m", 9, memoryview(b"1"), ())
    with pytest.raises(RemoteProtocolError, match="codec"):
        link.receiver.on_event("n", 9, memoryview(b"1"), ())


async def test_dropped_counts_for_those_that_are_there_and_reasons_that_exist() -> None:
    link = EventLink()
    reading = link.subscribe("n")
    link.receiver.on_dropped(reading.number, 1, 5)
    link.receiver.on_dropped(reading.number, 1, 2)
    for unknown in (0, 3, 65_537, 4_294_967_295):
        link.receiver.on_dropped(unknown, 1, 5)
    assert reading.dropped == {"drop_oldest": 7}
    with pytest.raises(RemoteProtocolError, match="reason 5"):
        link.receiver.on_dropped(reading.number, 5, 1)


async def test_one_subscription_too_many_names_the_limit() -> None:
    link = EventLink(max_subscriptions=2)
    for _ in range(2):
        link.subscribe("n")
    with pytest.raises(LimitExceeded) as caught:
        link.subscribe("n")
    assert (caught.value.limit, caught.value.maximum) == ("max_subscriptions", 2)


async def test_numbers_are_never_used_twice() -> None:
    link = EventLink(max_subscriptions=2)
    numbers = set()
    for _ in range(10_000):
        subscription = link.subscribe("n")
        numbers.add(subscription.number)
        link.sender.remove(subscription.number)
        link.receiver.unregister(subscription)
    assert len(numbers) == 10_000
    assert link.receiver._subscriptions == {}
    assert link.receiver._matching == {}


async def test_a_flush_is_answered_when_callbacks_are_done_and_at_once_without_any() -> None:
    link = EventLink()
    link.subscribe("n")
    go_on = asyncio.Event()

    async def callback(event: Event) -> None:
        await go_on.wait()

    slow = make_subscription("n", callback=callback)
    link.receiver.register(slow)
    link.receiver.on_sync(1)
    assert link.synced == [1]
    link.receiver.on_event("n", 1, memoryview(b"1"), ())
    link.receiver.on_sync(2)
    await link.turn()
    assert link.synced == [1]
    go_on.set()
    await link.turn(5)
    assert link.synced == [1, 2]
    assert not link.tasks


async def test_more_flushes_at_once_than_allowed_are_a_flood() -> None:
    link = EventLink()

    async def callback(event: Event) -> None:
        await asyncio.Event().wait()

    link.receiver.register(make_subscription("n", callback=callback))
    link.receiver.on_event("n", 1, memoryview(b"1"), ())
    for number in range(128):
        link.receiver.on_sync(number)
    with pytest.raises(RemoteProtocolError, match="more than 128") as caught:
        link.receiver.on_sync(128)
    assert caught.value.close_code == CloseCode.LIMIT
    for task in link.tasks:
        task.cancel()
    await asyncio.wait(link.tasks)


async def test_answers_that_are_not_read_pile_up_to_a_bound() -> None:
    link = EventLink()
    link.near._link.blocked = True
    for number in range(128):
        link.receiver.on_sync(number)
    assert link.synced == []
    with pytest.raises(RemoteProtocolError, match="more than 128"):
        link.receiver.on_sync(128)
    link.near._link.blocked = False
    link.receiver.on_flushed()
    assert link.synced == list(range(128))
    assert link.controls == 129, "each counts as a control frame"


async def test_a_flood_of_topics_ends_with_their_numbers() -> None:
    link = EventLink()
    frames = b"".join(encode_topic(b"t%d" % number, number) for number in range(1_024))
    link.wire += bytes(8) + frames
    link.pass_bytes()
    assert not link.violations
    link.wire += encode_topic(b"one.more", 5)
    link.pass_bytes()
    assert len(link.violations) == 1


async def test_ten_thousand_topics_do_not_grow_what_is_remembered() -> None:
    link = EventLink()
    reading = link.subscribe("**", overflow="drop_oldest", max_queue=5)
    for number in range(10_000):
        link.receiver.on_event(f"t.{number}", 1, memoryview(b"1"), ())
        link.emit(f"t.{number}", 1)
    assert len(link.receiver._matching) <= 1_024
    assert len(link.sender._wanted) <= 1_024
    assert reading.dropped == {"drop_oldest": 9_995}


async def test_an_end_inside_a_frame_breaks_the_rules() -> None:
    link = EventLink()
    frame = encode_topic(b"n", 0) + encode_event(b"", 0, 1, b"1")
    link.wire += bytes(8) + frame[:-1]
    link.pass_bytes()
    link.receiver.on_end()
    assert [str(error) for error in link.violations] == ["the events substream ended inside a frame"]


async def test_in_the_middle_of_data_a_callback_may_end_it_all() -> None:
    link = EventLink()
    heard: list[object] = []

    def callback(event: Event) -> None:
        heard.append(event.payload)
        link.receiver.close(Disconnected("closed by the callback"))

    link.receiver.register(make_subscription("n", callback=callback))
    link.receiver.register(make_subscription("n", callback=lambda event: heard.append("second")))
    frames = [encode_topic(b"n", 0), *(encode_event(b"", 0, 1, b"%d" % number) for number in range(3)), encode_sync(1)]
    link.wire += bytes(8) + b"".join(frames)
    link.pass_bytes()
    assert heard == [0]
    assert not link.violations


async def test_closing_ends_some_and_leaves_others_for_the_next_session() -> None:
    for code, ended in ((CloseCode.GOING_AWAY, (True, False, False)), (CloseCode.SLOW, (True, False, True))):
        link = EventLink()
        single, lasting = link.subscribe("n"), link.subscribe("n")
        strict = link.subscribe("n", overflow="disconnect")
        lasting.lasting = strict.lasting = True
        link.receiver.close(Disconnected("over", close_code=code))
        assert (single.ended, lasting.ended, strict.ended) == ended
        assert lasting.number == -1
        assert link.receiver.finished


async def test_a_subscription_that_is_too_slow_ends_the_session_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    link = EventLink()
    link.subscribe("n", overflow="disconnect", max_queue=1)
    for number in (b"1", b"2", b"3"):
        link.receiver.on_event("n", 1, memoryview(number), ())
    assert not link.closed, "not within the callback of the transport"
    await link.turn()
    assert [code for code, _ in link.closed] == [CloseCode.SLOW]
    assert "max_queue = 1" in caplog.text
