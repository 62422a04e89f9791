"""The transport under test: what a class says of it, what the kernel knows of it, and how a check is run."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar
from weakref import WeakKeyDictionary

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.hookspecs import hookimpl
from echostream_core.kernel import Kernel
from echostream_core.testing import VirtualLoop
from echostream_core.transport import Transport, TransportSpec
from echostream_core.types import Url
from echostream_testkit.transport.stage import Stage

__all__ = ["Carrier", "TransportSubject", "staged"]

Carrier = Literal["tcp", "udp", "unix", "none"]

S = TypeVar("S", bound="TransportSubject")

_names: Final = itertools.count(1)
_records: Final[WeakKeyDictionary[type, Capabilities]] = WeakKeyDictionary()
"""Asked for by every check, several times; a class tests one configuration."""


def staged(function: Callable[[S, Stage], Awaitable[None]]) -> Callable[[S], None]:
    """Make a check of a coroutine function: it runs on a loop of its own, and what it leaves open is ended.

    The loop is the class's ``loop_factory``, so that the same check runs on a virtual clock, and whatever plugins
    for asynchronous tests a project has, or has not.
    """

    def check(self: S) -> None:
        self.perform(function)

    check.__name__ = function.__name__
    check.__qualname__ = function.__qualname__
    check.__module__ = function.__module__
    check.__doc__ = function.__doc__
    return check


class TransportSubject:
    """What a user of the suite writes: ``url``, ``options`` and, if need be, the rest."""

    kind: ClassVar[str] = "transport"
    url: ClassVar[str]
    """Where to listen. ``{folder}`` becomes a new, short folder and ``{name}`` a new name for each listener."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The section ``[transport.SCHEME]`` of the listening side, and of the dialling side unless that has its own."""
    dial_options: ClassVar[Mapping[str, Any] | None] = None
    """The dialling side's section, where it differs."""
    known_gaps: ClassVar[Mapping[str, str]] = {}
    """Check → reason. Strict: an entry whose check passes fails, and so does one that names no check."""
    carrier: ClassVar[Carrier | None] = None
    """What carries the bytes between the two ends, for the checks that look at the wire or cut it. None: found out."""
    loop_factory: ClassVar[Callable[[], asyncio.AbstractEventLoop]] = asyncio.new_event_loop
    """Makes the event loop of each check."""
    patience_s: ClassVar[float] = 20.0
    """What one check may take, by its loop's clock. A bound for what never ends; nothing is measured with it."""
    max_modules: ClassVar[int] = 60
    """Modules that importing the plugin's entry point may load beside the kernel's own."""
    max_unread_bytes: ClassVar[int] = 2_097_152
    """Bytes of one substream that may be delivered, or accepted before ``write`` answers False, while nobody reads."""

    # What is tested

    def spec(self) -> TransportSpec:
        """The transport's spec: what the kernel finds for the URL's scheme. Override it to test one in code."""
        return Kernel().transport(self.scheme)

    @property
    def scheme(self) -> str:
        """The scheme of ``url``."""
        return self.url.partition("://")[0]

    def kernel(self) -> Kernel:
        """A kernel that answers the scheme with ``spec()``, wherever that comes from."""
        kernel, spec = Kernel(), self.spec()
        if self.scheme not in kernel.known("transport") or kernel.transport(self.scheme) != spec:
            kernel.register(_OneTransport(spec), name="conformance")
        return kernel

    def transport(self) -> Transport:
        """A new transport."""
        return self.spec().factory()

    def built_options(self, side: Literal["listen", "dial"], **changes: object) -> msgspec.Struct:
        """The validated options of one side, with ``changes``."""
        spec = self.spec()
        return Kernel().build_options(spec, {**self.section(side), **changes}, key=f"transport.{spec.scheme}")

    def section(self, side: Literal["listen", "dial"]) -> Mapping[str, Any]:
        """The options of one side as they would stand in a file."""
        return self.dial_options if side == "dial" and self.dial_options is not None else self.options

    def record(self) -> Capabilities:
        """The configured capabilities, by which the checks are selected: what the kernel reads, too."""
        found = _records.get(type(self))
        if found is None:
            spec = self.spec()
            found = spec.factory().configured(self.built_options("listen"), spec.capabilities)
            _records[type(self)] = found
        return found

    def claims(self, need: str) -> bool:
        """Whether a capability is claimed; ``wire`` is there where bytes travel that a relay can see."""
        if need == "wire":
            return self.static_carrier() != "none"
        return not self.record().unmet([need])

    def static_carrier(self) -> Carrier | Literal["ip"]:
        """The carrier as far as the class tells; ``ip`` is TCP or UDP, which shows once something listens."""
        if self.carrier is not None:
            return self.carrier
        factory = type(self).loop_factory
        if isinstance(factory, type) and issubclass(factory, VirtualLoop):
            return "none"
        url = Url.parse(self.url.replace("{folder}", "/folder").replace("{name}", "name"))
        if url.port is not None:
            return "ip"
        return "none" if url.host else "unix"

    # How it is run

    def perform(self, function: Callable[[Any, Stage], Awaitable[None]]) -> None:
        """Run one check to its end; AssertionError says what it waited for when it has no end."""
        with asyncio.Runner(loop_factory=type(self).loop_factory) as runner:
            runner.run(self._perform(function))

    async def _perform(self, function: Callable[[Any, Stage], Awaitable[None]]) -> None:
        complaints: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(_complaint(context)))
        folder = Path(tempfile.mkdtemp(prefix="es"))  # the path of a Unix socket has 107 bytes at most
        stage = Stage(self, folder)
        try:
            async with asyncio.timeout(self.patience_s):
                await function(self, stage)
        except TimeoutError as error:
            waited = f"waiting for: {stage.waiting_for}" if stage.waiting_for else "not waiting for anything"
            raise AssertionError(f"no end within {self.patience_s:g} s of the loop's time, {waited}") from error
        finally:
            await stage.close()
            shutil.rmtree(folder, ignore_errors=True)
        assert not complaints, f"the event loop was told of: {'; '.join(complaints)}"

    def listening_url(self, folder: Path) -> str:
        """``url`` with its placeholders filled in, anew each time."""
        number = next(_names)
        if "{folder}" in self.url:
            (folder / str(number)).mkdir()
        return self.url.replace("{folder}", str(folder / str(number))).replace("{name}", f"conformance-{number}")


class _OneTransport:
    """A plugin that offers one spec."""

    def __init__(self, spec: TransportSpec) -> None:
        self._spec = spec

    @hookimpl
    def echostream_transports(self) -> list[TransportSpec]:
        """Offer it."""
        return [self._spec]


def _complaint(context: Mapping[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message')}" + (f" ({error!r})" if error is not None else "")
