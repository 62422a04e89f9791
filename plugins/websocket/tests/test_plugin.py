"""What the kernel sees of the plugin: hooks, options, capabilities; and what it relies on in ``websockets``."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

import echostream_websocket
from echostream_core.errors import ConfigError
from echostream_core.options import convert_options
from echostream_core.tls_options import TlsOptions
from echostream_core.types import Url
from echostream_websocket._http import BadHead, Question, parse_request, parse_response, path_of, quoted_path
from echostream_websocket.options import PORT_WIDE, WsOptions, WssOptions
from echostream_websocket.transport import WS_CAPABILITIES, WSS_CAPABILITIES, WssTransport, WsTransport
from plugins.websocket.tests.peers import KEY, UPGRADE


def test_the_hook_offers_both_schemes() -> None:
    specs = {spec.scheme: spec for spec in echostream_websocket.echostream_transports()}
    assert list(specs) == ["ws", "wss"]
    assert isinstance(specs["ws"].factory(), WsTransport)
    assert isinstance(specs["wss"].factory(), WssTransport)
    assert specs["wss"].options is WssOptions


def test_capabilities_are_those_of_tcp() -> None:
    from echostream_tcp.tls_transport import TLS_CAPABILITIES
    from echostream_tcp.transport import TCP_CAPABILITIES

    assert WS_CAPABILITIES == TCP_CAPABILITIES
    assert WSS_CAPABILITIES == TLS_CAPABILITIES


@pytest.mark.parametrize(
    ("tls", "proves"),
    [
        ({"dev": True}, False),
        ({"client_ca": "x"}, True),
        ({"ca": "x"}, True),
        ({}, True),
        ({"certificate": "x"}, False),
    ],
)
def test_who_knows_its_peers_says_so(tls: dict[str, Any], proves: bool) -> None:
    options = WssOptions(tls=TlsOptions(**tls))
    assert WssTransport().configured(options, WSS_CAPABILITIES).peer_identity is proves


def test_importing_the_plugin_loads_no_library() -> None:
    code = "import sys, echostream_websocket; print([n for n in sys.modules if n in ('websockets', 'ssl', 'asyncio')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "websockets" not in shown


# Options.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backlog": 0}, "backlog"),
        ({"handshake_timeout_s": 0}, "handshake_timeout_s"),
        ({"max_handshakes": 0}, "max_handshakes"),
        ({"max_handshakes_per_address": 0}, "max_handshakes_per_address"),
        ({"max_message_bytes": 124}, "max_message_bytes"),
        ({"ping_interval_s": -1}, "ping_interval_s"),
        ({"origins": ["example.com"]}, "write scheme://host:port without a path"),
        ({"origins": ["https://example.com/"]}, "without a path"),
        ({"origins": ["https://*.example.com"]}, "there are no patterns"),
        ({"origins": ["wss://example.com"]}, "pages come from http:// or https://"),
        ({"origins": ["https://b\u00fccher.example"]}, "in ASCII (xn--"),
        ({"authorization": "a\r\nX: y"}, "one line of printable ASCII"),
        ({"authorization": " a"}, "one line"),
        ({"headers": {"a b": "c"}}, "cannot be the name of a header"),
        ({"headers": {"X": "a\nb"}}, "the value of X must be one line"),
        ({"headers": {"Authorization": "x"}}, "set the option authorization instead"),
        ({"headers": {"sec-websocket-key": "x"}}, "not for you to set"),
        ({"headers": {"Host": "x"}}, "not for you to set"),
        ({"proxy": "host:80"}, 'write "auto", "none" or a URL'),
        ({"health_path": "health"}, "must begin with /"),
        ({"pages": {"x": "y"}}, "must begin with /"),
        ({"trusted_proxies": ["example.com"]}, "is no address and no network"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "is no address and no network"),
        ({"unknown": 1}, "there is no such setting"),
    ],
)
def test_values_that_make_no_sense_are_refused(given: dict[str, object], said: str) -> None:
    for schema in (WsOptions, WssOptions):
        with pytest.raises(ConfigError) as caught:
            convert_options(schema, given, key="transport.ws")
        assert said in str(caught.value)
        assert caught.value.key.startswith("transport.ws")


def test_values_that_are_fine_pass() -> None:
    convert_options(
        WsOptions,
        {
            "origins": ["https://example.com", "http://localhost:8000", "null", "*", "app://x"],
            "headers": {"X-Key": "a b"},
            "trusted_proxies": ["10.0.0.0/8", "::1"],
            "max_message_bytes": 125,
            "proxy": "socks5h://host:1080",
        },
        key="transport.ws",
    )


def test_no_secret_is_shown_in_a_listing_of_the_options() -> None:
    options = WsOptions(
        authorization="Bearer sesame", headers={"Cookie": "sesame"}, proxy="http://u:sesame@h:1", backlog=5
    )
    assert repr(options) == "WsOptions(backlog=5, authorization=***, headers=***, proxy=***)"
    assert "sesame" not in repr(WssOptions(authorization="sesame"))
    assert repr(WsOptions(proxy="none")) == "WsOptions(proxy='none')"


def test_what_a_port_shares_are_options_that_there_are() -> None:
    assert set(PORT_WIDE) <= set(WssOptions.__struct_fields__)


async def test_options_of_another_transport_are_refused() -> None:
    with pytest.raises(ConfigError, match="WssOptions are needed, not WsOptions"):
        await WssTransport().dial(Url.parse("wss://127.0.0.1:1"), WsOptions())


# What we rely on in the library. Each fails by name when a version changes it.


def test_their_parser_of_requests_is_a_generator_over_read_line() -> None:
    reader = StreamReader()
    reader.feed_data(b"GET /a?b HTTP/1.1\r\nHost: h\r\nA: 1\r\nA: 2\r\n\r\n")
    with pytest.raises(StopIteration) as done:
        next(Request.parse(reader.read_line))
    request = done.value.value
    assert (request.method, request.path, request.protocol) == ("GET", "/a?b", "HTTP/1.1")
    assert request.headers.get_all("a") == ["1", "2"]


def test_their_parser_of_responses_leaves_the_body_alone_when_asked() -> None:
    response = parse_response(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n")
    assert isinstance(response, Response)
    assert (response.status_code, response.reason_phrase, response.body) == (404, "Not Found", b"")


def test_their_server_accepts_a_request_without_having_read_it_itself() -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    request = parse_request(f"GET / HTTP/1.1\r\n{lines}\r\n".encode())
    assert ServerProtocol(subprotocols=None).accept(request).status_code == 101


def test_their_client_makes_a_request_of_its_own_and_judges_the_answer() -> None:
    question = Question(Url.parse("ws://h:1/x"), secure=False, headers={})
    assert isinstance(question._protocol, ClientProtocol)
    assert KEY.encode() not in question.request
    response = parse_response(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert question.refusal(response, b"HTTP/1.1 101 ") is not None


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\nA\r\n\r\n", b"G\xff / HTTP/1.1\r\n\r\n"]
)
def test_a_head_that_cannot_be_read_is_a_bad_head(head: bytes) -> None:
    with pytest.raises(BadHead):
        parse_request(head)


def test_paths_are_quoted_and_read_again() -> None:
    for path in ("/", "/a b", "/ü", "/a%b", "/a?b#c", "/x+y;z=1,2"):
        assert path_of(quoted_path(Url("ws", "h", 1, path))) == path
    assert quoted_path(Url("ws", "h", 1, "")) == "/"
