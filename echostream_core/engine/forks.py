"""What a fork does to live sessions: they stay the parent's.

Checked once, in the child, instead of with ``os.getpid()`` on each call.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echostream_core.engine.session import Session

__all__ = ["track"]

_live: weakref.WeakSet[Session] = weakref.WeakSet()


def track(session: Session) -> None:
    """Disown ``session`` in every process that is forked from this one: its socket must not be touched there."""
    _live.add(session)


def _after_fork() -> None:
    for session in list(_live):
        session.disown()
    _live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
