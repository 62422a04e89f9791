"""What the kernel is told about plugins, and what it tells of them: settings in, reports and notices out.
Plain data.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from echostream_core.config import Config

__all__ = ["ConfigDiff", "PluginReport", "PluginSettings", "StateEvent"]


class PluginSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section ``[plugins]``: what may be loaded, and who is preferred."""

    autoload: Literal["referenced", "all", "none"] = "referenced"
    """What is imported: what something refers to; everything that is installed; only what ``allow`` lists,
    when referred to.
    """
    allow: tuple[str, ...] = ()
    """Distributions that may be loaded. Empty: all of them, or none under ``autoload = "none"``."""
    block: tuple[str, ...] = ()
    """Distributions that are never loaded; stronger than ``allow``."""
    prefer: dict[str, str] = {}
    """Who provides a key that several offer: ``KEY`` or ``transports.KEY`` → distribution."""


class PluginReport(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin: what it is, what it gives, and if it cannot be used, why, and how to mend it."""

    name: str
    distribution: str
    version: str
    state: Literal["indexed", "loaded", "blocked", "failed"]
    """Known from metadata only; imported and registered; excluded by the settings; unusable."""
    code: str = ""
    """The error's code (``E-IMPORT``, …), "" when there is none. A loaded plugin can have one: E-AMBIGUOUS.
    """
    problem: str = ""
    """What is wrong, and where."""
    fix: str = ""
    """How to mend it."""
    reference: str = ""
    """The object that is imported, ``module:attribute``; "" for a plugin registered in code."""
    origin: str = ""
    """The URL that it was installed from; "" for a package index."""
    editable: bool = False
    builtin: bool = False
    provides: tuple[str, ...] = ()
    """``transport.NAME``, ``codec.NAME``, …: until it is loaded as the index promises, then as its hooks gave."""
    hooks: tuple[str, ...] = ()
    """The hooks that it implements; known once it is loaded."""
    notes: tuple[str, ...] = ()
    """Remarks that stop nothing, for instance a key that its entry points do not list."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.code

    @property
    def where(self) -> str:
        """Where to look: the entry point as its pyproject.toml has it, and the file of its module. Imports nothing.

        "" for a plugin that was registered in code.
        """
        module = self.reference.partition(":")[0]
        if not module:
            return ""
        entry = "" if self.builtin else f'entry point {self.name} = "{self.reference}"'
        found = sys.modules.get(module) or _found(module.partition(".")[0])
        file = getattr(found, "__file__", None) or getattr(found, "origin", None)
        return ", ".join(filter(None, (entry, f"file {file}" if file else f"the module {module} is not to be found")))

    def as_dict(self) -> dict[str, object]:
        """The report as plain data, for ``--json``."""
        return {**msgspec.structs.asdict(self), "where": self.where}


def _found(package: str) -> ModuleSpec | None:
    """Where imports would find a top-level package: only such a one is found without importing another."""
    try:
        return find_spec(package)
    except (ImportError, ValueError):
        return None


class ConfigDiff(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that is about to take effect, and the one that it replaces."""

    old: Config | None
    """None at start-up."""
    new: Config


class StateEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something changed its state."""

    kind: str
    """``server``, ``client``, ``session`` or ``plugin``."""
    name: str
    """The endpoint's or the plugin's name."""
    state: str
    """``starting``, ``serving``, ``draining``, ``stopped``, ``failed``, …"""
    detail: str = ""
    """One line for people; never a secret."""
