"""The contract between the runner and the two roles: variables in, exit status and a JSON file out.

``docs/interop.md`` is its specification; what is here reads and writes it for our own implementation and for the
runner.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import echostream_core
from echostream_core import ConfigError

__all__ = [
    "CONTRACT_VERSION",
    "FAILED",
    "PASSED",
    "PREFIX",
    "UNSUPPORTED",
    "VARIABLES",
    "CaseResult",
    "Outcome",
    "Settings",
    "implementation",
    "overall",
    "pattern",
    "read_settings",
    "write_json",
]

CONTRACT_VERSION: Final = 1
"""Stands in every result as ``contract``; raised when a case or service changes its meaning."""

PREFIX: Final = "ECHOSTREAM_INTEROP_"

PASSED: Final = 0
FAILED: Final = 1
UNSUPPORTED: Final = 127
"""Exit status of a role that cannot do what it is asked, as in quic-interop-runner; shells use it for "not found"."""

Outcome = Literal["passed", "failed", "unsupported"]
Role = Literal["listener", "dialer"]

VARIABLES: Final[Mapping[str, str]] = {
    "ROLE": "",
    "URL": "",
    "CASES": "all",
    "CODECS": "json",
    "TLS_CERTIFICATE": "",
    "TLS_PRIVATE_KEY": "",
    "TLS_CA": "",
    "TLS_SERVER_NAME": "",
    "SEED": "1",
    "READY": "",
    "RESULT": "",
    "CASE_TIMEOUT_S": "20",
    "TIMEOUT_S": "300",
    "LIFELINE": "",
}
"""Every variable without its prefix, and its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one process is told."""

    role: Role
    url: str
    """The listener binds it (port 0: any); the dialer connects to it."""
    cases: tuple[str, ...] = ("all",)
    codecs: tuple[str, ...] = ("json",)
    """In order of preference; the first is the one that is tested."""
    certificate: str = ""
    private_key: str = ""
    ca: str = ""
    server_name: str = ""
    seed: int = 1
    ready: Path | None = None
    """Where the listener writes its bound URL; None: a line ``ready URL`` on standard output."""
    result: Path | None = None
    case_timeout_s: float = 20.0
    timeout_s: float = 300.0
    lifeline: bool = False
    """True: the process ends when its standard input does."""

    def tls(self) -> dict[str, object]:
        """The TLS settings of this role, as servers and clients take them; empty when none are given."""
        if self.role == "listener":
            given = {"certificate": self.certificate, "private_key": self.private_key}
        else:
            given = {"ca": self.ca, "server_name": self.server_name}
        return {name: value for name, value in given.items() if value}


def read_settings(environ: Mapping[str, str], role: str = "") -> Settings:
    """The settings in ``environ``; ``role`` replaces the variable. ConfigError names the variable that is wrong."""
    known = {PREFIX + name for name in VARIABLES}
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            raise ConfigError(f"{name}: there is no such variable; known are {', '.join(sorted(known))}", key=name)
    values = {name: environ.get(PREFIX + name, default) for name, default in VARIABLES.items()}
    role = role or values["ROLE"]
    if role not in ("listener", "dialer"):
        raise ConfigError(f"{PREFIX}ROLE must be listener or dialer, not {role!r}", key=PREFIX + "ROLE")
    if not values["URL"]:
        raise ConfigError(f"{PREFIX}URL is missing: where the {role} is to work", key=PREFIX + "URL")
    if values["LIFELINE"] not in ("", "stdin"):
        raise ConfigError(
            f"{PREFIX}LIFELINE must be stdin or empty, not {values['LIFELINE']!r}", key=PREFIX + "LIFELINE"
        )
    return Settings(
        role="listener" if role == "listener" else "dialer",
        url=values["URL"],
        cases=_words("CASES", values["CASES"]),
        codecs=_words("CODECS", values["CODECS"]),
        certificate=values["TLS_CERTIFICATE"],
        private_key=values["TLS_PRIVATE_KEY"],
        ca=values["TLS_CA"],
        server_name=values["TLS_SERVER_NAME"],
        seed=int(_number("SEED", values["SEED"], whole=True)),
        ready=Path(values["READY"]) if values["READY"] else None,
        result=Path(values["RESULT"]) if values["RESULT"] else None,
        case_timeout_s=_number("CASE_TIMEOUT_S", values["CASE_TIMEOUT_S"]),
        timeout_s=_number("TIMEOUT_S", values["TIMEOUT_S"]),
        lifeline=values["LIFELINE"] == "stdin",
    )


def _words(name: str, text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise ConfigError(f"{PREFIX}{name} names nothing: names, separated by commas", key=PREFIX + name)
    return words


def _number(name: str, text: str, *, whole: bool = False) -> float:
    try:
        value = float(int(text)) if whole else float(text)
    except ValueError:
        kind = "a whole number" if whole else "a number of seconds"
        raise ConfigError(f"{PREFIX}{name} must be {kind}, not {text!r}", key=PREFIX + name) from None
    if not 0 <= value < 2**53 or (value == 0 and not whole):
        raise ConfigError(f"{PREFIX}{name} is out of range: {text}", key=PREFIX + name)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What became of one case."""

    name: str
    outcome: Outcome
    reason: str = ""
    """Why it failed or is not supported; "" when it passed."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """The form in which it stands in the result file."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CaseResult:
        """Read it back; ConfigError when it is not of that form."""
        outcome = data.get("outcome")
        name = data.get("name")
        if outcome not in ("passed", "failed", "unsupported") or not isinstance(name, str):
            raise ConfigError(f"a case needs name and outcome (passed, failed, unsupported), not {dict(data)!r}")
        seconds = data.get("seconds", 0.0)
        return cls(
            name=name,
            outcome=outcome,
            reason=str(data.get("reason", "")),
            seconds=float(seconds) if isinstance(seconds, int | float) else 0.0,
        )


def overall(cases: Sequence[CaseResult]) -> Outcome:
    """Failed when one failed, unsupported when none could be tried, else passed."""
    outcomes = {case.outcome for case in cases}
    if "failed" in outcomes:
        return "failed"
    return "passed" if "passed" in outcomes else "unsupported"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Implementation:
    name: str = "echostream-python"
    version: str = field(default_factory=lambda: str(echostream_core.__version__))
    runtime: str = field(default_factory=lambda: f"{platform.python_implementation()} {platform.python_version()}")


def implementation() -> dict[str, str]:
    """Who we are, for the result file: name, version, runtime."""
    ours = _Implementation()
    return {"name": ours.name, "version": ours.version, "runtime": ours.runtime}


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write ``content`` in one step: who reads meanwhile sees the old file or the new one, never a half."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(path)


def pattern(seed: int, size: int, chunk_bytes: int = 65_536) -> Iterator[bytes]:
    """``size`` bytes that every implementation can make, in pieces of ``chunk_bytes``.

    Block i, of 32 bytes, is SHA-256 of ``seed`` and i, both as unsigned 64 bits little-endian; the last one is cut.
    """
    head = seed.to_bytes(8, "little")
    ready = bytearray()
    number = 0
    left = size
    while left:
        wanted = min(chunk_bytes, left)
        while len(ready) < wanted:
            ready += sha256(head + number.to_bytes(8, "little")).digest()
            number += 1
        yield bytes(ready[:wanted])
        del ready[:wanted]
        left -= wanted
