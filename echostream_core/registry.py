"""What the loaded plugins provide: an immutable snapshot, replaced as a whole when a plugin is added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from echostream_core.codec import CodecSpec
from echostream_core.components import ComponentSpec
from echostream_core.discovery import DiscoverySpec
from echostream_core.middleware import MiddlewareSpec
from echostream_core.transport import TransportSpec

__all__ = ["Provision", "Registry", "Spec", "key_of", "kind_of"]

Spec = TransportSpec | CodecSpec | DiscoverySpec | MiddlewareSpec | ComponentSpec
"""Anything that a hook hands over."""


def kind_of(spec: Spec) -> str:
    """The kind that ``spec`` is registered under."""
    match spec:
        case TransportSpec():
            return "transport"
        case CodecSpec():
            return "codec"
        case DiscoverySpec():
            return "discovery"
        case MiddlewareSpec():
            return "middleware"
        case ComponentSpec():
            return spec.kind


def key_of(spec: Spec) -> str:
    """The scheme or name that ``spec`` is registered under."""
    return spec.scheme if isinstance(spec, TransportSpec) else spec.name


class Provision(NamedTuple):
    """One spec and the id of the plugin that gave it."""

    plugin: str
    spec: Spec


class Registry:
    """Kind and key to provisions: several where plugins compete for a key. Immutable."""

    __slots__ = ("provisions",)

    def __init__(self, provisions: Mapping[tuple[str, str], tuple[Provision, ...]] | None = None) -> None:
        self.provisions = MappingProxyType(dict(provisions or {}))

    def with_plugin(self, plugin: str, specs: Iterable[Spec]) -> Registry:
        """A new snapshot that also holds what ``plugin`` provides."""
        provisions = dict(self.provisions)
        for spec in specs:
            key = (kind_of(spec), key_of(spec))
            provisions[key] = (*provisions.get(key, ()), Provision(plugin, spec))
        return Registry(provisions)

    def without_plugin(self, plugin: str) -> Registry:
        """A new snapshot without anything of ``plugin``."""
        kept = {key: tuple(item for item in found if item.plugin != plugin) for key, found in self.provisions.items()}
        return Registry({key: found for key, found in kept.items() if found})

    def of(self, kind: str, key: str) -> tuple[Provision, ...]:
        """All that provide ``key``, in the order in which they were added."""
        return self.provisions.get((kind, key), ())

    def find(self, kind: str, key: str, plugin: str) -> Spec | None:
        """What ``plugin`` provides under ``key``."""
        for provision in self.of(kind, key):
            if provision.plugin == plugin:
                return provision.spec
        return None

    def keys(self, kind: str) -> tuple[str, ...]:
        """All keys of ``kind``, sorted."""
        return tuple(sorted(key for a_kind, key in self.provisions if a_kind == kind))

    def provided_by(self, plugin: str) -> tuple[tuple[str, str], ...]:
        """Kind and key of everything that ``plugin`` provides."""
        return tuple(key for key, found in self.provisions.items() if any(item.plugin == plugin for item in found))
