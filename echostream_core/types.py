"""Ids, aliases and addresses that every floor shares."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NewType
from urllib.parse import unquote, urlsplit

from echostream_core.errors import ConfigError

__all__ = ["Buffer", "CallId", "Priority", "Url", "not_before", "priority_of"]

Buffer = bytes | bytearray | memoryview
"""Contiguous bytes. Who may keep them is said where they are handed over."""

CallId = NewType("CallId", int)
"""Number of a call or stream within one session: u32, even for the dialer, odd for the listener."""


class Priority(IntEnum):
    """The class of a substream; lower goes first. Urgent, normal and bulk share a pipe 16:4:1."""

    CONTROL = 0
    """The session's own control substream: never waits behind the others."""
    URGENT = 1
    NORMAL = 2
    BULK = 3


def not_before(number: int, other: int) -> bool:
    """Whether call ``number`` is ``other`` or came after it; numbers start again at 0 (serial arithmetic, RFC 1982)."""
    return (number - other) & 0xFFFF_FFFF < 0x8000_0000


def priority_of(level: int) -> Priority:
    """The class that a peer's byte stands for: anything but urgent, normal and bulk is read as normal."""
    return Priority(level) if 0 < level < 4 else Priority.NORMAL


@dataclass(frozen=True, slots=True)
class Url:
    """An address as users write it: ``scheme://host:port/path``.

    ``host`` is without brackets, "" when absent; ``port`` None when absent; ``path`` is decoded and keeps its slash.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    path: str = ""

    @classmethod
    def parse(cls, text: str, *, key: str = "") -> Url:
        """Read a URL; ConfigError (naming ``key``) says what is wrong with it."""
        if "://" not in text:
            raise ConfigError(f"{text!r} is not a URL: write scheme://host:port", key=key)
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{text!r} is not a valid URL: {error}", key=key) from error
        if not parts.scheme:
            raise ConfigError(f"{text!r} has no scheme: write scheme://host:port", key=key)
        if parts.username is not None or parts.password is not None:
            raise ConfigError("a URL must not carry a user name or password: pass credentials={...} instead", key=key)
        if parts.query or parts.fragment:
            raise ConfigError(f"{text!r}: options belong in the configuration, not behind ? or #", key=key)
        return cls(parts.scheme.lower(), parts.hostname or "", port, unquote(parts.path))

    def __str__(self) -> str:
        """The URL as text, IPv6 hosts in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"
