"""Metadata of a call and the body of an error.

Metadata: varint count, then per entry varint-prefixed key and varint-prefixed value. Keys are lower-case ASCII
(``a-z 0-9 - _ .``); values UTF-8 text, or bytes where the key ends in ``-bin``. ``echostream-`` is reserved.
Error: ``code u16, flags u8, retry_after_ms u32`` little-endian, varint-prefixed message, varint count, then per detail
varint-prefixed type name and varint-prefixed value in the call's codec. Source: docs/wire.md sections 6 and 7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Final

from echostream_core.errors import CallError, LimitExceeded, RemoteProtocolError, RpcError, StatusCode
from echostream_core.types import Buffer
from echostream_core.wire.limits import Limits
from echostream_core.wire.varint import Reader, encode_bytes, encode_varint

__all__ = [
    "ErrorBody",
    "MetadataPairs",
    "check_metadata",
    "decode_error",
    "decode_metadata",
    "encode_error",
    "encode_metadata",
]

MetadataPairs = list[tuple[str, str | bytes]]
ErrorBody = tuple[int, bool, int, str, list[tuple[str, bytes]]]
"""code, not_processed, retry_after_ms, message, details (name, encoded value)."""

RESERVED: Final = "echostream-"
_KEY: Final = re.compile(r"[a-z0-9._-]{1,128}")
_ERROR_HEAD: Final = Struct("<HBI")
_NOT_PROCESSED: Final = 0x01
_RETRYABLE: Final = 0x02


def check_metadata(
    metadata: Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]], *, reserved: bool = False
) -> MetadataPairs:
    """The pairs of what a user gave; RpcError(INVALID_ARGUMENT) names the key that breaks a rule."""
    pairs = list(metadata.items()) if isinstance(metadata, Mapping) else list(metadata)
    if any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise _invalid("metadata must be a mapping, or a sequence of pairs (key, value)")
    for key, value in pairs:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise _invalid(f"metadata key {str(key)[:80]!r} must be 1 to 128 of a-z 0-9 . _ - in lower case")
        if key.startswith(RESERVED) and not reserved:
            raise _invalid(f"metadata key {key!r}: names that begin with {RESERVED!r} are reserved")
        if not isinstance(value, bytes if key.endswith("-bin") else str):
            kind = "bytes" if key.endswith("-bin") else "text (or end the key in -bin for bytes)"
            raise _invalid(f"metadata {key!r} must be {kind}, not {type(value).__name__}")
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
            raise _invalid(f"metadata {key!r} has a lone surrogate, which is no text")
    return pairs


def encode_metadata(pairs: MetadataPairs, limits: Limits) -> bytes:
    """The encoded pairs; LimitExceeded names the limit that they go over."""
    if len(pairs) > limits.max_metadata_entries:
        raise LimitExceeded(
            f"{len(pairs)} metadata entries, max_metadata_entries is {limits.max_metadata_entries}",
            limit="max_metadata_entries",
            value=len(pairs),
            maximum=limits.max_metadata_entries,
        )
    parts = [encode_varint(len(pairs))]
    for key, value in pairs:
        parts.append(encode_bytes(key.encode()))
        parts.append(encode_bytes(value if isinstance(value, bytes) else value.encode()))
    data = b"".join(parts)
    if len(data) > limits.max_metadata_bytes:
        raise LimitExceeded(
            f"metadata takes {len(data)} bytes, max_metadata_bytes is {limits.max_metadata_bytes}",
            limit="max_metadata_bytes",
            value=len(data),
            maximum=limits.max_metadata_bytes,
        )
    return data


def decode_metadata(data: Buffer, limits: Limits) -> MetadataPairs:
    """The pairs in ``data``, which is exactly that; RemoteProtocolError for anything else.

    Over our limits, which the peer cannot know: RpcError(RESOURCE_EXHAUSTED), the answer to this one call.
    """
    reader = Reader(data, "metadata")
    if len(data) > limits.max_metadata_bytes:
        raise _too_much(f"metadata of {len(data)} bytes, max_metadata_bytes is {limits.max_metadata_bytes}")
    count = reader.varint("the number of entries")
    if 3 * count > reader.remaining:
        raise RemoteProtocolError(f"metadata: the number of entries is {count}, in {reader.remaining} bytes")
    if count > limits.max_metadata_entries:
        raise _too_much(f"{count} metadata entries, max_metadata_entries is {limits.max_metadata_entries}")
    pairs: MetadataPairs = []
    for _ in range(count):
        key = reader.text("a key", 128)
        if not _KEY.fullmatch(key):
            raise RemoteProtocolError(f"metadata: the key {key[:80]!r} is not lower-case ASCII")
        value = reader.data(f"the value of {key!r}", limits.max_metadata_bytes)
        if key.endswith("-bin"):
            pairs.append((key, value))
        else:
            try:
                pairs.append((key, value.decode()))
            except UnicodeDecodeError as error:
                raise RemoteProtocolError(f"metadata: the value of {key!r} is not UTF-8") from error
    if reader.remaining:
        raise RemoteProtocolError(f"metadata: {reader.remaining} bytes too many")
    return pairs


def encode_error(error: RpcError, details: Sequence[tuple[str, bytes]], limits: Limits) -> bytes:
    """The body of an ERROR response. A long message is cut, details that do not fit are left out."""
    flags = (_NOT_PROCESSED if error.not_processed else 0) | (_RETRYABLE if error.retryable else 0)
    room = limits.max_error_bytes - _ERROR_HEAD.size - 16
    message = _cut(error.message, min(room, 4096))
    room -= len(message)
    kept: list[bytes] = []
    for name, value in details:
        part = encode_bytes(name.encode()) + encode_bytes(value)
        if len(part) > room:
            break
        room -= len(part)
        kept.append(part)
    head = _ERROR_HEAD.pack(int(error.code), flags, min(int(error.retry_after * 1000 + 0.999), 0xFFFF_FFFF))
    return b"".join([head, encode_bytes(message), encode_varint(len(kept)), *kept])


def decode_error(data: Buffer, limits: Limits) -> tuple[StatusCode, str, list[tuple[str, bytes]], bool, bool, float]:
    """code, message, details (name, encoded value), not_processed, retryable, retry_after in seconds.

    Not limited by our own ``max_error_bytes``: the frame's length is. RemoteProtocolError for anything malformed.
    """
    reader = Reader(data, "error")
    number, flags, retry_ms = _ERROR_HEAD.unpack(reader.fixed("the head", _ERROR_HEAD.size))
    message = reader.text("the message", limits.max_message_bytes)
    details = []
    for _ in range(reader.varint("the number of details", 1024)):
        name = reader.text("the name of a detail", 1024)
        details.append((name, reader.data(f"the detail {name!r}", limits.max_message_bytes)))
    if reader.remaining:
        raise RemoteProtocolError(f"error: {reader.remaining} bytes too many")
    known = 0 < number <= StatusCode.UNAUTHENTICATED
    code = StatusCode(number) if known else StatusCode.UNKNOWN
    return code, message, details, bool(flags & _NOT_PROCESSED), bool(flags & _RETRYABLE), retry_ms / 1000


def _cut(text: str, size: int) -> bytes:
    data = text.encode(errors="replace")
    return data if len(data) <= size else data[: size - 3].decode(errors="ignore").encode() + b"..."


def _too_much(message: str) -> RpcError:
    return RpcError(StatusCode.RESOURCE_EXHAUSTED, message, not_processed=True)


def _invalid(message: str) -> CallError:
    return CallError(StatusCode.INVALID_ARGUMENT, message, not_processed=True)
