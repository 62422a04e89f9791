"""From ``tls.*`` settings to OpenSSL contexts, and who the peer is once the handshake is done."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echostream_core.errors import ConfigError, ConnectFailed, PluginMissingDependency
from echostream_core.tls_options import TlsOptions, parse_pin
from echostream_tcp._tls_errors import ALPN

if TYPE_CHECKING:
    from echostream_certs import DevelopmentPair

__all__ = ["DialerTls", "dialer_tls", "listener_context", "verified_identity"]

KEY = "tls"
"""How settings are named in errors: ``tls.certificate``, as users write it in code and in their section."""


@dataclass(frozen=True, slots=True)
class DialerTls:
    """How a dialer does TLS."""

    context: ssl.SSLContext
    pin: bytes | None
    """SHA-256 of the only certificate that is accepted; None: the context verifies by authority and name."""
    pin_setting: str
    """What to blame when the pin does not match: ``tls.pin`` or ``tls.dev``."""

    def check_peer(self, address: str, tls: ssl.SSLObject) -> str | None:
        """Who the listener is proved to be, right after the handshake; ConnectFailed when it is not the pinned one."""
        if self.pin is None:
            return verified_identity(tls)
        certificate = tls.getpeercert(binary_form=True) or b""
        actual = hashlib.sha256(certificate).digest()
        if hmac.compare_digest(actual, self.pin):
            return f"sha256:{actual.hex()}"
        if self.pin_setting.endswith("dev"):
            raise ConnectFailed(
                f"{address} does not show this user's development certificate but sha256:{actual.hex()}: tls.dev works "
                "between processes of one user on one machine; restart the server if it began before the certificate "
                "was renewed, or set tls.pin to its certificate's hash"
            )
        raise ConnectFailed(
            f"the certificate of {address} is not the pinned one but sha256:{actual.hex()}: "
            f"somebody is in between, or it was renewed and {self.pin_setting} must be changed"
        )


def listener_context(options: TlsOptions, alpn: str = ALPN) -> ssl.SSLContext:
    """The context of a listener that speaks ``alpn``. ConfigError names the setting that is wrong."""
    options.check_listener(KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _common(context, alpn)
    context.num_tickets = 0  # nobody resumes TLS sessions here: two packets less per connection
    if options.dev:
        pair = _development_pair()
        _load_chain(context, str(pair.certificate_path), str(pair.private_key_path))
    else:
        _load_chain(context, options.certificate, options.private_key)
    if options.client_ca:
        _load_authorities(context, options.client_ca, "client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def dialer_tls(options: TlsOptions, alpn: str = ALPN) -> DialerTls:
    """How to dial for ``alpn`` with ``options``. ConfigError names the setting that is wrong."""
    options.check_dialer(KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name by default
    _common(context, alpn)
    if options.certificate or options.private_key:
        if not (options.certificate and options.private_key):
            missing = "private_key" if options.certificate else "certificate"
            raise ConfigError(
                f"{KEY}.{missing} is missing: {KEY}.certificate and {KEY}.private_key belong together",
                key=f"{KEY}.{missing}",
            )
        _load_chain(context, options.certificate, options.private_key)
    pin = None
    if options.pin:
        pin = parse_pin(options.pin, key=f"{KEY}.pin")
    elif options.dev:
        pin = parse_pin(_development_pair().pin)
    if pin is not None:
        # The handshake still proves that the peer has the certificate's key; which certificate, check_peer decides.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.ca:
        _load_authorities(context, options.ca, "ca")
    else:
        _load_default_authorities(context)
    return DialerTls(context, pin, f"{KEY}.dev" if options.dev else f"{KEY}.pin")


def files_stamp(options: TlsOptions) -> tuple[object, ...]:
    """Changes when one of the files that ``options`` name changes: a context made before is then out of date."""
    stamp: list[object] = [options]
    for path in (options.certificate, options.private_key, options.ca, options.client_ca):
        try:
            status = os.stat(path) if path else None
        except OSError:
            status = None
        stamp.append(status and (status.st_ino, status.st_mtime_ns, status.st_size))
    if options.dev:
        stamp.append(_development_pair().pin)
    return tuple(stamp)


def verified_identity(tls: ssl.SSLObject) -> str | None:
    """The name in the peer's verified certificate: its URI, else DNS name, else common name. None: no certificate."""
    certificate = tls.getpeercert()
    if not certificate:
        return None
    names = certificate.get("subjectAltName", ())
    for kind in ("URI", "DNS"):
        for item in names:
            if item[0] == kind:
                return str(item[1])
    for part in certificate.get("subject", ()):
        for item in part:
            if item[0] == "commonName":
                return str(item[1])
    return None


def _common(context: ssl.SSLContext, alpn: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([alpn])


def _load_chain(context: ssl.SSLContext, certificate: str, private_key: str) -> None:
    if b"-----BEGIN CERTIFICATE-----" not in _read(certificate, "certificate"):
        raise ConfigError(f"{KEY}.certificate: {certificate!r} holds no PEM certificate", key=f"{KEY}.certificate")
    if b"PRIVATE KEY-----" not in _read(private_key, "private_key"):
        raise ConfigError(f"{KEY}.private_key: {private_key!r} holds no PEM private key", key=f"{KEY}.private_key")
    try:
        context.load_cert_chain(certificate, private_key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"{KEY}.private_key: {private_key!r} is not the key of {KEY}.certificate {certificate!r}",
                key=f"{KEY}.private_key",
            ) from error
        raise ConfigError(
            f"{KEY}.certificate: {certificate!r} and {private_key!r} cannot be used: "
            f"{(error.reason or 'not valid PEM').lower().replace('_', ' ')}",
            key=f"{KEY}.certificate",
        ) from error


def _load_authorities(context: ssl.SSLContext, path: str, setting: str) -> None:
    _read(path, setting)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"{KEY}.{setting}: {path!r} holds no PEM certificate", key=f"{KEY}.{setting}") from error
    # So that ca may also be an intermediate authority, or a server's own certificate.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _load_default_authorities(context: ssl.SSLContext) -> None:
    """Those of the system. OpenSSL is silent when it cannot read them, and would then trust nobody for ever."""
    path = ssl.get_default_verify_paths().cafile
    if path is not None:
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConnectFailed(f"the system's certificates in {path!r} cannot be read: {reason}") from error
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)


def _read(path: str, setting: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.errno in (errno.EMFILE, errno.ENFILE):  # nothing is wrong with the setting
            raise ConnectFailed(f"{KEY}.{setting}: {path!r} cannot be read now: {reason}") from error
        raise ConfigError(f"{KEY}.{setting}: {path!r} cannot be read: {reason}", key=f"{KEY}.{setting}") from error


def _refuse_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    raise ConfigError(
        f"{KEY}.private_key is encrypted with a password: store it decrypted, readable by this user only "
        "(openssl pkey -in KEY -out NEW)",
        key=f"{KEY}.private_key",
    )


def _development_pair() -> DevelopmentPair:
    try:
        from echostream_certs import development_pair
    except ImportError as error:
        raise PluginMissingDependency(
            f"{KEY}.dev = true needs the package echostream-certs",
            plugin="echostream-tcp",
            fix="Run: pip install 'echostream-tcp[dev]'",
        ) from error
    load: Callable[[], DevelopmentPair] = development_pair
    return load()
