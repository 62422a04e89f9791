"""The border to the library zeroconf: sockets, packets and answers to questions. Nothing else here imports it.

What of it has no public name is met in this module alone: the record classes, ``DNSOutgoing`` and the registry;
``tests/test_zeroconf_contract.py`` says so when a new version changes one of them.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, RecordUpdate, RecordUpdateListener, Zeroconf
from zeroconf._dns import DNSAddress, DNSPointer, DNSQuestion, DNSRecord, DNSService, DNSText
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from echostream_core.errors import ResourceClosed, TransportError
from echostream_discovery_mdns.addresses import Links
from echostream_discovery_mdns.names import HOST_PREFIX, MAX_LABEL_BYTES, SERVICE_TYPE

__all__ = ["Engine", "Heard", "Published"]

A: Final = 1
PTR: Final = 12
TXT: Final = 16
AAAA: Final = 28
SRV: Final = 33
ANY: Final = 255
"""Types of records. Source: RFC 1035 section 3.2.2, RFC 2782, RFC 3596."""
_IN: Final = 1
_QUERY: Final = 0
"""The flags of a question."""

_SUFFIX: Final = f".{SERVICE_TYPE}"


@dataclass(slots=True)
class Heard:
    """What one packet says of our service type, and all addresses in it. A lifetime of 0 is a goodbye."""

    pointers: list[tuple[str, float]] = field(default_factory=list)
    """Name of the instance, lifetime in seconds."""
    services: list[tuple[str, str, int, float]] = field(default_factory=list)
    """Name of the instance, host, port, lifetime."""
    texts: list[tuple[str, bytes, float]] = field(default_factory=list)
    """Name of the instance, data, lifetime."""
    addresses: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    """Host → its addresses in this packet with their lifetimes."""
    flushed: set[str] = field(default_factory=set)
    """The hosts whose addresses in this packet replace earlier ones."""


class _Ear(RecordUpdateListener):
    """Sorts the records of each packet for one reader."""

    def __init__(self, hear: Callable[[Heard], None]) -> None:
        self._hear = hear

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        heard = Heard()
        for update in records:
            record = update.new
            if record.ttl and record.is_expired(now):
                continue  # the library's cache forgets it: no news
            _sort(record, heard)
        if heard.pointers or heard.services or heard.texts or heard.addresses:
            self._hear(heard)


def _sort(record: DNSRecord, heard: Heard) -> None:
    ttl_s = float(record.ttl)
    if isinstance(record, DNSPointer):
        if record.key == SERVICE_TYPE and _is_instance(record.alias):
            heard.pointers.append((record.alias, ttl_s))
    elif isinstance(record, DNSService):
        if _is_instance(record.name) and _can_be_written(record.server):
            heard.services.append((record.name, record.server, record.port, ttl_s))
    elif isinstance(record, DNSText):
        if _is_instance(record.name):
            heard.texts.append((record.name, record.text, ttl_s))
    elif isinstance(record, DNSAddress):
        address = _address_of(record)
        if address:
            host = record.key
            heard.addresses.setdefault(host, []).append((address, ttl_s))
            if record.unique:
                heard.flushed.add(host)


def _is_instance(name: str) -> bool:
    """Whether ``name`` is an instance of our type that can be asked for."""
    return name.lower().endswith(_SUFFIX) and len(name) > len(_SUFFIX) and _can_be_written(name)


def _can_be_written(name: str) -> bool:
    """Whether zeroconf can write the name again: what is no UTF-8 grows when it is read, and a dot splits a label."""
    labels = name.removesuffix(".").split(".")
    return all(0 < len(label.encode()) <= MAX_LABEL_BYTES for label in labels)


def _address_of(record: DNSAddress) -> str:
    """The address as text; "" for what is none of a host, and for a link-local one of which the interface is not known.

    What stands for "this host" would have a watch yield a wildcard, and its reader dial himself.
    """
    packed = record.address
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed) if 0 < packed[0] < 224 else ""
    if len(packed) != 16 or not any(packed) or packed[0] == 0xFF:
        return ""
    text = socket.inet_ntop(socket.AF_INET6, packed)
    if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80:
        return f"{text}%{record.scope_id}" if record.scope_id else ""
    return text


def _is_about(record: DNSRecord, key: str) -> bool:
    return record.key == key or (isinstance(record, DNSPointer) and record.alias.lower() == key)


class Published:
    """One instance that is announced, and the task that repeats it."""

    __slots__ = ("info", "repeating")

    def __init__(self, info: AsyncServiceInfo) -> None:
        self.info = info
        self.repeating: asyncio.Future[None] | None = None

    def stop_repeating(self) -> None:
        """Say no more of what has been said already. Not awaited: who is cancelled there would leave it half done."""
        repeating, self.repeating = self.repeating, None
        if repeating is not None:
            repeating.cancel()


class Engine:
    """One set of sockets on port 5353, with a host name of its own."""

    def __init__(self, links: Links, ttl_s: int, hear: Callable[[Heard], None]) -> None:
        """Open the sockets; ``hear`` is told what each packet says, and must not raise. Then ``await start()``.

        TransportError when the sockets cannot be opened.
        """
        try:
            self._library = AsyncZeroconf(interfaces=_senders(links), ip_version=_version(links))
        except (OSError, RuntimeError) as error:
            raise TransportError(_why_not_open(error)) from error
        self._zeroconf = self._library.zeroconf
        self._ttl_s = ttl_s
        self._goodbyes: set[asyncio.Future[None]] = set()
        self.host = f"{HOST_PREFIX}{secrets.token_hex(6)}.local."
        """What our SRV records name, in lower case: not the machine's own name, whose addresses are for others
        (avahi, mDNSResponder) to announce."""
        # Before the first packet is read: one that came unheard would make the next like it pass for a repetition.
        self._ear = _Ear(hear)
        self._zeroconf.async_add_listener(self._ear, None)

    async def start(self) -> None:
        """Begin to read and write. TransportError when that does not come about."""
        try:
            await self._zeroconf.async_wait_for_start()
            if not self._zeroconf.engine.senders:
                raise TransportError(
                    "mDNS cannot be used: the address of no interface can be bound yet (the log of zeroconf says more)"
                )
        except ZeroconfError as error:
            await self.close()
            raise TransportError("mDNS cannot be used: its sockets did not open in time") from error
        except BaseException:
            await self.close()
            raise

    def ask_for_instances(self, known: Iterable[tuple[str, float]]) -> None:
        """Ask for all instances but those in ``known``, a name and its remaining seconds each."""
        self._ask(
            [(SERVICE_TYPE, PTR)],
            [DNSPointer(SERVICE_TYPE, PTR, _IN, int(ttl_s), instance) for instance, ttl_s in known],
        )

    def ask_for_details(self, names: Iterable[str]) -> None:
        """Ask instances for their SRV and TXT records."""
        self._ask([(name, kind) for name in names for kind in (SRV, TXT)])

    def ask_for_life(self, name: str) -> None:
        """Ask one instance for its SRV record: one such question is answered at once, more together after a while."""
        self._ask([(name, SRV)])

    def ask_for_addresses(self, hosts: Iterable[str]) -> None:
        """Ask hosts for their A and AAAA records."""
        self._ask([(host, kind) for host in hosts for kind in (A, AAAA)])

    def probe(self, name: str) -> None:
        """Ask whether somebody has ``name``; who does answers at once. Source: RFC 6762 section 8.1."""
        out = DNSOutgoing(_QUERY)
        out.add_question(DNSQuestion(name, ANY, _IN))
        out.add_authorative_answer(DNSPointer(SERVICE_TYPE, PTR, _IN, self._ttl_s, name))
        self._zeroconf.async_send(out)

    async def publish(self, name: str, port: int, data: bytes, addresses: Sequence[str]) -> Published:
        """Announce an instance, three times within half a second, and answer questions for it."""
        published = Published(self._info(name, port, data, addresses))
        with _Closed():
            published.repeating = asyncio.ensure_future(
                # We have probed ourselves: the library's own probe takes 1.2 s, and misses unicast answers.
                await self._library.async_register_service(published.info, cooperating_responders=True)
            )
        return published

    async def republish(self, published: Published, port: int, data: bytes, addresses: Sequence[str]) -> None:
        """Announce other contents under the same name."""
        published.stop_repeating()
        self._drop_answers(published.info.name)
        published.info = self._info(published.info.name, port, data, addresses)
        with _Closed():
            published.repeating = asyncio.ensure_future(await self._library.async_update_service(published.info))

    async def goodbye(self, published: Published) -> None:
        """Tell that the instance is gone: three times, which takes 0.25 s, also when who waits for it is cancelled."""
        published.stop_repeating()
        self._drop_answers(published.info.name)
        with _Closed():
            saying = asyncio.ensure_future(await self._library.async_unregister_service(published.info))
            self._goodbyes.add(saying)
            saying.add_done_callback(self._goodbyes.discard)
            await asyncio.shield(saying)

    def give_up(self, published: Published) -> None:
        """Stop announcing, without a goodbye that would be taken for that of a namesake."""
        published.stop_repeating()
        self._drop_answers(published.info.name)
        self._zeroconf.registry.async_remove(published.info)

    async def use(self, former: Links, links: Links) -> None:
        """Send on other interfaces than ``former`` from now on; what is announced is announced again where it is new.

        What cannot be opened is left out, and ``lacks`` tells. TransportError when it was given up half-way.
        """
        try:
            with _Closed():
                lasting = links.lasting(former)
                if (lasting.senders_v4, lasting.senders_v6) != (former.senders_v4, former.senders_v6):
                    # zeroconf knows interfaces by their addresses: one that was made anew it would take for the old
                    # one, and not join the group there.
                    await self._library.async_update_interfaces(_senders(lasting), _version(lasting))
                await self._library.async_update_interfaces(_senders(links), _version(links))
        except (OSError, RuntimeError) as error:
            raise TransportError(_why_not_open(error)) from error

    def lacks(self, links: Links) -> bool:
        """Whether an interface of ``links`` could not be opened: a new IPv6 address cannot be bound for a second.

        Of several IPv4 addresses of one interface zeroconf opens the first only, which is enough.
        """
        senders = self._zeroconf.engine.senders
        opened = {sender.sock_name[0] for sender in senders if not sender.is_ipv6}
        pairs = zip(links.senders_v4, links.indexes_v4, strict=False)
        served = {index for address, index in pairs if address in opened}
        return served != set(links.indexes_v4) or sum(sender.is_ipv6 for sender in senders) < len(links.senders_v6)

    async def close(self) -> None:
        """Close the sockets, also when who waits for it is cancelled, or has been already.

        In a task of its own: zeroconf waits for its start first, and in a task that is being cancelled it takes that
        for a reason to leave its sockets open.
        """
        await asyncio.shield(asyncio.get_running_loop().create_task(self._close()))

    async def _close(self) -> None:
        if self._goodbyes:
            await asyncio.wait(list(self._goodbyes))
        await self._library.async_close()

    def _ask(self, questions: Iterable[tuple[str, int]], known_answers: Iterable[DNSPointer] = ()) -> None:
        """Send questions. Always by multicast, and for multicast answers: where several programs share port 5353, an
        answer to us alone would reach any one of them.
        """
        out = DNSOutgoing(_QUERY)
        for name, kind in questions:
            out.add_question(DNSQuestion(name, kind, _IN))
        for pointer in known_answers:
            out.add_answer_at_time(pointer, 0)
        self._zeroconf.async_send(out)

    def _drop_answers(self, name: str) -> None:
        """Take back what waits to be said of an instance, for up to 1.3 s: it would be believed after a goodbye."""
        key = name.lower()
        for queue in (self._zeroconf.out_queue, self._zeroconf.out_delay_queue):
            for group in queue.queue:
                for record in [record for record in group.answers if _is_about(record, key)]:
                    del group.answers[record]
                for others in group.answers.values():
                    others.difference_update([record for record in others if _is_about(record, key)])

    def _info(self, name: str, port: int, data: bytes, addresses: Sequence[str]) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE_TYPE,
            name,
            port=port,
            properties=data,
            server=self.host,
            host_ttl=self._ttl_s,
            other_ttl=self._ttl_s,
            parsed_addresses=list(addresses),
        )


class _Closed:
    """Whatever zeroconf raises within becomes a ResourceClosed: it does so only when its sockets are closed."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ZeroconfError):
            raise ResourceClosed(f"mDNS is closed ({type(error).__name__})") from error


def _senders(links: Links) -> list[str | int]:
    return [*links.senders_v4, *links.senders_v6]


def _version(links: Links) -> IPVersion:
    if not links.senders_v6:
        return IPVersion.V4Only
    return IPVersion.All if links.senders_v4 else IPVersion.V6Only


def _why_not_open(error: OSError | RuntimeError) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return (
            "mDNS cannot be used: UDP port 5353 is taken by a program that does not share it (`ss -lunp sport = 5353` "
            "shows it); with avahi set disallow-other-stacks=no in avahi-daemon.conf"
        )
    if code in (errno.EACCES, errno.EPERM):
        return "mDNS cannot be used: this program may not open UDP port 5353"
    return f"mDNS cannot be used: {error}"
