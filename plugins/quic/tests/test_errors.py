"""What users are told: each way for a handshake or a connection to end has words of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import time

import pytest

from echostream_core.errors import ConnectFailed, ConnectionLost, EndOfStream, RemoteProtocolError
from echostream_quic._errors import Ending, cannot_bind, connect_failed, connection_ended, handshake_failure, printable
from echostream_quic.clock import clock_of

URL = "quic://orders:4433"


def tls(alert: int, reason: str = "", *, by_peer: bool = False) -> Ending:
    return Ending(0x100 + alert, False, reason, by_peer)


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (Ending(1, False, "Idle timeout", False), "nobody answers at quic://orders:4433: is the server running"),
        (Ending(1, False, "Could not find a common protocol version", False), "no version of it that we speak"),
        (tls(120, by_peer=True), "speaks QUIC but not echostream/1: is it an EchoStream server?"),
        (tls(120, "No common ALPN protocols"), "speaks QUIC but not echostream/1"),
        (tls(45, "Certificate is no longer valid"), "is not valid now: Certificate is no longer valid. Renew it"),
        (tls(42, "certificate has expired"), "is not valid now: certificate has expired"),
        (
            tls(42, "hostname 'a' doesn't match 'b'"),
            "is for another name: hostname 'a' doesn't match 'b'. Dial",
        ),
        (
            tls(
                42,
                "hostname '127.0.0.2' doesn't match either of "
                "DNSPattern(pattern=b'*.localhost'), IPAddressPattern(pattern=IPv4Address('127.0.0.1'))",
            ),
            "hostname '127.0.0.2' doesn't match either of '*.localhost', '127.0.0.1'. Dial",
        ),
        (tls(42, "Certificate does not contain any `subjectAltName`s."), "is for another name: "),
        (tls(42, "the development certificate is sha256:00"), "does not show this user's development certificate: "),
        (tls(42, "pinned is sha256:00"), "is not the pinned one: pinned is sha256:00. Correct tls.pin"),
        (tls(42, "self-signed certificate"), "is not trusted: self-signed certificate. Name its authority with tls.ca"),
        (tls(51), "the handshake with quic://orders:4433 failed with TLS alert 51 (decrypt_error)"),
        (Ending(2, False, "go away", True), "refused the connection with QUIC error 0x2 (CONNECTION_REFUSED): go away"),
        (Ending(0x1234, False, "", True), "refused the connection with QUIC error 0x1234 (unknown)"),
    ],
)
def test_a_dialer_is_told_why_and_what_to_do(ending: Ending, text: str) -> None:
    assert text in str(connect_failed(URL, ending, patience_s=30))


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (tls(120), "it does not speak echostream/1"),
        (
            tls(42, "self-signed\ncertificate", by_peer=True),
            "it gave up with TLS alert 42 (bad_certificate): self-signed\\n",
        ),
        (Ending(1, False, "Idle timeout", False), "it fell silent"),
        (Ending(0xA, False, "Reserved bits", False), "QUIC error 0xa (PROTOCOL_VIOLATION): Reserved bits"),
    ],
)
def test_a_listeners_log_says_why(ending: Ending, text: str) -> None:
    assert text in handshake_failure(ending)


@pytest.mark.parametrize(
    ("ending", "kind", "text"),
    [
        (Ending(0, True, "bye", True), EndOfStream, "bye"),
        (Ending(0, False, "", True), EndOfStream, "closed by the peer"),
        (Ending(6, True, "bye", True), ConnectionLost, "GOING_AWAY"),
        (
            Ending(3, False, "limit", True),
            ConnectionLost,
            "with QUIC error 0x3 (FLOW_CONTROL_ERROR)",
        ),
        (Ending(1, False, "Idle timeout", False), ConnectionLost, "nothing came from quic://orders:4433 for 30 s"),
        (Ending(16, False, "No validated network path", False), ConnectionLost, "moved to an address"),
        (
            Ending(4, False, "Too many streams open", False),
            RemoteProtocolError,
            "broke the rules of QUIC: ",
        ),
    ],
)
def test_a_session_is_told_which_of_the_four_failures_it_was(ending: Ending, kind: type, text: str) -> None:
    error = connection_ended(URL, ending, idle_s=30)
    assert type(error) is kind
    assert text in str(error)


def test_texts_of_peers_are_escaped_and_cut() -> None:
    assert printable("a\x1b[31m\r\nb") == "a\\x1b[31m\\r\\nb"
    assert printable("é" * 500) == "\\xe9" * 200 + "…"


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time is somebody's invention."""

    def time(self) -> float:
        return 5.0


async def test_packets_are_timed_by_the_finest_clock_that_agrees_with_the_loops() -> None:
    assert clock_of(asyncio.get_running_loop()) is time.monotonic
    virtual = VirtualLoop()
    assert clock_of(virtual)() == 5.0
    virtual.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EADDRINUSE, r"the address is in use; stop the program that has it \(ss -lunp 'sport = 4433' shows it\)"),
        (errno.EACCES, "this user may not open port 4433; ports from 1024 on need no privileges"),
        (errno.EADDRNOTAVAIL, "[Cc]annot assign requested address"),
    ],
)
def test_a_port_that_cannot_be_had_comes_with_what_to_do(code: int, said: str) -> None:
    url = "wt://127.0.0.1:4433/session"
    with pytest.raises(ConnectFailed, match=f"^cannot listen on {url}: {said}"):
        raise cannot_bind(url, OSError(code, os.strerror(code)))
