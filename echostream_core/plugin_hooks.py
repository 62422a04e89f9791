"""Calling the hooks of one plugin at a time, so that what one does wrong stays with it.

pluggy registers, validates signatures and knows who implements what. It calls all plugins of a hook in one
go, though, and the first exception ends that: so each implementation is called by itself here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, cast

import msgspec
import pluggy

from echostream_core.codec import CodecSpec
from echostream_core.components import ComponentSpec
from echostream_core.discovery import DiscoverySpec
from echostream_core.errors import PluginContractError
from echostream_core.hookspecs import HookSpecs
from echostream_core.middleware import MiddlewareSpec
from echostream_core.registry import Spec, key_of, kind_of
from echostream_core.transport import TransportSpec

__all__ = ["PluginHooks"]

_PREFIX: Final = "echostream_"
_OFFERS: Final[dict[str, type[object]]] = {
    "echostream_transports": TransportSpec,
    "echostream_codecs": CodecSpec,
    "echostream_discovery": DiscoverySpec,
    "echostream_middleware": MiddlewareSpec,
    "echostream_components": ComponentSpec,
}
_NAMES: Final = {"transport": r"[a-z][a-z0-9+.-]*"}
_ANY_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
_KIND: Final = r"[a-z][a-z0-9_]*"
_OWN_KINDS: Final = ("transport", "transports", "codec", "codecs", "discovery", "middleware", "plugins")


class PluginHooks:
    """The plugins of one kernel, by id, and their hooks."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("echostream")
        self._manager.add_hookspecs(HookSpecs)
        self._known = tuple(name for name in dir(HookSpecs) if name.startswith(_PREFIX))

    def register(self, plugin: object, plugin_id: str) -> None:
        """Add ``plugin``; PluginContractError (E-HOOK) for one that breaks the rules of hookspecs.py."""
        if inspect.isclass(plugin):
            raise self.broken(plugin_id, f"{plugin.__qualname__} is a class", "Name an instance of it, or a module")
        self._check_names(plugin, plugin_id)
        try:
            self._manager.register(plugin, plugin_id)
            self._manager.check_pending()  # what _check_names cannot see: a specname=… that is no hook
        except (pluggy.PluginValidationError, ValueError, TypeError) as error:
            self.unregister(plugin_id)
            problem = " ".join(str(error).split())
            raise self.broken(plugin_id, problem, "Give the function the hook's own argument names") from error

    def unregister(self, plugin_id: str) -> None:
        """Take a plugin out again; nothing happens when it is not there."""
        if self._manager.has_plugin(plugin_id):
            self._manager.unregister(name=plugin_id)

    def implemented(self, plugin_id: str) -> tuple[str, ...]:
        """The names of the hooks that a registered plugin implements, sorted."""
        plugin = self._manager.get_plugin(plugin_id)
        callers = self._manager.get_hookcallers(plugin) if plugin is not None else None
        return tuple(sorted(caller.name for caller in callers or ()))

    def call(self, plugin_id: str, hook: str, **arguments: object) -> object:
        """Call one plugin's implementation; None when it has none. What it raises becomes E-HOOK."""
        plugin = self._manager.get_plugin(plugin_id)
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is plugin:
                try:
                    chosen = {name: arguments[name] for name in implementation.argnames}
                    return cast(object, implementation.function(**chosen))
                except (Exception, SystemExit) as error:
                    raise self.broken(
                        plugin_id, f"{hook} raised {type(error).__name__}: {error}", "Tell its author"
                    ) from error
        return None

    def specs(self, plugin_id: str) -> list[Spec]:
        """Everything that a registered plugin offers, checked; E-HOOK for an answer that is no sequence of
        good specs.
        """
        found: list[Spec] = []
        for hook, expected in _OFFERS.items():
            answer = self.call(plugin_id, hook)
            if answer is None:
                continue
            if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
                raise self.broken(
                    plugin_id,
                    f"{hook} answered {type(answer).__name__}",
                    f"Answer a list of {expected.__name__}",
                )
            for spec in answer:
                if not isinstance(spec, expected):
                    raise self.broken(
                        plugin_id,
                        f"{hook} answered a list that holds {type(spec).__name__}",
                        f"Answer a list of {expected.__name__}",
                    )
                found.append(self._checked(plugin_id, hook, cast(Spec, spec)))
        keys = [(kind_of(spec), key_of(spec)) for spec in found]
        for kind, key in keys:
            if keys.count((kind, key)) > 1:
                raise self.broken(plugin_id, f"it offers the {kind} {key!r} twice", "Offer it once")
        return found

    def _checked(self, plugin_id: str, hook: str, spec: Spec) -> Spec:
        kind, key = kind_of(spec), key_of(spec)
        if isinstance(spec, ComponentSpec) and (not re.fullmatch(_KIND, kind) or kind in _OWN_KINDS):
            raise self.broken(plugin_id, f"{hook} answered the kind {kind!r}", "A kind is lower-case words joined by _")
        if not isinstance(key, str) or not re.fullmatch(_NAMES.get(kind, _ANY_NAME), key):
            raise self.broken(
                plugin_id,
                f"{hook} answered the name {key!r}",
                "A name is letters, digits and - _ . + after them",
            )
        if not (isinstance(spec.options, type) and issubclass(spec.options, msgspec.Struct)):
            raise self.broken(
                plugin_id,
                f"{hook}: the options of {kind} {key!r} are no msgspec.Struct",
                "Derive them from it",
            )
        if not callable(spec.factory):
            raise self.broken(plugin_id, f"{hook}: the factory of {kind} {key!r} is not callable", "Give a function")
        return spec

    def _check_names(self, plugin: object, plugin_id: str) -> None:
        """Raise E-HOOK for a misspelt hook, an unmarked one and a wrapper."""
        for name in dir(plugin):
            options = self._manager.parse_hookimpl_opts(plugin, name)
            if options is None:
                if name.startswith(_PREFIX) and inspect.isroutine(inspect.getattr_static(plugin, name, None)):
                    self._must_be_hook(name, plugin_id)
                    raise self.broken(plugin_id, f"{name} is not marked", "Put @hookimpl above it")
                continue
            hook = options.get("specname") or name
            self._must_be_hook(hook, plugin_id)
            if options.get("wrapper") or options.get("hookwrapper"):
                raise self.broken(plugin_id, f"{name} is a hook wrapper", "Hooks here have no wrappers")

    def _must_be_hook(self, name: str, plugin_id: str) -> None:
        if name not in self._known:
            near = get_close_matches(name, self._known, 1)
            fix = f"Did you mean {near[0]}?" if near else f"The hooks are {', '.join(self._known)}"
            raise self.broken(plugin_id, f"there is no hook {name}", fix)

    @staticmethod
    def broken(plugin_id: str, problem: str, fix: str) -> PluginContractError:
        """The E-HOOK of ``plugin_id``."""
        way_out = f"or leave the plugin {plugin_id} out with [plugins] block"
        return PluginContractError(f"{plugin_id}: {problem}", plugin=plugin_id, fix=f"{fix}, {way_out}")
