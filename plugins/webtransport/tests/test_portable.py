"""Event loops that cannot watch sockets."""

from __future__ import annotations

from plugins.quic.tests.recording import Ends
from plugins.quic.tests.unwatching import UnwatchingLoop

LOOPS = {"unwatching": UnwatchingLoop}


async def test_a_session_works_through_the_loops_own_datagram_endpoints(ends: Ends) -> None:
    near, far = await ends.open()
    near.write(bytes(1_000_000), end=True)
    assert len(await far.ended()) == 1_000_005
    ends.far.send_datagram(b"datagram")
    await ends.near.until(lambda: ends.near.datagrams)
    ends.near.close(7, "enough")
    assert "enough" in str(await ends.far.ended())
