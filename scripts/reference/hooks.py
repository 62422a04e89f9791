"""``docs/hooks.md``: every hook as pluggy knows it, its docstring taken apart, and the fields of what it hands over."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields

import msgspec
import pluggy

from echostream_core import plugin_reports
from echostream_core.codec import CodecSpec
from echostream_core.components import ComponentSpec
from echostream_core.discovery import DiscoverySpec
from echostream_core.hookspecs import HookSpecs
from echostream_core.kernel import Kernel
from echostream_core.middleware import MiddlewareSpec
from echostream_core.transport import TransportSpec
from scripts.reference.markers import first_sentence, merged_table, prose, table

__all__ = ["ARGUMENTS", "LABELS", "SPECS", "Hook", "contents", "live_hooks"]

SPECS: tuple[type, ...] = (TransportSpec, CodecSpec, DiscoverySpec, MiddlewareSpec, ComponentSpec)
"""What the offering hooks hand over."""
ARGUMENTS: dict[str, type] = {
    "ConfigDiff": plugin_reports.ConfigDiff,
    "StateEvent": plugin_reports.StateEvent,
    "Kernel": Kernel,
}
"""The types of hooks' arguments, by the name that stands in the annotation."""
LABELS = ("when", "return", "errors")
"""What the docstring of every hook says, beside its summary and since when there is one; many add the order."""

_LABEL = re.compile(r"\b(When|Order(?: between plugins)?|Return|Errors): ")
_SINCE = re.compile(r"\bSince (\d+\.\d+)\.")
_AS_FOR = re.compile(r"When, order, return and errors: as for `(\w+)`; index group `([^`]+)`\.")
_GROUP = re.compile(r"\(group `([^`]+)`\)")


@dataclass(slots=True)
class Hook:
    """One hook, as the page shows it."""

    name: str
    summary: str
    says: dict[str, str]
    """Label → text."""
    since: str
    arguments: dict[str, str] = field(default_factory=dict)
    """Name → the name of its type."""
    returns: str = ""
    historic: bool = False
    index_group: str = ""

    @property
    def signature(self) -> str:
        """As a plugin author writes it."""
        given = ", ".join(f"{name}: {kind}" for name, kind in self.arguments.items())
        return f"{self.name}({given}) -> {self.returns}"


def live_hooks() -> dict[str, Hook]:
    """Every hook that pluggy finds in ``HookSpecs``, in the order of the file."""
    manager = pluggy.PluginManager("echostream")
    manager.add_hookspecs(HookSpecs)
    found: dict[str, Hook] = {}
    for name in vars(HookSpecs):
        caller = getattr(manager.hook, name, None)
        if isinstance(caller, pluggy.HookCaller) and caller.spec is not None:
            found[name] = _read(name, caller.spec.function, historic=bool(caller.spec.opts["historic"]), known=found)
    return found


def _read(name: str, function: Callable[..., object], *, historic: bool, known: dict[str, Hook]) -> Hook:
    signature = inspect.signature(function)
    text = inspect.getdoc(function) or ""
    body = prose(text.partition("\n\n")[2])
    since = _SINCE.search(body)
    if since is None:
        raise ValueError(f"{name}: its docstring does not say since when there is one (Since 0.1.)")
    group = _GROUP.search(body)
    hook = Hook(
        name=name,
        summary=prose(text.partition("\n\n")[0]),
        says={},
        since=since[1],
        arguments={one: str(item.annotation) for one, item in signature.parameters.items() if one != "self"},
        returns=str(signature.return_annotation),
        historic=historic,
        index_group=group[1] if group else "",
    )
    same = _AS_FOR.search(body)
    if same:
        hook.says = dict(known[same[1]].says)
        said = hook.says["return"].replace(known[same[1]].index_group, same[2])
        hook.says["return"] = said.replace("A scheme that", "A key that")
        hook.index_group = same[2]
        return hook
    parts = _LABEL.split(_SINCE.sub("", body).strip())
    for label, said in zip(parts[1::2], parts[2::2], strict=True):
        hook.says[label.split()[0].lower()] = said.strip().removesuffix(".")
    missing = [label for label in LABELS if label not in hook.says]
    if missing:
        raise ValueError(f"{name}: its docstring does not say: {', '.join(missing)}")
    return hook


def _shown(hook: Hook) -> str:
    """The generated part of a hook's section."""
    no_arguments = "" if hook.arguments else " No arguments."
    group = f" Index group `{hook.index_group}`." if hook.index_group else ""
    historic = " (historic)" if hook.historic else ""
    parts = [f"{hook.summary}{no_arguments}{group} Since {hook.since}.", f"`{hook.signature}`{historic}"]
    parts.append(table(["", ""], [[label, said] for label, said in hook.says.items()]))
    if hook.arguments:
        rows = [[f"`{name}`", _argument(kind)] for name, kind in hook.arguments.items()]
        parts.append(table(["argument", "meaning"], rows))
    return "\n\n".join(parts)


def _argument(kind: str) -> str:
    """What an argument is, from its type: the summary, and the fields if it is a record."""
    cls = ARGUMENTS[kind]
    text = f"`{kind}`: {first_sentence(cls.__doc__)}"
    if issubclass(cls, msgspec.Struct):
        text += " Fields: " + ", ".join(f"`{name}`" for name in cls.__struct_fields__) + "."
    return text


def contents(page: str, old: dict[str, str]) -> dict[str, str]:
    """The generated parts of the page; hand-written cells are taken from ``old``."""
    found = {name: _shown(hook) for name, hook in live_hooks().items()}
    for spec in SPECS:
        rows = [[f"`{item.name}`"] for item in fields(spec)]
        found[spec.__name__] = merged_table([f"`{spec.__name__}`", "meaning"], rows, old.get(spec.__name__, ""))
    return found
