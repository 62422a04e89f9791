"""What a connection does on its path: data before the handshake is complete, and a change of address."""

from __future__ import annotations

import asyncio
from typing import Final

from echostream_core.errors import ConnectionLost
from echostream_core.transport import Connection, Pipe
from echostream_testkit.checks import capability, needs
from echostream_testkit.transport.relay import Relay, UdpRelay
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["PathChecks"]

_PACKETS: Final = 3


class PathChecks(TransportSubject):
    """The flags ``early_data`` and ``migration``."""

    @capability("early_data")
    @needs("streams")
    @staged
    async def test_early_data_arrives_before_the_handshake(self, stage: Stage) -> None:
        """The first dial waits for the listener's answer; a later one does not, and its first bytes arrive without."""
        relay = await stage.relay()
        address = await relay.start((await stage.listen()).addresses[0])
        assert not await _returns_without_answer(stage, relay, address), (
            "a dial returned before the listener had answered anything: there is no handshake that data could precede"
        )
        relay.release("down")
        await stage.connect(address)
        assert await _returns_without_answer(stage, relay, address), "early data is claimed, and yet a later dial waits"

    @capability("early_data", claimed=False)
    @needs("streams")
    @needs("wire")
    @staged
    async def test_early_data_absent_waits_for_the_handshake(self, stage: Stage) -> None:
        """Where the first dial waits for the listener's answer, later ones do, whatever was left in some cache."""
        relay = await stage.relay()
        address = await relay.start((await stage.listen()).addresses[0])
        if await _returns_without_answer(stage, relay, address):
            return  # no handshake beyond the carrier's own: there is nothing that data could precede
        relay.release("down")
        await stage.connect(address)
        await stage.quiet(relay)
        assert not await _returns_without_answer(stage, relay, address), (
            "early_data is not claimed, and yet a dial returned before the listener had answered"
        )

    @capability("migration")
    @needs("streams")
    @staged
    async def test_migration_survives_a_change_of_address(self, stage: Stage) -> None:
        """The dialer's address changes on the way: bytes go on in both directions, and nobody is told of an end."""
        assert self.claims("wire"), "there is no address that could change: set the class attribute carrier"
        relay = await stage.relay()
        pair = await stage.pair(relay=relay)
        line = await stage.echo_line(pair)
        await stage.round_trips(line, 3)
        for _ in range(2):
            await relay.move()
            await stage.round_trips(line, 5)
        assert not pair.near.closed and not pair.far.closed

    @capability("migration", claimed=False)
    @needs("streams")
    @needs("wire")
    @staged
    async def test_migration_absent_ends_with_the_address(self, stage: Stage) -> None:
        """Without ``migration`` a change of address ends the connection, or nothing from the new one is delivered."""
        relay = await stage.relay()
        pair = await stage.pair(relay=relay)
        near, far = await stage.line(pair)
        await relay.move()
        if isinstance(relay, UdpRelay):
            packets = relay.packets["up"]
            near.write(b"from another address")
            await stage.until(
                lambda: pair.near.closed or relay.packets["up"] >= packets + _PACKETS, "packets from the new address"
            )
            await stage.settle()
            assert not far.data, "migration is not claimed, and yet bytes from another address were delivered"
            return
        near.write(b"is anybody there")
        for end in pair.ends:
            error = await stage.closed(end)
            assert isinstance(error, ConnectionLost), f"the change of address was told as {error!r}"


async def _returns_without_answer(stage: Stage, relay: Relay, address: str) -> bool:
    """Whether a dial returns, and its first bytes arrive, while the listener's answers are held back."""
    relay.hold("down")
    accepted = len(stage.accepted)
    dialling: asyncio.Task[Connection | Pipe] = asyncio.ensure_future(stage.dial(address))
    held = relay.withheld["down"]
    await stage.until(lambda: dialling.done() or relay.withheld["down"] > held, "the listener's first answer")
    await stage.settle()
    if not dialling.done():
        dialling.cancel()
        await asyncio.wait({dialling})
        return False
    near = stage.end(dialling.result(), "dialer").start()
    near.open_control()
    await stage.until(
        lambda: len(stage.accepted) > accepted and stage.accepted[accepted].control is not None, "early bytes"
    )
    return True
