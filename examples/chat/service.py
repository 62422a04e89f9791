"""The server's side: rooms with history and presence, who somebody is, and the call by which something is said."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from echostream_core import Context, RpcError, StatusCode, handler, service
from echostream_core.components import Credentials, PeerInfo
from echostream_rooms import Rooms
from examples.chat.protocol import MAX_TEXT, Said, check_name, clean

__all__ = ["Chat", "make_rooms", "name_of"]

_LIMITS: Final = {"history_count": 1_000, "history_age_s": 7 * 86_400.0, "max_members_per_room": 500}
_LEASE_S: Final = 5.0
"""Those who were connected to a server that was killed are shown as lost after so long."""


def make_rooms(history: Path | None) -> Rooms:
    """The rooms. With a file their history outlives this process, and other servers with the same file share them."""
    if history is None:
        return Rooms(publish=False, limits=_LIMITS)
    options = {"path": str(history), "lease_s": _LEASE_S}
    return Rooms("sqlite", options=options, publish=False, limits=_LIMITS)


async def name_of(credentials: Credentials, peer: PeerInfo) -> str:
    """The authenticator: everybody is who they say they are. A real one would look at more than the name."""
    return check_name(credentials.get("name", ""))


@service("chat")
class Chat:
    """What the rooms themselves do not do. Members may not publish by themselves: what they say is signed here."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    @handler
    async def say(self, room: str, text: str, ctx: Context) -> int:
        """Say something to a room that the caller is in; the number of the message."""
        place = self._rooms[room]
        if ctx.session not in place.local_members.values():
            raise RpcError(StatusCode.FAILED_PRECONDITION, f"you are not in {room}", not_processed=True)
        text = clean(text)
        if not 0 < len(text) <= MAX_TEXT:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"a message has 1 to {MAX_TEXT} characters, not {len(text)}")
        return await place.broadcast("said", Said(ctx.peer_identity or "?", text, time.time()))
