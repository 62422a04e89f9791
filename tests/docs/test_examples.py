"""Every code block of the documentation runs, or is checked as far as it can be. None is left out in silence."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

from echostream_core import ConfigError, Kernel
from echostream_core.config import load_config
from tests.docs.fragments import Scene
from tests.docs.markdown import LANGUAGES, ROOT, Block, blocks_of, pages
from tests.docs.programs import Folder

PAGES = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]
KERNEL = Kernel()
INSTALLED = {name for kind in ("transport", "codec", "compression", "discovery") for name in KERNEL.known(kind)}
SCHEME = re.compile(r"\b(tcp|tls|unix|quic|wss?|wt)://")
CODEC = re.compile(r"""["'.](msgpack|cbor)["'\]]""")


def missing(block: Block) -> list[str]:
    """The plugins that a block needs and that are not installed; the schemes of its URLs among them."""
    text = block.text + "".join(used.text for used in used_by(block))
    needed = {*block.needs(), *SCHEME.findall(text), *CODEC.findall(text)}
    if re.search(r'"dev": True|dev *= *true', text):
        needed.add("certs")
    others = {"certs", "cli", "testkit"}
    absent = needed - INSTALLED - others
    for name in needed & others:
        try:
            metadata.distribution(f"echostream-{name}")
        except metadata.PackageNotFoundError:
            absent.add(name)
    return sorted(absent)


def used_by(block: Block) -> list[Block]:
    """The blocks of the same page that are files which this one names, as it stood when it was reached."""
    files = [other for other in blocks_of(block.page) if "file" in other.marks and other is not block]
    return [other for other in files if other.marks["file"] in f"{block.marks}{block.text}"]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.place}: give the block a language"
        if block.language in ("text", "hex", "mermaid"):
            assert not block.marks, f"{block.place}: nothing to test"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_a_page_is_used(page: Path) -> None:
    blocks = blocks_of(page)
    for block in blocks:
        name = block.marks.get("file")
        if name is not None:
            module = name.rpartition("/")[2].removesuffix(".py")
            users = [
                other
                for other in blocks
                if other is not block
                and (name in f"{other.marks}{other.text}" or re.search(rf"\b{module}\b", other.text))
            ]
            assert users, f"{block.place}: nobody uses {name}"


def squeezed(text: str) -> str:
    """``text`` without blank lines and without what all its lines are indented by."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


@pytest.mark.timeout(600)  # some pages run a dozen programs
@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    scene = Scene()
    skipped: list[str] = []
    for number, block in enumerate(blocks_of(page)):
        if "shell" in block.marks:
            if absent := missing(block):
                pytest.skip(f"{block.place} and what follows needs {', '.join(absent)}")
            folder.shell(block)
            continue
        if {"from", "excerpt"} & set(block.marks):
            file = folder.work / (block.marks.get("from") or block.marks["excerpt"])
            # Without blank lines: a formatter wants others around a function than around a method.
            shown, whole = squeezed(block.text), squeezed(file.read_text(encoding="utf-8"))
            assert shown in whole, f"{block.place}: this is not in {file.name}"
            continue
        if block.language not in ("python", "toml"):
            continue
        name = block.marks.get("file") or block.marks.get("run")
        if block.language == "toml":
            if name is not None:
                folder.write(name, block)
            continue
        absent = missing(block)
        if absent:
            skipped.append(f"{block.place} needs {', '.join(absent)}")
        elif "define" in block.marks:
            scene.define(block)
        elif "in" in block.marks:
            scene.play(block)
        elif "file" in block.marks:
            compile(block.text, block.place, "exec")
            folder.write(block.marks["file"], block)
        else:
            run_program(folder, block, name or f"block{number}.py")
    for name in {block.marks["from"] for block in blocks_of(page) if "from" in block.marks}:
        shown = "".join(block.text for block in blocks_of(page) if block.marks.get("from") == name)
        assert bare(shown) == bare((folder.work / name).read_text(encoding="utf-8")), f"{name} is not shown as it is"
    if skipped:
        pytest.skip("; ".join(skipped))


def bare(text: str) -> list[str]:
    """The lines that are not blank: between two parts of a file a page may leave them out."""
    return [line for line in text.splitlines() if line.strip()]


def run_program(folder: Folder, block: Block, name: str) -> None:
    folder.write(name, block)
    logs = block.marks.get("logs", "")
    if "built" in block.marks:
        folder.build(block.marks["built"])
    if "with" in block.marks:
        with folder.running(block.marks["with"]):
            output = folder.run(name, logs=logs)
    else:
        output = folder.run(name, logs=logs)
    if "output" in block.marks:
        assert output.splitlines() == block.marks["output"].split(" / "), block.place


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_configurations_load_and_fit_the_plugins(page: Path, tmp_path: Path) -> None:
    skipped: list[str] = []
    for number, block in enumerate(blocks_of(page)):
        if block.language != "toml":
            continue
        if "is" in block.marks:
            tomllib.loads(block.text)
            continue
        file = tmp_path / f"{number}.toml"
        file.write_text(block.text, encoding="utf-8")
        absent = missing(block)
        if "problem" in block.marks:
            with pytest.raises(ConfigError) as caught:
                problems = load_config(file, environ={}).check(KERNEL)
                raise ConfigError("\n".join(problems))
            assert block.marks["problem"] in str(caught.value), block.place
            continue
        config = load_config(file, environ={})
        if "built" in block.marks:
            check_with_built(page, block, tmp_path)
            continue
        if absent:
            skipped.append(f"{block.place} needs {', '.join(absent)}")
            continue
        assert config.check(Kernel(config.plugins)) == [], block.place
    if skipped:
        pytest.skip("; ".join(skipped))


def check_with_built(page: Path, block: Block, tmp_path: Path) -> None:
    """Check a configuration that refers to a plugin which the page itself makes."""
    folder = Folder(tmp_path / str(block.line))
    for other in blocks_of(page):
        if other.marks.get("file", "").startswith(block.marks["built"]):
            folder.write(other.marks["file"], other)
    folder.build(block.marks["built"])
    folder.write("checked.toml", block)
    program = (
        "from echostream_core import Kernel; from echostream_core.config import load_config; "
        "assert load_config('checked.toml', environ={}).check(Kernel()) == []"
    )
    folder.run("-c", program)


@pytest.mark.parametrize("page", PAGES)
def test_json_blocks_are_json(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: Path) -> None:
    for block in blocks_of(page):
        if block.language in ("sh", "console"):
            text = block.text
            if block.language == "console":
                text = "".join(line[2:] for line in text.splitlines(keepends=True) if line.startswith("$ "))
                assert text, f"{block.place}: a console block has lines that begin with '$ '"
            syntax = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
            assert syntax.returncode == 0, f"{block.place}: {syntax.stderr}"
            commands = [command for line in joined(text) for command in commands_in(line)]
            assert commands, f"{block.place}: no command"
            for command in commands:
                check_command(block, command)


def joined(text: str) -> Iterable[str]:
    """The lines of a script, continued ones joined."""
    return text.replace("\\\n", " ").splitlines()


def commands_in(line: str) -> list[list[str]]:
    """The simple commands of a line, in words."""
    commands: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("&&", "||", "|", ";"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [command for command in commands if command]


PLAIN = {"cd", "mkdir", "curl", "openssl", "jq", "cat", "git", "export", "source", "sed", "ruff", "mypy"}
"""Commands that are nobody's business here."""

DISTRIBUTIONS = {
    tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"]: tomllib.loads(file.read_text(encoding="utf-8"))
    for file in [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
}


def check_command(block: Block, words: list[str]) -> None:
    """Whether one command of ours exists: the program, its subcommand, its file, its target, its distribution."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        if name.startswith("ECHOSTREAM__"):
            load_config(environ=environment_of(name, value))
    if not words:
        return
    program, *rest = words
    program = program.rpartition("/")[2]
    if program == "echostream":
        check_echostream(block, rest)
    elif program in ("python", "python3", "python3.11"):
        check_python(block, rest)
    elif program == "pip":
        check_pip(block, rest)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert next(word for word in rest if "=" not in word) in targets, f"{block.place}: make {rest}"
    else:
        assert program in PLAIN, f"{block.place}: nobody knows the command {program!r}"


def environment_of(name: str, value: str) -> dict[str, str]:
    """The variable, with what its section needs to be complete."""
    needed = {"SERVER": ("LISTEN", "memory://x"), "CLIENT": ("URL", "memory://x")}
    kind, endpoint = name.split("__")[1:3]
    key, default = needed.get(kind, ("", ""))
    return ({f"ECHOSTREAM__{kind}__{endpoint}__{key}": default} if key else {}) | {name: value}


def check_python(block: Block, rest: list[str]) -> None:
    if rest[0] == "-m":
        module = rest[1]
        if module == "echostream_core" or module.startswith("examples."):
            check_help(block, module, rest[2:])
        elif module.partition(".")[0] == "echostream_testkit":
            check_testkit(block, module, rest[2:])
        else:
            known = {"venv", "pip", "pytest", "benchmarks.run", "benchmarks.profile_calls", "build"}
            known |= {"hatchling"}
            assert module in known, f"{block.place}: python -m {module}"
            if module == "pip":
                check_pip(block, rest[2:])
        return
    if rest[0].startswith("-"):
        return
    files = {other.marks.get("file") or other.marks.get("run") for other in blocks_of(block.page)}
    assert rest[0] in files or (ROOT / rest[0]).is_file(), f"{block.place}: there is no {rest[0]}"


def check_pip(block: Block, rest: list[str]) -> None:
    assert rest[0] == "install", f"{block.place}: pip {rest[0]}"
    skip = False
    for word in rest[1:]:
        if skip or word.startswith("-"):
            skip = word in ("-r", "-c", "-e") and not skip
            continue
        match = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?(?:[<>=~!].*)?", word)
        assert match, f"{block.place}: {word}"
        name, extras = match[1], match[2]
        if name.startswith("echostream"):
            known = {*DISTRIBUTIONS, *own_distributions(block)}
            assert name in known, f"{block.place}: there is no distribution {name}"
            if extras:
                offered = DISTRIBUTIONS[name]["project"].get("optional-dependencies", {})
                assert set(extras.split(",")) <= set(offered), f"{block.place}: {name} has no extra {extras}"


def own_distributions(block: Block) -> list[str]:
    """Distributions that the page itself makes."""
    return [
        tomllib.loads(other.text)["project"]["name"]
        for other in blocks_of(block.page)
        if other.marks.get("is") == "pyproject" and "[project]" in other.text
    ]


def check_echostream(block: Block, rest: list[str]) -> None:
    try:
        metadata.distribution("echostream-cli")
    except metadata.PackageNotFoundError:
        return
    check_help(block, "echostream_cli", rest)


def check_testkit(block: Block, module: str, rest: list[str]) -> None:
    try:
        metadata.distribution("echostream-testkit")
    except metadata.PackageNotFoundError:
        return
    check_help(block, module, rest)


HELPED: dict[tuple[str, ...], str] = {}


def check_help(block: Block, module: str, rest: list[str]) -> None:
    """Ask the command itself: its ``--help`` must know the subcommand and every option that is used."""
    path: list[str] = []
    for word in rest:
        if word.startswith("-") or not re.fullmatch(r"[a-z]+", word):
            break
        path.append(word)
    if path[:1] not in (["plugins"], ["config"], ["cert"]):
        path = path[:1]
    path = path[:2]
    key = (module, *path)
    if key not in HELPED:
        import sys

        done = subprocess.run(
            [sys.executable, "-m", module, *path, "--help"], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{block.place}: {module} {' '.join(path)} --help: {done.stderr}"
        HELPED[key] = done.stdout
    for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
        assert option in HELPED[key] or option == "--help", f"{block.place}: {' '.join(key)} has no option {option}"
