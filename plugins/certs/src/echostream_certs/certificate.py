"""Making, reading and pinning certificates: the part that knows ``cryptography``."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from echostream_core.errors import ConfigError

__all__ = ["CLOCK_SKEW", "is_host_name", "pair_expiry", "pin_of", "pin_of_der", "self_signed"]

CLOCK_SKEW = timedelta(hours=1)
"""How far a certificate reaches back, for peers whose clock is slow."""

_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


def self_signed(
    names: Iterable[str],
    *,
    validity: timedelta,
    now: datetime | None = None,
    common_name: str = "EchoStream development",
) -> tuple[bytes, bytes]:
    """A new self-signed ECDSA P-256 certificate for ``names`` and its key, both as PEM: (certificate, private key).

    ``names`` are host names and IP addresses; what is neither is left out. Good for servers and for clients, not for
    signing other certificates. Valid from an hour before ``now`` until ``validity`` after it.
    """
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def pin_of(path: Path | str) -> str:
    """The pin ``sha256:<64 hex digits>`` of the first certificate in the PEM or DER file ``path``.

    Raises ConfigError when the file cannot be read or holds no certificate.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"the certificate {str(path)!r} cannot be read: {error.strerror}") from error
    try:
        if b"-----BEGIN" in content:
            certificate = x509.load_pem_x509_certificate(content)
        else:
            certificate = x509.load_der_x509_certificate(content)
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} holds no certificate (PEM or DER)") from error
    return pin_of_der(certificate.public_bytes(serialization.Encoding.DER))


def pin_of_der(certificate: bytes) -> str:
    """The pin ``sha256:<64 hex digits>`` of a certificate in DER."""
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}"


def pair_expiry(certificate_pem: bytes, private_key_pem: bytes) -> tuple[bytes, datetime] | None:
    """The DER and the end of validity of a certificate; None unless both parts can be read and belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(private_key_pem, password=None)
    except (ValueError, TypeError):
        return None
    if key.public_key() != certificate.public_key():
        return None
    return certificate.public_bytes(serialization.Encoding.DER), certificate.not_valid_after_utc


def is_host_name(name: str) -> bool:
    """Whether ``name`` can stand in a certificate as a DNS name."""
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))


def _general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if is_host_name(name):
                found.append(x509.DNSName(name))
    return found
