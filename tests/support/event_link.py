"""Both halves of a session's events without a session: bytes pass when a test lets them.

The sender's substream is a buffer that can be told to be full, the receiver's words on the control substream a list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, cast

from echostream_core import CloseCode, Limits, RemoteProtocolError, Session
from echostream_core.builtin.json_codec import JsonCodec
from echostream_core.engine.codecs import SessionCodecs
from echostream_core.engine.event_receiver import EventReceiver
from echostream_core.engine.event_sender import EventSender, OutgoingEvent
from echostream_core.engine.subscriptions import Subscription
from echostream_core.types import Buffer, Priority
from echostream_core.wire.frames import PREFIX, FrameType

__all__ = ["EventLink"]


class _Carried:
    """The sender's end of the events substream."""

    def __init__(self, link: EventLink) -> None:
        self.link = link
        self.reset_code: int | None = None

    def start(self, receiver: object) -> None: ...

    def write(self, buffers: Sequence[Buffer], end: bool = False) -> bool:
        self.link.writes += 1
        self.link.largest_write = max(self.link.largest_write, sum(map(len, buffers)))
        self.link.wire += b"".join(buffers)
        self.link.ended = self.link.ended or end
        self.link.full = self.link.full or len(self.link.wire) > self.link.room
        return not self.link.full

    def consume(self, size: int) -> None: ...

    def reset(self, code: int) -> None:
        self.reset_code = code


class EventLink:
    """A sender and a receiver of events, and what is between them."""

    def __init__(self, *, room: int = 1 << 30, **limits: float) -> None:
        """``room``: bytes on the wire from which on the substream takes no more."""
        self.room = room
        self.limits = Limits(**limits)  # type: ignore[arg-type]  # names are checked by Limits
        self.wire = bytearray()
        self.full = False
        self.ended = False
        self.writes = 0
        self.largest_write = 0
        self.closed: list[tuple[int, str]] = []
        self.flows: list[tuple[int, bool]] = []
        self.synced: list[int] = []
        self.violations: list[RemoteProtocolError] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.controls = 0
        self._head = True
        self.carried = _Carried(self)
        self.near = self._session()
        self.far = self._session()
        self.sender = EventSender(cast("Session", self.far))
        self.receiver = EventReceiver(cast("Session", self.near))
        self.near.events = SimpleNamespace(receiver=self.receiver)

    def _session(self) -> Any:
        codecs = SessionCodecs((JsonCodec(),))
        codecs.settle(("json",))
        session = SimpleNamespace(
            codecs=codecs,
            loop=asyncio.get_running_loop(),
            peer="test://peer",
            pipeline=SimpleNamespace(limits=self.limits, listeners=()),
            outgoing=SimpleNamespace(peer_max_message=self.limits.max_message_bytes),
            connection=SimpleNamespace(open_substream=self._open, flush=lambda: None),
            departure=SimpleNamespace(announced=False, close_if_done=lambda: None),
            disconnected=False,
            send_control=self._control,
            count_control=self._count,
            run_handler=self._run,
            on_violation=self.violations.append,
            _link=SimpleNamespace(blocked=False),
        )
        session.close_now = lambda code, reason: self._close(session, code, reason)
        session.fail = lambda error, code, reason: self._close(session, code, reason)
        return session

    def _open(self, priority: Priority) -> _Carried:
        return self.carried

    def _count(self) -> None:
        self.controls += 1

    def _close(self, session: Any, code: int, reason: str) -> None:
        session.disconnected = True
        self.closed.append((CloseCode(code), reason))

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _control(self, frame: bytes) -> None:
        kind, _, aux, _ = PREFIX.unpack_from(frame)
        number = int.from_bytes(frame[8:12], "little")
        if kind == FrameType.FLOW:
            self.flows.append((number, bool(aux)))
        else:
            self.synced.append(number)

    # What tests call.

    def subscribe(self, pattern: str, **keywords: Any) -> Subscription:
        """A subscription that both ends know."""
        subscription = Subscription(pattern, **keywords)
        number = self.receiver.register(subscription)
        asked: dict[str, Any] = subscription.request(number)
        self.sender.add(number, asked["pattern"], asked["policy"], asked["max_queue"], asked.get("key"))
        return subscription

    def emit(self, topic: str, payload: object) -> OutgoingEvent:
        """Offer one event; whether somebody has to wait stands in its ``full``."""
        event = OutgoingEvent(topic, payload)
        self.sender.offer(event)
        return event

    def pass_bytes(self, size: int = 1 << 30) -> None:
        """Let the receiver have some of what is on the wire."""
        if self._head and self.wire:
            del self.wire[:8]  # the substream's head
            self._head = False
        data = bytes(self.wire[:size])
        del self.wire[:size]
        self.receiver._consume = lambda size: None
        if data:
            self.receiver.on_data(memoryview(data))

    def pass_flows(self) -> None:
        """Let the sender hear what the receiver has said."""
        flows, self.flows = self.flows, []
        for number, paused in flows:
            self.sender.flow(number, paused=paused)

    def make_room(self) -> None:
        """The substream takes more."""
        if self.full:
            self.full = False
            self.sender.on_writable()

    async def turn(self, turns: int = 3) -> None:
        """What is due happens."""
        for _ in range(turns):
            await asyncio.sleep(0)

    async def run_dry(self) -> None:
        """Until nothing moves any more, with nobody reading."""
        while True:
            before = (self.writes, len(self.wire), self.sender.held, len(self.flows))
            self.make_room()
            await self.turn()
            self.pass_bytes()
            self.pass_flows()
            await self.turn()
            if before == (self.writes, len(self.wire), self.sender.held, len(self.flows)) and not self.wire:
                return
