"""Announcing a server: what discovery is told of it, for as long as it serves."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from echostream_core.discovery import Advertise, Announcement, Discovery, Endpoint
from echostream_core.engine.endpoint import EndpointSettings, Target
from echostream_core.errors import ConfigError, EchoStreamError, ResourceClosed, TransportError
from echostream_core.finding import Backend, discovery_factory
from echostream_core.types import Url

if TYPE_CHECKING:
    from echostream_core.transport import Listener

__all__ = ["Advertiser", "Bound", "reachable_urls"]

RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 60.0
"""Pauses between attempts to announce, doubling: a laptop without network gets one, and is announced then."""
GOODBYE_S: Final = 2.0
"""How long a server that stops waits for its goodbye to be sent."""

_WILDCARDS: Final = ("", "0.0.0.0", "::")

_logger = logging.getLogger("echostream.discovery")


@dataclass(frozen=True, slots=True)
class Bound:
    """One listener of a server, with what it was asked to bind."""

    target: Target
    listener: Listener


def reachable_urls(bound: Sequence[Bound]) -> tuple[str, ...]:
    """The URLs under which others reach the listeners, in their order; a wildcard host stays one.

    What only this process (memory) or this machine (Unix sockets, loopback addresses) can dial is left out, unless
    there is nothing else: who heard of 127.0.0.1 from another machine would dial his own.
    """
    everywhere: list[str] = []
    loopback: list[str] = []
    here: list[str] = []
    for one in bound:
        for address in one.listener.addresses:
            url = Url.parse(address)
            if one.target.spec.capabilities.in_process or not url.host:
                here.append(address)
            elif one.target.url.host in _WILDCARDS:
                host = "::" if ":" in url.host else "0.0.0.0"
                everywhere.append(str(Url(url.scheme, host, url.port, url.path)))
            elif _is_loopback(url.host):
                loopback.append(address)
            else:
                everywhere.append(address)
    return tuple(dict.fromkeys(everywhere or loopback or here))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Advertiser:
    """Keeps one server announced, in a task of its own: serving does not wait for the network, nor fail with it."""

    def __init__(
        self, settings: EndpointSettings, advertise: Advertise, backend: Backend, codecs: Sequence[str]
    ) -> None:
        if not isinstance(advertise, Advertise):
            raise ConfigError(f"advertise must be a name or an Advertise(...), not {advertise!r}", key="advertise")
        self._advertise = advertise
        self._codecs = ",".join(codecs)
        self._own = not isinstance(backend, Discovery)
        self._make = discovery_factory(settings.kernel, backend, settings.config)
        self.server_id = secrets.token_hex(8)
        self.instance = advertise.instance or f"{_host_name()}-{self.server_id[:8]}"
        self._urls: tuple[str, ...] = ()
        self._discovery: Discovery | None = None
        self._announcement: Announcement | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def announced(self) -> Endpoint | None:
        """What others see now; None before the first announcement and after the goodbye."""
        return None if self._announcement is None else self._announcement.endpoint

    def start(self, bound: Sequence[Bound]) -> None:
        """Begin to announce the listeners."""
        self._urls = self._advertise.urls or reachable_urls(bound)
        self._changed.set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="echostream-advertise")

    def change(self, *, weight: int | None, tags: dict[str, str] | None) -> None:
        """Announce another weight or other tags from now on."""
        if self._task is None or self._task.done():
            raise ResourceClosed("the server is not announced: it has not been started, or is stopping")
        now = self._advertise
        self._advertise = Advertise(
            now.name,
            weight=now.weight if weight is None else weight,
            tags=now.tags if tags is None else dict(tags),
            instance=now.instance,
            urls=now.urls,
        )
        self._changed.set()

    async def stop(self) -> None:
        """Say goodbye, for at most ``GOODBYE_S`` seconds. Never raises for what the network or the backend does."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        announcement, self._announcement = self._announcement, None
        discovery, self._discovery = self._discovery, None
        steps = [announcement.withdraw] if announcement is not None else []
        if discovery is not None and self._own:
            steps.append(discovery.close)  # also when the goodbye hangs: its sockets must not stay
        for step in steps:
            try:
                async with asyncio.timeout(GOODBYE_S / len(steps)):
                    await step()
            except (EchoStreamError, TimeoutError) as error:
                _logger.warning("the goodbye of %r may not have been heard: %s", self.instance, error or "timeout")
            except Exception:  # the plugin's own code: the server stops in order nevertheless
                _logger.exception("the goodbye of %r failed in the discovery backend", self.instance)

    def _endpoint(self) -> Endpoint:
        advertise = self._advertise
        own = {
            "server": self.server_id,
            "transports": ",".join(dict.fromkeys(url.partition("://")[0] for url in self._urls)),
            "codecs": self._codecs,
            "weight": str(advertise.weight),
        }
        return Endpoint(
            service=advertise.name, instance=self.instance, urls=tuple(self._urls), attributes={**own, **advertise.tags}
        )

    async def _run(self) -> None:
        pause = RETRY_FIRST_S
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._announce(self._endpoint())
                pause = RETRY_FIRST_S
            except TransportError as error:
                _logger.warning("%r is not announced: %s; trying again in %g s", self._advertise.name, error, pause)
                self._changed.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_MOST_S)
            except EchoStreamError as error:  # what is announced does not fit the backend: no repetition mends that
                _logger.error("%r cannot be announced: %s", self._advertise.name, error)
            except Exception:  # the plugin's own code: the server goes on without it
                _logger.exception("%r cannot be announced: the discovery backend has failed", self._advertise.name)

    async def _announce(self, endpoint: Endpoint) -> None:
        if self._discovery is None:
            self._discovery = self._make()
        if self._announcement is not None:
            try:
                await self._announcement.update(replace(endpoint, instance=self._announcement.endpoint.instance))
            except ResourceClosed:  # the backend has given it up: nobody sees us any more
                self._announcement = None
        if self._announcement is None:
            self._announcement = await self._discovery.announce(endpoint)
            _logger.info("announced as %r, instance %r", endpoint.service, self._announcement.endpoint.instance)


def _host_name() -> str:
    """This machine's name without its domain, of the letters that every backend takes."""
    name = socket.gethostname().partition(".")[0]
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:40] or "host"
