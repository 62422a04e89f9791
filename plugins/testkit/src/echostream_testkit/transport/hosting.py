"""Where the ends live: in one process or in several, and who may take over an address."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

from echostream_core.errors import ConnectFailed
from echostream_core.types import Url
from echostream_testkit.checks import capability
from echostream_testkit.transport.stage import Stage, descriptors
from echostream_testkit.transport.subject import TransportSubject, staged

__all__ = ["HostingChecks"]

_DIAL: Final = """
import asyncio, json, os, sys
sys.path[:] = json.loads(sys.argv[1])
from echostream_core.kernel import Kernel
from echostream_core.types import Url

async def main():
    url, section = Url.parse(sys.argv[2]), json.loads(sys.argv[3])
    kernel = Kernel()
    spec = kernel.transport(url.scheme)
    made = await spec.factory().dial(url, kernel.build_options(spec, section, key="options"))
    print("dialled", flush=True)
    sys.stdin.readline()
    made.abort()
    await asyncio.sleep(0.01)

asyncio.run(main())
"""
"""A dialer in an interpreter of its own; it hangs up when it is told to."""


class HostingChecks(TransportSubject):
    """The flags ``in_process`` and ``socket_handover``."""

    @capability("in_process")
    @staged
    async def test_in_process_uses_no_socket(self, stage: Stage) -> None:
        """Listening, dialling and the first bytes open no file descriptor."""
        before = descriptors()
        await stage.pair()
        opened = descriptors() - before
        assert not opened, f"both ends are said to live in one process, and yet {len(opened)} descriptors were opened"

    @capability("in_process", claimed=False)
    @staged
    async def test_in_process_absent_can_be_dialled_from_another_process(self, stage: Stage) -> None:
        """A fresh interpreter finds the installed plugin, dials the address, and is accepted."""
        listener = await stage.listen()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _DIAL,
            json.dumps(sys.path),
            listener.addresses[0],
            json.dumps(dict(self.section("dial"))),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            said = await process.stdout.readline()
            if said:
                await stage.until(lambda: stage.accepted, "the other process's connection to be accepted")
            _, complaint = await process.communicate(b"\n")
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()
        assert said == b"dialled\n", f"another process cannot dial: {complaint.decode(errors='replace')[-400:]}"

    @capability("socket_handover")
    @staged
    async def test_socket_handover_loses_no_connection(self, stage: Stage) -> None:
        """A second listener takes the address while the first serves; dials before, meanwhile and after succeed."""
        first = await stage.listen()
        address = first.addresses[0]
        await stage.connect(address)
        second = await stage.listen(address)
        dials = [asyncio.ensure_future(stage.dial(address)) for _ in range(8)]
        await first.close()
        for made in await asyncio.gather(*dials):
            stage.end(made, "dialer").start()
        await stage.connect(second.addresses[0])
        await stage.until(lambda: len(stage.accepted) == len(dials) + 2, "every connection to be accepted")

    @capability("socket_handover", claimed=False)
    @staged
    async def test_socket_handover_absent_refuses_a_second_listener(self, stage: Stage) -> None:
        """An address in use is ConnectFailed that names it, and the listener that has it goes on."""
        first = await stage.listen()
        address = first.addresses[0]
        error = await stage.refused(stage.listen(address), ConnectFailed, "listening at an address in use")
        url = Url.parse(address)
        assert str(url.port or url.host or url.path) in str(error), f"the error does not name the address: {error}"
        await stage.connect(address)
