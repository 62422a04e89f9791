"""The programs under examples/, run as their docstrings say."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from echostream_core import Kernel
from tests.e2e.processes import finished, running

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CALCULATOR = EXAMPLES / "calculator"
INSTALLED = Kernel().known("transport")

ANSWERS = """\
2 + 3 = 5
4 squared = 16
primes: 2 3 5 7 11 13 17 19
sum of my numbers = 10
1 / 0: INVALID_ARGUMENT: division by zero
"""

needs_tcp = pytest.mark.skipif("tcp" not in INSTALLED, reason="needs echostream-tcp")


@pytest.fixture
def folder(dev_certificates: Path) -> Iterator[Path]:
    """Where the programs are run from: not their own folder, as a reader does it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def program(name: str, *arguments: str) -> list[str]:
    """A program of the calculator with its arguments."""
    return [str(CALCULATOR / f"{name}.py"), *arguments]


def test_every_example_says_how_to_run_it() -> None:
    programs = [path for path in EXAMPLES.rglob("*.py") if "__main__" in path.read_text(encoding="utf-8")]
    assert programs
    for path in programs:
        assert f"python {path.relative_to(EXAMPLES.parent).as_posix()}" in path.read_text(encoding="utf-8")


def test_the_calculator_within_one_process(folder: Path) -> None:
    done = finished(program("client", "memory://calculator"), folder)
    assert done.stdout == ANSWERS, done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("scheme", [name for name in ("tcp", "unix") if name in INSTALLED])
def test_the_calculator_by_url(scheme: str, folder: Path) -> None:
    url = f"unix://{folder}/calc.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    with running(program("server", url), folder) as server:
        address = server.line().removeprefix("listening on ")
        done = finished(program("client", address), folder)
    assert done.stdout == ANSWERS, done.stderr
    assert done.returncode == 0


@needs_tcp
def test_what_the_reader_did_wrong_is_a_sentence(folder: Path) -> None:
    done = finished(program("client", "tpc://127.0.0.1:1"), folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "Did you mean 'tcp'?" in line


@needs_tcp
def test_the_calculator_by_environment(folder: Path) -> None:
    listen = {"ECHOSTREAM__SERVER__CALCULATOR__LISTEN": "tcp://127.0.0.1:0"}
    with running(program("server"), folder, environ=listen) as server:
        dial = {
            "ECHOSTREAM__CLIENT__CALCULATOR__URL": server.line().removeprefix("listening on "),
            "ECHOSTREAM__CLIENT__CALCULATOR__CODECS": "json",
        }
        done = finished(program("client"), folder, environ=dial)
    assert done.stdout == ANSWERS, done.stderr
    assert done.returncode == 0


@needs_tcp
def test_the_calculator_by_toml(folder: Path) -> None:
    """A copy, because the file's own port may be taken on this machine."""
    for path in CALCULATOR.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    configuration = folder / "echostream.toml"
    original = configuration.read_text(encoding="utf-8")
    assert original.count('"tcp://127.0.0.1:9000"') >= 2, "server and client agree"
    configuration.write_text(original.replace("127.0.0.1:9000", "127.0.0.1:0"), encoding="utf-8")
    with running(["server.py"], folder) as server:
        address = server.line().removeprefix("listening on tcp://")
        configuration.write_text(original.replace("127.0.0.1:9000", address), encoding="utf-8")
        done = finished(["client.py"], folder)
    assert done.stdout == ANSWERS, done.stderr
    assert done.returncode == 0


@needs_tcp
@pytest.mark.skipif(importlib.util.find_spec("echostream_cli") is None, reason="needs echostream-cli")
def test_the_calculators_configuration_is_right(folder: Path) -> None:
    command = ["-m", "echostream_cli", "config", "check", str(CALCULATOR / "echostream.toml")]
    done = finished(command, folder)
    assert done.returncode == 0, done.stdout
