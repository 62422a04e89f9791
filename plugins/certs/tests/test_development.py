"""The cached development pair: who may see it, when it is renewed, and what two processes at once get."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from echostream_certs import (
    BrowserCertificate,
    development_directory,
    development_pair,
    pin_of,
    pin_of_der,
    self_signed,
)
from echostream_core.errors import ConfigError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "dev"


def certificate_in(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())


def test_the_pair_is_made_on_first_use_and_found_again(folder: Path) -> None:
    pair = development_pair(folder)
    assert development_pair(folder) == pair
    assert pair.pin == pin_of(pair.certificate_path) == pin_of_der(pair.certificate_der)
    assert pair.pin.startswith("sha256:")
    assert len(pair.pin) == 7 + 64


def test_only_this_user_may_read_folder_and_key(folder: Path) -> None:
    pair = development_pair(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(pair.private_key_path.stat().st_mode) == 0o600
    assert {path.name for path in folder.iterdir()} == {"certificate.pem", "private_key.pem", "lock"}


def test_openssl_takes_the_pair(folder: Path) -> None:
    pair = development_pair(folder)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate_path, pair.private_key_path)


def test_it_is_for_this_machine_and_signs_nothing(folder: Path) -> None:
    development_pair(folder)
    extensions = certificate_in(folder).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert {str(ip) for ip in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_host_name_that_cannot_stand_in_a_certificate_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "my_box.ü")
    development_pair(folder)
    names = certificate_in(folder).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_it_is_valid_for_what_browsers_accept_and_renewed_in_the_last_four_days(folder: Path) -> None:
    first = development_pair(folder, now=NOW)
    end = certificate_in(folder).not_valid_after_utc
    assert end == NOW + timedelta(days=14) - timedelta(hours=1, minutes=1)
    assert BrowserCertificate.read(first.certificate_path, first.private_key_path).sha256.hex() in first.pin
    assert development_pair(folder, now=end - timedelta(days=4)) == first
    renewed = development_pair(folder, now=end - timedelta(days=4) + timedelta(seconds=1))
    assert renewed.pin != first.pin


def test_one_of_an_earlier_version_that_is_valid_for_longer_is_replaced(folder: Path) -> None:
    first = development_pair(folder, now=NOW)
    pem, key = self_signed(["localhost"], validity=timedelta(days=90), now=NOW)
    first.certificate_path.write_bytes(pem)
    first.private_key_path.write_bytes(key)
    with pytest.raises(ConfigError, match="at most 14 days"):
        BrowserCertificate.read(first.certificate_path, first.private_key_path)
    second = development_pair(folder, now=NOW)
    BrowserCertificate.read(second.certificate_path, second.private_key_path)


def test_a_clock_that_is_a_little_slow_still_accepts_it(folder: Path) -> None:
    development_pair(folder, now=NOW)
    assert certificate_in(folder).not_valid_before_utc == NOW - timedelta(hours=1)


@pytest.mark.parametrize("name", ["certificate.pem", "private_key.pem"])
@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n", None])
def test_damaged_files_are_made_anew(folder: Path, name: str, damage: bytes | None) -> None:
    first = development_pair(folder)
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage)
    second = development_pair(folder)
    assert second.pin != first.pin
    assert development_pair(folder) == second


def test_parts_of_two_pairs_are_not_taken_for_one(folder: Path, tmp_path: Path) -> None:
    first = development_pair(folder)
    other = development_pair(tmp_path / "other")
    (folder / "certificate.pem").write_bytes(other.certificate_path.read_bytes())
    assert development_pair(folder).pin not in (first.pin, other.pin)


def test_what_a_killed_process_left_does_not_disturb(folder: Path) -> None:
    development_pair(folder)
    (folder / "private_key.new").write_bytes(b"half of a k")
    (folder / "certificate.pem").unlink()
    development_pair(folder)
    assert not (folder / "private_key.new").exists()


def test_a_key_that_others_could_read_is_replaced(folder: Path) -> None:
    first = development_pair(folder)
    first.private_key_path.chmod(0o644)
    second = development_pair(folder)
    assert second.pin != first.pin
    assert stat.S_IMODE(second.private_key_path.stat().st_mode) == 0o600


def test_an_open_folder_is_refused_with_the_fix(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match=r"is open to other users \(mode 0755\).*chmod 700 /") as caught:
        development_pair(folder)
    assert caught.value.key == "tls.dev"


def test_another_users_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(ConfigError, match=r"belongs to another user .*set ECHOSTREAM_DEV_DIR"):
        development_pair(folder)


def test_a_link_or_file_in_the_folders_place_is_refused(folder: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(real)
    with pytest.raises(ConfigError, match="is not a folder"):
        development_pair(folder)
    folder.unlink()
    folder.write_text("")
    with pytest.raises(ConfigError, match="is not a folder"):
        development_pair(folder)


def test_a_folder_that_cannot_be_made_is_an_error_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be kept in .*set ECHOSTREAM_DEV_DIR"):
        development_pair(tmp_path / "file" / "dev")


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ECHOSTREAM_DEV_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert development_directory() == tmp_path / ".cache" / "echostream" / "dev"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert development_directory() == tmp_path / ".cache" / "echostream" / "dev"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert development_directory() == tmp_path / "xdg" / "echostream" / "dev"
    monkeypatch.setenv("ECHOSTREAM_DEV_DIR", str(tmp_path / "own"))
    assert development_directory() == tmp_path / "own"
    assert development_pair().certificate_path == tmp_path / "own" / "certificate.pem"


def test_processes_that_begin_at_once_get_the_same_pair(folder: Path) -> None:
    program = (
        "import sys, pathlib, echostream_certs\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(echostream_certs.development_pair(pathlib.Path(sys.argv[1])).pin)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    pins = {process.communicate(timeout=30)[0] for process in processes}
    assert pins == {development_pair(folder).pin + "\n"}


def test_the_private_key_is_not_shown(folder: Path) -> None:
    assert "certificate_der" not in repr(development_pair(folder))


def test_importing_the_module_does_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ECHOSTREAM_DEV_DIR": str(tmp_path / "dev")}
    subprocess.run([sys.executable, "-c", "import echostream_certs"], check=True, env=environment)
    assert not (tmp_path / "dev").exists()
