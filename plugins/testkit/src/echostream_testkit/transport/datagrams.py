"""Datagrams: whole, bounded in size and number, and as unreliable as is claimed."""

from __future__ import annotations

from functools import partial
from typing import Final

from echostream_core.errors import LimitExceeded
from echostream_testkit.checks import capability, needs
from echostream_testkit.transport.comparing import difference_in_lists
from echostream_testkit.transport.refusing import refuses
from echostream_testkit.transport.relay import UdpRelay
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["DatagramChecks"]

_BURST: Final = 20_000
_PACED: Final = 200


class DatagramChecks(TransportSubject):
    """The flag ``datagrams``: native, emulated or none."""

    @capability("datagrams")
    @staged
    async def test_datagrams_arrive_whole(self, stage: Stage) -> None:
        """Datagrams of one byte up to the largest size arrive whole, both ways; several buffers are one datagram."""
        pair = await stage.pair()
        for sender, receiver in ((pair.near, pair.far), (pair.far, pair.near)):
            for size in (1, 2, 100, 1_000, sender.connection.max_datagram_size()):
                receiver.datagrams.clear()
                sent = bytes(number % 251 for number in range(size))
                middle = size // 2
                sender.send_datagram(sent[:middle], bytearray(), memoryview(sent)[middle:])
                await stage.datagram(receiver, f"a datagram of {size} bytes")
                assert receiver.datagrams == [sent]

    @capability("datagrams")
    @staged
    async def test_datagrams_have_a_largest_size(self, stage: Stage) -> None:
        """One byte more than ``max_datagram_size()`` is LimitExceeded, which names limit, value and maximum."""
        pair = await stage.pair()
        for end in pair.ends:
            most = end.connection.max_datagram_size()
            assert most > 0, "datagrams are claimed, and max_datagram_size() is 0"
            try:
                end.send_datagram(bytes(most + 1))
            except LimitExceeded as error:
                assert error.limit and (error.value, error.maximum) == (most + 1, most), f"the error says: {error}"
            else:
                raise AssertionError(f"a datagram of {most + 1} bytes was taken; max_datagram_size() is {most}")
        pair.near.send_datagram(b"the next")
        await stage.until(lambda: pair.far.datagrams, "the next datagram")
        assert pair.far.datagrams == [b"the next"]

    @capability("datagrams")
    @staged
    async def test_datagrams_queue_is_bounded(self, stage: Stage) -> None:
        """In a burst ``send_datagram`` answers False sooner or later: the oldest was dropped for the newest."""
        pair = await stage.pair()
        answers = [pair.near.send_datagram(b"%d" % number) for number in range(_BURST)]
        assert not all(answers), f"{_BURST} datagrams were queued in one turn, and none was dropped"
        assert answers[0], "the first one was said to drop another"
        await stage.until(lambda: b"%d" % (_BURST - 1) in pair.far.datagrams, "the newest datagram of the burst")
        assert len(pair.far.datagrams) < _BURST

    @capability("datagrams")
    @staged
    async def test_datagrams_call_back_later(self, stage: Stage) -> None:
        """``on_datagram`` comes on a later turn than ``send_datagram``."""
        pair = await stage.pair()
        for end, other in ((pair.near, pair.far), (pair.far, pair.near)):
            end.send_datagram(b"later")
            assert not other.datagrams, "on_datagram came inside of send_datagram"
            await stage.datagram(other)
        stage.rules.check()

    @capability("datagrams=native")
    @needs("wire")
    @staged
    async def test_datagrams_native_are_not_repeated(self, stage: Stage) -> None:
        """One that is lost on the wire stays lost, and the next one is not held up by it."""
        relay = await stage.relay()
        assert isinstance(relay, UdpRelay), "native datagrams cannot travel on one ordered pipe"
        pair = await stage.pair(relay=relay)
        pair.near.send_datagram(b"warm")
        await stage.until(lambda: pair.far.datagrams, "a datagram")
        await stage.quiet(relay)
        relay.drop("up", 1)
        pair.near.send_datagram(b"lost")
        await stage.until(lambda: not relay.dropping("up"), "the packet to be dropped")
        pair.near.send_datagram(b"next")
        await stage.until(lambda: b"next" in pair.far.datagrams, "the datagram behind the one that was lost")
        if self.claims("streams"):
            await stage.round_trips(await stage.echo_line(pair), 10)
        assert pair.far.datagrams == [b"warm", b"next"], "the datagram that was lost on the wire was sent again"

    @capability("datagrams=emulated")
    @staged
    async def test_datagrams_emulated_keep_their_order(self, stage: Stage) -> None:
        """Emulated datagrams are reliable and ordered: of those that were not dropped here, all arrive, in order."""
        relay = await stage.relay() if self.claims("wire") else None
        pair = await stage.pair(relay=relay)
        sent = []
        for number in range(_PACED):
            if isinstance(relay, UdpRelay) and number % 20 == 7:
                relay.drop("up", 1)
            data = b"%d" % number
            assert pair.near.send_datagram(data), "a paced datagram was dropped"
            sent.append(data)
            await stage.settle(3)
        await stage.until(lambda: len(pair.far.datagrams) >= _PACED, f"all of {_PACED} datagrams")
        assert not difference_in_lists(pair.far.datagrams, sent)

    @capability("datagrams", claimed=False)
    @staged
    async def test_datagrams_absent_is_a_capability_error(self, stage: Stage) -> None:
        """``send_datagram`` raises CapabilityError that names ``datagrams``; ``max_datagram_size()`` is 0."""
        pair = await stage.pair()
        for end in pair.ends:
            refuses(partial(end.send_datagram, b"x"), "datagrams")
            assert end.connection.max_datagram_size() == 0
