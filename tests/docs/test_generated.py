"""The reference pages that ``make docs`` writes are what the code says today; nothing on them waits to be written."""

from __future__ import annotations

import inspect
import re
from enum import IntEnum

import pytest

from echostream_core import Kernel, errors
from echostream_core.commands import ExitStatus
from echostream_core.errors import CloseCode, EchoStreamError, PluginError, StatusCode
from echostream_core.hookspecs import HookSpecs, hookspec
from scripts.reference import capabilities, hooks
from scripts.reference import errors as error_page
from scripts.reference.__main__ import main
from scripts.reference.markers import DOCS, UNWRITTEN, blocks, filled, first_sentence, merged_table
from tests.docs.markdown import ROOT

FIX = "run make docs"
HOOKS = [name for name in vars(HookSpecs) if name.startswith("echostream_")]
ERRORS = [value for name in errors.__all__ if issubclass(value := getattr(errors, name), EchoStreamError)]
CODES: list[type[IntEnum]] = [StatusCode, CloseCode, ExitStatus]
CODE_PARTS = {StatusCode: "status codes", CloseCode: "close codes", ExitStatus: "exit statuses"}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def parts(name: str) -> dict[str, str]:
    return blocks(page(name))


@pytest.mark.parametrize("name", ["hooks.md", "errors.md"])
def test_a_page_says_what_the_code_says(name: str) -> None:
    make = hooks.contents if name == "hooks.md" else error_page.contents
    have = parts(name)
    wanted = make(page(name), have)
    assert set(have) == set(wanted), FIX
    for part, text in wanted.items():
        assert have[part] == text, f"{name}: {part}: {FIX}"


@pytest.mark.parametrize("name", ["capabilities.md", "hooks.md", "errors.md"])
def test_nothing_waits_to_be_written(name: str) -> None:
    assert UNWRITTEN not in page(name)


# Capabilities.


def test_the_capability_page_says_what_the_installed_plugins_say() -> None:
    assert capabilities.problems(Kernel(), parts("capabilities.md")) == [], FIX


@pytest.mark.parametrize(
    ("part", "old", "new", "problem"),
    [
        (
            "transports",
            "| `memory` | echostream-core | native |",
            "| `memory` | echostream-core | none |",
            "not on the",
        ),
        ("transports", "| `memory` |", "| `pigeon` |", "there is no transport `pigeon`"),
        ("notes", "nobody can read it", "everybody can read it", "this row is not in the code: `memory` | `encrypted`"),
        ("codecs", "| `json` | echostream-core | 0 |", "| `json` | echostream-core | 1 |", "not on the page: `json`"),
        ("meanings", "| `reset` | no, yes |", "| `reset` | no |", "the table is not that of Capabilities"),
    ],
)
def test_a_capability_page_that_lags_behind_is_noticed(part: str, old: str, new: str, problem: str) -> None:
    have = parts("capabilities.md")
    assert old in have[part]
    have[part] = have[part].replace(old, new)
    found = capabilities.problems(Kernel(), have)
    assert any(problem in one and one.startswith(part) for one in found), found


def test_a_transport_without_a_row_is_noticed() -> None:
    have = parts("capabilities.md")
    have["transports"] = "\n".join(line for line in have["transports"].splitlines() if "`memory`" not in line)
    assert "transports: `memory` has no row" in capabilities.problems(Kernel(), have)


def test_every_transport_and_codec_of_the_repository_is_on_the_page() -> None:
    text = page("capabilities.md")
    for kind in ("transport", "codec"):
        known = capabilities.declared(kind)
        assert known, kind
        for key, distribution in known.items():
            assert f"| `{key}` | {distribution} |" in text, FIX


# Hooks.


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_a_section_with_everything_that_pluggy_knows_of_it(name: str) -> None:
    hook = hooks.live_hooks()[name]
    section = re.search(rf"^### `{name}`\n(.*?)(?=^##|\Z)", page("hooks.md"), re.DOTALL | re.MULTILINE)
    assert section, f"docs/hooks.md: write a heading ### `{name}` with the markers of {name}"
    shown = blocks(section[1])[name]
    assert hook.summary in shown
    assert hook.signature in shown
    assert set(hook.arguments) == set(inspect.signature(getattr(HookSpecs, name)).parameters) - {"self"}
    for label in hooks.LABELS:
        assert f"| {label} | {hook.says[label]} |" in shown


def test_the_generator_knows_every_hook() -> None:
    assert list(hooks.live_hooks()) == HOOKS


def test_what_hooks_say_by_reference_is_spelt_out() -> None:
    codecs = hooks.live_hooks()["echostream_codecs"]
    assert codecs.index_group == "echostream.v1.codecs"
    assert "echostream.v1.codecs" in codecs.says["return"]
    assert "transports" not in "".join(codecs.says.values())


def documented(text: str) -> type:
    """Hook specs with one hook that has this docstring."""

    def echostream_new(self: object) -> None: ...

    echostream_new.__doc__ = text
    return type("HookSpecs", (), {"echostream_new": hookspec(echostream_new)})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Be new.\n\nWhen: now. Return: ignored. Errors: none.", "does not say since when"),
        ("Be new.\n\nWhen: now. Errors: none. Since 0.2.", "does not say: return"),
        ("Be new. Since 0.2.", "does not say since when"),
        ("Be new.\n\nSince 0.2.", "does not say: when, return, errors"),
    ],
)
def test_a_hook_that_leaves_something_unsaid_is_refused(
    text: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "HookSpecs", documented(text))
    with pytest.raises(ValueError, match=f"echostream_new: its docstring {problem}"):
        hooks.live_hooks()


def test_a_hook_without_a_section_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = "Be new.\n\nWhen: now. Return: ignored. Errors: none. Since 0.2."
    monkeypatch.setattr(hooks, "HookSpecs", documented(complete))
    text = page("hooks.md")
    with pytest.raises(ValueError, match=r"lacks the markers of: \['echostream_new'\]"):
        filled(text, hooks.contents(text, blocks(text)))


# Errors.


def test_the_generator_knows_every_error() -> None:
    assert set(error_page.classes()) == set(ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_stands_in_the_tree_in_the_overview_and_with_its_cause(error: type[EchoStreamError]) -> None:
    have = parts("errors.md")
    name = re.escape(error.__name__)
    assert len(re.findall(rf"\b{name}(?=\s|$)", have["tree"])) >= 1
    (row,) = re.findall(rf"^\| `{name}` \|.*$", have["classes"], re.MULTILINE)
    assert all(f"`{fact}`" in row for fact in error_page.facts_of(error))
    causes = "\n".join(text for part, text in have.items() if part not in ("tree", "classes"))
    assert len(re.findall(rf"^\| (?:E-[A-Z-]+ \| )?`{name}` \|", causes, re.MULTILINE)) == 1


def test_facts_are_what_errors_have() -> None:
    assert error_page.facts_of(errors.LimitExceeded) == ["limit", "value", "maximum"]
    assert error_page.facts_of(errors.DeadlineExceeded) == []
    assert error_page.facts_of(errors.ConnectionLost) == ["close_code"]
    assert error_page.facts_of(errors.RpcError)[:2] == ["code", "message"]
    assert set(error_page.facts_of(PluginError)) == {"code", "plugin", "problem", "fix"}


@pytest.mark.parametrize("codes", CODES, ids=lambda codes: codes.__name__)
def test_every_number_has_its_row(codes: type[IntEnum]) -> None:
    text = parts("errors.md")[CODE_PARTS[codes]]
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [(code.value, code.name) for code in codes]


def test_every_coded_error_that_the_sources_mention_is_on_the_page() -> None:
    listed = set(re.findall(r"^\| (E-[A-Z-]+) \|", parts("errors.md")["plugins"], re.MULTILINE))
    assert len(listed) > 5
    for folder in (ROOT / "echostream_core", *sorted(ROOT.glob("plugins/*/src"))):
        for source in folder.rglob("*.py"):
            mentioned = set(re.findall(r"\bE-[A-Z]+(?:-[A-Z]+)*\b", source.read_text(encoding="utf-8")))
            assert mentioned <= listed, f"{source.relative_to(ROOT)}: {mentioned - listed}"


# The generator itself.


def test_hand_written_cells_stay_and_new_rows_ask_for_theirs() -> None:
    old = "| n | name | why |\n|---|---|---|\n| 2 | B | because of b |\n| 1 | A | because of a |\n| 9 | GONE | x |"
    assert merged_table(["n", "name", "why"], [["1", "A"], ["2", "B"], ["3", "C"]], old).splitlines() == [
        "| n | name | why |",
        "|---|---|---|",
        "| 1 | A | because of a |",
        "| 2 | B | because of b |",
        f"| 3 | C | {UNWRITTEN} |",
    ]


PAGE = "# Title\n\n<!-- generated: a -->\nold\n<!-- end of a -->\n\nprose\n"


def test_only_what_is_marked_is_replaced() -> None:
    new = filled(PAGE, {"a": "new"})
    assert new == "# Title\n\n<!-- generated: a -->\n\nnew\n\n<!-- end of a -->\n\nprose\n"
    assert blocks(new) == {"a": "new"}
    assert filled(new, {"a": "new"}) == new


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (PAGE + PAGE, "the part 'a' stands twice"),
        (PAGE.replace("end of a", "end of b"), "parts without an end: a"),
    ],
    ids=["twice", "no end"],
)
def test_a_page_with_wrong_marks_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        blocks(text)


def test_a_summary_is_the_first_sentence_of_a_docstring() -> None:
    assert first_sentence("One ``a|b`` of :class:`X`.  Two.\n\nThree.") == "One `a\\|b` of `X`."
    assert first_sentence(None) == ""


def test_the_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--frobnicate"]) == 2
    assert capsys.readouterr().err == "usage: python -m scripts.reference [--check | --matrix FILE]\n"
