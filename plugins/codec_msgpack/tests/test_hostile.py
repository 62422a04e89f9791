"""The codec ``msgpack`` and strangers' bytes: a DecodeError or a value of the model, at a cost in proportion."""

from __future__ import annotations

import itertools
import random
import struct
import time
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_codec_msgpack import MsgpackCodec, MsgpackOptions, codec
from echostream_core.errors import DecodeError
from echostream_core.value_model import find_problem

CODEC = MsgpackCodec()
LENIENT = MsgpackCodec(MsgpackOptions(duplicate_keys="last", timestamps="text", ext_types="bytes"))

HOSTILE = {
    "nothing": "",
    "the one unused byte": "c1",
    "unused byte inside": "91c1",
    "two values": "0101",
    "a value and half of one": "01a2",
    "array without items": "91",
    "array of 2, one item": "9201",
    "map without pair": "81",
    "map with half a pair": "81a161",
    "map of 2, one pair": "82a16101",
    "text cut": "a561",
    "str8 cut": "d9ff61",
    "str16 without length": "da00",
    "str32 of 4 GiB": "dbffffffff",
    "str32 of 2 GiB": "db7fffffff61",
    "bin8 cut": "c4ff00",
    "bin32 of 4 GiB": "c6ffffffff",
    "array16 of 65535": "dcffff",
    "array32 of 4 G": "ddffffffff",
    "array32 of 2 G": "dd7fffffff00",
    "array32 of 4 G inside itself": "ddffffffffddffffffff",
    "map16 of 65535": "deffff",
    "map32 of 4 G": "dfffffffff",
    "map32 of 2 G": "df7fffffffa0",
    "map32 of 4 G inside itself": "dfffffffffa0dfffffffffa0",
    "ext32 of 4 GiB": "c9ffffffff05",
    "ext8 cut": "c7",
    "ext8 without type": "c700",
    "float cut": "cb3ff0",
    "float32 cut": "ca3f",
    "uint64 cut": "cf00",
    "invalid UTF-8": "a1ff",
    "overlong UTF-8": "a2c080",
    "surrogate in UTF-8": "a3eda080",
    "beyond Unicode": "a4f4908080",
    "invalid UTF-8 as key": "81a1ff01",
    "int as key": "810102",
    "null as key": "81c002",
    "true as key": "81c302",
    "float as key": "81cb3ff000000000000002",
    "NaN as key": "81cb7ff800000000000002",
    "bytes as key": "81c4016102",
    "list as key": "819002",
    "list of list as key": "81919002",
    "map as key": "818002",
    "ext as key": "81d4010002",
    "timestamp as key": "81d6ff0000000002",
    "int as key, inside": "9181a161810102",
    "keys 1 and true": "820101c302",
    "repeated key": "82a16101a16102",
    "repeated key, second long form": "82a16101d9016102",
    "repeated key inside": "9181a16182a16101a16102",
    "repeated key, hidden by float32": "82a161ca3f800000a161c0",
    "ext type 1": "d40100",
    "ext type -2": "d4fe00",
    "ext type 127 without content": "c7007f",
    "timestamp 32": "d6ff00000000",
    "timestamp 64": "d7ff0000000000000000",
    "timestamp 96": "c70cff000000000000000000000000",
    "timestamp of 1 byte": "d4ff00",
    "timestamp of no byte": "c700ff",
    "timestamp with 4 G nanoseconds": "c70cffffffffff0000000000000000",
    "timestamp of the year 292 billion": "c70cff000000007fffffffffffffff",
    "timestamp inside": "81a161d6ff00000000",
    "timestamp and repeated key": "83a161d6ff00000000a16101a16102",
    "65 lists": "91" * 65 + "90",
    "65 maps": "81a0" * 65 + "80",
    "1000 lists": "91" * 1_000 + "90",
    "100,000 lists": "91" * 100_000 + "90",
    "100,000 lists that do not end": "91" * 100_000,
    "100,000 maps": "81a0" * 100_000 + "80",
    "100,000 lists as keys": "8191" * 50_000,
}
LENIENT_TAKES = ("repeated key", "ext type", "timestamp 32", "timestamp 64", "timestamp 96", "timestamp inside")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("pad", [0, 2_000])
def test_hostile_bytes_are_a_decode_error(name: str, pad: int) -> None:
    data = bytes.fromhex(HOSTILE[name])
    if pad:
        data = b"\x92" + msgpack.packb(bytes(pad)) + data
    for buffer in (data, bytearray(data), memoryview(data)):
        with pytest.raises(DecodeError) as caught:
            CODEC.decode(buffer)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isascii()
    if not name.startswith(LENIENT_TAKES) and name != "timestamp and repeated key":
        with pytest.raises(DecodeError):
            LENIENT.decode(data)


@pytest.mark.parametrize("name", [name for name in HOSTILE if len(HOSTILE[name]) <= 32])
def test_few_bytes_need_little_memory(name: str) -> None:
    data = bytes.fromhex(HOSTILE[name])
    tracemalloc.start()
    try:
        for large in (False, True):
            with pytest.raises(DecodeError):
                MsgpackCodec().decode(b"\x92" + msgpack.packb(bytes(2_000)) + data if large else data)
        assert tracemalloc.get_traced_memory()[1] < 400_000, "of which msgpack's own stack is 260,000"
    finally:
        tracemalloc.stop()


def test_headers_that_promise_too_much_need_memory_in_proportion_only() -> None:
    size = 1_000_000
    data = struct.pack(">BI", 0xDD, size - 1_000) * 60
    data += bytes(size - len(data))
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            CODEC.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 20 * size
    finally:
        tracemalloc.stop()


def test_keys_made_to_collide_are_refused_before_they_are_compared() -> None:
    """40,000 different lists whose tuples have one hash: as keys of a dict they would take many seconds."""
    keys = [struct.pack(">BBqBq", 0x92, 0xD3, a, 0xD3, b) for a, b in colliding_pairs(40_000)]
    data = struct.pack(">BI", 0xDF, len(keys)) + b"".join(key + b"\xc0" for key in keys)
    started = time.perf_counter()
    with pytest.raises(DecodeError, match="not allowed for map key"):
        CODEC.decode(data)
    assert time.perf_counter() - started < 1.0


def test_keys_that_collide_in_a_small_message_cost_little() -> None:
    keys = [struct.pack(">BBqBq", 0x92, 0xD3, a, 0xD3, b) for a, b in colliding_pairs(51)]
    data = struct.pack(">BH", 0xDE, len(keys)) + b"".join(key + b"\xc0" for key in keys)
    assert len(data) <= codec._SMALL_BYTES
    started = time.perf_counter()
    for _ in range(100):
        with pytest.raises(DecodeError, match="a map key of type tuple"):
            CODEC.decode(data)
    assert time.perf_counter() - started < 1.0


def colliding_pairs(count: int) -> list[tuple[int, int]]:
    """Different pairs of integers with equal ``hash``, by CPython's xxHash of tuples run backwards."""
    prime1, prime2, mask = 11_400_714_785_074_694_791, 14_029_467_366_897_019_727, 2**64 - 1
    prime5, inverse2, modulus = 2_870_177_450_012_600_261, pow(prime2, -1, 2**64), 2**61 - 1
    goal, pairs = 0x1234_5678_9ABC_DEF0, []
    for a in itertools.count(1):
        state = (prime5 + a * prime2) & mask
        state = ((state << 31 | state >> 33) * prime1) & mask
        lane = ((goal - state) * inverse2) & mask
        b = lane - 2**64 if lane >= 2**63 else lane
        if -modulus < b < modulus and b != -1:  # only such integers are their own hash
            pairs.append((a, b))
            if len(pairs) == count:
                assert len({hash(pair) for pair in pairs[:100]}) == 1
                return pairs
    raise AssertionError


def outcome(data: bytes, reader: MsgpackCodec = CODEC) -> str:
    """What comes of ``data``: the value's repr, or that it is refused. Fails for every other outcome."""
    try:
        value = reader.decode(data)
    except DecodeError:
        return "refused"
    assert find_problem(value, 64) is None
    assert repr(CODEC.decode(CODEC.encode(value))) == repr(value)
    return repr(value)


def check(data: bytes) -> None:
    """Only a DecodeError or a value, and the same one on the way of small messages and on that of large ones."""
    small = outcome(data)
    large = outcome(b"\x92" + msgpack.packb(bytes(2_000)) + data)
    assert large == (small if small == "refused" else f"[{bytes(2_000)!r}, {small}]")
    outcome(data, LENIENT)


def test_all_inputs_of_one_and_two_bytes() -> None:
    for first in range(256):
        check(bytes([first]))
        for second in range(256):
            check(bytes([first, second]))


@given(
    st.binary()
    | st.lists(st.sampled_from([b"\x81", b"\x92", b"\xa1a", b"\xd6\xff", b"\xc7", b"\x00", b"\xdf"])).map(b"".join)
)
@settings(max_examples=1_000)
def test_no_bytes_raise_anything_but_a_decode_error(data: bytes) -> None:
    check(data)


def test_no_mutation_of_a_message_raises_anything_but_a_decode_error() -> None:
    rng = random.Random(7)
    record = {"id": 123_456, "name": "Ada é", "tags": ["a", b"\xff", 1.5], "ok": True, "none": None, "deep": {"n": -5}}
    seeds = [msgpack.packb(record), msgpack.packb([record, {"x": msgpack.ExtType(1, b"abc")}])]
    seeds += [bytes.fromhex(text) for text in HOSTILE.values() if len(text) < 100]
    for _ in range(20_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randint(0, 3)] = rng.choice(
                [b"", rng.randbytes(1), rng.randbytes(4), rng.choice(seeds)[:20]]
            )
        check(bytes(data))
