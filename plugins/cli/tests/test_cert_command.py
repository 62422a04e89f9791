"""``echostream cert``."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest

from plugins.cli.tests.conftest import Run

pytest.importorskip("echostream_certs", reason="echostream-certs is not installed")


def test_it_writes_two_files_and_prints_what_a_page_needs(echostream: Run, tmp_path: Path) -> None:
    done = echostream("cert", "browser", "--host", "localhost", "--out", str(tmp_path / "made"))
    assert done.status == 0
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["certificate.pem", "private_key.pem"]
    assert "new WebTransport(url, { serverCertificateHashes: [{ algorithm: 'sha-256', value: " in done.out
    assert "make it anew" in done.err
    assert "PRIVATE KEY" not in done.out + done.err


def test_json_says_the_same(echostream: Run, tmp_path: Path) -> None:
    done = echostream("cert", "browser", "--out", str(tmp_path), "--days", "3", "--json")
    found = json.loads(done.out)
    assert base64.b64decode(found["sha256_base64"]).hex() == found["sha256"]
    assert found["certificate"] == str(tmp_path / "certificate.pem")
    assert found["sha256_base64"] in found["snippet"]
    assert done.err == ""


def test_the_development_certificate_can_be_shown(
    echostream: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOSTREAM_DEV_DIR", str(tmp_path / "dev"))
    first = json.loads(echostream("cert", "browser", "--dev", "--json").out)
    assert first == json.loads(echostream("cert", "browser", "--dev", "--json").out)
    assert first["certificate"] == str(tmp_path / "dev" / "certificate.pem")
    done = echostream("cert", "browser", "--dev", "--days", "3")
    assert done.status == 2
    assert "leave out --host, --out and --days" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--days", "15"], "1 to 14 days"), (["--host", "not a host"], "'not a host' is neither a host name")],
)
def test_what_browsers_refuse_is_said_in_one_sentence(
    arguments: list[str], said: str, echostream: Run, tmp_path: Path
) -> None:
    done = echostream("cert", "browser", "--out", str(tmp_path), *arguments)
    assert done.status != 0
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_its_name_is_said(echostream: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "echostream_certs", None)
    done = echostream("cert", "browser")
    assert done.status == 2
    assert "pip install echostream-certs" in done.err
