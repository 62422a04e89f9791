"""Programs of others that the tests talk to, which scripts/ws-peers.sh installs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.peers import absent

__all__ = ["ROOT", "program"]

ROOT = Path(__file__).resolve().parents[3]


def program(peer: str, *, needs: Path | None = None) -> str:
    """Where a program is, and ``needs`` beside it; without them the test is skipped."""
    # What servers are called by is not in everybody's PATH.
    found = shutil.which(peer, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None or (needs is not None and not needs.exists()):
        absent(peer, f"{peer if needs is None else needs.name} is not installed: scripts/ws-peers.sh does that")
    return found
