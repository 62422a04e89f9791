"""``tls.*``: what is wrong with a setting is said with its key, its file and the way out, before anything is opened."""

from __future__ import annotations

import errno
import os
import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import cast

import msgspec
import pytest

from echostream_certs import self_signed
from echostream_core.errors import ConfigError, ConnectFailed, PluginMissingDependency
from echostream_core.tls_options import TlsOptions
from echostream_tcp.tls import dialer_tls, listener_context, verified_identity
from plugins.tcp.tests.conftest import Authority


@pytest.fixture
def pair(authority: Authority) -> dict[str, str]:
    """A certificate and its key."""
    return authority.issue("localhost")


def wrong(how: str, **settings: object) -> tuple[str, str]:
    """The message and key of the error that ``settings`` give on a "listener" or a "dialer"."""
    options = TlsOptions(**settings)  # type: ignore[arg-type]  # as a user writes them
    with pytest.raises(ConfigError) as caught:
        if how == "listener":
            listener_context(options)
        else:
            dialer_tls(options)
    return str(caught.value), caught.value.key


def test_a_listener_needs_a_certificate() -> None:
    text, key = wrong("listener")
    assert key == "tls.certificate"
    assert "set tls.certificate and tls.private_key, or tls.dev = true" in text


def test_a_listener_needs_the_key_as_well(pair: dict[str, str]) -> None:
    assert wrong("listener", certificate=pair["certificate"])[1] == "tls.private_key"


def test_a_dialer_trusts_in_one_way_only(authority: Authority) -> None:
    assert "exclude each other" in wrong("dialer", ca=authority.path, pin=f"sha256:{'0' * 64}")[0]


def test_a_dialer_has_certificate_and_key_or_neither(pair: dict[str, str]) -> None:
    text, key = wrong("dialer", certificate=pair["certificate"])
    assert (text, key) == (
        "tls.private_key is missing: tls.certificate and tls.private_key belong together",
        "tls.private_key",
    )
    assert wrong("dialer", private_key=pair["private_key"])[1] == "tls.certificate"


@pytest.mark.parametrize("setting", ["certificate", "private_key", "client_ca"])
def test_a_missing_file_is_named_with_its_key(pair: dict[str, str], setting: str) -> None:
    assert wrong("listener", **{**pair, setting: "/nowhere/x.pem"}) == (
        f"tls.{setting}: '/nowhere/x.pem' cannot be read: no such file or directory",
        f"tls.{setting}",
    )


def test_a_missing_authority_is_named_with_its_key() -> None:
    assert wrong("dialer", ca="/nowhere/ca.pem")[1] == "tls.ca"


def test_a_folder_is_no_file(pair: dict[str, str], tmp_path: Path) -> None:
    assert wrong("listener", **{**pair, "certificate": str(tmp_path)})[0].endswith("cannot be read: is a directory")


def test_a_key_of_another_certificate_is_told(authority: Authority, pair: dict[str, str]) -> None:
    other = authority.issue("other.example")
    text, key = wrong("listener", certificate=pair["certificate"], private_key=other["private_key"])
    assert key == "tls.private_key"
    assert text == (
        f"tls.private_key: '{other['private_key']}' is not the key of tls.certificate '{pair['certificate']}'"
    )


def test_exchanged_files_are_told(pair: dict[str, str]) -> None:
    text, key = wrong("listener", certificate=pair["private_key"], private_key=pair["certificate"])
    assert key == "tls.certificate"
    assert text.endswith("holds no PEM certificate")
    assert wrong("listener", certificate=pair["certificate"], private_key=pair["certificate"]) == (
        f"tls.private_key: '{pair['certificate']}' holds no PEM private key",
        "tls.private_key",
    )


def test_broken_pem_is_told(pair: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    text, key = wrong("listener", certificate=str(broken), private_key=pair["private_key"])
    assert key == "tls.certificate"
    assert "cannot be used" in text
    assert wrong("dialer", ca=str(broken)) == (f"tls.ca: '{broken}' holds no PEM certificate", "tls.ca")
    (tmp_path / "empty.pem").write_text("")
    assert wrong("dialer", ca=str(tmp_path / "empty.pem"))[1] == "tls.ca"


def test_an_encrypted_key_is_an_error_and_no_question_on_the_terminal(pair: dict[str, str], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(Path(pair["private_key"]).read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    text, at = wrong("listener", certificate=pair["certificate"], private_key=str(encrypted))
    assert at == "tls.private_key"
    assert "is encrypted with a password: store it decrypted" in text


def test_a_bad_pin_is_told() -> None:
    assert wrong("dialer", pin="sha256:12")[1] == "tls.pin"


def test_dev_without_the_certs_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "echostream_certs", None)
    for make in (listener_context, dialer_tls):
        with pytest.raises(PluginMissingDependency) as caught:
            make(TlsOptions(dev=True))
        assert str(caught.value) == (
            "E-MISSING-DEP: tls.dev = true needs the package echostream-certs. Run: pip install 'echostream-tcp[dev]'"
        )


def test_the_package_is_not_imported_unless_dev_is_set() -> None:
    program = (
        "import sys, echostream_tcp\n"
        "from echostream_tcp.tls import dialer_tls\n"
        "from echostream_core.tls_options import TlsOptions\n"
        "dialer_tls(TlsOptions())\n"
        "print([name for name in sys.modules if name.startswith(('cryptography', 'echostream_certs'))])"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"


def test_verification_is_on_unless_pinned() -> None:
    context = dialer_tls(TlsOptions()).context
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    pinned = dialer_tls(TlsOptions(pin=f"sha256:{'ab' * 32}"))
    assert pinned.pin == b"\xab" * 32


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EACCES])
def test_authorities_that_cannot_be_read_now_are_told(
    code: int, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL would be silent, and trust nobody from then on."""

    def refuse(path: object, *_: object) -> None:
        raise OSError(code, os.strerror(code), path)

    monkeypatch.setenv("SSL_CERT_FILE", authority.path)
    dialer_tls(TlsOptions())
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConnectFailed, match=r"the system's certificates in '.*' cannot be read: "):
        dialer_tls(TlsOptions())
    with pytest.raises(ConfigError if code == errno.EACCES else ConnectFailed, match=r"tls\.ca: '.*' cannot be read"):
        dialer_tls(TlsOptions(ca=authority.path))


def test_no_tickets_are_sent_that_nobody_uses(pair: dict[str, str]) -> None:
    assert listener_context(msgspec.convert(pair, TlsOptions)).num_tickets == 0


def test_client_certificates_are_demanded_with_client_ca_only(authority: Authority, pair: dict[str, str]) -> None:
    asking = msgspec.convert(pair, TlsOptions)
    assert listener_context(asking).verify_mode == ssl.CERT_NONE
    demanding = msgspec.structs.replace(asking, client_ca=authority.path)
    assert listener_context(demanding).verify_mode == ssl.CERT_REQUIRED


class Certificate:
    """An SSL object after a handshake, as far as identities are concerned."""

    def __init__(self, *names: tuple[str, str], common_name: str = "") -> None:
        self.certificate: dict[str, object] = {"subjectAltName": names}
        if common_name:
            self.certificate["subject"] = ((("countryName", "AT"),), (("commonName", common_name),))

    def getpeercert(self) -> dict[str, object]:
        return self.certificate


@pytest.mark.parametrize(
    ("certificate", "identity"),
    [
        (Certificate(("DNS", "a.example"), ("URI", "spiffe://x/y"), common_name="c"), "spiffe://x/y"),
        (Certificate(("IP Address", "::1"), ("DNS", "a.example"), ("DNS", "b.example"), common_name="c"), "a.example"),
        (Certificate(common_name="billing"), "billing"),
        (Certificate(("IP Address", "::1")), None),
    ],
)
def test_an_identity_is_the_uri_else_the_dns_name_else_the_common_name(
    certificate: Certificate, identity: str | None
) -> None:
    assert verified_identity(cast("ssl.SSLObject", certificate)) == identity


def test_no_verified_certificate_is_no_identity() -> None:
    nobody = Certificate()
    nobody.certificate = {}
    assert verified_identity(cast("ssl.SSLObject", nobody)) is None


def test_a_self_signed_certificate_of_our_own_loads(tmp_path: Path) -> None:
    pem, key = self_signed(["localhost"], validity=timedelta(days=1))
    (tmp_path / "c").write_bytes(pem)
    (tmp_path / "k").write_bytes(key)
    listener_context(TlsOptions(certificate=str(tmp_path / "c"), private_key=str(tmp_path / "k")))
