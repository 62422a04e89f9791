"""Rules of the house that a program can check: sizes, names, and that the kernel names no plugin."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "echostream_core"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PACKAGES = [CORE, *(package for plugin in PLUGINS for package in sorted((plugin / "src").glob("*/")))]

MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 80
"""Docstrings aside: a contract may be documented at any length."""

BANNED_FILES = re.compile(r"(utils?|misc|stuff|manager\d*)\.py")
"""Names that say nothing."""

HIDDEN = re.compile(r"(^|/)(\.|__pycache__/|node_modules/)")
"""Folders of tools inside ours."""

KERNELS_OWN = {"memory", "json"}
"""Keys that the kernel itself provides; a plugin may use the words for things of another kind."""

GENERAL_WORDS = {"tls"}
"""Keys of plugins that the kernel may use too: ``tls`` names the settings that encrypted transports share."""


def sources() -> list[Path]:
    """Every Python file that we wrote."""
    folders = ("echostream_core", "plugins", "tests", "examples", "benchmarks", "scripts", "docs")
    files = chain.from_iterable((ROOT / folder).rglob("*.py") for folder in folders)
    return sorted(file for file in files if not HIDDEN.search(shown(file)))


def shown(path: Path) -> str:
    """The path as a reader knows it."""
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=shown(path))


def docstring_of(node: ast.AST) -> ast.Expr | None:
    """The statement that documents a module, class or function."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body and is_text(body[0]):
        statement = body[0]
        assert isinstance(statement, ast.Expr)
        return statement
    return None


def is_text(node: ast.AST) -> bool:
    """A string that stands alone as a statement, for instance below an attribute: documentation."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How long a function is, from ``def`` to its last line, without its docstring."""
    docstring = docstring_of(function)
    documented = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - documented


def values_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each string or bytes literal, but for documentation."""
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and is_text(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documented:
            if isinstance(node.value, str):
                yield node.lineno, node.value
            elif isinstance(node.value, bytes):
                yield node.lineno, node.value.decode("latin-1")


def imported_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and top-level name of each absolute import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


def plugin_names() -> tuple[set[str], set[str], set[str]]:
    """What our plugins call themselves: keys (schemes and codec names), distributions, modules."""
    keys: set[str] = set()
    distributions: set[str] = set()
    modules: set[str] = set()
    for plugin in PLUGINS:
        project = tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        distributions.add(project["name"])
        for group, entries in project.get("entry-points", {}).items():
            modules.update(entries.values())
            if group != "echostream.v1.plugins":
                keys.update(set(entries) - KERNELS_OWN)
    return keys, distributions, modules


def names_of_plugins_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and offence, wherever a module names a plugin: its key, URL, distribution or module."""
    keys, distributions, modules = plugin_names()
    words = keys - GENERAL_WORDS
    for line, text in values_in(tree):
        if text in words:
            yield line, f"the literal {text!r}"
        for key in sorted(keys):
            if re.search(rf"(?<![\w+.-]){re.escape(key)}://", text):
                yield line, f"the URL {key}://"
        for name in sorted(distributions | modules):
            if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
                yield line, f"the name {name}"
    for line, module in imported_in(tree):
        if module in modules:
            yield line, f"an import of {module}"


def test_no_file_is_too_long_to_tell_one_story() -> None:
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    too_long = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > MAX_FILE_LINES]
    assert not too_long, f"over {MAX_FILE_LINES} lines, split by story: " + "; ".join(too_long)


def test_no_function_outside_the_tests_is_too_long() -> None:
    too_long = [
        f"{shown(path)}:{node.lineno} {node.name}: {function_lines(node)} lines"
        for path in sources()
        if "tests" not in path.relative_to(ROOT).parts
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if function_lines(node) > MAX_FUNCTION_LINES
    ]
    assert not too_long, f"over {MAX_FUNCTION_LINES} lines: " + "; ".join(too_long)


def test_file_names_say_what_is_inside() -> None:
    vague = [shown(path) for path in sources() if BANNED_FILES.fullmatch(path.name)]
    assert not vague, "say what is inside: " + ", ".join(vague)


def test_the_kernel_names_no_plugin() -> None:
    named = [
        f"{shown(path)}:{line}: {offence}"
        for path in sorted(CORE.rglob("*.py"))
        for line, offence in names_of_plugins_in(parsed(path))
    ]
    assert not named, "package hints belong into the data file:\n" + "\n".join(named)


def test_a_plugin_imports_no_other_plugin() -> None:
    foreign = []
    _, _, modules = plugin_names()
    for plugin in PLUGINS:
        own = {package.name for package in (plugin / "src").iterdir()}
        stated = allowed_neighbours(plugin)
        foreign += [
            f"{shown(path)}:{line}: imports {module}"
            for path in sorted((plugin / "src").rglob("*.py"))
            for line, module in imported_in(parsed(path))
            if module in modules - own - stated
        ]
    assert not foreign, "a plugin states in its metadata whatever it needs:\n" + "\n".join(foreign)


def allowed_neighbours(plugin: Path) -> set[str]:
    """The modules of ours that the plugin's own metadata names as a requirement or an extra."""
    project = tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = chain(project["dependencies"], *project.get("optional-dependencies", {}).values())
    names = (re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0] for requirement in requirements)
    return {name.replace("-", "_") for name in names if name.startswith("echostream-")}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_package_tells_type_checkers_that_it_is_typed(package: Path) -> None:
    assert (package / "py.typed").is_file()


def test_every_plugin_has_one_package_and_its_papers() -> None:
    for plugin in PLUGINS:
        assert [path.name for path in (plugin / "src").glob("*/")] == [f"echostream_{plugin.name}"]
        missing = [name for name in ("README.md", "CHANGELOG.md", "LICENSE") if not (plugin / name).is_file()]
        assert not missing, f"{shown(plugin)} lacks {', '.join(missing)}"


# What the checks themselves catch.


@pytest.mark.parametrize(
    ("source", "offence"),
    [
        ("SCHEME = 'quic'", "the literal 'quic'"),
        ("codec = b'msgpack'", "the literal 'msgpack'"),
        ("def f() -> str:\n    return f'tcp://{1}'", "the URL tcp://"),
        ("url = 'see tls://host'", "the URL tls://"),
        ("hint = 'pip install echostream-quic'", "the name echostream-quic"),
        ("import echostream_tcp.pipe", "an import of echostream_tcp"),
        ("def f() -> None:\n    from echostream_cli.main import main", "an import of echostream_cli"),
    ],
)
def test_a_plugin_named_in_code_is_found(source: str, offence: str) -> None:
    assert [found for _, found in names_of_plugins_in(ast.parse(source))] == [offence]


@pytest.mark.parametrize(
    "source",
    [
        '"""Over quic:// or tcp://, with msgpack."""',
        'class A:\n    """As echostream_tcp does."""\n    x = 1\n    """For example "quic"."""',
        "# quic://\nSECTION = 'tls'",
        "value = 'tcp_nodelay, mqtts://x, echostream-quicker, unixtime'",
        "from echostream_core import errors",
    ],
)
def test_documentation_and_general_words_are_no_offence(source: str) -> None:
    assert list(names_of_plugins_in(ast.parse(source))) == []


def test_a_docstring_does_not_count_as_length() -> None:
    (function,) = ast.parse('def f() -> None:\n    """One.\n\n    Three.\n    """\n    pass\n').body
    assert isinstance(function, ast.FunctionDef)
    assert function_lines(function) == 2
