"""From the common TLS settings to aioquic's configuration; what is wrong with them is said before a packet is sent."""

from __future__ import annotations

import hashlib
import os
import ssl
from pathlib import Path
from typing import Any, Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import CipherSuite
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from echostream_core.errors import ConfigError
from echostream_core.tls_options import TlsOptions, parse_pin
from echostream_quic._errors import ALPN
from echostream_quic.congestion import CUBIC, RENO
from echostream_quic.options import MIN_DATAGRAM_BYTES, QuicOptions

__all__ = ["dialer_configuration", "fingerprint", "in_ascii", "listener_configuration", "pin_of"]

KEY: Final = "tls"
"""How the settings are called in errors: the name of the mapping in code and of the table in TOML."""

DATAGRAM_FRAME_BYTES: Final = 65_535
"""We take DATAGRAM frames of any size (RFC 9221 section 3)."""

_CIPHERS: Final = [
    CipherSuite.AES_128_GCM_SHA256,
    CipherSuite.AES_256_GCM_SHA384,
    CipherSuite.CHACHA20_POLY1305_SHA256,
]


def listener_configuration(options: QuicOptions, alpn: str = ALPN) -> QuicConfiguration:
    """For a listener; ConfigError, naming the key, when the certificate cannot be used."""
    options.check()
    tls = options.tls
    tls.check_listener(KEY)
    certificate_path, key_path = tls.certificate, tls.private_key
    if tls.dev:
        pair = _development_pair()
        certificate_path, key_path = str(pair.certificate_path), str(pair.private_key_path)
    configuration = _common(options, alpn, is_client=False)
    chain = _load_certificates(certificate_path, f"{KEY}.certificate")
    configuration.certificate, configuration.certificate_chain = chain[0], chain[1:]
    configuration.private_key = _load_key(key_path, chain[0])
    return configuration


def dialer_configuration(options: QuicOptions, host: str, alpn: str = ALPN) -> QuicConfiguration:
    """For a dialer to ``host``. With a pin the certificate is compared after the handshake, see ``pin_of``."""
    options.check()
    tls = options.tls
    tls.check_dialer(KEY)
    configuration = _common(options, alpn, is_client=True)
    configuration.server_name = in_ascii(tls.server_name or host)
    if tls.dev or tls.pin:
        # aioquic still checks that the peer owns the certificate's key (CertificateVerify); a test holds it to that.
        configuration.verify_mode = ssl.CERT_NONE
    else:
        configuration.verify_mode = ssl.CERT_REQUIRED
        if tls.ca:
            _load_certificates(tls.ca, f"{KEY}.ca")
            configuration.cafile = tls.ca
        else:
            configuration.cafile, configuration.capath = _system_store()
    return configuration


def in_ascii(host: str) -> str:
    """A name as certificates and HTTP have it: in IDNA, where it has other letters than ASCII's."""
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return host.encode("ascii", "replace").decode("ascii")


def pin_of(tls: TlsOptions) -> bytes | None:
    """The SHA-256 that the listener's certificate must have, or None when it is verified by chain and name."""
    if tls.dev:
        return parse_pin(_development_pair().pin)
    return parse_pin(tls.pin, key=f"{KEY}.pin") if tls.pin else None


def fingerprint(certificate: x509.Certificate) -> bytes:
    """The SHA-256 of a certificate's DER."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def _common(options: QuicOptions, alpn: str, *, is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        alpn_protocols=[alpn],
        cipher_suites=list(_CIPHERS),
        congestion_control_algorithm={"reno": RENO, "cubic": CUBIC}[options.congestion],
        idle_timeout=options.idle_timeout_s,
        is_client=is_client,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES,
        max_datagram_size=MIN_DATAGRAM_BYTES,
    )


def _system_store() -> tuple[str | None, str | None]:
    """The system's certificate store; nothing where there is none: then aioquic takes certifi's."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile, None
    capath = paths.capath
    return None, capath if capath and os.path.isdir(capath) and os.listdir(capath) else None


def _development_pair() -> Any:
    try:
        from echostream_certs import development_pair
    except ImportError as error:
        raise ConfigError(
            f"{KEY}.dev needs the package echostream-certs: pip install 'echostream-quic[dev]'", key=f"{KEY}.dev"
        ) from error
    return development_pair()


def _read(path: str, key: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path!r}: {error.strerror or error}", key=key) from error


def _load_certificates(path: str, key: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path, key))
    except ValueError as error:
        raise ConfigError(f"{key}: {path!r} holds no PEM certificate: {error}", key=key) from error


def _load_key(path: str, certificate: x509.Certificate) -> Any:
    key = f"{KEY}.private_key"
    data = _read(path, key)
    try:
        private_key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise ConfigError(f"{key}: {path!r} is protected by a password: give it without", key=key) from error
    except ValueError as error:
        raise ConfigError(f"{key}: {path!r} holds no PEM private key", key=key) from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private_key.public_key().public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise ConfigError(f"{key}: {path!r} is not the key of {KEY}.certificate", key=key)
    if not _can_sign(private_key):
        raise ConfigError(
            f"{key}: with the kind of key in {path!r} the QUIC library cannot sign, so every handshake would fail: "
            "make a certificate with ECDSA on P-256 or P-384, Ed25519, Ed448 or RSA",
            key=key,
        )
    return private_key


def _can_sign(private_key: Any) -> bool:
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return isinstance(private_key.curve, ec.SECP256R1 | ec.SECP384R1)
    return isinstance(private_key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
