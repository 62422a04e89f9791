"""SETTINGS and header sections."""

from __future__ import annotations

import pylsqpack
import pytest

from echostream_quic.frames import varint
from echostream_webtransport._errors import Http3Error, StreamError
from echostream_webtransport.codes import H3
from echostream_webtransport.headers import HeaderCodec, TooLarge
from echostream_webtransport.settings import (
    encode_settings,
    has_datagrams,
    has_webtransport,
    local_settings,
    parse_settings,
)

REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"here"), (b":path", b"/")]


def block(lines: list[tuple[bytes, bytes]]) -> bytes:
    return pylsqpack.Encoder().encode(0, lines)[1]


def test_ours_are_read_back_and_offer_webtransport_in_the_words_of_every_draft() -> None:
    settings = parse_settings(encode_settings(local_settings(1_000)))
    assert settings == local_settings(1_000)
    assert has_webtransport(settings)
    assert has_datagrams(settings)
    assert settings[6] == 1_000


@pytest.mark.parametrize("key", [0x2B603742, 0xC671706A, 0x14E9CD29])
def test_each_drafts_setting_alone_is_an_offer(key: int) -> None:
    assert has_webtransport({key: 1})
    assert not has_webtransport({key: 0})


@pytest.mark.parametrize("key", [0x33, 0xFFD277])
def test_datagrams_are_offered_in_old_words_and_new(key: int) -> None:
    assert has_datagrams({key: 1})
    assert not has_datagrams({key: 0, 0x2B603742: 1})


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (varint(1), H3.FRAME_ERROR),
        (varint(0x2B603742)[:2], H3.FRAME_ERROR),
        (varint(1) + varint(70)[:1], H3.FRAME_ERROR),
        (encode_settings({1: 0}) * 2, H3.SETTINGS_ERROR),
        *((encode_settings({key: 0}), H3.SETTINGS_ERROR) for key in (0, 2, 3, 4, 5)),
        (encode_settings({0x33: 2}), H3.SETTINGS_ERROR),
        (encode_settings({0x08: 2}), H3.SETTINGS_ERROR),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else value.name,
)
def test_settings_that_cannot_be_are_refused(value: bytes, code: H3) -> None:
    with pytest.raises(Http3Error) as error:
        parse_settings(value)
    assert error.value.code is code


def test_a_header_section_is_read_as_it_was_written() -> None:
    codec = HeaderCodec(1_000)
    lines = [*((name.decode(), value.decode()) for name, value in REQUEST), ("x-what", "ever")]
    assert codec.request(0, codec.encode(0, lines)) == dict(lines)
    answer = [(":status", "404"), ("content-type", "text/plain")]
    assert codec.response(0, codec.encode(0, answer)) == dict(answer)


def test_lines_of_one_name_are_joined() -> None:
    request = HeaderCodec(1_000).request(0, block([*REQUEST, (b"a", b"1"), (b"a", b"2")]))
    assert request["a"] == "1, 2"


def test_a_section_may_be_as_large_as_was_said_and_no_larger() -> None:
    size = sum(len(name) + len(value) + 32 for name, value in REQUEST)
    lines = [*REQUEST, (b"x", b"y" * 100)]
    codec = HeaderCodec(size + 133)
    codec.request(0, block(lines))
    with pytest.raises(TooLarge):
        HeaderCodec(size + 132).request(0, block(lines))


@pytest.mark.parametrize(
    "lines",
    [
        REQUEST[1:],
        [*REQUEST, REQUEST[0]],
        [(b"x", b"y"), *REQUEST],
        [*REQUEST, (b":other", b"x")],
        [*REQUEST, (b"Upper", b"case")],
        [*REQUEST, (b"connection", b"close")],
        [*REQUEST, (b"x", b"a\r\nb: c")],
        [*REQUEST, (b"x y", b"z")],
    ],
    ids=["missing", "twice", "behind", "unknown", "upper case", "connection", "line break", "space"],
)
def test_a_malformed_request_concerns_its_stream_only(lines: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(StreamError) as error:
        HeaderCodec(10_000).request(0, block(lines))
    assert error.value.code is H3.MESSAGE_ERROR


@pytest.mark.parametrize("status", [b"20", b"abc", b"101", b""])
def test_a_malformed_answer_is_refused(status: bytes) -> None:
    with pytest.raises(StreamError):
        HeaderCodec(10_000).response(0, block([(b":status", status)]))


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 10, b"\x02\x00\x80", b"\x00\x00\x50\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
)
def test_what_is_no_header_section_ends_the_connection(data: bytes) -> None:
    with pytest.raises(Http3Error) as error:
        HeaderCodec(10_000).request(0, data)
    assert error.value.code is H3.QPACK_DECOMPRESSION_FAILED


def test_a_dynamic_table_was_not_offered_and_is_not_taken() -> None:
    codec = HeaderCodec(10_000)
    codec.feed_encoder(b"")
    codec.feed_encoder(b"\x20")  # capacity 0
    with pytest.raises(Http3Error) as error:
        codec.feed_encoder(b"\x3f\xe1\x1f")  # capacity 4096
    assert error.value.code is H3.QPACK_ENCODER_STREAM_ERROR
    with pytest.raises(Http3Error) as error:
        codec.feed_decoder(b"\x81")  # an acknowledgement of a section that used it
    assert error.value.code is H3.QPACK_DECODER_STREAM_ERROR
