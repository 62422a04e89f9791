"""The reference pages list what the code has, all of it and nothing else: errors, codes, hooks, settings, links."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from echostream_core import Capabilities, Limits, errors
from echostream_core.builtin.json_codec import JsonOptions
from echostream_core.builtin.memory import MemoryOptions
from echostream_core.codec import CodecSpec
from echostream_core.commands import ExitStatus
from echostream_core.components import ComponentSpec
from echostream_core.config_schema import ClientConfig, ServerConfig
from echostream_core.discovery import DiscoverySpec
from echostream_core.engine.context import Context
from echostream_core.errors import CloseCode, EchoStreamError, PluginError, StatusCode
from echostream_core.hookspecs import HookSpecs
from echostream_core.middleware import MiddlewareSpec
from echostream_core.plugin_reports import PluginSettings
from echostream_core.tls_options import TlsOptions
from echostream_core.transport import TransportSpec
from tests.docs.markdown import ROOT, table_rows

DOCS = ROOT / "docs"
HOOKS = [name for name in dir(HookSpecs) if name.startswith("echostream_")]
SPECS = [TransportSpec, CodecSpec, DiscoverySpec, MiddlewareSpec, ComponentSpec]
ERRORS = [value for name in errors.__all__ if issubclass(value := getattr(errors, name), EchoStreamError)]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """The part of a page below the heading ``title``, up to the next heading of its level or above."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.DOTALL | re.MULTILINE)
    assert match, f"there is no section {title!r}"
    return match[2]


def words(cells: Iterable[str]) -> list[str]:
    """What stands in backticks in each cell."""
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


# Errors.


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_its_cause_and_its_remedy(error: type[EchoStreamError]) -> None:
    rows = [*table_rows(page("errors.md"), "error", "cause", "what to do")]
    rows += [row[1:] for row in table_rows(page("errors.md"), "code", "error", "cause", "fix")]
    found = [row for row in rows if words(row[:1])[:1] == [error.__name__]]
    assert len(found) == 1, f"{error.__name__} stands {len(found)} times in the tables of errors.md"
    name, cause, remedy = found[0]
    assert len(cause) > 10, name
    assert remedy, name


def test_no_error_is_listed_that_does_not_exist() -> None:
    rows = [*table_rows(page("errors.md"), "error", "cause", "what to do")]
    rows += [row[1:] for row in table_rows(page("errors.md"), "code", "error", "cause", "fix")]
    listed = [words(row[:1])[0] for row in rows]
    assert set(listed) == {error.__name__ for error in ERRORS}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_fact_of_an_error_is_mentioned(error: type[EchoStreamError]) -> None:
    text = page("errors.md")
    if "__init__" in vars(error):
        facts = set(inspect.signature(error).parameters) - {"message"}
        missing = [fact for fact in sorted(facts) if f"`{fact}`" not in text]
        assert not missing, f"{error.__name__}: {', '.join(missing)}"


def drawn_tree(text: str) -> dict[str, str]:
    """Class → its parent, of a tree drawn with indentation or with box characters."""
    parents: dict[str, str] = {}
    line_of: dict[int, str] = {}
    for line in text.splitlines():
        match = re.match(r"^([│├└─ ]*)(\w+)", line)
        if match and match[2][0].isupper():
            depth = len(match[1])
            line_of[depth] = match[2]
            above = [level for level in line_of if level < depth]
            if above:
                parents[match[2]] = line_of[max(above)]
            line_of = {level: name for level, name in line_of.items() if level <= depth}
    return parents


@pytest.mark.parametrize("where", ["errors.md", "errors.py"])
def test_the_tree_is_the_tree(where: str) -> None:
    if where == "errors.md":
        match = re.search(r"^```text\n(EchoStreamError.*?)^```", page(where), re.DOTALL | re.MULTILINE)
    else:
        match = re.search(r"(?<=::\n\n)(.*?)\n\n", errors.__doc__ or "", re.DOTALL)
    assert match
    expected = {error.__name__: error.__bases__[0].__name__ for error in ERRORS if error is not EchoStreamError}
    assert drawn_tree(match[1]) == expected


def test_every_code_of_a_plugin_error_is_listed_with_its_class() -> None:
    rows = table_rows(page("errors.md"), "code", "error", "cause", "fix")
    kinds = [error for error in ERRORS if issubclass(error, PluginError)]
    assert {row[0]: words(row[1:2])[0] for row in rows} == {error.code: error.__name__ for error in kinds}


@pytest.mark.parametrize(("enumeration", "title"), [(StatusCode, "Status codes"), (CloseCode, "Close codes")])
def test_every_code_is_listed_with_its_number(enumeration: type[StatusCode] | type[CloseCode], title: str) -> None:
    rows = table_rows(section(page("errors.md"), title), "code", "name", "meaning")
    assert [(int(row[0]), row[1]) for row in rows] == [(code.value, code.name) for code in enumeration]


def test_the_close_codes_of_the_specification_are_those_of_the_code() -> None:
    rows = table_rows(page("wire.md"), "code", "name", "where", "meaning")
    assert [(int(row[0]), row[1]) for row in rows] == [(code.value, code.name) for code in CloseCode]


def test_every_exit_status_is_listed() -> None:
    rows = table_rows(page("errors.md"), "status", "name", "meaning")
    assert [(int(row[0]), row[1]) for row in rows] == [(status.value, status.name) for status in ExitStatus]


# Hooks.


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_arguments(hook: str) -> None:
    text = section(page("hooks.md"), f"`{hook}`")
    assert "Since 0." in text
    arguments = [name for name in inspect.signature(getattr(HookSpecs, hook)).parameters if name != "self"]
    documented = words(row[0] for row in table_rows(text, "argument", "meaning"))
    assert documented == arguments
    if not arguments:
        assert "No arguments" in text


def test_no_hook_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^### `(\w+)`", page("hooks.md"), re.MULTILINE)) == set(HOOKS)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.__name__)
def test_every_field_of_a_spec_is_documented(spec: type) -> None:
    rows = table_rows(page("hooks.md"), f"`{spec.__name__}`", "meaning")
    assert words(row[0] for row in rows) == [field.name for field in fields(spec)]


# Configuration.


@pytest.mark.parametrize(
    ("title", "schema"),
    [("`[server.NAME]`", ServerConfig), ("`[client.NAME]`", ClientConfig), ("`[plugins]`", PluginSettings)],
)
def test_every_setting_is_documented_with_its_default(title: str, schema: type[msgspec.Struct]) -> None:
    rows = {words(row[:1])[0]: row for row in table_rows(section(page("configuration.md"), title), "key", "type")}
    known = {field.name: field for field in msgspec.structs.fields(schema) if field.name != "name"}
    assert set(rows) == set(known)
    for name, field in known.items():
        default = rows[name][2]
        if field.required:
            assert default == "required", name
        elif isinstance(field.default, bool | float | str) and field.default != "":
            shown = f"{field.default:g}" if type(field.default) is float else str(field.default)
            assert default.strip("`").strip('"') in (shown, shown.lower()), name


def test_every_tls_setting_is_documented() -> None:
    rows = table_rows(section(page("configuration.md"), "`tls`"), "key", "type", "default")
    assert words(row[0] for row in rows) == [field.name for field in msgspec.structs.fields(TlsOptions)]


def test_every_capability_is_documented() -> None:
    rows = table_rows(page("configuration.md"), "capability", "levels")
    assert words(row[0] for row in rows) == [field.name for field in fields(Capabilities)]


@pytest.mark.parametrize(("title", "options"), [("[transport.memory]", MemoryOptions), ("[codec.json]", JsonOptions)])
def test_every_option_of_the_kernels_own_plugins_is_documented(title: str, options: type[msgspec.Struct]) -> None:
    rows = [row for row in table_rows(page("configuration.md"), "section", "key") if row[0] == f"`{title}`"]
    shown = {words(row[1:2])[0]: row[2].replace(",", "").strip("`").strip('"') for row in rows}
    assert shown == {field.name: str(field.default) for field in msgspec.structs.fields(options)}


def test_limits_that_pages_mention_exist() -> None:
    known = {field.name for field in fields(Limits)}
    for name in ("security.md", "performance.md", "calls.md"):
        mentioned = set(re.findall(r"`((?:max|inline|setup|keepalive|cancel|assembly)_\w+)", page(name)))
        assert mentioned - known <= {"max_depth", "max_bytes"}, name


# The context.


def test_everything_in_the_context_is_documented() -> None:
    rows = table_rows(page("calls.md"), "attribute", "meaning")
    listed = {word.removesuffix("()") for row in rows for word in words(row[:1])}
    public = {name for name in dir(Context) if not name.startswith("_")} - {"ended"}
    assert listed == public


# Words, links and records.


def test_the_glossary_is_sorted_and_has_no_word_twice() -> None:
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", page("glossary.md"), re.MULTILINE)
    assert len(terms) > 40
    plain = [term.lower().replace("-", "") for term in terms]
    assert plain == sorted(plain)
    assert len(set(plain)) == len(plain)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as the web shows them."""
    found = set()
    for title in re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    ):
        found.add(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors_of(there.read_text(encoding="utf-8")), f"{path.name}: {target}"


def test_every_page_can_be_found_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [DOCS / "index.md"]
    while waiting:
        path = waiting.pop()
        if path not in seen and path.suffix == ".md" and path.is_file():
            seen.add(path)
            for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
                if not re.match(r"[a-z]+:", target):
                    waiting.append((path.parent / target).resolve())
    missing = [path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md") if path.resolve() not in seen]
    assert [name for name in missing if "changelog.d" not in name] == []


DECISIONS = sorted(DOCS.glob("decisions/[0-9]*.md"))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name)
def test_a_decision_has_its_parts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    number = path.name[:4]
    assert re.match(rf"# {number}: .+\n\n- Status: (accepted|replaced by \d{{4}})\n- Date: \d{{4}}-\d\d-\d\d\n", text)
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert titles == ["Context", "Options", "Decision", "Consequences", "Revisions"]
    assert f"({path.name})" in page("decisions/README.md")


def test_decisions_are_numbered_without_gaps() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


def test_decisions_that_the_code_cites_exist() -> None:
    known = {path.name[:4] for path in DECISIONS}
    for folder in ("echostream_core", "plugins", "tests"):
        for source in (ROOT / folder).rglob("*.py"):
            cited = re.findall(r"decision (\d{4})", source.read_text(encoding="utf-8"))
            assert set(cited) <= known, source


def test_sections_of_the_specification_that_the_code_cites_exist() -> None:
    known = set(re.findall(r"^## (\d+)\.", page("wire.md"), re.MULTILINE))
    for source in (ROOT / "echostream_core").rglob("*.py"):
        text = " ".join(source.read_text(encoding="utf-8").split())
        for cited in re.findall(r"docs/wire\.md sections? (\d+)(?: and (\d+))?", text):
            assert {number for number in cited if number} <= known, source
