"""``python -m scripts.reference [--check]``: write the reference pages, or only say which lag behind.

``--matrix FILE`` puts the table of an interop matrix (``make interop`` leaves it in build/interop/matrix.md) into
docs/interop.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from echostream_core import Kernel
from scripts.reference import capabilities, errors, hooks
from scripts.reference.markers import DOCS, blocks, filled

__all__ = ["main", "pages"]


def pages() -> dict[str, str]:
    """File name → what the page should be; ValueError says what keeps a page from being made."""
    found: dict[str, str] = {}
    for name, make in (
        ("capabilities.md", lambda text, old: capabilities.contents(Kernel())),
        ("hooks.md", hooks.contents),
        ("errors.md", errors.contents),
    ):
        text = (DOCS / name).read_text(encoding="utf-8")
        try:
            found[name] = filled(text, make(text, blocks(text)))
        except ValueError as error:
            raise ValueError(f"docs/{name}: {error}") from error
    return found


def main(arguments: list[str]) -> int:
    """Write what has changed; the exit status."""
    check = arguments == ["--check"]
    if arguments[:1] == ["--matrix"] and len(arguments) == 2:
        page = DOCS / "interop.md"
        table = Path(arguments[1]).read_text(encoding="utf-8").strip()
        page.write_text(filled(page.read_text(encoding="utf-8"), {"matrix": table}), encoding="utf-8")
        return 0
    if arguments and not check:
        print("usage: python -m scripts.reference [--check | --matrix FILE]", file=sys.stderr)
        return 2
    try:
        wanted = pages()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    stale = [name for name, text in wanted.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    for name in stale:
        if not check:
            (DOCS / name).write_text(wanted[name], encoding="utf-8")
        print(f"docs/{name}: {'lags behind the code: make docs' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
