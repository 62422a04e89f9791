"""Hostile clients at a real server's port: whatever they send, an honest client is served and nothing stays behind.

``besieged`` looks after the honest clients, and at what is left; each test here says what the attacker sees.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import sys
import zlib
from collections.abc import Iterator

import pytest

from echostream_core import EchoStreamError, RpcClient
from echostream_websocket import protocol
from plugins.tcp.tests.recording import LogLines
from plugins.websocket.tests.besieged import (
    FRIENDLY,
    Relay,
    attack,
    besieged,
    connect_many,
    ended,
    gets_through,
    many_descriptors,
    masked,
    request,
    resident_bytes,
)
from plugins.websocket.tests.peers import UPGRADE, frame
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="counts descriptors by /proc, and connects from 127.0.0.2"
)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def descriptors_enough() -> Iterator[None]:
    with many_descriptors():
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The closing handshake has little time."""
    monkeypatch.setattr(protocol, "CLOSE_WAIT_S", 0.1)


def harmless(line: str) -> bool:
    """Whether a line of the log is short, and has no byte of a stranger's that is not escaped."""
    return line.replace("…", "").isascii() and line.isprintable() and len(line) < 500


# Before the upgrade.


def upgrade_with(**headers: str) -> bytes:
    return request({**UPGRADE, **{name.replace("_", "-"): value for name, value in headers.items()}})


HEADS: dict[str, tuple[bytes, int]] = {
    "a foreign origin": (upgrade_with(Origin="https://evil.example"), 403),
    "an opaque origin": (upgrade_with(Origin="null"), 403),
    "our host as a suffix of the origin": (upgrade_with(Origin="http://127.0.0.1.evil.example"), 403),
    "our host as the user of the origin": (upgrade_with(Origin="http://127.0.0.1@evil.example"), 403),
    "an origin that is no UTF-8": (upgrade_with(Origin="http://\xff\xfe\x80"), 403),
    "an origin with a terminal's escapes": (upgrade_with(Origin="http://a\x1b[2J"), 400),
    "two origins": (
        upgrade_with().replace(b"\r\n\r\n", b"\r\nOrigin: http://a\r\nOrigin: http://127.0.0.1\r\n\r\n"),
        400,
    ),
    "a path that is no UTF-8": (request(UPGRADE, "GET /%ff%fe HTTP/1.1"), 404),
    "raw bytes in the path": (request(UPGRADE, "GET /\xff\xfe HTTP/1.1"), 400),
    "a body behind the upgrade": (upgrade_with(Content_Length="30") + b"GET /admin HTTP/1.1\r\nA: b\r\n\r\n", 400),
    "a chunked body": (upgrade_with(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
    "both lengths": (
        upgrade_with(Content_Length="4", Transfer_Encoding="chunked") + b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        400,
    ),
    "an obscured length": (upgrade_with(Transfer_Encoding="\x0bchunked"), 400),
    "a folded header": (upgrade_with(X="a\r\n b"), 400),
    "a space before the colon": (upgrade_with().replace(b"Host:", b"Host :"), 400),
    "two hosts": (upgrade_with().replace(b"\r\n\r\n", b"\r\nHost: other\r\n\r\n"), 400),
    "a NUL in a header": (upgrade_with(X="a\0b"), 400),
    "a bare CR in a header": (upgrade_with(X="a\rX-Forwarded-For: 10.0.0.1"), 400),
    "a whole URL as target": (request(UPGRADE, "GET http://evil.example/ HTTP/1.1"), 400),
    "CONNECT": (request(UPGRADE, "CONNECT evil.example:443 HTTP/1.1"), 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405),
    "300 headers": (request({**UPGRADE, **{f"X-{number}": "a" for number in range(300)}}), 431),
    "a header of 1 MiB": (request({**UPGRADE, "X": "a" * MIB}), 431),
    "a request line of 1 MiB": (request(UPGRADE, f"GET /{'a' * MIB} HTTP/1.1"), 431),
    "1 MiB without a line": (b"G" * MIB, 431),
    "noise": (random.Random(4).randbytes(4_096), 400),
    "a ClientHello of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(506), 400),
}


@pytest.mark.parametrize("name", HEADS)
async def test_a_request_that_is_not_right_is_refused_and_told_to_the_log(name: str, log: LogLines) -> None:
    sent, status = HEADS[name]
    async with besieged() as server, attack(server) as attacker:
        await attacker.pour(sent)
        answer = await attacker.heard()
    # A request that is too long is answered before all of it has come, so a reset may overtake the answer.
    if answer or len(sent) < MIB:
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in answer
    (line,) = log.lines
    assert harmless(line)


async def test_a_second_request_in_the_same_breath_is_not_answered(log: LogLines) -> None:
    plain = request({"Host": "127.0.0.1"}, "GET /health HTTP/1.1")
    async with besieged() as server, attack(server) as attacker:
        attacker.send(plain + plain + upgrade_with())
        answer = await attacker.heard()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_request_behind_an_upgrade_is_read_as_frames_and_refused() -> None:
    async with besieged() as server, attack(server) as attacker:
        attacker.send(upgrade_with() + request({"Host": "127.0.0.1"}, "GET /health HTTP/1.1"))
        await attacker.reader.readuntil(b"\r\n\r\n")
        code, reason = await attacker.closed_with()
    assert code == 1_002
    assert b"reserved bit" in reason


async def test_compression_is_offered_and_not_agreed_on() -> None:
    offer = "permessage-deflate; client_max_window_bits, permessage-deflate; server_no_context_takeover"
    async with besieged() as server, attack(server) as attacker:
        head = await attacker.upgrade(**{"Sec-WebSocket-Extensions": offer})
        assert "sec-websocket-extensions" not in head.lower()
        bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
        attacker.send(masked(0xC2, bomb.compress(bytes(20 * MIB)) + bomb.flush()))
        assert (await attacker.closed_with())[0] == 1_002


async def test_a_thousand_connections_from_a_foreign_origin_leave_nothing_but_a_few_lines(log: LogLines) -> None:
    sent = upgrade_with(Origin="https://evil.example\xff")
    async with besieged() as server, connect_many(server, 1_000, first=sent) as sockets:
        await until(lambda: all(map(ended, sockets)))
    assert len(log.lines) < 40
    assert log.lines[0].endswith(
        "the origin 'https://evil.example\\xff' is not of this very host; the option origins admits others"
    )
    assert "left out" in log.lines[-1]


# Slowly, or not at all.


async def test_requests_that_come_byte_by_byte_are_given_up(log: LogLines) -> None:
    head = upgrade_with(X="a" * 8_000)
    async with besieged(handshake_timeout_s=0.5) as server, connect_many(server, 50, first=head[:1]) as sockets:
        open_ones = list(sockets)
        for byte in head[1:]:
            for sock in open_ones:
                try:
                    sock.send(bytes([byte]))
                except OSError:
                    pass  # given up meanwhile
            await asyncio.sleep(0.01)
            open_ones = [sock for sock in open_ones if not ended(sock)]
            if not open_ones:
                break
        else:
            pytest.fail("they were listened to until they had said all")
    assert "did not finish its request within 0.5 s" in log.lines[0]


async def test_a_reader_of_nothing_does_not_hold_its_refusal_for_ever() -> None:
    sent = request({"Host": "a"}, "GET /nothing HTTP/1.1")
    async with besieged(handshake_timeout_s=0.4) as server, connect_many(server, 50, first=sent) as sockets:
        await asyncio.sleep(0.1)  # they read nothing, and do not hang up
        await until(lambda: all(map(ended, sockets)))


async def test_two_thousand_silent_sockets_are_bounded_and_others_are_served(log: LogLines) -> None:
    async with besieged(max_handshakes=1_500, max_handshakes_per_address=1_200, handshake_timeout_s=60) as server:
        before = resident_bytes()
        async with connect_many(server, 2_000) as sockets:
            await until(lambda: sum(map(ended, sockets)) >= 800)
            used = resident_bytes() - before
            assert await gets_through(server) == 0  # from another address, while they all still wait
            assert sum(map(ended, sockets)) == 800
    assert used < 1_200 * 16_384  # a process of its own: 2.5 KiB
    assert "1200 handshakes from this address are unfinished (max_handshakes_per_address)" in log.lines[0]


async def test_when_silent_sockets_take_all_places_others_get_in_when_their_time_is_over(log: LogLines) -> None:
    async with (
        besieged(max_handshakes=500, max_handshakes_per_address=100, handshake_timeout_s=0.5) as server,
        connect_many(server, 2_000, sources=20) as sockets,
    ):
        await gets_through(server)
        await until(lambda: all(map(ended, sockets)))
    assert any("500 handshakes are unfinished (max_handshakes)" in line for line in log.lines)
    assert len(log.lines) < 60


@pytest.mark.usefixtures("impatient")
async def test_two_thousand_upgraded_sockets_without_a_session_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    limits = {"max_unfinished_setups": 1_024, "max_unfinished_setups_per_address": 128, "setup_timeout_s": 1.0}
    async with besieged(limits=limits) as server:
        before = resident_bytes()
        async with connect_many(server, 2_000, sources=10, first=upgrade_with()) as sockets:
            await until(lambda: sum(map(ended, sockets)) >= 976)
            used = resident_bytes() - before
            assert len(server._unfinished) <= 1_024
            await gets_through(server)
            await until(lambda: all(map(ended, sockets)))
    assert used < 1_024 * 32_768  # a process of its own: 9.4 KiB
    assert "refused: too many sessions without SETUP" in caplog.text


# Behind the upgrade.

FRAMES: dict[str, tuple[bytes, int]] = {
    "a text": (masked(0x81, b"{}"), 1_003),
    "a frame without a mask": (frame(0x82, b"abc"), 1_002),
    "an empty frame without a mask": (frame(0x82), 1_002),
    "a ping without a mask": (frame(0x89), 1_002),
    "the first reserved bit": (masked(0xC2, b"abc"), 1_002),
    "the second reserved bit": (masked(0xA2, b"abc"), 1_002),
    "the third reserved bit": (masked(0x92, b"abc"), 1_002),
    "a reserved bit in a ping": (masked(0xC9), 1_002),
    "a reserved operation code": (masked(0x83, b"abc"), 1_002),
    "a reserved code of control": (masked(0x8B), 1_002),
    "a ping of 126 bytes": (masked(0x89, bytes(126)), 1_002),
    "a ping of 2^62 bytes": (masked(0x89, length=1 << 62), 1_002),
    "a pong of 126 bytes": (masked(0x8A, bytes(126)), 1_002),
    "a close frame of 126 bytes": (masked(0x88, b"\x03\xe8" + bytes(124)), 1_002),
    "a fragmented ping": (masked(0x09), 1_002),
    "a fragmented close frame": (masked(0x08, b"\x03\xe8"), 1_002),
    "a continuation of nothing": (masked(0x80, b"abc"), 1_002),
    "a message within a message": (masked(0x02, b"abc") + masked(0x82, b"abc"), 1_002),
    "a length with the top bit": (b"\x82\xff\x80" + bytes(11), 1_002),
    "a length of all ones": (b"\x82\xff" + b"\xff" * 12, 1_002),
    "a length in too many bytes": (b"\x82\xfe\x00\x05" + bytes(9), 1_002),
    "a message of 2^62 bytes": (masked(0x82, length=1 << 62), 1_009),
    "a message one byte too long": (masked(0x82, length=MIB + 1), 1_009),
    "fragments that are too long together": (masked(0x02, length=0) + masked(0x80, length=MIB + 1), 1_009),
    "half a close code": (masked(0x88, b"\x03"), 1_002),
    "close code 0": (masked(0x88, b"\0\0"), 1_002),
    "close code 999": (masked(0x88, b"\x03\xe7"), 1_002),
    "close code 1005": (masked(0x88, b"\x03\xed"), 1_002),
    "close code 1006": (masked(0x88, b"\x03\xee"), 1_002),
    "close code 1015": (masked(0x88, b"\x03\xf7"), 1_002),
    "close code 2999": (masked(0x88, b"\x0b\xb7"), 1_002),
    "close code 65535": (masked(0x88, b"\xff\xff"), 1_002),
    "a reason that is no UTF-8": (masked(0x88, b"\x03\xe8\xff\xfe"), 1_007),
    "a close frame without a code": (masked(0x88), 1_005),
    "a close frame and data behind it": (masked(0x88, b"\x03\xe8") + masked(0x82, b"late") * 50, 1_000),
    "two close frames": (masked(0x88, b"\x0f\xa0first") + masked(0x88, b"\x0f\xa1second"), 4_000),
    "a close frame and noise": (masked(0x88, b"\x03\xe9") + random.Random(5).randbytes(2_000), 1_001),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_a_frame_that_is_not_right_ends_the_connection_with_its_code(name: str) -> None:
    sent, code = FRAMES[name]
    async with besieged() as server:
        for before in (b"", masked(0x89, b"hello")):
            async with attack(server) as attacker:
                await attacker.upgrade()
                attacker.send(before + sent)
                assert (await attacker.closed_with())[0] == code


async def test_a_declared_length_takes_no_memory() -> None:
    async with besieged(max_message_bytes=1 << 40) as server:
        before = resident_bytes()
        async with attack(server) as attacker:
            await attacker.upgrade()
            attacker.send(masked(0x82, length=1 << 40))
            await gets_through(server)
            assert resident_bytes() - before < 8 * MIB


@pytest.mark.usefixtures("impatient")
async def test_an_attacker_who_does_not_answer_a_close_frame_is_cut_off() -> None:
    async with besieged() as server, attack(server) as attacker:
        await attacker.upgrade()
        attacker.send(frame(0x82))
        await until(lambda: len(server._sessions) == 1)  # gone, though the attacker has neither read nor hung up
        assert (await attacker.closed_with())[0] == 1_002


async def test_a_flood_of_pings_that_nobody_reads_takes_no_memory() -> None:
    flood = masked(0x89, bytes(125)) * 500
    async with besieged() as server, attack(server, limit=4_096) as attacker:
        await attacker.upgrade()
        before = resident_bytes()
        for _ in range(150):  # 75,000 pings, whose pongs would be 9.5 MB
            await attacker.pour(flood)
        assert resident_bytes() - before < 6 * MIB
        assert await gets_through(server) == 0
        attacker.send(masked(0x88, b"\x03\xe8"))
        answered = (await attacker.heard()).count(b"\x8a\x7d")
        assert 0 < answered < 75_000  # while nothing can be sent, only the latest is answered


@pytest.mark.parametrize(
    "flood",
    [masked(0x02) + masked(0x00) * 20_000, masked(0x82) * 20_000, masked(0x8A, b"x") * 20_000],
    ids=["empty fragments", "empty messages", "pongs"],
)
async def test_a_flood_of_frames_without_content_takes_no_memory_and_others_are_served(flood: bytes) -> None:
    async with besieged() as server, attack(server) as attacker:
        await attacker.upgrade()
        before = resident_bytes()
        await attacker.pour(flood)
        assert await gets_through(server) == 0
        assert resident_bytes() - before < 4 * MIB


@pytest.mark.parametrize("seed", range(4))
async def test_noise_in_good_frames_ends_the_session_only(seed: int) -> None:
    dice = random.Random(seed)
    async with besieged() as server:
        for _ in range(10):
            async with attack(server) as attacker:
                await attacker.upgrade()
                await attacker.pour(masked(0x82, dice.randbytes(dice.randrange(1, 3_000))) * 3)
                attacker.send(masked(0x88, b"\x03\xe8"))
                await attacker.heard()


# Cut.


async def one_call(address: str) -> object:
    """What an honest client gets for one call."""
    async with RpcClient.connect(address, transport=FRIENDLY, reconnect=False) as client:
        return await client.request("echo", "cut me", timeout=10)


@pytest.mark.parametrize("manner", ["hangs up", "is cut off"])
async def test_a_client_that_is_gone_after_any_byte_leaves_nothing(manner: str, log: LogLines) -> None:
    async with besieged() as server:
        async with Relay(server.addresses[0]) as relay:
            assert await one_call(relay.address) == "cut me"
            sent = bytes(relay.up)
        assert sent.startswith(b"GET / HTTP/1.1\r\n") and len(sent) > 300
        for size in range(len(sent)):
            async with attack(server) as attacker:
                attacker.send(sent[:size])
                if manner == "is cut off":
                    attacker.cut()
    assert log.lines == []  # people come and go


async def test_a_server_that_is_gone_after_any_byte_is_an_error_of_ours_at_the_client() -> None:
    async with besieged() as server:
        async with Relay(server.addresses[0]) as relay:
            assert await one_call(relay.address) == "cut me"
            size = len(relay.down)
        errors: dict[str, int] = {}
        for after in range(size):
            async with Relay(server.addresses[0], cut_down_after=after) as relay:
                try:
                    assert await one_call(relay.address) == "cut me"  # the last bytes are those of the closing
                    name = "none"
                except EchoStreamError as error:
                    name = type(error).__name__
            errors[name] = errors.get(name, 0) + 1
        assert set(errors) <= {"none", "ConnectFailed", "Disconnected"}
        assert errors["ConnectFailed"] > 100 and errors["Disconnected"] > 10


# TLS.

TLS_NOISE = {
    "noise": random.Random(6).randbytes(2_000),
    "zeros": bytes(2_000),
    "plain HTTP": upgrade_with(),
    "half a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a record that is too long": b"\x16\x03\x01\xff\xff" + bytes(2_000),
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "data before the handshake": b"\x17\x03\x03\x00\x10" + bytes(16),
    "an SSH client": b"SSH-2.0-OpenSSH_9.6\r\n",
}
SECURE = "wss://127.0.0.1:0"


@pytest.mark.parametrize("name", TLS_NOISE)
async def test_noise_in_place_of_tls_is_turned_away(name: str, log: LogLines) -> None:
    async with besieged(SECURE, tls={"dev": True}, handshake_timeout_s=1) as server, attack(server) as attacker:
        await attacker.pour(TLS_NOISE[name])
        heard = await attacker.heard()
    assert b"HTTP/1.1 101" not in heard
    (line,) = log.lines
    assert harmless(line)


def careless(*alpns: str) -> ssl.SSLContext:
    """TLS without a look at the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpns:
        context.set_alpn_protocols(list(alpns))
    return context


async def test_noise_behind_a_good_tls_handshake_is_turned_away(log: LogLines) -> None:
    async with besieged(SECURE, tls={"dev": True}) as server:
        async with attack(server, ssl=careless("http/1.1")) as attacker:
            attacker.send(random.Random(7).randbytes(2_000))
            assert (await attacker.heard()).startswith(b"HTTP/1.1 400 ")
        async with attack(server, ssl=careless()) as attacker:
            await attacker.upgrade()
            attacker.send(frame(0x82))
            assert (await attacker.closed_with())[0] == 1_002
    assert len(log.lines) == 1


async def test_a_client_of_http_2_alone_is_turned_away(log: LogLines) -> None:
    async with besieged(SECURE, tls={"dev": True}) as server, attack(server, ssl=careless("h2")) as attacker:
        attacker.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await attacker.heard()).startswith(b"HTTP/1.1 405 ")
    assert len(log.lines) == 1


async def test_silence_within_tls_is_bounded_too(log: LogLines) -> None:
    async with (
        besieged(SECURE, tls={"dev": True}, handshake_timeout_s=1) as server,
        connect_many(server, 200) as sockets,
        attack(server, ssl=careless()) as attacker,
    ):
        assert (await attacker.heard()).startswith(b"HTTP/1.1 408 ")
        await until(lambda: all(map(ended, sockets)))
    assert "left out" in log.lines[-1]
