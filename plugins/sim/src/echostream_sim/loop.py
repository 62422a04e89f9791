"""The event loop of a simulation: its clock jumps, its network is simulated, and nothing real gets in.

What would make two runs differ is taken away: sockets and child processes are refused, functions for a thread run at
once on the loop's own, timers of one moment fire in the order in which they were set, and tasks hash to the number in
which they were made, so that a set of them is walked in the same order in every process.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import selectors
import socket
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import nullcontext
from typing import Any, Final, NoReturn, TypeVar

from echostream_core.testing import VirtualLoop
from echostream_sim.entropy import seeded
from echostream_sim.hosts import Host
from echostream_sim.network import Network

__all__ = ["DEFAULT_LIMIT_S", "SimLoop", "simulate"]

T = TypeVar("T")
P = TypeVar("P", bound=asyncio.BaseProtocol)

DEFAULT_LIMIT_S: Final = 30 * 86_400.0
"""How much virtual time a simulation may take: keepalives of a program that hangs would go on for ever."""

_ROUNDING_S: Final = 1e-6
"""More than any error of rounding, and less than any two timers that are meant to differ."""


def simulate(
    main: Coroutine[Any, Any, T],
    *,
    seed: int | None = None,
    network: Network | None = None,
    limit_s: float = DEFAULT_LIMIT_S,
    seed_entropy: bool = True,
    debug: bool | None = None,
) -> T:
    """Run a coroutine on a :class:`SimLoop` to its end and return its result, as ``asyncio.run`` does.

    Give ``network``, or ``seed`` (0) for a new one; the coroutine finds it as ``asyncio.get_running_loop().network``.
    Tasks that still run at the end are cancelled. Raises ``Deadlock`` when everything waits and nothing is under way,
    and TimeoutError when ``limit_s`` seconds of virtual time have passed.

    Meanwhile what the program draws for itself (``os.urandom``, ``random.Random()``) follows from the seed too, or its
    packets would differ from run to run; see ``entropy.py`` for what that means. ``seed_entropy=False`` leaves it real.
    """
    if network is None:
        network = Network(0 if seed is None else seed)
    elif seed is not None and seed != network.seed:
        main.close()
        raise ValueError(f"seed = {seed}, but the network was made with seed {network.seed}: give one of the two")
    try:
        with (
            seeded(network.seed) if seed_entropy else nullcontext(),
            asyncio.Runner(loop_factory=lambda: SimLoop(network, limit_s=limit_s), debug=debug) as runner,
        ):
            return runner.run(main)
    finally:
        main.close()


class SimLoop(VirtualLoop):
    """See the module's docstring. ``network`` is a new one with seed 0 unless given."""

    def __init__(self, network: Network | None = None, *, limit_s: float = DEFAULT_LIMIT_S) -> None:
        super().__init__()
        self.network = network if network is not None else Network()
        self.limit_s = limit_s
        self._timers = 0
        self._tasks = 0
        self._scheduled: list[asyncio.TimerHandle]
        self._selector: selectors.BaseSelector = _Landing(self, self._jumping)
        self.set_task_factory(_make_task)
        try:
            self.network.attach(self)
        except BaseException:
            self.close()
            raise

    @property
    def current_host(self) -> Host:
        """See :meth:`Network.current_host`."""
        return self.network.current_host()

    # The clock: exact, so that a packet is delivered at its time and not a rounding before it.

    @property
    def _clock_resolution(self) -> float:
        """Timers fire that are due within this time. The smallest step of the clock: none fires early, and none is
        missed when the clock has run so far that a nanosecond is less than such a step.
        """
        return math.ulp(self.time())

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        """The base class sets what the system's clock has; ours is its own."""

    def _landed(self) -> None:
        """The clock has jumped: put it where the next timer stands. asyncio keeps timers in ``_scheduled``, a heap."""
        if self._scheduled:
            when = self._scheduled[0].when()
            if abs(when - self._jumping.now) < _ROUNDING_S:
                self._jumping.now = when
        if self._jumping.now > self.limit_s:
            raise TimeoutError(
                f"the simulation passed {self.limit_s:g} s of virtual time: does something wait for ever while timers "
                "keep it alive? Raise limit_s if it should run so long"
            )

    def _next_task(self) -> int:
        self._tasks += 1
        return self._tasks

    def call_at(  # type: ignore[override]  # the typeshed's variadic types, which Any gives back
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, but timers of one moment fire in the order in which they were set."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        self._timers += 1
        timer = _OrderedTimer(self._timers, when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    # Threads: a function for one runs at once, for the clock does not wait for threads.

    def run_in_executor(  # type: ignore[override]  # as above
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run ``func(*args)`` at once, on this thread and in no virtual time; the future is done when this returns."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    # The network.

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], P],
        local_addr: tuple[str, int] | None = None,
        remote_addr: tuple[str, int] | None = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[asyncio.DatagramTransport, P]:
        """A UDP endpoint of the current host, as asyncio's; see ``udp.py``. No sockets, no broadcast, no IPv6."""
        from echostream_sim.udp import open_endpoint

        if sock is not None:
            _refuse("create_datagram_endpoint(sock=...)")
        if allow_broadcast:
            _refuse("create_datagram_endpoint(allow_broadcast=True)")
        return await open_endpoint(self, protocol_factory, local_addr, remote_addr, family=family)

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """The addresses of a host of the network, in the form of ``socket.getaddrinfo``; gaierror for unknown names."""
        from echostream_sim.udp import resolve

        return resolve(self.network, host, port, family=family, type=type, flags=flags)

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """The name of the host that has an address; the address itself when none has it."""
        address, port = sockaddr[:2]
        host = self.network.find_host(address)
        return (host.name if host is not None else address), str(port)


def _refuse(what: str) -> NoReturn:
    raise NotImplementedError(
        f"{what}: a simulation has no real sockets, pipes or processes, for the virtual clock would not wait for them; "
        "use the transport sim://, create_datagram_endpoint or Host.bind"
    )


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refused(self: SimLoop, *args: object, **options: object) -> NoReturn:
        _refuse(name)

    refused.__name__ = name
    refused.__doc__ = "Refused: NotImplementedError."
    return refused


for _name in (
    "add_reader",
    "add_writer",
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "sendfile",
    "sock_accept",
    "sock_connect",
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_recvfrom_into",
    "sock_sendall",
    "sock_sendfile",
    "sock_sendto",
    "start_tls",
    "subprocess_exec",
    "subprocess_shell",
):
    setattr(SimLoop, _name, _refusing(_name))


class _OrderedTimer(asyncio.TimerHandle):
    """A timer that knows its turn among those of the same moment."""

    def __init__(
        self,
        number: int,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._order = (when, number)
        self._scheduled: bool  # asyncio's mark of a timer that stands in its heap

    def __lt__(self, other: object) -> bool:
        return self._order < other._order if isinstance(other, _OrderedTimer) else NotImplemented


class _NumberedTask(asyncio.Task[T]):
    """A task whose hash is its number on the loop: sets of tasks have one order, which addresses would not give."""

    def __init__(self, number: int, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], **options: Any) -> None:
        self._number = number  # before asyncio puts the task into its set of all
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Generator[Any, None, T] | Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    assert isinstance(loop, SimLoop)
    return _NumberedTask(loop._next_task(), coro, loop=loop, **options)


class _Landing(selectors.BaseSelector):
    """Lands the virtual clock exactly on the next timer, where adding up differences would miss it by a rounding."""

    def __init__(self, loop: SimLoop, inner: selectors.BaseSelector) -> None:
        self._loop = loop
        self._inner = inner

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._inner.select(timeout)
        if timeout and not events:
            self._loop._landed()
        return events

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()

    def close(self) -> None:
        self._inner.close()
