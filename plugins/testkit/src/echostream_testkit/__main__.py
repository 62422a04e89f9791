"""``python -m echostream_testkit``: print a conformance report as a table or as badges, or list the checks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from echostream_testkit.badge import badge_row
from echostream_testkit.listing import markdown
from echostream_testkit.report import BadReport, read_report, table

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0, or 1 for a report with failures, 2 for a file that is none."""
    parser = argparse.ArgumentParser(prog="python -m echostream_testkit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    badge = commands.add_parser("badge", help="print a row of badges, Markdown for a README")
    report = commands.add_parser("report", help="print a table; the exit status is 1 when a check failed")
    report.add_argument("--all", action="store_true", help="every check, not only those that did not pass")
    commands.add_parser("checks", help="list the checks of the transport suite, as Markdown")
    for command in (badge, report):
        command.add_argument("file", type=Path, help="what pytest --conformance-report=FILE has written")
    chosen = parser.parse_args(arguments)
    if chosen.command == "checks":
        from echostream_testkit.transport import TransportConformance

        sys.stdout.write(f"{markdown(TransportConformance)}\n")
        return 0
    try:
        found = read_report(chosen.file)
    except BadReport as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if chosen.command == "badge":
        sys.stdout.write(f"{badge_row(found)}\n")
        return 0
    for line in table(found, everything=chosen.all):
        sys.stdout.write(f"{line}\n")
    outcomes = {check["outcome"] for entry in found["classes"] for check in entry["checks"].values()}
    return 1 if outcomes & {"failed", "unexpected pass"} else 0


if __name__ == "__main__":
    sys.exit(main())
