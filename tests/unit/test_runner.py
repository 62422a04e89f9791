"""Running a program on the fastest loop that is installed."""

from __future__ import annotations

import asyncio
import sys

import pytest

from echostream_core import run
from echostream_core.runner import loop_name


async def where() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_it_returns_what_the_program_returns() -> None:
    assert run(where()) == loop_name()


def test_without_the_extra_it_is_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setitem(sys.modules, "winloop", None)
    assert loop_name() == "asyncio"
    assert run(where()) == "asyncio"


def test_an_exception_comes_out_and_the_loop_is_closed() -> None:
    loops = []

    async def fails() -> None:
        loops.append(asyncio.get_running_loop())
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(fails())
    assert loops[0].is_closed()


async def test_within_a_loop_it_is_refused_and_leaves_nothing_behind() -> None:
    with pytest.raises(RuntimeError, match="await what it is given"):
        run(where())


@pytest.mark.parametrize("debug", [True, False])
def test_debug_is_passed_on(debug: bool) -> None:
    async def is_debugging() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert run(is_debugging(), debug=debug) is debug
