"""The TXT record: what an endpoint is, in strings of at most 255 bytes.

::

    txtvers=1                     of this form; another version is skipped
    service=calc                  the service's name
    rev=3f9a.12                   announcer and its count: an older record that comes late is not believed
    instance=node.eu-1            only where the label does not carry the name
    url1=quic://0.0.0.0:4433      in order, best first; a wildcard host stands for the addresses of the SRV's host
    url2=tcp://0.0.0.0:4433
    @weight=100                   attributes, each key behind an @
    @notes=…                      a value that is too long goes on in
    @notes+1=…                    numbered strings

Keys of TXT records are ASCII without case: in an attribute's key all but ``a-z 0-9 . _ -`` is percent-encoded, so
``Zone`` is ``@%5aone``. Values are UTF-8. Unknown keys are left out. Source: RFC 6763 section 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from echostream_core.errors import ConfigError
from echostream_core.types import Url

__all__ = ["MAX_RECEIVED_BYTES", "MAX_TXT_BYTES", "Advert", "MalformedTxt", "decode", "encode"]

MAX_STRING_BYTES: Final = 255
"""Of one string, key and value. Source: RFC 1035 section 3.3.14."""
MAX_TXT_BYTES: Final = 1_300
"""Of a record that we announce, so that all records of an instance go in one Ethernet frame. Source: RFC 6763
section 6.2."""
MAX_KEY_BYTES: Final = 100
"""Of an attribute's key, encoded: so much of every string is left for the value."""
MAX_RECEIVED_BYTES: Final = 4_096
"""Of a record of others that is looked at; it bounds what one instance can make us remember."""

MAX_COUNT_DIGITS: Final = 10
"""Of the count in ``rev``."""
_VERSION: Final = b"1"
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
_REVISION: Final = re.compile(r"([0-9a-f]{1,16})\.(\d{1,10})")
_BAD_URL: Final = re.compile(r"[\x00-\x20\x7f]")


class MalformedTxt(ValueError):
    """A record that is not in our form; the text says why, with what the stranger wrote left out."""


@dataclass(frozen=True, slots=True)
class Advert:
    """What a TXT record says; ``instance`` is "" where the label carries the name."""

    service: str
    instance: str
    urls: tuple[str, ...]
    attributes: Mapping[str, str]
    revision: tuple[str, int] | None = None
    """Announcer and count, where they are told."""

    def is_older_than(self, other: Advert) -> bool:
        """Whether the same announcer has said ``other`` later than this."""
        mine, theirs = self.revision, other.revision
        return mine is not None and theirs is not None and mine[0] == theirs[0] and mine[1] < theirs[1]


def encode(advert: Advert) -> bytes:
    """The record's data. ConfigError says which part of the endpoint is too large or cannot be written."""
    parts: list[tuple[str, str, str]] = [
        ("", "txtvers", "1"),
        ("the service's name", "service", advert.service),
    ]
    if advert.revision is not None:
        parts.append(("", "rev", f"{advert.revision[0]}.{advert.revision[1]}"))
    if advert.instance:
        parts.append(("the instance's name", "instance", advert.instance))
    for number, url in enumerate(advert.urls, 1):
        if _BAD_URL.search(url):
            raise ConfigError(f"the address {url!a} cannot be announced: it has a space or a control character")
        Url.parse(url)
        parts.append((f"the address {url}", f"url{number}", url))
    for key, text in advert.attributes.items():
        parts.append((f"the attribute {key!r}", "@" + _encoded_key(key), text))
    sizes: dict[str, int] = {}
    data = bytearray()
    for what, key, text in parts:
        before = len(data)
        for string in _strings(what, key.encode(), text):
            data.append(len(string))
            data += string
        sizes[what] = len(data) - before
    size = len(data)
    if advert.revision is not None:
        size += MAX_COUNT_DIGITS - len(str(advert.revision[1]))  # what fits now has to fit when the count has grown
    if size > MAX_TXT_BYTES:
        largest = max(sizes, key=lambda what: sizes[what])
        raise ConfigError(
            f"the endpoint is too large to be announced by mDNS: {size} of {MAX_TXT_BYTES} bytes, "
            f"the most of them in {largest[:80]} ({sizes[largest]} bytes)"
        )
    return bytes(data)


def _encoded_key(key: str) -> str:
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the key of the attribute {key!a} is no valid Unicode text") from None
    encoded = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in raw)
    if len(encoded) > MAX_KEY_BYTES:
        raise ConfigError(
            f"the key of the attribute {key[:40]!r} is too long for mDNS: "
            f"{len(encoded)} bytes, as they are encoded, of {MAX_KEY_BYTES}"
        )
    return encoded


def _strings(what: str, key: bytes, text: str) -> Iterator[bytes]:
    """``key=text``, and what is too long for one string in ``key+1=…`` and so on."""
    try:
        value = text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{what} is no valid Unicode text: {ascii(text)[:80]}") from None
    start = number = 0
    while True:
        head = (key if not number else key + b"+%d" % number) + b"="
        end = min(len(value), start + MAX_STRING_BYTES - len(head))
        while end < len(value) and value[end] & 0xC0 == 0x80:
            end -= 1  # a character stays whole, for those who read the strings one by one
        yield head + value[start:end]
        if end >= len(value):
            return
        start, number = end, number + 1


def decode(data: bytes) -> Advert:
    """What a record says. MalformedTxt when it is not in our form."""
    if len(data) > MAX_RECEIVED_BYTES:
        raise MalformedTxt(f"it has {len(data)} bytes, more than {MAX_RECEIVED_BYTES}")
    pairs: dict[bytes, bytes] = {}
    for string in _split(data):
        key, _, value = string.partition(b"=")
        pairs.setdefault(key.lower(), value)  # of two with one key the first counts: RFC 6763 section 6.4
    if pairs.get(b"txtvers", _VERSION) != _VERSION:
        raise MalformedTxt("it is of another version than 1")
    service = _joined(pairs, b"service")
    if not service:
        raise MalformedTxt("it names no service")
    urls = tuple(_urls(pairs))
    if not urls:
        raise MalformedTxt("it has no url1")
    attributes: dict[str, str] = {}
    for key in pairs:
        if key[:1] == b"@" and b"+" not in key:
            attributes[_text(unquote_to_bytes(key[1:]))] = _joined(pairs, key) or ""
    revision = _REVISION.fullmatch(_text(pairs.get(b"rev", b"")))
    return Advert(
        service=service,
        instance=_joined(pairs, b"instance") or "",
        urls=urls,
        attributes=attributes,
        revision=(revision[1], int(revision[2])) if revision else None,
    )


def _split(data: bytes) -> Iterable[bytes]:
    """The strings of a record; one that is cut off is left out."""
    position = 0
    while position < len(data):
        end = position + 1 + data[position]
        if end <= len(data) and end > position + 1:
            yield data[position + 1 : end]
        position = end


def _joined(pairs: Mapping[bytes, bytes], key: bytes) -> str | None:
    """The value of ``key`` with all that follows in numbered strings; None when there is no such key."""
    first = pairs.get(key)
    if first is None:
        return None
    parts = [first]
    while (more := pairs.get(key + b"+%d" % len(parts))) is not None:
        parts.append(more)
    return _text(b"".join(parts))


def _urls(pairs: Mapping[bytes, bytes]) -> Iterator[str]:
    number = 1
    while (url := _joined(pairs, b"url%d" % number)) is not None:
        try:
            if _BAD_URL.search(url):
                raise ConfigError("a space or a control character")
            Url.parse(url)
        except ConfigError:
            raise MalformedTxt(f"its url{number} is no URL") from None
        yield url
        number += 1


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MalformedTxt("a value is not UTF-8") from None
