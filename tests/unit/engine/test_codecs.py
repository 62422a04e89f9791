"""Numbering of codecs: each side's numbers are places in its own SETUP."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from echostream_core import DecodeError, EncodeError, RemoteProtocolError, RpcError, StatusCode
from echostream_core.builtin.json_codec import JsonCodec
from echostream_core.codec import Codec
from echostream_core.engine.codecs import SessionCodecs
from echostream_core.types import Buffer


class Reversed(Codec):
    """A codec of text, backwards."""

    def __init__(self, name: str = "backwards") -> None:
        self.name = name

    def encode(self, value: object) -> bytes:
        if not isinstance(value, str):
            raise EncodeError(f"no text: {type(value).__name__}", path="$")
        return value[::-1].encode()

    def decode(self, data: Buffer) -> object:
        try:
            return bytes(data).decode()[::-1]
        except UnicodeDecodeError as error:
            raise DecodeError("no text") from error


def ours() -> SessionCodecs:
    return SessionCodecs((Reversed(), JsonCodec()))


def test_before_setup_it_writes_with_its_first_codec() -> None:
    codecs = ours()
    assert codecs.names == ("backwards", "json")
    assert codecs.out_id == 1
    assert codecs.encode("abc") == b"cba"
    assert not codecs.settled


def test_after_setup_it_writes_with_its_first_codec_that_the_peer_lists() -> None:
    codecs = ours()
    codecs.settle(("other", "json"))
    assert codecs.settled
    assert codecs.out_id == 2
    assert codecs.encode("abc") == b'"abc"'


def test_the_order_of_the_peer_does_not_matter() -> None:
    codecs = ours()
    codecs.settle(("json", "backwards"))
    assert codecs.out_id == 1


def test_numbers_of_the_peer_are_places_in_its_list() -> None:
    codecs = ours()
    codecs.settle(("other", "json", "backwards"))
    assert codecs.decoder(1) is None
    json, backwards = codecs.decoder(2), codecs.decoder(3)
    assert json is not None and backwards is not None
    assert json(b'"abc"') == "abc"
    assert backwards(b"abc") == "cba"


def test_zero_is_raw_bytes() -> None:
    codecs = ours()
    raw = codecs.decoder(0)
    assert raw is not None
    assert raw(memoryview(b"abc")) == b"abc"
    assert codecs.encode_with(0, memoryview(b"abc")) == b"abc"
    with pytest.raises(RpcError, match="raw content is bytes, not int"):
        codecs.encode_with(0, 5)


def test_a_number_that_the_peer_never_listed_breaks_the_protocol() -> None:
    codecs = ours()
    with pytest.raises(RemoteProtocolError, match="codec id 1, the peer's SETUP lists 0"):
        codecs.decoder(1)
    codecs.settle(("json",))
    with pytest.raises(RemoteProtocolError, match="codec id 2"):
        codecs.decoder(2)


def test_an_answer_uses_the_codec_of_its_request() -> None:
    codecs = ours()
    codecs.settle(("json", "backwards"))
    assert [codecs.answer_id(number) for number in (1, 2)] == [2, 1]
    assert codecs.answer_id(0) == codecs.out_id


def test_an_answer_to_what_we_cannot_read_can_still_be_written() -> None:
    codecs = ours()
    codecs.settle(("other", "json"))
    assert codecs.encode_with(codecs.answer_id(1), "why") == b'"why"'


def test_names_are_those_of_our_own_list() -> None:
    codecs = ours()
    assert [codecs.name(number) for number in range(3)] == ["raw", "backwards", "json"]


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Shirt:
    colour: Colour
    bought: datetime


def test_rich_types_are_made_plain() -> None:
    codecs = SessionCodecs((JsonCodec(),))
    shirt = Shirt(Colour.RED, datetime(2026, 1, 2, tzinfo=UTC))
    assert codecs.encode_with(1, [shirt]) == b'[{"colour":"red","bought":"2026-01-02T00:00:00Z"}]'


@pytest.mark.parametrize("value", [object(), {"a": [object()]}, 2**70, float("nan"), lambda: None])
def test_what_cannot_be_carried_is_an_argument_that_is_invalid(value: object) -> None:
    codecs = SessionCodecs((JsonCodec(),))
    with pytest.raises(RpcError, match="cannot be sent") as caught:
        codecs.encode_with(1, value)
    assert caught.value.code is StatusCode.INVALID_ARGUMENT
    assert caught.value.not_processed


def test_a_value_that_contains_itself_cannot_be_sent() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(RpcError, match="cannot be sent"):
        SessionCodecs((JsonCodec(),)).encode_with(1, endless)
