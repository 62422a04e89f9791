"""How many connections whose handshake is not finished a port bears, and from whom a connection really comes."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from echostream_core.types import Url
from echostream_websocket._http import Headers

__all__ = ["Admission", "TrustedProxies"]

Address = IPv4Address | IPv6Address


def address_of(text: str) -> Address | None:
    """An address as it stands in a socket's name or a header, a port behind it or not; None: it is none.

    Without the zone of a link-local one: who writes the header could put any text there.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if isinstance(mapped, IPv4Address) else address


class TrustedProxies:
    """Who may say in X-Forwarded-For whom a connection comes from."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(value) for value in networks]

    def trusts(self, host: str) -> bool:
        """Whether ``host`` is one of them."""
        address = address_of(host) if self._networks else None
        return address is not None and self._contains(address)

    def _contains(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def peer_of(self, scheme: str, address: str, headers: Headers) -> str:
        """The peer's address as URL: ``address``, that of the socket, or what trusted proxies say is behind it.

        Each proxy appends whom it was called by, so the list is read from its end, up to the first that is not trusted.
        What stands before that may have been written by anybody.
        """
        host = Url.parse(address).host
        if not self.trusts(host):
            return address
        hops = ",".join(headers.get_all("X-Forwarded-For")).split(",")
        found: Address | None = None
        for hop in reversed(hops):
            current = address_of(hop)
            if current is None:
                break
            found = current
            if not self._contains(current):
                break
        return address if found is None else str(Url(scheme, str(found)))


class Admission:
    """Counts unfinished handshakes."""

    __slots__ = ("_by_address", "_max_per_address", "_max_total", "_proxies", "total")

    def __init__(self, max_total: int, max_per_address: int, proxies: TrustedProxies) -> None:
        self._max_total = max_total
        self._max_per_address = max_per_address
        self._proxies = proxies
        self._by_address: dict[str, int] = {}
        self.total = 0

    def enter(self, host: str) -> str | None:
        """Count one more from ``host``; or why it is not admitted."""
        if self.total >= self._max_total:
            return f"{self._max_total} handshakes are unfinished (max_handshakes)"
        count = self._by_address.get(host, 0)
        if count >= self._max_per_address and not self._proxies.trusts(host):
            return f"{count} handshakes from this address are unfinished (max_handshakes_per_address)"
        self._by_address[host] = count + 1
        self.total += 1
        return None

    def leave(self, host: str) -> None:
        """One from ``host`` is done, one way or the other."""
        self.total -= 1
        count = self._by_address.pop(host) - 1
        if count:
            self._by_address[host] = count
