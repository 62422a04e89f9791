"""The checks of a suite as Markdown: what ``python -m echostream_testkit checks`` prints and the docs show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from echostream_core.capabilities import Capabilities
from echostream_testkit.checks import checks_of, needs_of

__all__ = ["markdown"]


def markdown(cls: type) -> str:
    """All checks of ``cls``: those of each capability under its name, then those that every plugin has to pass."""
    general: list[str] = []
    by_flag: dict[str, list[str]] = {field.name: [] for field in fields(Capabilities)}
    for name, function in checks_of(cls).items():
        needs = needs_of(function)
        proved = [need for need in needs if need.flag]
        when = ", ".join(_condition(need.name, need.claimed) for need in proved)
        without = ", ".join(f"`{need.name}`" for need in needs if not need.flag)
        said = (function.__doc__ or "").partition("\n")[0].strip().replace("``", "`").replace("|", "\\|")
        if proved:
            flag = min((need.key for need in proved), key=lambda key: name.find(key) if key in name else len(name))
            by_flag[flag].append(f"| `{name}` | {when} | {without} | {said} |")
        else:
            general.append(f"| `{name}` | {without} | {said} |")
    return "\n".join(_page(by_flag, general))


def _page(by_flag: dict[str, list[str]], general: list[str]) -> Iterator[str]:
    for flag, rows in by_flag.items():
        yield f"### `{flag}`"
        yield ""
        yield "| check | runs when | needs | proves |"
        yield "|---|---|---|---|"
        yield from rows
        yield ""
    yield "### Every transport"
    yield ""
    yield "| check | needs | proves |"
    yield "|---|---|---|"
    yield from general


def _condition(name: str, claimed: bool | None) -> str:
    return "always" if claimed is None else f"`{name}` claimed" if claimed else f"`{name}` not claimed"
