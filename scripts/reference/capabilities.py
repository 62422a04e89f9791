"""``docs/capabilities.md``: what each transport and codec can do, from the records that the kernel reads."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

from echostream_core import Capabilities, Kernel
from echostream_core.kernel import BUILTINS
from scripts.reference.markers import attribute_docs, table

__all__ = ["codec_rows", "contents", "declared", "meaning_rows", "note_rows", "problems", "transport_rows"]

_ROOT = Path(__file__).resolve().parents[2]
_INDEX = {"transport": "transports", "codec": "codecs"}
FLAGS = tuple(field.name for field in fields(Capabilities))


def declared(kind: str) -> dict[str, str]:
    """Key → distribution of every transport or codec of this repository: the kernel's own, then the plugins'."""
    found = {name: ref.distribution for ref in BUILTINS for what, name in ref.promises if what == kind}
    for file in sorted(_ROOT.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        for key in project.get("entry-points", {}).get(f"echostream.v1.{_INDEX[kind]}", {}):
            found[key] = project["name"]
    return found


def installed(kernel: Kernel, kind: str) -> dict[str, str]:
    """Those of ``declared`` that are installed."""
    return {key: name for key, name in declared(kind).items() if key in kernel.known(kind)}


def transport_rows(kernel: Kernel) -> list[list[str]]:
    """A row per transport: scheme, distribution, and its upper bound of every capability."""
    rows = []
    for scheme, distribution in installed(kernel, "transport").items():
        record = kernel.transport(scheme).capabilities.as_dict()
        rows.append([f"`{scheme}`", distribution, *(_shown(record[flag]) for flag in FLAGS)])
    return rows


def note_rows(kernel: Kernel) -> list[list[str]]:
    """A row per known gap: scheme, capability, what it has of it, and the plugin's own reason."""
    rows = []
    for scheme in installed(kernel, "transport"):
        spec = kernel.transport(scheme)
        record = spec.capabilities.as_dict()
        for flag, reason in spec.notes.items():
            has = _shown(record[flag]) if flag in record else "–"
            rows.append([f"`{scheme}`", f"`{flag}`", has, reason.replace("|", "\\|")])
    return rows


def codec_rows(kernel: Kernel) -> list[list[str]]:
    """A row per codec: name, distribution, priority, whether it has bytes of its own."""
    specs = [(kernel.codec(name), owner) for name, owner in installed(kernel, "codec").items()]
    specs.sort(key=lambda pair: (-pair[0].priority, pair[0].name))
    return [
        [f"`{spec.name}`", owner, str(spec.priority), _shown(spec.carries_bytes), spec.summary.replace("|", "\\|")]
        for spec, owner in specs
    ]


def meaning_rows() -> list[list[str]]:
    """A row per capability: name, levels, meaning."""
    docs = attribute_docs(Capabilities)
    rows = []
    for field in fields(Capabilities):
        kind = str(field.type)
        levels = (
            "no, yes" if kind == "bool" else kind.removeprefix("Literal[").rstrip("]").replace("'", "").replace('"', "")
        )
        rows.append([f"`{field.name}`", levels, docs[field.name]])
    return rows


def contents(kernel: Kernel) -> dict[str, str]:
    """The generated parts of the page; ValueError when something of this repository is not installed."""
    for kind in _INDEX:
        missing = sorted(set(declared(kind)) - set(installed(kernel, kind)))
        if missing:
            raise ValueError(f"the {kind}s {', '.join(missing)} are not installed: run make venv first")
    return {
        "transports": table(["transport", "distribution", *(f"`{flag}`" for flag in FLAGS)], transport_rows(kernel)),
        "notes": table(["transport", "capability", "level", "why"], note_rows(kernel)),
        "codecs": table(["codec", "distribution", "priority", "bytes", ""], codec_rows(kernel)),
        "meanings": _meanings(),
    }


def problems(kernel: Kernel, parts: dict[str, str]) -> list[str]:
    """Where the page, given by its generated parts, differs from the code; what is not installed is not compared."""
    found = []
    here = {kind: {f"`{key}`" for key in installed(kernel, kind)} for kind in _INDEX}
    known = {kind: {f"`{key}`" for key in declared(kind)} for kind in _INDEX}
    for part, kind, rows in (
        ("transports", "transport", transport_rows(kernel)),
        ("notes", "transport", note_rows(kernel)),
        ("codecs", "codec", codec_rows(kernel)),
    ):
        shown = [line.strip("| ").split(" | ") for line in parts[part].splitlines()[2:]]
        found += [f"{part}: there is no {kind} {row[0]}" for row in shown if row[0] not in known[kind]]
        compared = [row for row in shown if row[0] in here[kind]]
        found += [f"{part}: this row is not on the page: {' | '.join(row)}" for row in rows if row not in compared]
        found += [f"{part}: this row is not in the code: {' | '.join(row)}" for row in compared if row not in rows]
        if part != "notes":
            listed = {row[0] for row in shown}
            found += [f"{part}: {key} has no row" for key in sorted(known[kind] - listed)]
    if parts["meanings"] != _meanings():
        found.append("meanings: the table is not that of Capabilities")
    return found


def _meanings() -> str:
    return table(["capability", "levels", "meaning"], meaning_rows())


def _shown(value: bool | str) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"
