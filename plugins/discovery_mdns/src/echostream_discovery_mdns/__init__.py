"""Finding and announcing EchoStream servers on the local network by mDNS and DNS-SD."""

from __future__ import annotations

from collections.abc import Sequence

from echostream_core.discovery import Discovery, DiscoverySpec
from echostream_core.hookspecs import hookimpl
from echostream_discovery_mdns.options import MdnsOptions

__all__ = ["MdnsOptions", "echostream_discovery", "make_discovery"]


def make_discovery(options: MdnsOptions) -> Discovery:
    """A backend of its own for one endpoint; no socket is opened before its first use."""
    from echostream_discovery_mdns.discovery import MdnsDiscovery

    return MdnsDiscovery(options)


@hookimpl
def echostream_discovery() -> Sequence[DiscoverySpec]:
    """Offer the one backend of this distribution."""
    return (
        DiscoverySpec(
            name="mdns",
            factory=make_discovery,
            options=MdnsOptions,
            summary="The local network, by multicast DNS and DNS-SD: no server needed",
        ),
    )
