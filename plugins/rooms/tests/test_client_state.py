"""What a client makes of answers and events, in every order in which they may come."""

from __future__ import annotations

from typing import Any

from echostream_rooms.client_state import Recovery, RoomState
from echostream_rooms.records import Member, Message, Presence


def message(offset: int, epoch: str = "e") -> dict[str, Any]:
    return {
        "kind": "message",
        "epoch": epoch,
        "offset": offset,
        "name": "",
        "payload": offset,
        "sender": None,
    }


def answer(offset: int, *messages: dict[str, Any], recovered: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "epoch": "e",
        "offset": offset,
        "recovered": recovered,
        "messages": list(messages),
        "more": False,
        "member": "me",
        "members": [{"id": "me"}],
        **more,
    }


class Sight:
    """A state, and how often it asked to sync."""

    def __init__(self, max_queue: int = 10) -> None:
        self.asked = 0
        self.state = RoomState(max_queue, self._ask)

    def _ask(self) -> None:
        self.asked += 1

    def seen(self) -> list[object]:
        found: list[object] = []
        while self.state.queue:
            event = self.state.pop()
            found.append(event.offset if isinstance(event, Message) else event)
        return found


def joined(offset: int = 0, max_queue: int = 10) -> Sight:
    sight = Sight(max_queue)
    assert not sight.state.on_answer(answer(offset, recovered=False))
    sight.state.finish_sync()
    return sight


def test_what_comes_before_the_answer_is_compared_with_it() -> None:
    sight = Sight()
    for offset in (3, 4, 5):
        sight.state.on_event(message(offset))
    sight.state.on_answer(answer(4, message(2), message(3), message(4), recovered=False))
    sight.state.finish_sync()
    assert sight.seen() == [2, 3, 4, 5]
    assert sight.asked == 0


def test_a_hole_asks_and_what_came_behind_it_waits() -> None:
    sight = joined(1)
    for offset in (2, 5, 6, 6, 5):
        sight.state.on_event(message(offset))
    assert (sight.seen(), sight.asked) == ([2], 1)
    sight.state.on_answer(answer(5, message(3), message(4), message(5)))
    sight.state.finish_sync()
    assert sight.seen() == [Recovery(recovered=True, after=2, until=2), 3, 4, 5, 6]
    assert not sight.state.syncing


def test_more_than_can_wait_leaves_a_hole_that_is_noticed() -> None:
    sight = Sight(max_queue=2)
    for offset in range(1, 6):
        sight.state.on_event(message(offset))
    sight.state.on_answer(answer(1, message(1), recovered=False))
    sight.state.finish_sync()
    assert (sight.seen(), sight.asked) == ([1], 1)


def test_a_full_queue_takes_nothing_until_half_of_it_is_read() -> None:
    sight = joined(max_queue=4)
    for offset in range(1, 9):
        sight.state.on_event(message(offset))
    assert [sight.state.pop() for _ in range(1)] and sight.asked == 0
    sight.state.on_event(message(9))
    assert sight.state.pop() and sight.asked == 1
    sight.state.on_answer(answer(9, *(message(offset) for offset in range(5, 10))))
    sight.state.finish_sync()
    assert sight.seen() == [3, 4, Recovery(recovered=True, after=4, until=4), 5]
    assert sight.asked == 2  # there is more, and room for it again


def test_a_late_event_of_another_epoch_asks_once_and_is_gone() -> None:
    sight = joined(3)
    sight.state.on_event(message(9, epoch="old"))
    assert sight.asked == 1
    sight.state.on_answer(answer(3))
    sight.state.finish_sync()
    assert (sight.seen(), sight.asked, sight.state.syncing) == ([], 1, False)


def test_a_hole_before_what_came_live_is_told_and_the_live_ones_follow() -> None:
    sight = joined(3)
    sight.state.on_event(message(6))
    sight.state.on_event(message(7))
    assert not sight.state.on_answer(answer(7, recovered=False))
    sight.state.finish_sync()
    assert sight.seen() == [Recovery(recovered=False, after=3, until=5), 6, 7]
    assert not sight.state.recovered


def test_who_came_and_went_is_told_once_whichever_way_it_is_heard() -> None:
    ada, bob = Member("1", info="ada"), Member("2", info="bob")
    sight = Sight()
    sight.state.on_event({"kind": "joined", "member": {"id": "1", "info": "ada"}})
    sight.state.on_answer(answer(0, recovered=False, members=[{"id": "me"}, {"id": "1", "info": "ada"}]))
    sight.state.finish_sync()
    assert (sight.seen(), sight.state.members) == ([], {"1": ada})
    sight.state.on_event({"kind": "left", "member": {"id": "9"}})
    sight.state.on_event({"kind": "lost", "member": {"id": "me"}})
    assert sight.seen() == []
    sight.state.begin_sync(reconnected=True)
    sight.state.on_answer(answer(0, members=[{"id": "me"}, {"id": "2", "info": "bob"}]))
    sight.state.finish_sync()
    assert sight.seen() == [Presence("left", ada), Presence("joined", bob)]


def test_presence_of_an_ended_session_is_not_news_after_the_answer_of_the_next() -> None:
    sight = joined()
    sight.state.begin_sync()
    sight.state.on_event({"kind": "joined", "member": {"id": "1"}})
    sight.state.on_event(message(1))
    sight.state.begin_sync(reconnected=True)
    sight.state.on_answer(answer(1, message(1)))
    sight.state.finish_sync()
    assert sight.seen() == [Recovery(recovered=True, after=0, until=0), 1]
    assert sight.state.members == {}
