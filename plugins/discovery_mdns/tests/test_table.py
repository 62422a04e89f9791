"""The table of instances, on a clock of the tests: what it believes, for how long, and how much of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest

from echostream_discovery_mdns import table as tables
from echostream_discovery_mdns.names import full_name
from echostream_discovery_mdns.table import MAX_OTHERS, Table
from echostream_discovery_mdns.txt import Advert, encode

HOST = "host.local."


class Network:
    """A table with what feeds it; ``now`` is the time."""

    def __init__(self, max_instances: int = 4, services: set[str] | None = None) -> None:
        self.now = 1_000.0
        self.complaints: list[str] = []
        self.table = Table(max_instances, self.complaints.append)
        self.table.want({"calc"} if services is None else services)
        self.revision = 0

    def tell(
        self,
        instance: str,
        *urls: str,
        service: str = "calc",
        ttl_s: float = 120.0,
        host: str = HOST,
        label: str = "",
        **attributes: str,
    ) -> str:
        self.revision += 1
        name = full_name(label or f"{service}/{instance}")
        advert = Advert(service, instance if label else "", urls or ("tcp://a:1",), attributes, ("ab", self.revision))
        self.table.pointer(name, ttl_s, self.now)
        self.table.service(name, host, 1, ttl_s, self.now)
        self.table.text(name, encode(advert), ttl_s, self.now)
        return name

    def known(self, service: str | None = "calc") -> list[str]:
        return [endpoint.instance for endpoint in self.table.endpoints(service, self.now)]

    def urls(self) -> tuple[str, ...]:
        return tuple(url for endpoint in self.table.endpoints("calc", self.now) for url in endpoint.urls)


def test_an_instance_is_there_until_its_srv_record_expires() -> None:
    network = Network()
    network.tell("one")
    network.now += 119.9
    assert network.known() == ["one"]
    network.now += 0.1
    assert network.known() == []
    changes = network.table.changes
    network.table.due(network.now, 10)
    assert len(network.table) == 0 and network.table.changes > changes


def test_nobody_is_believed_for_longer_than_75_minutes() -> None:
    network = Network()
    network.tell("one", ttl_s=2**31)
    network.now += tables.MAX_TTL_S - 1
    assert network.known() == ["one"]
    network.now += 1
    assert network.known() == []


def test_before_it_expires_an_instance_is_asked_for_life_four_times() -> None:
    network = Network()
    name = network.tell("one", ttl_s=100)
    asked = []
    for _ in range(100):
        network.now += 1
        asked += [(network.now - 1_000, found) for found in network.table.due(network.now, 10)]
    assert asked == [(second, name) for second in (80, 85, 90, 95)]
    assert len(network.table) == 0


def test_an_answer_in_time_begins_the_lifetime_anew() -> None:
    network = Network()
    name = network.tell("one", ttl_s=100)
    network.now += 81
    assert network.table.due(network.now, 10) == [name]
    changes = network.table.changes
    network.table.service(name, HOST, 1, 100, network.now)
    assert network.table.changes == changes, "a sign of life is no news"
    network.now += 79
    assert network.table.due(network.now, 10) == [] and network.known() == ["one"]


def test_who_is_not_watched_is_not_asked() -> None:
    network = Network(services={"other"})
    network.tell("one", ttl_s=100)
    network.now += 96
    assert network.table.due(network.now, 10) == []


@pytest.mark.parametrize("first", ["pointer", "service", "text"])
def test_records_may_come_in_any_order_and_one_alone_is_asked_for_the_rest(first: str) -> None:
    network, other = Network(), Network()
    other.tell("one")
    name = full_name("calc/one")
    whole = other.table.get(name)
    assert whole is not None and whole.data is not None
    data = whole.data
    steps: dict[str, Callable[[], None]] = {
        "pointer": lambda: network.table.pointer(name, 120, network.now),
        "service": lambda: network.table.service(name, HOST, 1, 120, network.now),
        "text": lambda: network.table.text(name, data, 120, network.now),
    }
    steps.pop(first)()
    assert network.known() == []
    network.now += 0.15
    assert network.table.due(network.now, 10) == [name]
    for step in steps.values():
        step()
    assert network.known() == ["one"]


def test_an_instance_that_does_not_tell_the_rest_is_asked_three_times_and_dropped() -> None:
    network = Network()
    network.table.pointer(full_name("calc/one"), 4_500, network.now)
    asked = 0
    for _ in range(100):
        network.now += 0.1
        asked += len(network.table.due(network.now, 10))
    assert asked == tables.MAX_QUESTIONS and len(network.table) == 0


def test_no_more_are_asked_at_once_than_the_limit_says() -> None:
    network = Network()
    for number in range(10):
        network.table.pointer(full_name(f"calc/{number}"), 120, network.now)
    network.now += 1
    assert len(network.table.due(network.now, 7)) == 7
    assert len(network.table.due(network.now, 7)) == 3


@pytest.mark.parametrize("how", ["pointer", "service"])
def test_a_goodbye_takes_the_instance_away(how: str) -> None:
    network = Network()
    name = network.tell("one")
    network.tell("two")
    if how == "pointer":
        network.table.pointer(name.upper(), 0, network.now)
    else:
        network.table.service(name.upper(), HOST.upper(), 1, 0, network.now)
    assert network.known() == ["two"]


def test_the_goodbye_of_a_namesake_on_another_host_is_not_ours() -> None:
    network = Network()
    name = network.tell("one")
    network.table.service(name, "other.local.", 1, 0, network.now)
    network.table.text(name, b"", 0, network.now)
    assert network.known() == ["one"]


def test_who_said_goodbye_is_asked_once_whether_it_has_really_gone() -> None:
    network = Network()
    name = network.tell("one")
    instance = network.table.get(name)
    assert instance is not None and instance.data is not None
    data = instance.data
    network.tell("unwatched", service="other")
    network.table.pointer(full_name("other/unwatched"), 0, network.now)
    network.table.pointer(name, 0, network.now)
    network.now += tables.ECHO_S
    assert network.table.due(network.now, 10) == []
    network.now += 1
    assert network.table.due(network.now, 10) == [name]
    network.table.service(name, HOST, 1, 120, network.now)
    network.table.text(name, data, 120, network.now)
    assert network.known() == ["one"], "somebody else has said goodbye for it"
    network.now += 1
    assert network.table.due(network.now, 10) == []


def test_no_more_goodbyes_are_kept_than_the_table_has_instances() -> None:
    network = Network()
    for number in range(2_000):
        network.table.pointer(network.tell(f"node-{number}"), 0, network.now)
    assert len(network.table._farewells) == MAX_OTHERS


def test_an_answer_that_had_to_wait_brings_nobody_back_after_his_goodbye() -> None:
    network = Network()
    name = network.tell("one", turn="1")
    instance = network.table.get(name)
    assert instance is not None and instance.data is not None
    old = instance.data
    network.tell("one", turn="2")
    last = instance.data
    network.table.pointer(name, 0, network.now)
    network.now += 1.3
    for data in (old, last):
        network.table.pointer(name, 120, network.now)
        network.table.service(name, HOST, 1, 120, network.now)
        network.table.text(name, data, 120, network.now)
        assert network.known() == [] and len(network.table) == 0
    network.tell("one", turn="3")
    assert network.known() == ["one"], "who announces anew counts on"


def test_what_is_said_of_goodbyes_is_forgotten() -> None:
    network = Network()
    for number in range(2_000):
        network.table.pointer(network.tell(f"node-{number}"), 0, network.now)
    assert len(network.table._gone) == MAX_OTHERS
    name = network.tell("one")
    instance = network.table.get(name)
    assert instance is not None and instance.data is not None
    network.table.pointer(name, 0, network.now)
    network.now += tables.ECHO_S
    network.table.service(name, HOST, 1, 120, network.now)
    network.table.text(name, instance.data, 120, network.now)
    assert network.known() == ["one"]


def test_names_are_compared_without_case() -> None:
    network = Network()
    network.tell("one", label="calc/ONE")
    network.tell("one", label="CALC/one")
    assert len(network.table) == 1


def test_a_change_there_and_back_is_seen_and_an_older_word_that_comes_late_is_not() -> None:
    network = Network()
    name = network.tell("one", turn="1")
    first = network.table.get(name)
    assert first is not None and first.data is not None
    old = first.data
    network.tell("one", turn="2")
    network.table.text(name, old, 120, network.now)
    assert network.table.endpoints("calc", network.now)[0].attributes == {"turn": "2"}
    network.tell("one", turn="1")
    assert network.table.endpoints("calc", network.now)[0].attributes == {"turn": "1"}


def test_the_same_words_again_are_no_change() -> None:
    network = Network()
    name = network.tell("one")
    instance, changes = network.table.get(name), network.table.changes
    assert instance is not None and instance.data is not None
    network.table.pointer(name, 120, network.now)
    network.table.service(name, HOST, 1, 120, network.now)
    network.table.text(name, instance.data, 120, network.now)
    assert network.table.changes == changes


def test_a_malformed_record_is_left_out_with_one_line_escaped_and_cut() -> None:
    network = Network()
    name = full_name("calc/\x1b[31m" + "x" * 50)
    for _ in range(3):
        network.table.pointer(name, 120, network.now)
        network.table.service(name, HOST, 1, 120, network.now)
        network.table.text(name, b"\x05\xff\xff\xff\xff\xff", 120, network.now)
    (line,) = network.complaints
    assert r"\x1b[31m" in line and "\x1b" not in line and "names no service" in line and len(line) < 200
    assert network.known() == []
    network.now += 5
    assert network.table.due(network.now, 10) == []


def test_a_record_that_becomes_malformed_takes_the_instance_away_until_it_is_mended() -> None:
    network = Network()
    name = network.tell("one")
    network.table.text(name, b"", 120, network.now)
    assert network.known() == []
    network.tell("one")
    assert network.known() == ["one"]


def test_two_labels_of_one_instance_are_one_and_who_came_first_stays() -> None:
    network = Network()
    network.tell("one", "tcp://first:1")
    network.tell("one", "tcp://second:1", label="stranger")
    assert network.urls() == ("tcp://first:1",)
    assert len(network.table.find("calc", "one")) == 2


def test_services_are_apart_and_may_be_seen_together() -> None:
    network = Network(services=set())
    network.table.want(None)
    network.tell("one")
    network.tell("one", service="other")
    assert network.known("calc") == ["one"] == network.known("other")
    assert [(seen.service, seen.instance) for seen in network.table.endpoints(None, network.now)] == [
        ("calc", "one"),
        ("other", "one"),
    ]


# Addresses.


def test_wildcards_wait_for_addresses_and_hosts_without_any_are_asked() -> None:
    network = Network()
    network.tell("one", "tcp://0.0.0.0:1")
    network.tell("two", "tcp://b:2", host="other.local.")
    assert network.urls() == ("tcp://b:2",)
    assert network.table.hosts_due(network.now, 10) == [HOST]
    network.table.addresses(HOST, [("10.0.0.1", 120)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.1:1", "tcp://b:2")
    assert network.table.hosts_due(network.now, 10) == []


def test_addresses_expire_say_goodbye_and_give_way_to_newer_ones() -> None:
    network = Network()
    network.tell("one", "tcp://0.0.0.0:1", ttl_s=4_500)
    table = network.table
    table.addresses(HOST, [("10.0.0.1", 50), ("10.0.0.2", 100), ("10.0.0.3", 100)], flush=True, now=network.now)
    table.addresses(HOST, [("10.0.0.3", 0)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.1:1", "tcp://10.0.0.2:1")
    network.now += 60
    assert network.urls() == ("tcp://10.0.0.2:1",)
    table.addresses(HOST, [("10.0.0.4", 100)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.4:1",)
    network.now += 0.5
    table.addresses(HOST, [("10.0.0.5", 100)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.4:1", "tcp://10.0.0.5:1"), "what came within a second may be one answer"
    table.addresses(HOST, [("fd00::1", 100)], flush=True, now=network.now + 9)
    assert len(network.urls()) == 2, "IPv6 addresses say nothing about those of IPv4"


def test_a_host_of_ours_tells_all_its_addresses_at_once() -> None:
    network = Network()
    network.tell("one", "tcp://0.0.0.0:1", host="echostream-ab.local.")
    network.table.addresses("echostream-ab.local.", [("10.0.0.1", 120)], flush=True, now=network.now)
    network.now += 0.01
    network.table.addresses("echostream-ab.local.", [("10.0.0.2", 120)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.2:1",)


def test_a_host_has_16_addresses_at_most_and_is_forgotten_with_its_last_instance() -> None:
    network = Network()
    name = network.tell("one", "tcp://0.0.0.0:1")
    for number in range(30):
        network.table.addresses(HOST, [(f"10.0.0.{number}", 120)], flush=False, now=network.now)
    assert len(network.urls()) == 16
    network.table.forget(name)
    network.tell("one", "tcp://0.0.0.0:1")
    assert network.urls() == ()


def test_addresses_of_strangers_are_not_kept() -> None:
    network = Network()
    for number in range(100):
        network.table.addresses(f"h{number}.local.", [("10.0.0.1", 120)], flush=True, now=network.now)
    assert network.table._hosts == {}


def test_addresses_are_ordered_by_our_networks() -> None:
    network = Network()
    network.table.live_in([ipaddress.ip_network("192.168.0.0/16")])
    network.tell("one", "tcp://0.0.0.0:1")
    network.table.addresses(HOST, [("10.0.0.1", 9), ("192.168.0.1", 9)], flush=True, now=network.now)
    assert network.urls() == ("tcp://192.168.0.1:1", "tcp://10.0.0.1:1")
    network.table.live_in([ipaddress.ip_network("10.0.0.0/8")])
    assert network.urls() == ("tcp://10.0.0.1:1", "tcp://192.168.0.1:1")


def test_what_leads_to_ourselves_is_left_out_of_what_others_announce() -> None:
    network = Network()
    network.table.live_in([], {"172.17.0.1", "10.0.0.1"})
    network.tell(
        "one", "tcp://127.0.0.1:1", "tcp://localhost:1", "tcp://0.0.0.0:2", "tcp://172.17.0.1:3", "tcp://name:4"
    )
    network.table.addresses(HOST, [("172.17.0.1", 120), ("10.0.0.2", 120)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.2:2", "tcp://name:4")
    network.table.live_in([], {"172.17.0.1", "10.0.0.2"})
    assert network.urls()[0] == "tcp://127.0.0.1:1", "now it is this machine"


def test_an_address_that_is_told_again_holds_on() -> None:
    network = Network()
    network.tell("one", "tcp://0.0.0.0:1")
    network.table.addresses(HOST, [("10.0.0.1", 50)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.1:1",)
    network.now += 40
    network.table.addresses(HOST, [("10.0.0.1", 50)], flush=True, now=network.now)
    network.now += 40
    assert network.urls() == ("tcp://10.0.0.1:1",)
    network.now += 10
    assert network.urls() == ()


def test_the_goodbye_of_one_address_leaves_the_others_whatever_its_cache_flush_bit_says() -> None:
    network = Network()
    network.tell("one", "tcp://0.0.0.0:1")
    network.table.addresses(HOST, [("10.0.0.1", 120), ("10.0.0.2", 120)], flush=True, now=network.now)
    network.now += 10
    network.table.addresses(HOST, [("10.0.0.2", 0)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.1:1",)


def test_addresses_that_expire_are_asked_for_in_time_and_their_end_is_news() -> None:
    network = Network()
    network.tell("one", "tcp://0.0.0.0:1", ttl_s=4_500)
    network.table.addresses(HOST, [("10.0.0.1", 100)], flush=True, now=network.now)
    network.now += 79
    assert network.table.hosts_due(network.now, 10) == []
    network.now += 1
    assert network.table.hosts_due(network.now, 10) == [HOST]
    network.now += 20
    changes = network.table.changes
    assert network.table.hosts_due(network.now, 10) == [HOST], "nobody has answered"
    assert network.table.changes > changes and network.urls() == ()
    network.now += 60
    network.table.addresses(HOST, [("10.0.0.1", 100)], flush=True, now=network.now)
    assert network.urls() == ("tcp://10.0.0.1:1",) and network.table.hosts_due(network.now, 10) == []


def test_hosts_that_never_tell_an_address_are_asked_less_and_less_and_keep_nobody_from_being_asked() -> None:
    network = Network(max_instances=100)
    for number in range(40):
        network.tell(f"node-{number:02}", "tcp://0.0.0.0:1", host=f"h{number:02}.local.", ttl_s=4_500)
    assert len(network.table.hosts_due(network.now, 32)) == 32
    network.now += 0.5
    assert network.table.hosts_due(network.now, 32) == [f"h{number}.local." for number in range(32, 40)]
    asked = 0
    for _ in range(600):
        network.now += 1
        asked += len(network.table.hosts_due(network.now, 100))
    assert 40 * 10 < asked < 40 * 20


def test_a_host_of_16_addresses_may_change_all_of_them() -> None:
    network = Network()
    network.tell("one", "tcp://0.0.0.0:1", ttl_s=4_500)
    for net in (0, 1):
        heard = [(f"10.0.{net}.{number}", 120.0) for number in range(16)]
        network.table.addresses(HOST, heard, flush=True, now=network.now)
        assert network.urls() == tuple(f"tcp://10.0.{net}.{number}:1" for number in range(16))
        network.now += 10


def test_a_forged_record_with_a_high_count_stands_only_until_its_victim_speaks_again() -> None:
    network = Network()
    name = network.tell("one", "tcp://true:1")
    instance = network.table.get(name)
    assert instance is not None and instance.data is not None
    true = instance.data
    forged = encode(Advert("calc", "", ("tcp://forged:1",), {}, ("ab", 9_999_999_999)))
    network.table.text(name, forged, 120, network.now)
    assert network.urls() == ("tcp://forged:1",)
    network.now += tables.ECHO_S
    network.table.text(name, true, 120, network.now)
    assert network.urls() == ("tcp://true:1",)


def test_what_goes_without_a_goodbye_is_counted_as_lost() -> None:
    network = Network()
    names = [network.tell(f"node-{number}", ttl_s=10) for number in range(3)]
    network.tell("other", service="other", ttl_s=10)
    network.table.pointer(names[0], 0, network.now)
    assert network.table.lost == 0
    network.table.forget(names[1])
    assert network.table.lost == 1
    network.now += 10
    network.table.due(network.now, 10)
    assert network.table.lost == 2


def test_in_doubt_everybody_is_asked_at_once_and_only_who_answers_stays() -> None:
    network = Network()
    living, dead = network.tell("living", "tcp://0.0.0.0:1"), network.tell("dead", "tcp://0.0.0.0:2")
    network.table.addresses(HOST, [("10.0.0.1", 120)], flush=True, now=network.now)
    network.now += 5
    network.table.doubt(network.now)
    assert network.known() == ["dead", "living"] and network.table.known_answers(network.now) == []
    assert set(network.table.due(network.now, 10)) == {living, dead}
    assert network.table.hosts_due(network.now, 10) == [HOST]
    network.now += 1
    network.table.service(living, HOST, 1, 120, network.now)
    network.table.addresses(HOST, [("10.0.0.1", 120)], flush=True, now=network.now)
    network.now += tables.DOUBT_S
    assert network.urls() == ("tcp://10.0.0.1:1",)
    network.table.due(network.now, 10)
    assert len(network.table) == 1


# Bounds.


def test_the_table_takes_so_many_instances_and_says_once_that_it_is_full() -> None:
    network = Network(max_instances=4)
    names = [network.tell(f"node-{number}") for number in range(4)]
    assert network.complaints == []
    for number in range(4, 8):
        network.tell(f"node-{number}")
    assert network.known() == [f"node-{number}" for number in range(4)]
    assert network.complaints == ["4 instances are known: more are left out (discovery.mdns.max_instances)"]
    network.table.pointer(names[0], 0, network.now)
    network.table.due(network.now, 10)
    assert len(network.known()) == 4 and "node-0" not in network.known(), "who was left out comes in when there is room"


def test_a_flood_of_others_takes_nothing_from_who_is_watched() -> None:
    network = Network(max_instances=4)
    network.tell("one")
    for number in range(5_000):
        network.tell(f"flood-{number}", service="flood", host=f"h{number}.local.")
    for number in range(5_000):
        network.table.pointer(full_name(f"calc/half-{number}"), 2**31, network.now)
    network.tell("two")
    assert network.known() == ["one", "two"]
    assert len(network.table) <= MAX_OTHERS + 4 and len(network.table._hosts) <= MAX_OTHERS + 4


def test_whoever_is_watched_later_is_there_at_once_if_it_was_heard() -> None:
    network = Network(services=set())
    network.tell("one")
    assert network.known() == []
    network.table.want({"calc"})
    assert network.known() == ["one"]
    network.table.want(set())
    assert network.known() == [] and len(network.table) == 1


def test_known_answers_are_those_with_more_than_half_of_their_life_before_them() -> None:
    network = Network()
    name = network.tell("one", ttl_s=100)
    network.table.pointer(full_name("calc/half"), 100, network.now)
    network.now += 49
    assert network.table.known_answers(network.now) == [(name, 51.0)]
    network.now += 1
    assert network.table.known_answers(network.now) == []
