"""Work on the disk without stopping the event loop, and what may go wrong there in words."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

__all__ = ["Digest", "hash_file", "in_thread", "is_full", "reason"]

T = TypeVar("T")
STEP_BYTES: Final = 4 * 1024 * 1024
"""Read and hashed in one go: about 10 ms, so that cancelling is quick."""


class Digest(Protocol):
    """What ``hashlib.sha256()`` returns."""

    def update(self, data: Any, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """The sum of all bytes so far."""


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Call ``function`` in a thread. When we are cancelled it is waited for first: a thread cannot be stopped, and
    nobody else may touch the file while it still writes.
    """
    future = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        raise


async def hash_file(
    descriptor: int, length: int | None = None, on_progress: Callable[[int], None] | None = None
) -> tuple[Digest, int]:
    """The SHA-256 of the first ``length`` bytes of an open file (None: all), and how many there were."""
    digest: Digest = hashlib.sha256()
    position = 0

    def step(size: int) -> int:
        os.lseek(descriptor, position, os.SEEK_SET)
        data = os.read(descriptor, size)
        digest.update(data)
        return len(data)

    while length is None or position < length:
        size = STEP_BYTES if length is None else min(STEP_BYTES, length - position)
        done = await in_thread(step, size)
        if not done:
            break
        position += done
        if on_progress is not None:
            on_progress(position)
    return digest, position


def is_full(error: OSError) -> bool:
    """Whether there was no room: on the disk, in the quota, or for so large a file."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def reason(error: OSError) -> str:
    """Why, in words: ``Permission denied``."""
    return error.strerror or str(error)
