"""What we use of zeroconf beyond its public names, each in a test that says what has changed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from zeroconf import IPVersion, RecordUpdate, RecordUpdateListener, ServiceInfo, Zeroconf
from zeroconf._dns import DNSAddress, DNSPointer, DNSQuestion, DNSService, DNSText
from zeroconf._protocol.incoming import DNSIncoming
from zeroconf._protocol.outgoing import DNSOutgoing
from zeroconf._services.registry import ServiceRegistry
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from echostream_core.errors import TransportError
from echostream_discovery_mdns import _zeroconf, discovery
from echostream_discovery_mdns._zeroconf import Engine, Heard
from echostream_discovery_mdns.addresses import Links
from echostream_discovery_mdns.names import SERVICE_TYPE, full_name

NAME = full_name("calc/one")


def test_the_public_calls_have_the_arguments_that_we_give() -> None:
    for call, arguments in (
        (AsyncZeroconf.__init__, ("interfaces", "ip_version")),
        (AsyncZeroconf.async_register_service, ("info", "cooperating_responders")),
        (AsyncZeroconf.async_update_service, ("info",)),
        (AsyncZeroconf.async_unregister_service, ("info",)),
        (AsyncZeroconf.async_update_interfaces, ("interfaces", "ip_version")),
        (Zeroconf.async_add_listener, ("listener", "question")),
        (Zeroconf.async_send, ("out",)),
    ):
        assert set(arguments) <= set(inspect.signature(call).parameters), call


def test_questions_answers_and_probes_are_written_as_we_ask() -> None:
    out = DNSOutgoing(0)
    out.add_question(DNSQuestion(NAME, _zeroconf.SRV, 1))
    out.add_answer_at_time(DNSPointer(SERVICE_TYPE, _zeroconf.PTR, 1, 77, NAME), 0)
    out.add_authorative_answer(DNSPointer(SERVICE_TYPE, _zeroconf.PTR, 1, 120, NAME))
    (packet,) = out.packets()
    read = DNSIncoming(packet)
    (question,) = read.questions
    assert (question.name, question.type, question.unicast) == (NAME, 33, False)
    assert read.is_probe() and read.is_query()
    answer = read.answers()[0]
    assert isinstance(answer, DNSPointer) and (answer.alias, answer.ttl) == (NAME, 77)


def test_records_have_the_attributes_that_we_read() -> None:
    address = DNSAddress("Host.local.", 1, 0x8001, 120, bytes([10, 0, 0, 1]))
    assert (address.key, address.address, address.unique, address.scope_id) == ("host.local.", b"\n\0\0\1", True, None)
    service = DNSService(NAME, 33, 0x8001, 120, 0, 0, 4001, "host.local.")
    assert (service.name, service.server, service.port, service.ttl) == (NAME, "host.local.", 4001, 120)
    assert DNSText(NAME, 16, 1, 120, b"\x01x").text == b"\x01x"
    assert DNSPointer(SERVICE_TYPE, 12, 1, 0, NAME).is_expired(1e12)
    assert RecordUpdate(service, None).new is service


def test_all_records_of_one_packet_come_in_one_call_goodbyes_with_a_lifetime_of_zero() -> None:
    heard: list[Heard] = []
    ear = _zeroconf._Ear(heard.append)
    assert isinstance(ear, RecordUpdateListener)
    scoped = DNSAddress("h.local.", 28, 0x8001, 120, b"\xfe\x80" + bytes(13) + b"\1", scope_id=3)
    unscoped = DNSAddress("h.local.", 28, 0x8001, 120, b"\xfe\x80" + bytes(13) + b"\2")
    records: list[Any] = [
        DNSText(NAME, 16, 0x8001, 0, b"\x01x"),
        DNSAddress("h.local.", 1, 0x8001, 120, bytes([10, 0, 0, 1])),
        scoped,
        unscoped,
        *(DNSAddress("h.local.", 1, 0x8001, 120, bytes([first, 0, 0, 0])) for first in (0, 224, 255)),
        DNSAddress("h.local.", 28, 0x8001, 120, bytes(16)),
        DNSAddress("h.local.", 28, 0x8001, 120, b"\xff\x02" + bytes(13) + b"\1"),
        DNSService(NAME, 33, 0x8001, 120, 0, 0, 4001, "h.local."),
        DNSPointer(SERVICE_TYPE, 12, 1, 0, NAME),
        DNSPointer("_other._tcp.local.", 12, 1, 120, "x._other._tcp.local."),
        DNSService(full_name("a..b"), 33, 0x8001, 120, 0, 0, 4001, "h.local."),
        DNSService(full_name("x" * 64), 33, 0x8001, 120, 0, 0, 4001, "h.local."),
        DNSService(NAME, 33, 0x8001, 120, 0, 0, 4001, "x" * 64 + ".local."),
    ]
    now = records[0].created + 1
    ear.async_update_records(None, now, [RecordUpdate(record, None) for record in records])  # type: ignore[arg-type]
    assert heard == [
        Heard(
            pointers=[(NAME, 0.0)],
            services=[(NAME, "h.local.", 4001, 120.0)],
            texts=[(NAME, b"\x01x", 0.0)],
            addresses={"h.local.": [("10.0.0.1", 120.0), ("fe80::1%3", 120.0)]},
            flushed={"h.local."},
        )
    ]
    ear.async_update_records(None, now + 1e9, [RecordUpdate(records[4], records[4])])  # type: ignore[arg-type]
    assert len(heard) == 1, "what the library's cache forgets is no news"


def test_a_registered_instance_can_be_dropped_without_a_word() -> None:
    registry = ServiceRegistry()
    info = AsyncServiceInfo(
        SERVICE_TYPE, NAME, port=1, properties=b"\x01x", server="h.local.", parsed_addresses=["::1"]
    )
    assert isinstance(info, ServiceInfo) and info.text == b"\x01x"
    registry.async_add(info)
    registry.async_remove(info)
    assert registry.async_get_service_infos() == []


def test_a_packet_passes_for_a_repetition_for_less_than_we_think() -> None:
    from zeroconf import const

    assert const._DUPLICATE_PACKET_SUPPRESSION_INTERVAL < discovery.LATELY_S * 1_000


async def test_an_interface_that_was_made_anew_under_its_address_is_joined_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    former = Links(("127.0.0.1",), (), (), (), (1,))
    engine = Engine(former, 120, lambda heard: None)
    await engine.start()
    asked: list[list[str | int]] = []
    update = engine._library.async_update_interfaces

    async def counted(interfaces: list[str | int], version: IPVersion) -> None:
        asked.append(interfaces)
        await update(interfaces, version)

    monkeypatch.setattr(engine._library, "async_update_interfaces", counted)
    await engine.use(former, former)
    assert asked == [["127.0.0.1"]] and not engine.lacks(former)
    (before,) = engine._zeroconf.engine.senders
    anew = Links(("127.0.0.1",), (), (), (), (7,))
    await engine.use(former, anew)
    assert asked[1:] == [[], ["127.0.0.1"]]
    (after,) = engine._zeroconf.engine.senders
    assert before.transport.is_closing() and not after.transport.is_closing()
    await engine.close()


async def test_senders_tell_their_address_and_what_lacks_of_the_wanted_ones() -> None:
    engine = Engine(Links(("127.0.0.1",), (), (), (), (1,)), 120, lambda heard: None)
    await engine.start()
    (sender,) = engine._zeroconf.engine.senders
    assert (sender.sock_name, sender.is_ipv6) == (("127.0.0.1", 5353), False)
    assert not engine.lacks(Links(("127.0.0.1", "127.0.0.2"), (), (), (), (1, 1))), "one of an interface is enough"
    assert engine.lacks(Links(("127.0.0.1", "10.0.0.1"), (), (), (), (1, 2)))
    assert engine.lacks(Links(("127.0.0.1",), (1,), (), (), (1,)))
    await engine.close()


async def test_an_engine_that_could_bind_no_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeroconf._utils.net.add_interface", lambda *arguments, **how: None)
    engine = Engine(Links(("127.0.0.1",), (), ()), 120, lambda heard: None)
    with pytest.raises(TransportError, match="no interface can be bound yet"):
        await engine.start()
    assert all(reader.transport.is_closing() for reader in engine._zeroconf.engine.readers)


async def test_the_engine_closes_its_sockets() -> None:
    engine = Engine(Links(("127.0.0.1",), (), ("127.0.0.1",)), 120, lambda heard: None)
    await engine.start()
    readers = engine._zeroconf.engine.readers
    assert len(readers) == 2 and all(not reader.transport.is_closing() for reader in readers)
    await engine.close()
    assert all(reader.transport.is_closing() for reader in readers)
