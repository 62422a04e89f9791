"""The discovery backend under test: two of it, watchers that keep what they saw, and what must not be left over."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import ClassVar

import pytest

from echostream_core.discovery import Announcement, Discovery, DiscoverySpec, Endpoint
from echostream_testkit.spec_checks import SpecChecks

__all__ = ["DiscoverySubject", "Known", "Watcher", "left_over", "resources"]

Known = Mapping[str, Endpoint]
"""A snapshot by instance; one of all services by ``SERVICE/INSTANCE``."""


class Watcher:
    """One watch in a task of its own: an async context manager that keeps every snapshot."""

    def __init__(self, discovery: Discovery, service: str | None, patience_s: float) -> None:
        self.snapshots: list[Known] = []
        """Copies, made as they came."""
        self.originals: list[Sequence[Endpoint]] = []
        self._discovery = discovery
        self._service = service
        self._patience_s = patience_s
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told = False

    async def __aenter__(self) -> Watcher:
        self._task = asyncio.get_running_loop().create_task(self._read())
        self._task.add_done_callback(lambda task: self._news.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = self._task
        assert task is not None
        task.cancel()
        await asyncio.wait([task], timeout=self._patience_s)
        assert task.done(), f"a watch that is cancelled goes on after {self._patience_s} s"
        if error is None and not self._told and not task.cancelled() and task.exception() is not None:
            raise AssertionError(f"the watch failed: {task.exception()!r}") from task.exception()

    async def until(self, what: str, condition: Callable[[Known], bool]) -> Known:
        """The first snapshot from now on, the present one included, for which ``condition`` holds."""
        try:
            async with asyncio.timeout(self._patience_s):
                while not (self.snapshots and condition(self.snapshots[-1])):
                    assert self._task is not None
                    if self._task.done():
                        failure = None if self._task.cancelled() else self._task.exception()
                        raise AssertionError(f"the watch has ended ({failure!r}) before this: {what}") from failure
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            seen = f"the last of {len(self.snapshots)} snapshots: {_shown(self.snapshots[-1:])}"
            raise AssertionError(f"not within {self._patience_s} s: {what}; {seen}") from None
        return self.snapshots[-1]

    async def ended(self) -> BaseException | None:
        """Wait for the watch to end by itself; the answer is what it raised, None when it just ended."""
        assert self._task is not None
        await asyncio.wait([self._task], timeout=self._patience_s)
        assert self._task.done(), f"the watch has not ended within {self._patience_s} s"
        self._told = True
        return self._task.exception()

    async def _read(self) -> None:
        stream = self._discovery.watch() if self._service is None else self._discovery.watch(self._service)
        try:
            async for snapshot in stream:
                known = {_key(endpoint, self._service): endpoint for endpoint in snapshot}
                assert len(known) == len(snapshot), f"an instance stands twice in {snapshot!r}"
                for endpoint in snapshot:
                    _check_form(endpoint, self._service)
                self.originals.append(snapshot)
                self.snapshots.append(known)
                self._news.set()
        finally:
            if (close := getattr(stream, "aclose", None)) is not None:
                await close()


class DiscoverySubject(SpecChecks):
    """What a class of the discovery suite says of its backend, and how the checks get at it.

    Two backend objects stand for two processes: nothing but the backend's own medium may connect them.
    """

    kind: ClassVar[str] = "discovery"
    import_budget: ClassVar[int] = 250
    """asyncio alone is some 40 modules."""
    patience_s: ClassVar[float] = 5.0
    """How many seconds a change may take until the other side sees it."""
    quiet_s: ClassVar[float] = 0.3
    """How many seconds to listen for what must not come: longer than the backend's own delays."""
    longest_value: ClassVar[int] = 200
    """Characters of ASCII that the backend carries in the value of one attribute."""

    def spec(self) -> DiscoverySpec:
        """The backend's spec; see :meth:`SpecChecks.spec`."""
        found = super().spec()
        assert isinstance(found, DiscoverySpec)
        return found

    def discovery(self) -> Discovery:
        """One more backend object, with the class's ``options``."""
        return self.spec().factory(self.option_struct())

    async def kill(self, announcement: Announcement) -> None:
        """Let the announcer vanish without a goodbye, as a killed process does. Override it where that can be done."""
        pytest.fail("override kill() for this backend, or name the check in known_gaps with the reason")

    def new_service(self) -> str:
        """A service name that nobody else on the medium uses, of 12 characters."""
        return f"check{secrets.token_hex(3)}x"

    def endpoint(self, service: str, instance: str = "one", port: int = 4001, **attributes: str) -> Endpoint:
        """An endpoint as a server would announce it."""
        url = f"tcp://127.0.0.1:{port}"
        return Endpoint(service=service, instance=instance, urls=(url,), attributes={"id": instance, **attributes})

    def watch(self, discovery: Discovery, service: str | None) -> Watcher:
        """Watch ``service`` (None: all of them) within an ``async with``."""
        return Watcher(discovery, service, self.patience_s)

    @asynccontextmanager
    async def backends(self) -> AsyncIterator[tuple[Discovery, Discovery]]:
        """Two backends that are closed at the end, after which nothing of them may be left."""
        before = resources()
        one, two = self.discovery(), self.discovery()
        try:
            yield one, two
        finally:
            await self.closed(one)
            await self.closed(two)
        await self.nothing_left(before)

    async def closed(self, discovery: Discovery) -> None:
        """Close a backend, within the patience."""
        try:
            async with asyncio.timeout(self.patience_s):
                await discovery.close()
        except TimeoutError:
            raise AssertionError(f"close() has not returned within {self.patience_s} s") from None

    async def nothing_left(self, before: tuple[set[asyncio.Task[object]], int]) -> None:
        """Tasks and file descriptors are those of ``before`` again, at the latest after ``quiet_s``."""
        until = asyncio.get_running_loop().time() + self.quiet_s
        while (left := left_over(before)) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(self.quiet_s / 10)
        assert not left, f"left after close(): {left}"


def resources() -> tuple[set[asyncio.Task[object]], int]:
    """The tasks of this loop, and how many file descriptors are open (0 where the system does not tell)."""
    try:
        descriptors = len(os.listdir("/dev/fd"))
    except OSError:
        descriptors = 0
    return set(asyncio.all_tasks()), descriptors


def left_over(before: tuple[set[asyncio.Task[object]], int]) -> str:
    """What has been added since ``before``, in words; empty when nothing has."""
    tasks, descriptors = resources()
    added = [repr(task.get_coro()) for task in tasks - before[0] if not task.done()]
    if descriptors > before[1]:
        added.append(f"{descriptors - before[1]} file descriptors")
    return ", ".join(added)


def _key(endpoint: Endpoint, service: str | None) -> str:
    return endpoint.instance if service is not None else f"{endpoint.service}/{endpoint.instance}"


def _check_form(endpoint: object, service: str | None) -> None:
    assert isinstance(endpoint, Endpoint), f"a snapshot holds a {type(endpoint).__name__} instead of an Endpoint"
    assert service in (None, endpoint.service), f"a snapshot of {service!r} holds an endpoint of {endpoint.service!r}"
    assert isinstance(endpoint.urls, tuple) and endpoint.urls, f"urls are a tuple, not {endpoint.urls!r}"
    texts = [endpoint.instance, *endpoint.urls, *endpoint.attributes, *endpoint.attributes.values()]
    assert all(type(text) is str for text in texts), f"all of an endpoint is text, but this is not: {endpoint!r}"


def _shown(snapshots: list[Known]) -> str:
    return "none" if not snapshots else repr(list(snapshots[0].values()))[:400]
