"""What the nodes tell each other: messages and presence, as MessagePack in the backplane's records.

A message is ``["message", name, payload, sender, hidden from]``, presence is ``[kind, member]``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any, Literal

import msgspec

from echostream_core import RpcError, StatusCode
from echostream_rooms.backplane import Record
from echostream_rooms.limits import RoomLimits, exhausted

__all__ = [
    "Gone",
    "Member",
    "Message",
    "Presence",
    "decode_record",
    "encode_member",
    "encode_message",
    "encode_presence",
    "encoded_size",
    "hidden_item",
    "member_decoder",
    "wire_item",
]

Gone = Literal["left", "lost"]
_logger = logging.getLogger("echostream.rooms")


class Member(msgspec.Struct, frozen=True):
    """One member of a room."""

    id: str
    """Drawn at random for each time that a session joins a room."""
    identity: str | None = None
    """Who the peer is, proved by its transport or the authenticator; None when nobody has."""
    info: Any = None
    """What it said of itself when it joined. Nobody has checked that."""


class Message(msgspec.Struct, frozen=True):
    """A message of a room."""

    offset: int
    """Its place in the room's log, from 1."""
    name: str
    """What it is, as its publisher calls it; "" when it has no name."""
    payload: Any
    sender: str | None
    """The id of the member that published it; None: the server did."""


class Presence(msgspec.Struct, frozen=True):
    """Somebody came or went."""

    kind: Literal["joined", "left", "lost"]
    """``lost``: its session ended without leaving, or its heartbeat stopped."""
    member: Member


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()
member_decoder = msgspec.msgpack.Decoder(Member)


def encode_message(name: str, payload: object, sender: str | None, hidden: Sequence[str], limits: RoomLimits) -> bytes:
    """The body of a message; RpcError says what is wrong with the payload."""
    try:
        body = _encoder.encode(("message", name, payload, sender, hidden))
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, f"this payload cannot be kept: {error}") from error
    if len(body) > limits.max_payload_bytes:
        raise exhausted(limits, "max_payload_bytes", f"a message of {len(body)} bytes")
    return body


def encode_presence(kind: str, member: Member) -> bytes:
    """The body of a signal of presence."""
    return _encoder.encode((kind, member))


def encode_member(member: Member) -> bytes:
    """A member as the backplane lists it."""
    return _encoder.encode(member)


def encoded_size(value: object) -> int:
    """The bytes that ``value`` takes; RpcError when it cannot be kept."""
    try:
        return len(_encoder.encode(value))
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise RpcError(StatusCode.INVALID_ARGUMENT, f"this info cannot be kept: {error}") from error


def decode_record(record: Record) -> tuple[dict[str, Any], Collection[str]]:
    """What members are told of ``record``, and the ids of those from whom its content is hidden.

    One that cannot be read, of another version perhaps, is hidden from all: its offset must not be a hole.
    """
    try:
        kind, *rest = _decoder.decode(record.body)
        if kind == "message":
            name, payload, sender, hidden = rest
            item = {"kind": kind, "offset": record.offset, "name": name, "payload": payload, "sender": sender}
            return item, hidden
        (member,) = rest
        return {"kind": kind, "member": member}, ()
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        _logger.error("a record of the backplane cannot be read (%s); do all nodes have the same version?", error)
        return hidden_item(record.offset), ()


def hidden_item(offset: int) -> dict[str, Any]:
    """What somebody is told of a message that is not for them."""
    return {"kind": "hidden", "offset": offset}


def wire_item(record: Record, own: Collection[str]) -> dict[str, Any]:
    """A kept message for the member that has, or had, one of the ids ``own``."""
    item, hidden = decode_record(record)
    return hidden_item(record.offset) if any(name in own for name in hidden) else item
