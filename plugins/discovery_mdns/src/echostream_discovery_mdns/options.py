"""What can be configured: ``[discovery.mdns]``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["MdnsOptions"]

InterfaceName = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x20\x7f]+$")]


class MdnsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the backend ``mdns``."""

    interfaces: Literal["default", "all", "loopback"] | Annotated[list[InterfaceName], msgspec.Meta(min_length=1)] = (
        "default"
    )
    """Where to ask and to answer. ``default``: every interface but loopback, and loopback while there is no other;
    ``all``: with loopback; ``loopback``: this machine only; or names and addresses of interfaces."""
    ip_version: Literal["both", "v4", "v6"] = "both"
    """Over which of IPv4 and IPv6 to ask and to answer, and addresses of which to announce."""
    ttl_s: Annotated[int, msgspec.Meta(ge=5, le=4_500)] = 120
    """How many seconds others may believe an announcement: so long a killed server is seen. Two minutes, as RFC 6762
    section 10 has for host names, instead of its 75 for the rest."""
    probe_s: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.75
    """How many seconds ``announce`` asks, three times, whether its name is taken; 0: not at all, for unique names.
    Source: RFC 6762 section 8.1. Below that avahi may not answer: it is silent for 0.5 s after what it said last."""
    suspect_s: Annotated[float, msgspec.Meta(ge=0.1, le=30)] = 2.0
    """How many seconds an endpoint that could not be dialled has for an answer. Below 1.5 the living may be dropped:
    a responder does not repeat within a second what it has just said."""
    interface_poll_s: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 5.0
    """How often to look for new interfaces and addresses, in seconds; 0: never."""
    max_instances: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1_024
    """How many endpoints of others are known at once; more are left out, with a line in the log."""
