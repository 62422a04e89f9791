"""Masking (RFC 6455 section 5.3): the XOR comes from ``websockets``, in C where its extension was built.

The masks are the operating system's randomness, taken in blocks: a call of ``os.urandom`` per frame costs more than all
the rest of writing a small one.
"""

from __future__ import annotations

import os
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiler where it was installed: 10 to 30 times slower, and otherwise the same
    from websockets.utils import apply_mask

__all__ = ["apply_mask", "next_mask", "rotated"]

_BLOCK_MASKS: Final = 1_024

_pool: list[bytes] = []


def next_mask() -> bytes:
    """Four bytes that nobody can foretell."""
    if not _pool:
        block = os.urandom(4 * _BLOCK_MASKS)
        _pool.extend(block[begin : begin + 4] for begin in range(0, len(block), 4))
    return _pool.pop()


if hasattr(os, "register_at_fork"):  # else parent and child would use the same masks
    os.register_at_fork(after_in_child=_pool.clear)


def rotated(mask: bytes, size: int) -> bytes:
    """``mask`` as it goes on behind ``size`` bytes."""
    shift = size & 3
    return mask[shift:] + mask[:shift] if shift else mask
