"""A new plugin works as it stands: installed, certified by its own tests, checked by mypy and ruff, used by programs.

One package of each kind is made by the command, installed into a virtual environment on top of this one, and used
there as a stranger would use it.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from echostream_core.__main__ import main
from echostream_core.scaffold import GROUPS, Names
from tests.docs.markdown import blocks_of
from tests.support.venv import Venv

pytest.importorskip("hatchling", reason="the packages are built with the hatchling of this environment")

needs_testkit = pytest.mark.skipif(
    importlib.util.find_spec("echostream_testkit") is None, reason="certifying a plugin needs echostream-testkit"
)
pytestmark = pytest.mark.timeout(300)

NAMES = {"transport": "brook", "codec": "tagged", "discovery": "my-folder", "middleware": "call-log"}

READMES_SAY = {
    "transport": "5",
    "codec": "3",
    "discovery": "('memory://calc',)",
    "middleware": "echostream_middleware_call_log: server math.add: OK after 0.000 s",
}
"""What the program in each README prints, times made equal."""


class Made(NamedTuple):
    """The packages, installed."""

    venv: Venv
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One package of each kind, written by the command, in a virtual environment that sees this one."""
    root = tmp_path_factory.mktemp("scaffold")
    folders = {}
    for kind, name in NAMES.items():
        folders[kind] = root / Names(kind=kind, name=name).distribution
        assert main(["plugins", "new", kind, name, "--directory", str(folders[kind]), "--author", "Ada Lovelace"]) == 0
    venv = Venv(root / "venv")
    venv.environment["MYPY_CACHE_DIR"] = str(root / "mypy")
    venv.environment["RUFF_CACHE_DIR"] = str(root / "ruff")
    venv.install(*folders.values())
    return Made(venv, folders)


def test_there_is_a_template_for_every_kind() -> None:
    assert set(NAMES) == set(GROUPS)


@needs_testkit
@pytest.mark.parametrize("kind", NAMES)
def test_a_new_plugin_passes_its_conformance_suite_unmodified(made: Made, kind: str) -> None:
    said = made.venv.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=made.folders[kind])
    (summary,) = re.findall(r"^\d+ passed.* in .*$", said, re.MULTILINE)
    assert int(summary.split()[0]) >= 15, said
    assert not re.search("failed|error|skipped|xfailed|warning", summary), said


@needs_testkit
@pytest.mark.parametrize("kind", NAMES)
def test_a_new_plugin_is_well_typed(made: Made, kind: str) -> None:
    assert "strict = true" in (made.folders[kind] / "pyproject.toml").read_text(encoding="utf-8")
    assert made.venv.run("-m", "mypy", cwd=made.folders[kind]).startswith("Success: no issues found in ")


@pytest.mark.parametrize("kind", NAMES)
def test_a_new_plugin_is_linted_and_formatted(made: Made, kind: str) -> None:
    made.venv.run("-m", "ruff", "check", ".", cwd=made.folders[kind])
    made.venv.run("-m", "ruff", "format", "--check", ".", cwd=made.folders[kind])


def test_lint_and_format_hold_for_names_of_any_length(made: Made, tmp_path: Path) -> None:
    for name in ("ab", "a-rather-long-name-x"):
        for kind in GROUPS:
            assert main(["plugins", "new", kind, name, "--directory", str(tmp_path / kind / name)]) == 0
    made.venv.run("-m", "ruff", "check", ".", cwd=tmp_path)
    made.venv.run("-m", "ruff", "format", "--check", ".", cwd=tmp_path)


def test_all_of_them_are_found_and_well(made: Made) -> None:
    said = made.venv.run("-m", "echostream_core", "plugins", "check", cwd=made.venv.scripts, status=0)
    for kind, name in NAMES.items():
        (line,) = [line for line in said.splitlines() if f"{Names(kind=kind, name=name).distribution}/{name} " in line]
        assert line.split() == ["ok", f"{Names(kind=kind, name=name).distribution}/{name}", "0.1.0", "-"]


@pytest.mark.parametrize("kind", NAMES)
def test_the_program_in_the_readme_runs(made: Made, kind: str) -> None:
    (program,) = [block.text for block in blocks_of(made.folders[kind] / "README.md") if block.language == "python"]
    said = made.venv.run("-X", "dev", "-W", "error", "-c", program, cwd=made.folders[kind])
    assert READMES_SAY[kind] in re.sub(r"\d\.\d{3} s", "0.000 s", said)


def test_the_commands_in_the_readme_are_those_of_the_package(made: Made) -> None:
    for kind, folder in made.folders.items():
        shell = "".join(block.text for block in blocks_of(folder / "README.md") if block.language == "sh")
        assert f"pip install echostream-core {Names(kind=kind, name=NAMES[kind]).distribution}\n" in shell
        assert 'pip install -e ".[dev]"' in shell


# Discovery is about more than one process.

ANNOUNCE = """
import asyncio, sys
from echostream_core import Kernel
from echostream_core.discovery import Endpoint

async def announce():
    spec = Kernel().discovery("my-folder")
    backend = spec.factory(spec.options(directory=sys.argv[1], heartbeat_s=0.05))
    await backend.announce(Endpoint(service="calc", instance="far", urls=("tcp://127.0.0.1:9",)))
    print("announced", flush=True)
    await asyncio.sleep(600)

asyncio.run(announce())
"""

WATCH = """
import asyncio, sys
from echostream_core import Kernel

async def watch():
    spec = Kernel().discovery("my-folder")
    backend = spec.factory(spec.options(directory=sys.argv[1], poll_s=0.01, heartbeat_s=0.05))
    async for endpoints in backend.watch("calc"):
        print([endpoint.instance for endpoint in endpoints], flush=True)

asyncio.run(watch())
"""


@contextmanager
def running(made: Made, program: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A program in a process of its own, killed at the end."""
    command = [str(made.venv.python), "-c", program, str(folder)]
    with subprocess.Popen(command, env=made.venv.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_watch_sees_what_another_process_announces_and_that_it_was_killed(made: Made, tmp_path: Path) -> None:
    with running(made, WATCH, tmp_path / "shared") as watching:
        assert line_of(watching) == "[]"
        with running(made, ANNOUNCE, tmp_path / "shared") as announcing:
            assert line_of(announcing) == "announced"
            assert line_of(watching) == "['far']"
        assert line_of(watching) == "[]", "what a killed process leaves behind expires"
        assert len(list((tmp_path / "shared").iterdir())) == 1
