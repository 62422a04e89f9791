"""New plugins: their names, what is refused and with which advice, and that templates fit every name."""

from __future__ import annotations

import ast
import json
import keyword
import tomllib
from pathlib import Path

import pytest

from echostream_core import Kernel
from echostream_core.__main__ import main
from echostream_core.commands import UsageError, new_plugin, new_plugin_lines
from echostream_core.index import Index, PluginRef
from echostream_core.scaffold import GROUPS, Names, describe, render

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["ab", "my-pipe", "a-rather-long-name-x", "n2"]
EMPTY = Kernel(index=Index())
"""Only the built-in plugins."""


def rendered(kind: str, name: str) -> dict[str, str]:
    return render(Names(kind=kind, name=name), "Ada Lovelace")


def refusal(kind: str, name: str, tmp_path: Path, **options: object) -> str:
    with pytest.raises(UsageError) as caught:
        new_plugin(EMPTY, kind, name, directory=str(tmp_path / "new"), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()
    return str(caught.value)


# What comes out of the templates.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", GROUPS)
def test_the_texts_are_python_and_toml_for_every_name(kind: str, name: str) -> None:
    for path, text in rendered(kind, name).items():
        assert text == "" or text.endswith("\n"), path
        if path.endswith(".py"):
            assert max(map(len, text.splitlines())) <= 120, path
            ast.parse(text, filename=path)
    project = tomllib.loads(rendered(kind, name)["pyproject.toml"])
    names = Names(kind=kind, name=name)
    entries = project["project"]["entry-points"]
    assert entries == {
        "echostream.v1.plugins": {name: names.package},
        f"echostream.v1.{GROUPS[kind]}": {name: names.package},
    }
    assert project["project"]["name"] == names.distribution
    assert project["project"]["dependencies"] == ["echostream-core>=0.1,<0.2"]


@pytest.mark.parametrize("kind", GROUPS)
def test_every_package_is_complete(kind: str) -> None:
    package = Names(kind=kind, name="brook").package
    files = set(rendered(kind, "brook"))
    assert files >= {
        ".github/workflows/ci.yml",
        ".gitignore",
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        f"src/{package}/__init__.py",
        f"src/{package}/options.py",
        f"src/{package}/py.typed",
        "tests/conftest.py",
        "tests/test_conformance.py",
    }
    assert not [path for path in files if "@" in path or path.endswith(".tmpl") or "dot-" in path]


@pytest.mark.parametrize("kind", GROUPS)
def test_expressions_of_the_workflow_survive(kind: str) -> None:
    text = rendered(kind, "brook")[".github/workflows/ci.yml"]
    assert "python-version: ${{ matrix.python }}" in text
    assert "pytest --conformance-report=" in text


def test_the_plugin_of_the_tutorial_has_less_than_120_lines_of_code() -> None:
    texts = rendered("transport", "brook")
    counted = {path: code_lines(text) for path, text in texts.items() if path.startswith("src/") and text}
    assert sum(counted.values()) < 120, counted


def code_lines(text: str) -> int:
    """Lines that are neither blank nor a comment nor part of a text that stands alone."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for number, line in lines if line.strip()[:1] not in ("", "#") and number not in documented)


def test_no_template_is_taken_for_code_of_this_repository() -> None:
    templates = ROOT / "echostream_core" / "scaffold" / "templates"
    found = [path for path in templates.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert found
    assert [path.name for path in found if path.suffix != ".tmpl"] == []


def test_all_distributions_of_this_repository_are_reserved() -> None:
    reserved = json.loads((ROOT / "echostream_core/scaffold/reserved.json").read_text(encoding="utf-8"))
    projects = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    ours = {tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in projects}
    hints = json.loads((ROOT / "echostream_core/package_hints.json").read_text(encoding="utf-8"))
    published = {name for kind in hints if not kind.endswith("_meant") for name in hints[kind].values()}
    assert ours | published <= set(reserved["distributions"])
    for names in reserved.values():
        assert names == sorted(names)


# What is refused.


@pytest.mark.parametrize(
    ("kind", "name", "advice"),
    [
        ("transport", "Brook", "write 'brook'"),
        ("transport", "my_pipe", "write 'my-pipe'"),
        ("transport", "my--pipe", "write 'my-pipe'"),
        ("codec", "9lives", "write 'lives'"),
        ("codec", "-dash", "write 'dash'"),
        ("codec", "", "lower-case letters, digits and single dashes, a letter first"),
        ("codec", "naïve", "write 'na-ve'"),
        ("transport", "echostream-brook", "write 'brook'"),
        ("codec", "echostream-codec-tagged", "write 'tagged'"),
        ("discovery", "class", "a word of Python"),
        ("middleware", "x" * 21, "at most 20"),
        ("transport", "https", "choose another scheme, for instance 'x-https'"),
        ("transport", "memory", "is provided by echostream-core"),
        ("codec", "json", "is provided by echostream-core"),
        ("transport", "ws", "is provided by echostream-websocket"),
        ("transport", "cli", "the distribution would be called echostream-cli"),
        ("transport", "codec-cbor", "the distribution would be called echostream-codec-cbor"),
        ("transprt", "brook", "did you mean 'transport'?"),
        ("extension", "brook", "known are codec, discovery, middleware, transport"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_advice(kind: str, name: str, advice: str, tmp_path: Path) -> None:
    assert advice in refusal(kind, name, tmp_path)


@pytest.mark.parametrize("name", [word for word in keyword.kwlist if word.islower()])
def test_no_word_of_python_is_taken(name: str, tmp_path: Path) -> None:
    assert "write for instance" in refusal("codec", name, tmp_path)


@pytest.mark.parametrize("author", ["", " ", 'Ada "the" L.', "Ada\nL.", "back\\slash"])
def test_an_author_that_breaks_the_metadata_is_refused(author: str, tmp_path: Path) -> None:
    if author:
        assert "without quotes and backslashes" in refusal("codec", "tagged", tmp_path, author=author)
    else:
        made = new_plugin(EMPTY, "codec", "tagged", directory=str(tmp_path / "new"), author=author)
        assert "The authors of echostream-codec-tagged" in (Path(made.folder) / "LICENSE").read_text(encoding="utf-8")


def test_a_folder_that_holds_something_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"--force, which replaces 1 of the files in it"):
        new_plugin(EMPTY, "codec", "tagged", directory=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"


def test_force_replaces_files_of_the_same_name_and_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    new_plugin(EMPTY, "codec", "tagged", directory=str(tmp_path), force=True)
    assert (tmp_path / "README.md").read_text(encoding="utf-8").startswith("# echostream-codec-tagged")
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    made = new_plugin(EMPTY, "codec", "tagged", directory=str(tmp_path))
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(made.files)


def test_force_makes_an_installed_package_anew(tmp_path: Path) -> None:
    installed = PluginRef(
        name="tagged",
        distribution="echostream-codec-tagged",
        reference="echostream_codec_tagged",
        promises=(("codec", "tagged"),),
    )
    kernel = Kernel(index=Index([installed]))
    with pytest.raises(UsageError, match="is provided by echostream-codec-tagged"):
        new_plugin(kernel, "codec", "tagged", directory=str(tmp_path))
    assert new_plugin(kernel, "codec", "tagged", directory=str(tmp_path), force=True).name == "tagged"


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    with pytest.raises(UsageError, match=r"cannot write .*taken.*; choose another --directory"):
        new_plugin(EMPTY, "codec", "tagged", directory=str(tmp_path / "taken"))


# The command.


def test_the_command_makes_the_package_and_says_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugins", "new", "middleware", "my-log", "--author", "Ada Lovelace"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "echostream-middleware-my-log: the middleware 'my-log', distribution echostream-middleware-my-log"
    )
    assert lines[-1] == "  python -m pytest ./echostream-middleware-my-log"
    folder = tmp_path / "echostream-middleware-my-log"
    assert 'authors = [{ name = "Ada Lovelace" }]' in (folder / "pyproject.toml").read_text(encoding="utf-8")
    assert (folder / "src/echostream_middleware_my_log/py.typed").read_text(encoding="utf-8") == ""


def test_the_command_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a folder"
    assert main(["plugins", "new", "codec", "tagged", "--directory", str(folder), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["folder"], made["package"]) == (str(folder), "echostream_codec_tagged")
    assert made["next"][0] == f"pip install -e '{folder}'"
    assert all((folder / path).is_file() for path in made["files"])


def test_the_command_refuses_with_the_status_of_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "new", "codec", "json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: the codec 'json' is provided by echostream-core")


def test_lines_name_every_file() -> None:
    names = Names(kind="transport", name="brook")
    made = describe(names, Path("brook"), render(names, "Ada"))
    assert {f"  {path}" for path in made.files} <= set(new_plugin_lines(made))
