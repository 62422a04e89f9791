"""Autobahn's verdict on our frames, in both roles, and the Markdown table that docs/websocket.md shows of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from scripts.reference.markers import DOCS, blocks, filled, table
from tests.autobahn import wstest
from tests.autobahn.echo import EchoServer, echo_until_closed
from tests.autobahn.wstest import Verdict

__all__ = ["GROUPS", "PASSED", "SAMPLES", "as_client", "as_server", "documented", "markdown", "write"]

GROUPS: Final = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "operation codes",
    "5": "fragments",
    "6": "UTF-8",
    "7": "closing",
    "10": "fragments that the test suite makes",
}
"""What is run every time. Group 9 is sampled; 12 and 13 are about compression, which we never agree on."""

SAMPLES: Final = ("9.1.3", "9.2.4", "9.3.4", "9.4.4", "9.5.6", "9.6.6", "9.7.4", "9.8.4")
"""Of group 9: large messages whole, in fragments and in chops, and many small ones; those that take seconds at most."""

PASSED: Final = ("OK", "NON-STRICT", "INFORMATIONAL")

_PAGE: Final = DOCS / "websocket.md"
_PART: Final = "autobahn"
_CASES_AT_ONCE: Final = 4


async def as_server(cases: Sequence[str], folder: Path) -> Verdict:
    """Autobahn's verdict on our server's side."""
    async with EchoServer() as server:
        await wstest.fuzzing_client(server.url, cases, folder)
    return wstest.report(folder)


async def as_client(cases: Sequence[str], folder: Path) -> Verdict:
    """Autobahn's verdict on our client's side."""
    gate = asyncio.Semaphore(_CASES_AT_ONCE)  # most of a case is waiting

    async with wstest.fuzzing_server(cases, folder) as url, asyncio.timeout(wstest.PATIENCE_S):

        async def run_case(number: int) -> None:
            async with gate:
                await echo_until_closed(url, f"/runCase?case={number}&agent={wstest.AGENT}")

        (count,) = await echo_until_closed(url, "/getCaseCount")
        async with asyncio.TaskGroup() as group:
            for number in range(1, int(count) + 1):
                group.create_task(run_case(number))
        await echo_until_closed(url, f"/updateReports?agent={wstest.AGENT}")
    return wstest.report(folder)


def markdown(server: Verdict, client: Verdict) -> str:
    """The table: how many cases of which group ended how."""
    behaviours = [server.behaviours, client.behaviours]
    rows = []
    for group, about in GROUPS.items():
        counts = [_counts(group, each) for each in behaviours]
        rows.append([group, about, str(counts[0].total()), *map(_told, counts)])
    everything = [Counter(each.values()) for each in behaviours]
    rows.append(["", "all", str(everything[0].total()), *map(_told, everything)])
    return table(["group", "about", "cases", "our server's side", "our client's side"], rows)


def _counts(group: str, behaviours: Mapping[str, str]) -> Counter[str]:
    return Counter(behaviour for case, behaviour in behaviours.items() if case.split(".")[0] == group)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[behaviour]} {behaviour}" for behaviour in sorted(counts, key=lambda b: (b != "OK", b)))


def documented() -> str:
    """The table as it stands on the page."""
    return blocks(_PAGE.read_text(encoding="utf-8"))[_PART]


def write(new: str) -> None:
    """Put ``new`` where the table stands on the page."""
    text = _PAGE.read_text(encoding="utf-8")
    _PAGE.write_text(filled(text, {**blocks(text), _PART: new}), encoding="utf-8")
