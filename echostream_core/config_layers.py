"""Where settings come from: files, the environment and the command line, laid over each other; each value
keeps its source.

A layer replaces values, tables are merged. A list is one value: a later layer replaces the whole of it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["ENVIRONMENT_PREFIX", "Layers", "Path", "dotted", "read_value"]

ENVIRONMENT_PREFIX: Final = "ECHOSTREAM__"

Path = tuple[str, ...]
"""The keys from the outermost table down to one value."""


def dotted(path: Iterable[str]) -> str:
    """``path`` as it is written in TOML: keys that are no bare keys in quotes."""
    return ".".join(
        key if key and key.replace("_", "").replace("-", "").isalnum() and key.isascii() else f'"{key}"' for key in path
    )


def read_value(text: str) -> object:
    """The value of an environment variable or command-line setting: read as TOML, else the text itself."""
    if "\n" in text or "\r" in text:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


@dataclass(slots=True)
class Layers:
    """The settings read so far: one tree, and the source of each of its values."""

    tree: dict[str, object] = field(default_factory=dict)
    sources: dict[Path, str] = field(default_factory=dict)
    """Path of each value (anything but a table, or an empty table) → where it was set last."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, each sentence naming its source."""

    def add_file(self, name: str | os.PathLike[str]) -> None:
        """Lay a TOML file over the tree."""
        name = os.fspath(name)
        try:
            with open(name, "rb") as file:
                layer = tomllib.loads(file.read().decode("utf-8-sig"))  # some editors begin a file with a mark
        except OSError as error:
            self.problems.append(f"{name}: cannot be read: {error.strerror or error}")
        except UnicodeDecodeError as error:
            self.problems.append(f"{name}: is not valid TOML: not UTF-8 (at byte {error.start}); save it as UTF-8")
        except tomllib.TOMLDecodeError as error:
            self.problems.append(f"{name}: is not valid TOML: {error}")
        else:
            self.add(layer, name)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Lay the variables ``ECHOSTREAM__SECTION__…__KEY`` over the tree; names are lower-cased."""
        for variable in sorted(environ):
            if not variable.startswith(ENVIRONMENT_PREFIX):
                continue
            path = tuple(variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
            if not all(path):
                self.problems.append(
                    f"environment variable {variable}: write {ENVIRONMENT_PREFIX}SECTION__KEY, "
                    "two underscores between the parts"
                )
                continue
            self._add_one(path, read_value(environ[variable]), f"environment variable {variable}")

    def add_overrides(self, overrides: Mapping[str, object] | Iterable[str]) -> None:
        """Lay settings of the command line (``key=value``, read as TOML, else text) or of a program over the tree."""
        if isinstance(overrides, Mapping):
            pairs: list[tuple[str, object]] = list(overrides.items())
        else:
            pairs = []
            for override in overrides:
                key, equals, text = override.partition("=")
                if equals:
                    pairs.append((key.strip(), read_value(text)))
                else:
                    self.problems.append(f"command line: write KEY=VALUE, not {key[:80]!r}")
        for key, value in pairs:
            path = _split_key(key)
            if path is None:
                self.problems.append(f"command line: {key[:80]!r} is no key: write SECTION.KEY")
            else:
                self._add_one(path, value, "command line")

    def add(self, layer: Mapping[str, object], source: str) -> None:
        """Lay a tree of tables and values over this one."""
        self._merge(self.tree, layer, (), source)

    def _add_one(self, path: Path, value: object, source: str) -> None:
        layer = value
        for key in reversed(path):
            layer = {key: layer}
        assert isinstance(layer, dict)
        self.add(layer, source)

    def _merge(self, into: dict[str, object], layer: Mapping[str, object], path: Path, source: str) -> None:
        for key, value in layer.items():
            here = (*path, key)
            old = into.get(key)
            if isinstance(value, Mapping) and (value or not isinstance(old, dict)):
                if not isinstance(old, dict):
                    self._forget(here)
                    old = into[key] = {}
                if not value:
                    self.sources[here] = source
                else:
                    self.sources.pop(here, None)
                self._merge(old, value, here, source)
            elif not isinstance(value, Mapping):
                self._forget(here)
                into[key] = list(value) if isinstance(value, tuple) else value
                self.sources[here] = source

    def _forget(self, path: Path) -> None:
        for known in [known for known in self.sources if known[: len(path)] == path]:
            del self.sources[known]


def _split_key(key: str) -> Path | None:
    """``plugins.prefer."transports.memory"`` → its parts, by TOML's own rules; None when it is no key."""
    if "\n" in key or "\r" in key or "=" in key:
        return None
    try:
        table: object = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return None
    path: list[str] = []
    while isinstance(table, dict):
        ((part, table),) = table.items()
        path.append(part)
    return tuple(path)
