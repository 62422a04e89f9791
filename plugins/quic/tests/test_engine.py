"""The engine between two ends in virtual time: loss, reordering, narrow paths, new keys, and peers that cheat.

Every run is decided by its seed; a failing one replays identically.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # it is re-exported without __all__
from aioquic.quic.connection import QuicConnectionError
from aioquic.tls import CipherSuite

import echostream_quic._aioquic.parts
import echostream_quic._aioquic.sending
from echostream_core.tls_options import TlsOptions
from echostream_core.types import Priority
from echostream_quic.options import QuicOptions
from echostream_quic.replacements import PacketContext
from echostream_quic.substreams import SubstreamState
from echostream_quic.tls import dialer_configuration, listener_configuration
from plugins.quic.tests.virtual_link import VirtualLink, Weather

QUIET = Weather()


def link(weather: Weather = QUIET, *, seed: int = 0, **given: Any) -> VirtualLink:
    """Two ends whose handshake is complete."""
    options = QuicOptions(tls=TlsOptions(dev=True), **given)
    made = VirtualLink(
        dialer_configuration(options, "localhost"),
        listener_configuration(options),
        options=options,
        weather=weather,
        seed=seed,
    )
    made.handshake()
    return made


def upload(one: VirtualLink, data: bytes, priority: Priority = Priority.NORMAL) -> SubstreamState:
    """Write ``data`` on a substream of the client's and wait until the server has it."""
    state = one.client.open(one.now, priority)
    one.client.write(state, data, end=True)
    one.run(lambda: state.stream_id in one.server.ended)
    assert bytes(one.server.received[state.stream_id]) == data
    return state


class Errands:
    """Many substreams that the server echoes, some of them given up on the way, all over within a limit of 16."""

    def __init__(self, one: VirtualLink, seed: int, count: int = 40) -> None:
        self.link = one
        self.dice = random.Random(seed)
        self.left = count
        self.sent: dict[int, bytes] = {}
        self.given_up: set[int] = set()
        one.server.on_data = one.server.write

    def step(self) -> bool:
        """Open what may be opened and answer what has ended; True when all is done at both ends."""
        client, server = self.link.client, self.link.server
        for stream_id in [*server.ended, *server.resets]:
            state = server.engine.substreams.by_id.get(stream_id)
            if state is not None and not state.outgoing.ended and not state.outgoing.end_sent:
                server.write(state, b"", end=True)
        while self.left and client.engine.streams_left() > 0:
            self.left -= 1
            state = client.open(self.link.now, self.dice.choice(list(Priority)[1:]))
            data = self.sent[state.stream_id] = self.dice.randbytes(self.dice.randrange(150_000))
            client.write(state, data, end=True)
            if self.dice.random() < 0.15:
                self.given_up.add(state.stream_id)
                how = self.dice.randrange(3)
                if how != 1:
                    client.engine.substreams.reset(state, 7)
                if how != 0:
                    client.engine.substreams.stop(state, 9)
        return not self.left and not client.engine.substreams.by_id and not server.engine.substreams.by_id

    def check(self) -> None:
        """Everything arrived whole, and nothing is left in any account."""
        for stream_id, data in self.sent.items():
            if stream_id not in self.given_up:
                assert bytes(self.link.client.received.get(stream_id, b"")) == data
        for end in (self.link.client, self.link.server):
            engine = end.engine
            assert engine.ending is None
            assert engine.substreams.session.consumed == engine._local_max_data.used
            assert engine.substreams.session.growth_left == 16_777_216
            assert not engine.substreams.scheduler
        self.link.run_for(20)
        for end in (self.link.client, self.link.server):
            assert end.engine._loss._cc.bytes_in_flight == 0


@pytest.mark.parametrize("seed", range(16))
def test_everything_arrives_whole_whatever_the_network_does(seed: int) -> None:
    dice = random.Random(seed)
    weather = Weather(
        delay_s=dice.choice([0.0005, 0.01, 0.05]),
        jitter_s=dice.choice([0, 0.001, 0.02]),
        loss=dice.choice([0, 0.01, 0.05, 0.2]),
        duplicates=dice.choice([0, 0.05]),
        largest_bytes=dice.choice([1_200, 1_400, 9_000]),
        bytes_per_s=dice.choice([0, 1e6, 1e7]),
    )
    one = link(weather, seed=seed, max_streams=16, congestion=dice.choice(["reno", "cubic"]))
    errands = Errands(one, seed)
    one.run(errands.step, limit_s=3_000)
    errands.check()


@pytest.mark.parametrize("seed", range(4))
def test_keys_may_be_renewed_at_any_moment_by_either_end(seed: int) -> None:
    dice = random.Random(seed)
    one = link(Weather(loss=0.02, jitter_s=0.002), seed=seed, max_streams=16)
    errands = Errands(one, seed, count=25)

    def step() -> bool:
        if dice.random() < 0.003:
            dice.choice([one.client, one.server]).engine.request_key_update()
        return errands.step()

    one.run(step, limit_s=3_000)
    errands.check()


def test_keys_are_renewed_long_before_they_are_worn_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echostream_quic._aioquic.sending, "PACKETS_PER_KEY", 100)
    one = link()
    phases = set()

    def done() -> bool:
        phases.add(one.client.engine._cryptos[echostream_quic._aioquic.parts.ONE_RTT].send.key_phase)
        return state.stream_id in one.server.ended

    state = one.client.open(one.now)
    one.client.write(state, bytes(1_000_000), end=True)
    one.run(done)
    assert phases == {0, 1}
    assert len(one.server.received[state.stream_id]) == 1_000_000


def test_every_cipher_of_the_handshake_works() -> None:
    options = QuicOptions(tls=TlsOptions(dev=True))
    for cipher in CipherSuite:
        if cipher is CipherSuite.EMPTY_RENEGOTIATION_INFO_SCSV:
            continue
        ours, theirs = dialer_configuration(options, "localhost"), listener_configuration(options)
        ours.cipher_suites = [cipher]
        one = VirtualLink(ours, theirs, options=options, weather=Weather(loss=0.02), seed=1)
        one.handshake()
        upload(one, bytes(200_000))


@pytest.mark.parametrize(("largest", "expected"), [(65_535, 1_452), (1_452, 1_452), (1_430, 1_400), (1_250, 1_200)])
def test_packets_get_as_large_as_the_path_carries(largest: int, expected: int) -> None:
    one = link(Weather(largest_bytes=largest))
    upload(one, bytes(300_000))
    one.run_for(10)
    assert one.client.engine.packet_bytes == expected
    assert one.server.engine.packet_bytes == expected


def test_jumbo_packets_where_they_pass() -> None:
    one = link(Weather(largest_bytes=9_000), max_datagram_size=8_192)
    upload(one, bytes(300_000))
    assert one.client.engine.packet_bytes == 8_192
    before = one.client.sent_packets
    upload(one, bytes(800_000))
    assert one.client.sent_packets - before < 150


def test_a_lost_probe_of_the_size_is_no_congestion() -> None:
    one = link(Weather(largest_bytes=1_300))
    upload(one, bytes(100_000))
    assert one.client.engine._loss._cc.ssthresh is None


def test_a_path_that_begins_to_swallow_large_packets_is_noticed() -> None:
    one = link(Weather(delay_s=0.005))
    upload(one, bytes(200_000))
    assert one.client.engine.packet_bytes == 1_452
    one.weather.largest_bytes = 1_250
    upload(one, bytes(200_000))
    assert one.client.engine.packet_bytes == 1_200


def test_urgent_data_is_not_behind_queued_bulk() -> None:
    one = link(Weather(delay_s=0.02, bytes_per_s=500_000, queue_s=0.2))
    bulk = one.client.open(one.now, Priority.BULK)
    one.client.write(bulk, bytes(5_000_000))
    one.run_for(3)
    urgent = one.client.open(one.now, Priority.URGENT)
    one.client.write(urgent, bytes(500), end=True)
    started = one.now
    one.run(lambda: urgent.stream_id in one.server.ended)
    # The path's delay and its own queue, which others cannot be taken out of; not the seconds that our bulk needs.
    assert one.now - started < 0.4


def test_a_narrow_path_is_filled_without_flooding_it() -> None:
    one = link(Weather(delay_s=0.02, bytes_per_s=1_000_000, queue_s=0.1))
    started = one.now
    upload(one, bytes(5_000_000))
    assert one.now - started < 8
    assert one.dropped < one.client.sent_packets * 0.05


@pytest.mark.parametrize("congestion", ["reno", "cubic"])
def test_a_window_that_is_not_used_does_not_grow(congestion: str) -> None:
    one = link(Weather(delay_s=0.02), congestion=congestion)
    upload(one, bytes(20_000_000))  # held back by the peer's credit of a megabyte, not by the network
    controller = one.client.engine._loss._cc
    assert controller.congestion_window < 4 * 1_048_576
    before = controller.congestion_window
    for _ in range(200):
        upload(one, bytes(100))
    assert controller.congestion_window == before


def test_a_window_that_is_used_grows() -> None:
    one = link(Weather(delay_s=0.02))
    before = one.client.engine._loss._cc.congestion_window
    upload(one, bytes(3_000_000))
    assert one.client.engine._loss._cc.congestion_window > 20 * before


def test_a_batch_is_acknowledged_once() -> None:
    one = link(Weather(delay_s=0.01))
    before = one.server.sent_packets
    sent = one.client.sent_packets
    upload(one, bytes(3_000_000))
    assert (one.server.sent_packets - before) * 3 < one.client.sent_packets - sent


def test_a_single_packet_is_acknowledged_within_the_delay() -> None:
    one = link()
    state = one.client.open(one.now)
    one.client.write(state, b"x")
    one.run(lambda: state.outgoing.in_flight == 1)
    started = one.now
    one.run(lambda: state.outgoing.in_flight == 0)
    assert one.now - started < 2 * 0.010 + 0.006


def test_a_peer_that_ignores_the_window_is_cut_off() -> None:
    one = link()
    one.server.consume = False
    upload(one, b"the first substream is control's")
    state = one.client.open(one.now)
    state.outgoing.credit = 1 << 40
    one.client.write(state, bytes(200_000))
    one.run(lambda: one.server.engine.ending is not None)
    ending = one.server.engine.ending
    assert ending is not None
    assert (ending.code, ending.reason, ending.by_peer) == (3, "Over stream data limit", False)
    assert len(one.server.received[state.stream_id]) <= 65_536


def test_a_peer_that_opens_too_many_substreams_is_cut_off() -> None:
    one = link(max_streams=8)
    one.client.engine._remote_max_streams_bidi = 100
    for _ in range(9):
        one.client.write(one.client.open(one.now), b"x")
    one.run(lambda: one.server.engine.ending is not None)
    ending = one.server.engine.ending
    assert ending is not None
    assert (ending.code, ending.reason) == (4, "Too many streams open")


def test_a_peer_that_opens_one_way_streams_is_cut_off() -> None:
    one = link()
    buf = Buffer(data=b"\x02\x01x")
    context: Any = None
    with pytest.raises(QuicConnectionError, match="Too many streams open"):
        one.server.engine._handle_stream_frame(context, 0x0A, buf)


def test_the_peers_limit_over_the_connection_holds_us_back_and_lets_go() -> None:
    one = link()
    one.run_for(0.1)
    one.client.engine._remote_max_data = one.client.engine._remote_max_data_used + 10_000
    state = one.client.open(one.now)
    one.client.write(state, bytes(50_000), end=True)
    one.run_for(1)
    assert len(one.server.received[state.stream_id]) == 10_000
    one.client.engine._remote_max_data += 100_000
    one.client.engine.substreams.session_credit_arrived()
    one.run(lambda: state.stream_id in one.server.ended)


def test_numbers_of_packets_beyond_sixteen_bits_are_understood() -> None:
    one = link(Weather(loss=0.01, delay_s=0.002), seed=5)
    for end in (one.client, one.server):
        end.engine._packet_number = 65_500
    upload(one, bytes(1_000_000))


def test_an_acknowledgement_of_what_was_never_sent_harms_nothing() -> None:
    one = link()
    engine = one.server.engine
    engine._handle_ack_frame(
        PacketContext(engine.host_cid, engine._network_paths[0], one.now),  # type: ignore[arg-type]
        2,
        Buffer(data=b"\x80\xff\xff\xff\x00\x00\x00"),
    )
    upload(one, bytes(10_000))
