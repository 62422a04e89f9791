"""The transport ``sim`` by the contract: substreams, credit, datagrams, and every way to end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from echostream_core.errors import (
    CloseCode,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    EndOfStream,
    LimitExceeded,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceClosed,
)
from echostream_core.transport import Connection, Pipe
from echostream_core.types import Buffer, Priority, Url
from echostream_core.wire.datagrams import DatagramDrops
from echostream_core.wire.limits import INITIAL_WINDOW_BYTES
from echostream_sim import link_frames as wire
from echostream_sim.options import SimOptions
from echostream_sim.transport import SPEC, SimTransport
from plugins.sim.tests.transport_ends import Session, connected, dial, listen, loop, network, options, simulated

HARD: dict[str, Any] = {
    "delay_s": 0.03,
    "jitter": 0.01,
    "fifo": False,
    "loss": 0.2,
    "duplicate": 0.05,
    "reorder": 0.05,
    "rate_bps": 5e6,
}


@simulated
async def test_bytes_arrive_whole_and_in_order_over_a_bad_network() -> None:
    network(**HARD)
    payload = bytes(range(256)) * 2_000
    async with connected() as ends:
        near = ends.near.open()
        near.write(payload[:300_000])
        near.write(payload[300_000:], end=True)
        far = await ends.far.substream(1)
        assert await far.ended() == payload
        far.write(payload, end=True)
        assert await near.ended() == payload


@simulated
async def test_all_of_it_travels_as_packets_of_the_paths_size() -> None:
    here = network(delay_s=0.01)
    async with connected() as ends:
        near, far = await ends.open()
        near.write(bytes(100_000), end=True)
        await far.ended()
    sizes = [event.size_bytes for event in here.recorder.events if event.fate == "sent"]
    assert max(sizes) == SimOptions().packet_bytes
    assert sum(size == max(sizes) for size in sizes) >= 80


@simulated
async def test_a_reader_that_does_not_consume_stops_its_writer_and_nobody_else() -> None:
    network(delay_s=0.01)
    async with connected(far_reads=False) as ends:
        near, far = await ends.open()
        assert not near.write(bytes(200_000))
        await asyncio.sleep(10)
        assert len(far.data) == INITIAL_WINDOW_BYTES
        assert "writable" not in near.events
        other, far_other = await ends.open()
        other.write(b" goes on", end=True)
        assert await far_other.ended() == b"hello goes on"
        far.read_all()
        await far.received(200_005)
        await near.happens("writable")


@simulated
async def test_more_may_not_be_consumed_than_arrived() -> None:
    network()
    async with connected() as ends:
        _, far = await ends.open()
        with pytest.raises(LocalProtocolError, match=r"consume\(1\)"):
            far.substream.consume(1)


@simulated
async def test_a_reset_gives_up_one_direction_only() -> None:
    network(**HARD)
    async with connected() as ends:
        near, far = await ends.open()
        near.reset(99)
        near.reset(100)
        await far.happens("reset")
        assert far.reset_code == 99
        far.write(b"still", end=True)
        assert await near.ended() == b"still"
        assert near.write(b"dropped")


@simulated
async def test_a_stop_reaches_the_writer_who_answers_with_a_reset() -> None:
    network(**HARD)
    async with connected() as ends:
        near, far = await ends.open()
        near.write(bytes(500_000))
        far.stop(0xFFFF_FFFF)
        await near.happens("stop")
        assert near.stop_code == 0xFFFF_FFFF
        near.reset(5)
        await far.happens("reset")
        assert far.reset_code == 5


@simulated
async def test_half_closed_is_half_open() -> None:
    network(**HARD)
    async with connected() as ends:
        near, far = await ends.open()
        near.write(b"", end=True)
        assert await far.ended() == b"hello"
        with pytest.raises(ResourceClosed, match=r"after end=True"):
            near.write(b"more")
        for _ in range(5):
            far.write(b"answer ")
            await asyncio.sleep(1)
        far.write(end=True)
        assert await near.ended() == b"answer " * 5


@simulated
async def test_control_goes_first_and_urgent_before_bulk() -> None:
    network(delay_s=0.02, rate_bps=1e6)
    async with connected() as ends:
        bulk, _ = await ends.open(Priority.BULK)
        urgent, _ = await ends.open(Priority.URGENT)
        bulk.write(bytes(60_000))
        await asyncio.sleep(0.2)
        began = loop().time()
        urgent.write(bytes(20_000), end=True)
        ends.control.write(b"PING")
        await ends.far_control.received(9)
        control_s = loop().time() - began
        far_bulk, far_urgent = ends.far.accepted[1], ends.far.accepted[2]
        before = len(far_bulk.data)
        await far_urgent.ended()
        assert control_s < 0.3
        assert len(far_bulk.data) - before < 20_000 / 4


@simulated
async def test_the_peers_limit_of_substreams_makes_further_ones_wait() -> None:
    network(**HARD)
    async with connected(far_options={"max_streams": 4}) as ends:
        nears = [ends.near.open() for _ in range(30)]
        for number, near in enumerate(nears):
            near.write(b"%02d" % number, end=True)
        for done in range(1, 31):
            far = await ends.far.substream(done)
            assert await far.ended() == b"%02d" % int(bytes(far.data))
            assert len([1 for one in ends.far.accepted[1:] if one.substream.sending == 0]) <= 4
            far.write(end=True)
        assert sorted(int(bytes(far.data)) for far in ends.far.accepted[1:]) == list(range(30))


@simulated
async def test_a_substream_that_was_given_up_before_its_first_bytes_costs_the_peer_nothing() -> None:
    network()
    async with connected() as ends:
        near = ends.near.open()
        assert not near.substream.known_to_peer
        near.reset(1)
        near.stop(1)
        await ends.open()
        assert len(ends.far.accepted) == 2


@simulated
async def test_the_control_substream_is_the_dialers_and_opened_once() -> None:
    network()
    async with connected() as ends:
        for session in (ends.near, ends.far):
            with pytest.raises(LocalProtocolError, match="the dialer opens the control substream, once"):
                session.open(Priority.CONTROL)


@simulated
async def test_datagrams_arrive_or_are_lost_and_never_come_again() -> None:
    here = network(delay_s=0.02, loss=0.3)
    async with connected() as ends:
        for number in range(200):
            assert ends.near.send_datagram(b"%03d" % number, b"!" * 50)
            await asyncio.sleep(0.01)
        await asyncio.sleep(5)
        numbers = [int(data[:3]) for data in ends.far.datagrams]
        assert len(numbers) == len(set(numbers))
        assert 100 < len(numbers) < 180
    assert here.recorder.lost["loss"] > 0


@simulated
async def test_the_queue_of_datagrams_is_bounded_and_drops_the_oldest() -> None:
    network(delay_s=0.02)
    async with connected(near_options={"max_queued_datagrams": 3}) as ends:
        taken = [ends.near.send_datagram(b"%d" % number) for number in range(5)]
        assert taken == [True, True, True, False, False]
        assert ends.near.connection.datagram_drops == DatagramDrops(full=2)
        await ends.far.until(lambda: ends.far.datagrams == [b"2", b"3", b"4"])


@simulated
async def test_a_datagram_that_waited_too_long_is_not_sent() -> None:
    here = network(delay_s=0.02)
    async with connected(near_options={"datagram_expiry_s": 0.5}) as ends:
        here.partition("client", "server")
        near = ends.near.open()
        near.write(bytes(60_000))  # more than the window takes: it is full until the path is back
        await asyncio.sleep(0.1)
        ends.near.send_datagram(b"old")
        await asyncio.sleep(3)
        here.heal("client", "server")
        await (await ends.far.substream(1)).received(60_000)
        ends.near.send_datagram(b"new")
        await ends.far.until(lambda: ends.far.datagrams)
        assert ends.far.datagrams == [b"new"]
        assert ends.near.connection.datagram_drops == DatagramDrops(expired=1)


@simulated
async def test_a_datagram_with_an_expiry_of_its_own_is_dropped_before_the_paths() -> None:
    here = network(delay_s=0.02)
    async with connected() as ends:
        here.partition("client", "server")
        near = ends.near.open()
        near.write(bytes(60_000))  # more than the window takes: it is full until the path is back
        await asyncio.sleep(0.1)
        now = asyncio.get_running_loop().time()
        ends.near.connection.send_datagram([b"brief"], expires_at=now + 0.2)
        ends.near.connection.send_datagram([b"longer"], expires_at=now + 0.9)
        await asyncio.sleep(0.3)
        here.heal("client", "server")
        await ends.far.until(lambda: ends.far.datagrams)
        assert ends.far.datagrams == [b"longer"]
        assert ends.near.connection.datagram_drops == DatagramDrops(expired=1)


@simulated
async def test_a_datagram_larger_than_a_packet_is_a_local_error() -> None:
    network()
    async with connected() as ends:
        most = ends.near.connection.max_datagram_size()
        assert 1_100 < most < 1_200
        ends.near.send_datagram(bytes(most))
        with pytest.raises(LimitExceeded, match="packet_bytes") as caught:
            ends.near.send_datagram(bytes(most), b"!")
        assert (caught.value.limit, caught.value.value) == ("max_datagram_size", most + 1)
        await ends.far.until(lambda: ends.far.datagrams == [bytes(most)])


@simulated
async def test_close_hands_over_the_control_substream_then_code_and_reason() -> None:
    network(**HARD)
    async with connected() as ends:
        bulk, _ = await ends.open(Priority.BULK)
        bulk.write(bytes(500_000))
        ends.control.write(bytes(30_000))
        ends.near.close(CloseCode.GOING_AWAY, "shutting down")
        ends.near.close(1, "again")
        assert await ends.near.ended() is None
        error = await ends.far.ended()
        assert isinstance(error, ConnectionLost)
        assert error.close_code == CloseCode.GOING_AWAY
        assert "shutting down" in str(error)
        assert len(ends.far_control.data) == 30_005
        with pytest.raises(ResourceClosed):
            ends.near.connection.open_substream()
        assert bulk.write(b"dropped")


@simulated
async def test_an_orderly_close_is_the_end_of_the_stream() -> None:
    network(delay_s=0.01)
    async with connected() as ends:
        ends.far.close()
        assert isinstance(await ends.near.ended(), EndOfStream)
        assert await ends.far.ended() is None


@simulated
async def test_close_during_a_partition_is_reported_within_its_patience() -> None:
    here = network(delay_s=0.01)
    async with connected() as ends:
        here.partition("client", "server")
        ends.control.write(bytes(100_000))
        began = loop().time()
        ends.near.close(0, "")
        assert await ends.near.ended() is None
        assert loop().time() - began <= 1.0 + 1e-6


@simulated
async def test_a_farewell_is_repeated_until_it_has_arrived() -> None:
    here = network(delay_s=0.01)
    async with connected() as ends:
        here.partition("client", "server")
        ends.near.close(CloseCode.GOING_AWAY, "bye")
        await asyncio.sleep(2)
        here.heal("client", "server")
        error = await ends.far.ended()
        assert isinstance(error, ConnectionLost)
        assert error.close_code == CloseCode.GOING_AWAY


@simulated
async def test_an_abort_is_a_lost_connection_to_the_peer() -> None:
    network(delay_s=0.01)
    async with connected() as ends:
        ends.near.abort()
        ends.near.abort()
        assert await ends.near.ended() is None
        error = await ends.far.ended()
        assert isinstance(error, ConnectionLost)
        assert error.close_code is None


@simulated
async def test_nothing_acknowledged_for_long_loses_the_connection() -> None:
    here = network(delay_s=0.01)
    async with connected(near_options={"give_up_s": 20.0}) as ends:
        here.partition("client", "server")
        near = ends.near.open()
        near.write(b"anybody?")
        began = loop().time()
        error = await ends.near.ended()
        assert isinstance(error, ConnectionLost)
        assert "give_up_s" in str(error)
        assert 19 < loop().time() - began < 24


@simulated
async def test_silence_alone_loses_nothing() -> None:
    here = network(delay_s=0.01)
    async with connected(near_options={"give_up_s": 20.0}) as ends:
        await asyncio.sleep(1)
        sent = here.recorder.counts["sent"]
        await asyncio.sleep(600)
        assert here.recorder.counts["sent"] == sent
        _, far = await ends.open()
        assert (bytes(far.data), ends.near.closed) == (b"hello", [])


@simulated
async def test_what_is_lost_after_a_long_silence_is_sent_again() -> None:
    here = network(delay_s=0.01)
    async with connected(near_options={"give_up_s": 20.0}) as ends:
        await asyncio.sleep(600)
        here.partition("client", "server")
        loop().call_later(3, here.heal, "client", "server")
        _, far = await ends.open()
        assert (bytes(far.data), ends.near.closed) == (b"hello", [])


@simulated
async def test_callbacks_come_after_start_and_what_came_before_is_kept_within_bounds() -> None:
    network(delay_s=0.01)
    accepted: list[Connection | Pipe] = []
    listener = await listen(accepted.append)
    near = Session(await dial()).start()
    writers = [near.open() for _ in range(40)]
    for writer in writers:
        writer.write(bytes(60_000), end=True)
    near.send_datagram(b"early")
    await asyncio.sleep(5)
    (connection,) = accepted
    far = Session(connection)
    assert 1_000_000 < far.connection.reader._unheard_bytes < 1_100_000
    far.start()
    assert far.events == []
    await far.until(lambda: len(far.accepted) == 40)
    for stream in far.accepted:
        assert await stream.ended() == bytes(60_000)
    assert far.datagrams == [b"early"]
    near.abort()
    assert isinstance(await far.ended(), ConnectionLost)
    assert near.violations + far.violations == []
    await listener.close()


@simulated
async def test_a_failing_callback_ends_its_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    network(delay_s=0.01)
    async with connected() as ends:

        def fail(data: Buffer) -> None:
            raise KeyError("oops")

        _, far = await ends.open()
        far.on_data = fail  # type: ignore[method-assign]
        with caplog.at_level(logging.CRITICAL, logger="echostream.sim"):
            near = ends.near.open()
            near.write(b"fine")
            await (await ends.far.substream(2)).received(4)
            ends.far.accepted[1].substream.receiver = far
            opened = [stream for stream in ends.near.connection.engine.live.values() if stream.id == 2]
            opened[0].write([b"now"])
            error = await ends.far.ended()
        assert isinstance(error, ConnectionLost)
        assert isinstance(error.__cause__, KeyError)
        lost = await ends.near.ended()
        assert isinstance(lost, ConnectionLost)
        assert lost.close_code == CloseCode.INTERNAL


# Dialling and listening


@simulated
async def test_dialling_a_port_where_nobody_listens_is_refused_after_one_round_trip() -> None:
    network(delay_s=0.05)
    with pytest.raises(ConnectFailed, match="nobody listens at sim://server:4433"):
        await dial()
    assert loop().time() == pytest.approx(0.1)
    assert loop().network.hosts["client"].ports == {}


@simulated
async def test_dialling_over_a_partition_gives_up_after_the_handshakes_timeout() -> None:
    here = network(delay_s=0.05)
    listener = await listen(lambda _: None)
    here.partition("client", "server")
    with pytest.raises(ConnectFailed, match=r"nobody answers at sim://server:4433 \(waited 10 s\)"):
        await dial()
    assert loop().time() == pytest.approx(10.0)
    await listener.close()


@simulated
async def test_a_handshake_survives_the_loss_of_any_of_its_packets() -> None:
    network(delay_s=0.05, loss=0.4)
    accepted: list[Connection | Pipe] = []
    listener = await listen(accepted.append)
    sessions = [Session(connection).start() for connection in await asyncio.gather(*(dial() for _ in range(30)))]
    await asyncio.sleep(30)
    assert len(accepted) == 30
    assert listener.unfinished_handshakes == 0
    for session in sessions:
        session.abort()
    await listener.close()


@simulated
async def test_a_cancelled_dial_leaves_nothing() -> None:
    here = network(delay_s=0.05)
    accepted: list[Connection | Pipe] = []
    listener = await listen(accepted.append)
    for patience_s in (0.0, 0.01, 0.06, 0.0999):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dial(), patience_s)
        assert here.hosts["client"].ports == {}
    await asyncio.sleep(15)
    assert accepted == []
    assert listener.unfinished_handshakes == 0
    assert list(here.hosts["server"].ports) == [4433]
    await listener.close()


@simulated
async def test_a_port_that_is_taken_is_named_and_free_again_after_close() -> None:
    network()
    async with connected() as ends:
        with pytest.raises(ConnectFailed, match="cannot listen on sim://server:4433"):
            await listen(lambda _: None)
        await ends.listener.close()
        again = await listen(lambda _: None)
        _, far = await ends.open()  # what was accepted goes on
        assert bytes(far.data) == b"hello"
        await again.close()


@simulated
async def test_port_zero_is_any_free_one() -> None:
    network()
    first, second = await listen(lambda _: None, "sim://server:0"), await listen(lambda _: None, "sim://server:0")
    assert first.addresses != second.addresses
    port = Url.parse(first.addresses[0]).port
    assert port is not None
    assert port > 0
    await first.close()
    await second.close()


@simulated
async def test_inside_a_host_one_dials_and_listens_as_that_host() -> None:
    here = network(delay_s=0.01)
    third = here.host("third")
    accepted: list[Connection | Pipe] = []
    with third:
        listener = await listen(accepted.append, "sim://0.0.0.0:99")
        assert listener.addresses == ("sim://third:99",)
        with pytest.raises(ConnectFailed, match=r"with network\.host\('server'\)"):
            await listen(accepted.append)
        local = await dial("sim://localhost:99")
    assert local.local_address.startswith("sim://third:")
    with here.host("server"):
        remote = await dial("sim://third:99")
    assert remote.local_address.startswith("sim://server:")
    assert remote.peer_address == "sim://third:99"
    await asyncio.sleep(1)
    assert accepted[1].peer_address == remote.local_address
    for connection in (local, remote, *accepted):
        connection.abort()
    await listener.close()


@simulated
async def test_an_unknown_host_is_named_with_those_that_there_are() -> None:
    network()
    with pytest.raises(ConnectFailed, match=r"cannot find 'nowhere' .* server, client"):
        await dial("sim://nowhere:1")


@pytest.mark.parametrize("url", ["sim://server", "sim://server:1/path", "sim://server:0", "sim://:1"])
def test_an_address_that_cannot_be_dialled_says_how_to_write_it(url: str) -> None:
    @simulated
    async def main() -> None:
        network()
        with pytest.raises(ConfigError, match=r"sim://"):
            await dial(url)

    main()


async def test_outside_a_simulation_the_error_says_how_to_run_one() -> None:
    for act in (dial(), listen(lambda _: None)):
        with pytest.raises(ConnectFailed, match=r"echostream_sim\.simulate\(main\(\)\)"):
            await act


@simulated
async def test_an_acceptor_that_fails_ends_that_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    network(delay_s=0.01)
    accepted: list[Connection | Pipe] = []

    def accept(connection: Connection | Pipe) -> None:
        if not accepted:
            accepted.append(connection)
            raise KeyError("not ready")
        accepted.append(connection)

    with caplog.at_level(logging.ERROR, logger="echostream.sim"):
        listener = await listen(accept)
        first = Session(await dial()).start()
        assert isinstance(await first.ended(), ConnectionLost)
    assert "the acceptor failed" in caplog.text
    second = Session(await dial()).start()
    await asyncio.sleep(1)
    assert (len(accepted), second.closed) == (2, [])
    second.abort()
    await listener.close()


# Bad peers


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x63", CloseCode.PROTOCOL),
        (wire.DATA_HEAD.pack(wire.DATA, 2, 0, 500), CloseCode.PROTOCOL),
        (wire.DATA_HEAD.pack(wire.DATA, 2, INITIAL_WINDOW_BYTES, 1) + b"!", CloseCode.LIMIT),
        (wire.DATA_HEAD.pack(wire.DATA, 2 * 5_000, 0, 1) + b"!", CloseCode.LIMIT),
        (wire.ACK_HEAD.pack(wire.ACK, 0, 1) + wire.ACK_RANGE.pack(1, 9_999), CloseCode.PROTOCOL),
        (b"\x05\x00", CloseCode.PROTOCOL),
    ],
    ids=["unknown", "cut", "over credit", "too many substreams", "never sent", "short"],
)
def test_a_peer_that_breaks_the_rules_is_told_so(frame: bytes, code: CloseCode) -> None:
    @simulated
    async def main() -> None:
        network()
        async with connected() as ends:
            near = ends.near.connection
            number = near.engine.recovery.next_number
            near.engine.recovery.next_number += 1
            near._carriage.send(wire.HEADER.pack(wire.PACKET, near.engine.number, number, 1) + frame)
            error = await ends.far.ended()
            assert isinstance(error, RemoteProtocolError)
            assert error.close_code == code
            lost = await ends.near.ended()
            assert isinstance(lost, ConnectionLost)
            assert lost.close_code == code

    main()


@simulated
async def test_packets_of_strangers_are_ignored() -> None:
    here = network()
    async with connected() as ends:
        stranger = here.host("stranger").bind(0, lambda data, source: None)
        target = next(port for port in here.hosts["server"].ports if port != 4433)
        for data in (b"", b"\x04", wire.SHORT.pack(wire.GONE, ends.near.connection.engine.number), bytes(40)):
            stranger.send(data, ("server", target))
            stranger.send(data, ("server", 4433))
        await asyncio.sleep(1)
        _, far = await ends.open()
        assert bytes(far.data) == b"hello"
        assert ends.listener.unfinished_handshakes == 0


# What the kernel is told


def test_the_record_of_capabilities_is_what_connections_can_do() -> None:
    assert SPEC.capabilities.unmet(["streams=native", "datagrams=native", "reset", "half_close", "priorities"]) == []
    assert SPEC.capabilities.unmet(["encrypted", "migration", "peer_identity"]) == [
        "encrypted",
        "migration",
        "peer_identity",
    ]
    assert isinstance(SPEC.factory(), SimTransport)


@pytest.mark.parametrize("name", ["packet_bytes", "give_up_s", "max_streams", "max_window_bytes", "datagram_expiry_s"])
def test_an_option_that_cannot_work_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be from"):
        options(**{name: 0})
