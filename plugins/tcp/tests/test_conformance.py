"""The suite of the test kit on ``tcp://``, ``tls://`` and ``unix://``."""

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
    return {"tls": pair | {"ca": str(path / "ca.pem"), "client_ca": str(path / "ca.pem")}}


class TestTcp(TransportConformance):
    url = "tcp://127.0.0.1:0"


class TestTls(TransportConformance):
    url = "tls://127.0.0.1:0"
    options: ClassVar[dict[str, Any]] = {"tls": {"dev": True}}


class TestTlsWithClientCertificates(TransportConformance):
    url = "tls://127.0.0.1:0"
    options: ClassVar[dict[str, Any]] = mutual_tls()


class TestUnix(TransportConformance):
    url = "unix://{folder}/socket"
