"""Answers that overtake the peer's SETUP wait for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from echostream_core.transport import Substream, SubstreamReceiver
from echostream_core.types import Buffer
from echostream_core.wire.states import State

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["Early", "start_substream"]


def start_substream(session: Session, substream: Substream, receiver: SubstreamReceiver) -> None:
    """Begin delivery on a substream of ours. What comes back before the peer's SETUP waits for it: its codecs say what
    the numbers in it mean, and on native streams nothing keeps it from overtaking.
    """
    if session.peer_setup is None and session.state is not State.CLOSED:
        receiver = Early(substream, receiver)
        session.wait_for_setup(receiver)
    substream.start(receiver)


class Early:
    """A substream of ours on which answers may come before the peer's SETUP: they wait, unconsumed, for it."""

    __slots__ = ("_receiver", "_substream", "_waiting")

    def __init__(self, substream: Substream, receiver: SubstreamReceiver) -> None:
        self._substream = substream
        self._receiver = receiver
        self._waiting: list[Callable[[], None]] = []

    def proceed(self) -> None:
        """SETUP is here: hand over, in order, what has waited."""
        self._substream.start(self._receiver)
        for deliver in self._waiting:
            deliver()

    def on_data(self, data: Buffer) -> None:
        self._waiting.append(partial(self._receiver.on_data, bytes(data)))

    def on_end(self) -> None:
        self._waiting.append(self._receiver.on_end)

    def on_reset(self, code: int) -> None:
        self._waiting.append(partial(self._receiver.on_reset, code))

    def on_stop(self, code: int) -> None:
        self._receiver.on_stop(code)

    def on_writable(self) -> None:
        self._receiver.on_writable()
