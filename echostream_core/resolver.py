"""Which plugin provides a key: the rules, and the errors when there is none or too many.

The rules, in order: what the application has registered in code wins; of what is installed, the distributions
that the settings exclude are left out; of several that remain, ``[plugins] prefer`` chooses; otherwise it is
an error (E-AMBIGUOUS).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files

import msgspec

from echostream_core.errors import PluginConflict, PluginNotFound
from echostream_core.index import CORE_DISTRIBUTION, PluginRef, canonical_kind, group_of_kind
from echostream_core.plugin_reports import PluginSettings
from echostream_core.requirements import normalise

__all__ = ["Policy", "choose", "no_discovery", "not_found", "package_hint"]

Trace = Callable[[str], None]


class Policy:
    """``[plugins]``, ready to be asked."""

    def __init__(self, settings: PluginSettings) -> None:
        self.settings = settings
        self._allow = {normalise(name) for name in settings.allow}
        self._block = {normalise(name) for name in settings.block}
        self._prefer = {}
        for key, wanted in settings.prefer.items():
            kind, dot, name = key.partition(".")
            self._prefer[f"{canonical_kind(kind)}.{name}" if dot else key] = wanted

    def excluded(self, ref: PluginRef) -> str:
        """The setting that keeps ``ref`` from being loaded, "" when it may be. Built-ins can only be blocked
        by name.
        """
        name = normalise(ref.distribution)
        if name in self._block:
            return f'[plugins] block lists "{ref.distribution}"'
        if name == CORE_DISTRIBUTION or name in self._allow:
            return ""
        if self._allow:
            return f'[plugins] allow does not list "{ref.distribution}"'
        if self.settings.autoload == "none":
            return '[plugins] autoload is "none" and allow is empty'
        return ""

    def wants_unreferenced(self, ref: PluginRef) -> bool:
        """Whether ``ref`` is loaded although nothing refers to it.

        So under ``autoload = "all"``; and a plugin that offers no key, and so can never be referred to, when
        ``allow`` lists it.
        """
        return self.settings.autoload == "all" or (not ref.promises and normalise(ref.distribution) in self._allow)

    def preferred(self, kind: str, key: str) -> tuple[str, str] | None:
        """The setting about ``key`` and the distribution that it names; None without one."""
        for setting in (f"{kind}.{key}", key):
            if setting in self._prefer:
                return setting, self._prefer[setting]
        return None


def choose(
    kind: str,
    key: str,
    candidates: Sequence[PluginRef],
    policy: Policy,
    trace: Trace = lambda line: None,
) -> PluginRef | None:
    """The one of ``candidates`` that provides ``key``, None when there are none; PluginConflict when it is
    not clear.

    ``candidates`` are those that may be loaded. A preference that names none of them is an error too: a
    typing mistake there would otherwise choose in silence.
    """
    if not candidates:
        return None
    preferred = policy.preferred(kind, key)
    if preferred is not None:
        setting, wanted = preferred
        chosen = [ref for ref in candidates if _is_named(ref, wanted)]
        trace(f'[plugins] prefer.{setting} = "{wanted}"' + ("" if chosen else ", which is none of these"))
        if len(chosen) == 1:
            return chosen[0]
        offered = ", ".join(ref.label for ref in candidates)
        problem = "does not offer it" if not chosen else "offers it more than once"
        raise PluginConflict(
            f'[plugins] prefer.{setting} names "{wanted}", which {problem}; the {kind} {key!r} comes from {offered}',
            plugin=wanted,
            fix="Correct the preference"
            if not chosen
            else f"Name one of the plugins: {', '.join(ref.id for ref in chosen)}",
        )
    if len(candidates) == 1:
        return candidates[0]
    names = [ref.distribution or ref.name for ref in candidates]
    if len(set(names)) < len(names):
        names = [ref.id for ref in candidates]
    modules = ", ".join(ref.reference or "registered in code" for ref in candidates)
    superfluous = " or ".join(
        dict.fromkeys(ref.distribution for ref in candidates if ref.distribution and not ref.builtin)
    )
    raise PluginConflict(
        f"the {kind} {key!r} is offered by {' and '.join(names)} ({modules})",
        plugin=candidates[0].id,
        fix=f'Choose one: [plugins] prefer."{group_of_kind(kind)}.{key}" = "{names[0]}"'
        + (f"; or uninstall {superfluous}" if superfluous else ""),
    )


def _is_named(ref: PluginRef, wanted: str) -> bool:
    return normalise(ref.distribution) == normalise(wanted) or wanted in (ref.id, ref.name)


def not_found(
    kind: str, key: str, known: Sequence[str], excluded: Sequence[tuple[PluginRef, str]] = ()
) -> PluginNotFound:
    """The E-NO-PROVIDER of ``key``: what is installed, what is near, and how to get it."""
    near = get_close_matches(key, known, 1)
    closest = near[0] if near else None
    if excluded:
        ref, reason = excluded[0]
        return PluginNotFound(
            f"the {kind} {key!r} is provided by {ref.label}, which must not be loaded: {reason}",
            kind=kind,
            name=key,
            known=known,
            closest=closest,
            fix=f'Change that, or list "{ref.distribution}" in [plugins] allow',
        )
    hint = package_hint(kind, key)
    if hint is not None:
        fix = f"pip install {hint}"
    elif closest is not None:
        fix = f"Did you mean {closest!r}?"
    else:
        other = _hints().get(f"{kind}_meant", {}).get(key)  # as browsers and others call it
        meant = [other] if other else get_close_matches(key, _hints().get(kind, {}), 1)
        fix = "Install a plugin that provides it, or correct the name"
        if meant:
            fix = f"Did you mean {meant[0]!r}?"
            if meant[0] not in known:
                fix += f" pip install {package_hint(kind, meant[0])}"
    return PluginNotFound(
        f"no plugin provides the {kind} {key!r}; installed: {', '.join(known) or 'none'}",
        kind=kind,
        name=key,
        known=known,
        closest=closest,
        fix=fix,
    )


def no_discovery() -> PluginNotFound:
    """The E-NO-PROVIDER of a program that discovers or advertises without any backend: which ones we publish."""
    hints = " or ".join(f"pip install {name}" for name in dict.fromkeys(_hints().get("discovery", {}).values()))
    return PluginNotFound(
        "no discovery backend is installed",
        kind="discovery",
        name="",
        known=(),
        closest=None,
        fix=f"{hints}; or give URLs instead of a service's name" if hints else "Give URLs instead of a service's name",
    )


def package_hint(kind: str, key: str) -> str | None:
    """The distribution of ours that provides ``key``, None when we publish none. From package_hints.json,
    never a guess.
    """
    return _hints().get(kind, {}).get(key)


@cache
def _hints() -> dict[str, dict[str, str]]:
    data = files(__package__).joinpath("package_hints.json").read_bytes()
    return msgspec.json.decode(data, type=dict[str, dict[str, str]])
