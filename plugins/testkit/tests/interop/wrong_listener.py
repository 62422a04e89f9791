"""Listeners with EchoStream inside that are wrong: ``python -m …wrong_listener KIND``."""

from __future__ import annotations

import asyncio
import os
import sys

from echostream_core import handler, service
from echostream_testkit.interop.contract import read_settings
from echostream_testkit.interop.listener import run_listener
from echostream_testkit.interop.services import InteropServices

__all__: list[str] = []


@service("interop")
class WrongSums(InteropServices):
    @handler
    def sum(self, numbers: list[int]) -> int:
        return sum(numbers) + 1


@service("interop")
class Hangs(InteropServices):
    @handler
    async def sum(self, numbers: list[int]) -> int:  # type: ignore[override]  # a handler may be of either kind
        await asyncio.Event().wait()
        return 0


@service("interop")
class Crashes(InteropServices):
    @handler
    def sum(self, numbers: list[int]) -> int:
        sys.stderr.write("Fatal: out of memory\n")
        sys.stderr.flush()
        os._exit(3)


@service("something.else")
class Nothing:
    @handler
    def hello(self) -> str:
        return "hello"


KINDS = {"wrong sums": WrongSums, "hangs": Hangs, "crashes": Crashes, "nothing": Nothing}

if __name__ == "__main__":
    sys.exit(asyncio.run(run_listener(read_settings(os.environ), KINDS[sys.argv[1]]())))
