"""Records what a control reader calls, as tuples: what two readers made of the same bytes can then be compared."""

from __future__ import annotations

from echostream_core.errors import CloseCode, RemoteProtocolError
from echostream_core.types import Buffer
from echostream_core.wire.control import ControlReader
from echostream_core.wire.limits import Limits
from echostream_core.wire.setup import Setup
from tests.support.feeding import Feed

__all__ = ["MINIMAL_SETUP", "ControlRecorder", "Outcome", "control_reader", "outcome_of"]

MINIMAL_SETUP = bytes.fromhex("010000000700000001 05 046a736f6e")
"""The vector setup/setup-minimal."""

Calls = list[tuple[object, ...]]
Outcome = tuple[Calls, CloseCode | None]
"""The calls, and the code of the error that ended them."""


class ControlRecorder:
    """A receiver that writes down every call; what it is lent it copies."""

    def __init__(self) -> None:
        self.calls: Calls = []
        self.setup: Setup | None = None

    def on_setup(self, setup: Setup) -> None:
        self.setup = setup
        self.calls.append(("setup", setup.codecs))

    def on_call(
        self,
        number: int,
        method: str,
        codec: int,
        timeout_ms: int,
        priority: int,
        metadata: Buffer | None,
        payload: Buffer,
    ) -> None:
        shown = None if metadata is None else bytes(metadata).hex()
        self.calls.append(("call", number, method, codec, timeout_ms, priority, shown, bytes(payload).hex()))

    def on_response(self, number: int, flags: int, codec: int, payload: Buffer) -> None:
        self.calls.append(("response", number, flags, codec, bytes(payload).hex()))

    def on_cancel(self, number: int) -> None:
        self.calls.append(("cancel", number))

    def on_ping(self, value: int) -> None:
        self.calls.append(("ping", value))

    def on_pong(self, value: int) -> None:
        self.calls.append(("pong", value))

    def on_goaway(self, number: int | None, code: int, reason: str) -> None:
        self.calls.append(("goaway", number, code, reason))

    def on_flow(self, subscription: int, paused: bool) -> None:
        self.calls.append(("flow", subscription, paused))

    def on_synced(self, number: int) -> None:
        self.calls.append(("synced", number))

    def on_ignored(self, kind: int) -> None:
        self.calls.append(("ignored", kind))


def control_reader(*, limits: Limits | None = None, setup: bool = True) -> tuple[ControlReader, ControlRecorder]:
    """A reader and its recorder; with ``setup`` it has received the smallest SETUP, which is not recorded."""
    recorder = ControlRecorder()
    reader = ControlReader(recorder, limits or Limits())
    if setup:
        reader.receive(MINIMAL_SETUP)
        recorder.calls.clear()
    return reader, recorder


def outcome_of(
    feed: Feed, data: bytes, following: bytes = b"", *, limits: Limits | None = None, setup: bool = True
) -> Outcome:
    """What a fresh reader makes of ``data`` and ``following``; any other exception than the peer's fault passes."""
    reader, recorder = control_reader(limits=limits, setup=setup)
    try:
        feed(reader.receive, data, following)
    except RemoteProtocolError as error:
        return recorder.calls, error.close_code
    return recorder.calls, None
