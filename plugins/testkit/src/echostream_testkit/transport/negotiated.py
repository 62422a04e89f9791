"""Claims: what a connection negotiated is what the configured record says, flag by flag.

The record that the kernel reads when it checks ``require = [...]`` must not promise what connections then lack, nor
hide what they have.
"""

from __future__ import annotations

from echostream_testkit.checks import capability
from echostream_testkit.transport.stage import Stage
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["NegotiatedChecks"]


class NegotiatedChecks(TransportSubject):
    """One check per field of ``Capabilities``; each holds whether the field is claimed or not."""

    @capability("streams", claimed=None)
    @staged
    async def test_streams_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records have the level of ``streams`` that the configured record has."""
        await _agree(self, stage, "streams")

    @capability("datagrams", claimed=None)
    @staged
    async def test_datagrams_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records have the level of ``datagrams`` that the configured record has."""
        await _agree(self, stage, "datagrams")

    @capability("reset", claimed=None)
    @staged
    async def test_reset_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records say of ``reset`` what the configured record says."""
        await _agree(self, stage, "reset")

    @capability("half_close", claimed=None)
    @staged
    async def test_half_close_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records say of ``half_close`` what the configured record says."""
        await _agree(self, stage, "half_close")

    @capability("flow_control", claimed=None)
    @staged
    async def test_flow_control_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records say of ``flow_control`` what the configured record says."""
        await _agree(self, stage, "flow_control")

    @capability("early_data", claimed=None)
    @staged
    async def test_early_data_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records have the level of ``early_data`` that the configured record has."""
        await _agree(self, stage, "early_data")

    @capability("migration", claimed=None)
    @staged
    async def test_migration_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records say of ``migration`` what the configured record says."""
        await _agree(self, stage, "migration")

    @capability("peer_identity")
    @staged
    async def test_peer_identity_claim_is_negotiated(self, stage: Stage) -> None:
        """The accepting side is told who the dialer is: a text, the same for two connections of one dialer."""
        await _agree(self, stage, "peer_identity")
        first = (await stage.pair()).far.connection.peer_identity
        second = (await stage.pair()).far.connection.peer_identity
        assert isinstance(first, str) and first, f"peer_identity of an accepted connection is {first!r}"
        assert first == second, f"one dialer is {first!r}, then {second!r}"

    @capability("peer_identity", claimed=False)
    @staged
    async def test_peer_identity_absent_is_none(self, stage: Stage) -> None:
        """No accepted connection says who its peer is, and no record that it could."""
        await _agree(self, stage, "peer_identity")
        identity = (await stage.pair()).far.connection.peer_identity
        assert identity is None, f"peer_identity is not claimed, and yet it is {identity!r}"

    @capability("encrypted", claimed=None)
    @staged
    async def test_encrypted_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records say of ``encrypted`` what the configured record says."""
        await _agree(self, stage, "encrypted")

    @capability("socket_handover", claimed=None)
    @staged
    async def test_socket_handover_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records say of ``socket_handover`` what the configured record says."""
        await _agree(self, stage, "socket_handover")

    @capability("in_process", claimed=None)
    @staged
    async def test_in_process_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records say of ``in_process`` what the configured record says."""
        await _agree(self, stage, "in_process")

    @capability("priorities", claimed=None)
    @staged
    async def test_priorities_claim_is_negotiated(self, stage: Stage) -> None:
        """Both ends' records say of ``priorities`` what the configured record says."""
        await _agree(self, stage, "priorities")


async def _agree(subject: TransportSubject, stage: Stage, flag: str) -> None:
    pair = await stage.pair()
    configured = getattr(subject.record(), flag)
    for side, end in (("dialling", pair.near), ("accepting", pair.far)):
        negotiated = getattr(end.connection.capabilities, flag)
        assert negotiated == configured, (
            f"{flag}: the configured record says {configured!r}, the {side} side's connection {negotiated!r}"
        )
