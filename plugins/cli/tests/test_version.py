"""``echostream --version``: the kernel, the command and every plugin."""

from __future__ import annotations

import json

from echostream_core import __version__
from plugins.cli.tests.conftest import Run


def test_all_parts_are_listed_the_kernel_and_the_command_first(echostream: Run) -> None:
    done = echostream("--version")
    assert done.status == 0
    names = [line.split()[0] for line in done.out.splitlines()]
    assert names[:2] == ["echostream-core", "echostream-cli"]
    assert f"echostream-core  {__version__}" in " ".join(done.out.split(" ")) or __version__ in done.out
    assert "Python" in names
    assert echostream("version").out == done.out


def test_as_json(echostream: Run) -> None:
    found = json.loads(echostream("version", "--json").out)
    assert found["distributions"]["echostream-core"]
    assert {"python", "event_loop", "platform"} <= set(found)
