"""The instances that the network has told of, and for how long it may be believed. No I/O; the time is an argument.

Fed record by record (:meth:`Table.pointer`, :meth:`~Table.service`, :meth:`~Table.text`, :meth:`~Table.addresses`), as
they come in a packet, and asked by watches (:meth:`Table.endpoints`). An instance is there while its SRV record is
valid and its TXT record is in our form.

Why not zeroconf's browser and cache: they forget in floods what is needed and keep what is not (a browser's queue of
questions has no bound), they believe PTR records for 19 minutes at least, never ask again for SRV and TXT records
before these expire, and take the older of two texts when a value changes there and back.

Two bounds keep a flood out. Instances of services that somebody watches are kept until the table is full, and then
new ones are left out; all others, and what has not told enough yet, take each other's places, the oldest first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from echostream_core.complaints import printable
from echostream_core.discovery import Endpoint
from echostream_core.types import Url
from echostream_discovery_mdns import txt
from echostream_discovery_mdns.addresses import MAX_ADDRESSES, filled_in, is_elsewhere, is_here, is_wildcard, ordered
from echostream_discovery_mdns.names import HOST_PREFIX, SERVICE_TYPE, instance_of

__all__ = ["Instance", "Table"]

MAX_OTHERS: Final = 1_024
"""Instances that nobody watches, or that have not told enough."""
MAX_TTL_S: Final = 4_500.0
"""Longer than 75 minutes nothing is believed, whatever a record says. Source: RFC 6762 section 10."""
ECHO_S: Final = 3.0
"""How long after a goodbye, or after newer words, what was said before may still come, in answers that had to wait:
zeroconf lets them wait for 1.3 seconds, and does not take them back. What comes later than that is believed, whatever
count it has: else one forged record with a high count would stand for as long as its victim lives."""
PATIENCE_S: Final = 0.1
"""How long the rest of an instance may take until it is asked for."""
MAX_QUESTIONS: Final = 3
"""How often a new instance is asked for what it has not told."""
REFRESH_AT: Final = (0.80, 0.85, 0.90, 0.95)
"""When to ask again, as parts of the lifetime. Source: RFC 6762 section 5.2."""
FAREWELL_S: Final = ECHO_S + 0.5
"""How long after a goodbye the instance is asked once whether it has really gone: anybody can say goodbye for it, and
the next question for all instances may be an hour away."""
ADDRESSES_AT: Final = 0.80
"""When to ask for a host's addresses again, as a part of their lifetime: who answers for his SRV record need not tell
them, and theirs may be shorter."""
MAX_PAUSE_S: Final = 60.0
"""Between two questions for the addresses of a host that does not tell them; the pauses double up to it."""
DOUBT_S: Final = 10.0
"""How long the living have to answer when it is not known any more whether what was heard still holds."""
FLUSH_S: Final = 1.0
"""Addresses of a stranger's host that are older than this go when newer ones come: he may need several packets to tell
them all. Hosts that our own backend has named tell all in one. Source: RFC 6762 section 10.2."""


@dataclass(slots=True)
class Host:
    """The addresses of a host that SRV records name: address → (heard at, believed until)."""

    addresses: dict[str, tuple[float, float]] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)
    questions: int = 0
    """How often it has been asked for addresses since it told some."""
    ask_at: float = 0.0


@dataclass(slots=True)
class Instance:
    """One instance, as far as it is known."""

    name: str
    """Its DNS name as it was written first."""
    target: str = ""
    """The host that its SRV record names, in lower case."""
    port: int = 0
    heard_at: float = 0.0
    """When its SRV record came last."""
    expires_at: float = 0.0
    data: bytes | None = None
    """Its TXT record."""
    text_at: float = 0.0
    """When that came last."""
    advert: txt.Advert | None = None
    questions: int = 0
    """How often it has been asked for what is missing, or for a sign of life since it was heard last."""
    ask_at: float = 0.0
    """When to ask next for what is missing."""
    wanted: bool = False
    endpoint: Endpoint | None = None
    """What watches are told of it, once that has been put together, and until when it holds."""
    holds_until: float = 0.0

    @property
    def label(self) -> str:
        """The name without the service type."""
        return self.name[: -len(SERVICE_TYPE) - 1]

    def refresh_at(self) -> float:
        """When to ask next for a sign of life."""
        if self.questions >= len(REFRESH_AT):
            return self.expires_at
        return self.heard_at + (self.expires_at - self.heard_at) * REFRESH_AT[self.questions]


class Table:
    """What is known of the instances of EchoStream's service type."""

    def __init__(self, max_instances: int, complain: Callable[[str], None]) -> None:
        self._max_instances = max_instances
        self._complain = complain
        self._wanted: dict[str, Instance] = {}
        self._others: dict[str, Instance] = {}
        self._hosts: dict[str, Host] = {}
        self._gone: dict[str, tuple[txt.Advert, float]] = {}  # what said goodbye last, until when it may echo
        self._farewells: dict[str, tuple[str, float]] = {}  # name of who said goodbye while it was watched, when to ask
        self._services: Collection[str] | None = ()
        self._full = False
        self._networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
        self._own: Collection[str] = ()
        self.changes = 0
        """Counts up whenever an endpoint may have changed."""
        self.lost = 0
        """Counts up whenever an instance that is watched goes without a goodbye: perhaps the network was away."""

    def __len__(self) -> int:
        return len(self._wanted) + len(self._others)

    def live_in(
        self, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network], own: Collection[str] = ()
    ) -> None:
        """Order addresses by these networks of ours from now on, and tell other machines from this by ``own``."""
        self._networks = networks
        self._own = own
        for instance in self._wanted.values():
            instance.endpoint = None
        self.changes += 1

    def want(self, services: Collection[str] | None) -> None:
        """Keep the instances of ``services`` (None: of all) before others."""
        self._services = services
        for instance in [*self._wanted.values(), *self._others.values()]:
            self._sort_in(instance)

    # What has been heard.

    def pointer(self, name: str, ttl_s: float, now: float) -> None:
        """A PTR record names an instance; ``ttl_s`` 0 is its goodbye."""
        if ttl_s <= 0:
            self._say_goodbye(name.lower(), now)
        else:
            self._get_or_add(name, now)

    def service(self, name: str, target: str, port: int, ttl_s: float, now: float) -> None:
        """An SRV record: where the instance is, and that it is alive."""
        target = target.lower()
        instance = self.get(name)
        if ttl_s <= 0:
            if instance is not None and (instance.target, instance.port) == (target, port):
                self._say_goodbye(name.lower(), now)
            return
        instance = instance or self._get_or_add(name, now)
        if instance.target != target:
            self._leave_host(instance)
            instance.target = target
            self._hosts.setdefault(target, Host()).users.add(instance.name.lower())
            instance.endpoint = None
            self.changes += 1
        instance.port = port
        instance.heard_at = now
        instance.expires_at = now + min(ttl_s, MAX_TTL_S)
        instance.questions = 0

    def text(self, name: str, data: bytes, ttl_s: float, now: float) -> None:
        """A TXT record. Its goodbye says nothing that the others' does not."""
        if ttl_s <= 0:
            return
        instance = self._get_or_add(name, now)
        if instance.data == data:
            instance.text_at = now
            return
        try:
            advert = txt.decode(data)
        except txt.MalformedTxt as error:
            instance.data, instance.advert = data[: txt.MAX_RECEIVED_BYTES], None
            instance.text_at = now
            self._complain(
                f"the instance {printable(instance.label)} is left out: its TXT record is malformed, {error}"
            )
        else:
            is_late = now - instance.text_at < ECHO_S
            if is_late and instance.advert is not None and advert.is_older_than(instance.advert):
                return
            if self._is_echo(name.lower(), advert, now):
                self._remove(name.lower())
                return
            instance.data, instance.advert, instance.text_at = data, advert, now
        instance.endpoint = None
        self.changes += 1
        self._sort_in(instance)

    def addresses(self, target: str, heard: Collection[tuple[str, float]], *, flush: bool, now: float) -> None:
        """A and AAAA records of a host, each with its lifetime in seconds; with ``flush`` they replace older ones."""
        host = self._hosts.get(target.lower())
        if host is None:
            return
        before = set(host.addresses)
        told = {address: ttl_s for address, ttl_s in heard if ttl_s > 0}
        replaced = {":" in address for address in told} if flush else set()  # a goodbye speaks for one address alone
        grace_s = 0.0 if target.lower().startswith(HOST_PREFIX) else FLUSH_S
        gone = {address for address, ttl_s in heard if ttl_s <= 0}
        for address, (heard_at, until) in list(host.addresses.items()):
            is_old = (":" in address) in replaced and address not in told and now - heard_at > grace_s
            if is_old or address in gone or now >= until:
                del host.addresses[address]
        for address, ttl_s in told.items():
            if address in host.addresses or len(host.addresses) < MAX_ADDRESSES:
                host.addresses[address] = (now, now + min(ttl_s, MAX_TTL_S))
        if told:
            host.questions, host.ask_at = 0, 0.0
        if before != set(host.addresses):
            self._addresses_changed(host)

    def forget(self, name: str) -> None:
        """Drop an instance that does not answer."""
        self._lose(name.lower())

    def doubt(self, now: float) -> None:
        """Ask every instance for a sign of life, and drop those that have given none after ``DOUBT_S``: we have left
        a network, or were not there for a while.
        """
        until = now + DOUBT_S
        since = until - DOUBT_S / (1 - REFRESH_AT[0])  # so that the first question is due now
        for instance in [*self._wanted.values(), *self._others.values()]:
            instance.endpoint = None
            if instance.expires_at > until:
                instance.heard_at, instance.expires_at, instance.questions = since, until, 0
        for host in self._hosts.values():
            for address, (_, expires_at) in host.addresses.items():
                host.addresses[address] = (since, min(expires_at, until))
            host.questions, host.ask_at = 0, 0.0

    # What is known.

    def get(self, name: str) -> Instance | None:
        """The instance of this DNS name."""
        key = name.lower()
        return self._wanted.get(key) or self._others.get(key)

    def find(self, service: str, instance: str) -> list[Instance]:
        """The entries that stand for an instance of a service: one, unless strangers use its name."""
        return [found for found in self._complete() if _identity(found) == (service, instance)]

    def endpoints(self, service: str | None, now: float) -> tuple[Endpoint, ...]:
        """All that can be reached of ``service`` (None: of every service), by name; each instance once."""
        found: dict[tuple[str, str], Endpoint] = {}
        for instance in self._wanted.values():
            advert = instance.advert
            if advert is None or now >= instance.expires_at or (service is not None and advert.service != service):
                continue
            endpoint = instance.endpoint
            if endpoint is None or now >= instance.holds_until:
                endpoint = self._put_together(instance, advert, now)
            if endpoint.urls:  # of two with one name the one that came first: a stranger takes nobody's place
                found.setdefault((endpoint.service, endpoint.instance), endpoint)
        return tuple(found[identity] for identity in sorted(found))

    def known_answers(self, now: float) -> list[tuple[str, float]]:
        """The names for a question's list of known answers, with the seconds that are left: at least half of them."""
        return [
            (instance.name, instance.expires_at - now)
            for instance in [*self._wanted.values(), *self._others.values()]
            if instance.advert is not None and now < (instance.heard_at + instance.expires_at) / 2
        ]

    def due(self, now: float, limit: int) -> list[str]:
        """The names to ask for now, at most ``limit``; what has expired or does not answer is dropped."""
        names: list[str] = []
        for instance in [*self._wanted.values(), *self._others.values()]:
            if instance.expires_at and now >= instance.expires_at:
                self._lose(instance.name.lower())
            elif instance.data is None or not instance.target:
                if now < instance.ask_at or len(names) >= limit:
                    continue
                if instance.questions >= MAX_QUESTIONS:
                    self._remove(instance.name.lower())
                    continue
                instance.questions += 1
                instance.ask_at = now + instance.questions  # after 1, 2 and 3 seconds
                names.append(instance.name)
            elif instance.wanted and now >= instance.refresh_at() and len(names) < limit:
                instance.questions += 1
                names.append(instance.name)
        for key, (name, ask_at) in list(self._farewells.items()):
            if now >= ask_at and len(names) < limit:
                del self._farewells[key]
                if self.get(name) is None:
                    names.append(name)
        if self._full and len(self._wanted) < self._max_instances:
            self._full = False
            self.want(self._services)
        return names

    def hosts_due(self, now: float, limit: int) -> list[str]:
        """The hosts to ask for addresses, at most ``limit``: wanted, with a wildcard to fill in, and without any that
        holds for long. Addresses that have expired are dropped.
        """
        due: dict[str, Host] = {}
        for instance in self._wanted.values():
            host = self._hosts.get(instance.target)
            if host is None or instance.advert is None:
                continue
            expired = [address for address, (_, until) in host.addresses.items() if now >= until]
            for address in expired:
                del host.addresses[address]
            if expired:
                self._addresses_changed(host)
            lasting = (heard_at + (until - heard_at) * ADDRESSES_AT for heard_at, until in host.addresses.values())
            is_time = now >= max(host.ask_at, max(lasting, default=0.0)) and len(due) < limit
            if is_time and any(map(is_wildcard, instance.advert.urls)):
                due[instance.target] = host
        for host in due.values():
            host.ask_at = now + min(2.0**host.questions, MAX_PAUSE_S)
            host.questions = min(host.questions + 1, 6)
        return list(due)

    # Inside.

    def _complete(self) -> Iterable[Instance]:
        return (found for found in [*self._wanted.values(), *self._others.values()] if found.advert is not None)

    def _say_goodbye(self, key: str, now: float) -> None:
        instance = self.get(key)
        if instance is not None and instance.wanted and len(self._farewells) < MAX_OTHERS:
            self._farewells[key] = instance.name, now + FAREWELL_S
        if instance is not None and instance.advert is not None and instance.advert.revision is not None:
            self._gone.pop(key, None)
            if len(self._gone) >= MAX_OTHERS:
                del self._gone[next(iter(self._gone))]
            self._gone[key] = (instance.advert, now + ECHO_S)
        self._remove(key)

    def _is_echo(self, key: str, advert: txt.Advert, now: float) -> bool:
        """Whether ``advert`` was said before the last goodbye of this name."""
        last, until = self._gone.get(key, (None, 0.0))
        if last is None or now >= until:
            self._gone.pop(key, None)
            return False
        return advert.is_older_than(last) or advert.revision == last.revision

    def _addresses_changed(self, host: Host) -> None:
        self.changes += 1
        for key in host.users:
            if (instance := self._wanted.get(key)) is not None:
                instance.endpoint = None

    def _put_together(self, instance: Instance, advert: txt.Advert, now: float) -> Endpoint:
        host = self._hosts.get(instance.target)
        heard = {} if host is None else host.addresses
        valid = [address for address, (_, until) in heard.items() if now < until]
        addresses = ordered(valid, self._networks, self._own)
        urls = list(advert.urls)
        if is_elsewhere(valid, self._own):  # who listens on his own loopback only cannot be reached from here
            urls = [url for url in urls if not is_here(Url.parse(url).host, self._own)]
        service, name = _identity(instance)
        instance.holds_until = min((heard[address][1] for address in valid), default=instance.expires_at + MAX_TTL_S)
        instance.endpoint = Endpoint(
            service=service,
            instance=name,
            urls=tuple(dict.fromkeys(full for url in urls for full in filled_in(url, addresses))),
            attributes=advert.attributes,
        )
        return instance.endpoint

    def _get_or_add(self, name: str, now: float) -> Instance:
        instance = self.get(name)
        if instance is None:
            if len(self._others) >= MAX_OTHERS:
                self._remove(next(iter(self._others)))
            instance = self._others[name.lower()] = Instance(name, ask_at=now + PATIENCE_S)
        return instance

    def _sort_in(self, instance: Instance) -> None:
        """Put an instance among the wanted or the others."""
        key = instance.name.lower()
        services = self._services
        wanted = instance.advert is not None and (services is None or instance.advert.service in services)
        if wanted == instance.wanted:
            return
        if wanted and len(self._wanted) >= self._max_instances:
            if not self._full:
                self._full = True
                self._complain(
                    f"{self._max_instances} instances are known: more are left out (discovery.mdns.max_instances)"
                )
            return
        source, goal = (self._others, self._wanted) if wanted else (self._wanted, self._others)
        if not wanted and len(goal) >= MAX_OTHERS:
            self._remove(next(iter(goal)))
        goal[key] = source.pop(key)
        instance.wanted = wanted
        self.changes += 1

    def _remove(self, key: str) -> None:
        instance = self._wanted.pop(key, None) or self._others.pop(key, None)
        if instance is not None:
            self._leave_host(instance)
            self.changes += instance.wanted

    def _lose(self, key: str) -> None:
        self.lost += key in self._wanted
        self._remove(key)

    def _leave_host(self, instance: Instance) -> None:
        host = self._hosts.get(instance.target)
        if host is not None:
            host.users.discard(instance.name.lower())
            if not host.users:
                del self._hosts[instance.target]


def _identity(instance: Instance) -> tuple[str, str]:
    """Service and instance, as the contract has them."""
    advert = instance.advert
    assert advert is not None
    return advert.service, advert.instance or instance_of(instance.label, advert.service)
