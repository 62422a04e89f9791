"""Certificates for browsers: the conditions of serverCertificateHashes, from both sides."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from echostream_certs import BrowserCertificate, browser_certificate
from echostream_core.errors import ConfigError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def made_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, days: float, folder: Path) -> Path:
    """A certificate of that key that is valid for so long in all."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    path = folder / "made.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


@pytest.mark.parametrize("days", [1, 14])
def test_it_fulfils_the_conditions_of_browsers(days: int, tmp_path: Path) -> None:
    made = browser_certificate(tmp_path / "new" / "folder", ["localhost", "192.0.2.7"], days=days, now=NOW)
    certificate = x509.load_pem_x509_certificate(made.certificate_path.read_bytes())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    total = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert total == timedelta(days=days, minutes=-1)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]


def test_the_hash_is_that_of_the_certificate_in_every_form(tmp_path: Path) -> None:
    made = browser_certificate(tmp_path, ["localhost"])
    certificate = x509.load_pem_x509_certificate(made.certificate_path.read_bytes())
    digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    assert made.sha256 == digest == bytes.fromhex(made.hash_hex) == base64.b64decode(made.hash_base64)
    assert f"atob('{made.hash_base64}')" in made.snippet
    assert made == BrowserCertificate.read(made.certificate_path, made.private_key_path)


def test_the_key_belongs_to_it_and_only_this_user_may_read_it(tmp_path: Path) -> None:
    made = browser_certificate(tmp_path, ["localhost"])
    certificate = x509.load_pem_x509_certificate(made.certificate_path.read_bytes())
    key = serialization.load_pem_private_key(made.private_key_path.read_bytes(), None)
    assert key.public_key() == certificate.public_key()
    if os.name == "posix":
        assert stat.S_IMODE(made.private_key_path.stat().st_mode) == 0o600


def test_a_second_one_takes_the_place_of_the_first(tmp_path: Path) -> None:
    first = browser_certificate(tmp_path, ["localhost"])
    (tmp_path / "private_key.new").write_text("left by a process that died here")
    second = browser_certificate(tmp_path, ["localhost"])
    assert first.sha256 != second.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["certificate.pem", "private_key.pem"]


@pytest.mark.parametrize("days", [-1, 0, 15])
def test_more_or_fewer_days_than_browsers_accept_are_refused(days: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"1 to 14 days .* not {days}") as error:
        browser_certificate(tmp_path, ["localhost"], days=days)
    assert error.value.key == "days"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["", "with space", "https://localhost", "a" * 64, "-x"])
def test_what_cannot_stand_in_a_certificate_is_named(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a host name nor an IP address"):
        browser_certificate(tmp_path, ["localhost", host])


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write to"):
        browser_certificate(tmp_path / "file", ["localhost"])


@pytest.mark.parametrize("days", [13.999, 14, 15])
def test_a_certificate_that_is_valid_for_too_long_is_refused(days: float, tmp_path: Path) -> None:
    path = made_of(ec.generate_private_key(ec.SECP256R1()), days, tmp_path)
    if days < 14:
        BrowserCertificate.read(path, path)
        return
    with pytest.raises(ConfigError, match="at most 14 days"):
        BrowserCertificate.read(path, path)


def test_other_kinds_of_keys_are_refused(tmp_path: Path) -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        path = made_of(key, 10, tmp_path)
        with pytest.raises(ConfigError, match="only ECDSA on P-256"):
            BrowserCertificate.read(path, path)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        BrowserCertificate.read(tmp_path / "missing.pem", tmp_path / "missing.pem")
    (tmp_path / "text.pem").write_text("hello")
    with pytest.raises(ConfigError, match="holds no certificate"):
        BrowserCertificate.read(tmp_path / "text.pem", tmp_path / "text.pem")
