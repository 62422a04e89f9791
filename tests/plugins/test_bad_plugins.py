"""Six bad plugins are installed for real: each is named with its code, and none takes anything else down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.six_bad import CODES, install_six_bad_plugins

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys
from echostream_core.errors import PluginError
from echostream_core.commands import verdict_rows
from echostream_core.kernel import Kernel, PluginSettings

schemes = json.loads(sys.argv[1])
answer = {}

fresh = Kernel()
answer["good"] = fresh.transport("good").scheme
answer["imported"] = sorted(name for name in sys.modules if name.startswith("bad_"))
answer["referred"] = {}
for scheme in schemes:
    try:
        Kernel().transport(scheme)
    except PluginError as error:
        answer["referred"][scheme] = [error.code, str(error), error.fix, type(error.__cause__).__name__]

checked = Kernel()
answer["reports"] = [report.as_dict() for report in checked.check()]
answer["rows"] = verdict_rows(checked.plugins())
answer["good after check"] = checked.transport("good").scheme
answer["codecs after check"] = [spec.name for spec in checked.default_codecs()]
answer["too new imported"] = "bad_too_new" in sys.modules

settled = Kernel(PluginSettings(prefer={"memory": "echostream-core"}))
answer["settled"] = settled.transport("memory").summary is not None
blocking = Kernel(PluginSettings(block=tuple(sys.argv[2:])))
answer["blocked"] = {report.distribution: report.state for report in blocking.check()}
answer["blocked codes"] = [
    report.code for report in blocking.check() if report.code and report.distribution in sys.argv
]
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with the six installed has to say."""
    folder = tmp_path_factory.mktemp("six_bad")
    install_six_bad_plugins(folder)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    schemes = json.dumps([scheme for scheme, _ in CODES.values()])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, schemes, *CODES],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def test_a_good_plugin_beside_them_works_and_none_of_them_is_imported(answer: dict[str, Any]) -> None:
    assert answer["good"] == "good"
    assert answer["imported"] == []


@pytest.mark.parametrize("distribution", CODES)
def test_check_names_each_with_its_code(answer: dict[str, Any], distribution: str) -> None:
    (report,) = (report for report in answer["reports"] if report["distribution"] == distribution)
    assert report["code"] == CODES[distribution][1]
    assert distribution in report["problem"]
    assert report["fix"]
    assert report["state"] == ("loaded" if report["code"] == "E-AMBIGUOUS" else "failed")


@pytest.mark.parametrize("distribution", CODES)
def test_referring_to_one_raises_its_code_and_says_what_where_and_how_to_mend_it(
    answer: dict[str, Any], distribution: str
) -> None:
    scheme, code = CODES[distribution]
    raised, text, fix, _ = answer["referred"][scheme]
    assert raised == code
    assert text.startswith(f"{code}: ") and distribution in text and text.endswith(fix) and fix


def test_the_messages_tell_the_place(answer: dict[str, Any]) -> None:
    texts = {code_and_text[1]: code_and_text[3] for code_and_text in answer["referred"].values()}
    joined = "\n".join(texts)
    assert "bad_import_error.py:2)" in joined
    assert "SystemExit: I have decided that you stop" in joined and "bad_system_exit.py:3)" in joined
    assert "plugin API 2" in joined
    assert "offered by echostream-core and bad-duplicate (echostream_core.builtin.memory, bad_duplicate)" in joined
    assert "promise the transport 'lie', its hooks give transport 'truth'" in joined
    assert "Did you mean echostream_transports?" in joined
    assert {"ModuleNotFoundError", "SystemExit"} <= set(texts.values())


@pytest.mark.parametrize("distribution", CODES)
def test_a_row_of_the_check_says_where_to_look(answer: dict[str, Any], distribution: str) -> None:
    (row,) = (row for row in answer["rows"] if row[1].startswith(f"{distribution}/"))
    verdict, plugin, version, text = row
    module = distribution.replace("-", "_")
    assert (verdict, version) == (CODES[distribution][1], "1.0")
    assert f'entry point {plugin.partition("/")[2]} = "{module}", file ' in text
    assert text.endswith(f"{os.sep}{module}.py"), "the file in which it stands"
    assert "?." not in text and ".." not in text


def test_the_fixes_are_what_a_reader_can_do(answer: dict[str, Any]) -> None:
    fixes = {report["distribution"]: report["fix"] for report in answer["reports"]}
    assert fixes["bad-import-error"].startswith("Install a bad-import-error that fits echostream-core ")
    assert "tell its author" in fixes["bad-system-exit"]
    assert "Upgrade echostream-core, install a bad-too-new for plugin API 1, or leave it out" in fixes["bad-too-new"]
    assert fixes["bad-duplicate"].endswith('"echostream-core"; or uninstall bad-duplicate'), "the kernel cannot be"
    assert "Make entry points and hooks agree" in fixes["bad-lying-index"]
    for distribution in ("bad-import-error", "bad-system-exit", "bad-too-new", "bad-lying-index"):
        assert f'[plugins] block = ["{distribution}"]' in fixes[distribution]


def test_after_the_check_everything_good_still_works(answer: dict[str, Any]) -> None:
    assert answer["good after check"] == "good"
    assert "json" in answer["codecs after check"]
    assert not answer["too new imported"]


def test_they_can_be_settled_or_left_out(answer: dict[str, Any]) -> None:
    assert answer["settled"]
    assert {name: answer["blocked"][name] for name in CODES} == dict.fromkeys(CODES, "blocked")
    assert answer["blocked codes"] == []
