"""The kernel: who provides what. Finds plugins in the index, loads them on use, and answers by name.

One broken plugin never takes another down: who refers to it gets its coded error, everybody else a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from threading import RLock
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

import msgspec

from echostream_core.codec import CodecSpec
from echostream_core.components import ComponentSpec
from echostream_core.discovery import DiscoverySpec
from echostream_core.errors import ConfigError, PluginConflict, PluginError, PluginIndexMismatch
from echostream_core.index import (
    CORE_DISTRIBUTION,
    Index,
    PluginRef,
    canonical_kind,
    distribution_origin,
    group_of_kind,
    installed_version,
    scan,
)
from echostream_core.loader import check_before_import, import_plugin, leave_out
from echostream_core.middleware import MiddlewareSpec
from echostream_core.options import convert_options
from echostream_core.plugin_hooks import PluginHooks
from echostream_core.plugin_reports import ConfigDiff, PluginReport, PluginSettings, StateEvent
from echostream_core.registry import Registry, Spec
from echostream_core.resolver import Policy, choose, no_discovery, not_found, package_hint
from echostream_core.transport import TransportSpec

if TYPE_CHECKING:
    from logging import Logger

__all__ = [
    "BUILTINS",
    "ConfigDiff",
    "Kernel",
    "PluginReport",
    "PluginSettings",
    "StateEvent",
    "default_kernel",
]

S = TypeVar("S", bound=Spec)

BUILTINS: Final = (
    PluginRef(
        name="memory",
        distribution=CORE_DISTRIBUTION,
        reference="echostream_core.builtin.memory",
        promises=(("transport", "memory"),),
        builtin=True,
    ),
    PluginRef(
        name="json",
        distribution=CORE_DISTRIBUTION,
        reference="echostream_core.builtin.json_codec",
        promises=(("codec", "json"),),
        builtin=True,
    ),
)
"""What the kernel brings along: in the index beside everybody else's, imported on use, registered through the
same hooks.
"""


class _Plugin:
    """What has become of one plugin so far."""

    def __init__(self, ref: PluginRef, *, in_code: bool = False) -> None:
        self.ref = ref
        self.in_code = in_code
        self.state: Literal["indexed", "loaded", "failed"] = "indexed"
        self.error: PluginError | None = None


class Kernel:
    """Looks up what plugins provide, transports, codecs and the rest, and imports only what is looked up.

    Each kernel has plugins and a registry of its own; the index is shared. Lookups raise the coded errors of
    ``errors.py``: E-NO-PROVIDER, E-AMBIGUOUS, or what is wrong with the plugin that provides the key.
    """

    def __init__(self, settings: PluginSettings | None = None, *, index: Index | None = None) -> None:
        """``index`` replaces the scan of what is installed, for tests."""
        self.settings = settings or PluginSettings()
        self._policy = Policy(self.settings)
        version = installed_version(CORE_DISTRIBUTION) or ""
        builtins = [msgspec.structs.replace(ref, version=version) for ref in BUILTINS]
        self._index = (scan() if index is None else index).with_plugins(builtins)
        self._plugins = {ref.id: _Plugin(ref) for ref in self._index.plugins}
        self._hooks = PluginHooks()
        self._registry = Registry()
        self._warned: set[str] = set()
        self._lock = RLock()
        self._ready = False

    @property
    def registry(self) -> Registry:
        """What the plugins that are loaded right now provide: an immutable snapshot."""
        return self._registry

    # Lookups

    def transport(self, scheme: str) -> TransportSpec:
        """The transport for URLs that begin with ``scheme``."""
        return self._lookup("transport", scheme, TransportSpec)

    def codec(self, name: str) -> CodecSpec:
        """The codec ``name``."""
        return self._lookup("codec", name, CodecSpec)

    def default_codecs(self) -> list[CodecSpec]:
        """All codecs that are installed and work, highest priority first, equal ones by name.

        A broken one is left out with a warning, once; a key that several offer too, unless the kernel's own
        is among them.
        """
        found: list[CodecSpec] = []
        for name in self.known("codec"):
            try:
                found.append(self.codec(name))
            except PluginConflict as error:
                own = next((ref for ref in BUILTINS if ("codec", name) in ref.promises), None)
                if own is not None:
                    self._load(self._plugins[own.id])
                    found.append(cast(CodecSpec, self._registry.find("codec", name, own.id)))
                self._warn_once(error)
            except PluginError as error:
                self._warn_once(error)
        return sorted(found, key=lambda spec: (-spec.priority, spec.name))

    def discovery(self, name: str) -> DiscoverySpec:
        """The discovery backend ``name``."""
        return self._lookup("discovery", name, DiscoverySpec)

    def default_discovery(self) -> DiscoverySpec:
        """The only discovery backend that is installed; PluginNotFound when there is none, ConfigError when there are
        several.
        """
        names = self.discovery_names()
        if len(names) > 1:
            raise ConfigError(
                f"several discovery backends are installed: {', '.join(names)}; name one with discovery=",
                key="discovery",
            )
        if not names:
            raise no_discovery()
        return self.discovery(names[0])

    def discovery_names(self) -> tuple[str, ...]:
        """The discovery backends that are installed."""
        return self.known("discovery")

    def middleware(self, name: str) -> MiddlewareSpec:
        """The middleware ``name``."""
        return self._lookup("middleware", name, MiddlewareSpec)

    def component(self, kind: str, name: str) -> ComponentSpec:
        """The component ``name`` of another kind than those above (``authenticator``, ``command``, …)."""
        return self._lookup(kind, name, ComponentSpec)

    def components(self, kind: str) -> list[ComponentSpec]:
        """All components of ``kind`` that work, by name; the broken and ambiguous ones are left out with a warning."""
        found = []
        for name in self.known(kind):
            try:
                found.append(self.component(kind, name))
            except PluginError as error:
                self._warn_once(error)
        return found

    def spec(self, kind: str, name: str) -> Spec:
        """Whatever is registered as ``name`` of ``kind``, for callers to which the kind is a text."""
        kind = canonical_kind(kind)
        record = self._resolve(kind, name)
        self._load(record)
        spec = self._registry.find(kind, name, record.ref.id)
        assert spec is not None, "what is loaded keeps the promises by which it was chosen"
        return spec

    def known(self, kind: str) -> tuple[str, ...]:
        """All keys of ``kind`` that could be looked up, sorted; from the index, nothing is imported."""
        kind = canonical_kind(kind)
        keys = {
            key for key in self._index.keys(kind) if any(self._usable(ref) for ref in self._index.providers(kind, key))
        }
        return tuple(sorted(keys.union(self._registry.keys(kind))))

    def kinds(self) -> tuple[str, ...]:
        """All kinds that anybody offers something of, sorted."""
        return tuple(sorted({kind for kind, _ in self._registry.provisions}.union(self._index.kinds())))

    def build_options(self, spec: Spec, mapping: Mapping[str, object] | None, *, key: str) -> msgspec.Struct:
        """The validated options of ``spec`` from plain data; ConfigError names wrong keys below ``key``."""
        return convert_options(spec.options, mapping or {}, key=key)

    # Plugins

    def register(self, plugin: object, *, name: str) -> PluginReport:
        """Add a plugin from code: an object or module with hook implementations, under a name of the caller's.

        It is asked at once, and wins over installed plugins that offer the same key. PluginContractError when it breaks
        the hook contract or ``name`` is taken.
        """
        with self._lock:
            ref = PluginRef(name=name, distribution="", reference="")
            record = _Plugin(ref, in_code=True)
            before = self._plugins.get(ref.id)
            if before is not None and before.state == "loaded":
                raise self._hooks.broken(ref.id, f"the name {name!r} is taken", "Choose another name")
            self._plugins[ref.id] = record
            try:
                self._admit(record, plugin)
                if record.state == "loaded" and not self._hooks.implemented(ref.id):
                    self._hooks.unregister(ref.id)
                    raise self._hooks.broken(ref.id, "it implements no hook", "Mark its functions with @hookimpl")
            except PluginError:
                del self._plugins[ref.id]
                raise
            return self._report(record)

    def plugins(self) -> list[PluginReport]:
        """A report on each plugin as it stands; nothing is imported for it."""
        return [self._report(record) for record in list(self._plugins.values())]

    def check(self) -> list[PluginReport]:
        """Load every plugin that the settings allow, then report on each; nothing is raised."""
        for record in list(self._plugins.values()):
            if not self._policy.excluded(record.ref):
                self._try_load(record)
        return self.plugins()

    def why(self, kind: str, name: str) -> list[str]:
        """How ``name`` is resolved, step by step, in sentences; the last one is the outcome. Loads the plugin
        chosen.
        """
        kind = canonical_kind(kind)
        lines: list[str] = []
        try:
            record = self._resolve(kind, name, trace=lines.append)
            lines.append(f"chosen: {record.ref.id}")
            self._load(record, trace=lines.append)
            lines.append(f"{kind} {name} is provided by {record.ref.id}")
        except PluginError as error:
            lines.append(str(error))
        return lines

    def load_all(self) -> None:
        """Load what the settings say is to be loaded although nothing refers to it; failures are logged."""
        for record in list(self._plugins.values()):
            wanted = self._policy.wants_unreferenced(record.ref) and not self._policy.excluded(record.ref)
            if wanted and record.state == "indexed" and not self._try_load(record) and record.error:
                self._warn_once(record.error)

    # Notices

    def validate(self, diff: ConfigDiff) -> list[str]:
        """What the plugins object to in a new configuration; an exception of a plugin is an objection too."""
        self.load_all()
        problems: list[str] = []
        for record in self._loaded():
            try:
                answer = self._hooks.call(record.ref.id, "echostream_validate_config", diff=diff)
                problems += [answer] if isinstance(answer, str) else map(str, cast(Iterable[object], answer or ()))
            except PluginError as error:
                problems.append(str(error))
            except TypeError:
                problems.append(f"E-HOOK: {record.ref.id}: echostream_validate_config answered no list of texts")
        return problems

    def ready(self) -> None:
        """Tell every plugin, once, that the registry is complete and the configuration valid; later ones at
        once.

        pluggy's ``call_historic`` would do this too, but one plugin's exception would keep it from the rest.
        """
        self.load_all()
        self._ready = True
        for record in self._loaded():
            self._tell_ready(record)

    def announce(self, event: StateEvent) -> None:
        """Tell every loaded plugin of a change of state. What one raises is logged, never passed on."""
        for record in self._loaded():
            try:
                self._hooks.call(record.ref.id, "echostream_state_changed", event=event)
            except PluginError:
                _log().exception("plugin %s failed on the state %s of %s", record.ref.id, event.state, event.name)

    # Inside

    def _lookup(self, kind: str, key: str, expected: type[S]) -> S:
        spec = self.spec(kind, key)
        if not isinstance(spec, expected):
            raise TypeError(f"{kind} is looked up by Kernel.{canonical_kind(kind)}(), not by component()")
        return spec

    def _resolve(self, kind: str, key: str, trace: Callable[[str], None] = lambda line: None) -> _Plugin:
        """The plugin that provides ``key``, loaded or not."""
        loaded = [self._plugins[provision.plugin] for provision in self._registry.of(kind, key)]
        candidates = [record.ref for record in loaded if record.in_code]
        excluded: list[tuple[PluginRef, str]] = []
        if candidates:
            trace(f"registered in code: {', '.join(ref.name for ref in candidates)}")
        else:
            offers = {ref.id: ref for ref in self._index.providers(kind, key)}
            offers |= {record.ref.id: record.ref for record in loaded}
            trace(f"the index lists: {', '.join(offers) or 'nobody'}")
            for ref in offers.values():
                reason = self._policy.excluded(ref)
                if reason:
                    trace(f"{ref.id} is excluded: {reason}")
                    excluded.append((ref, reason))
                else:
                    candidates.append(ref)
        chosen = choose(kind, key, candidates, self._policy, trace)
        if chosen is None:
            hint = package_hint(kind, key)
            if hint is not None and not excluded:
                trace(f"we publish it as {hint}")
            raise not_found(kind, key, self.known(kind), excluded)
        return self._plugins[chosen.id]

    def _warn_once(self, error: PluginError) -> None:
        text = str(error)
        if text not in self._warned:
            self._warned.add(text)
            _log().warning("left out: %s", text)

    def _usable(self, ref: PluginRef) -> bool:
        return not self._policy.excluded(ref)

    def _try_load(self, record: _Plugin) -> bool:
        try:
            self._load(record)
        except PluginError:
            return False
        return True

    def _load(self, record: _Plugin, trace: Callable[[str], None] = lambda line: None) -> None:
        """Bring ``record`` to the state "loaded", or raise why not: the same error each time."""
        with self._lock:
            if record.state == "loaded":
                trace("it is loaded already")
                return
            if record.error is None:
                try:
                    check_before_import(record.ref)
                    trace("its requirements and API version are met")
                    plugin = import_plugin(record.ref)
                    trace(f"{record.ref.reference} is imported")
                    self._admit(record, plugin)
                    trace("its hooks are registered and keep what the index promises")
                    return
                except PluginError as error:
                    record.state, record.error = "failed", error
            raise record.error

    def _admit(self, record: _Plugin, plugin: object) -> None:
        """Register ``plugin``, ask its hooks, compare with the index, and put the answers into a new registry."""
        ref = record.ref
        self._hooks.register(plugin, ref.id)
        try:
            specs = self._hooks.specs(ref.id)
            registry = self._registry.with_plugin(ref.id, specs)
            provided = registry.provided_by(ref.id)
            missing = [promise for promise in ref.promises if promise not in provided]
            if missing:
                kind, key = missing[0]
                given = ", ".join(f"{a_kind} {a_key!r}" for a_kind, a_key in provided) or "nothing"
                raise PluginIndexMismatch(
                    f"{ref.label}: its entry points promise the {kind} {key!r}, its hooks give {given} "
                    f"(entry-point group echostream.v1.{group_of_kind(kind)})",
                    plugin=ref.id,
                    fix=f"Make entry points and hooks agree in its source, or {leave_out(ref)}",
                )
        except PluginError:
            self._hooks.unregister(ref.id)
            raise
        self._registry = registry
        record.state = "loaded"
        if self._ready:
            self._tell_ready(record)

    def _tell_ready(self, record: _Plugin) -> None:
        try:
            self._hooks.call(record.ref.id, "echostream_kernel_ready", kernel=self)
        except PluginError as error:
            _log().warning("plugin %s is disabled: %s", record.ref.id, error)
            self._hooks.unregister(record.ref.id)
            self._registry = self._registry.without_plugin(record.ref.id)
            record.state, record.error = "failed", error

    def _loaded(self) -> list[_Plugin]:
        return [record for record in list(self._plugins.values()) if record.state == "loaded"]

    def _report(self, record: _Plugin) -> PluginReport:
        ref = record.ref
        excluded = "" if record.in_code else self._policy.excluded(ref)
        given = self._registry.provided_by(ref.id) if record.state == "loaded" else ref.promises
        notes = [
            f"{kind} {key!r} is not in its entry points: it is found only while the plugin is loaded"
            for kind, key in given
            if not record.in_code and (kind, key) not in ref.promises
        ]
        hooks = self._hooks.implemented(ref.id)
        if record.state == "loaded" and not hooks:
            notes.append("it implements no hook")
        error = record.error or (None if excluded else self._conflict(record, given))
        origin, editable = ("", False) if record.in_code else distribution_origin(ref.distribution)
        return PluginReport(
            name=ref.name,
            distribution=ref.distribution,
            version=ref.version,
            state="blocked" if excluded and record.state == "indexed" else record.state,
            code=error.code if error else "",
            problem=error.problem if error else excluded,
            fix=error.fix if error else "",
            reference=ref.reference,
            origin=origin,
            editable=editable,
            builtin=ref.builtin,
            provides=tuple(f"{kind}.{key}" for kind, key in given),
            hooks=hooks,
            notes=tuple(notes),
        )

    def _conflict(self, record: _Plugin, given: Iterable[tuple[str, str]]) -> PluginError | None:
        """The E-AMBIGUOUS that looking up one of its keys would raise."""
        for kind, key in given:
            try:
                self._resolve(kind, key)
            except PluginConflict as error:
                return error
            except PluginError:
                continue
        return None


def _log() -> Logger:
    """The kernel's logger; logging is imported when there is something to say: it costs 6 ms of the start."""
    import logging

    return logging.getLogger(__name__)


@cache
def default_kernel() -> Kernel:
    """The kernel of this process with default settings, made on first use."""
    return Kernel()
