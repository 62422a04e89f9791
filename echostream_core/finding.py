"""Finding servers by name: a discovery backend's snapshots, filtered, ordered, and turned into addresses to dial."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from echostream_core.complaints import printable
from echostream_core.dialing import check_credentials
from echostream_core.discovery import DEFAULT_WEIGHT, Discovery, Endpoint
from echostream_core.engine.endpoint import EndpointSettings, Target
from echostream_core.errors import ConfigError, ConnectFailed, EchoStreamError, TransportError
from echostream_core.kernel import Kernel, default_kernel
from echostream_core.types import Url

if TYPE_CHECKING:
    from echostream_core.config import Config

__all__ = [
    "Backend",
    "Finder",
    "Where",
    "by_weight",
    "discovery_factory",
    "find_endpoints",
    "matches",
    "watch_endpoints",
]

Backend = str | Mapping[str, Mapping[str, object]] | Discovery | None
"""A discovery backend: its name, ``{name: options}``, one that is there already, or None for the only one installed."""

Where = Mapping[str, str | Collection[str]] | Callable[[Endpoint], bool] | None
"""Which endpoints: attribute → value or values, or a function that judges an endpoint; None: all of them."""

LISTED: Final = frozenset({"transports", "codecs"})
"""Attributes that hold several names, comma-separated: one of them has to be the wanted one."""

TRUST: Final = ("dev", "pin", "ca", "server_name")
"""TLS settings that say whom to trust, beyond whoever has a certificate for his own address."""
_SAY_WHOM: Final = "say whom to trust with tls.server_name, tls.ca or tls.pin, or set insecure_credentials = true"

MIN_DIAL_S: Final = 3.0
"""What a found address has at the least to answer, however short the time for finding one is: a handshake takes that
long where packets are lost."""
_logger = logging.getLogger("echostream.discovery")


def check_where(where: Where) -> None:
    """ConfigError for what is no ``Where``: else the first endpoint that is found would be blamed."""
    if where is None or callable(where):
        return
    if not isinstance(where, Mapping):
        raise ConfigError(f"where must be a table of attributes or a function, not {where!r}", key="where")
    for key, wanted in where.items():
        texts = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(texts, Collection) or not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                f"where: {key!r} must be a text or a list of texts, as attributes are, not {wanted!r}", key="where"
            )


def matches(endpoint: Endpoint, where: Where) -> bool:
    """Whether ``endpoint`` is one of those that ``where`` names."""
    if where is None:
        return True
    if callable(where):
        return bool(where(endpoint))
    for key, wanted in where.items():
        value = endpoint.attributes.get(key)
        if value is None:
            return False
        values = {part.strip() for part in value.split(",")} if key in LISTED else {value}
        if values.isdisjoint({wanted} if isinstance(wanted, str) else wanted):
            return False
    return True


def by_weight(endpoints: Sequence[Endpoint], randomness: random.Random) -> list[Endpoint]:
    """``endpoints`` in an order drawn by their weights; those of weight 0 come last.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: the keys ``u ** (1 / weight)``.
    """

    def key(endpoint: Endpoint) -> tuple[float, float]:
        weight, drawn = weight_of(endpoint), randomness.random()
        return (drawn ** (1 / weight), 0.0) if weight else (-1.0, drawn)

    drawn = [(key(endpoint), endpoint) for endpoint in sorted(endpoints, key=lambda one: one.instance)]
    return [endpoint for _, endpoint in sorted(drawn, key=lambda pair: pair[0], reverse=True)]


def weight_of(endpoint: Endpoint) -> int:
    """The endpoint's weight; what is no whole number from 0 on counts as the default."""
    text = endpoint.attributes.get("weight", "")
    return min(int(text), 1_000_000) if text.isascii() and text.isdecimal() and len(text) < 10 else DEFAULT_WEIGHT


def discovery_factory(kernel: Kernel, backend: Backend, config: Config | None = None) -> Callable[[], Discovery]:
    """What makes the backend, options checked; one that was handed in is answered as it is.

    Raises PluginNotFound or another PluginError when there is none, ConfigError for wrong options or when there are
    several to choose from.
    """
    if isinstance(backend, Discovery):
        return partial(_same, backend)
    given: Mapping[str, object] | None = None
    if isinstance(backend, Mapping):
        if len(backend) != 1:
            raise ConfigError("discovery={...} names one backend with its options: {'name': {...}}", key="discovery")
        ((backend, given),) = backend.items()
    if backend is not None and not isinstance(backend, str):
        raise ConfigError(
            f"discovery must be a backend, its name or {{name: options}}, not {backend!r}", key="discovery"
        )
    spec = kernel.default_discovery() if backend is None else kernel.discovery(backend)
    if given is None and config is not None:
        options = config.options(kernel, "discovery", spec.name)
    else:
        options = kernel.build_options(spec, given, key=f"discovery.{spec.name}")
    return lambda: spec.factory(options)


def _same(backend: Discovery) -> Discovery:
    return backend


@asynccontextmanager
async def _opened(factory: Callable[[], Discovery], backend: Backend) -> AsyncIterator[Discovery]:
    """The backend for the time of an ``async with``; one that was handed in is left open."""
    made = factory()
    try:
        yield made
    finally:
        if made is not backend:
            await made.close()


async def watch_endpoints(
    service: str | None = None,
    *,
    where: Where = None,
    discovery: Backend = None,
    kernel: Kernel | None = None,
    config: Config | None = None,
) -> AsyncGenerator[list[Endpoint], None]:
    """Snapshots of the endpoints of ``service`` (None: of all services) that match, by service and instance: at once
    what is known, perhaps nothing yet, then again after every change.

    Close it (``contextlib.aclosing``) when you are done. Raises PluginError and ConfigError for a backend that there is
    not, TransportError when it cannot be reached.
    """
    check_where(where)
    factory = discovery_factory(kernel or default_kernel(), discovery, config)
    async with _opened(factory, discovery) as backend:
        told: list[Endpoint] | None = None
        async with _closing(backend.watch(service)) as snapshots:
            async for snapshot in snapshots:
                found = sorted(
                    (endpoint for endpoint in snapshot if matches(endpoint, where)),
                    key=lambda endpoint: (endpoint.service, endpoint.instance),
                )
                if found != told:
                    told = found
                    yield list(found)


async def find_endpoints(
    service: str | None = None,
    *,
    where: Where = None,
    timeout: float = 2.0,
    discovery: Backend = None,
    kernel: Kernel | None = None,
    config: Config | None = None,
) -> list[Endpoint]:
    """The endpoints of ``service`` (None: of all services) that are found within ``timeout`` seconds.

    It always takes that long: nobody can know that no further one will answer. Raises as ``watch_endpoints``.
    """
    if not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ConfigError(f"timeout must be a number of seconds from 0 on, not {timeout!r}", key="timeout")
    found: list[Endpoint] = []
    stream = watch_endpoints(service, where=where, discovery=discovery, kernel=kernel, config=config)
    async with aclosing(stream):
        try:
            async with asyncio.timeout(timeout) as limit:
                async for snapshot in stream:
                    found = snapshot
        except TimeoutError:
            if not limit.expired():
                raise
    return found


class Finder:
    """Candidates for dialling that a discovery backend finds, with a fixed list to fall back on."""

    def __init__(
        self,
        settings: EndpointSettings,
        service: str,
        *,
        where: Where = None,
        transports: Sequence[str] = (),
        fallback: Sequence[str] = (),
        timeout: float,
        discovery: Backend = None,
        insecure_credentials: bool = False,
    ) -> None:
        if not service:
            raise ConfigError("discover: name the service, as its server advertises it", key="discover")
        if not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
            raise ConfigError(f"timeout must be a number of seconds above 0, not {timeout!r}", key="timeout")
        check_where(where)
        self._settings = settings
        self._service = service
        self._where = where
        self._transports = [scheme.lower() for scheme in _listed(transports)]
        self._timeout = timeout
        self._discovery = discovery
        self._insecure = insecure_credentials
        self._randomness = random.Random()
        self._fallback = settings.targets(_listed(fallback)) if fallback else []
        for scheme in self._transports:
            settings.kernel.transport(scheme)
        self._factory = discovery_factory(settings.kernel, discovery, settings.config)
        if not insecure_credentials:
            _check_trust(settings)
            for target in self._fallback:
                check_credentials(settings, target)
        self._misfits: dict[str, str] = {}

    async def candidates(self) -> AsyncGenerator[Target, None]:
        """What a ``Dialer`` asks: found ones as long as there is time, then the fallback."""
        count = 0
        problem: TransportError | None = None
        self._misfits = {}
        try:
            async with _opened(self._factory, self._discovery) as backend, aclosing(self._found(backend)) as found:
                async for target in found:
                    count += 1
                    yield replace(target, patience_s=max(self._timeout, MIN_DIAL_S))
        except TransportError as error:
            _logger.warning("discovery of %r failed: %s", self._service, error)
            problem = error
        except EchoStreamError:
            raise
        except Exception as error:  # the plugin's own code: the fallback is there for whatever happens to it
            _logger.exception("discovery of %r failed: the discovery backend has failed", self._service)
            problem = TransportError(f"the discovery backend has failed with {type(error).__name__}")
            problem.__cause__ = error
        if self._fallback:
            _logger.warning("%s; falling back to the list of URLs", self._summary() if not count else "none answered")
        for target in self._fallback:
            count += 1
            yield target
        if not count and problem is not None:
            raise ConnectFailed(f"discovery of {self._service!r} failed: {problem}") from problem
        if not count:
            raise ConnectFailed(self._summary())

    async def _found(self, backend: Discovery) -> AsyncGenerator[Target, None]:
        """The targets of each snapshot that were not tried yet, until the time is up.

        An endpoint of which no target worked is suspected: the backend verifies it while others are tried. Where the
        first dial alone took all the time, one more is tried, as unlike it as there is: else one server behind a
        firewall would hide all others.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        dials = 0
        last: tuple[tuple[str, str], Target] | None = None
        tried: set[tuple[tuple[str, str], Url]] = set()
        suspicions: set[asyncio.Task[None]] = set()
        try:
            async with _closing(backend.watch(self._service)) as snapshots:
                while (snapshot := await _next(snapshots, until)) is not None:
                    present = {_life(endpoint) for endpoint in snapshot}
                    tried = {key for key in tried if key[0] in present}
                    fitting = [endpoint for endpoint in snapshot if self._fits(endpoint)]
                    order = by_weight(fitting, self._randomness)
                    for endpoint in order:
                        life = _life(endpoint)
                        fresh = [target for target in self._targets(endpoint) if (life, target.url) not in tried]
                        for target in fresh:
                            if dials and loop.time() >= until:  # a crowd that does not answer must not hold us up
                                if dials == 1 and last and (other := self._most_unlike(*last, order)):
                                    yield other
                                return
                            dials += 1
                            last = life, target
                            tried.add((life, target.url))
                            yield target
                        if fresh:
                            suspicion = loop.create_task(_suspect(backend, endpoint))
                            suspicions.add(suspicion)
                            suspicion.add_done_callback(suspicions.discard)
        finally:
            for task in suspicions:
                task.cancel()
            if suspicions:
                await asyncio.wait(set(suspicions))

    def _most_unlike(self, life: tuple[str, str], tried: Target, order: Sequence[Endpoint]) -> Target | None:
        """Of all other targets the one that shares least with ``tried``: neither the server nor the transport."""
        others = [(_life(one), target) for one in order for target in self._targets(one) if target.url != tried.url]
        unlike = sorted(others, key=lambda other: (other[0] == life) + (other[1].url.scheme == tried.url.scheme))
        return unlike[0][1] if unlike else None

    def _fits(self, endpoint: Endpoint) -> bool:
        try:
            if matches(endpoint, self._where):
                return True
        except Exception as error:  # the function of our caller, about what anybody on the network may have announced
            why = f"where= has failed for it: {type(error).__name__}: {printable(error)}"
            self._misfits[endpoint.instance] = f"{endpoint.instance!r}: {why}"
            return False
        shown = ", ".join(f"{key}={value!r}" for key, value in sorted(endpoint.attributes.items()))
        self._misfits[endpoint.instance] = f"{endpoint.instance!r} does not match where= ({shown[:200]})"
        return False

    def _targets(self, endpoint: Endpoint) -> list[Target]:
        """What of ``endpoint`` can be dialled with these settings, in our order of transports, else in its own."""
        targets: list[Target] = []
        reasons: list[str] = []
        for text in endpoint.urls:
            try:
                url = Url.parse(text)
                if not str(url).isprintable():  # it would be logged as it is when it does not answer
                    reasons.append(f"the address {ascii(text)[:100]} has signs that cannot be shown")
                    continue
                if self._transports and url.scheme not in self._transports:
                    reasons.append(f"{url.scheme} is not among transports=")
                    continue
                if not url.host and url.scheme not in self._transports:
                    # Else anybody on the network could have us dial a Unix socket of this machine.
                    reasons.append(f"{url.scheme} is used only when transports= lists it")
                    continue
                (target,) = self._settings.targets([text])
                if not self._insecure:
                    check_credentials(self._settings, target)
                    _check_trust_in(self._settings, target)
                targets.append(target)
            except EchoStreamError as error:  # somebody else's URL: what is wrong with it is no fault of our caller's
                reasons.append(str(error))
        if self._transports:
            targets.sort(key=lambda target: self._transports.index(target.url.scheme))
        if not targets:
            listed = "; ".join(dict.fromkeys(reasons)) or "it has no URL"
            self._misfits[endpoint.instance] = f"{endpoint.instance!r} cannot be used: {listed[:400]}"
        return targets

    def _summary(self) -> str:
        """Why there is nothing to dial, in words."""
        text = f"no server that advertises {self._service!r} was found within {self._timeout:g} s"
        if not self._misfits:
            return text
        shown = list(self._misfits.values())[:4]
        more = f"; and {len(self._misfits) - 4} more" if len(self._misfits) > 4 else ""
        return f"{text} that fits: {'; '.join(shown)}{more}"


def _listed(texts: Sequence[str]) -> Sequence[str]:
    """One text is a list of one, as in ``RpcClient.connect``."""
    return [texts] if isinstance(texts, str) else texts


def _life(endpoint: Endpoint) -> tuple[str, str]:
    """The instance, and which of its lives: a server that has started anew is worth another try at its old address."""
    return endpoint.instance, endpoint.attributes.get("server", "")


def _check_trust(settings: EndpointSettings) -> None:
    """ConfigError where no transport is told whom to trust: then credentials could go to whoever announces the service.

    Discovery tells addresses and proves nothing: a certificate that fits an announced address proves only that it is
    that address. What the application itself expects has to be named: a pin, a private authority, or a server's name.
    """
    if not settings.credentials:
        return
    trust = [settings.tls, *(options.get("tls") for options in settings.transport.values())]
    if settings.config is not None and settings.section is not None:
        for tables in (settings.config.transport, settings.section.transport):
            trust += [options.get("tls") for options in tables.values()]
    if not any(isinstance(tls, Mapping) and any(tls.get(key) for key in TRUST) for tls in trust):
        raise ConfigError(f"credentials are not sent to whoever announces the service: {_SAY_WHOM}", key="credentials")


def _check_trust_in(settings: EndpointSettings, target: Target) -> None:
    """The same for one address: what was said of one transport does not hold for another one that is announced."""
    if not settings.credentials or target.spec.capabilities.in_process:
        return
    tls = getattr(target.options, "tls", None)
    if not any(getattr(tls, key, None) for key in TRUST):
        raise ConfigError(
            f"credentials are not sent over {target.url.scheme}:// to whoever announces it: {_SAY_WHOM}",
            key="credentials",
        )


async def _suspect(backend: Discovery, endpoint: Endpoint) -> None:
    try:
        await backend.suspect(endpoint)
    except TransportError as error:
        _logger.debug("%r could not be verified: %s", endpoint.instance, error)
    except Exception:  # the plugin's own code: others are tried meanwhile
        _logger.exception("%r could not be verified: the discovery backend has failed", endpoint.instance)


async def _next(snapshots: AsyncIterator[Sequence[Endpoint]], until: float) -> Sequence[Endpoint] | None:
    """The next snapshot; None when the time is up or there are no more."""
    try:
        async with asyncio.timeout_at(until) as limit:
            return await anext(snapshots, None)
    except TimeoutError:
        if not limit.expired():
            raise
        return None


@asynccontextmanager
async def _closing(snapshots: AsyncIterator[Sequence[Endpoint]]) -> AsyncIterator[AsyncIterator[Sequence[Endpoint]]]:
    """``snapshots``, closed at the end where it can be: an iterator of a backend need not be a generator."""
    try:
        yield snapshots
    finally:
        close = getattr(snapshots, "aclose", None)
        if close is not None:
            await close()
