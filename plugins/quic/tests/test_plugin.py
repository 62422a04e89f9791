"""What the kernel sees of the plugin: hooks, options, capabilities, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

import echostream_quic
from echostream_core.errors import ConfigError
from echostream_core.wire.limits import Limits
from echostream_quic.connection import CAPABILITIES
from echostream_quic.options import QuicOptions
from echostream_quic.transport import SPEC, QuicTransport


def test_the_hook_offers_quic() -> None:
    (spec,) = echostream_quic.echostream_transports()
    assert spec.scheme == "quic"
    assert isinstance(spec.factory(), QuicTransport)
    assert spec.options is QuicOptions


def test_connections_have_what_the_spec_promises() -> None:
    assert SPEC.capabilities == CAPABILITIES
    assert QuicTransport().configured(QuicOptions(), SPEC.capabilities) == CAPABILITIES
    assert CAPABILITIES.unmet(["streams=native", "datagrams=native", "encrypted", "priorities", "migration"]) == []
    assert CAPABILITIES.unmet(["peer_identity", "early_data", "socket_handover"]) == [
        "peer_identity",
        "early_data",
        "socket_handover",
    ]


def test_importing_the_plugin_loads_no_quic_library() -> None:
    code = "import sys, echostream_quic; print([name for name in sys.modules if name in ('aioquic', 'cryptography')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_limits_of_the_kernel_are_the_defaults() -> None:
    limits, options = Limits(), QuicOptions()
    assert options.max_streams == limits.max_streams
    assert options.max_window_bytes == limits.max_window_bytes
    assert options.session_window_bytes == limits.session_window_bytes


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"max_datagram_size": 1_199}, "max_datagram_size"),
        ({"max_datagram_size": 16_384}, "max_datagram_size"),
        ({"max_streams": 3}, "max_streams"),
        ({"idle_timeout_s": 0}, "idle_timeout_s"),
        ({"window_bytes": 200_000, "max_window_bytes": 100_000}, "max_window_bytes"),
        ({"max_queued_datagrams": 0}, "max_queued_datagrams"),
    ],
)
def test_values_that_make_no_sense_are_named(given: dict[str, Any], key: str) -> None:
    options = msgspec.convert(given, QuicOptions)
    with pytest.raises(ConfigError, match=key) as error:
        QuicTransport().configured(options, SPEC.capabilities)
    assert error.value.key == key


@pytest.mark.parametrize("given", [{"retry": "sometimes"}, {"congestion": "bbr"}, {"unknown": 1}])
def test_values_of_the_wrong_kind_do_not_pass_the_schema(given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, QuicOptions)


@pytest.mark.parametrize("value", [True, False, "auto"])
def test_retry_is_a_switch_with_a_third_position(value: object) -> None:
    assert msgspec.convert({"retry": value}, QuicOptions).retry == value
