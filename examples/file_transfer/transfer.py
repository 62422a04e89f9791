"""The client's side: send and fetch files, and go on by itself after every interruption."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from echostream_core import (
    CloseCode,
    ConnectionLost,
    DeadlineExceeded,
    RemoteError,
    ResourceClosed,
    RpcClient,
    RpcError,
    StatusCode,
    Stream,
    StreamReset,
)
from examples.file_transfer.disk import hash_file, in_thread
from examples.file_transfer.landing import Landing
from examples.file_transfer.progress import Line
from examples.file_transfer.protocol import CHUNK_BYTES, Description, Download, Offer, Upload, check_name

__all__ = ["Outcome", "Transfer"]


@dataclass
class Outcome:
    """What became of one file."""

    name: str
    size: int = 0
    sha256: str = ""
    moved: int = 0
    """Bytes of the file that travelled, in all attempts together."""
    began_at: list[int] = field(default_factory=list)
    """Where each attempt began; the first one is above 0 when it goes on with that of an earlier program."""

    @property
    def twice(self) -> int:
        """Bytes that travelled more than once: those that were on their way when a connection broke."""
        return max(0, self.moved - (self.size - self.began_at[0])) if self.began_at else 0


class Transfer:
    """One file on its way, over a client that connects again by itself. ``rate`` in bytes per second; 0: no limit.
    ``patience`` in seconds: how long a server may be there and move nothing.
    """

    def __init__(self, client: RpcClient, line: Line, *, rate: float = 0.0, patience: float = 60.0) -> None:
        self._client = client
        self._line = line
        self._rate = rate
        self._patience_s = patience
        self._sender = uuid.uuid4().hex

    # -- to the server

    async def upload(self, file: Path, name: str, *, overwrite: bool) -> Outcome:
        """Send ``file`` as ``name``. Raises OSError for what is wrong here, RpcError for what is wrong there."""
        check_name(name)
        descriptor = await in_thread(os.open, file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):  # opened all the same, by some systems
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
            size = status.st_size
            self._line.begin("checking", size)
            digest, size = await hash_file(descriptor, on_progress=self._line.at)
            wanted = Upload(name, size, digest.hexdigest(), self._sender, overwrite)
            outcome = Outcome(name, size, wanted.sha256)
            await self._persist(outcome, lambda: self._send(descriptor, wanted, outcome))
            return outcome
        finally:
            os.close(descriptor)

    async def _send(self, descriptor: int, wanted: Upload, outcome: Outcome) -> None:
        async with self._client.open_stream("files.upload", wanted) as stream:
            offer = msgspec.convert(await stream.recv(), Offer)
            if offer.complete:
                self._line.note(f"{wanted.name} is there already")
                outcome.began_at.append(wanted.size)
                return
            begin = offer.stored
            if begin:
                digest, _ = await hash_file(descriptor, begin)
                if digest.hexdigest() != offer.prefix_sha256:
                    self._line.note(f"the {begin} bytes of {wanted.name} on the server are damaged: beginning anew")
                    begin = 0
            outcome.began_at.append(begin)
            self._line.begin("sending", wanted.size, begin)
            await stream.send(begin)
            sending = asyncio.create_task(self._send_rest(stream, descriptor, begin, outcome))
            try:
                async for stored in stream:
                    self._line.at(stored)
            except ResourceClosed:  # we have reset it: our own disk failed
                await sending
                raise
            finally:
                sending.cancel()
                await asyncio.wait({sending})
                if not sending.cancelled():
                    sending.exception()  # what broke the stream has been raised by reading it

    async def _send_rest(self, stream: Stream, descriptor: int, position: int, outcome: Outcome) -> None:
        def read() -> bytes:
            os.lseek(descriptor, position, os.SEEK_SET)
            return os.read(descriptor, min(CHUNK_BYTES, outcome.size - position))

        try:
            pace = Pace(self._rate)
            while position < outcome.size and (chunk := await in_thread(read)):
                outcome.moved += len(chunk)
                position += len(chunk)
                await stream.send(chunk)
                await pace.after(len(chunk))
            await stream.end()
        except OSError:
            stream.reset()
            raise

    # -- from the server

    async def download(self, name: str, target: Path, *, overwrite: bool) -> Outcome:
        """Fetch ``name`` into ``target``. Raises as ``upload`` does, WrongChecksum and FileExistsError."""
        outcome = Outcome(name)
        await self._persist(outcome, lambda: self._fetch(name, target, overwrite, outcome))
        return outcome

    async def _fetch(self, name: str, target: Path, overwrite: bool, outcome: Outcome) -> None:
        self._line.begin("asking", 0)
        # Without a limit: the server reads the whole file for its checksum. Keep-alive notices a dead one.
        there = await self._client.request("files.describe", name, returns=Description, timeout=None)
        outcome.size, outcome.sha256 = there.size, there.sha256
        if await self._is_here(target, there):
            self._line.note(f"{target.name} is here already")
            outcome.began_at.append(there.size)
            return
        if not overwrite and os.path.lexists(target):
            raise FileExistsError(f"{target} is there already, with other content: --overwrite replaces it")
        landing = await Landing.open(target, there.size, there.sha256)
        try:
            await self._receive(landing, name, outcome)
            self._line.begin("storing", there.size, there.size)
            await landing.finish(overwrite=overwrite)
        finally:
            landing.close()

    async def _receive(self, landing: Landing, name: str, outcome: Outcome) -> None:
        wanted = Download(name, landing.sha256, landing.stored, landing.prefix_sha256)
        self._line.begin("fetching", landing.size, landing.stored)
        outcome.began_at.append(landing.stored)
        pace = Pace(self._rate)
        try:
            async with self._client.open_stream("files.download", wanted) as stream:
                await stream.end()
                async for chunk in stream:
                    outcome.moved += len(chunk)
                    await landing.write(chunk)
                    self._line.at(landing.stored)
                    await pace.after(len(chunk))
        except RemoteError as error:
            if not any(kind == "PrefixDiffers" for kind, _ in error.details):
                raise
            self._line.note(f"the {landing.stored} bytes of {name} that are here are damaged: beginning anew")
            await landing.restart()
            await self._receive(landing, name, outcome)

    async def _is_here(self, target: Path, there: Description) -> bool:
        if not target.is_file() or target.stat().st_size != there.size:
            return False
        descriptor = await in_thread(os.open, target, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            digest, _ = await hash_file(descriptor)
        finally:
            os.close(descriptor)
        return digest.hexdigest() == there.sha256

    # -- both

    async def _persist(self, outcome: Outcome, attempt: Callable[[], Awaitable[None]]) -> None:
        """Repeat ``attempt`` until it succeeds; the client connects again by itself, and each goes on where it was."""
        now = asyncio.get_running_loop().time
        moved, progress, pause = outcome.moved, now(), 0.0
        while True:
            try:
                await attempt()
                return
            except DeadlineExceeded:  # there was no connection for as long as we are to wait
                raise
            except (ConnectionLost, StreamReset, RemoteError) as error:
                if not _may_pass(error):
                    raise
                if outcome.moved > moved:
                    moved, progress, pause = outcome.moved, now(), 0.0
                elif now() - progress > self._patience_s:
                    raise
                if not pause:
                    self._line.note(f"{outcome.name}: the connection is lost; waiting for the server")
            # The client may not have noticed yet, or the server may still be leaving.
            pause = min(2 * pause or 0.05, 2.0)
            await asyncio.sleep(pause)


def _may_pass(error: RpcError | ConnectionLost | StreamReset) -> bool:
    """Whether another attempt may succeed: not when the server refuses us or speaks another protocol."""
    if isinstance(error, ConnectionLost):
        return error.close_code not in (CloseCode.UNAUTHENTICATED, CloseCode.VERSION, CloseCode.PROTOCOL)
    return isinstance(error, StreamReset) or error.code == StatusCode.UNAVAILABLE


class Pace:
    """Slows a sender or reader down to ``rate`` bytes per second; 0: not at all."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._begin = asyncio.get_running_loop().time()
        self._done = 0

    async def after(self, size: int) -> None:
        """So many bytes more have gone."""
        if self._rate:
            self._done += size
            early = self._begin + self._done / self._rate - asyncio.get_running_loop().time()
            if early > 0:
                await asyncio.sleep(early)
