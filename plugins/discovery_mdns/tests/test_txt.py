"""The TXT form: what goes in comes out, there are limits, and strangers' mistakes are refused in words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echostream_core.errors import ConfigError
from echostream_discovery_mdns import txt
from echostream_discovery_mdns.txt import Advert, MalformedTxt, decode, encode

URL = "tcp://127.0.0.1:4001"


def advert(**changes: object) -> Advert:
    fields: dict[str, object] = {"service": "calc", "instance": "", "urls": (URL,), "attributes": {}} | changes
    return Advert(**fields)  # type: ignore[arg-type]  # the tests say what they mean


def strings(data: bytes) -> list[bytes]:
    found = []
    while data:
        found.append(data[1 : 1 + data[0]])
        data = data[1 + data[0] :]
    return found


def record(*items: bytes) -> bytes:
    return b"".join(bytes([len(item)]) + item for item in items)


def test_the_form_is_the_documented_one() -> None:
    made = encode(
        advert(
            instance="node.eu-1",
            urls=("quic://0.0.0.0:4433", URL),
            attributes={"weight": "100", "Zone": "ü", "": "x", "a=b+c": ""},
            revision=("3f9a", 12),
        )
    )
    assert strings(made) == [
        b"txtvers=1",
        b"service=calc",
        b"rev=3f9a.12",
        b"instance=node.eu-1",
        b"url1=quic://0.0.0.0:4433",
        b"url2=tcp://127.0.0.1:4001",
        b"@weight=100",
        b"@%5aone=\xc3\xbc",
        b"@=x",
        b"@a%3db%2bc=",
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=200, deadline=None)
@given(TEXT.filter(bool), TEXT, st.dictionaries(TEXT.filter(lambda key: len(key.encode()) < 34), TEXT, max_size=4))
def test_any_text_comes_back_as_it_was(service: str, instance: str, attributes: dict[str, str]) -> None:
    sent = advert(service=service, instance=instance, attributes=attributes, revision=("ab", 7))
    assert decode(encode(sent)) == sent


@pytest.mark.parametrize("length", [244, 245, 246, 490, 491, 600])
@pytest.mark.parametrize("sign", ["x", "ü", "\N{GRINNING FACE}"])
def test_a_long_value_goes_on_in_numbered_strings_at_whole_characters(sign: str, length: int) -> None:
    value = sign * (length // len(sign.encode()))
    made = encode(advert(attributes={"notes": value}, service=value))
    for string in strings(made):
        assert len(string) <= 255
        string.decode()
    again = decode(made)
    assert again.attributes == {"notes": value} and again.service == value


def test_a_string_is_filled_up_to_255_bytes() -> None:
    room = 255 - len(b"@n=")
    assert [len(string) for string in strings(encode(advert(attributes={"n": "x" * room})))[-1:]] == [255]
    *_, first, second = strings(encode(advert(attributes={"n": "x" * (room + 1)})))
    assert (len(first), second) == (255, b"@n+1=x")


def test_a_record_of_1300_bytes_is_announced_and_one_more_names_what_is_large() -> None:
    def made(length: int) -> bytes:
        return encode(advert(attributes={"notes": "x" * length, "small": "y"}))

    length = next(length for length in range(1_300, 0, -1) if len_or_none(length) is not None)
    assert len(made(length)) == txt.MAX_TXT_BYTES
    with pytest.raises(ConfigError, match=r"1301 of 1300 bytes, the most of them in the attribute 'notes'"):
        made(length + 1)


def test_what_is_announced_once_is_small_enough_however_often_it_changes() -> None:
    room = next(room for room in range(1_300, 0, -1) if fits("x" * room, 9_999_999_999))
    assert fits("x" * room, 1) and not fits("x" * (room + 1), 1)


def fits(notes: str, count: int) -> bool:
    try:
        encode(advert(attributes={"notes": notes}, revision=("ab", count)))
    except ConfigError:
        return False
    return True


def len_or_none(length: int) -> int | None:
    try:
        return len(encode(advert(attributes={"notes": "x" * length, "small": "y"})))
    except ConfigError:
        return None


def test_a_key_of_100_bytes_is_announced_and_a_longer_one_is_named() -> None:
    assert decode(encode(advert(attributes={"k" * 100: "v"}))).attributes == {"k" * 100: "v"}
    with pytest.raises(ConfigError, match=r"'k{40}' is too long for mDNS: 101 bytes, as they are encoded, of 100"):
        encode(advert(attributes={"k" * 101: "v"}))
    with pytest.raises(ConfigError, match="102 bytes"):
        encode(advert(attributes={"K" * 34: "v"}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attributes": {"a": "\ud800"}}, r"attribute 'a' is no valid Unicode"),
        ({"attributes": {"\ud800": "a"}}, r"key of the attribute '\\ud800' is no valid"),
        ({"urls": ("tcp://a b:1",)}, "a space or a control character"),
        ({"urls": ("nowhere",)}, "'nowhere' is not a URL"),
        ({"urls": ("tcp://user:secret@a:1",)}, "must not carry a user name or password"),
    ],
)
def test_what_cannot_be_written_is_a_config_error(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        encode(advert(**changes))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it names no service"),
        (record(b"service=calc"), "no url1"),
        (record(b"service", b"url1=tcp://a:1"), "it names no service"),
        (record(b"txtvers=2", b"service=calc", b"url1=tcp://a:1"), "another version"),
        (record(b"service=calc", b"url2=tcp://a:1"), "no url1"),
        (record(b"service=calc", b"url1=tcp://a b"), "url1 is no URL"),
        (record(b"service=calc", b"url1=tcp://a:1", b"url2=//"), "url2 is no URL"),
        (record(b"service=calc", b"url1=tcp://a:99999"), "url1 is no URL"),
        (record(b"service=\xff", b"url1=tcp://a:1"), "not UTF-8"),
        (record(b"service=calc", b"url1=tcp://a:1", b"@%ff=x"), "not UTF-8"),
        (record(b"service=calc", b"url1=tcp://a:1", b"@x=\xff"), "not UTF-8"),
        (b"\xff" * 40, "it names no service"),
        (record(*[b"x" * 255] * 17), "more than 4096"),
    ],
    ids=str,
)
def test_what_is_not_in_our_form_is_refused_in_words(data: bytes, says: str) -> None:
    with pytest.raises(MalformedTxt, match=says):
        decode(data)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"service=c", b"txtvers=1", b"url1=tcp://[", b"url1=a://b", b"@+1=", b"@%=", b"@%ff", b"rev=a.1"]
            ),
        ),
        max_size=8,
    ).map(lambda items: record(*items))
    | st.binary(max_size=300)
)
def test_whatever_comes_is_understood_or_malformed(data: bytes) -> None:
    try:
        found = decode(data)
    except MalformedTxt:
        return
    assert found.service and found.urls


def test_what_a_stranger_may_write_otherwise_is_understood() -> None:
    data = record(
        b"", b"SERVICE=calc", b"service=other", b"Url1=tcp://a:1", b"@flag", b"new=thing", b"=", b"rev=nonsense"
    )
    found = decode(data)
    assert (found.service, found.urls, found.attributes) == ("calc", ("tcp://a:1",), {"flag": ""})
    assert found.revision is None


def test_a_record_of_4096_bytes_is_read() -> None:
    data = record(b"service=calc", b"url1=tcp://a:1")
    data += record(*[b"x" * 255] * 15)
    data += record(b"x" * (txt.MAX_RECEIVED_BYTES - len(data) - 1))
    assert len(data) == txt.MAX_RECEIVED_BYTES
    assert decode(data).service == "calc"


def test_only_an_earlier_word_of_the_same_announcer_is_older() -> None:
    newer = advert(revision=("ab", 10))
    assert advert(revision=("ab", 9)).is_older_than(newer)
    for revision in (("ab", 10), ("ab", 11), ("cd", 1), None):
        assert not advert(revision=revision).is_older_than(newer)
        assert not newer.is_older_than(advert(revision=None))
