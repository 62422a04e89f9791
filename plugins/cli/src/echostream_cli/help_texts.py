"""The texts of ``--help``: made of a command's docstring and its examples, for a terminal and for a pipe.

A docstring is broken where its lines are full, help where the terminal ends: so paragraphs are joined here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TypedDict

__all__ = ["Texts", "block", "texts"]


class Texts(TypedDict):
    """The arguments of ``typer.Typer.command``."""

    help: str
    short_help: str
    epilog: str | None


def texts(
    function: Callable[..., object],
    examples: Sequence[str] = (),
    *,
    drawn: bool,
    further: tuple[str, Sequence[str]] | None = None,
) -> Texts:
    """Help, its first sentence for lists, and the examples behind it; ``drawn``: for a terminal.

    ``further`` is a title with lines that follow the examples.
    """
    paragraphs = [" ".join(part.split()) for part in (inspect.getdoc(function) or "").split("\n\n")]
    blocks = [block("Example:" if len(examples) == 1 else "Examples:", examples, drawn=drawn)] if examples else []
    if further:
        blocks.append(block(*further, drawn=drawn))
    return {
        "help": "\n\n".join(paragraphs),
        "short_help": paragraphs[0].split(". ")[0].rstrip(".") + ".",
        "epilog": "\n\n".join(blocks) or None,
    }


def block(title: str, lines: Sequence[str], *, drawn: bool) -> str:
    """A title with lines below it, which are printed as they are."""
    if drawn:
        # Within a tag the painter keeps the indentation; a bracket of ours must not look like one.
        shown = [f"[cyan]  {line.replace('[', chr(92) + '[')}[/cyan]" for line in lines]
        return "\n".join([title, *shown])
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])  # without \b it would be refilled
