"""Datagrams on the mux: whole, on number 0, in turn with the substreams, and refused where they were not agreed on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.types import Priority
from echostream_core.wire.limits import MAX_MUX_DATAGRAM_BYTES, Limits
from echostream_core.wire.mux_frames import DATA, DATAGRAM, HEADER, HEADER_BYTES, encode_datagram
from tests.unit.wire.mux_recorder import FEEDINGS, Side, frames


def both(**limits: int) -> tuple[Side, Side]:
    """A dialer and a listener that have agreed on datagrams."""
    changed = Limits().with_changes(**limits)
    return Side("dialer", changed, datagrams=True), Side("listener", changed, datagrams=True)


def send(side: Side, *data: bytes, expires_at: float | None = None) -> bool:
    return side.mux.send_datagram(encode_datagram(data, sum(map(len, data))), expires_at)


def received(side: Side) -> list[bytes]:
    return [bytes(event[1]) for event in side.events if event[0] == "datagram"]  # type: ignore[call-overload]  # they are


@pytest.mark.parametrize("feed", FEEDINGS)
def test_datagrams_of_all_sizes_arrive_whole_however_they_are_cut(feed: Callable[..., None]) -> None:
    near, far = both()
    sent = [bytes([size & 0xFF]) * size for size in (0, 1, 2, 100, 1_200, MAX_MUX_DATAGRAM_BYTES)]
    for datagram in sent:
        assert send(near, datagram[:1], datagram[1:])
    feed(far.mux, near.output())
    assert received(far) == sent
    assert not near.mux.pending


def test_a_side_that_takes_none_ends_the_session() -> None:
    far = Side("listener")
    with pytest.raises(RemoteProtocolError, match="unknown type 0x06"):
        far.mux.receive(encode_datagram([b"x"], 1))


def test_one_that_is_too_long_is_refused_by_its_header() -> None:
    _, far = both()
    with pytest.raises(RemoteProtocolError, match="DATAGRAM with a body of 16385 bytes") as caught:
        far.mux.receive(HEADER.pack(DATAGRAM << 24 | MAX_MUX_DATAGRAM_BYTES + 1, 0))
    assert caught.value.close_code == CloseCode.LIMIT


def test_datagrams_wait_until_they_may_be_sent() -> None:
    near, _ = both()
    near.mux.sends_datagrams = False
    send(near, b"early")
    assert near.output() == b""
    near.mux.begin_datagrams()
    assert [body for _, _, body in frames(near.output())] == [b"early"]


def test_the_queue_is_bounded_and_what_has_expired_is_not_sent() -> None:
    near, far = both(max_queued_datagrams=3)
    taken = [send(near, b"%d" % number, expires_at=5.0 if number == 4 else None) for number in range(6)]
    assert taken == [True, True, True, False, False, False]
    near.now = 5.0
    far.mux.receive(near.output())
    assert received(far) == [b"3", b"5"]
    assert near.mux.datagrams is not None
    assert near.mux.datagrams.drops.as_dict() | {"full": 0, "expired": 0} == dict.fromkeys(
        near.mux.datagrams.drops.as_dict(), 0
    )
    assert (near.mux.datagrams.drops.full, near.mux.datagrams.drops.expired) == (3, 1)


def test_a_substream_waits_for_no_more_than_one_largest_datagram_and_the_other_way_round() -> None:
    near, _ = both()
    stream = near.open(Priority.URGENT)
    stream.write([bytes(60_000)])
    for _ in range(200):
        send(near, bytes(1_000))
    largest = HEADER_BYTES + MAX_MUX_DATAGRAM_BYTES
    run = {DATA: 0, DATAGRAM: 0}
    for type_byte, _, body in frames(near.output()):
        kind, other = (DATAGRAM, DATA) if type_byte == DATAGRAM else (DATA, DATAGRAM)
        run[kind] += HEADER_BYTES + len(body)
        assert run[kind] <= largest or not stream.queued
        run[other] = 0
    assert stream.queued == 0


def test_a_flood_of_datagrams_starves_no_class() -> None:
    near, far = both()
    streams = [near.open(priority) for priority in (Priority.URGENT, Priority.NORMAL, Priority.BULK)]
    for stream in streams:
        stream.write([bytes(50_000)], end=True)
    for _ in range(30):
        while len(near.mux.datagrams.waiting) < 256:  # type: ignore[union-attr]  # both agreed
            send(near, bytes(MAX_MUX_DATAGRAM_BYTES))
        far.mux.receive(b"".join(near.mux.next_buffers(16_384)))
    assert {event[1] for event in far.events if event[0] == "end"} == {stream.id for stream in streams}


def test_the_control_substream_overtakes_all_datagrams() -> None:
    near, _ = both()
    for _ in range(10):
        send(near, b"datagram")
    near.open(Priority.CONTROL).write([b"control"])
    assert next(iter(frames(near.output())))[2] == b"control"


def test_the_end_drops_what_waits_and_counts_it() -> None:
    near, far = both()
    send(near, b"late")
    far.mux.receive(b"".join(near.mux.close(0, "")))
    assert [event[0] for event in far.events] == ["close"]
    assert near.mux.datagrams is not None
    assert near.mux.datagrams.drops.closed == 1


steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 3_000)),
    st.tuples(st.just("expiring"), st.integers(1, 3)),
    st.tuples(st.just("write"), st.integers(1, 40_000)),
    st.tuples(st.just("flush"), st.integers(1, 70_000)),
    st.tuples(st.just("wait"), st.just(1)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=80), st.integers(1, 8), st.integers(1, 5_000))
def test_what_arrives_is_a_subsequence_of_what_was_sent_and_every_datagram_is_accounted_for(
    plan: list[tuple[str, int]], most: int, cut: int
) -> None:
    near, far = both(max_queued_datagrams=most)
    stream = near.open()
    sent: list[bytes] = []
    written = 0
    for action, value in plan:
        if action in ("send", "expiring"):
            datagram = len(sent).to_bytes(4, "little") + (bytes(value) if action == "send" else b"")
            sent.append(datagram)
            send(near, datagram, expires_at=near.now + value if action == "expiring" else None)
        elif action == "write":
            stream.write([bytes(value)])
            written += value
        elif action == "wait":
            near.now += 1.0
        else:
            data = b"".join(near.mux.next_buffers(value))
            for start in range(0, len(data), cut):
                far.mux.receive(data[start : start + cut])
            near.mux.receive(far.output())
    while near.mux.pending or far.mux.pending:
        far.mux.receive(near.output())
        near.mux.receive(far.output())
    arrived = received(far)
    left = iter(sent)
    assert all(datagram in left for datagram in arrived)
    assert near.mux.datagrams is not None
    assert len(arrived) + near.mux.datagrams.drops.total == len(sent)
    assert sum(len(reader.data) for reader in far.recorder.readers.values()) == written
