"""SETUP, the first frame of each side: who I am, what I speak, what I accept.

Body: parameters, each ``varint key, varint length, value``; unknown keys are skipped, each key stands at most once.
Source: docs/wire.md section 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from echostream_core.errors import ConfigError, LimitExceeded, RemoteProtocolError
from echostream_core.types import Buffer
from echostream_core.wire.events import POLICIES
from echostream_core.wire.frames import PREFIX, FrameType
from echostream_core.wire.limits import DEFAULT_MAX_MESSAGE_BYTES, INITIAL_MAX_CALLS, Limits
from echostream_core.wire.topics import check_pattern
from echostream_core.wire.varint import MAX_VARINT, Reader, encode_bytes, encode_varint

__all__ = ["DATAGRAMS", "Setup", "decode_setup", "encode_setup"]

DATAGRAMS: Final = 0x01
"""Capability bit: the sender takes datagrams that the mux emulates."""

_CODECS: Final = 1
_CAPABILITIES: Final = 2
_MAX_MESSAGE: Final = 3
_MAX_CALLS: Final = 4
_KEEPALIVE_FLOOR: Final = 5
_IDLE_LIMIT: Final = 6
_CREDENTIALS: Final = 7
_AGENT: Final = 8
_INLINE_MAX: Final = 9
_NAME: Final = 10
_LISTENERS: Final = 11
_COMPRESSION: Final = 12
_MAX_CODECS: Final = 32
_MAX_CREDENTIALS: Final = 16
_MAX_LISTENERS: Final = 256
_MAX_COMPRESSION: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The content of SETUP."""

    codecs: tuple[str, ...]
    """In order of preference; the sender's codec ids are places in it, from 1. ``json`` is always there."""
    capabilities: int = 0
    """Bits of optional features that the sender understands: ``DATAGRAMS``."""
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """The largest encoded request or response that the sender takes."""
    max_concurrent_calls: int = INITIAL_MAX_CALLS
    """Calls that the receiver of SETUP may have open at once."""
    keepalive_floor_ms: int = 0
    """PINGs more often than this are unwelcome."""
    idle_limit_ms: int = 0
    """The sender ends the session after so long without a sign of life; 0: never."""
    inline_max_bytes: int = 0
    """The largest body that the sender takes on the control substream; 0: only calls on substreams of their own."""
    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    """For the authenticator; never in a log."""
    agent: str = ""
    """Software and version, for logs."""
    name: str = ""
    """The endpoint's own name, for logs."""
    listeners: tuple[tuple[str, int, int], ...] = ()
    """What the sender listens to from the beginning: pattern, place of the policy in ``POLICIES``, largest queue. Their
    places here are the numbers of the subscriptions."""
    compression: tuple[str, ...] = ()
    """What the sender can compress and decompress with, in order of preference; empty: nothing."""


def encode_setup(setup: Setup, limits: Limits, grease: int = 0) -> bytes:
    """The whole frame; LimitExceeded when the credentials are too large. ``grease``: a random number, 0 for none."""
    parts = [_parameter(_CODECS, b"".join(encode_bytes(name.encode()) for name in setup.codecs))]
    for key, number in (
        (_CAPABILITIES, setup.capabilities),
        (_MAX_MESSAGE, setup.max_message_bytes),
        (_MAX_CALLS, setup.max_concurrent_calls),
        (_KEEPALIVE_FLOOR, setup.keepalive_floor_ms),
        (_IDLE_LIMIT, setup.idle_limit_ms),
        (_INLINE_MAX, setup.inline_max_bytes),
    ):
        parts.append(_parameter(key, encode_varint(number)))
    if setup.credentials:
        pairs = (encode_bytes(k.encode()) + encode_bytes(v.encode()) for k, v in setup.credentials.items())
        parts.append(_parameter(_CREDENTIALS, b"".join(pairs)))
    parts.append(_parameter(_AGENT, setup.agent.encode()))
    if setup.name:
        parts.append(_parameter(_NAME, setup.name.encode()))
    if setup.listeners:
        triples = (
            encode_bytes(pattern.encode()) + encode_varint(policy) + encode_varint(queue)
            for pattern, policy, queue in setup.listeners
        )
        parts.append(_parameter(_LISTENERS, b"".join(triples)))
    if setup.compression:
        parts.append(_parameter(_COMPRESSION, b"".join(encode_bytes(name.encode()) for name in setup.compression)))
    if grease:
        parts.append(_parameter(0x1A2A + grease % 4096 * 32, grease.to_bytes(8, "little")[: grease % 8]))
    if len(setup.codecs) > _MAX_CODECS:
        raise LimitExceeded(
            f"{len(setup.codecs)} codecs, at most {_MAX_CODECS} are offered: name fewer with codecs=",
            limit="codecs",
            value=len(setup.codecs),
            maximum=_MAX_CODECS,
        )
    if len(setup.credentials) > _MAX_CREDENTIALS:
        raise LimitExceeded(
            f"{len(setup.credentials)} credentials, at most {_MAX_CREDENTIALS} are sent",
            limit="credentials",
            value=len(setup.credentials),
            maximum=_MAX_CREDENTIALS,
        )
    if len(setup.listeners) > _MAX_LISTENERS:
        raise LimitExceeded(
            f"{len(setup.listeners)} listeners, at most {_MAX_LISTENERS} are announced: use wider patterns",
            limit="listeners",
            value=len(setup.listeners),
            maximum=_MAX_LISTENERS,
        )
    if len(setup.compression) > _MAX_COMPRESSION:
        raise LimitExceeded(
            f"{len(setup.compression)} compressions, at most {_MAX_COMPRESSION} are offered: name fewer",
            limit="compression",
            value=len(setup.compression),
            maximum=_MAX_COMPRESSION,
        )
    body = b"".join(parts)
    if len(body) > limits.max_setup_bytes:
        raise LimitExceeded(
            f"SETUP takes {len(body)} bytes, max_setup_bytes is {limits.max_setup_bytes}: shorten the credentials",
            limit="max_setup_bytes",
            value=len(body),
            maximum=limits.max_setup_bytes,
        )
    return PREFIX.pack(FrameType.SETUP, 0, 0, len(body)) + body


def decode_setup(body: Buffer) -> Setup:
    """Read the body of SETUP; RemoteProtocolError says what is wrong with it."""
    reader = Reader(body, "SETUP")
    values: dict[int, bytes] = {}
    while reader.remaining:
        key = reader.varint("a parameter's key")
        if key in values:
            raise RemoteProtocolError(f"SETUP: parameter {key} stands twice")
        values[key] = reader.data(f"parameter {key}", reader.remaining)
    codecs = _texts(values.get(_CODECS, b""), "codecs", _MAX_CODECS)
    if len(set(codecs)) != len(codecs) or "json" not in codecs:
        raise RemoteProtocolError("SETUP: codecs must list json and nothing twice")
    compression = _texts(values.get(_COMPRESSION, b""), "compression", _MAX_COMPRESSION)
    if len(set(compression)) != len(compression):
        raise RemoteProtocolError("SETUP: compression must list nothing twice")
    pairs = _texts(values.get(_CREDENTIALS, b""), "credentials", 2 * _MAX_CREDENTIALS)
    if len(pairs) % 2:
        raise RemoteProtocolError("SETUP: a credential has no value")
    max_calls = _number(values, _MAX_CALLS, INITIAL_MAX_CALLS)
    if max_calls < INITIAL_MAX_CALLS:
        raise RemoteProtocolError(f"SETUP: max_concurrent_calls is {max_calls}, below {INITIAL_MAX_CALLS}")
    return Setup(
        codecs=tuple(codecs),
        capabilities=_number(values, _CAPABILITIES, 0),
        max_message_bytes=_number(values, _MAX_MESSAGE, DEFAULT_MAX_MESSAGE_BYTES),
        max_concurrent_calls=max_calls,
        keepalive_floor_ms=_number(values, _KEEPALIVE_FLOOR, 0),
        idle_limit_ms=_number(values, _IDLE_LIMIT, 0),
        inline_max_bytes=_number(values, _INLINE_MAX, 0),
        credentials=dict(zip(pairs[::2], pairs[1::2], strict=True)),
        agent=_text(values, _AGENT),
        name=_text(values, _NAME),
        listeners=_listeners(values.get(_LISTENERS, b"")),
        compression=tuple(compression),
    )


def _listeners(value: bytes) -> tuple[tuple[str, int, int], ...]:
    reader = Reader(value, "SETUP listeners")
    found: list[tuple[str, int, int]] = []
    while reader.remaining:
        if len(found) == _MAX_LISTENERS:
            raise RemoteProtocolError(f"SETUP: more than {_MAX_LISTENERS} listeners")
        pattern = reader.text("a pattern", 255)
        try:
            check_pattern(pattern)
        except ConfigError as error:
            raise RemoteProtocolError(f"SETUP listeners: {error}") from error
        policy = reader.varint("a policy")
        if policy >= len(POLICIES):
            raise RemoteProtocolError(f"SETUP listeners: there is no overflow policy {policy}")
        found.append((pattern, policy, reader.varint("a queue")))
    return tuple(found)


def _parameter(key: int, value: bytes) -> bytes:
    return encode_varint(key) + encode_bytes(value)


def _number(values: dict[int, bytes], key: int, default: int) -> int:
    if key not in values:
        return default
    reader = Reader(values[key], f"SETUP parameter {key}")
    value = reader.varint("the number", MAX_VARINT)
    if reader.remaining:
        raise RemoteProtocolError(f"SETUP: parameter {key} has bytes behind its number")
    return value


def _text(values: dict[int, bytes], key: int) -> str:
    try:
        return values.get(key, b"").decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"SETUP: parameter {key} is not UTF-8") from error


def _texts(value: bytes, what: str, maximum: int) -> list[str]:
    reader = Reader(value, f"SETUP {what}")
    texts: list[str] = []
    while reader.remaining:
        if len(texts) == maximum:
            raise RemoteProtocolError(f"SETUP: more than {maximum} texts in {what}")
        texts.append(reader.text("a text", len(value)))
    return texts
