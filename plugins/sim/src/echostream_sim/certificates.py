"""Certificates for simulations of encrypted transports: the same bytes every time, and signatures of one length.

With ECDSA, which real certificates and the development pair use, the length of a signature varies by a byte or two with
its random part, and so does the size of the packet that carries it. Ed25519 signs with 64 bytes, always.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from echostream_core.errors import ConfigError

__all__ = ["fixed_certificate"]


def fixed_certificate(folder: Path | str, names: Iterable[str] = ("server",), *, seed: int = 0) -> dict[str, str]:
    """Write a self-signed Ed25519 certificate for ``names`` (host names) and its key into ``folder``.

    Returns ``tls`` settings: ``certificate`` and ``private_key`` for the listener and ``pin`` for the dialer, which
    takes that one alone. Everything follows from ``seed``, the key too: for simulations only. Valid from 2000 to 2049.
    ConfigError when the package ``cryptography`` is missing.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.x509.oid import NameOID
    except ImportError as error:
        raise ConfigError(
            "a certificate needs the package cryptography, which comes with the encrypted transports: "
            "pip install cryptography"
        ) from error
    hosts = list(names)
    source = random.Random(f"echostream_sim.certificates:{seed}:{','.join(hosts)}")
    key = Ed25519PrivateKey.from_private_bytes(source.randbytes(32))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "EchoStream simulation")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number((1 << 126) | source.getrandbits(126))
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2049, 12, 31, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, None)
    )
    certificate_path, key_path = Path(folder) / "simulation.pem", Path(folder) / "simulation.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    der = certificate.public_bytes(serialization.Encoding.DER)
    return {
        "certificate": str(certificate_path),
        "private_key": str(key_path),
        "pin": f"sha256:{hashlib.sha256(der).hexdigest()}",
    }
