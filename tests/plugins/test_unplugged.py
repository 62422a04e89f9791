"""Without any one plugin the core is whole: its tests pass with that plugin's distribution taken away.

The environment's ``site-packages`` is linked entry by entry into a folder of its own, the plugin left out, and a
process without the real one runs a part of the core's tests there. ``make unplug`` runs all of them.
"""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
QUICK = ("tests/unit/test_kernel.py", "tests/unit/test_config.py", "tests/unit/engine/test_session.py")
TESTS = ("tests/unit", "tests/e2e", "tests/anomalies") if os.environ.get("ECHOSTREAM_UNPLUG") == "all" else QUICK

RUN = """
import site, sys
site.addsitedir(sys.argv[1])
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""
GONE = """
import site, sys
site.addsitedir(sys.argv[1])
try:
    __import__(sys.argv[2])
except ModuleNotFoundError:
    from echostream_core import Kernel
    print(*sorted(report.distribution for report in Kernel().plugins()))
"""


def with_dependents(plugin: str) -> set[str]:
    """``plugin`` and the plugins that cannot be installed without it."""
    needs = {
        path.parent.name: set(re.findall(r"echostream-([a-z-]+)", " ".join(project(path).get("dependencies", []))))
        for path in ROOT.glob("plugins/*/pyproject.toml")
    }
    found = {plugin}
    while more := {name for name, needed in needs.items() if needed & {one.replace("_", "-") for one in found}} - found:
        found |= more
    return found


def project(path: Path) -> dict[str, Any]:
    """The ``[project]`` table of a ``pyproject.toml``."""
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return table


def without(plugin: str, folder: Path) -> Path:
    """A folder that is like ``site-packages``, but for ``plugin`` and what needs it."""
    prefix = tuple(f"echostream_{name}" for name in with_dependents(plugin))
    for packages in site.getsitepackages():
        for entry in Path(packages).iterdir():
            if not entry.name.lstrip("_").startswith(prefix):
                (folder / entry.name).symlink_to(entry)
    return folder


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-c", script, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_cores_tests_pass_without(plugin: str, tmp_path: Path) -> None:
    folder = without(plugin, tmp_path)
    seen = run(GONE, str(folder), f"echostream_{plugin}")
    assert seen.returncode == 0, seen.stderr
    assert "echostream-core" in seen.stdout, "the module of the plugin can still be imported"
    assert f"echostream-{plugin.replace('_', '-')}" not in seen.stdout.split()
    tested = run(RUN, str(folder), *TESTS)
    assert tested.returncode == 0, tested.stdout[-4000:] + tested.stderr[-2000:]
    assert " passed" in tested.stdout
