"""The codec contract: values into bytes and back.

All codecs share one value model, so that a program does not notice which one is configured: null, bool, integers of 64
bits (-2**63 … 2**64-1), float64, text, bytes, list, and map with text keys. What a codec cannot carry it declares.
Richer types (dataclasses, datetimes, enums) are turned into this model by the kernel before, and converted back from
the handler's annotations after.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from echostream_core.transport import NoOptions
from echostream_core.types import Buffer

__all__ = ["Codec", "CodecSpec"]


class Codec(ABC):
    """Turns values into bytes and back. One instance per endpoint, used by one thread; keeps no state between calls."""

    name: str
    """The name it goes by in configuration and in SETUP."""

    @abstractmethod
    def encode(self, value: object) -> bytes:
        """The bytes of ``value``. EncodeError (with a path where known) for what the value model or limits exclude."""

    @abstractmethod
    def decode(self, data: Buffer) -> object:
        """The value in ``data``, which is exactly one value; nothing in the result refers to ``data``.

        DecodeError for anything malformed, trailing, or over the limits. The bytes come from a stranger: no input may
        raise anything else, crash, or need memory out of proportion.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """What the hook ``echostream_codecs`` hands over: one per codec name."""

    name: str
    factory: Callable[[Any], Codec]
    """Makes a codec from its validated options (an instance of ``options``)."""
    priority: int = 0
    """With no codec configured the installed ones are offered from the highest priority down; ``json`` has 0."""
    options: type[msgspec.Struct] = NoOptions
    """The schema of ``[codec.NAME]``."""
    carries_bytes: bool = True
    """False: bytes arrive as base64 text where the receiver does not say that it wants bytes."""
    summary: str = ""
