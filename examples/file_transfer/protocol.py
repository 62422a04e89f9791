"""What both ends agree on: the messages, and the names of the problems.

An upload is one stream, ``files.upload``, opened with ``Upload``. The server answers with ``Offer``: what it has of
this very file from an earlier attempt. The client compares that with its own bytes, says where it begins (an integer),
and sends the rest as raw items. The server answers each with the number of bytes that it has written so far. The stream
ends in order when the whole file has the promised checksum and stands under its name.

A download is ``files.describe`` and then the items of ``files.download``, from where the client's copy ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from echostream_core import RpcError, StatusCode

__all__ = ["CHUNK_BYTES", "Description", "Download", "Offer", "Upload", "check_name", "problem"]

CHUNK_BYTES: Final = 256 * 1024
"""One item of a stream, and one write to the disk. An upload over TCP with both ends in one process, in MB/s:
32 KiB 106, 64 KiB 173, 128 KiB 159, 256 KiB 269, 512 KiB 230."""

MAX_NAME_BYTES: Final = 200
"""File systems take 255; the name of the unfinished file is longer than that of the finished one."""


@dataclass(frozen=True)
class Upload:
    """What a client wants to send."""

    name: str
    size: int
    sha256: str
    """Of the whole file, in hex. With the name it identifies an upload that goes on after an interruption."""
    sender: str
    """Made up by the client, the same for all its attempts: a new attempt replaces one whose connection is dead."""
    overwrite: bool = False
    """Whether another file of this name may be replaced."""


@dataclass(frozen=True)
class Offer:
    """What the server has of it already."""

    stored: int
    """Bytes that it need not be sent."""
    prefix_sha256: str
    """Of those bytes: the client checks that its own file begins so."""
    complete: bool = False
    """The file is there, as it should be."""


@dataclass(frozen=True)
class Description:
    """A file that can be fetched. ``sha256`` is "" in a list: it takes reading the whole file."""

    name: str
    size: int
    modified: float
    """Seconds since 1970."""
    sha256: str = ""


@dataclass(frozen=True)
class Download:
    """Which bytes of which version of a file a client wants."""

    name: str
    sha256: str
    offset: int = 0
    prefix_sha256: str = ""
    """Of the bytes before ``offset`` that the client has."""


def check_name(name: str) -> str:
    """``name``, if it is a plain file name that means the same on every system and leads nowhere else."""
    if not name or name.startswith(".") or any(sign in "/\\:" or ord(sign) < 32 for sign in name):
        raise problem(
            StatusCode.INVALID_ARGUMENT,
            "NameRefused",
            f"{name!r} is refused: a name has no folders, no '/', '\\' or ':' in it, and begins with no dot",
        )
    if len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
        text = f"{name[:20]!r}… is refused: a name has at most {MAX_NAME_BYTES} bytes"
        raise problem(StatusCode.INVALID_ARGUMENT, "NameRefused", text)
    return name


def problem(code: StatusCode, kind: str, text: str, **facts: object) -> RpcError:
    """An error with a sentence for people and a typed detail for programs."""
    return RpcError(code, text, details=[(kind, facts)])
