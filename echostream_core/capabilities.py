"""What a connection can do, as data.

The same record is used at three levels: the upper bound that a plugin claims, what is left of it with the options
configured, and what was negotiated on one connection. Needs (``require = ["streams", "datagrams=native"]``) are
checked against it when the configuration is checked, not at the first send. Nothing is emulated silently.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Literal

from echostream_core.errors import ConfigError

__all__ = ["Capabilities"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a transport, or one connection over it, can do."""

    streams: Literal["native", "muxed", "none"] = "none"
    """Substreams: the transport's own, made by the kernel's mux over one pipe, or none."""
    datagrams: Literal["native", "emulated", "none"] = "none"
    """Unordered, unreliable messages; emulated ones are ordered and reliable after all."""
    reset: bool = False
    """Either side can give up one direction of one substream with a code, and leave the rest alone."""
    half_close: bool = False
    """One direction of a substream can end while the other goes on."""
    flow_control: bool = False
    """A reader that does not consume stops the writer, per substream."""
    early_data: Literal["none", "replayable"] = "none"
    """Data may travel before the handshake is complete, and may then be replayed by an attacker."""
    migration: bool = False
    """The connection survives a change of address."""
    peer_identity: bool = False
    """The transport can prove who the peer is (a verified client certificate, a process's user id)."""
    encrypted: bool = False
    """What travels is encrypted and the listener's identity is verified."""
    socket_handover: bool = False
    """A listening socket can be handed to another process without losing a connection."""
    in_process: bool = False
    """Both ends live in one process."""
    priorities: bool = False
    """Urgent substreams overtake bulk ones on the way to the network."""

    def unmet(self, require: Iterable[str], *, key: str = "require") -> list[str]:
        """The needs among ``require`` that this record does not fulfil, in their order.

        A need is a field's name (true, or any level but "none") or ``name=level``. An unknown name or level is a
        ConfigError that names ``key`` and suggests the nearest.
        """
        known = {field.name: str(field.type) for field in fields(self)}
        missing = []
        for need in require:
            name, equals, level = need.partition("=")
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
                raise ConfigError(f"{key}: there is no capability {name!r}{hint}", key=key)
            value = getattr(self, name)
            if equals:
                levels = ("true", "false") if isinstance(value, bool) else _levels(known[name])
                if level not in levels:
                    raise ConfigError(f"{key}: {name!r} has no level {level!r}; known are {', '.join(levels)}", key=key)
                fulfilled = str(value).lower() == level
            else:
                fulfilled = value is True or value not in (False, "none")
            if not fulfilled:
                missing.append(need)
        return missing

    def with_emulated_datagrams(self) -> Capabilities:
        """The record of a pipe's connection on which both ends emulate datagrams; others are not changed."""
        if self.streams != "muxed" or self.datagrams != "none":
            return self
        return replace(self, datagrams="emulated")

    def as_dict(self) -> dict[str, bool | str]:
        """The record as plain data, fields in their order."""
        return asdict(self)


def _levels(annotation: str) -> tuple[str, ...]:
    return tuple(part.strip(" \"'") for part in annotation.removeprefix("Literal[").removesuffix("]").split(","))
