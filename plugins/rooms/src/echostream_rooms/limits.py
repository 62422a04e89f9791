"""What a room and its members may cost, by name, with defaults and reasons."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

from echostream_core import ConfigError, RpcError, StatusCode
from echostream_rooms.backplane import Retention

__all__ = ["RoomLimits", "check_room_name", "exhausted", "make_limits"]

_MAX_SEGMENTS: Final = 7
"""A room's events have the topic ``rooms.NAME``, and a topic has at most eight segments."""
_SEGMENT: Final = re.compile(r"[^\s.*\x00-\x20\x7f\ud800-\udfff]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomLimits:
    """The limits of one ``Rooms``. All nodes that share rooms should have the same."""

    max_rooms_per_session: int = 64
    """Rooms that one session may be in."""
    max_members_per_room: int = 10_000
    """Members of a room on all nodes; the answer to a join lists them."""
    max_rooms: int = 10_000
    """Rooms with members on this node."""
    max_name_bytes: int = 128
    """UTF-8 bytes of a room's name; at most 240, which a topic has room for."""
    max_payload_bytes: int = 65_536
    """One message, as the backplane keeps it."""
    max_info_bytes: int = 1_024
    """What a member says of itself when it joins; every member is told."""
    history_count: int = 100
    """Messages of a room that are kept; 0: none."""
    history_bytes: int = 1_048_576
    """The same in bytes."""
    history_age_s: float = 300.0
    """The same in seconds: five minutes cover a lift, a tunnel and a change of networks."""

    @property
    def retention(self) -> Retention:
        """What the backplane is told to keep."""
        return Retention(self.history_count, self.history_bytes, self.history_age_s)


def make_limits(changes: RoomLimits | Mapping[str, float] | None) -> RoomLimits:
    """``RoomLimits`` with changes by name; ConfigError names a wrong one and suggests the nearest."""
    if isinstance(changes, RoomLimits):
        limits = changes
    else:
        known = [item.name for item in fields(RoomLimits)]
        for name in changes or {}:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"rooms: there is no limit {name!r}{hint}", key=f"limits.{name}")
        limits = replace(RoomLimits(), **(changes or {}))  # type: ignore[arg-type]  # the types are checked below
    for item in fields(RoomLimits):
        value = getattr(limits, item.name)
        least = 0 if item.name.startswith("history") else 1
        whole = item.type == "int"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
            kind = "whole number" if whole else "number"
            raise ConfigError(f"rooms: {item.name} must be a {kind} from {least}, not {value!r}", key=item.name)
    if limits.max_name_bytes > 240:
        raise ConfigError("rooms: max_name_bytes must be at most 240: a topic has 255 bytes", key="max_name_bytes")
    if not math.isfinite(limits.history_age_s):
        raise ConfigError("rooms: history_age_s must be finite; a year is 31536000", key="history_age_s")
    return limits


def check_room_name(name: str, limits: RoomLimits) -> None:
    """RpcError(INVALID_ARGUMENT) that says which rule ``name`` breaks."""
    if len(name.encode(errors="surrogatepass")) > limits.max_name_bytes:
        text = f"a room's name has at most max_name_bytes = {limits.max_name_bytes} bytes, not {len(name.encode())}"
        raise RpcError(StatusCode.INVALID_ARGUMENT, text)
    segments = name.split(".")
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        text = f"{name[:80]!r} is no room: no spaces, controls or '*', and something on both sides of each dot"
        raise RpcError(StatusCode.INVALID_ARGUMENT, text)
    if len(segments) > _MAX_SEGMENTS:
        raise RpcError(StatusCode.INVALID_ARGUMENT, f"{name[:80]!r} has more than {_MAX_SEGMENTS - 1} dots")


def exhausted(limits: RoomLimits, limit: str, what: str) -> RpcError:
    """The answer where ``limit`` is reached."""
    text = f"{what}: {limit} is {getattr(limits, limit)}"
    return RpcError(StatusCode.RESOURCE_EXHAUSTED, text, retryable=limit != "max_payload_bytes")
