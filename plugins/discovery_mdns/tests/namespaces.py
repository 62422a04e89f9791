"""Network namespaces for the tests: two machines on one cable, and one without a network. Needs root on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.peers import absent

__all__ = ["cable", "ip", "namespaces", "need"]


def ip(*arguments: str) -> None:
    """Run ``ip``; what it says is in the error."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


def need(*programs: str) -> None:
    """Skip the test where it cannot run; fail instead where it must, see ``tests/support/peers.py``."""
    why = ""
    if sys.platform != "linux":
        why = "network namespaces are a feature of Linux"
    elif os.geteuid() != 0:
        why = "network namespaces need root"
    elif missing := [program for program in ("ip", *programs) if shutil.which(program) is None]:
        why = f"not installed: {', '.join(missing)}"
    else:
        name = f"es{os.getpid()}try"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        if made.returncode != 0:
            why = f"no network namespace can be made: {made.stderr.strip()}"
    if why:
        absent("avahi", why)


@contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """So many namespaces with their loopback up; gone at the end, with all that is in them but processes."""
    names = [f"es{os.getpid()}n{number}" for number in range(count)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def cable(*addresses: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Two namespaces with a cable between them: the interface ``far`` in the first, ``near`` in the second.

    ``addresses`` are pairs, one of each end; IPv6 addresses can be used at once.
    """
    with namespaces(2) as (ours, theirs):
        ip("link", "add", "near", "netns", theirs, "type", "veth", "peer", "name", "far", "netns", ours)
        for own, other in addresses:
            ip("-n", ours, "addr", "add", own, "dev", "far")
            ip("-n", theirs, "addr", "add", other, "dev", "near")
        ip("-n", ours, "link", "set", "far", "up")
        ip("-n", theirs, "link", "set", "near", "up")
        for name in (ours, theirs):
            # A new IPv6 address cannot be used before nobody has objected to it for a second.
            while subprocess.run(
                ["ip", "-n", name, "addr", "show", "tentative"], capture_output=True, check=True
            ).stdout:
                time.sleep(0.05)
        yield ours, theirs
