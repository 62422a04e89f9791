"""What a distribution requires (its ``Requires-Dist`` lines), checked before anything of it is imported.

Understood are names, version clauses (``versions.py``) and simple markers: ``python_version``,
``python_full_version``, ``sys_platform``, ``os_name`` joined by ``and`` or ``or``. A requirement of an extra
is not checked (nobody asked for the extra), and one with any other marker neither: what is really missing
then shows at import.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from echostream_core.versions import satisfies

__all__ = ["Requirement", "normalise"]

_REQUIREMENT: Final = (
    r"\s*(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[^\]]*\])?\s*"
    r"(?:@\s*[^;]*?|\(?(?P<specifiers>(?:[~=!<>][^;()@]*)?)\)?)\s*(?:;\s*(?P<marker>.*))?"
)
_COMPARISON: Final = (
    r"\s*(?P<name>[a-z_]+)\s*(?P<operator>~=|==|!=|<=|>=|<|>)\s*"
    r"""(?P<quote>['"])(?P<value>[^'"]*)(?P=quote)\s*"""
)
_VERSIONS: Final = {
    "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
    "python_full_version": ".".join(map(str, sys.version_info[:3])),
}
_TEXTS: Final = {"sys_platform": sys.platform, "os_name": os.name}


def normalise(name: str) -> str:
    """A name as PEP 503 compares it: lower case, runs of ``-``, ``_`` and ``.`` as one ``-``."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """One ``Requires-Dist`` line."""

    text: str
    """The line without its marker, for messages."""
    name: str
    """The distribution, normalised."""
    specifiers: str
    """Version clauses, comma separated; "" for any version."""
    applies: bool
    """False when its marker excludes it here, asks for an extra, or is not understood."""

    @classmethod
    def parse(cls, line: str) -> Requirement | None:
        """Read one line; None when it is not understood."""
        match = re.fullmatch(_REQUIREMENT, line)
        if match is None:
            return None
        return cls(
            text=line.partition(";")[0].strip(),
            name=normalise(match["name"]),
            specifiers=(match["specifiers"] or "").strip(),
            applies=_holds(match["marker"] or ""),
        )

    def problem(self, installed: Callable[[str], str | None]) -> str | None:
        """Why it is not met, or None when it is; ``installed`` answers a distribution's version, None when absent."""
        if not self.applies:
            return None
        version = installed(self.name)
        if version is None:
            return f"{self.text} is required but not installed"
        if not satisfies(version, self.specifiers):
            return f"{self.text} is required but {version} is installed"
        return None


def _holds(marker: str) -> bool:
    if not marker.strip():
        return True
    return any(
        all(_compare(comparison) for comparison in re.split(r"\s+and\s+", alternative))
        for alternative in re.split(r"\s+or\s+", marker)
    )


def _compare(comparison: str) -> bool:
    match = re.fullmatch(_COMPARISON, comparison)
    if match is None:
        return False
    name, operator, value = match["name"], match["operator"], match["value"]
    if name in _VERSIONS:
        return satisfies(_VERSIONS[name], f"{operator}{value}")
    if name in _TEXTS and operator in ("==", "!="):
        return (_TEXTS[name] == value) == (operator == "==")
    return False
