"""What a new plugin may be called, and all the names that follow from that one: distribution, module, classes."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec

from echostream_core.options import suggestion

__all__ = ["GROUPS", "Names", "check_author", "check_kind", "check_name", "distribution_of"]

GROUPS: Final = {
    "transport": "transports",
    "codec": "codecs",
    "discovery": "discovery",
    "middleware": "middleware",
}
"""Kind → the last part of its index group."""

_SUMMARIES: Final = {
    "transport": "EchoStream over {name}://host:port, one TCP connection each",
    "codec": "EchoStream codec {name}: a tag of one byte before each value",
    "discovery": "EchoStream discovery {name}: announcements as files in a shared directory",
    "middleware": "EchoStream middleware {name}: logs each call, its outcome and its time",
}

_MAX_LENGTH: Final = 20
"""Characters of a name: the lines of the templates have room for as many."""

_NAME: Final = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
_PREFIX: Final = "echostream-"


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """All names of one new plugin."""

    kind: str
    name: str

    @property
    def distribution(self) -> str:
        """What is installed: ``echostream-NAME`` for a transport, ``echostream-KIND-NAME`` for the rest."""
        return distribution_of(self.kind, self.name)

    @property
    def package(self) -> str:
        """What is imported."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """What its classes begin with: ``my-pipe`` → ``MyPipe``."""
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def group(self) -> str:
        """The last part of its index group."""
        return GROUPS[self.kind]

    @property
    def summary(self) -> str:
        """One line for listings."""
        return _SUMMARIES[self.kind].format(name=self.name)


def distribution_of(kind: str, name: str) -> str:
    """The distribution of a new plugin."""
    return f"{_PREFIX}{name}" if kind == "transport" else f"{_PREFIX}{kind}-{name}"


def check_kind(kind: str) -> str:
    """What is wrong with ``kind``, "" when nothing is."""
    return "" if kind in GROUPS else f"there is no kind {kind!r} of plugin to make{suggestion(kind, GROUPS)}"


def check_name(kind: str, name: str, provider: str | None, installed: Collection[str]) -> str:
    """What is wrong with ``name``, and what to write instead; "" when nothing is.

    ``provider`` is the distribution that provides it already, ``installed`` are all that there are.
    """
    problem = _form_problem(kind, name)
    if problem:
        return problem
    if keyword.iskeyword(name):
        return f"{name!r} is a word of Python: nothing in your code could bear it; write for instance {name + '-x'!r}"
    if provider:
        return f"the {kind} {name!r} is provided by {provider}; choose another name, two would exclude each other"
    if kind == "transport" and name in _reserved()["schemes"]:
        return f"{name}:// means something else to every reader; choose another scheme, for instance {'x-' + name!r}"
    distribution = distribution_of(kind, name)
    if distribution in installed or distribution in _reserved()["distributions"]:
        return f"the distribution would be called {distribution}, which exists already; choose another name"
    return ""


def _form_problem(kind: str, name: str) -> str:
    """What is wrong with the letters of ``name``, with a name that is near and right where there is one."""
    bare = name.lower().removeprefix(_PREFIX).removeprefix("echostream_")
    bare = bare.removeprefix(f"{kind}-") if bare != name.lower() else bare
    if re.fullmatch(_NAME, name) and bare == name:
        too_long = f"the name {name[:_MAX_LENGTH]!r}… has {len(name)} characters; at most {_MAX_LENGTH} are possible"
        return too_long if len(name) > _MAX_LENGTH else ""
    if re.fullmatch(_NAME, name):
        return f"leave out what {name!r} begins with, the distribution gets it by itself: write {bare!r}"
    rules = "lower-case letters, digits and single dashes, a letter first"
    nearest = re.sub(r"[^a-z0-9]+", "-", bare).strip("-0123456789")
    hint = f": write {nearest!r}" if re.fullmatch(_NAME, nearest) else ""
    return f"{name!r} cannot be the name of a {kind} (it takes {rules}){hint}"


def check_author(author: str) -> str:
    """What is wrong with ``author``, "" when nothing is: it stands in a TOML text."""
    if not author.strip() or not author.isprintable() or '"' in author or "\\" in author:
        return f"the author {author!r} cannot stand in a pyproject.toml; write a name without quotes and backslashes"
    return ""


@cache
def _reserved() -> dict[str, list[str]]:
    data = files(__package__).joinpath("reserved.json").read_bytes()
    return msgspec.json.decode(data, type=dict[str, list[str]])
