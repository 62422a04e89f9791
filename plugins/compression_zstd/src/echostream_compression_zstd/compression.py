"""Zstandard frames, one per message: a compressor that is kept, and a decompressor that trusts nobody.

A frame stands for itself: no dictionary, no history of earlier messages. So messages may be lost, reordered, or sent to
many peers at once, and no message can be guessed from the length of another (CRIME).
"""

from __future__ import annotations

from typing import Final

from echostream_compression_zstd._library import (
    DecompressionParameter,
    ZstdCompressor,
    ZstdDecompressor,
    ZstdError,
    get_frame_info,
)
from echostream_compression_zstd.options import ZstdOptions
from echostream_core.compression import Compression, DecompressedTooLarge
from echostream_core.errors import DecodeError
from echostream_core.types import Buffer

__all__ = ["ZstdCompression"]

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SMALLEST_WINDOW_LOG: Final = 10
_LARGEST_WINDOW_LOG: Final = 31


class ZstdCompression(Compression):
    """The compression ``zstd`` (RFC 8878)."""

    name = "zstd"

    def __init__(self, options: ZstdOptions | None = None) -> None:
        """Without ``options``: the defaults of ``[compression.zstd]``."""
        self._options = options or ZstdOptions()
        self.min_bytes = self._options.min_bytes
        # One for all messages: making one takes four times as long as compressing 1 KiB with it.
        self._compressor = ZstdCompressor(level=self._options.level)
        self._window: dict[int, dict[int, int]] = {}

    def compress(self, data: Buffer) -> bytes | None:
        """One frame with the size of its content in its head; None when that is not shorter than ``data``."""
        try:
            packed = self._compressor.compress(data, ZstdCompressor.FLUSH_FRAME)
        except (ZstdError, MemoryError):  # it is sent as it is, and what is half-written must not go before the next
            self._compressor = ZstdCompressor(level=self._options.level)
            return None
        return packed if len(packed) < len(data) else None

    def decompress(self, data: Buffer, max_bytes: int) -> bytes:
        """The content of the one frame that ``data`` is."""
        if bytes(data[:4]) != _MAGIC:
            raise DecodeError("no Zstandard frame", offset=0)
        try:
            info = get_frame_info(data)
        except ZstdError as error:
            raise DecodeError(f"the head of the Zstandard frame is damaged: {error}", offset=0) from error
        if info.dictionary_id:
            raise DecodeError(f"the Zstandard frame needs dictionary {info.dictionary_id}: none is agreed", offset=4)
        size = info.decompressed_size
        if size is not None and size > max_bytes:
            raise DecompressedTooLarge(f"{size} bytes when it is decompressed, at most {max_bytes} are taken")
        decompressor = ZstdDecompressor(options=self._options_for(max_bytes))
        try:
            content = decompressor.decompress(data, max_length=max_bytes + 1 if size is None else size + 1)
        except ZstdError as error:
            raise DecodeError(f"the Zstandard frame is damaged: {error}") from error
        if len(content) > max_bytes:
            raise DecompressedTooLarge(f"more than {max_bytes} bytes when it is decompressed")
        if not decompressor.eof:
            raise DecodeError("the Zstandard frame is cut off", offset=len(data))
        if decompressor.unused_data:
            rest = len(decompressor.unused_data)
            raise DecodeError(f"{rest} bytes behind the Zstandard frame", offset=len(data) - rest)
        return content

    def _options_for(self, max_bytes: int) -> dict[int, int]:
        """The window is memory that a frame's head asks for (up to 128 MiB): no more than the content may have."""
        options = self._window.get(max_bytes)
        if options is None:
            log = min(max((max_bytes - 1).bit_length(), _SMALLEST_WINDOW_LOG), _LARGEST_WINDOW_LOG)
            options = {DecompressionParameter.window_log_max: log}
            if len(self._window) < 16:  # an endpoint has one limit
                self._window[max_bytes] = options
        return options
