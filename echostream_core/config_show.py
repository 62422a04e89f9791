"""The configuration as a listing, each value with its source, and no secret in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from echostream_core.config_layers import Path, dotted

if TYPE_CHECKING:
    from echostream_core.config import Config

__all__ = ["show"]

HIDDEN: Final = "***"

_SECRET: Final = re.compile(
    r"token|password|passwd|passphrase|secret|credential|api_?key|authorization|^headers$", re.IGNORECASE
)
_USER_INFO: Final = re.compile(r"(://[^/@\s]*:)[^/@\s]+(?=@)")
_PEM: Final = "-----BEGIN"


def show(config: Config) -> list[tuple[str, object, str]]:
    """Key, value and source of every setting, defaults included, sorted as the sections are.

    Hidden are values under a key that names a secret (token, password, secret, credentials, …), passwords
    within URLs, and keys in PEM form; the path of a private key is no secret.
    """
    rows: list[tuple[str, object, str]] = []
    for path, value in _values(config):
        rows.append((dotted(path), _redacted(path, value), config.source(path)))
    return rows


def _values(config: Config) -> Iterator[tuple[Path, object]]:
    yield from _leaves(("plugins",), msgspec.structs.asdict(config.plugins))
    for title, endpoints in (("server", config.servers), ("client", config.clients)):
        for name, endpoint in endpoints.items():
            values = msgspec.structs.asdict(endpoint)
            del values["name"]
            yield from _leaves((title, name), values)
    for kind in ("transport", "codec", "discovery", "middleware"):
        yield from _leaves((kind,), getattr(config, kind))
    for kind, sections in config.components.items():
        yield from _leaves((kind,), sections)


def _leaves(path: Path, value: object) -> Iterator[tuple[Path, object]]:
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping) and not (value and _is_secret(path)):
        for key, inner in value.items():
            yield from _leaves((*path, key), inner)
    elif value is not None:
        yield path, list(value) if isinstance(value, tuple) else value


def _is_secret(path: Path) -> bool:
    """Whether a key within a section names a secret; titles (``[server.token_shop]``) do not count."""
    return any(_SECRET.search(key) for key in path[2:])


def _redacted(path: Path, value: object) -> object:
    if isinstance(value, bool):  # insecure_credentials = true is a setting, not a secret
        return value
    if _is_secret(path):
        return HIDDEN
    if isinstance(value, str):
        return HIDDEN if _PEM in value else _USER_INFO.sub(rf"\g<1>{HIDDEN}", value)
    if isinstance(value, list):
        return [_redacted(path, item) for item in value]
    if isinstance(value, Mapping):
        return {key: _redacted((*path, str(key)), item) for key, item in value.items()}
    return value
