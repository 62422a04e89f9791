"""The service by which a peer subscribes to our events: calls, so that middleware can look at them and refuse."""

from __future__ import annotations

from echostream_core.engine.context import Context
from echostream_core.engine.handlers import handler, service

__all__ = ["Events"]


@service("echostream.events")
class Events:
    """Subscriptions of the calling session."""

    @handler
    def subscribe(
        self, number: int, pattern: str, ctx: Context, policy: str = "block", max_queue: int = 1, key: str | None = None
    ) -> dict[str, int]:
        """Have events sent whose topic matches ``pattern``, as subscription ``number``; the queue granted."""
        return {"max_queue": ctx.session.events.subscribe(number, pattern, policy, max_queue, key)}

    @handler
    def unsubscribe(self, number: int, ctx: Context) -> None:
        """Have no more events sent for subscription ``number``."""
        ctx.session.events.unsubscribe(number)
