"""A queue that keeps the latest item of each key, in the place of the first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["LatestQueue"]

T = TypeVar("T")


class LatestQueue(Generic[T]):
    """As a ``deque`` as far as it goes, but ``put`` replaces an item that waits under the same key.

    The newer item takes the older one's place: a busy key gains nothing, and a quiet one is not overtaken for ever.
    """

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: OrderedDict[object, T] = OrderedDict()  # a dict grows slow when it loses its first item often

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> T:
        """The first item; no other place is asked for."""
        if place:
            raise IndexError(place)
        for item in self._items.values():
            return item
        raise IndexError(place)

    def put(self, key: object, item: T) -> T | None:
        """Queue ``item``; what it replaced, or None."""
        older = self._items.get(key)
        self._items[key] = item
        return older

    def popleft(self) -> T:
        """Take the first item."""
        if not self._items:
            raise IndexError("the queue is empty")
        return self._items.popitem(last=False)[1]

    def clear(self) -> None:
        """Forget all."""
        self._items.clear()
