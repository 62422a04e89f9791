"""What both ends agree on: what a message is, and what a name may be."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Final

from echostream_core import RpcError, StatusCode

__all__ = ["HISTORY", "MAX_TEXT", "Said", "check_name", "clean"]

HISTORY: Final = 20
"""Messages that are shown on entering."""
MAX_NAME: Final = 20
MAX_TEXT: Final = 2_000
"""Characters."""


@dataclass(frozen=True)
class Said:
    """The payload of a message. The server writes it, so nobody speaks in another's name."""

    author: str
    text: str
    at: float
    """Seconds since 1970, by the server's clock."""


def clean(text: str) -> str:
    """``text`` without what would move a terminal's cursor, change its colours or turn its writing round."""
    return "".join(sign for sign in text if unicodedata.category(sign) != "Cc" and sign not in _TURNING)


_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_name(name: str) -> str:
    """``name``, if it is one; RpcError says what a name is."""
    if not 0 < len(name) <= MAX_NAME or clean(name) != name or any(sign.isspace() for sign in name):
        text = f"{clean(name)[:30]!r} is no name: 1 to {MAX_NAME} characters without spaces"
        raise RpcError(StatusCode.UNAUTHENTICATED, text)
    return name
