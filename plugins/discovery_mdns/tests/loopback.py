"""Backends on loopback, and what the tests on real sockets share."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from echostream_core.discovery import Endpoint
from echostream_discovery_mdns.discovery import MdnsDiscovery
from echostream_discovery_mdns.options import MdnsOptions

__all__ = ["MDNS", "PATIENCE_S", "backends", "endpoint", "multicast", "options", "service_name", "until"]

PATIENCE_S = 10.0
"""How long a test waits for what must come."""

MDNS = ("224.0.0.251", 5353)


def options(**changes: object) -> MdnsOptions:
    """The options of a quick backend on loopback."""
    return MdnsOptions(**{"interfaces": "loopback", "probe_s": 0.12, **changes})  # type: ignore[arg-type]


@asynccontextmanager
async def backends(count: int = 2, **changes: object) -> AsyncIterator[list[MdnsDiscovery]]:
    """So many backends, each as a process of its own would have it; closed at the end."""
    made = [MdnsDiscovery(options(**changes)) for _ in range(count)]
    try:
        yield made
    finally:
        for backend in made:
            await backend.close()


def service_name() -> str:
    """A name that no other test on this machine uses."""
    return f"test{secrets.token_hex(4)}"


def endpoint(service: str, instance: str = "one", *urls: str, **attributes: str) -> Endpoint:
    """An endpoint as a server would announce it."""
    return Endpoint(service=service, instance=instance, urls=urls or ("tcp://127.0.0.1:4001",), attributes=attributes)


async def until(
    backend: MdnsDiscovery, service: str | None, condition: Callable[[Sequence[Endpoint]], bool]
) -> Sequence[Endpoint]:
    """The first snapshot of a new watch for which ``condition`` holds."""
    watch = backend.watch(service)
    seen: Sequence[Endpoint] = ()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for seen in watch:
                if condition(seen):
                    return seen
    except TimeoutError:
        raise AssertionError(f"the last snapshot was {seen!r}") from None
    finally:
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator
    raise AssertionError(f"the watch has ended after {seen!r}")


@asynccontextmanager
async def multicast() -> AsyncIterator[Callable[[bytes], None]]:
    """A stranger on loopback: what is handed to it is sent to everybody, as it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sock.bind(("127.0.0.1", 0))

        def send(packet: bytes) -> None:
            sock.sendto(packet, MDNS)

        yield send
