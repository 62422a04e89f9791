"""Metadata of calls and the body of errors: limits from both sides, and what strangers may send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream_core.errors import LimitExceeded, RemoteProtocolError, RpcError, StatusCode
from echostream_core.wire.limits import Limits
from echostream_core.wire.metadata import (
    MetadataPairs,
    check_metadata,
    decode_error,
    decode_metadata,
    encode_error,
    encode_metadata,
)
from echostream_core.wire.varint import encode_bytes, encode_varint

LIMITS = Limits()
KEYS = st.from_regex(r"[a-z0-9._-]{1,20}", fullmatch=True)
SIZE_OF_KEY_A = 2  # its length and itself


def encoded_entries(*entries: tuple[bytes, bytes]) -> bytes:
    """Metadata by hand, without any check."""
    parts = [encode_bytes(key) + encode_bytes(value) for key, value in entries]
    return encode_varint(len(entries)) + b"".join(parts)


@st.composite
def pairs(draw: st.DrawFn) -> MetadataPairs:
    found: MetadataPairs = []
    for key in draw(st.lists(KEYS, max_size=8)):
        if key.startswith("echostream-"):
            continue
        if key.endswith("-bin"):
            found.append((key, draw(st.binary(max_size=50))))
        else:
            found.append((key, draw(st.text(st.characters(codec="utf-8"), max_size=50))))
    return found


@given(pairs())
def test_metadata_arrives_as_it_was_written(given_pairs: MetadataPairs) -> None:
    data = encode_metadata(check_metadata(given_pairs), LIMITS)
    assert decode_metadata(data, LIMITS) == given_pairs
    assert decode_metadata(memoryview(b"\xee" + data + b"\xee")[1:-1], LIMITS) == given_pairs


@given(pairs(), st.data())
def test_metadata_that_is_cut_anywhere_is_refused(given_pairs: MetadataPairs, data: st.DataObject) -> None:
    encoded = encode_metadata(given_pairs, LIMITS)
    kept = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(RemoteProtocolError):
        decode_metadata(encoded[:kept], LIMITS)


@given(st.binary(max_size=60))
def test_random_metadata_raises_nothing_but_the_peers_fault(data: bytes) -> None:
    try:
        found = decode_metadata(data, LIMITS)
    except RemoteProtocolError:
        return
    except RpcError as error:
        assert error.code is StatusCode.RESOURCE_EXHAUSTED
        return
    assert decode_metadata(encode_metadata(found, LIMITS), LIMITS) == found


def test_a_mapping_and_pairs_are_the_same() -> None:
    assert check_metadata({"a": "1", "b-bin": b"2"}) == check_metadata([("a", "1"), ("b-bin", b"2")])


@pytest.mark.parametrize("key", ["", "Tenant", "a b", "é", "a\n", "a:b", "k" * 129])
def test_a_key_that_breaks_the_rules_is_our_own_error(key: str) -> None:
    with pytest.raises(RpcError) as caught:
        check_metadata({key: "x"})
    assert caught.value.code is StatusCode.INVALID_ARGUMENT
    assert caught.value.not_processed
    with pytest.raises(RemoteProtocolError):
        decode_metadata(encoded_entries((key.encode(), b"x")), LIMITS)


def test_a_key_may_have_128_bytes() -> None:
    assert decode_metadata(encode_metadata([("k" * 128, "x")], LIMITS), LIMITS) == [("k" * 128, "x")]


@pytest.mark.parametrize(("key", "value"), [("a", b"bytes"), ("a-bin", "text"), ("a", 1)])
def test_a_value_has_the_type_that_its_key_says(key: str, value: str | bytes) -> None:
    with pytest.raises(RpcError, match="must be"):
        check_metadata([(key, value)])


def test_reserved_keys_are_not_the_users() -> None:
    with pytest.raises(RpcError, match="reserved"):
        check_metadata({"echostream-trace": "x"})
    assert check_metadata({"echostream-trace": "x"}, reserved=True)


def test_the_number_of_entries_is_limited_on_both_sides() -> None:
    limits = Limits(max_metadata_entries=3)
    entries: MetadataPairs = [("k", "v")] * 3
    assert decode_metadata(encode_metadata(entries, limits), limits) == entries
    with pytest.raises(LimitExceeded) as caught:
        encode_metadata([*entries, ("k", "v")], limits)
    error = caught.value
    assert (error.limit, error.value, error.maximum) == ("max_metadata_entries", 4, 3)
    with pytest.raises(RpcError, match="max_metadata_entries is 3") as refused:
        decode_metadata(encoded_entries(*[(b"k", b"v")] * 4), limits)
    assert (refused.value.code, refused.value.not_processed) == (StatusCode.RESOURCE_EXHAUSTED, True)


def test_the_size_of_metadata_is_limited_on_both_sides() -> None:
    limits = Limits(max_metadata_bytes=100)
    fitting = "v" * (100 - 1 - SIZE_OF_KEY_A - 2)
    data = encode_metadata([("a", fitting)], limits)
    assert len(data) == 100
    assert decode_metadata(data, limits) == [("a", fitting)]
    with pytest.raises(LimitExceeded) as caught:
        encode_metadata([("a", fitting + "v")], limits)
    error = caught.value
    assert (error.limit, error.value, error.maximum) == ("max_metadata_bytes", 101, 100)
    with pytest.raises(RpcError, match="max_metadata_bytes is 100"):
        decode_metadata(encoded_entries((b"a", fitting.encode() + b"v")), limits)


def test_a_count_that_promises_too_much_is_refused_at_once() -> None:
    with pytest.raises(RemoteProtocolError, match="number of entries"):
        decode_metadata(encode_varint(1 << 40), LIMITS)


# Errors.


DETAILS = st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), st.binary(max_size=50)), max_size=5)


@given(
    st.sampled_from([code for code in StatusCode if code is not StatusCode.OK]),
    st.text(st.characters(codec="utf-8"), max_size=200),
    DETAILS,
    st.booleans(),
    st.booleans(),
    st.integers(0, 0xFFFF_FFFF),
)
def test_an_error_arrives_as_it_was_written(
    code: StatusCode,
    message: str,
    details: list[tuple[str, bytes]],
    not_processed: bool,
    retryable: bool,
    after_ms: int,
) -> None:
    error = RpcError(code, message, not_processed=not_processed, retryable=retryable, retry_after=after_ms / 1000)
    data = encode_error(error, details, LIMITS)
    expected = (code, message, details, not_processed, retryable, after_ms / 1000)
    assert decode_error(data, LIMITS) == expected
    assert decode_error(memoryview(b"\xee" + data + b"\xee")[1:-1], LIMITS) == expected


def test_a_wait_is_rounded_up_and_has_a_maximum() -> None:
    def wait_of(seconds: float) -> float:
        return decode_error(encode_error(RpcError(StatusCode.ABORTED, retry_after=seconds), [], LIMITS), LIMITS)[5]

    assert wait_of(0.0) == 0.0
    assert wait_of(0.0001) == 0.001
    assert wait_of(1e9) == 0xFFFF_FFFF / 1000


@pytest.mark.parametrize("number", [0, 17, 0xFFFF])
def test_a_code_that_is_nobodys_is_unknown(number: int) -> None:
    data = number.to_bytes(2, "little") + bytes(5) + b"\x00\x00"
    assert decode_error(data, LIMITS)[0] is StatusCode.UNKNOWN


@pytest.mark.parametrize("sign", ["x", "é", "🙂"])
def test_a_long_message_is_cut_between_two_characters(sign: str) -> None:
    data = encode_error(RpcError(StatusCode.INTERNAL, sign * 10_000), [], LIMITS)
    assert len(data) <= LIMITS.max_error_bytes
    message = decode_error(data, LIMITS)[1]
    assert message.endswith("...")
    assert set(message[:-3]) == {sign}
    assert 4_090 <= len(message.encode()) <= 4_096


def test_a_message_with_a_lone_surrogate_is_sent_all_the_same() -> None:
    data = encode_error(RpcError(StatusCode.INTERNAL, "a\ud800b"), [], LIMITS)
    assert decode_error(data, LIMITS)[1] == "a?b"


@pytest.mark.parametrize("maximum", [256, 1_000, 16_384])
def test_details_that_do_not_fit_are_left_out(maximum: int) -> None:
    limits = Limits(max_error_bytes=maximum)
    details = [(f"detail{number}", bytes(100)) for number in range(200)]
    data = encode_error(RpcError(StatusCode.ABORTED, "m" * 50), details, limits)
    assert len(data) <= maximum
    kept = decode_error(data, limits)[2]
    assert kept == details[: len(kept)]
    assert len(data) > maximum - 130, "as many as fit are kept"


def test_the_smallest_error_limit_still_carries_an_error() -> None:
    limits = Limits(max_error_bytes=256)
    data = encode_error(RpcError(StatusCode.NOT_FOUND, "m" * 5_000), [("d", bytes(5_000))], limits)
    assert len(data) <= 256
    code, message, details, *_ = decode_error(data, limits)
    assert (code, details) == (StatusCode.NOT_FOUND, [])
    assert message.startswith("mmm")


@given(DETAILS, st.data())
def test_an_error_that_is_cut_anywhere_is_refused(details: list[tuple[str, bytes]], data: st.DataObject) -> None:
    encoded = encode_error(RpcError(StatusCode.ABORTED, "message"), details, LIMITS)
    kept = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(RemoteProtocolError):
        decode_error(encoded[:kept], LIMITS)


@given(st.binary(max_size=80))
def test_random_errors_raise_nothing_but_the_peers_fault(data: bytes) -> None:
    try:
        code, message, details, not_processed, retryable, after = decode_error(data, LIMITS)
    except RemoteProtocolError:
        return
    assert code is not StatusCode.OK
    error = RpcError(code, message, not_processed=not_processed, retryable=retryable, retry_after=after)
    assert decode_error(encode_error(error, details, LIMITS), LIMITS)[1:3] == (message, details)


def test_the_number_of_details_is_limited() -> None:
    head = (13).to_bytes(2, "little") + bytes(5) + b"\x00"
    one = encode_bytes(b"d") + encode_bytes(b"")
    assert len(decode_error(head + encode_varint(1024) + one * 1024, LIMITS)[2]) == 1024
    with pytest.raises(RemoteProtocolError, match="at most 1024"):
        decode_error(head + encode_varint(1025) + one * 1025, LIMITS)


def test_the_name_of_a_detail_is_limited() -> None:
    head = (13).to_bytes(2, "little") + bytes(5) + b"\x00\x01"
    assert decode_error(head + encode_bytes(b"n" * 1024) + b"\x00", LIMITS)[2] == [("n" * 1024, b"")]
    with pytest.raises(RemoteProtocolError, match="at most 1024"):
        decode_error(head + encode_bytes(b"n" * 1025) + b"\x00", LIMITS)
