"""A file while it arrives: under a name of its own until it is whole and right, then renamed in one step.

The unfinished file is named after the target and its checksum, so the next attempt finds it, also after a crash of
either program. Only bytes that were written count; their checksum is compared with the sender's before more is added.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Final

from examples.file_transfer.disk import Digest, hash_file, in_thread

try:
    import fcntl
except ImportError:  # Windows: two programs at one file are not kept apart there
    _lock = None
else:

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


__all__ = ["SUFFIX", "InUse", "Landing", "WrongChecksum"]

SUFFIX: Final = ".part"
_NO_LINKS: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_renaming = threading.Lock()
"""Between looking for a file of the same name and replacing it."""


class WrongChecksum(Exception):
    """All bytes are here, and they are not the right ones. They are gone: the next attempt begins anew."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"the checksum is {actual}, and should be {expected}")
        self.expected = expected
        self.actual = actual


class InUse(Exception):
    """Another program is writing this very file."""


class Landing:
    """Made by ``open``; ``close`` it in any case. All that it does to the disk is done in threads."""

    def __init__(self, target: Path, size: int, sha256: str) -> None:
        self.target = target
        self.size = size
        self.sha256 = sha256
        self.path = target.with_name(f".{target.name}.{sha256[:16]}{SUFFIX}")
        self.stored = 0
        """Bytes that are written."""
        self._digest: Digest = hashlib.sha256()
        self._descriptor = -1
        self._finished = False

    @classmethod
    async def open(cls, target: Path, size: int, sha256: str) -> Landing:
        """Go on with what is there, or begin. Raises InUse and OSError."""
        landing = cls(target, size, sha256)
        try:
            await in_thread(landing._open)
            if landing.stored > size:
                await landing.restart()
            landing._digest, landing.stored = await hash_file(landing._descriptor, landing.stored)
        except InUse:
            landing._finished = True  # it is not ours to remove
            landing.close()
            raise
        except BaseException:
            landing.close()
            raise
        return landing

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o644)
        if _lock is not None:
            try:
                _lock(self._descriptor)
            except BlockingIOError:
                raise InUse(f"{self.target.name} is being written by another program") from None
        status = os.fstat(self._descriptor)
        if status.st_nlink == 0:  # the other program has removed it between our opening and our locking
            raise InUse(f"{self.target.name} was just being written by another program")
        self.stored = status.st_size

    @property
    def prefix_sha256(self) -> str:
        """The checksum of what is stored."""
        return self._digest.hexdigest()

    async def restart(self) -> None:
        """Drop what is stored."""
        self.stored = 0
        self._digest = hashlib.sha256()
        await in_thread(os.ftruncate, self._descriptor, 0)

    async def write(self, data: bytes) -> None:
        """Add bytes at the end; on OSError ``stored`` says how far it came."""
        await in_thread(self._write, data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        os.lseek(self._descriptor, self.stored, os.SEEK_SET)
        while rest:
            written = os.write(self._descriptor, rest)
            self._digest.update(rest[:written])
            self.stored += written
            rest = rest[written:]

    async def finish(self, *, overwrite: bool) -> None:
        """Put the file under its name, on the disk for good. Raises WrongChecksum, FileExistsError and OSError."""
        actual = self.prefix_sha256
        if actual != self.sha256:
            await self.restart()
            raise WrongChecksum(self.sha256, actual)
        await in_thread(self._finish, overwrite)

    def _finish(self, overwrite: bool) -> None:
        os.fsync(self._descriptor)
        if os.name == "nt":  # an open file cannot be renamed there
            os.close(self._descriptor)
            self._descriptor = -1
        with _renaming:
            if not overwrite and os.path.lexists(self.target):
                raise FileExistsError(f"{self.target.name} is there already, with other content")
            os.replace(self.path, self.target)
            self._finished = True
        if hasattr(os, "O_DIRECTORY"):
            folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Let go of the file; what is stored stays for the next attempt, unless it is nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        if not self.stored and not self._finished and os.name != "nt":
            self.path.unlink(missing_ok=True)
        os.close(descriptor)
