"""The suite of the test kit on ``ws://`` and ``wss://``."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import trustme

from echostream_testkit import TransportConformance


@functools.cache
def mutual_tls() -> dict[str, Any]:
    """Settings with which both ends prove who they are; made once, in a folder that goes with the process."""
    path = Path(tempfile.mkdtemp(prefix="es"))
    atexit.register(shutil.rmtree, path)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(path / "ca.pem"))
    leaf = authority.issue_cert("127.0.0.1", "localhost")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(path / "leaf.pem"))
    pair = {"certificate": str(path / "leaf.pem"), "private_key": str(path / "leaf.pem")}
    return {"tls": pair | {"ca": str(path / "ca.pem"), "client_ca": str(path / "ca.pem")}, "proxy": "none"}


class TestWs(TransportConformance):
    url = "ws://127.0.0.1:0/session"
    options: ClassVar[dict[str, Any]] = {"proxy": "none"}
    known_gaps: ClassVar[dict[str, str]] = {
        "test_encrypted_absent_shows_what_travels": "a client's frames are masked (RFC 6455 5.3): XOR with a mask that "
        "stands beside them, which hides bytes from this check and from nobody else",
    }


class TestWss(TransportConformance):
    url = "wss://127.0.0.1:0"
    options: ClassVar[dict[str, Any]] = {"tls": {"dev": True}, "proxy": "none"}


class TestWssWithClientCertificates(TransportConformance):
    url = "wss://127.0.0.1:0/"
    options: ClassVar[dict[str, Any]] = mutual_tls()
