"""A configuration against plugins: everything is found before anything starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from echostream_core.capabilities import Capabilities
from echostream_core.codec import CodecSpec
from echostream_core.components import ComponentSpec
from echostream_core.config import Config, load_config
from echostream_core.config_check import check_spelling
from echostream_core.discovery import DiscoverySpec
from echostream_core.errors import ConfigError, PluginNotFound
from echostream_core.hookspecs import hookimpl
from echostream_core.index import Index
from echostream_core.kernel import ConfigDiff, Kernel
from echostream_core.middleware import MiddlewareSpec
from echostream_core.tls_options import TlsOptions
from echostream_core.transport import Acceptor, Connection, Listener, Pipe, Transport, TransportSpec
from echostream_core.types import Url


class WireOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    window_bytes: int = 5
    tls: TlsOptions = TlsOptions()
    datagrams: bool = True


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    level: str


class Wire(Transport):
    async def listen(self, url: Url, options: msgspec.Struct, accept: Acceptor) -> Listener:
        raise NotImplementedError

    async def dial(self, url: Url, options: msgspec.Struct) -> Connection | Pipe:
        raise NotImplementedError

    def configured(self, options: msgspec.Struct, capabilities: Capabilities) -> Capabilities:
        if not isinstance(options, WireOptions):
            return capabilities
        if options.window_bytes == 666:
            raise RuntimeError("no such luck")
        if options.window_bytes == 667:
            raise ConfigError("transport.wire.window_bytes: 667 is too much")
        if options.datagrams:
            return capabilities
        return without_datagrams(capabilities)


def without_datagrams(capabilities: Capabilities) -> Capabilities:
    no_datagrams: dict[str, Any] = {"datagrams": "none"}
    return Capabilities(**(capabilities.as_dict() | no_datagrams))


class Plugin:
    """One of each kind. Its objections to configurations are a list."""

    objections: Sequence[str] = ()

    @hookimpl
    def echostream_transports(self) -> Sequence[TransportSpec]:
        wire = Capabilities(streams="native", datagrams="native", encrypted=True)
        notes = {"migration": "sockets do not move"}
        return [
            TransportSpec(scheme="wire", factory=Wire, capabilities=wire, options=WireOptions, notes=notes),
            TransportSpec(scheme="plain", factory=Wire, capabilities=Capabilities()),
        ]

    @hookimpl
    def echostream_codecs(self) -> Sequence[CodecSpec]:
        return [CodecSpec(name="strict", factory=lambda options: NotImplemented, options=Strict)]

    @hookimpl
    def echostream_middleware(self) -> Sequence[MiddlewareSpec]:
        return [MiddlewareSpec(name="logging", factory=lambda options: NotImplemented, options=Strict)]

    @hookimpl
    def echostream_discovery(self) -> Sequence[DiscoverySpec]:
        return [DiscoverySpec(name="finder", factory=lambda options: NotImplemented)]

    @hookimpl
    def echostream_components(self) -> Sequence[ComponentSpec]:
        return [ComponentSpec(kind="authenticator", name="tokens", factory=print, options=Strict)]

    @hookimpl
    def echostream_validate_config(self, diff: ConfigDiff) -> Sequence[str]:
        return self.objections


@pytest.fixture
def kernel() -> Kernel:
    kernel = Kernel(index=Index())
    kernel.register(Plugin(), name="test plugin")
    return kernel


def configured(settings: Mapping[str, object]) -> Config:
    return load_config(environ={}, overrides=settings)


SERVER = {"server.s.listen": "wire://h:1", "transport.wire.tls.dev": True}
CLIENT = {"client.c.url": "wire://h:1"}


def test_a_good_configuration_has_no_problems(kernel: Kernel) -> None:
    settings = {
        **SERVER,
        **CLIENT,
        "server.s.codecs": ["json", "strict"],
        "codec.strict.level": "high",
        "server.s.middleware": ["logging"],
        "middleware.logging.level": "info",
        "server.s.authenticator": "tokens",
        "authenticator.tokens.level": "all",
        "server.s.discovery": "finder",
        "server.s.require": ["streams", "datagrams=native"],
        "transport.memory.max_streams": 9,
    }
    assert configured(settings).check(kernel) == []


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"server.s.listen": "wir://h"}, "server.s.listen: E-NO-PROVIDER: no plugin provides the transport 'wir'"),
        ({"server.s.codecs": ["jsn"]}, "server.s.codecs: E-NO-PROVIDER: no plugin provides the codec 'jsn'"),
        ({"server.s.middleware": ["logg"]}, "server.s.middleware: E-NO-PROVIDER"),
        ({"server.s.authenticator": "nobody"}, "server.s.authenticator: E-NO-PROVIDER"),
        ({"server.s.discovery": "nothing"}, "server.s.discovery: E-NO-PROVIDER"),
        ({"client.c.discover": "calc", "client.c.discovery": "nothing"}, "client.c.discovery: E-NO-PROVIDER"),
        ({"client.c.discover": "calc", "client.c.transports": "wir"}, "client.c.transports: E-NO-PROVIDER"),
        ({"server.s.codecs": ["strict"]}, "codec.strict.level: is missing"),
        ({"codec.strict.level": 3}, "codec.strict.level: expected `str`, got `int`"),
        ({"transport.wire.window_byte": 3}, "transport.wire.window_byte: there is no such setting; did you mean"),
        ({"transport.wire.tls.dve": 3}, "transport.wire.tls.dve: there is no such setting; did you mean 'dev'?"),
        ({"transport.other.x": 3}, "transport.other: E-NO-PROVIDER"),
        ({"server.s.transport.wire.window_bytes": "x"}, "server.s.transport.wire.window_bytes: expected `int`"),
        ({"server.s.tls.certificat": "x"}, "server.s.tls.certificat: there is no such setting"),
        ({"server.s.transport.plain.x": 1}, "server.s.transport.plain: has no effect: no URL of this endpoint"),
        ({"server.s.require": ["migration"]}, "server.s.require: migration is not met by the transport 'wire' (sock"),
        ({"server.s.require": ["datagram"]}, "server.s.require: there is no capability 'datagram'; did you mean"),
        (
            {"transport.wire.window_bytes": 666},
            "transport.wire: the transport failed on its options: RuntimeError: no such luck",
        ),
        ({"rooms.local.x": 3}, "rooms: there is no such section; known are authenticator, client"),
        (
            {"client.c.url": "wire://h", "client.c.tls": {"dev": False, "pin": "md5:1"}},
            "client.c: transport.wire.tls.pin must be sha256",
        ),
    ],
)
def test_each_problem_is_named(kernel: Kernel, settings: dict[str, object], problem: str) -> None:
    (found,) = configured({**SERVER, **settings}).check(kernel)
    assert found.startswith((problem, f"command line: {problem}"))


def test_who_advertises_or_discovers_needs_one_backend(kernel: Kernel) -> None:
    settings = {**SERVER, "server.s.advertise": "calc", "client.c.discover": "calc"}
    assert configured(settings).check(kernel) == []
    found = configured(settings).check(Kernel(index=Index()))
    assert [line for line in found if "E-NO-PROVIDER: no discovery backend is installed" in line] == [
        line for line in found if ".advertise: " in line or ".discover: " in line
    ]

    class Another:
        @hookimpl
        def echostream_discovery(self) -> Sequence[DiscoverySpec]:
            return [DiscoverySpec(name="other", factory=lambda options: NotImplemented)]

    kernel.register(Another(), name="another")
    found = configured(settings).check(kernel)
    assert len(found) == 2 and all("several discovery backends are installed: finder, other" in line for line in found)
    assert configured({**settings, "server.s.discovery": "finder", "client.c.discovery": "other"}).check(kernel) == []


def test_needs_are_checked_against_what_is_left_by_the_options(kernel: Kernel) -> None:
    settings = {**SERVER, "server.s.require": "datagrams"}
    assert configured(settings).check(kernel) == []
    (found,) = configured({**settings, "transport.wire.datagrams": False}).check(kernel)
    assert found.endswith("server.s.require: datagrams is not met by the transport 'wire'")


def test_a_transports_own_refusal_is_a_problem(kernel: Kernel) -> None:
    (found,) = configured({**SERVER, "transport.wire.window_bytes": 667}).check(kernel)
    assert "667 is too much" in found


def test_a_listener_needs_a_certificate_and_a_dialer_none(kernel: Kernel) -> None:
    (found,) = configured({"server.s.listen": "wire://h:1", **CLIENT}).check(kernel)
    assert "server.s: transport.wire.tls.certificate is missing" in found
    assert "transport.wire.tls.dev = true" in found


def test_settings_of_the_endpoint_lie_over_those_of_the_transport(kernel: Kernel) -> None:
    config = configured(
        {
            "server.s.listen": ["wire://h:1", "plain://h:2"],
            "transport.wire.window_bytes": 1,
            "transport.wire.datagrams": False,
            "transport.wire.tls.certificate": "a.pem",
            "server.s.tls": {"certificate": "b.pem", "private_key": "b.key"},
            "server.s.transport.wire": {"window_bytes": 2, "tls": {"private_key": "c.key"}},
        }
    )
    assert config.check(kernel) == []
    made = config.transport_options(kernel, "wire", config.server())
    tls = TlsOptions(certificate="b.pem", private_key="c.key")
    assert made == WireOptions(window_bytes=2, datagrams=False, tls=tls)
    plain = config.transport_options(kernel, "wire")
    assert plain == WireOptions(window_bytes=1, datagrams=False, tls=TlsOptions(certificate="a.pem"))


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("transport.wirre.window_bytes=1", "no plugin provides the transport 'wirre'; did you mean 'wire'?"),
        ("discovery.dirctory.level=1", None),
        ("transport.elsewhere.window_bytes=1", None),
        ("transport.wire.window_bytes=1", None),
        ("transport.wss.window_bytes=1", None),
    ],
)
def test_a_misspelt_section_of_a_plugin_is_no_comment(kernel: Kernel, section: str, problem: str | None) -> None:
    config = load_config(environ={}, overrides=[section])
    if problem is None:
        check_spelling(config, kernel)
        return
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        check_spelling(config, kernel)
    assert caught.value.key == "transport.wirre"


def test_tls_for_an_endpoint_that_does_not_encrypt_is_a_problem(kernel: Kernel) -> None:
    (found,) = configured({"server.s.listen": "plain://h", "server.s.tls.dev": True}).check(kernel)
    assert found == "command line: server.s.tls: has no effect: plain does not encrypt"


def test_transport_options_raise_with_every_problem(kernel: Kernel) -> None:
    config = configured({"transport.wire.window_bytes": "x", "transport.wire.tls.dev": 1})
    with pytest.raises(ConfigError) as caught:
        config.transport_options(kernel, "wire")
    assert str(caught.value).splitlines() == [
        "command line: transport.wire.window_bytes: expected `int`, got `str`",
        "command line: transport.wire.tls.dev: expected `bool`, got `int`",
    ]
    with pytest.raises(PluginNotFound):
        config.transport_options(kernel, "nothing")


def test_options_of_other_kinds_are_built_too(kernel: Kernel) -> None:
    config = configured({"middleware.logging.level": "info"})
    assert config.options(kernel, "middleware", "logging") == Strict(level="info")
    with pytest.raises(ConfigError, match=r"codec\.strict\.level: is missing"):
        config.options(kernel, "codec", "strict")


def test_a_problem_of_a_shared_section_is_said_once(kernel: Kernel) -> None:
    settings = {**SERVER, "server.t.listen": "wire://h:2", "transport.wire.window_bytes": "x"}
    assert len(configured(settings).check(kernel)) == 1


def test_plugins_may_object_to_what_the_schemas_accept(kernel: Kernel) -> None:
    picky = Plugin()
    picky.objections = ["server.s.listen: not on a Sunday"]
    other = Kernel(index=Index())
    other.register(picky, name="picky")
    assert configured(SERVER).check(other) == ["server.s.listen: not on a Sunday"]
    (found,) = configured({**SERVER, "codec.strict.level": 3}).check(other)
    assert "Sunday" not in found
