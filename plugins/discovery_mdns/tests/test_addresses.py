"""Which interfaces are used, which addresses are announced, and how wildcards are filled in."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest

from echostream_core.errors import ConfigError, TransportError
from echostream_core.options import convert_options
from echostream_discovery_mdns import addresses
from echostream_discovery_mdns.addresses import MAX_ADDRESSES, Interface, Links, choose, filled_in, is_wildcard, ordered
from echostream_discovery_mdns.options import MdnsOptions


def interface(name: str, index: int, *texts: str) -> Interface:
    return Interface(name, index, tuple(ipaddress.ip_interface(text) for text in texts))


LO = interface("lo", 1, "127.0.0.1/8", "::1/128")
ETH = interface("eth0", 2, "192.168.1.7/24", "fd00::7/64", "2001:db8::7/64", "fe80::7/64")
WLAN = interface("wlan0", 3, "10.1.0.7/16", "fe80::8/64")


@pytest.fixture(autouse=True)
def multicast_works_but_for_ipv6_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_can_multicast_v4", lambda address: True)
    monkeypatch.setattr(addresses, "_can_multicast_v6", lambda index: index != 1)


@pytest.mark.parametrize(
    ("options", "senders_v4", "senders_v6", "announced"),
    [
        (
            MdnsOptions(),
            ("192.168.1.7", "10.1.0.7"),
            (2, 3),
            ("192.168.1.7", "fd00::7", "2001:db8::7", "10.1.0.7"),
        ),
        (
            MdnsOptions(interfaces="all"),
            ("127.0.0.1", "192.168.1.7", "10.1.0.7"),
            (2, 3),
            ("127.0.0.1", "::1", "192.168.1.7", "fd00::7", "2001:db8::7", "10.1.0.7"),
        ),
        (MdnsOptions(interfaces="loopback"), ("127.0.0.1",), (), ("127.0.0.1", "::1")),
        (MdnsOptions(ip_version="v4"), ("192.168.1.7", "10.1.0.7"), (), ("192.168.1.7", "10.1.0.7")),
        (MdnsOptions(ip_version="v6"), (), (2, 3), ("fd00::7", "2001:db8::7")),
        (MdnsOptions(interfaces=["wlan0"]), ("10.1.0.7",), (3,), ("10.1.0.7",)),
        (MdnsOptions(interfaces=["wlan0"], ip_version="v6"), (), (3,), ("fe80::8",)),
        (MdnsOptions(interfaces=["fd00::7"]), (), (2,), ("fd00::7",)),
        (MdnsOptions(interfaces=["192.168.1.7", "fd00::7"]), ("192.168.1.7",), (2,), ("192.168.1.7", "fd00::7")),
        (MdnsOptions(interfaces=["lo", "wlan0"]), ("127.0.0.1", "10.1.0.7"), (3,), ("127.0.0.1", "::1", "10.1.0.7")),
    ],
    ids=["default", "all", "loopback", "v4", "v6", "name", "name-v6", "address-v6", "two-addresses", "two-names"],
)
def test_options_choose(
    options: MdnsOptions, senders_v4: tuple[str, ...], senders_v6: tuple[int, ...], announced: tuple[str, ...]
) -> None:
    links = choose(options, [LO, ETH, WLAN])
    assert (links.senders_v4, links.senders_v6, links.announced) == (senders_v4, senders_v6, announced)


def test_loopback_serves_while_there_is_nothing_else() -> None:
    assert choose(MdnsOptions(), [LO]).senders_v4 == ("127.0.0.1",)
    assert choose(MdnsOptions(), [LO, WLAN]).senders_v4 == ("10.1.0.7",)


def test_an_unknown_interface_is_a_config_error_that_names_those_there_are() -> None:
    for name in ("eth9", "10.9.9.9"):
        with pytest.raises(
            ConfigError, match=rf"no interface '{name}'.* has lo \(127.0.0.1, ::1\), wlan0 \(10"
        ) as caught:
            choose(MdnsOptions(interfaces=["lo", name]), [LO, WLAN])
        assert caught.value.key == "discovery.mdns.interfaces"


def test_an_interface_that_has_no_address_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (3, "wlan0")])
    with pytest.raises(TransportError, match="no interface of wlan0 has an address yet"):
        choose(MdnsOptions(interfaces=["wlan0"]), [LO])
    assert choose(MdnsOptions(interfaces=["wlan0", "lo"]), [LO]).senders_v4 == ("127.0.0.1",)
    with pytest.raises(ConfigError, match="no interface 'wlan1'"):
        choose(MdnsOptions(interfaces=["wlan0", "wlan1"]), [LO])


def test_a_system_that_cannot_tell_its_interfaces_is_a_transport_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_descriptors(*how: object) -> object:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(addresses, "_can_multicast_v4", out_of_descriptors)
    with pytest.raises(TransportError, match="Too many open files"):
        choose(MdnsOptions(), [LO])


def test_what_lasts_of_the_senders_is_what_has_its_interface_still() -> None:
    before = Links(("10.0.0.1", "10.0.0.2"), (2, 3), (), (), (2, 3))
    after = Links(("10.0.0.1", "10.0.0.2", "10.0.0.3"), (3, 4), (), (), (2, 9, 4))
    assert after.lasting(before) == Links(("10.0.0.1",), (3,), ())


def test_without_an_interface_that_can_multicast_the_error_says_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransportError, match=r'set discovery\.mdns\.ip_version to "both" or "v4"'):
        choose(MdnsOptions(interfaces="loopback", ip_version="v6"), [LO, ETH])
    with pytest.raises(TransportError, match="no interface that is up"):
        choose(MdnsOptions(), [])
    monkeypatch.setattr(addresses, "_can_multicast_v4", lambda address: False)
    with pytest.raises(TransportError, match="`ip link set lo up` helps"):
        choose(MdnsOptions(interfaces="loopback"), [LO])
    with pytest.raises(TransportError, match="no interface of eth0 can multicast over IPv4"):
        choose(MdnsOptions(ip_version="v4"), [LO, ETH])


def test_no_more_than_16_addresses_are_announced() -> None:
    many = interface("eth0", 2, *[f"10.0.0.{number}/24" for number in range(1, 20)])
    assert len(choose(MdnsOptions(), [many]).announced) == MAX_ADDRESSES == 16


def test_the_machine_of_the_test_has_loopback() -> None:
    assert any(found.is_loopback for found in addresses.machine_interfaces())


HOSTS = ["192.168.1.7", "fd00::7"]


@pytest.mark.parametrize(
    ("url", "filled"),
    [
        ("tcp://0.0.0.0:1", ["tcp://192.168.1.7:1"]),
        ("tcp://[::]:1", ["tcp://[fd00::7]:1"]),
        ("tcp://[0:0::0]:1/", ["tcp://[fd00::7]:1/"]),
        ("wss://:1/path/ü", ["wss://192.168.1.7:1/path/ü", "wss://[fd00::7]:1/path/ü"]),
        ("tcp://10.0.0.1:1", ["tcp://10.0.0.1:1"]),
        ("tcp://Host.Example:1/a%20b", ["tcp://Host.Example:1/a%20b"]),
        ("unix:///run/x.sock", ["unix:///run/x.sock"]),
        ("memory://calc", ["memory://calc"]),
    ],
)
def test_wildcards_are_filled_in_and_nothing_else(url: str, filled: list[str]) -> None:
    assert filled_in(url, HOSTS) == filled
    assert is_wildcard(url) == (filled != [url])


def test_a_wildcard_without_an_address_of_its_kind_is_left_out() -> None:
    assert filled_in("tcp://[::]:1", ["10.0.0.1"]) == []


def test_addresses_in_our_networks_come_first_and_link_local_ones_only_alone() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/64")]
    heard = ["fe80::1%2", "2001:db8::1", "192.168.1.1", "fd00::1", "10.2.0.1", "10.1.0.1"]
    assert ordered(heard, networks) == ["10.1.0.1", "10.2.0.1", "fd00::1", "192.168.1.1", "2001:db8::1"]
    assert ordered(heard[:1], networks) == ["fe80::1%2"]


def test_what_another_machine_has_in_common_with_this_one_is_left_out() -> None:
    networks = [ipaddress.ip_network("192.168.1.0/24"), ipaddress.ip_network("172.17.0.0/16")]
    own = {"192.168.1.7", "172.17.0.1", "fe80::7"}
    assert ordered(["172.17.0.1", "192.168.1.8", "127.0.0.1"], networks, own) == ["192.168.1.8"]
    assert ordered(["172.17.0.1", "192.168.1.7"], networks, own) == ["172.17.0.1", "192.168.1.7"], "it is this machine"
    assert ordered(["172.17.0.1"], networks, own) == ["172.17.0.1"]
    assert ordered(["fe80::7%2", "fe80::8%2"], networks, own) == ["fe80::8%2"]


def test_the_addresses_of_this_machine_are_those_of_all_its_interfaces() -> None:
    links = choose(MdnsOptions(interfaces=["wlan0"], ip_version="v4"), [LO, WLAN])
    assert links.own == {"127.0.0.1", "::1", "10.1.0.7", "fe80::8"}
    assert links == choose(MdnsOptions(interfaces=["wlan0"], ip_version="v4"), [WLAN]), "others are no change"


@pytest.mark.parametrize(
    "wrong",
    [
        {"interfaces": "some"},
        {"interfaces": []},
        {"interfaces": [""]},
        {"interfaces": ["a b"]},
        {"ip_version": "v5"},
        {"ttl_s": 4},
        {"ttl_s": 4_501},
        {"probe_s": -0.1},
        {"probe_s": 10.1},
        {"suspect_s": 0.05},
        {"suspect_s": 31},
        {"interface_poll_s": -1},
        {"interface_poll_s": 3_601},
        {"max_instances": 0},
        {"max_instances": 100_001},
        {"domain": "example.org"},
    ],
    ids=str,
)
def test_an_option_out_of_its_range_is_a_config_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        convert_options(MdnsOptions, wrong, key="discovery.mdns")
    assert next(iter(wrong)) in caught.value.key


def test_options_take_their_limits() -> None:
    for right in (
        {"ttl_s": 5, "probe_s": 0, "suspect_s": 0.1, "interface_poll_s": 0, "max_instances": 1},
        {"ttl_s": 4_500, "probe_s": 10, "suspect_s": 30, "interface_poll_s": 3_600, "max_instances": 100_000},
        {"interfaces": ["eth0", "192.168.1.7"], "ip_version": "v6"},
    ):
        made = convert_options(MdnsOptions, right, key="discovery.mdns")
        assert right.items() <= msgspec.to_builtins(made).items()
