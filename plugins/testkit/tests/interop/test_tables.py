"""What is shown of a matrix."""

from __future__ import annotations

import json

from echostream_testkit.interop.contract import CaseResult, Outcome
from echostream_testkit.interop.plan import Implementation, Pairing, Plan
from echostream_testkit.interop.runs import RunResult
from echostream_testkit.interop.tables import as_data, as_markdown, as_text, line_of, succeeded

PLAN = Plan(
    implementations={"here": Implementation(command=("x",)), "there": Implementation(command=("y",), version="v1")},
    transports=("tcp", "unix://{folder}/s"),
    codecs=("json", "cbor"),
)


def run(
    dialer: str, transport: str, codec: str, *cases: str, reason: str = "", outcome: Outcome = "passed"
) -> RunResult:
    """A run whose cases are ``name:outcome``."""
    pairing = Pairing(listener="here", dialer=dialer, transport=transport, listen="", codec=codec)
    results = []
    for one in cases:
        name, _, how = one.partition(":")
        ended: Outcome = "failed" if how == "failed" else "unsupported" if how == "unsupported" else "passed"
        results.append(CaseResult(name=name, outcome=ended, reason=f"{name} | why" if ended != "passed" else ""))
    described = {"listener": {"name": "ours", "version": "1", "runtime": "Python"}}
    return RunResult(
        pairing=pairing, outcome=outcome, reason=reason, cases=tuple(results), seconds=1.25, implementations=described
    )


RUNS = [
    run("here", "tcp", "json", "one", "two"),
    run("here", "tcp", "cbor", "one", "two"),
    run("here", "unix", "json", "one", "two:failed", outcome="failed"),
    run("there", "tcp", "json", "one", "two:unsupported"),
    run("there", "tcp", "cbor", outcome="failed", reason="the listener was not ready within 3 s"),
    run("there", "unix", "json", outcome="unsupported", reason="the listener: no transport"),
]


def test_the_table_on_the_terminal() -> None:
    lines = as_text(PLAN, RUNS).splitlines()
    assert lines == [
        "listener  dialer  tcp                               unix",
        "--------  ------  --------------------------------  ----------------------",
        "here      here    4/4                               1/2",
        "here      there   1/1, 1 unsupported, 1 broken off  1 not supported at all",
        "",
        "Failed:",
        "  here <- there, tcp, cbor: the listener was not ready within 3 s",
        "  two, here <- here, unix, json: two | why",
        "",
        "Not supported:",
        "  here <- there, unix, json: the listener: no transport",
        "  two, here <- there, tcp, json: two | why",
        "",
        "6 runs: 3 passed, 2 failed, 1 unsupported; cases: 6 passed, 1 failed, 1 unsupported.",
    ]


def test_the_table_in_markdown() -> None:
    text = as_markdown(PLAN, RUNS)
    assert text.startswith(
        "| name | program | version | runtime |\n"
        "|---|---|---|---|\n"
        "| here | ours | 1 | Python |\n"
        "| there | ? | v1 | ? |\n"
        "\n"
        "| listener | dialer | tcp | unix |\n"
        "|---|---|---|---|\n"
        "| here | here | 4/4 | 1/2 |\n"
    )
    assert "\nFailed:\n\n- here <- there, tcp, cbor: the listener was not ready" in text


def test_what_is_broken_everywhere_is_told_once() -> None:
    runs = [run("here", "tcp", str(codec), "one:failed", outcome="failed") for codec in range(10)]
    text = as_text(PLAN, runs)
    assert text.count("one, here <- here") == 4
    assert "one: and in 6 more runs" in text
    broken = [run("here", "tcp", str(codec), outcome="failed", reason="it burns") for codec in range(10)]
    assert "here <- here, tcp, 0 and 9 more runs: it burns" in as_text(PLAN, broken)


def test_the_line_of_a_run() -> None:
    assert line_of(RUNS[2]) == "failed      here <- here  unix/json  1/2  1.2 s"
    assert line_of(RUNS[4]).endswith("1 broken off  1.2 s  the listener was not ready within 3 s")


def test_the_data_holds_everything() -> None:
    data = json.loads(json.dumps(as_data(PLAN, RUNS)))
    assert data["totals"] == {
        "runs": {"passed": 3, "failed": 2, "unsupported": 1},
        "cases": {"passed": 6, "failed": 1, "unsupported": 1},
    }
    assert data["succeeded"] is False
    assert data["implementations"]["there"] == {"name": "?", "version": "v1", "runtime": "?"}
    assert data["runs"][2]["cases"][1] == {"name": "two", "outcome": "failed", "reason": "two | why", "seconds": 0.0}


def test_a_matrix_in_which_nothing_could_be_tried_has_not_succeeded() -> None:
    assert succeeded(RUNS[:2])
    assert succeeded([RUNS[0], RUNS[5]])
    assert not succeeded([RUNS[5]])
    assert not succeeded([])
    assert not succeeded(RUNS)
