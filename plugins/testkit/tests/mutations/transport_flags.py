"""Transports that lack, or have, one thing of ``Capabilities``; with an honest record, and with one that lies.

Each :class:`Flag` is a transport that is honest as it stands: it passes every check. ``lie`` is the same transport
with one field of its record changed, in the spec and on every connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from echostream_core.builtin.memory_connection import CAPABILITIES
from echostream_core.capabilities import Capabilities
from echostream_core.errors import CapabilityError
from echostream_core.transport import Connection, TransportSpec
from echostream_core.types import Buffer
from plugins.testkit.tests.mutations.transport_greeting import GreetingPipe, HastyTransport
from plugins.testkit.tests.mutations.transport_mutation import native, pipe
from plugins.testkit.tests.mutations.transport_native import LayeredConnection, LayeredSubstream
from plugins.testkit.tests.mutations.transport_pipe import PLAIN_CAPABILITIES, PlainPipe, PlainTransport
from plugins.testkit.tests.mutations.transport_wired import WIRED_CAPABILITIES, WiredTransport, wired_spec

__all__ = ["CLAIMS", "DISHONEST", "LIES", "MODESTIES", "Lie"]

Base = Literal["native", "plain", "wired"]
Build = Callable[[Capabilities], TransportSpec]


@dataclass(frozen=True, kw_only=True)
class Lie:
    """One transport, and one field of its record that is wrong."""

    field: str
    """The field of ``Capabilities``."""
    says: bool | str
    """What the liar says there."""
    base: Base
    build: Build
    """Makes the spec, with a given record."""
    truth: Capabilities
    """The honest record."""
    caught_by: tuple[str, ...]
    """Checks that must find it, whatever others of the flag do so too."""
    what: str = ""
    """What the transport is, where the field does not say it."""

    @property
    def name(self) -> str:
        """The test's id."""
        level = self.says if isinstance(self.says, str) else ""
        verb = "hides" if self.says in (False, "none") else "claims"
        return " ".join(filter(None, (self.base, self.what, verb, self.field, level)))

    def honest(self) -> TransportSpec:
        """The transport as it is."""
        return self.build(self.truth)

    def lying(self) -> TransportSpec:
        """The transport as it says it is."""
        return self.build(replace(self.truth, **{self.field: self.says}))  # type: ignore[arg-type]  # a field's value


# What lacks something, and says so when it is asked for.


class NoReset(LayeredSubstream):
    def reset(self, code: int) -> None:
        raise CapabilityError("this transport cannot reset a substream", capability="reset")

    def stop(self, code: int) -> None:
        raise CapabilityError("this transport cannot stop a substream", capability="reset")


class NoHalfClose(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        if end:
            raise CapabilityError("this transport cannot end one direction alone", capability="half_close")
        return super().write(buffers)


class NoCredit(LayeredSubstream):
    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        super().write(buffers, end)
        return True

    def on_writable(self) -> None:
        pass

    def on_data(self, data: Buffer, /) -> None:
        self.inner.consume(len(data))
        super().on_data(data)

    def consume(self, size: int) -> None:
        pass


class NoDatagrams(LayeredConnection):
    def send_datagram(self, data: Sequence[Buffer], expires_at: float | None = None) -> bool:
        return Connection.send_datagram(self, data, expires_at)

    def max_datagram_size(self) -> int:
        return 0


class KnowsThePeer(PlainPipe):
    """Claims nothing, and yet tells who the peer is."""

    peer_identity = "uid:0"


class HidesBytes(PlainPipe):
    """Nobody on the way can read what travels: not for secrets, but a check does not know that."""

    def write(self, buffers: Sequence[Buffer]) -> bool:
        return super().write([b"".join(buffers).translate(_SCRAMBLED)])

    def data_received(self, data: bytes) -> None:
        super().data_received(data.translate(_SCRAMBLED))


_SCRAMBLED: Final = bytes(number ^ 0x55 for number in range(256))


class SharesItsPort(PlainTransport):
    """Any number of listeners may have one address; who leaves takes what waited for it along."""

    reuse_port = True


def _native(**parts: Any) -> Build:
    return lambda record: native("", capabilities=record, **parts).spec


def _plain(**parts: Any) -> Build:
    return lambda record: pipe("", capabilities=record, **parts).spec


def _wired(record: Capabilities) -> TransportSpec:
    class Transport(WiredTransport):
        capabilities = record

    return wired_spec(Transport, record)


def _of_memory(field: str, says: bool | str, *caught_by: str, what: str = "", **parts: Any) -> Lie:
    """About the native transport. ``parts`` are its classes; what they lack, the honest record lacks."""
    was = getattr(CAPABILITIES, field)
    truth = CAPABILITIES
    if parts:
        truth = replace(truth, **{field: "none" if isinstance(was, str) else False})  # type: ignore[arg-type]  # likewise
    if field == "in_process":
        truth = replace(truth, encrypted=False)  # that it is secret follows from it
    return Lie(
        field=field, says=says, base="native", build=_native(**parts), truth=truth, caught_by=caught_by, what=what
    )


def _of_pipe(field: str, says: bool | str, *caught_by: str, what: str = "", **parts: Any) -> Lie:
    build = _plain(**parts)
    return Lie(
        field=field, says=says, base="plain", build=build, truth=PLAIN_CAPABILITIES, caught_by=caught_by, what=what
    )


def _of_wired(field: str, says: bool | str, *caught_by: str) -> Lie:
    return Lie(field=field, says=says, base="wired", build=_wired, truth=WIRED_CAPABILITIES, caught_by=caught_by)


CLAIMS: Final = (
    _of_memory("streams", "muxed", "test_streams_muxed_yield_pipes"),
    _of_pipe("streams", "native", "test_streams_native_yield_connections"),
    _of_memory("datagrams", "native", "test_datagrams_arrive_whole", connection=NoDatagrams),
    _of_pipe("datagrams", "native", "test_datagrams_arrive_whole", "test_datagrams_have_a_largest_size"),
    _of_pipe("datagrams", "emulated", "test_datagrams_arrive_whole", "test_datagrams_emulated_keep_their_order"),
    _of_wired("datagrams", "native", "test_datagrams_native_are_not_repeated"),
    _of_memory("reset", True, "test_reset_code_arrives_exactly", substream=NoReset),
    _of_memory("half_close", True, "test_half_close_ends_our_direction_only", substream=NoHalfClose),
    _of_memory(
        "flow_control",
        True,
        "test_flow_control_bounds_unread_bytes",
        "test_flow_control_write_answers_false",
        substream=NoCredit,
    ),
    _of_pipe("early_data", "replayable", "test_early_data_arrives_before_the_handshake"),
    _of_memory("early_data", "replayable", "test_early_data_arrives_before_the_handshake"),
    _of_pipe("migration", True, "test_migration_survives_a_change_of_address"),
    _of_memory("migration", True, "test_migration_survives_a_change_of_address"),
    _of_pipe("peer_identity", True, "test_peer_identity_claim_is_negotiated"),
    _of_memory("peer_identity", True, "test_peer_identity_claim_is_negotiated"),
    _of_pipe(
        "encrypted",
        True,
        "test_encrypted_hides_what_travels",
        "test_encrypted_verifies_the_listener",
    ),
    _of_pipe("socket_handover", True, "test_socket_handover_loses_no_connection"),
    _of_memory("socket_handover", True, "test_socket_handover_loses_no_connection"),
    _of_pipe("in_process", True, "test_in_process_uses_no_socket"),
    _of_memory("priorities", True, "test_priorities_urgent_overtakes_bulk", "test_priorities_can_be_changed"),
)
"""A claim of what is not there."""

MODESTIES: Final = (
    _of_memory("streams", "none", "test_streams_none_refuse_substreams"),
    _of_memory("datagrams", "none", "test_datagrams_absent_is_a_capability_error"),
    _of_wired("datagrams", "none", "test_datagrams_absent_is_a_capability_error"),
    _of_memory("reset", False, "test_reset_absent_is_a_capability_error"),
    _of_pipe("reset", False, "test_reset_absent_is_a_capability_error"),
    _of_memory("half_close", False, "test_half_close_absent_is_a_capability_error"),
    _of_pipe("half_close", False, "test_half_close_absent_is_a_capability_error"),
    _of_memory("flow_control", False, "test_flow_control_absent_delivers_without_credit"),
    _of_pipe("flow_control", False, "test_flow_control_absent_delivers_without_credit"),
    _of_memory("in_process", False, "test_in_process_absent_can_be_dialled_from_another_process"),
    Lie(
        field="early_data",
        says="none",
        base="plain",
        build=_plain(pipe=GreetingPipe, transport=HastyTransport),
        truth=replace(PLAIN_CAPABILITIES, early_data="replayable"),
        caught_by=("test_early_data_absent_waits_for_the_handshake",),
        what="that greets",
    ),
    _of_pipe("priorities", False, "test_priorities_absent_keep_the_order"),
    _of_wired("priorities", False, "test_priorities_absent_keep_the_order"),
)
"""Of what is there, nothing is said: whoever needs it looks elsewhere, and who does not must not stumble over it."""

DISHONEST: Final = (
    _of_pipe(
        "peer_identity", False, "test_peer_identity_absent_is_none", what="that knows the peer", pipe=KnowsThePeer
    ),
    _of_pipe("encrypted", False, "test_encrypted_absent_shows_what_travels", what="that scrambles", pipe=HidesBytes),
    _of_pipe(
        "socket_handover",
        False,
        "test_socket_handover_absent_refuses_a_second_listener",
        what="that shares its port",
        transport=SharesItsPort,
    ),
)
"""Modesty too, of transports that have what it is about only in part, so that no record of theirs would be honest."""

LIES: Final = (*CLAIMS, *MODESTIES, *DISHONEST)
