"""The border to OpenSSL: what went wrong with TLS, in words that say what to do.

OpenSSL's own texts are for those who know its sources. What a user can act upon is told by verify codes and by the
names of alerts, both of which are stable; the original error stays chained as the cause.
"""

from __future__ import annotations

import re
import ssl
from typing import Final

from echostream_core.errors import ConnectFailed, ConnectionLost, EchoStreamError, RemoteProtocolError
from echostream_tcp._errors import caused_by
from echostream_tcp._log import printable

__all__ = ["ALPN", "EXPIRED", "handshake_refusal", "sent_http", "session_failed", "verification_failed"]

ALPN: Final = "echostream/1"

# Verify codes of OpenSSL, x509_vfy.h.
_NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
_SELF_SIGNED: Final = 18
_UNTRUSTED: Final = frozenset({2, 19, 20, 21, 27})
_WRONG_NAME: Final = frozenset({62, 64})

_VERSION_REASONS: Final = frozenset(
    {"UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "WRONG_VERSION_NUMBER", "VERSION_TOO_LOW"}
)

_TRUST: Final = (
    "trust its authority with tls.ca, or exactly this certificate with tls.pin, "
    "or set tls.dev = true on both ends if it is the development certificate"
)

_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "it demands a client certificate: set tls.certificate and tls.private_key",
    "HANDSHAKE_FAILURE": "it demands a client certificate (set tls.certificate and tls.private_key), or other ciphers",
    "UNKNOWN_CA": "it does not trust our certificate's authority",
    "BAD_CERTIFICATE": "it does not accept our certificate",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "UNSUPPORTED_CERTIFICATE": "it does not accept our certificate: not made for this use",
    "CERTIFICATE_EXPIRED": "our certificate has expired",
    "CERTIFICATE_REVOKED": "our certificate has been revoked",
    "NO_APPLICATION_PROTOCOL": f"it speaks TLS but not {ALPN}",
    "PROTOCOL_VERSION": "it speaks no version of TLS that we do (1.2 and 1.3)",
    "UNRECOGNIZED_NAME": "it does not go by that name: is the host, or tls.server_name, right?",
}
"""Alerts by the end of OpenSSL's name for them: what the peer says about us."""


def verification_failed(address: str, error: ssl.SSLCertVerificationError, *, expiry: str | None) -> ConnectFailed:
    """The error for a listener whose certificate does not hold; ``expiry`` is the end of its validity, if known."""
    code = error.verify_code
    if code == _SELF_SIGNED:
        why = f"is self-signed and not trusted: {_TRUST}"
    elif code in _UNTRUSTED:
        why = f"is signed by an authority that is not trusted: {_TRUST}"
    elif code == EXPIRED:
        when = f" on {expiry}" if expiry else ""
        why = f"has expired{when}: the server needs a new one (is this machine's clock right?)"
    elif code == _NOT_YET_VALID:
        why = "is not valid yet: is this machine's clock right?"
    elif code in _WRONG_NAME:
        match = re.search(r"not valid for '(.*)'", error.verify_message)
        name = match[1] if match else "that host"
        why = f"is not for {name!r}: connect by a name that stands in it, or set tls.server_name to one"
    else:
        why = f"does not hold: {error.verify_message}"
    return caused_by(ConnectFailed(f"the certificate of {address} {why}"), error)


def handshake_refusal(error: ssl.SSLError, first_bytes: bytes, alpn: str = ALPN) -> str:
    """What the peer did wrong in a handshake, as what follows "the peer …". For either side.

    ``first_bytes`` is the beginning of what the peer sent, ``alpn`` the protocol that it was asked for.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"shows a certificate that does not hold: {error.verify_message}"
    reason = _reason(error)
    if "_ALERT_" in reason:
        return f"refused the connection: {_alert(reason).replace(ALPN, alpn)}"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "shows no client certificate, and tls.client_ca demands one"
    if first_bytes[:1] not in (b"", b"\x16", b"\x15"):
        return f"does not speak TLS{_what_instead(first_bytes, alpn)}"
    if reason in _VERSION_REASONS:
        return "speaks no version of TLS that we do (1.2 and 1.3)"
    return f"broke the TLS handshake: {_plain(error)}"


def session_failed(address: str, error: ssl.SSLError) -> EchoStreamError:
    """The error for an established connection whose TLS broke.

    With TLS 1.3 this is also how a dialer learns that the listener does not want its certificate: the dialer's part of
    the handshake is over before the listener has looked at it.
    """
    reason = _reason(error)
    if "_ALERT_" in reason:
        verb = "refused" if _alert_name(reason) in _ALERTS else "ended"
        return caused_by(ConnectionLost(f"{address} {verb} the connection: {_alert(reason)}"), error)
    return caused_by(RemoteProtocolError(f"{address} broke the TLS session: {_plain(error)}"), error)


def _alert_name(reason: str) -> str:
    return reason.partition("_ALERT_")[2]


def _alert(reason: str) -> str:
    name = _alert_name(reason)
    return _ALERTS.get(name, f"TLS alert {name.lower().replace('_', ' ')}")


def sent_http(first_bytes: bytes) -> bool:
    """Whether a peer began with an HTTP request."""
    return re.match(rb"[A-Z]{3,8} [/*a-z]", first_bytes) is not None


def _what_instead(first_bytes: bytes, alpn: str) -> str:
    if first_bytes.startswith(b"ESTREAM"):
        scheme = "with tls://" if alpn == ALPN else "as this address does"
        return f" but EchoStream without it: its URL must begin {scheme}"
    if sent_http(first_bytes):
        return f" but sent an HTTP request, {printable(first_bytes)}"
    return f": it began with {printable(first_bytes)}" if first_bytes else ""


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's name for what happened, ``TLSV1_ALERT_UNKNOWN_CA``: also of those that Python has no name for."""
    if error.reason:
        return error.reason
    match = re.fullmatch(r"\[SSL\] (.*?)(?: \(_ssl\.c:\d+\))?", error.args[-1] if error.args else "")
    return str(match[1]).upper().replace(" ", "_") if match else ""


def _plain(error: ssl.SSLError) -> str:
    return _reason(error).lower().replace("_", " ") or str(error)
