"""What one check has: listeners, connected ends, a relay, patience, and an orderly end for all of them."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import socket
import stat
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from echostream_core import RpcClient, RpcServer
from echostream_core.errors import EchoStreamError
from echostream_core.testing import as_connection
from echostream_core.transport import Acceptor, Connection, Listener, Pipe
from echostream_core.types import Priority, Url
from echostream_testkit.transport.recording import End, Line, PipeEnd, Rules
from echostream_testkit.transport.relay import Relay, StreamRelay, UdpRelay

if TYPE_CHECKING:
    from echostream_testkit.transport.subject import Carrier, TransportSubject

__all__ = ["Pair", "Stage", "descriptors", "nothing_unclosed"]

E = TypeVar("E", bound=EchoStreamError)
Role = Literal["listener", "dialer"]

_EAGER_TURNS: Final = 100
"""How often a condition is asked on successive turns of the loop, before it is asked every millisecond."""

_ENDING_TURNS: Final = 10
_QUIET_TURNS: Final = 50
"""Milliseconds of the loop's clock without a change that count as rest."""

_tokens: Final = itertools.count(1)


@dataclass
class Pair:
    """Two connected ends: ``near`` dialled, ``far`` was accepted."""

    near: End
    far: End
    listener: Listener

    @property
    def ends(self) -> tuple[End, End]:
        """Both."""
        return self.near, self.far


class Stage:
    """One check's surroundings. ``close`` ends whatever is still open."""

    def __init__(self, subject: TransportSubject, folder: Path) -> None:
        self.subject = subject
        self.folder = folder
        self.rules = Rules()
        self.accepted: list[End] = []
        """The ends that listeners of this stage have accepted, in their order."""
        self.waiting_for = ""
        self._made: list[Connection | Pipe] = []
        self._listeners: list[Listener] = []
        self._relays: list[Relay] = []
        self._closers: list[Callable[[], Awaitable[object]]] = []

    # Listening and dialling

    def url(self) -> str:
        """An address to listen at."""
        return self.subject.listening_url(self.folder)

    async def listen(self, url: str = "", accept: Acceptor | None = None) -> Listener:
        """Listen; without ``accept`` what comes is started, and kept in ``accepted``."""
        listener = await self.subject.transport().listen(
            Url.parse(url or self.url()), self.subject.built_options("listen"), accept or self.accept
        )
        self._listeners.append(listener)
        return listener

    def accept(self, made: Connection | Pipe) -> None:
        """The usual acceptor."""
        self.accepted.append(self.end(made, "listener").start())

    async def dial(self, address: str, **changes: object) -> Connection | Pipe:
        """Dial; ``changes`` are options for this one."""
        made = await self.subject.transport().dial(Url.parse(address), self.subject.built_options("dial", **changes))
        self._made.append(made)
        return made

    def end(self, made: Connection | Pipe, role: Role) -> End:
        """An end above a connection, or above the kernel's mux on a pipe."""
        self._made.append(made)
        connection = as_connection(made, role)
        self._made.append(connection)
        expects_control = role == "listener" and self.subject.claims("streams")
        return End(connection, self.rules, expects_control=expects_control)

    async def connect(self, address: str) -> tuple[End, End]:
        """Dial ``address``, start both ends and open the control substream, as sessions do."""
        count = len(self.accepted)
        near = self.end(await self.dial(address), "dialer").start()
        if not self.subject.claims("streams"):
            await self.until(lambda: len(self.accepted) > count, "the listener to accept the connection")
            return near, self.accepted[count]
        token = b"<%d>" % next(_tokens)
        near.open_control().write(token)

        def far() -> Line | None:  # a listener may be given others meanwhile: somebody who tries whether it is there
            controls = (end.control for end in self.accepted[count:])
            return next((control for control in controls if control and control.data.endswith(token)), None)

        await self.until(far, "the control substream's first bytes")
        control = far()
        assert control is not None
        control.data.clear()
        return near, control.end

    async def pair(self, *, relay: Relay | None = None) -> Pair:
        """Listen, and connect two ends; through ``relay`` if given."""
        listener = await self.listen()
        address = listener.addresses[0]
        if relay is not None:
            address = await relay.start(address)
        near, far = await self.connect(address)
        return Pair(near, far, listener)

    async def pipes(self) -> tuple[PipeEnd, PipeEnd, Listener]:
        """Two connected bare pipes: dialled and not started, accepted and started."""
        accepted: list[PipeEnd] = []

        def accept(made: Connection | Pipe) -> None:
            self._made.append(made)
            assert isinstance(made, Pipe), "the accepted connection is no Pipe"
            accepted.append(PipeEnd(made, self.rules).start())

        listener = await self.listen(accept=accept)
        made = await self.dial(listener.addresses[0])
        assert isinstance(made, Pipe), "what was dialled is no Pipe"
        await self.until(lambda: accepted, "the listener to accept the pipe")
        return PipeEnd(made, self.rules), accepted[0], listener

    async def refused(self, attempt: Awaitable[object], kind: type[E], what: str) -> E:
        """The error of ``kind`` with which ``attempt`` fails; any other, or none, fails the check."""
        try:
            made = await attempt
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, kind):
                return error
            if isinstance(error, asyncio.CancelledError):
                raise
            raise AssertionError(f"{what}: {kind.__name__} is due, not {type(error).__name__}: {error}") from error
        if isinstance(made, (Connection, Pipe)):
            self._made.append(made)
        raise AssertionError(f"{what}: {kind.__name__} is due, but it succeeded")

    async def nobody_listens(self) -> str:
        """An address that was bound and is free again."""
        listener = await self.listen()
        address = listener.addresses[0]
        await listener.close()
        return address

    async def rpc(
        self, *handlers: object, on_client: Sequence[object] = (), limits: Mapping[str, float] | None = None
    ) -> tuple[RpcServer, RpcClient]:
        """A server with ``handlers``, and a client that is connected to it and serves ``on_client``."""
        subject = self.subject
        kernel, scheme = subject.kernel(), subject.scheme
        server = RpcServer(
            self.url(), *handlers, transport={scheme: subject.section("listen")}, limits=limits, kernel=kernel
        )
        self.closes(lambda: server.close(drain=0.0))
        await server.start()
        client = await RpcClient.connect(
            server.addresses[0],
            *on_client,
            transport={scheme: subject.section("dial")},
            limits=limits,
            kernel=kernel,
        )
        self.closes(client.close)
        return server, client

    def made(self) -> Sequence[Connection | Pipe]:
        """Every connection and pipe of this stage."""
        return tuple(self._made)

    def forget(self, *ends: End) -> None:
        """Keep nothing of connections that have ended, so that others who keep them show."""
        forgotten = [end.connection for end in ends]
        pipes = [getattr(connection, "pipe", connection) for connection in forgotten]
        self._made = [made for made in self._made if not any(made is one for one in (*forgotten, *pipes))]
        self.accepted = [end for end in self.accepted if not any(end is one for one in ends)]

    # Relays

    async def carrier(self) -> Carrier:
        """What carries the bytes: what the class says, or the kind of socket that a listener opens."""
        static = self.subject.static_carrier()
        if static != "ip":
            return static
        before = descriptors()
        listener = await self.listen()
        kinds = {_socket_kind(number) for number in descriptors() - before}
        await listener.close()
        found: tuple[Carrier, ...] = ("tcp", "udp", "unix")
        for kind in found:
            if kind in kinds:
                return kind
        raise AssertionError("what carries the bytes cannot be found out: set the class attribute carrier")

    async def relay(self) -> Relay:
        """A relay of the right kind, not started yet."""
        carrier = await self.carrier()
        assert carrier != "none", "there is no wire to look at: set the class attribute carrier"
        relay: Relay = UdpRelay() if carrier == "udp" else StreamRelay(unix=carrier == "unix")
        relay.folder = self.folder
        self._relays.append(relay)
        return relay

    async def quiet(self, relay: Relay) -> None:
        """Wait until nothing has passed for a while."""
        last, turns = -1, 0
        while turns < _QUIET_TURNS:
            passed = sum(relay.passed.values())
            turns = turns + 1 if passed == last else 0
            last = passed
            await asyncio.sleep(0.001)

    # Patience

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Return once ``condition`` holds; the check's own patience ends what never will."""
        self.waiting_for = what
        turns = 0
        while not condition():
            turns += 1
            await asyncio.sleep(0 if turns < _EAGER_TURNS else 0.001)
        self.waiting_for = ""

    async def settle(self, turns: int = 40) -> None:
        """Some turns of the loop, for what must not happen."""
        for _ in range(turns):
            await asyncio.sleep(0)

    async def closed(self, end: End | PipeEnd, what: str = "") -> EchoStreamError | None:
        """Wait for ``on_closed``, and give what it said."""
        await self.until(lambda: end.closed, what or "on_closed")
        return end.closed[0]

    async def over(self, line: Line, what: str = "") -> None:
        """Wait until the peer's direction is over: ``on_end`` or ``on_reset``."""
        await self.until(lambda: line.over, what or "on_end or on_reset")

    async def stopped(self, line: Line, what: str = "on_stop") -> None:
        """Wait for ``on_stop``."""
        await self.until(lambda: line.stops, what)

    async def datagram(self, end: End, what: str = "a datagram") -> None:
        """Wait for a datagram."""
        await self.until(lambda: end.datagrams, what)

    async def accepted_line(self, end: End, number: int = 0) -> Line:
        """The ``number``-th substream that the peer of ``end`` opened."""
        await self.until(lambda: len(end.lines) > number, f"substream {number} to be announced")
        return end.lines[number]

    async def line(self, pair: Pair, first: bytes = b"x", *, priority: Priority = Priority.NORMAL) -> tuple[Line, Line]:
        """A substream that both ends know, and whose first bytes have come: its dialling half, its accepted half."""
        count = len(pair.far.lines)
        near = pair.near.open(priority)
        near.write(first)
        far = await self.accepted_line(pair.far, count)
        await self.until(lambda: len(far.data) >= len(first), "the first bytes of a substream")
        far.data.clear()
        return near, far

    async def echo_line(self, pair: Pair) -> Line:
        """The dialling half of a substream whose other half writes back what it gets."""
        near, far = await self.line(pair)
        far.echoes = True
        return near

    async def received(self, line: Line | PipeEnd, size: int, what: str = "bytes") -> bytes:
        """Wait for ``size`` bytes."""
        await self.until(lambda: len(line.data) >= size, f"{size} {what}")
        return bytes(line.data)

    async def round_trips(self, line: Line, count: int) -> None:
        """Send a byte ``count`` times over a substream whose peer echoes, each after the answer to the one before."""
        for _ in range(count):
            size = len(line.data)
            line.write(b"?")
            await self.received(line, size + 1, "bytes of an echo")

    async def warmed(self) -> tuple[set[asyncio.Task[Any]], frozenset[int]]:
        """Use the transport once, so that what is made once and kept is there; then, which tasks and descriptors are.

        A cache, a buffer, or what an event loop opens with its first connection, is no leak.
        """
        pair = await self.pair()
        pair.near.close()
        for end in pair.ends:
            await self.closed(end)
        await pair.listener.close()
        before, turns = descriptors(), 0
        while turns < _QUIET_TURNS:
            await asyncio.sleep(0.001)
            now = descriptors()
            turns = turns + 1 if now == before else 0
            before = now
        return asyncio.all_tasks(), before

    async def no_more_descriptors_than(self, before: frozenset[int]) -> None:
        """Wait until nothing is open that was not open ``before``."""
        await self.until(lambda: not descriptors() - before, "descriptors to be closed")

    async def no_more_tasks_than(self, before: set[asyncio.Task[Any]]) -> None:
        """Wait until no task runs that did not run ``before``."""
        await self.until(lambda: not asyncio.all_tasks() - before, "tasks to end")

    # The end

    def closes(self, closer: Callable[[], Awaitable[object]]) -> None:
        """Call ``closer`` at the end."""
        self._closers.append(closer)

    async def close(self) -> None:
        """End whatever is still open; errors of what a check has broken are not of interest any more."""
        closing: Sequence[Callable[[], Awaitable[object]]] = [
            *reversed(self._closers),
            *(relay.close for relay in self._relays),
            *(listener.close for listener in self._listeners),
        ]
        for closer in closing:
            try:
                await asyncio.wait_for(closer(), 5.0)
            except (EchoStreamError, OSError, TimeoutError, RuntimeError):
                continue
        for made in self._made:
            try:
                made.abort()
            except (EchoStreamError, OSError, RuntimeError):
                continue
        await self.settle(_ENDING_TURNS)


@contextmanager
def nothing_unclosed() -> Iterator[None]:
    """Fail when something is left for the garbage collector to close: it was forgotten, not ended."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    left = [str(warning.message) for warning in caught if issubclass(warning.category, ResourceWarning)]
    assert not left, f"left for the garbage collector: {'; '.join(left)}"


def descriptors() -> frozenset[int]:
    """The open file descriptors of this process."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        return frozenset(int(name) for name in names if _is_open(int(name)))
    return frozenset(number for number in range(4_096) if _is_open(number))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:  # for instance the listing's own
        return False
    return True


def _socket_kind(number: int) -> str:
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return ""
        copy = os.dup(number)
    except OSError:
        return ""
    with socket.socket(fileno=copy) as sock:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return "unix"
        return "udp" if sock.type == socket.SOCK_DGRAM else "tcp"
