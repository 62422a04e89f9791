"""The server's side: a directory that files are sent to and fetched from."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from echostream_core import RpcError, StatusCode, Stream, handler, service, stream_handler
from examples.file_transfer.disk import hash_file, in_thread, is_full, reason
from examples.file_transfer.landing import SUFFIX, InUse, Landing, WrongChecksum
from examples.file_transfer.protocol import CHUNK_BYTES, Description, Download, Offer, Upload, check_name, problem

__all__ = ["FileService"]

_READ_ONLY: Final = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)
_logger = logging.getLogger("examples.file_transfer")


@service("files")
class FileService:
    """Serves one directory. Names are plain file names; hidden files, links and folders are not served."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._uploads: dict[Path, tuple[str, asyncio.Task[Any], asyncio.Event]] = {}
        self._checksums: dict[tuple[int, int, int], str] = {}

    def prepare(self, keep_days: float) -> int:
        """Make the directory, and remove what was left unfinished for so long; how many files that were."""
        self.directory.mkdir(parents=True, exist_ok=True)
        old = [
            path
            for path in self.directory.glob(f".*{SUFFIX}")
            if not path.is_symlink() and path.stat().st_mtime < time.time() - keep_days * 86_400
        ]
        for path in old:
            path.unlink()
        return len(old)

    @handler("list")
    async def files(self) -> AsyncIterator[Description]:
        """The files that can be fetched, by name; without checksums."""
        with answering("the directory"):
            found = await in_thread(self._list)
        for file in found:
            yield file

    def _list(self) -> list[Description]:
        found = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                    status = entry.stat(follow_symlinks=False)
                    found.append(Description(entry.name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.name)

    @handler
    async def describe(self, name: str) -> Description:
        """One file with its checksum, which takes a while for a large one."""
        with answering(name), opened(self.directory / check_name(name)) as descriptor:
            return await self._describe(name, descriptor)

    async def _describe(self, name: str, descriptor: int) -> Description:
        status = os.fstat(descriptor)
        key = (status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self._checksums:
            digest, _ = await hash_file(descriptor)
            if len(self._checksums) >= 10_000:
                self._checksums.clear()
            self._checksums[key] = digest.hexdigest()
        return Description(name, status.st_size, status.st_mtime, self._checksums[key])

    @stream_handler
    async def download(self, stream: Stream, wanted: Download) -> None:
        """The bytes of a file from an offset on, if it is still the file that was described."""
        with answering(wanted.name), opened(self.directory / check_name(wanted.name)) as descriptor:
            now = await self._describe(wanted.name, descriptor)
            if now.sha256 != wanted.sha256:
                text = f"{wanted.name} has changed on the server meanwhile"
                raise problem(StatusCode.ABORTED, "Changed", text, sha256=now.sha256)
            if wanted.offset:
                digest, length = await hash_file(descriptor, wanted.offset)
                if length != wanted.offset or digest.hexdigest() != wanted.prefix_sha256:
                    text = f"the {wanted.offset} bytes of {wanted.name} on your side are not its beginning"
                    raise problem(StatusCode.FAILED_PRECONDITION, "PrefixDiffers", text, offset=wanted.offset)
            async for chunk in chunks(descriptor, wanted.offset):
                await stream.send(chunk)

    @stream_handler
    async def upload(self, stream: Stream, wanted: Upload) -> None:
        """Take a file: offer what is here of it, then write what comes. See ``protocol.py``."""
        target = self.directory / check_name(wanted.name)
        if wanted.size < 0 or len(wanted.sha256) != 64 or not wanted.sha256.isalnum():
            raise RpcError(StatusCode.INVALID_ARGUMENT, "size or sha256 makes no sense")
        with answering(wanted.name):
            if await self._is_complete(target, wanted):
                await stream.send(Offer(wanted.size, wanted.sha256, complete=True))
                return
            async with self._alone(target, wanted):
                landing = await Landing.open(target, wanted.size, wanted.sha256)
                try:
                    await self._receive(stream, landing, wanted)
                finally:
                    landing.close()

    async def _is_complete(self, target: Path, wanted: Upload) -> bool:
        """Whether the very file is here already: perhaps only our last word did not arrive the last time."""
        if not os.path.lexists(target):
            return False
        try:
            with opened(target) as descriptor:
                size = os.fstat(descriptor).st_size
                if size == wanted.size and (await self._describe(wanted.name, descriptor)).sha256 == wanted.sha256:
                    return True
        except FileNotFoundError as error:
            raise FileExistsError(f"{wanted.name} is there, and is no file") from error
        if not wanted.overwrite:
            raise FileExistsError(f"{wanted.name} is there already, with other content")
        return False

    @asynccontextmanager
    async def _alone(self, target: Path, wanted: Upload) -> AsyncIterator[None]:
        """No two uploads of one file at once. The sender's own earlier one, whose connection is dead, is ended."""
        while target in self._uploads:
            sender, task, over = self._uploads[target]
            if sender != wanted.sender:
                raise InUse(f"{wanted.name} is just being sent by another client")
            task.cancel()
            await over.wait()
        mine = asyncio.current_task()
        assert mine is not None
        over = asyncio.Event()
        self._uploads[target] = (wanted.sender, mine, over)
        try:
            yield
        finally:
            del self._uploads[target]
            over.set()

    async def _receive(self, stream: Stream, landing: Landing, wanted: Upload) -> None:
        check_room(self.directory, wanted.size - landing.stored)
        await stream.send(Offer(landing.stored, landing.prefix_sha256))
        begin = await stream.recv()
        if begin == 0:
            await landing.restart()
        elif begin != landing.stored:
            raise RpcError(StatusCode.INVALID_ARGUMENT, f"begin at 0 or at {landing.stored}, not at {begin!r}")
        _logger.info("%s: receiving from byte %d of %d", wanted.name, landing.stored, wanted.size)
        async for item in stream:
            if not isinstance(item, bytes) or landing.stored + len(item) > wanted.size:
                raise RpcError(StatusCode.INVALID_ARGUMENT, f"send raw bytes, and no more than {wanted.size}")
            await landing.write(item)
            await stream.send(landing.stored)
        if landing.stored < wanted.size:
            text = f"the stream ended after {landing.stored} of {wanted.size} bytes; what is here stays"
            raise RpcError(StatusCode.ABORTED, text)
        await landing.finish(overwrite=wanted.overwrite)
        _logger.info("%s: complete, %d bytes", wanted.name, wanted.size)


def check_room(directory: Path, needed: int) -> None:
    """Refuse before the first byte what cannot fit."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        text = f"the server's disk has {free} bytes free, {needed} are needed: make room there, then send again"
        raise problem(StatusCode.RESOURCE_EXHAUSTED, "DiskFull", text, free=free, needed=needed)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A regular file, open for reading; links are not followed."""
    try:
        descriptor = os.open(path, _READ_ONLY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise FileNotFoundError(f"{path.name} is a link") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(f"{path.name} is no file")
        yield descriptor
    finally:
        os.close(descriptor)


async def chunks(descriptor: int, offset: int) -> AsyncIterator[bytes]:
    """The bytes of an open file from ``offset`` on, read in threads."""

    def read() -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, CHUNK_BYTES)

    while chunk := await in_thread(read):
        yield chunk
        offset += len(chunk)


@contextmanager
def answering(name: str) -> Iterator[None]:
    """What goes wrong with the file ``name`` becomes a status, a sentence and a typed detail for the caller."""
    try:
        yield
    except WrongChecksum as error:
        text = f"{name}: {error}: it was changed while it was sent, or the transfer is broken; send it again"
        facts = {"expected": error.expected, "actual": error.actual}
        raise problem(StatusCode.DATA_LOSS, "WrongChecksum", text, **facts) from error
    except InUse as error:
        raise problem(StatusCode.ABORTED, "InUse", f"{error}: wait until that is over") from error
    except FileExistsError as error:
        text = f"{name} is there already, with other content: choose another name, or allow overwriting"
        raise problem(StatusCode.ALREADY_EXISTS, "Exists", text) from error
    except FileNotFoundError as error:
        raise problem(StatusCode.NOT_FOUND, "NoSuchFile", f"there is no file {name!r} on the server") from error
    except PermissionError as error:
        text = f"the server may not do that with {name}: {reason(error)}"
        raise problem(StatusCode.PERMISSION_DENIED, "NoPermission", text) from error
    except OSError as error:
        if is_full(error):
            text = f"the server's disk is full: make room there, then send {name} again, and it goes on where it was"
            raise problem(StatusCode.RESOURCE_EXHAUSTED, "DiskFull", text) from error
        _logger.error("%s: %s", name, error)
        raise problem(StatusCode.UNKNOWN, "DiskError", f"the server's disk failed: {reason(error)}") from error
