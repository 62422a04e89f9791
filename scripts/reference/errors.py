"""``docs/errors.md``: the tree, every class with its facts, every code; causes and remedies are hand-written."""

from __future__ import annotations

import inspect
from enum import IntEnum

from echostream_core import errors
from echostream_core.commands import ExitStatus
from echostream_core.errors import (
    CloseCode,
    CodecError,
    ConfigError,
    EchoStreamError,
    PluginError,
    ProtocolError,
    RpcError,
    StatusCode,
    TransportError,
)
from scripts.reference.markers import first_sentence, merged_table, table

__all__ = ["classes", "contents", "facts_of", "tree"]


def classes(root: type[EchoStreamError] = EchoStreamError) -> list[type[EchoStreamError]]:
    """``root`` and everything below it, depth first, each class once: below its first base."""
    found = [root]
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__ and child.__bases__[0] is root:
            found += classes(child)
    return found


def tree(root: type[EchoStreamError] = EchoStreamError) -> str:
    """The tree, drawn; the codes of plugins' errors and further bases stand beside it."""
    lines: list[tuple[str, str]] = []

    def draw(cls: type[EchoStreamError], lead: str, branch: str) -> None:
        notes = [f"also a {base.__name__}" for base in cls.__bases__[1:]]
        if issubclass(cls, PluginError) and cls is not PluginError:
            notes.insert(0, cls.code)
        lines.append((f"{lead}{branch}{cls.__name__}", ", ".join(notes)))
        below = [child for child in classes(cls)[1:] if child.__bases__[0] is cls]
        inner = lead + ("" if not branch else "    " if branch.startswith("└") else "│   ")
        for child in below:
            draw(child, inner, "└── " if child is below[-1] else "├── ")

    draw(root, "", "")
    width = max(len(name) for name, note in lines if note) + 2
    return "\n".join(f"{name:<{width}}{note}".rstrip() for name, note in lines)


def facts_of(cls: type[EchoStreamError]) -> list[str]:
    """The attributes that errors of this class have beyond those of its bases, as their constructors take them."""
    inherited = set(dir(Exception)) | {"message"} - ({"message"} if cls is RpcError else set())
    for base in cls.__mro__[1:]:
        if issubclass(base, EchoStreamError) and "__init__" in vars(base):
            inherited |= set(inspect.signature(base).parameters) | _class_facts(base)
    own = _class_facts(cls)
    if "__init__" in vars(cls):
        own |= {name for name in inspect.signature(cls).parameters if name != "message" or cls is RpcError}
    order = [*(inspect.signature(cls).parameters if "__init__" in vars(cls) else ()), *sorted(_class_facts(cls))]
    return [name for name in dict.fromkeys(order) if name in own - inherited]


def _class_facts(cls: type[EchoStreamError]) -> set[str]:
    return {name for name in getattr(cls, "__annotations__", {}) if not name.startswith("_")} | (
        {"code", "problem"} if cls is PluginError else set()
    )


def _overview() -> str:
    rows = []
    for cls in classes():
        facts = ", ".join(f"`{name}`" for name in facts_of(cls)) or "–"
        bases = ", ".join(f"`{base.__name__}`" for base in cls.__bases__)
        rows.append([f"`{cls.__name__}`", bases, facts, first_sentence(cls.__doc__)])
    return table(["class", "is a", "own attributes", ""], rows)


def _numbers(codes: type[IntEnum]) -> list[list[str]]:
    return [[str(code.value), code.name] for code in codes]


def contents(page: str, old: dict[str, str]) -> dict[str, str]:
    """The generated parts of the page; hand-written cells are taken from ``old``."""

    def causes(name: str, *roots: type[EchoStreamError]) -> str:
        listed = [cls for root in roots for cls in (classes(root) if root is not EchoStreamError else [root])]
        rows = [[f"`{cls.__name__}`"] for cls in listed]
        return merged_table(["error", "cause", "what to do"], rows, old.get(name, ""))

    plugin_rows = [[cls.code, f"`{cls.__name__}`"] for cls in classes(PluginError) if issubclass(cls, PluginError)]
    return {
        "tree": f"```text\n{tree()}\n```",
        "classes": _overview(),
        "calls": causes("calls", RpcError),
        "status codes": merged_table(
            ["code", "name", "meaning", "EchoStream uses it for"], _numbers(StatusCode), old.get("status codes", "")
        ),
        "connections": causes("connections", TransportError),
        "protocol": causes("protocol", ProtocolError),
        "close codes": merged_table(
            ["code", "name", "meaning", "what to do"], _numbers(CloseCode), old.get("close codes", "")
        ),
        "values": causes("values", CodecError),
        "configuration": causes("configuration", EchoStreamError, ConfigError),
        "plugins": merged_table(["code", "error", "cause", "fix"], plugin_rows, old.get("plugins", "")),
        "exit statuses": merged_table(
            ["status", "name", "meaning"], _numbers(ExitStatus), old.get("exit statuses", "")
        ),
    }
