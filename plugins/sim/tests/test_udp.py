from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import pytest

from echostream_sim.loop import simulate
from echostream_sim.network import Network
from plugins.sim.tests.simulated import network_of_two, running_loop

Sent = tuple[bytes, tuple[str, int]]


class Recording(asyncio.DatagramProtocol):
    """Writes down what it is told, and by whom it was made."""

    def __init__(self, answer: Callable[[bytes], bytes] | None = None) -> None:
        self.answer = answer
        self.heard: list[Sent] = []
        self.errors: list[Exception] = []
        self.told: list[str] = []
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport
        self.told.append("made")

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append((data, addr))
        if self.answer is not None:
            self.transport.sendto(self.answer(data), addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(f"lost {exc}")


async def on(
    host: str,
    protocol: Recording,
    *,
    local: tuple[str, int] | None = None,
    remote: tuple[str, int] | None = None,
) -> asyncio.DatagramTransport:
    loop = running_loop()
    with loop.network.host(host):
        transport, made = await loop.create_datagram_endpoint(lambda: protocol, local_addr=local, remote_addr=remote)
    assert made is protocol
    return transport


def test_an_echo_over_datagram_endpoints() -> None:
    network = network_of_two(delay_s=0.05)

    async def main() -> list[Sent]:
        client = Recording()
        await on("server", Recording(answer=bytes.upper), local=("0.0.0.0", 7))
        transport = await on("client", client, remote=("server", 7))
        assert transport.get_extra_info("sockname") == ("10.0.0.1", 49152)
        assert transport.get_extra_info("peername") == ("10.0.0.2", 7)
        transport.sendto(b"hello")
        transport.sendto(b"again", ("10.0.0.2", 7))
        await asyncio.sleep(0.2)
        return client.heard

    assert simulate(main(), network=network) == [(b"HELLO", ("10.0.0.2", 7)), (b"AGAIN", ("10.0.0.2", 7))]


def test_an_endpoint_that_is_not_connected_sends_to_names_and_addresses() -> None:
    network = network_of_two()

    async def main() -> list[Sent]:
        server = Recording()
        await on("server", server, local=("server", 7))
        transport = await on("client", Recording(), local=("127.0.0.1", 9))
        for address in (("server", 7), ("10.0.0.2", 7)):
            transport.sendto(b"", address)
        await asyncio.sleep(1)
        return server.heard

    assert simulate(main(), network=network) == [(b"", ("10.0.0.1", 9))] * 2


def test_a_connected_endpoint_hears_its_peer_only() -> None:
    network = network_of_two()

    async def main() -> list[Sent]:
        client = Recording()
        server = await on("server", Recording(), local=("0.0.0.0", 7))
        stranger = await on("server", Recording(), local=("0.0.0.0", 8))
        await on("client", client, local=("0.0.0.0", 9), remote=("server", 7))
        stranger.sendto(b"no", ("client", 9))
        server.sendto(b"yes", ("client", 9))
        await asyncio.sleep(1)
        return client.heard

    assert simulate(main(), network=network) == [(b"yes", ("10.0.0.2", 7))]


def test_a_host_talks_to_itself_over_127_0_0_1() -> None:
    async def main() -> list[Sent]:
        client = Recording()
        await on("alone", Recording(answer=bytes.upper), local=("127.0.0.1", 7))
        transport = await on("alone", client, remote=("127.0.0.1", 7))
        transport.sendto(b"me")
        await asyncio.sleep(1)
        return client.heard

    assert simulate(main()) == [(b"ME", ("127.0.0.1", 7))]


def test_a_port_that_nobody_has_refuses_a_connected_endpoint_after_a_round_trip() -> None:
    network = network_of_two(delay_s=0.1)

    async def main() -> None:
        client = Recording()
        transport = await on("client", client, remote=("server", 7))
        transport.sendto(b"x")
        await asyncio.sleep(0.199)
        assert client.errors == []
        await asyncio.sleep(0.002)
        assert [type(error) for error in client.errors] == [ConnectionRefusedError]

    simulate(main(), network=network)


def test_closing_unbinds_at_once_and_tells_the_protocol_later() -> None:
    async def main() -> None:
        protocol = Recording()
        transport = await on("a", protocol, local=("0.0.0.0", 7))
        transport.close()
        assert transport.is_closing()
        assert protocol.told == ["made"]
        transport.sendto(b"nowhere", ("a", 7))
        again = await on("a", Recording(), local=("0.0.0.0", 7))
        assert protocol.told == ["made", "lost None"]
        again.abort()
        transport.close()
        await asyncio.sleep(0)
        assert protocol.told == ["made", "lost None"]
        assert running_loop().network.recorder.counts["sent"] == 0

    simulate(main())


def test_a_packet_that_arrives_after_close_is_lost() -> None:
    network = network_of_two(delay_s=0.1)

    async def main() -> list[Sent]:
        server = Recording()
        listening = await on("server", server, local=("0.0.0.0", 7))
        transport = await on("client", Recording(), remote=("server", 7))
        transport.sendto(b"x")
        listening.close()
        await asyncio.sleep(1)
        return server.heard

    assert simulate(main(), network=network) == []
    assert network.recorder.lost == {"no_port": 1}


def test_a_packet_that_is_too_large_is_an_error_at_the_protocol() -> None:
    async def main() -> None:
        protocol = Recording()
        transport = await on("a", protocol, local=("0.0.0.0", 7))
        transport.sendto(bytes(65_508), ("a", 7))
        assert [getattr(error, "errno", None) for error in protocol.errors] == [errno.EMSGSIZE]

    simulate(main())


def test_wrong_arguments_raise_as_in_asyncio() -> None:
    network = network_of_two()

    async def main() -> None:
        connected = await on("client", Recording(), remote=("server", 7))
        with pytest.raises(ValueError, match="must be None or"):
            connected.sendto(b"x", ("10.0.0.2", 8))
        protocol = Recording()
        free = await on("client", protocol, local=("0.0.0.0", 0))
        with pytest.raises(TypeError, match="bytes-like"):
            free.sendto("text", ("server", 7))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="needs an address"):
            free.sendto(b"x")
        free.sendto(b"x", ("sever", 7))
        assert [type(error) for error in protocol.errors] == [socket.gaierror]
        with pytest.raises(OSError, match="port 49153 of host 'client' is taken") as caught:
            await on("client", Recording(), local=("0.0.0.0", 49153))
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="not an address of host 'client'") as elsewhere:
            await on("client", Recording(), local=("server", 7))
        assert elsewhere.value.errno == errno.EADDRNOTAVAIL

    simulate(main(), network=network)


def test_names_of_hosts_are_resolved() -> None:
    network = network_of_two()
    datagram = (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP, "")

    async def main() -> None:
        loop = running_loop()
        assert await loop.getaddrinfo("server", 7, type=socket.SOCK_DGRAM) == [(*datagram, ("10.0.0.2", 7))]
        assert [found[1] for found in await loop.getaddrinfo("server", "7")] == [socket.SOCK_STREAM, socket.SOCK_DGRAM]
        for name, flags, address in [
            (None, 0, "127.0.0.1"),
            (None, socket.AI_PASSIVE, "0.0.0.0"),
            ("localhost", 0, "127.0.0.1"),
            ("192.0.2.1", 0, "192.0.2.1"),
            (b"client", 0, "10.0.0.1"),
        ]:
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_DGRAM, flags=flags)
            assert found == [(*datagram, (address, 0))]
        assert await loop.getnameinfo(("10.0.0.2", 7)) == ("server", "7")
        assert await loop.getnameinfo(("192.0.2.1", 7)) == ("192.0.2.1", "7")

    simulate(main(), network=network)


@pytest.mark.parametrize(
    ("name", "port", "family", "kind", "code"),
    [
        ("sever", 7, 0, 0, socket.EAI_NONAME),
        ("server", "http", 0, 0, socket.EAI_SERVICE),
        ("server", 7, socket.AF_INET6, 0, socket.EAI_FAMILY),
        ("server", 7, 0, socket.SOCK_RAW, socket.EAI_SOCKTYPE),
    ],
    ids=["unknown name", "port that is no number", "ipv6", "raw socket"],
)
def test_what_cannot_be_resolved_is_a_gaierror(name: str, port: str | int, family: int, kind: int, code: int) -> None:
    async def main() -> None:
        with pytest.raises(socket.gaierror) as caught:
            await running_loop().getaddrinfo(name, port, family=family, type=kind)
        assert caught.value.errno == code

    simulate(main(), network=network_of_two())


def test_a_program_that_does_not_know_of_the_simulation_resolves_and_talks() -> None:
    network = Network(1)
    network.host("time.example")

    async def main() -> bytes:
        loop = running_loop()
        await on("time.example", Recording(answer=lambda data: b"noon"), local=("0.0.0.0", 123))
        asker = Recording()
        with network.host("laptop"):
            [(family, _, _, _, address)] = await loop.getaddrinfo("time.example", 123, type=socket.SOCK_DGRAM)
            transport, _ = await loop.create_datagram_endpoint(lambda: asker, family=family, remote_addr=address)
        transport.sendto(b"?")
        await asyncio.sleep(1)
        return asker.heard[0][0]

    assert simulate(main(), network=network) == b"noon"


def test_a_protocol_that_raises_when_it_is_connected_is_reported_and_bound_all_the_same() -> None:
    class Broken(Recording):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            raise LookupError("not ready")

    async def main() -> list[object]:
        reports: list[object] = []
        running_loop().set_exception_handler(lambda loop, report: reports.append(report["exception"]))
        transport = await on("a", Broken(), local=("0.0.0.0", 7))
        assert not transport.is_closing()
        return reports

    [error] = simulate(main())
    assert isinstance(error, LookupError)


def test_another_protocol_can_take_an_endpoint_over() -> None:
    async def main() -> None:
        first, second = Recording(), Recording()
        transport = await on("a", first, local=("0.0.0.0", 7))
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        transport.sendto(b"x", ("a", 7))
        await asyncio.sleep(1)
        assert (first.heard, second.heard) == ([], [(b"x", ("10.0.0.1", 7))])

    simulate(main())
