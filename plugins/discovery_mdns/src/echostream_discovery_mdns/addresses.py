"""The interfaces of this machine: which to use, which addresses to announce, and how to reach those of others.

Multicast is sent on each interface by itself, over IPv4 from its first address and over IPv6 once. Whether that
works is asked of the system beforehand, by a UDP socket that is connected to the multicast address and sends nothing:
on Linux loopback, for instance, IPv4 multicast works without a route and IPv6 multicast does not.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from echostream_core.errors import ConfigError, TransportError
from echostream_core.types import Url

if TYPE_CHECKING:
    from echostream_discovery_mdns.options import MdnsOptions

__all__ = [
    "Interface",
    "Links",
    "choose",
    "filled_in",
    "is_elsewhere",
    "is_here",
    "is_wildcard",
    "machine_interfaces",
    "ordered",
]

_GROUP_V4: Final = "224.0.0.251"
_GROUP_V6: Final = "ff02::fb"
_PORT: Final = 5353

MAX_ADDRESSES: Final = 16
"""Of one host, announced or believed."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of this machine with its addresses; those of IPv6 are without zone."""

    name: str
    index: int
    addresses: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]

    @property
    def is_loopback(self) -> bool:
        """Whether it leads nowhere but to this machine."""
        return any(address.ip.is_loopback for address in self.addresses)


@dataclass(frozen=True, slots=True)
class Links:
    """Where to send, and what to announce there."""

    senders_v4: tuple[str, ...]
    """Our addresses, one sender each."""
    senders_v6: tuple[int, ...]
    """Indexes of interfaces, one sender each."""
    announced: tuple[str, ...]
    """Addresses for the host's A and AAAA records."""
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = field(default=())
    """The networks that we are in: addresses of others in them are reached directly."""
    indexes_v4: tuple[int, ...] = field(default=())
    """The interfaces of ``senders_v4``: one that was made anew may have its former address."""

    own: frozenset[str] = field(default=frozenset(), compare=False)
    """All addresses of this machine, those of IPv6 without zone: others may have the same on bridges of theirs."""

    def lasting(self, former: Links) -> Links:
        """The senders that are in ``former`` too, on the same interfaces."""
        before = set(zip(former.senders_v4, former.indexes_v4, strict=False))
        pairs = zip(self.senders_v4, self.indexes_v4, strict=False)
        v4 = tuple(address for address, index in pairs if (address, index) in before)
        return Links(v4, tuple(index for index in self.senders_v6 if index in former.senders_v6), ())


def machine_interfaces() -> list[Interface]:
    """What the system has now."""
    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        addresses = [
            ipaddress.ip_interface(
                f"{ip.ip if isinstance(ip.ip, str) else ip.ip[0].partition('%')[0]}/{ip.network_prefix}"
            )
            for ip in adapter.ips
        ]
        if addresses:
            found.append(Interface(str(adapter.nice_name), adapter.index or 0, tuple(addresses)))
    return found


def choose(options: MdnsOptions, interfaces: Sequence[Interface] | None = None) -> Links:
    """Where to send and what to announce, by ``options``.

    ConfigError when an interface is named that does not exist; TransportError when none can multicast, or has an
    address by now.
    """
    try:
        interfaces = machine_interfaces() if interfaces is None else interfaces
        own = frozenset(str(address.ip) for interface in interfaces for address in interface.addresses)
        return replace(_links(options, _chosen(options, interfaces)), own=own)
    except OSError as error:  # out of descriptors, for instance
        raise TransportError(f"mDNS cannot be used: the interfaces of this machine cannot be told: {error}") from error


def _links(options: MdnsOptions, chosen: Sequence[Interface]) -> Links:
    senders_v4: list[str] = []
    indexes_v4: list[int] = []
    senders_v6: list[int] = []
    announced: list[Address] = []
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for interface in chosen:
        for address in interface.addresses:
            if options.ip_version not in ("both", f"v{address.version}"):
                continue
            announced.append(address.ip)
            networks.append(address.network)
            if address.version == 4:
                if _can_multicast_v4(str(address.ip)):
                    senders_v4.append(str(address.ip))
                    indexes_v4.append(interface.index)
            elif interface.index not in senders_v6 and _can_multicast_v6(interface.index):
                senders_v6.append(interface.index)
    if not senders_v4 and not senders_v6:
        raise TransportError(_why_none(options, chosen))
    return Links(
        tuple(senders_v4),
        tuple(senders_v6),
        tuple(_announceable(announced)),
        tuple(networks),
        tuple(indexes_v4),
    )


def _chosen(options: MdnsOptions, interfaces: Sequence[Interface]) -> list[Interface]:
    """The interfaces that ``options`` name; of one that is named by an address only that address."""
    if options.interfaces == "all":
        return list(interfaces)
    if options.interfaces == "loopback":
        return [interface for interface in interfaces if interface.is_loopback]
    if options.interfaces == "default":
        return [interface for interface in interfaces if not interface.is_loopback] or list(interfaces)
    found: dict[str, Interface] = {}
    for name in options.interfaces:
        wanted = _parsed(name)
        matching = [
            replace(interface, addresses=addresses)
            for interface in interfaces
            if (
                addresses := interface.addresses
                if interface.name == name
                else tuple(address for address in interface.addresses if address.ip == wanted)
            )
        ]
        if not matching and name in {name for _, name in socket.if_nameindex()}:
            continue  # it has no address yet, as a Wi-Fi while it connects
        if not matching:
            raise ConfigError(
                f"there is no interface {name!r}; this machine has {_listed(interfaces) or 'none'}",
                key="discovery.mdns.interfaces",
            )
        for interface in matching:
            before = found[interface.name].addresses if interface.name in found else ()
            found[interface.name] = replace(interface, addresses=tuple(dict.fromkeys((*before, *interface.addresses))))
    return list(found.values())


def _listed(interfaces: Sequence[Interface]) -> str:
    return ", ".join(
        f"{interface.name} ({', '.join(str(address.ip) for address in interface.addresses)})"
        for interface in interfaces
    )


def _parsed(name: str) -> Address | None:
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None


def _can_multicast_v4(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
            sock.connect((_GROUP_V4, _PORT))
        except OSError:
            return False
    return True


def _can_multicast_v6(index: int) -> bool:
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect((_GROUP_V6, _PORT, 0, index))
    except OSError:
        return False
    return True


def _why_none(options: MdnsOptions, wanted: Sequence[Interface]) -> str:
    """Why no interface can be used, and what helps."""
    over = {"both": "", "v4": " over IPv4", "v6": " over IPv6"}[options.ip_version]
    names = ", ".join(interface.name for interface in wanted)
    if not wanted and isinstance(options.interfaces, list):
        return f"mDNS cannot be used: no interface of {', '.join(options.interfaces)} has an address yet"
    if not wanted:
        return (
            "mDNS cannot be used: this machine has no interface that is up; for one machine alone, "
            '`ip link set lo up` and discovery.mdns.interfaces = "loopback"'
        )
    if options.ip_version == "v6" and all(interface.is_loopback for interface in wanted):
        return (
            f"mDNS cannot be used: loopback ({names}) has no IPv6 multicast; "
            'set discovery.mdns.ip_version to "both" or "v4"'
        )
    if all(interface.is_loopback for interface in wanted):
        return f"mDNS cannot be used: loopback ({names}) is down; `ip link set {wanted[0].name} up` helps"
    return (
        f"mDNS cannot be used: no interface of {names} can multicast{over}; "
        "discovery.mdns.interfaces and ip_version say which to use"
    )


def _announceable(addresses: Iterable[Address]) -> list[str]:
    """What others can use: link-local IPv6 addresses only where there is nothing else, as they need a zone."""
    unique = list(dict.fromkeys(addresses))
    lasting = [address for address in unique if not (address.version == 6 and address.is_link_local)]
    return [str(address) for address in (lasting or unique)[:MAX_ADDRESSES]]


def is_wildcard(url: str) -> bool:
    """Whether the URL's host stands for all addresses of a machine."""
    return bool(_versions(url))


def _versions(url: str) -> tuple[int, ...]:
    """For addresses of which versions the URL's host stands; none when it stands for itself."""
    parsed = Url.parse(url)
    if parsed.port is None:
        return ()
    if not parsed.host:
        return (4, 6)
    address = _parsed(parsed.host)
    return (address.version,) if address is not None and address.is_unspecified else ()


def filled_in(url: str, addresses: Sequence[str]) -> list[str]:
    """The URL with each of ``addresses`` in place of a wildcard host; itself when it has none.

    ``0.0.0.0`` stands for IPv4 addresses, ``[::]`` for those of IPv6, no host at all for both.
    """
    versions = _versions(url)
    if not versions:
        return [url]
    scheme, _, rest = url.partition("://")
    netloc, slash, path = rest.partition("/")
    port = netloc.rpartition(":")[2]
    hosts = [(6, f"[{address}]") if ":" in address else (4, address) for address in addresses]
    return [f"{scheme}://{host}:{port}{slash}{path}" for version, host in hosts if version in versions]


def is_here(address: str, own: Collection[str]) -> bool:
    """Whether an address, or a host's name, leads to this machine."""
    text = address.partition("%")[0]
    parsed = _parsed(text)
    return text in own or text == "localhost" or (parsed is not None and parsed.is_loopback)


def is_elsewhere(addresses: Iterable[str], own: Collection[str]) -> bool:
    """Whether a host with these addresses is another machine. One without any may be this one."""
    return not all(is_here(address, own) for address in addresses)


def ordered(
    addresses: Collection[str],
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network],
    own: Collection[str] = (),
) -> list[str]:
    """Addresses of a host, the likeliest first: in a network of ours, then IPv4, then IPv6, link-local last.

    A link-local IPv6 address comes as ``fe80::1%2``, and only when there is no other. What another machine has in
    common with this one, such as the address of a bridge for containers, would lead us to ourselves: it is left out.
    """
    if is_elsewhere(addresses, own):
        addresses = [address for address in addresses if not is_here(address, own)]
    ranked = []
    for text in addresses:
        address = ipaddress.ip_address(text)
        local = address.version == 6 and address.is_link_local
        near = any(address.version == network.version and address in network for network in networks)
        ranked.append(((local, not near, address.version, int(address)), text))
    ranked.sort()
    lasting = [text for rank, text in ranked if not rank[0]]
    return (lasting or [text for _, text in ranked])[:MAX_ADDRESSES]
