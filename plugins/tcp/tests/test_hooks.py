"""What the plugin tells the kernel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pluggy
import pytest

import echostream_tcp
from echostream_core.errors import ConfigError
from echostream_core.hookspecs import HookSpecs
from echostream_core.transport import NoOptions
from echostream_core.types import Url
from echostream_tcp.options import TlsTransportOptions
from echostream_tcp.tls_transport import TlsTransport
from plugins.tcp.tests.recording import SPECS


def test_every_hook_is_one_of_the_kernels() -> None:
    manager = pluggy.PluginManager("echostream")
    manager.add_hookspecs(HookSpecs)
    manager.register(echostream_tcp)
    manager.check_pending()
    assert [spec.scheme for specs in manager.hook.echostream_transports() for spec in specs] == ["tcp", "tls", "unix"]


def test_the_index_promises_what_the_hook_gives() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["echostream.v1.transports"] == dict.fromkeys(SPECS, "echostream_tcp")


@pytest.mark.parametrize("scheme", SPECS)
def test_options_have_good_defaults_and_refuse_what_they_do_not_know(scheme: str) -> None:
    options = SPECS[scheme].options
    msgspec.convert({}, options)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"backlogg": 5}, options)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"backlog": 0}, options)


def test_a_dialer_and_a_listener_with_client_ca_know_their_peer_and_no_other_does() -> None:
    transport, bound = TlsTransport(), SPECS["tls"].capabilities
    known: list[dict[str, object]] = [{}, {"ca": "x"}, {"pin": "x"}]
    for other in ("ca", "client_ca", "pin"):
        known.append({"certificate": "x", "private_key": "y", other: "z"})
    unknown: list[dict[str, object]] = [{"dev": True}, {"certificate": "x", "private_key": "y"}]
    for settings in known:
        assert transport.configured(options(settings), bound).peer_identity
    for settings in unknown:
        assert not transport.configured(options(settings), bound).peer_identity
    assert transport.configured(options({}), bound) == bound


def options(tls: dict[str, object]) -> TlsTransportOptions:
    return msgspec.convert({"tls": tls}, TlsTransportOptions)


async def test_options_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="options of type TcpOptions are needed, not NoOptions"):
        await SPECS["tcp"].factory().dial(Url.parse("tcp://127.0.0.1:1"), NoOptions())
