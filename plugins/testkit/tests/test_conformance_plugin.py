"""The pytest plugin of the kit: selection, strict gaps, the report and the badge, in a project of a plugin author's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from echostream_testkit.__main__ import main
from echostream_testkit.badge import badge_row
from echostream_testkit.report import BadReport, Report, read_report

SETTINGS = (
    "[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\naddopts = -p no:cacheprovider\n"
)

SUITE = """
from echostream_testkit.checks import capability


class Suite:
    kind = "transport"
    url = "memory://{name}"
    known_gaps = {}

    def claims(self, need):
        return need == "reset"

    def test_plain(self):
        pass

    @capability("reset")
    def test_reset_works(self):
        pass

    @capability("reset", claimed=False)
    def test_reset_absent(self):
        raise AssertionError("does not apply")

    def test_broken(self):
        assert self.known_gaps is None, "it is broken"
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A plugin author's project that has opted in, with a small suite of four checks."""
    pytester.makeini(SETTINGS)
    pytester.makeconftest('pytest_plugins = ["echostream_testkit"]\n')
    pytester.makepyfile(small_suite=SUITE)
    return pytester


def write(project: pytest.Pytester, body: str = "    pass\n") -> None:
    project.makepyfile(test_conformance=f"from small_suite import Suite\n\n\nclass TestMine(Suite):\n{body}")


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_inprocess("-p", "no:randomly", *arguments)


def reported(project: pytest.Pytester) -> tuple[Report, dict[str, Any]]:
    run(project, "--conformance-report=out/report.json")
    report = read_report(project.path / "out" / "report.json")
    (found,) = report["classes"]
    return report, found


def test_checks_that_do_not_apply_are_deselected_and_not_skipped(project: pytest.Pytester) -> None:
    write(project)
    run(project).assert_outcomes(passed=2, failed=1, deselected=1, skipped=0)


def test_a_known_gap_is_an_expected_failure_with_its_reason(project: pytest.Pytester) -> None:
    write(project, '    known_gaps = {"test_broken": "the library cannot do it"}\n')
    result = run(project, "-rx")
    result.assert_outcomes(passed=2, xfailed=1, deselected=1)
    result.stdout.fnmatch_lines(["*known gap: the library cannot do it*"])


def test_a_gap_whose_check_passes_fails(project: pytest.Pytester) -> None:
    write(project, '    known_gaps = {"test_plain": "it was so once", "test_broken": "still"}\n')
    result = run(project)
    result.assert_outcomes(passed=1, failed=1, xfailed=1, deselected=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*known gap: it was so once*"])


@pytest.mark.parametrize(
    ("gaps", "complaint"),
    [
        ('{"test_brokn": "misspelt", "test_broken": "x"}', "*'test_brokn'*the suite has no check of that name*"),
        (
            '{"test_reset_absent": "not mine", "test_broken": "x"}',
            "*'test_reset_absent'*does not apply (reset is claimed)*",
        ),
        ('{"test_broken": " "}', "*'test_broken'*write the reason*"),
    ],
    ids=["unknown name", "check that does not apply", "no reason"],
)
def test_an_entry_that_means_nothing_fails(project: pytest.Pytester, gaps: str, complaint: str) -> None:
    write(project, f"    known_gaps = {gaps}\n")
    result = run(project)
    result.assert_outcomes(passed=2, failed=1, xfailed=1, deselected=1)
    result.stdout.fnmatch_lines([complaint])


def test_a_plugin_that_cannot_be_asked_fails_each_check_in_its_own_words(project: pytest.Pytester) -> None:
    write(project, '    def claims(self, need):\n        raise RuntimeError("no such library")\n')
    result = run(project)
    result.assert_outcomes(passed=2, failed=2)


def test_the_report_says_what_was_tested_and_how_each_check_went(project: pytest.Pytester) -> None:
    write(project, '    known_gaps = {"test_broken": "the library cannot do it"}\n')
    report, found = reported(project)
    assert report["suite_version"] == "1.0" and report["kernel_version"] and report["format"] == 1
    assert found["class"] == "test_conformance.py::TestMine"
    assert (found["kind"], found["name"], found["url"]) == ("transport", "memory", "memory://{name}")
    assert found["distribution"] == "echostream-core" and found["version"]
    assert found["not_applicable"] == {"test_reset_absent": "reset is claimed"}
    outcomes = {name: (check["outcome"], check["reason"]) for name, check in found["checks"].items()}
    assert outcomes == {
        "test_plain": ("passed", ""),
        "test_reset_works": ("passed", ""),
        "test_broken": ("known gap", "the library cannot do it"),
    }
    assert all(check["duration_s"] >= 0 for check in found["checks"].values())


def test_the_report_tells_failures_from_gaps_that_pass(project: pytest.Pytester) -> None:
    write(project, '    known_gaps = {"test_plain": "it was so once"}\n')
    _, found = reported(project)
    assert found["checks"]["test_plain"]["outcome"] == "unexpected pass"
    assert found["checks"]["test_broken"]["outcome"] == "failed"
    assert "it is broken" in found["checks"]["test_broken"]["reason"]


def test_the_report_has_the_capability_record_of_a_real_transport(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_conformance="""
        from echostream_testkit import TransportConformance

        class TestMemory(TransportConformance):
            url = "memory://{name}"
        """
    )
    run(project, "--conformance-report=out/report.json", "-k", "test_spec_describes_itself")
    (found,) = read_report(project.path / "out" / "report.json")["classes"]
    assert found["capabilities"]["streams"] == "native" and found["capabilities"]["migration"] is False
    assert found["checks"]["test_spec_describes_itself"]["outcome"] == "passed"
    assert found["not_applicable"]["test_streams_muxed_yield_pipes"] == "streams=muxed is not claimed"
    assert found["not_applicable"]["test_failed_dial_chains_its_cause"] == "there is no wire"


@pytest.mark.parametrize(
    ("gaps", "said", "colour"),
    [
        ("{}", "2%2F3%20passed", "red"),
        ('{"test_broken": "x"}', "2%2F3%20passed%2C%201%20known%20gap", "yellow"),
        ('{"test_plain": "x", "test_broken": "x"}', "1%2F3%20passed%2C%201%20known%20gap", "red"),
    ],
    ids=["a failure", "a known gap", "a gap that passes"],
)
def test_badges_say_how_many_passed(project: pytest.Pytester, gaps: str, said: str, colour: str) -> None:
    write(project, f"    known_gaps = {gaps}\n")
    report, _ = reported(project)
    row = badge_row(report)
    assert row.startswith("![transport memory conformance 1.0: ")
    assert row.endswith(f"/transport%20memory%20conformance%201.0-{said}-{colour})")


def test_a_class_without_failures_and_gaps_has_a_green_badge(project: pytest.Pytester) -> None:
    write(project, "    test_broken = None\n")
    report, _ = reported(project)
    assert badge_row(report).endswith("2%2F2%20passed-brightgreen)")


def test_the_commands_print_badges_and_a_table(project: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, '    known_gaps = {"test_broken": "the library cannot do it"}\n')
    reported(project)
    file = str(project.path / "out" / "report.json")
    capsys.readouterr()
    assert main(["badge", file]) == 0
    assert capsys.readouterr().out.startswith("![transport memory conformance")
    assert main(["report", file]) == 0
    table = capsys.readouterr().out
    assert "transport memory://{name} (echostream-core" in table
    assert "1 not applicable, 2 passed, 1 known gap" in table
    assert "test_broken  the library cannot do it" in table and "test_plain" not in table
    assert main(["report", "--all", file]) == 0
    everything = capsys.readouterr().out
    assert "test_plain" in everything and "test_reset_absent  reset is claimed" in everything


def test_the_table_of_a_report_with_failures_exits_with_1(
    project: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    write(project)
    reported(project)
    assert main(["report", str(project.path / "out" / "report.json")]) == 1
    assert "test_broken  AssertionError: it is broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read"),
        ("{", "is no JSON"),
        ("[]", "is no conformance report"),
        (json.dumps({"suite_version": "1.0", "classes": [], "format": 2}), "has the format 2"),
    ],
    ids=["no file", "no JSON", "no report", "another format"],
)
def test_a_file_that_is_no_report_is_said_to_be_none(
    tmp_path: Path, content: str | None, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(BadReport, match=complaint):
        read_report(file)
    assert main(["badge", str(file)]) == 2
    assert complaint in capsys.readouterr().err


def test_a_plugin_that_is_not_installed_does_not_cost_the_report(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_conformance="""
        from echostream_testkit import CodecConformance

        class TestNowhere(CodecConformance):
            name = "nowhere"
        """
    )
    file = project.path / "report.json"
    project.runpytest_inprocess(f"--conformance-report={file}", "-k", "spec").stdout.no_fnmatch_line("*INTERNALERROR*")
    (found,) = read_report(file)["classes"]
    assert (found["name"], found["distribution"], found["capabilities"]) == ("nowhere", None, None)
    assert {check["outcome"] for check in found["checks"].values()} == {"failed"}
