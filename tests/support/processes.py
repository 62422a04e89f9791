"""A server in a process of its own, which a test may signal and kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["ServerProcess", "server_process"]

_ROOT = Path(__file__).resolve().parents[2]

_PROGRAM = """\
import asyncio, json, logging, sys
from echostream_core import Context, RpcServer, Stream, handler, stream_handler

logging.basicConfig(level=logging.INFO, stream=sys.stderr)


@handler("echo")
async def echo(value: object) -> object:
    return value


@handler("slow")
async def slow(seconds: float) -> str:
    print("slow begun", flush=True)
    await asyncio.sleep(seconds)
    return "slept"


@handler("call_back")
async def call_back(ctx: Context) -> object:
    print("calling back", flush=True)
    return await ctx.session.request("wait", timeout=None)


@stream_handler("listen")
async def listen(stream: Stream) -> int:
    print("listening", flush=True)
    total = 0
    async for item in stream:
        total += len(item)
    return total


async def main() -> None:
    url, options = sys.argv[1], json.loads(sys.argv[2])
    async with RpcServer(url, echo, slow, call_back, listen, **options) as server:
        print("at", *server.addresses, flush=True)
        await server.serve_forever()
    print("stopped in order", flush=True)


asyncio.run(main())
"""


class ServerProcess:
    """The process; ``address`` is where it listens."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""

    async def says(self) -> str:
        """Its next line."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    def send_signal(self, number: signal.Signals) -> None:
        """Signal it."""
        self.process.send_signal(number)

    async def ended(self) -> tuple[int, str, str]:
        """Wait for its end: exit status, what else it said, and what it logged."""
        output, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, output.decode(), errors.decode()


@asynccontextmanager
async def server_process(url: str, **options: Any) -> AsyncIterator[ServerProcess]:
    """Serve ``url`` in another process; killed at the end unless it has ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        url,
        json.dumps(options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    running = ServerProcess(process)
    try:
        first = await running.says()
        word, _, running.address = first.partition(" ")
        assert word == "at", (first, await running.ended())
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
