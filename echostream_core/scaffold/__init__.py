"""New plugins: a complete package from templates, ready to be installed, certified and changed.

The templates are the files below ``templates/``, as they will stand in the package but for markers such as
``@package@`` in texts and paths, and the ending ``.tmpl``. ``common/`` goes into every package, the folder named like
the kind goes on top. A path that begins with ``dot-`` begins with a dot afterwards.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import msgspec

from echostream_core import __version__
from echostream_core.scaffold.names import GROUPS, Names, check_author, check_kind, check_name, distribution_of

__all__ = [
    "GROUPS",
    "Names",
    "NewPlugin",
    "check_author",
    "check_kind",
    "check_name",
    "describe",
    "distribution_of",
    "render",
    "write",
]

_MARKER: Final = re.compile(r"@([a-z]+)@")
_ENDING: Final = ".tmpl"


class NewPlugin(msgspec.Struct, frozen=True, kw_only=True):
    """What was made, as plain data."""

    kind: str
    name: str
    distribution: str
    package: str
    folder: str
    files: tuple[str, ...]
    """Paths below ``folder``, sorted."""
    next: tuple[str, ...]
    """Commands that install, check and certify it."""

    def as_dict(self) -> dict[str, object]:
        """The record as plain data, for ``--json``."""
        return msgspec.structs.asdict(self)


def render(names: Names, author: str) -> dict[str, str]:
    """Path below the package's folder → text of the file, for every file, sorted."""
    values = {
        "author": author,
        "class": names.class_name,
        "distribution": names.distribution,
        "group": names.group,
        "kind": names.kind,
        "name": names.name,
        "package": names.package,
        "range": _range(__version__),
        "summary": names.summary,
    }

    def filled(text: str) -> str:
        return _MARKER.sub(lambda match: values[match[1]], text)

    found = {}
    for folder in ("common", names.kind):
        for path, template in _walk(files(__package__).joinpath("templates", folder)):
            name = re.sub(r"(^|/)dot-", r"\1.", filled(path.removesuffix(_ENDING)))
            found[name] = filled(template.read_text(encoding="utf-8"))
    return dict(sorted(found.items()))


def write(texts: dict[str, str], folder: Path) -> None:
    """Write the files of :func:`render` below ``folder``. OSError where that cannot be done."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


def describe(names: Names, folder: Path, texts: dict[str, str]) -> NewPlugin:
    """The record of a package that was written to ``folder``."""
    shown = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder.as_posix()}")
    return NewPlugin(
        kind=names.kind,
        name=names.name,
        distribution=names.distribution,
        package=names.package,
        folder=str(folder),
        files=tuple(texts),
        next=(
            f"pip install -e {shown}",
            "python -m echostream_core plugins check",
            f"python -m pytest {shown}",
        ),
    )


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    """Path and template of every template below ``folder``."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_ENDING):
            yield prefix + entry.name, entry


def _range(version: str) -> str:
    """The versions of the kernel that a plugin made with ``version`` fits: ``0.1.3`` → ``>=0.1,<0.2``."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return f">={major}.{minor},<{major}.{minor + 1}"
