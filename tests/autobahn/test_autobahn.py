"""Autobahn's test suite against our frames, as server and as client, on both event loops.

What is tested is the code that stands under the kernel's mux: frames, closing handshake, and the pipe of TCP below.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.autobahn import results, wstest
from tests.autobahn.wstest import Verdict
from tests.conftest import loop_factories
from tests.support.peers import absent

pytestmark = pytest.mark.timeout(2 * wstest.PATIENCE_S)

Role = Callable[[Sequence[str], Path], Awaitable[Verdict]]
ROLES: dict[str, Role] = {"server": results.as_server, "client": results.as_client}
LOOPS_BY_NAME = {name: factory for name, factory in loop_factories().items() if name != "virtual"}
RUNS = [(role, loop) for role in ROLES for loop in LOOPS_BY_NAME]
CASES = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "10": 1}
"""How many cases each group has: that a run was complete."""
CODES: dict[str, dict[int | None, int]] = {
    "1": {1_000: 16},
    "2": {1_000: 10, 1_002: 1},
    "3": {1_002: 7},
    "4": {1_002: 10},
    "5": {1_000: 8, 1_002: 12},
    "6": {1_000: 70, 1_007: 75},
    "10": {1_000: 1},
}
"""With which codes we close in how many cases; those of group 7 are judged by Autobahn itself."""


@pytest.fixture(scope="module")
def installed() -> None:
    reason = wstest.missing()
    if reason is not None:
        absent("autobahn", reason)


def run(role: str, loop: str, cases: Sequence[str], folder: Path) -> Verdict:
    """One run of Autobahn, on an event loop of its own in this thread."""
    folder.mkdir()

    problems: list[object] = []

    async def start() -> Verdict:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
        return await ROLES[role](cases, folder)

    with asyncio.Runner(loop_factory=LOOPS_BY_NAME[loop]) as runner:
        verdict = runner.run(start())
    assert problems == []  # the loop would drop the connection, which is what many a case waits for
    return verdict


@pytest.fixture(scope="module")
def verdicts(
    installed: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[Verdict]]]:
    """What Autobahn says, by role and loop. All run at once: most of what they do is wait."""
    folder = tmp_path_factory.mktemp("autobahn")
    cases = [f"{group}.*" for group in results.GROUPS]
    with ThreadPoolExecutor(len(RUNS) or 1) as threads:
        yield {each: threads.submit(run, *each, cases, folder / "-".join(each)) for each in RUNS}


@pytest.mark.parametrize(("role", "loop"), RUNS)
def test_every_case_of_autobahn_is_passed(
    role: str, loop: str, verdicts: dict[tuple[str, str], Future[Verdict]]
) -> None:
    verdict = verdicts[role, loop].result()
    groups = {group: [case for case in verdict.behaviours if case.split(".")[0] == group] for group in results.GROUPS}
    assert {group: len(cases) for group, cases in groups.items()} == CASES
    assert {case: word for case, word in verdict.behaviours.items() if word not in results.PASSED} == {}
    assert verdict.behaviours["7.1.5"] == "OK"  # a close frame within a message, which libraries are known to fail
    for group, codes in CODES.items():
        assert Counter(verdict.close_codes[case] for case in groups[group]) == codes, f"group {group}"


def test_the_table_in_the_documentation_is_what_autobahn_says(
    verdicts: dict[tuple[str, str], Future[Verdict]],
) -> None:
    for loop in LOOPS_BY_NAME:
        found = results.markdown(verdicts["server", loop].result(), verdicts["client", loop].result())
        assert results.documented() == found, "run python -m tests.autobahn --write"


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("role", "loop"), RUNS)
def test_large_and_many_messages_are_echoed(role: str, loop: str, tmp_path: Path) -> None:
    verdict = run(role, loop, results.SAMPLES, tmp_path / "run")
    assert verdict.behaviours == dict.fromkeys(results.SAMPLES, "OK")


def test_a_failure_would_be_noticed(tmp_path: Path) -> None:
    words = {"1.1.1": ("FAILED", "OK"), "1.1.2": ("OK", "WRONG CODE"), "1.1.3": ("OK", "INFORMATIONAL")}
    index = {
        case: {"behavior": behaviour, "behaviorClose": closing, "remoteCloseCode": 1_000}
        for case, (behaviour, closing) in words.items()
    }
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.json").write_text(json.dumps({wstest.AGENT: index}), encoding="utf-8")
    verdict = wstest.report(tmp_path)
    assert verdict.behaviours == {"1.1.1": "FAILED", "1.1.2": "OK, closing WRONG CODE", "1.1.3": "OK"}
    assert verdict.close_codes == dict.fromkeys(words, 1_000)
    assert "| 1 | framing | 3 | 1 OK, 1 FAILED, 1 OK, closing WRONG CODE |" in results.markdown(verdict, verdict)
