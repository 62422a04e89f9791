"""The registry: immutable snapshots of what plugins provide."""

from __future__ import annotations

import pytest

from echostream_core.capabilities import Capabilities
from echostream_core.codec import CodecSpec
from echostream_core.components import ComponentSpec
from echostream_core.discovery import DiscoverySpec
from echostream_core.middleware import MiddlewareSpec
from echostream_core.registry import Registry, Spec, key_of, kind_of
from echostream_core.transport import Transport, TransportSpec


def never(*_: object) -> object:
    raise AssertionError("a factory is not called by the registry")


SPECS: list[tuple[str, str, Spec]] = [
    ("transport", "t", TransportSpec(scheme="t", factory=Transport, capabilities=Capabilities())),
    ("codec", "c", CodecSpec(name="c", factory=never)),  # type: ignore[arg-type]  # never called
    ("discovery", "d", DiscoverySpec(name="d", factory=never)),  # type: ignore[arg-type]  # never called
    ("middleware", "m", MiddlewareSpec(name="m", factory=never)),  # type: ignore[arg-type]  # never called
    ("command", "x", ComponentSpec(kind="command", name="x", factory=never)),
]


@pytest.mark.parametrize(("kind", "key", "spec"), SPECS, ids=[kind for kind, _, _ in SPECS])
def test_every_spec_has_a_kind_and_a_key(kind: str, key: str, spec: Spec) -> None:
    assert (kind_of(spec), key_of(spec)) == (kind, key)


def test_adding_a_plugin_leaves_the_old_snapshot_alone() -> None:
    empty = Registry()
    full = empty.with_plugin("one", [spec for _, _, spec in SPECS])
    assert empty.keys("codec") == () and full.keys("codec") == ("c",)
    assert full.find("command", "x", "one") is SPECS[4][2]
    assert full.find("command", "x", "two") is None
    assert full.provided_by("one") == tuple((kind, key) for kind, key, _ in SPECS)
    with pytest.raises(TypeError):
        full.provisions[("codec", "y")] = ()  # type: ignore[index]  # that it cannot is the point


def test_plugins_that_compete_stand_side_by_side_and_can_leave() -> None:
    spec = SPECS[1][2]
    both = Registry().with_plugin("one", [spec]).with_plugin("two", [spec, SPECS[4][2]])
    assert [provision.plugin for provision in both.of("codec", "c")] == ["one", "two"]
    left = both.without_plugin("two")
    assert [provision.plugin for provision in left.of("codec", "c")] == ["one"]
    assert left.keys("command") == ()
