"""The file that says what to cross with what, read and checked."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from echostream_core import ConfigError

__all__ = ["Implementation", "Pairing", "Plan", "Tls", "load_plan"]

_LISTEN: Final = {"unix": "unix://{folder}/socket"}
"""Where a listener binds when the plan names a scheme only and a host and a port make no sense for it."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Implementation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[implementations.NAME]``: one program."""

    command: tuple[str, ...]
    """The program and its arguments. The role is told by the environment alone."""
    env: dict[str, str] = {}
    """Variables that it needs besides."""
    roles: tuple[Literal["listener", "dialer"], ...] = ("listener", "dialer")
    folder: str = ""
    """Where it is started; default: where the runner is."""
    version: str = ""
    """Shown instead of the version that it says of itself: a commit, for instance."""


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[tls]``: for encrypted transports. PEM files."""

    certificate: str = ""
    private_key: str = ""
    ca: str = ""
    """What dialers trust; default: ``certificate``, which serves when it is self-signed."""
    server_name: str = ""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[matrix]``."""

    transports: tuple[str, ...]
    codecs: tuple[str, ...] = ("json",)
    cases: tuple[str, ...] = ("all",)
    seed: int = 1
    parallel: int = 1
    ready_timeout_s: float = 20.0
    case_timeout_s: float = 20.0
    timeout_s: float = 300.0
    stop_timeout_s: float = 15.0
    pairs: Literal["all", "same", "different"] = "all"


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    matrix: _Section
    implementations: dict[str, Implementation]
    tls: Tls = Tls()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """One run: who listens, who dials, over what."""

    listener: str
    dialer: str
    transport: str
    """The scheme."""
    listen: str
    """The URL to bind, in which ``{folder}`` stands for a folder of the run's own."""
    codec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to cross."""

    implementations: Mapping[str, Implementation]
    transports: tuple[str, ...]
    """Schemes, or URLs to bind."""
    codecs: tuple[str, ...]
    cases: tuple[str, ...] = ("all",)
    """Names, or ``all``: those that the dialer knows."""
    seed: int = 1
    parallel: int = 1
    """Runs at the same time."""
    ready_timeout_s: float = 20.0
    """From the start of a listener to its telling where it listens."""
    case_timeout_s: float = 20.0
    timeout_s: float = 300.0
    """For all cases of one run."""
    stop_timeout_s: float = 15.0
    """From SIGTERM to the end of a listener."""
    pairs: Literal["all", "same", "different"] = "all"
    """Which implementations meet: all with all, each with itself, or each with the others."""
    tls: Tls = field(default_factory=Tls)

    def pairings(self) -> Iterator[Pairing]:
        """Every run, in the order of the file."""
        listeners = [name for name, one in self.implementations.items() if "listener" in one.roles]
        dialers = [name for name, one in self.implementations.items() if "dialer" in one.roles]
        for listener in listeners:
            for dialer in dialers:
                if (self.pairs == "same" and listener != dialer) or (self.pairs == "different" and listener == dialer):
                    continue
                for transport in self.transports:
                    for codec in self.codecs:
                        yield Pairing(
                            listener=listener,
                            dialer=dialer,
                            transport=scheme_of(transport),
                            listen=_listen(transport),
                            codec=codec,
                        )


def scheme_of(transport: str) -> str:
    """The scheme of a scheme or URL."""
    return transport.partition("://")[0]


def _listen(transport: str) -> str:
    return transport if "://" in transport else _LISTEN.get(transport, f"{transport}://127.0.0.1:0")


def load_plan(path: Path, changes: Mapping[str, Sequence[str]] | None = None) -> Plan:
    """Read a plan; ``changes`` replace ``transports``, ``codecs``, ``cases`` and select ``implementations``.

    In commands, variables, folders and TLS paths ``{here}`` is the folder of the file and ``{python}`` this Python.
    ConfigError says what is wrong.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        read = msgspec.convert(raw, _File)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    changes = {name: tuple(values) for name, values in (changes or {}).items() if values}
    filled = {name: _filled(one, path) for name, one in read.implementations.items()}
    for name in changes.get("implementations", ()):
        if name not in filled:
            raise ConfigError(f"{path}: there is no [implementations.{name}]; known are {', '.join(filled)}")
    chosen = changes.pop("implementations", None) or filled
    settings: dict[str, Any] = {**msgspec.structs.asdict(read.matrix), **changes}
    tls = Tls(**{name: _fill(value, path) for name, value in msgspec.structs.asdict(read.tls).items()})
    plan = Plan(implementations={name: filled[name] for name in filled if name in chosen}, tls=tls, **settings)
    _check(plan, path)
    return plan


def _fill(text: str, path: Path) -> str:
    return text.replace("{here}", str(path.resolve().parent)).replace("{python}", sys.executable)


def _filled(one: Implementation, path: Path) -> Implementation:
    return Implementation(
        command=tuple(_fill(word, path) for word in one.command),
        env={name: _fill(value, path) for name, value in one.env.items()},
        roles=one.roles,
        folder=_fill(one.folder, path),
        version=one.version,
    )


def _check(plan: Plan, path: Path) -> None:
    for name, one in plan.implementations.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: {name!r} is no name: letters, digits, dots, hyphens and underscores")
        if not one.command or not one.roles:
            raise ConfigError(f"{path}: [implementations.{name}] needs a command and at least one role")
    for number in ("parallel", "ready_timeout_s", "case_timeout_s", "timeout_s", "stop_timeout_s"):
        if getattr(plan, number) <= 0:
            raise ConfigError(f"{path}: [matrix] {number} must be above 0, not {getattr(plan, number)}")
    for list_name in ("transports", "codecs", "cases"):
        if not getattr(plan, list_name):
            raise ConfigError(f"{path}: [matrix] {list_name} is empty")
    if not any(plan.pairings()):
        raise ConfigError(f"{path}: nobody meets anybody: a listener and a dialer are needed")
    for key in ("certificate", "private_key", "ca"):
        file = getattr(plan.tls, key)
        if file and not os.path.isfile(file):
            raise ConfigError(f"{path}: [tls] {key}: there is no file {file}")
