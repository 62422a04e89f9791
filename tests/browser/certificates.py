"""Certificates for browsers: the right kind, and the kinds that they must refuse."""

from __future__ import annotations

import datetime
import hashlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

__all__ = ["Pair", "make_pair"]


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, in files, and its SHA-256 in base64."""

    certificate: str
    private_key: str
    fingerprint: str

    @property
    def pin(self) -> str:
        """For a native client: ``tls={"pin": …}``."""
        return f"sha256:{b64decode(self.fingerprint).hex()}"

    @property
    def tls(self) -> dict[str, object]:
        """For ``tls=``."""
        return {"certificate": self.certificate, "private_key": self.private_key}


def make_pair(folder: Path, *, days: float = 13, key: Literal["ecdsa", "rsa"] = "ecdsa") -> Pair:
    """A self-signed pair for 127.0.0.1 in ``folder``, valid for ``days`` in all, of which an hour is over."""
    private_key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    if key == "rsa":
        private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        private_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(private_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = folder / "certificate.pem", folder / "private-key.pem"
    files[0].write_bytes(certificate.public_bytes(pem))
    no_password = serialization.NoEncryption()
    files[1].write_bytes(private_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
    digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    return Pair(str(files[0]), str(files[1]), b64encode(digest).decode())
