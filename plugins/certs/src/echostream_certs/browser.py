"""Certificates that a browser accepts by their hash, without any authority: for WebTransport's serverCertificateHashes.

The browser's conditions (https://www.w3.org/TR/webtransport/#custom-certificate-requirements): ECDSA on P-256, and at
most 14 days from the beginning of its validity to the end.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from echostream_certs.certificate import CLOCK_SKEW, is_host_name, self_signed
from echostream_core.errors import ConfigError

__all__ = ["MOST_DAYS", "BrowserCertificate", "browser_certificate", "browser_validity"]

MOST_DAYS: Final = 14
"""What browsers allow in all."""

_MARGIN: Final = timedelta(minutes=1)
"""Both ends of the validity belong to it, so that 14 days to the second are a second too many."""

_CERTIFICATE_NAME: Final = "certificate.pem"
_PRIVATE_KEY_NAME: Final = "private_key.pem"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserCertificate:
    """A certificate that pages can name by its hash, as files."""

    certificate_path: Path
    """The certificate, PEM."""
    private_key_path: Path
    """Its private key, PEM."""
    sha256: bytes
    """The hash of its DER: what the page has to name."""
    not_after: datetime
    """From then on no browser accepts it."""

    @property
    def hash_hex(self) -> str:
        """The hash as 64 hex digits."""
        return self.sha256.hex()

    @property
    def hash_base64(self) -> str:
        """The hash in Base64."""
        return base64.b64encode(self.sha256).decode()

    @property
    def snippet(self) -> str:
        """The second argument of ``new WebTransport(url, …)`` in a page."""
        return (
            "{ serverCertificateHashes: [{ algorithm: 'sha-256', "
            f"value: Uint8Array.from(atob('{self.hash_base64}'), c => c.charCodeAt(0)) }}] }}"
        )

    @classmethod
    def read(cls, certificate_path: Path, private_key_path: Path) -> BrowserCertificate:
        """What stands in files that exist. ConfigError when no browser would accept it, with the condition."""
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        except OSError as error:
            raise ConfigError(f"the certificate {str(certificate_path)!r} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"{str(certificate_path)!r} holds no certificate (PEM)") from error
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(f"{str(certificate_path)!r}: browsers accept only ECDSA on P-256 by its hash")
        if certificate.not_valid_after_utc - certificate.not_valid_before_utc >= timedelta(days=MOST_DAYS):
            raise ConfigError(f"{str(certificate_path)!r}: browsers accept at most {MOST_DAYS} days of validity")
        return cls(
            certificate_path=certificate_path,
            private_key_path=private_key_path,
            sha256=hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest(),
            not_after=certificate.not_valid_after_utc,
        )


def browser_validity(days: float) -> timedelta:
    """How long after now a certificate is valid that has ``days`` in all and begins a little in the past."""
    return timedelta(days=days) - CLOCK_SKEW - _MARGIN


def browser_certificate(
    folder: Path, hosts: Sequence[str], *, days: int = MOST_DAYS, now: datetime | None = None
) -> BrowserCertificate:
    """Make a certificate for ``hosts`` (names and IP addresses) and write it and its key to ``folder``.

    What stood there under the same names is replaced. The key is readable by this user only. Raises ConfigError for
    days that browsers refuse, a host that cannot stand in a certificate, and a folder that cannot be written to.
    """
    if not 1 <= days <= MOST_DAYS:
        raise ConfigError(
            f"browsers accept certificates of 1 to {MOST_DAYS} days by their hash, not {days}", key="days"
        )
    for host in hosts:
        if not _can_stand(host):
            raise ConfigError(f"{host!r} is neither a host name nor an IP address", key="host")
    pem, key = self_signed(
        hosts, validity=browser_validity(days), now=now or datetime.now(UTC), common_name="EchoStream for browsers"
    )
    certificate_path, key_path = folder / _CERTIFICATE_NAME, folder / _PRIVATE_KEY_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(key_path, key, 0o600)
        _replace(certificate_path, pem, 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write to {str(folder)!r}: {error.strerror or error}", key="out") from error
    return BrowserCertificate.read(certificate_path, key_path)


def _can_stand(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return is_host_name(host)
    return True


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Put ``content`` in the place of ``path`` in one step."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)
