"""The border: what QUIC, TLS and the network report, in the words and the tree of EchoStream."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Final

from echostream_core.errors import CloseCode, ConnectFailed, ConnectionLost, EchoStreamError, RemoteProtocolError
from echostream_core.wire.closing import closed_by_peer

__all__ = [
    "ALPN",
    "DEVELOPMENT",
    "Ending",
    "cannot_bind",
    "cannot_find",
    "code_of",
    "connect_failed",
    "connection_ended",
    "handshake_failure",
    "nobody_answers",
    "printable",
]

ALPN: Final = "echostream/1"

CRYPTO_ERROR: Final = 0x100
BAD_CERTIFICATE: Final = 42
CERTIFICATE_EXPIRED: Final = 45
DEVELOPMENT: Final = "the development certificate"
"""How the reason of a refusal begins when ``tls.dev`` has pinned another certificate."""
NO_APPLICATION_PROTOCOL: Final = 120
_ALERTS: Final = {
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    80: "internal_error",
    112: "unrecognized_name",
    116: "certificate_required",
    120: "no_application_protocol",
}
_CODES: Final = (
    "NO_ERROR",
    "INTERNAL_ERROR",
    "CONNECTION_REFUSED",
    "FLOW_CONTROL_ERROR",
    "STREAM_LIMIT_ERROR",
    "STREAM_STATE_ERROR",
    "FINAL_SIZE_ERROR",
    "FRAME_ENCODING_ERROR",
    "TRANSPORT_PARAMETER_ERROR",
    "CONNECTION_ID_LIMIT_ERROR",
    "PROTOCOL_VIOLATION",
    "INVALID_TOKEN",
    "APPLICATION_ERROR",
    "CRYPTO_BUFFER_EXCEEDED",
    "KEY_UPDATE_ERROR",
    "AEAD_LIMIT_REACHED",
    "NO_VIABLE_PATH",
    "VERSION_NEGOTIATION_ERROR",
)
IDLE_TIMEOUT: Final = "Idle timeout"
NO_COMMON_VERSION: Final = "Could not find a common protocol version"
_MAX_TEXT: Final = 200


def printable(text: str) -> str:
    """A peer's text for a log or an error: escaped and cut."""
    escaped = text[:_MAX_TEXT].encode("unicode_escape").decode("ascii")
    return escaped + "…" if len(text) > _MAX_TEXT else escaped


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended: ``code`` is the application's, or the transport's (RFC 9000 section 20)."""

    code: int
    application: bool
    reason: str
    by_peer: bool

    @property
    def alert(self) -> int | None:
        """The alert of TLS, if it was one."""
        alert = self.code - CRYPTO_ERROR
        return alert if not self.application and 0 <= alert < 256 else None

    @property
    def silent(self) -> bool:
        """Nothing came for too long."""
        return not self.by_peer and self.reason == IDLE_TIMEOUT

    @property
    def no_protocol(self) -> bool:
        """There was no protocol that both ends speak."""
        return self.alert == NO_APPLICATION_PROTOCOL

    def __str__(self) -> str:
        """The transport's code by name and number, and the reason, escaped."""
        alert = self.alert
        if alert is not None:
            text = f"TLS alert {alert} ({_ALERTS.get(alert, 'unknown')})"
        else:
            text = f"QUIC error 0x{self.code:x} ({_CODES[self.code] if self.code < len(_CODES) else 'unknown'})"
        return f"{text}: {printable(self.reason)}" if self.reason else text


def code_of(code: int) -> int:
    """A peer's code, of which QUIC has 62 bits, as one of ours, which have 32: a larger one says nothing to us."""
    return code if code <= 0xFFFF_FFFF else int(CloseCode.INTERNAL)


def nobody_answers(url: str) -> str:
    """The message for a port that refused, or from which nothing came."""
    return f"nobody answers at {url}: is the server running, and may UDP pass?"


def cannot_bind(url: str, error: OSError) -> ConnectFailed:
    """A listener's address could not be bound."""
    reason = error.strerror or str(error)
    port = url.rpartition(":")[2].partition("/")[0]
    if error.errno == errno.EADDRINUSE:
        reason = (
            f"the address is in use; stop the program that has it (ss -lunp 'sport = {port}' shows it), "
            "or choose another port, 0 for any free one"
        )
    elif error.errno in (errno.EACCES, errno.EPERM):
        reason = f"this user may not open port {port}; ports from 1024 on need no privileges"
    return ConnectFailed(f"cannot listen on {url}: {reason}")


def cannot_find(host: str, url: str, error: OSError | ValueError) -> ConnectFailed:
    """A name has no address; a ValueError says that it cannot be one."""
    reason = getattr(error, "strerror", None) or error
    return ConnectFailed(f"cannot find {host!r} of {url}: {reason}")


def _names_in(text: str) -> str:
    """What the library tells of a certificate's names, without the names of its own classes."""
    return re.sub(r"\w+Pattern\(pattern=(?:b|IPv[46]Address\()?('[^']*')\)*", r"\1", text)


def connect_failed(url: str, ending: Ending, *, patience_s: float, alpn: str = ALPN) -> ConnectFailed:
    """Why a handshake that we began did not complete."""
    reason, alert = ending.reason, ending.alert
    text = printable(reason)
    if ending.silent:
        return ConnectFailed(f"{nobody_answers(url)} (waited {patience_s:g} s)")
    if reason == NO_COMMON_VERSION:
        return ConnectFailed(f"the peer at {url} speaks QUIC, but no version of it that we speak")
    if ending.no_protocol:
        return ConnectFailed(f"the peer at {url} speaks QUIC but not {alpn}: is it an EchoStream server?")
    if ending.by_peer:
        return ConnectFailed(f"the peer at {url} refused the connection with {ending}")
    if alert == CERTIFICATE_EXPIRED or "has expired" in reason:
        return ConnectFailed(f"the certificate of {url} is not valid now: {text}. Renew it at the server")
    if alert == BAD_CERTIFICATE and ("doesn't match" in reason or "subjectAltName" in reason):
        return ConnectFailed(
            f"the certificate of {url} is for another name: {_names_in(text)}. "
            "Dial the name it was made for, or set tls.server_name to it"
        )
    if alert == BAD_CERTIFICATE and reason.startswith(DEVELOPMENT):
        return ConnectFailed(
            f"{url} does not show this user's development certificate: {text}. tls.dev works between processes of one "
            "user on one machine; restart the server if it began before the certificate was renewed, or set tls.pin to "
            "its certificate's hash"
        )
    if alert == BAD_CERTIFICATE and reason.startswith("pin"):
        return ConnectFailed(
            f"the certificate of {url} is not the pinned one: {text}. Correct tls.pin, if you trust it"
        )
    if alert == BAD_CERTIFICATE:
        return ConnectFailed(
            f"the certificate of {url} is not trusted: {text}. Name its authority with tls.ca, or itself with tls.pin; "
            "a development server's (tls.dev = true) is trusted with tls.dev = true here too"
        )
    return ConnectFailed(f"the handshake with {url} failed with {ending}")


def handshake_failure(ending: Ending, alpn: str = ALPN) -> str:
    """For the log: why a handshake that a peer began did not complete; ``alpn`` is what was to be spoken."""
    if ending.no_protocol:
        return f"it does not speak {alpn}"
    if ending.by_peer:
        return f"it gave up with {ending}"
    return "it fell silent" if ending.reason == IDLE_TIMEOUT else str(ending)


def connection_ended(peer: str, ending: Ending, *, idle_s: float) -> EchoStreamError:
    """Why an established connection that we did not close has ended."""
    reason = ending.reason
    if ending.by_peer and (ending.application or ending.code == 0):
        return closed_by_peer(peer, code_of(ending.code), reason)
    if ending.by_peer:
        return ConnectionLost(f"{peer} ended the connection with {ending}")
    if reason == IDLE_TIMEOUT:
        return ConnectionLost(f"nothing came from {peer} for {idle_s:g} s: the connection is lost (idle_timeout_s)")
    if reason.startswith("No validated network path"):
        return ConnectionLost(f"{peer} moved to an address that does not answer: the connection is lost")
    return RemoteProtocolError(f"{peer} broke the rules of QUIC: {ending}")
