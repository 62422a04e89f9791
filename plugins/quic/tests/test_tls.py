"""Certificates: what is trusted, what is not, and what a user is told about it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection as Aioquic
from aioquic.tls import AlertDecryptError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

import echostream_quic.dialer
import echostream_quic.tls
from echostream_certs import development_pair
from echostream_core.errors import ConfigError, ConnectFailed
from echostream_quic.transport import SPEC, QuicTransport
from plugins.quic.tests.conftest import Authority
from plugins.quic.tests.recording import LogLines, Recorder, dial, listen, options


async def say_hello(url: str, **given: Any) -> None:
    """Dial, prove that bytes pass, and close."""
    recorder = Recorder(await dial(url, **given)).start()
    recorder.close()
    await recorder.ended()


async def test_a_certificate_of_a_named_authority_is_trusted(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, url="quic://127.0.0.1:0", tls=authority.issue("localhost", "127.0.0.1"))
        port = listener.addresses[0].rpartition(":")[2]
        await say_hello(f"quic://127.0.0.1:{port}", tls={"ca": authority.path})
        await say_hello(f"quic://localhost:{port}", tls={"ca": authority.path})
        await say_hello(f"quic://127.0.0.1:{port}", tls={"ca": authority.path, "server_name": "localhost"})


async def test_a_chain_with_an_intermediate_is_sent_whole(tmp_path: Path) -> None:
    import trustme

    root = trustme.CA()
    leaf = root.create_child_ca().issue_cert("127.0.0.1")
    certificate, key, ca = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "root.pem"
    for pem in leaf.cert_chain_pems:
        pem.write_to_path(str(certificate), append=True)
    certificate.write_bytes(certificate.read_bytes() + b"\n# a remark behind it\n")
    leaf.private_key_pem.write_to_path(str(key))
    root.cert_pem.write_to_path(str(ca))
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls={"certificate": str(certificate), "private_key": str(key)})
        await say_hello(listener.addresses[0], tls={"ca": str(ca)})


async def test_an_untrusted_certificate_is_refused_with_the_remedy_and_logged_once(
    authority: Authority, log: LogLines
) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls=authority.issue("127.0.0.1"))
        with pytest.raises(ConnectFailed, match=r"is not trusted: .*tls\.ca.*tls\.pin.*tls\.dev"):
            await dial(listener.addresses[0], tls={})
        assert len(await log.wait()) == 1
        assert "the handshake of quic://127.0.0.1:" in log.lines[0]
        assert "bad_certificate" in log.lines[0]
        assert log.records[0].levelname == "WARNING"
        await say_hello(listener.addresses[0], tls={"ca": authority.path})  # the listener goes on
        assert listener.unfinished_handshakes == 0


async def test_a_development_certificate_is_trusted_only_as_such() -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls={"dev": True})
        await say_hello(listener.addresses[0], tls={"dev": True})
        await say_hello(listener.addresses[0], tls={"pin": development_pair().pin})
        with pytest.raises(ConnectFailed, match="is not trusted: self-signed certificate"):
            await dial(listener.addresses[0], tls={})


async def test_another_certificate_than_the_pinned_one_is_refused_before_the_listener_accepts(
    authority: Authority, log: LogLines
) -> None:
    accepted: list[object] = []
    async with AsyncExitStack() as stack:
        listener = await listen(stack, accepted.append, tls=authority.issue("127.0.0.1"))
        with pytest.raises(ConnectFailed, match=r"is not the pinned one: pinned is sha256:0{64}, shown was sha256:"):
            await dial(listener.addresses[0], tls={"pin": "sha256:" + "00" * 32})
        await log.wait()
        assert accepted == []


async def test_a_pin_does_not_replace_the_proof_that_the_peer_owns_the_key(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener shows the pinned certificate and signs with another key: CertificateVerify must be checked."""
    tls = authority.issue("127.0.0.1")
    other = authority.issue("127.0.0.1")
    pin = (
        "sha256:"
        + echostream_quic.tls.fingerprint(
            echostream_quic.tls._load_certificates(tls["certificate"], "tls.certificate")[0]
        ).hex()
    )
    real = echostream_quic.tls.listener_configuration

    def swapped(*arguments: Any) -> QuicConfiguration:
        configuration = real(*arguments)
        configuration.private_key = load_pem_private_key(Path(other["private_key"]).read_bytes(), None)
        return configuration

    monkeypatch.setattr("echostream_quic.listener.listener_configuration", swapped)
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls=tls)
        with pytest.raises(ConnectFailed, match=r"TLS alert 51 \(decrypt_error\)"):
            await dial(listener.addresses[0], tls={"pin": pin})
    assert AlertDecryptError.description == 51


async def test_an_expired_certificate_says_so(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        past = datetime.now(UTC) - timedelta(days=1)
        listener = await listen(stack, tls=authority.issue("127.0.0.1", not_after=past))
        with pytest.raises(ConnectFailed, match=r"is not valid now: Certificate is no longer valid\. Renew it"):
            await dial(listener.addresses[0], tls={"ca": authority.path})


async def test_a_certificate_for_another_name_says_which(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls=authority.issue("example.org"))
        port = listener.addresses[0].rpartition(":")[2]
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(ConnectFailed, match=rf"is for another name: .*{host}.*tls\.server_name"):
                await dial(f"quic://{host}:{port}", tls={"ca": authority.path})
        await say_hello(listener.addresses[0], tls={"ca": authority.path, "server_name": "example.org"})


async def test_an_address_is_verified_against_addresses_not_names(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls=authority.issue("127.0.0.2"))
        with pytest.raises(ConnectFailed, match=r"is for another name: .*127\.0\.0\.1"):
            await dial(listener.addresses[0], tls={"ca": authority.path})


async def test_with_dev_another_certificate_is_told_without_a_pin_that_nobody_set(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls=authority.issue("127.0.0.1"))
        said = r"does not show this user's development certificate: .* is sha256:\w{64}, shown was sha256:\w{64}"
        with pytest.raises(ConnectFailed, match=said):
            await dial(listener.addresses[0], tls={"dev": True})


@pytest.mark.parametrize("ours", ["listener", "dialer"])
async def test_a_peer_with_another_protocol_is_told_apart(
    ours: str, authority: Authority, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = authority.issue("127.0.0.1")
    real: Any = getattr(echostream_quic.tls, f"{ours}_configuration")

    def foreign(*arguments: Any) -> QuicConfiguration:
        configuration: QuicConfiguration = real(*arguments)
        configuration.alpn_protocols = ["h3"]
        return configuration

    monkeypatch.setattr(f"echostream_quic.{ours}.{ours}_configuration", foreign)
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls=tls)
        with pytest.raises(ConnectFailed, match="speaks QUIC but not echostream/1"):
            await dial(listener.addresses[0], tls={"ca": authority.path})
        await log.wait()
        assert "it does not speak echostream/1" in log.lines[0]


async def test_a_peer_that_offers_no_protocol_at_all_is_refused(authority: Authority, log: LogLines) -> None:
    async with AsyncExitStack() as stack:
        listener = await listen(stack, tls=authority.issue("127.0.0.1"))
        configuration = QuicConfiguration(is_client=True, verify_mode=ssl.CERT_NONE, alpn_protocols=None)
        terminated = await foreign_dial(listener.addresses[0], configuration)
        assert terminated[0] == 0x100 + 120
        await log.wait()


async def foreign_dial(url: str, configuration: QuicConfiguration) -> Sequence[Any]:
    """Dial with plain aioquic; how it was ended."""
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.quic.events import ConnectionTerminated, QuicEvent

    ended: asyncio.Future[Sequence[Any]] = asyncio.get_running_loop().create_future()

    class Watching(QuicConnectionProtocol):
        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ConnectionTerminated) and not ended.done():
                ended.set_result((event.error_code, event.reason_phrase))

    host, _, port = url.removeprefix("quic://").rpartition(":")
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Watching(Aioquic(configuration=configuration)), remote_addr=(host, int(port))
    )
    protocol.connect(transport.get_extra_info("peername"))
    # A connected socket is written without an address.
    try:
        return await asyncio.wait_for(ended, 10)
    finally:
        transport.close()
        await asyncio.sleep(0.2)


def test_client_certificates_are_refused_when_the_configuration_is_checked(tmp_path: Path) -> None:
    given = options(tls={"dev": True, "client_ca": str(tmp_path / "ca.pem")})
    with pytest.raises(ConfigError, match=r"tls\.client_ca cannot be used over QUIC: .* accepts any.*tls://") as error:
        QuicTransport().configured(given, SPEC.capabilities)
    assert error.value.key == "tls.client_ca"


async def test_client_certificates_are_refused_by_listen_and_dial_too(tmp_path: Path) -> None:
    given = {"dev": True, "client_ca": str(tmp_path / "ca.pem")}
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=r"tls\.client_ca"):
            await listen(stack, tls=given)
    with pytest.raises(ConfigError, match=r"tls\.client_ca"):
        await dial("quic://127.0.0.1:1", tls=given)


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ({}, r"tls\.certificate is missing"),
        ({"dev": True, "certificate": "x"}, r"tls\.dev and tls\.certificate exclude each other"),
        ({"certificate": "x"}, r"tls\.private_key is missing"),
        ({"certificate": "/nowhere/c.pem", "private_key": "k"}, r"tls\.certificate: cannot read '/nowhere/c\.pem'"),
        ({"certificate": "{garbage}", "private_key": "{key}"}, r"tls\.certificate: .* holds no PEM certificate"),
        (
            {"certificate": "{certificate}", "private_key": "{garbage}"},
            r"tls\.private_key: .* holds no PEM private key",
        ),
        ({"certificate": "{certificate}", "private_key": "{other}"}, r"tls\.private_key: .* is not the key of"),
    ],
)
async def test_a_listener_says_what_is_wrong_with_its_settings(
    tls: dict[str, Any], message: str, authority: Authority, tmp_path: Path
) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("this is not PEM")
    pair = authority.issue("127.0.0.1")
    files = {
        "{garbage}": str(garbage),
        "{certificate}": pair["certificate"],
        "{key}": pair["private_key"],
        "{other}": authority.issue("127.0.0.1")["private_key"],
    }
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match=message):
            await listen(stack, tls={key: files.get(str(value), value) for key, value in tls.items()})


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=["P-384", "P-521"])
async def test_a_key_with_which_no_handshake_could_succeed_is_refused_at_once(
    curve: ec.EllipticCurve, tmp_path: Path
) -> None:
    key, name = ec.generate_private_key(curve), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    certificate = unsigned.sign(key, hashes.SHA256())
    (tmp_path / "c.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    (tmp_path / "k.pem").write_bytes(key.private_bytes(*form))
    tls = {"certificate": str(tmp_path / "c.pem"), "private_key": str(tmp_path / "k.pem")}
    async with AsyncExitStack() as stack:
        if curve.name == "secp384r1":
            listener = await listen(stack, tls=tls)
            await say_hello(
                listener.addresses[0], tls={"pin": f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}"}
            )
        else:
            with pytest.raises(
                ConfigError, match=r"tls\.private_key: .* make a certificate with ECDSA on P-256"
            ) as error:
                await listen(stack, tls=tls)
            assert error.value.key == "tls.private_key"


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ({"dev": True, "pin": "sha256:" + "0" * 64}, r"tls\.dev and tls\.pin exclude each other"),
        ({"pin": "md5:1234"}, r"tls\.pin must be sha256:"),
        ({"ca": "/nowhere/ca.pem"}, r"tls\.ca: cannot read '/nowhere/ca\.pem'"),
    ],
)
async def test_a_dialer_says_what_is_wrong_with_its_settings(tls: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await dial("quic://127.0.0.1:1", tls=tls)


async def test_without_the_certificates_plugin_dev_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "echostream_certs", None)
    with pytest.raises(ConfigError, match=r"tls\.dev needs the package echostream-certs: pip install"):
        await dial("quic://127.0.0.1:1", tls={"dev": True})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("quic://127.0.0.1", "has no port"),
        ("quic://127.0.0.1:4433/chat", "QUIC has no paths"),
        ("quic://:4433", "has no host to connect to"),
    ],
)
async def test_an_url_that_quic_cannot_use_is_a_mistake_of_the_configuration(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await dial(url)
    assert echostream_quic.dialer.STAGGER_S < 1
