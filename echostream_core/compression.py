"""The contract of compression per message: the bytes that a codec has made into fewer, and back.

A compression is opt-in. An endpoint lists those that it may use, its SETUP tells the peer, and only what both list is
used. Source: docs/wire.md section 13; decision 0014.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from echostream_core.components import ComponentSpec
from echostream_core.errors import DecodeError
from echostream_core.types import Buffer

__all__ = ["CREDENTIAL_KEYS", "Compression", "CompressionSpec", "DecompressedTooLarge", "carries_credentials"]

CREDENTIAL_KEYS: Final = frozenset(
    {
        "access-token",
        "api-key",
        "auth-token",
        "authentication",
        "authorization",
        "cookie",
        "csrf-token",
        "id-token",
        "password",
        "proxy-authorization",
        "refresh-token",
        "secret",
        "session-id",
        "set-cookie",
        "token",
        "x-access-token",
        "x-api-key",
        "x-auth-token",
        "x-csrf-token",
        "x-xsrf-token",
    }
)
"""Keys of metadata that carry credentials, each with or without ``-bin``. A call or stream that has one is not
compressed, in neither direction: the length of what is compressed tells about its content (CRIME, BREACH)."""


def carries_credentials(metadata: Iterable[tuple[str, object]] | None) -> bool:
    """True when a call with this metadata must not be compressed."""
    if not metadata:
        return False
    return any(key.removesuffix("-bin") in CREDENTIAL_KEYS for key, _ in metadata)


class DecompressedTooLarge(DecodeError):
    """What ``Compression.decompress`` raises for a payload that would take more than ``max_bytes``."""


class Compression(ABC):
    """Makes payloads smaller. One instance per endpoint, used by one thread; no message depends on an earlier one."""

    name: str
    """The name it goes by in configuration and in SETUP."""
    min_bytes: int
    """Bodies that are smaller are not given to ``compress``."""

    @abstractmethod
    def compress(self, data: Buffer) -> bytes | None:
        """``data`` in fewer bytes, or None when that is not worth it. Raises nothing; keeps nothing of ``data``."""

    @abstractmethod
    def decompress(self, data: Buffer, max_bytes: int) -> bytes:
        """What was compressed: ``data`` is exactly one result of ``compress``.

        DecompressedTooLarge for more than ``max_bytes`` of content, DecodeError for anything damaged, cut off or
        trailing. The bytes come from a stranger: no input may raise anything else, crash, or need memory out of
        proportion to ``max_bytes``.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionSpec(ComponentSpec):
    """What a plugin hands over by ``echostream_components``, one per name; index group ``echostream.v1.compression``.

    ``options`` is the schema of ``[compression.NAME]``; the factory makes a compression from an instance of it.
    """

    kind: str = "compression"
    factory: Callable[[Any], Compression]
