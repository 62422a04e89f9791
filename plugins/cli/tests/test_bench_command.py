"""``echostream bench``: inside a checkout it hands over to the benchmarks, elsewhere it says where they are."""

from __future__ import annotations

from pathlib import Path

from plugins.cli.tests.conftest import process

STAND_IN = """\
import sys

def main(argv):
    print("benchmarks got", argv)
    if "--wrong" in argv:
        sys.exit(2)
    return 1 if "--fail" in argv else 0
"""


def checkout(folder: Path) -> Path:
    """A folder that looks like the repository."""
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__init__.py").touch()
    (folder / "benchmarks" / "run.py").write_text(STAND_IN, encoding="utf-8")
    return folder


def test_outside_a_checkout_it_says_where_the_benchmarks_are(tmp_path: Path) -> None:
    done = process("bench", folder=tmp_path)
    assert done.status == 2
    assert done.out == ""
    assert "clone the repository" in done.err


def test_the_arguments_are_passed_on(tmp_path: Path) -> None:
    arguments = ["--rounds", "2", "--rows", "a,b", "--json", "out.json", "--chart", "out.svg"]
    done = process("bench", *arguments, folder=checkout(tmp_path))
    assert done.status == 0
    assert done.out == f"benchmarks got {arguments}\n"


def test_the_status_is_that_of_the_benchmarks(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    assert process("bench", "--fail", folder=folder).status == 1
    assert process("bench", "--wrong", folder=folder).status == 2


def test_a_missing_library_of_the_benchmarks_is_named(tmp_path: Path) -> None:
    folder = checkout(tmp_path)
    (folder / "benchmarks" / "run.py").write_text("import no_such_library\n", encoding="utf-8")
    done = process("bench", folder=folder)
    assert done.status == 2
    assert "no_such_library" in done.err
    assert "benchmarks/requirements.txt" in done.err
