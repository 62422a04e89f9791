"""Version numbers and the comparisons that requirements make with them, as PEP 440 orders them.

A part of ``packaging``, written here so that the kernel needs no further dependency: releases, pre-, post-
and development releases, epochs, and the comparisons ``==`` (also with ``.*``), ``!=``, ``<``, ``<=``, ``>``,
``>=``, ``~=``. A form that is not understood counts as satisfied: the import that follows then has the last
word. Proved equal to ``packaging`` by test.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["satisfies", "version_key"]

_VERSION: Final = (
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre_number>\d*))?"
    r"(?:(?:[-_.]?(?P<post>post|rev|r)[-_.]?(?P<post_number>\d*))|(?:-(?P<post_dash>\d+)))?"
    r"(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_number>\d*))?"
    r"(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?"
)
_CLAUSE: Final = r"(~=|==|!=|<=|>=|<|>)\s*(\S+)"
_PRE_RANK: Final = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}

_BEFORE: Final = (-1, 0)
_AFTER: Final = (9, 0)

VersionKey = tuple[int, tuple[int, ...], tuple[int, int], tuple[int, int], tuple[int, int]]
"""Orders versions: epoch, release without trailing zeros, pre-release, post-release, development release."""


def version_key(text: str) -> VersionKey | None:
    """What ``text`` is ordered by; None when it is no PEP 440 version. A local part (``+x``) is left out."""
    match = re.fullmatch(_VERSION, text.strip().lower(), re.ASCII)
    if match is None:
        return None
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    post_number = match["post_dash"] if match["post_dash"] is not None else match["post_number"]
    has_post = match["post"] is not None or match["post_dash"] is not None
    post = (0, int(post_number or 0)) if has_post else _BEFORE
    dev = (0, int(match["dev_number"] or 0)) if match["dev"] else _AFTER
    if match["pre"]:
        pre = (_PRE_RANK[match["pre"]], int(match["pre_number"] or 0))
    elif match["dev"] and not has_post:
        pre = _BEFORE  # 1.0.dev1 comes before 1.0a1
    else:
        pre = _AFTER
    return int(match["epoch"] or 0), tuple(release), pre, post, dev


def satisfies(version: str, specifiers: str) -> bool:
    """Whether ``version`` meets every clause of ``specifiers`` (``>=1.2,<2``). What is not understood counts as met."""
    have = version_key(version)
    if have is None:
        return True
    return all(_meets(have, clause.strip()) for clause in specifiers.split(",") if clause.strip())


def _meets(have: VersionKey, clause: str) -> bool:
    match = re.fullmatch(_CLAUSE, clause)
    if match is None:
        return True
    operator, text = match.groups()
    if operator in ("==", "!=") and text.endswith(".*"):
        return _has_prefix(have, text[:-2]) == (operator == "==")
    want = version_key(text)
    if want is None:
        return True
    if operator == "~=":
        series = _series(text)
        return series is None or (have >= want and _has_prefix(have, series))
    if operator == "<":
        return have < (want if _is_pre(want) else _first_pre(want))  # its own pre-releases are outside too
    if operator == ">":
        post_of_want = want[3] == _BEFORE and want[4] == _AFTER and have[:3] == want[:3] and have[3] != _BEFORE
        return have > want and not post_of_want
    return {"==": have == want, "!=": have != want, "<=": have <= want, ">=": have >= want}[operator]


def _first_pre(key: VersionKey) -> VersionKey:
    """What comes before every pre-release of a final or post-release: its ``.dev0``."""
    epoch, release, _, post, _ = key
    return epoch, release, _BEFORE if post == _BEFORE else _AFTER, post, (0, 0)


def _is_pre(key: VersionKey) -> bool:
    return key[2] != _AFTER or key[4] != _AFTER


def _series(text: str) -> str | None:
    """``1.4.5`` → ``1.4``: what ``~=`` keeps fixed; None for a single number, which is not allowed."""
    match = re.fullmatch(_VERSION, text.strip().lower(), re.ASCII)
    if match is None or "." not in match["release"]:
        return None
    epoch = f"{match['epoch']}!" if match["epoch"] else ""
    return epoch + match["release"].rpartition(".")[0]


def _has_prefix(have: VersionKey, prefix: str) -> bool:
    match = re.fullmatch(_VERSION, prefix.strip().lower(), re.ASCII)
    if match is None:
        return True
    numbers = tuple(int(part) for part in match["release"].split("."))
    release = have[1] + (0,) * (len(numbers) - len(have[1]))
    return have[0] == int(match["epoch"] or 0) and release[: len(numbers)] == numbers
