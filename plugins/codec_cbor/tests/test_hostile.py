"""The codec ``cbor`` and strangers' bytes: a DecodeError or a value of the model, at a cost in proportion."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_codec_cbor import CborCodec, CborOptions
from echostream_core.errors import DecodeError
from echostream_core.value_model import find_problem

CODEC = CborCodec()
LENIENT = CborCodec(CborOptions(duplicate_keys="last", indefinite_lengths="accept"))

HOSTILE = {
    "nothing": "",
    "two values": "0101",
    "a value and half of one": "0162",
    "a value and a break": "01ff",
    "break alone": "ff",
    "reserved integer 28": "1c",
    "reserved integer 30": "1e",
    "indefinite integer": "1f",
    "indefinite negative": "3f",
    "indefinite tag": "df",
    "uint8 cut": "18",
    "uint64 cut": "1b00",
    "negative of 65 bits": "3bffffffffffffffff",
    "negative one too large": "3b8000000000000000",
    "negative of 65 bits, inside": "a16161813bffffffffffffffff",
    "array without items": "81",
    "array of 2, one item": "8201",
    "array8 of 255": "98ff",
    "array32 of 4 G": "9affffffff",
    "array64 of 2**64-1": "9bffffffffffffffff",
    "array64 of 2**63-1": "9b7fffffffffffffff",
    "array32 of 4 G inside itself": "9affffffff9affffffff",
    "map without pair": "a1",
    "map with half a pair": "a16161",
    "map32 of 4 G": "baffffffff",
    "map64 of 2**64-1": "bbffffffffffffffff",
    "map64 of 2**63-1 inside itself": "bb7fffffffffffffff60bb7fffffffffffffff",
    "text cut": "6561",
    "text32 of 4 GiB": "7affffffff",
    "text64 of 2**64-1": "7bffffffffffffffff",
    "text64 of 2**63-1": "7b7fffffffffffffff61",
    "bytes cut": "4561",
    "bytes32 of 2 GiB": "5a7fffffff",
    "bytes64 of 2**64-1": "5bffffffffffffffff",
    "float16 cut": "f9",
    "float64 cut": "fb3ff0",
    "reserved simple 28": "fc",
    "reserved simple 30": "fe",
    "undefined": "f7",
    "undefined inside": "a1616181f7",
    "undefined as key": "a1f701",
    "simple 0": "e0",
    "simple 16": "f0",
    "simple 19": "f3",
    "simple 24, two bytes": "f818",
    "simple 32": "f820",
    "simple 255": "f8ff",
    "invalid UTF-8": "61ff",
    "overlong UTF-8": "62c080",
    "surrogate in UTF-8": "63eda080",
    "beyond Unicode": "64f4908080",
    "invalid UTF-8 as key": "a161ff01",
    "int as key": "a10102",
    "null as key": "a1f602",
    "true as key": "a1f502",
    "float as key": "a1f93e0002",
    "bytes as key": "a1416102",
    "bytes as key, inside": "81a16161a1416102",
    "list as key": "a18002",
    "map as key": "a1a002",
    "tag as key": "a1c0606101",
    "repeated key": "a2616101616102",
    "repeated key inside": "81a16161a2616101616102",
    "indefinite array": "9fff",
    "indefinite array, no end": "9f",
    "indefinite map": "bfff",
    "indefinite map with half a pair": "bf6161ff",
    "indefinite bytes": "5f4161ff",
    "indefinite text": "7f6161ff",
    "indefinite inside": "819fff",
    "65 lists": "81" * 65 + "80",
    "65 maps": "a160" * 65 + "a0",
    "399 lists": "81" * 399 + "80",
    "100,000 lists": "81" * 100_000 + "80",
    "100,000 lists that do not end": "81" * 100_000,
    "100,000 maps": "a160" * 100_000 + "a0",
    "100,000 lists as keys": "a181" * 50_000,
    "100,000 indefinite lists": "9f" * 100_000,
    "100,000 tags": "c0" * 100_000 + "60",
    "100,000 unknown tags": "d9ffff" * 100_000 + "60",
    "100,000 tags in lists": "81c6" * 100_000 + "60",
}
LENIENT_TAKES = {
    "repeated key",
    "repeated key inside",
    "indefinite array",
    "indefinite map",
    "indefinite bytes",
    "indefinite text",
    "indefinite inside",
}

TAGS = {
    "date and time": "c074323031332d30332d32315432303a30343a30305a",
    "epoch": "c11a514b67b0",
    "big integer": "c249010000000000000000",
    "small big integer": "c24101",
    "negative big integer": "c349010000000000000000",
    "decimal": "c48221196ab3",
    "decimal of a billion digits": "c4821a3b9aca0001",
    "bigfloat 2**(10**9)": "c5821a3b9aca0001",
    "string reference": "d81900",
    "shared value": "d81c80",
    "shared value that holds itself": "d81c81d81d00",
    "reference to nothing": "d81d00",
    "rational by zero": "d81e820100",
    "costly regular expression": "d8236a28612b29 2b24282124 29".replace(" ", ""),
    "MIME message": "d824613a",
    "UUID": "d82550" + "00" * 16,
    "address": "d9010444c00a0a01",
    "network": "d90105a144c0a800641818",
    "set": "d9010283010203",
    "namespace of references": "d90100826161d81900",
    "days since 1970": "d8641a00000000",
    "complex": "d9a7f882fb3ff0000000000000fb3ff0000000000000",
    "self-described": "d9d9f700",
    "unknown": "d9fffe00",
    "tag 2**64-1": "dbffffffffffffffff00",
    "without content": "c0",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_a_decode_error(name: str) -> None:
    data = bytes.fromhex(HOSTILE[name])
    for buffer in (data, bytearray(data), memoryview(data)):
        with pytest.raises(DecodeError) as caught:
            CODEC.decode(buffer)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isascii()
    if name not in LENIENT_TAKES:
        with pytest.raises(DecodeError):
            LENIENT.decode(data)


@pytest.mark.parametrize("name", TAGS)
def test_a_tag_is_refused_before_its_content_is_read(name: str) -> None:
    data = bytes.fromhex(TAGS[name])
    head = data[: 1 + {0x18: 1, 0x19: 2, 0x1B: 8}.get(data[0] & 0x1F, 0)]
    for around in (data, head, b"\x82\x01" + data, b"\xa1\x61a" + data):
        for codec in (CODEC, LENIENT):
            with pytest.raises(DecodeError, match=r"tag \d+$"):
                codec.decode(around)


def test_a_tag_as_map_key_is_refused() -> None:
    for text in TAGS.values():
        with pytest.raises(DecodeError):
            CODEC.decode(b"\xa1" + bytes.fromhex(text) + b"\x00")


@pytest.mark.parametrize("name", [name for name in HOSTILE if len(HOSTILE[name]) <= 40])
def test_few_bytes_need_little_memory(name: str) -> None:
    data = bytes.fromhex(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            CborCodec().decode(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_headers_that_promise_too_much_need_memory_in_proportion_only() -> None:
    size = 1_000_000
    data = struct.pack(">BI", 0x9A, size - 1_000) * 60
    data += bytes(size - len(data))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            CODEC.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 20 * size
    finally:
        tracemalloc.stop()


def test_a_million_values_behind_the_first_cost_nothing() -> None:
    started = time.perf_counter()
    with pytest.raises(DecodeError, match="999999 bytes behind the value") as caught:
        CODEC.decode(bytes(1_000_000))
    assert caught.value.offset == 1
    assert time.perf_counter() - started < 1.0


def test_what_one_message_left_does_not_reach_the_next() -> None:
    good = CODEC.encode({"a": [1, "x" * 100], "b": b"y" * 10_000})
    for text in HOSTILE.values():
        with pytest.raises(DecodeError):
            CODEC.decode(bytes.fromhex(text))
        assert CODEC.decode(good) == {"a": [1, "x" * 100], "b": b"y" * 10_000}


def test_a_large_message_is_not_kept_alive() -> None:
    codec = CborCodec()
    data = codec.encode({"data": bytes(4_000_000)})
    tracemalloc.start()
    try:
        codec.decode(memoryview(data))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def check(data: bytes) -> None:
    """Only a DecodeError, or a value of the model that comes back as the same."""
    for codec in (CODEC, LENIENT):
        try:
            value = codec.decode(data)
        except DecodeError:
            continue
        assert find_problem(value, 64) is None
        assert repr(codec.decode(codec.encode(value))) == repr(value)


def test_all_inputs_of_one_and_two_bytes() -> None:
    for first in range(256):
        check(bytes([first]))
        for second in range(256):
            check(bytes([first, second]))


@given(
    st.binary()
    | st.lists(st.sampled_from([b"\xa1", b"\x82", b"aa", b"\xc2", b"\xd8", b"\x00", b"\x9f", b"\xff"])).map(b"".join)
)
@settings(max_examples=1_000)
def test_no_bytes_raise_anything_but_a_decode_error(data: bytes) -> None:
    check(data)


def test_no_mutation_of_a_message_raises_anything_but_a_decode_error() -> None:
    rng = random.Random(7)
    record = {"id": 123_456, "name": "Ada é", "tags": ["a", b"\xff", 1.5], "ok": True, "none": None, "deep": {"n": -5}}
    seeds = [cbor2.dumps(record), cbor2.dumps([record, {"x": {1}}])]
    seeds += [bytes.fromhex(text) for text in (*HOSTILE.values(), *TAGS.values()) if len(text) < 100]
    for _ in range(20_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randint(0, 3)] = rng.choice(
                [b"", rng.randbytes(1), rng.randbytes(4), rng.choice(seeds)[:20]]
            )
        check(bytes(data))
