"""One set of exact versions for every Python that we test, and one list of plugins wherever one is needed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]


def constraints() -> dict[str, str]:
    """Canonical name → version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def stated_requirements() -> Iterator[tuple[str, Requirement]]:
    """Every requirement that a file of ours states, with the file."""
    for path in PYPROJECTS:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        project = table["project"]
        lines = [*table["build-system"]["requires"], *project["dependencies"]]
        for extra in (project.get("optional-dependencies", {}) | table.get("dependency-groups", {})).values():
            lines += extra
        yield from ((path.relative_to(ROOT).as_posix(), Requirement(line)) for line in lines)
    benchmark_peers = ROOT / "benchmarks" / "requirements.txt"
    for line in benchmark_peers.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield "benchmarks/requirements.txt", Requirement(line)


def test_constraints_are_names_and_exact_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    odd = [line for line in lines if not re.fullmatch(r"#.*|[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert odd == []
    assert lines[1:] == sorted(lines[1:])


def test_constraints_satisfy_every_stated_requirement() -> None:
    versions = constraints()
    for where, requirement in stated_requirements():
        elsewhere = requirement.marker is not None and not requirement.marker.evaluate()
        if requirement.name.startswith("echostream-") or elsewhere:
            continue
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} ({where}) has no version in constraints.txt"
        assert requirement.specifier.contains(version), f"{where} asks for {requirement}, constraints.txt has {version}"


def test_every_requirement_states_a_floor() -> None:
    for where, requirement in stated_requirements():
        if requirement.name != "echostream-core" or "plugins/" in where:
            assert ">=" in str(requirement.specifier), f"{where}: {requirement}"


def test_every_plugin_is_known_to_the_tools() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    names = [path.parent.name for path in PYPROJECTS[1:]]
    bases = [base.removeprefix("$MYPY_CONFIG_FILE_DIR") for base in tools["mypy"]["mypy_path"]]
    assert bases == ["", *(f"/plugins/{name}/src" for name in names)]
    assert tools["ruff"]["lint"]["isort"]["known-first-party"] == [
        "echostream_core",
        *(f"echostream_{name}" for name in names),
    ]
