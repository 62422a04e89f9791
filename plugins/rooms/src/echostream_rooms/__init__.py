"""Rooms for EchoStream: members, presence, history and recovery. The hook implementation, and the public names."""

from __future__ import annotations

import msgspec

from echostream_core.components import ComponentSpec
from echostream_core.hookspecs import hookimpl
from echostream_rooms.backplane import Backplane, BackplaneError, Page, Receive, Record, Retention
from echostream_rooms.client import JoinedRoom, Joining, RoomsClient, join
from echostream_rooms.client_state import Recovery, RoomEvent
from echostream_rooms.limits import RoomLimits
from echostream_rooms.memory_backplane import MemoryBackplane, MemoryOptions
from echostream_rooms.records import Member, Message, Presence
from echostream_rooms.rooms import Action, Authorise, Room, Rooms
from echostream_rooms.sqlite_backplane import SqliteBackplane, SqliteOptions

__all__ = [
    "Action",
    "Authorise",
    "Backplane",
    "BackplaneError",
    "JoinedRoom",
    "Joining",
    "Member",
    "MemoryBackplane",
    "MemoryOptions",
    "Message",
    "Page",
    "Presence",
    "Receive",
    "Record",
    "Recovery",
    "Retention",
    "Room",
    "RoomEvent",
    "RoomLimits",
    "Rooms",
    "RoomsClient",
    "SqliteBackplane",
    "SqliteOptions",
    "echostream_components",
    "join",
]


def _memory(options: msgspec.Struct) -> Backplane:
    assert isinstance(options, MemoryOptions)
    return MemoryBackplane(options)


def _sqlite(options: msgspec.Struct) -> Backplane:
    assert isinstance(options, SqliteOptions)
    return SqliteBackplane(options)


@hookimpl
def echostream_components() -> tuple[ComponentSpec, ...]:
    """The two backplanes of this distribution. The kind ``backplane``: factory(options) → ``Backplane``."""
    return (
        ComponentSpec(
            kind="backplane",
            name="memory",
            factory=_memory,
            options=MemoryOptions,
            summary="Rooms within one process; nothing outlives it",
        ),
        ComponentSpec(
            kind="backplane",
            name="sqlite",
            factory=_sqlite,
            options=SqliteOptions,
            summary="Rooms in a file: history outlives the process, processes of one machine share it",
        ),
    )
