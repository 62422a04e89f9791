"""Zstandard, one frame per message: what goes in comes out, and what a stranger sends is an error at worst."""

from __future__ import annotations

import random
import tracemalloc

import msgspec
import pytest

from echostream_compression_zstd import ZstdCompression, ZstdOptions
from echostream_compression_zstd._library import CompressionParameter, ZstdCompressor
from echostream_core import DecodeError, Kernel
from echostream_core.compression import DecompressedTooLarge

LIMIT = 1_000_000
TEXT = b'{"id": 7, "name": "ada", "when": "2026-11-22T03:00:00Z"}, ' * 40
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"


def frame(data: bytes, **options: int) -> bytes:
    """One frame with parameters of the library's, and the size of its content where they do not leave it out."""
    chosen: dict[int, int] = {CompressionParameter[name]: value for name, value in options.items()}
    return ZstdCompressor(options=chosen).compress(data, ZstdCompressor.FLUSH_FRAME)


def streamed(data: bytes, **options: int) -> bytes:
    """One frame whose head does not say how long its content is."""
    compressor = ZstdCompressor(options={CompressionParameter[name]: value for name, value in options.items()})
    return compressor.compress(data) + compressor.flush()


def packed(data: bytes) -> bytes:
    """``data`` as it is sent."""
    found = ZstdCompression().compress(data)
    assert found is not None
    return found


# What it is.


def test_the_kernel_finds_it_with_its_options() -> None:
    kernel = Kernel()
    spec = kernel.component("compression", "zstd")
    made = spec.factory(kernel.build_options(spec, {"level": 9, "min_bytes": 100}, key="compression.zstd"))
    assert isinstance(made, ZstdCompression)
    assert (made.name, made.min_bytes) == ("zstd", 100)


@pytest.mark.parametrize("values", [{"level": 20}, {"level": -51}, {"min_bytes": 63}, {"levle": 3}])
def test_wrong_options_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(values, ZstdOptions)


@pytest.mark.parametrize("level", [-50, -1, 1, 3, 9, 19])
def test_every_level_gives_back_what_went_in(level: int) -> None:
    compression = ZstdCompression(ZstdOptions(level=level))
    found = compression.compress(TEXT)
    assert found is not None
    assert len(found) < len(TEXT) // 2
    assert compression.decompress(found, len(TEXT)) == TEXT


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type) -> None:
    compression = ZstdCompression()
    found = compression.compress(kind(TEXT))
    assert found is not None
    assert compression.decompress(kind(found), LIMIT) == TEXT


def test_one_compressor_serves_all_messages_and_remembers_none() -> None:
    compression = ZstdCompression()
    assert compression.compress(TEXT) == compression.compress(TEXT) == packed(TEXT)


@pytest.mark.parametrize("size", [0, 1, 100, 5_000, 200_000])
def test_what_does_not_get_shorter_is_left_alone(size: int) -> None:
    assert ZstdCompression().compress(random.Random(7).randbytes(size)) is None


def test_the_head_says_how_long_the_content_is() -> None:
    """So that the other end can refuse it before it has set memory aside."""
    with pytest.raises(DecompressedTooLarge, match=f"{len(TEXT)} bytes"):
        ZstdCompression().decompress(packed(TEXT)[:12], len(TEXT) - 1)


# How much.


@pytest.mark.parametrize("make", [frame, streamed])
@pytest.mark.parametrize("size", [1, 1_023, 1_024, 1_025, 131_072, 131_073, 999_999])
def test_the_limit_is_exact(make: object, size: int) -> None:
    assert callable(make)
    data = b"x" * size
    compression = ZstdCompression()
    assert compression.decompress(make(data, window_log=10), size) == data
    if size > 1:
        with pytest.raises(DecompressedTooLarge, match=str(size - 1)):
            compression.decompress(make(data, window_log=10), size - 1)


ZEROS = bytes(64_000_000)
BOMBS = [
    pytest.param(frame(ZEROS), id="with its size"),
    pytest.param(streamed(ZEROS, window_log=17), id="without its size"),
]
"""Little that would become much."""


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_and_takes_no_memory(bomb: bytes) -> None:
    assert len(bomb) < 10_000
    compression = ZstdCompression()
    tracemalloc.start()
    try:
        with pytest.raises(DecompressedTooLarge):
            compression.decompress(bomb, LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * LIMIT


def test_a_window_beyond_the_limit_is_refused() -> None:
    """The head asks for 128 MiB before there is one byte of content."""
    greedy = streamed(b"little", window_log=27)
    assert ZstdCompression().decompress(greedy, 1 << 27) == b"little"
    with pytest.raises(DecodeError, match="too much memory"):
        ZstdCompression().decompress(greedy, LIMIT)


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("limit", [1_024, 65_536, 100_000, 131_073])
def test_an_honest_sender_never_needs_a_larger_window(limit: int, level: int) -> None:
    data = (TEXT * (limit // len(TEXT) + 1))[:limit]
    found = ZstdCompression(ZstdOptions(level=level)).compress(data)
    assert found is not None
    assert ZstdCompression().decompress(found, limit) == data


# What strangers send.


@pytest.mark.parametrize("cut", range(len(packed(TEXT))))
def test_a_frame_that_is_cut_off_is_an_error(cut: int) -> None:
    with pytest.raises(DecodeError):
        ZstdCompression().decompress(packed(TEXT)[:cut], LIMIT)


def test_damage_anywhere_is_an_error_or_stays_within_the_limit() -> None:
    compression = ZstdCompression()
    good, errors = packed(TEXT), 0
    for place in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            try:
                assert len(compression.decompress(bytes(bad), 10_000)) <= 10_000
            except DecodeError:
                errors += 1
    assert errors > len(good)  # there is no checksum: what is damaged among the literals is read as other text


def test_noise_behind_a_right_magic_number_is_an_error() -> None:
    compression = ZstdCompression()
    for seed in range(2_000):
        source = random.Random(seed)
        try:
            content = compression.decompress(b"\x28\xb5\x2f\xfd" + source.randbytes(source.randrange(40)), 10_000)
        except DecodeError:
            continue
        assert len(content) <= 10_000


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no Zstandard frame"),
        (b"\x28\xb5\x2f", "no Zstandard frame"),
        (TEXT, "no Zstandard frame"),
        (SKIPPABLE, "no Zstandard frame"),
        (SKIPPABLE + packed(TEXT), "no Zstandard frame"),
        (b"\x28\xb5\x2f\xfd", "head"),
        (packed(TEXT) + b"\x00", "1 bytes behind"),
        (packed(TEXT) + packed(TEXT), f"{len(packed(TEXT))} bytes behind"),
        (packed(TEXT) + SKIPPABLE, "12 bytes behind"),
    ],
    ids=[
        "empty",
        "short",
        "plain",
        "skippable",
        "skippable first",
        "magic",
        "a byte more",
        "two frames",
        "and skippable",
    ],
)
def test_anything_but_one_frame_is_an_error(data: bytes, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        ZstdCompression().decompress(data, LIMIT)


def test_a_frame_that_needs_a_dictionary_is_an_error() -> None:
    # descriptor: four bytes of dictionary id, one segment, one byte of size; then an empty last block
    needs = bytes.fromhex("28b52ffd 23 07000000 00 010000")
    with pytest.raises(DecodeError, match="needs dictionary 7"):
        ZstdCompression().decompress(needs, LIMIT)


def test_an_empty_content_is_fine() -> None:
    assert ZstdCompression().decompress(frame(b""), 0) == b""


def test_a_frame_with_a_checksum_is_read_and_checked() -> None:
    good = frame(TEXT, checksum_flag=1)
    assert ZstdCompression().decompress(good, LIMIT) == TEXT
    with pytest.raises(DecodeError, match="damaged"):
        ZstdCompression().decompress(good[:-1] + bytes([good[-1] ^ 1]), LIMIT)


def test_an_error_leaves_the_compressor_fit_for_the_next_message() -> None:
    compression = ZstdCompression()
    for bad in (b"", SKIPPABLE, packed(TEXT)[:-1]):
        with pytest.raises(DecodeError):
            compression.decompress(bad, LIMIT)
        assert compression.decompress(packed(TEXT), LIMIT) == TEXT
