"""Topics and the patterns that subscribe to them.

A topic is a name of segments joined by dots, ``chat.lobby.joined``. A pattern may have ``*`` in place of a segment,
which matches any one, and ``**`` as its last segment, which matches one or more: ``chat.*`` matches ``chat.lobby``
only, ``chat.**`` also ``chat.lobby.joined``, and ``**`` matches everything. Source: docs/wire.md section 12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from echostream_core.errors import ConfigError

__all__ = ["MAX_SEGMENTS", "check_pattern", "check_topic", "compile_pattern"]

MAX_SEGMENTS: Final = 8
"""Of a topic or pattern: matching one costs no more than this many comparisons. Protocol constant."""
_MAX_NAME_BYTES: Final = 255


def check_topic(topic: str) -> bytes:
    """The UTF-8 bytes of a topic; ConfigError when it cannot be one."""
    data = _check(topic, "topic")
    if "*" in topic:
        raise ConfigError(f"{topic[:80]!r} is no topic: '*' stands in patterns only, an event has one topic")
    return data


def check_pattern(pattern: str) -> bytes:
    """The UTF-8 bytes of a pattern; ConfigError says which rule it breaks."""
    data = _check(pattern, "pattern")
    *front, last = pattern.split(".")
    for segment in front:
        if segment == "**":
            raise ConfigError(f"{pattern[:80]!r} is no pattern: '**' can only be the last segment")
    for segment in (*front, last):
        if "*" in segment and segment not in ("*", "**"):
            raise ConfigError(f"{pattern[:80]!r} is no pattern: '*' stands for a whole segment, as in 'chat.*'")
    return data


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that says whether a topic matches ``pattern``, which has been checked."""
    if "*" not in pattern:
        return pattern.__eq__
    if pattern == "**":
        return lambda _topic: True
    segments = pattern.split(".")
    open_end = segments[-1] == "**"
    if open_end:
        segments.pop()
    count = len(segments)
    fixed = [(place, segment) for place, segment in enumerate(segments) if segment != "*"]

    def matches(topic: str) -> bool:
        parts = topic.split(".")
        if len(parts) <= count if open_end else len(parts) != count:
            return False
        return all(parts[place] == segment for place, segment in fixed)

    return matches


def _check(name: str, what: str) -> bytes:
    try:
        data = name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name[:80]!r} is no {what}: it has a lone surrogate") from error
    if not 0 < len(data) <= _MAX_NAME_BYTES or any(ord(sign) < 33 for sign in name):
        raise ConfigError(f"{name[:80]!r} is no {what}: 1 to {_MAX_NAME_BYTES} bytes without spaces or controls")
    segments = name.split(".")
    if len(segments) > MAX_SEGMENTS:
        raise ConfigError(f"{name[:80]!r} has {len(segments)} segments, a {what} has at most {MAX_SEGMENTS}")
    if not all(segments):
        raise ConfigError(f"{name[:80]!r} is no {what}: a segment is empty")
    return data
