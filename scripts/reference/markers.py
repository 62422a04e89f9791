"""Text between markers, and tables whose rows the code decides while some of their cells stay hand-written.

::

    <!-- generated: NAME -->

    …

    <!-- end of NAME -->
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = [
    "DOCS",
    "UNWRITTEN",
    "attribute_docs",
    "blocks",
    "filled",
    "first_sentence",
    "merged_table",
    "prose",
    "table",
]

DOCS = Path(__file__).resolve().parents[2] / "docs"
UNWRITTEN = "(to be written)"
"""Stands in a cell that somebody has to write; a test refuses a page with it."""

_BLOCK = re.compile(r"<!-- generated: (?P<name>[^>]+?) -->\n(?P<text>.*?)<!-- end of (?P=name) -->", re.DOTALL)


def blocks(text: str) -> dict[str, str]:
    """Name → content of every generated part of a page."""
    found: dict[str, str] = {}
    for match in _BLOCK.finditer(text):
        if match["name"] in found:
            raise ValueError(f"the part {match['name']!r} stands twice on its page")
        found[match["name"]] = match["text"].strip("\n")
    marked = set(re.findall(r"<!-- generated: ([^>]+?) -->", text))
    if marked != set(found):
        raise ValueError(f"parts without an end: {', '.join(sorted(marked - set(found)))}")
    return found


def filled(text: str, contents: Mapping[str, str]) -> str:
    """The page with these generated parts; ValueError when the page and ``contents`` do not have the same parts."""
    have = set(blocks(text))
    if have != set(contents):
        lacking, left = sorted(set(contents) - have), sorted(have - set(contents))
        raise ValueError(f"the page lacks the markers of: {lacking}; it has markers of what does not exist: {left}")

    def put(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- generated: {name} -->\n\n{contents[name]}\n\n<!-- end of {name} -->"

    return _BLOCK.sub(put, text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        assert len(row) == len(head), row
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def merged_table(head: Sequence[str], rows: Sequence[Sequence[str]], old: str) -> str:
    """A table of which the code knows the first cells of each row; the others are taken from ``old``.

    The rows of ``old`` with the same first cells give them, however they are ordered; who is new gets ``UNWRITTEN``.
    """
    known = len(rows[0])
    written: dict[tuple[str, ...], list[str]] = {}
    for line in old.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if line.startswith("|") and len(cells) == len(head):
            written[tuple(cells[:known])] = cells[known:]
    missing = [UNWRITTEN] * (len(head) - known)
    return table(head, [[*row, *written.get(tuple(row), missing)] for row in rows])


def attribute_docs(cls: type) -> dict[str, str]:
    """The texts below the attributes of a class, in their order; "" where there is none. Read from its source."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            found[name] = ""
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found[name] = ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = prose(str(node.value.value))
            name = ""
        else:
            name = ""
    return found


def prose(text: str) -> str:
    """A docstring's text in one line, as Markdown."""
    text = " ".join(text.split())
    text = re.sub(r":(?:class|data|func|meth|mod):`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``(.+?)``", r"`\1`", text)


def first_sentence(text: str | None) -> str:
    """The summary of a docstring as Markdown, up to its first full stop, with ``|`` made harmless."""
    summary = prose((text or "").strip().split("\n\n")[0])
    match = re.match(r".*?\.(?= |$)", summary)
    return (match[0] if match else summary).replace("|", "\\|")
