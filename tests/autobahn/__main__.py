"""``python -m tests.autobahn [--write]``: run Autobahn, print the table, and put it into docs/websocket.md."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.autobahn import results, wstest


async def run(folder: Path) -> str:
    """Both roles at once."""
    cases = [f"{group}.*" for group in results.GROUPS]
    folders = [folder / "server", folder / "client"]
    for each in folders:
        each.mkdir()
    return results.markdown(
        *await asyncio.gather(results.as_server(cases, folders[0]), results.as_client(cases, folders[1]))
    )


def main(arguments: list[str]) -> int:
    """The exit status."""
    reason = wstest.missing()
    if reason is not None or arguments not in ([], ["--write"]):
        print(reason or "usage: python -m tests.autobahn [--write]", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        table = asyncio.run(run(Path(folder)))
    print(table)
    if arguments:
        results.write(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
