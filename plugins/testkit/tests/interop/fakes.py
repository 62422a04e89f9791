"""Roles that keep to the contract in as little as a test needs, or break it. Without EchoStream: quick to start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from echostream_testkit.interop.plan import Implementation, Plan

__all__ = ["LISTENS", "PASSES", "alive", "crossing", "program", "reporting"]

_HEAD = """
import json, os, signal, subprocess, sys, time
told = {name.removeprefix("ECHOSTREAM_INTEROP_"): value for name, value in os.environ.items()}

def write(name, text):
    with open(told[name] + ".part", "w") as file:
        file.write(text)
    os.replace(told[name] + ".part", told[name])

def pid(number):
    with open(os.environ["PIDS"], "a") as file:
        file.write(f"{number}\\n")

pid(os.getpid())
"""

LISTENS = """
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
write("RESULT", json.dumps({"contract": 1, "implementation": {"name": "fake", "version": "9", "runtime": "none"}}))
write("READY", told["URL"] + "\\n")
sys.stdin.buffer.read()
"""
"""A listener that is ready at once, and ends on SIGTERM or with the runner."""


def reporting(outcome: str, status: int, *, cases: str = "", contract: int = 1) -> str:
    """A dialer that reports ``outcome`` of the cases it was asked for, or of ``cases``, and ends with ``status``."""
    return f"""
names = ({cases!r} or told["CASES"]).split(",")
cases = [{{"name": name, "outcome": {outcome!r}, "reason": "so it is"}} for name in names]
write("RESULT", json.dumps({{"contract": {contract}, "cases": cases}}))
sys.exit({status})
"""


PASSES = reporting("passed", 0)


def program(source: str, pids: Path) -> Implementation:
    """An implementation that is this program; the ids of its processes are added to ``pids``."""
    return Implementation(command=(sys.executable, "-S", "-E", "-c", _HEAD + source), env={"PIDS": str(pids)})


def crossing(listener: str, dialer: str, folder: Path, **settings: object) -> Plan:
    """A plan with one run."""
    pids = folder / "pids"
    implementations = {
        "listening": Implementation(
            command=program(listener, pids).command, env={"PIDS": str(pids)}, roles=("listener",)
        ),
        "dialling": Implementation(command=program(dialer, pids).command, env={"PIDS": str(pids)}, roles=("dialer",)),
    }
    given: dict[str, object] = {"transports": ("x",), "codecs": ("json",), "cases": ("one", "two"), **settings}
    return Plan(implementations=implementations, **given)  # type: ignore[arg-type]  # keywords of the tests' own


def alive(pids: Path) -> list[int]:
    """Which of the processes that wrote themselves down still run; one that only waits to be buried does not."""
    return [number for number in map(int, pids.read_text().split()) if _runs(number)]


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{number}/stat")
    try:
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
