"""One person in one room: what comes in is shown, what is typed is said, and lost connections are lived through."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Final

import msgspec

from echostream_core import DeadlineExceeded, Disconnected, RpcClient, RpcError, StatusCode
from echostream_rooms import JoinedRoom, Message, Presence, Recovery, RoomEvent, join
from examples.chat.protocol import HISTORY, Said, clean
from examples.chat.screen import Screen

__all__ = ["Conversation"]

HELP: Final = "/who: who is here · /quit: leave (also Ctrl-D) · //text: a message that begins with a slash"
_LOOK_S: Final = 0.2
"""How often to look whether the connection is still there."""
_AGAIN_S: Final = 0.1
_PATIENCE: Final = 50
"""Attempts to say something while the room is being joined again."""


class Conversation:
    """Made for one stay in one room."""

    def __init__(self, client: RpcClient, room: str, name: str, screen: Screen) -> None:
        self._client = client
        self._room = room
        self._name = name
        self._screen = screen
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._lost = False
        self._present: dict[str, str] = {}
        """The names of the others by their ids as members."""

    async def hold(self) -> None:
        """Join, talk until the reader leaves, and leave. RpcError when the server refuses us or the room ends."""
        async with join(self._client, self._room, last=HISTORY) as room:
            self._present = {member.id: member.identity or "?" for member in room.members.values()}
            forget = self._client.on_reconnect(self._connected_again)
            self._aside(f"you are in {self._room} as {self._name}; {self._who(room)}. /help says what can be typed")
            tasks = [asyncio.ensure_future(part) for part in self._parts(room)]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                forget()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    def _parts(self, room: JoinedRoom) -> list[Coroutine[Any, Any, None]]:
        return [self._listen(room), self._read(room), self._say(), self._watch()]

    # -- what comes in

    async def _listen(self, room: JoinedRoom) -> None:
        async for event in room.events():
            self._show(room, event)

    def _show(self, room: JoinedRoom, event: RoomEvent) -> None:
        if isinstance(event, Message):
            said = msgspec.convert(event.payload, Said)
            at = datetime.fromtimestamp(said.at).strftime("%H:%M")
            self._screen.show(f"[{at}] {clean(said.author)}: {clean(said.text)}")
        elif isinstance(event, Presence):
            self._show_presence(event)
        elif isinstance(event, Recovery) and event.recovered:
            count = room.position[1] - event.after
            self._aside(f"recovered {count} message{'' if count == 1 else 's'}:")
        else:
            self._aside("some messages are lost: the server does not have them any more")

    def _show_presence(self, event: Presence) -> None:
        """Somebody who connects again is another member of the same name: the old one may be found lost later."""
        name = event.member.identity or "?"
        if event.kind == "joined":
            back = name in self._present.values() and event.member.id not in self._present
            self._present[event.member.id] = name
            self._aside(f"{name} {'is back' if back else 'has joined'}")
            return
        self._present.pop(event.member.id, None)
        if name not in self._present.values():
            self._aside(f"{name} {'has left' if event.kind == 'left' else 'has lost the connection'}")

    async def _watch(self) -> None:
        """Tell the reader that the connection is lost, as soon as that is known."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if not self._lost and not self._client.connected:
                self._lost = True
                self._aside("the connection is lost; waiting for the server")

    def _connected_again(self) -> None:
        self._aside("connected again" if self._lost else "the connection was lost, and is back")
        self._lost = False

    # -- what is typed

    async def _read(self, room: JoinedRoom) -> None:
        async for line in self._screen.lines():
            line = line.strip()
            if line == "/quit":
                break
            if line == "/who":
                self._aside(self._who(room))
            elif line.startswith("/") and not line.startswith("//"):
                self._aside(HELP if line == "/help" else f"there is no {line.split()[0]}. {HELP}")
            elif line:
                self._outbox.put_nowait(line.removeprefix("/"))
        await self._outbox.join()

    async def _say(self) -> None:
        """Say one thing after the other, so that they stay in order; the reader can go on typing meanwhile."""
        while True:
            text = await self._outbox.get()
            try:
                await self._say_once_joined(text)
            except Disconnected as error:
                doubt = "not sent" if error.not_processed else "perhaps not sent, look"
                self._aside(f"{doubt}: {text}")
            except DeadlineExceeded:
                self._aside(f"not sent, the server is away: {text}")
            except RpcError as error:
                self._aside(f"not sent, {error.message}: {text}")
            finally:
                self._outbox.task_done()

    async def _say_once_joined(self, text: str) -> None:
        for attempt in range(_PATIENCE):
            try:
                await self._client.request("chat.say", {"room": self._room, "text": text})
                return
            except RpcError as error:  # connected again, and the room not yet joined again
                if error.code != StatusCode.FAILED_PRECONDITION or attempt == _PATIENCE - 1:
                    raise
            await asyncio.sleep(_AGAIN_S)

    def _who(self, room: JoinedRoom) -> str:
        others = sorted({member.identity or "?" for member in room.members.values()})
        if not others:
            return "nobody else is here"
        return f"here {'are' if len(others) > 1 else 'is'} {', '.join(others)}, and you"

    def _aside(self, text: str) -> None:
        self._screen.show(f"-- {text}", aside=True)
