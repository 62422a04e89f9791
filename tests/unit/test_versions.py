"""Version comparison, checked against ``packaging``, whose rules it repeats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from echostream_core.versions import satisfies, version_key

numbers = st.integers(0, 12)
releases = st.lists(numbers, min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
suffixes = st.tuples(
    st.sampled_from(["", "a1", "b2", "rc1", "a0"]),
    st.sampled_from(["", ".post1", ".post0"]),
    st.sampled_from(["", ".dev0", ".dev3"]),
).map("".join)
versions = st.tuples(st.sampled_from(["", "", "", "1!"]), releases, suffixes).map("".join)


@given(versions, versions)
def test_versions_are_ordered_as_packaging_orders_them(one: str, other: str) -> None:
    first, second = version_key(one), version_key(other)
    assert first is not None and second is not None
    assert (first < second) == (Version(one) < Version(other))
    assert (first == second) == (Version(one) == Version(other))


@given(versions, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), versions)
def test_each_comparison_agrees_with_packaging(have: str, operator: str, want: str) -> None:
    clause = f"{operator}{want}"
    assert satisfies(have, clause) == SpecifierSet(clause).contains(have, prereleases=True)


@given(versions, st.sampled_from(["==", "!="]), releases)
def test_prefix_comparisons_agree_with_packaging(have: str, operator: str, prefix: str) -> None:
    clause = f"{operator}{prefix}.*"
    assert satisfies(have, clause) == SpecifierSet(clause).contains(have, prereleases=True)


@given(versions, st.tuples(releases, numbers, suffixes))
def test_compatible_release_agrees_with_packaging(have: str, want: tuple[str, int, str]) -> None:
    clause = f"~={want[0]}.{want[1]}{want[2]}"
    assert satisfies(have, clause) == SpecifierSet(clause).contains(have, prereleases=True)


@pytest.mark.parametrize(
    ("version", "specifiers", "expected"),
    [
        ("0.1.0", ">=0.1,<0.2", True),
        ("0.2.0", ">=0.1,<0.2", False),
        ("0.2.0a1", ">=0.1,<0.2", False),
        ("0.1.0.dev1", ">=0.1", False),
        ("1.0", "", True),
        ("1.0", " >= 0.5 , != 0.9 ", True),
        ("V1.0-Beta-2", "==1.0b2", True),
        ("1.0+local", "==1.0", True),
        ("1.0-3", "==1.0.post3", True),
    ],
)
def test_everyday_requirements(version: str, specifiers: str, expected: bool) -> None:
    assert satisfies(version, specifiers) is expected


@pytest.mark.parametrize("specifiers", ["===1.0", "=>2", ">=two", "~=9", "9.9", "==x.*"])
def test_what_is_not_understood_counts_as_met(specifiers: str) -> None:
    assert satisfies("1.0", specifiers)


def test_a_version_that_is_none_meets_everything() -> None:
    assert version_key("unknown") is None
    assert satisfies("", ">=99")
