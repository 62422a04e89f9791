"""How often a peer may do what costs it nothing."""

from __future__ import annotations

from echostream_core.errors import CloseCode, RemoteProtocolError

__all__ = ["Rate"]


class Rate:
    """Counts in windows of one second; ``limit`` is ``what`` per second, ``name`` its name in ``Limits``."""

    __slots__ = ("_begin", "_count", "_limit", "_name", "_what")

    def __init__(self, name: str, limit: int, what: str) -> None:
        self._name = name
        self._limit = limit
        self._what = what
        self._begin = 0.0
        self._count = 0

    def count(self, now: float) -> None:
        """One more at ``now``, in seconds; RemoteProtocolError when it is one too many."""
        if now - self._begin >= 1.0:
            self._begin = now
            self._count = 0
        self._count += 1
        if self._count > self._limit:
            raise RemoteProtocolError(
                f"more than {self._name} ({self._limit}) {self._what} in a second", close_code=CloseCode.LIMIT
            )
