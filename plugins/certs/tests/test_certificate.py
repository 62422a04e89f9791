"""Self-signed certificates and pins."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from echostream_certs import pin_of, pin_of_der, self_signed
from echostream_certs.certificate import is_host_name
from echostream_core.errors import ConfigError
from echostream_core.tls_options import parse_pin


def test_a_certificate_carries_the_names_that_it_can(tmp_path: Path) -> None:
    certificate, _ = self_signed(["a.example", "10.0.0.1", "::1", "no name", "a.example"], validity=timedelta(days=1))
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["a.example"]
    assert [str(ip) for ip in names.value.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]


def test_pem_and_der_have_the_same_pin(tmp_path: Path) -> None:
    pem, key = self_signed(["localhost"], validity=timedelta(days=1))
    der = x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    (tmp_path / "c.pem").write_bytes(pem)
    (tmp_path / "c.der").write_bytes(der)
    (tmp_path / "both.pem").write_bytes(key + pem)
    pins = {pin_of(tmp_path / name) for name in ("c.pem", "c.der", "both.pem")}
    assert pins == {pin_of_der(der)}
    assert parse_pin(pins.pop()) is not None


def test_a_file_without_certificate_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        pin_of(tmp_path / "absent.pem")
    (tmp_path / "key.pem").write_bytes(self_signed(["localhost"], validity=timedelta(days=1))[1])
    with pytest.raises(ConfigError, match="holds no certificate"):
        pin_of(tmp_path / "key.pem")
    (tmp_path / "noise").write_bytes(b"\x00\x01")
    with pytest.raises(ConfigError, match="holds no certificate"):
        pin_of(str(tmp_path / "noise"))


@pytest.mark.parametrize(
    ("name", "good"),
    [("localhost", True), ("a-b.c1", True), ("a_b", False), ("-a", False), ("a-", False), ("a..b", False), ("", False)],
)
def test_host_names(name: str, *, good: bool) -> None:
    assert is_host_name(name) is good
