"""Rust's quinn at the other end: a WebTransport peer that shares nothing with aioquic.

It needs a Python of its own; ``scripts/quinn.sh`` makes it. Without it the tests are skipped, and say why; with
``ECHOSTREAM_REQUIRE_PEERS=1`` they fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from echostream_core.errors import ConnectionLost
from echostream_core.types import Priority
from echostream_quic.tls import fingerprint
from plugins.quic.tests.recording import Recorder, SubstreamRecorder
from plugins.webtransport.tests.sessions import dial, end, serve
from tests.support.peers import absent

ROOT = Path(__file__).resolve().parents[3]
PEER = Path(__file__).with_name("quinn_peer.py")
PYTHON = ROOT / ".venv-peers" / "quinn" / "bin" / "python"
SCRIPT = ROOT / "scripts" / "quinn.sh"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def quinn() -> str:
    """The Python in which quinn is installed."""
    said = "scripts/quinn.sh is not here"
    if not PYTHON.exists() and SCRIPT.exists():
        made = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
        said = made.stderr.strip() or "scripts/quinn.sh has made none"
    if not PYTHON.exists():
        absent("quinn", f"no Python with web-transport-quinn: {said}")
    return str(PYTHON)


async def run(stack: AsyncExitStack, python: str, *arguments: str) -> asyncio.subprocess.Process:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    process = await asyncio.create_subprocess_exec(
        python, str(PEER), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment
    )

    async def kill() -> None:
        if process.returncode is None:
            process.kill()
        await process.communicate()

    stack.push_async_callback(kill)
    return process


async def result(process: asyncio.subprocess.Process) -> Any:
    out, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode == 0, said.decode()
    return json.loads(out)


def obey(session: Recorder) -> None:
    """Write back what comes, and do what the first words of a substream say."""
    words: dict[int, bytes] = {}

    def hook(far: SubstreamRecorder, data: bytes) -> None:
        first = words.setdefault(id(far), data)
        if data == b"open":
            opened = session.open()
            opened.hook = hook
            opened.write(b"opened")
        elif data == b"close":
            session.close(77, "enough of this")
        elif first == b"reset":
            far.reset(1_000_000)
        elif first.startswith(b"stop!"):
            far.stop(30)
        else:
            far.write(data)

    session.hook = hook


async def test_quinns_client_against_our_listener(quinn: str) -> None:
    async with AsyncExitStack() as stack:
        server = await serve(stack, prepare=obey)
        certificate = server.listener._tenant.configuration.certificate
        assert certificate is not None
        process = await run(stack, quinn, "client", server.url.replace("wt:", "https:"), fingerprint(certificate).hex())
        session = await server.session()
        await session.until(lambda: session.datagrams)
        session.send_datagram(session.datagrams[0][::-1])
        saw = await result(process)
        assert saw == {
            "control": "control",
            "echoed": [True] * 39,
            "large": True,
            "datagram": "margatad",
            "opened": "opened",
            "answered": "answer",
            "reset": ["reset", 1_000_000],
            "stop!": ["stop", 30],
            "one_way": ["stop", 8],
            "closed": ["SessionClosedByPeer", 77, "enough of this"],
        }
        second = await server.session(1)
        error = await second.ended()
        assert isinstance(error, ConnectionLost)
        assert error.close_code == 4_242
        assert "so long" in str(error)
        assert await session.ended() is None
        assert session.accepted[0].substream.outgoing.priority is Priority.CONTROL


async def test_our_dialer_against_quinns_server(quinn: str) -> None:
    async with AsyncExitStack() as stack:
        process = await run(stack, quinn, "server")
        assert process.stdout is not None
        port, pin = json.loads(await asyncio.wait_for(process.stdout.readline(), PATIENCE_S))
        url, tls = f"wt://127.0.0.1:{port}/some/path", {"pin": f"sha256:{pin}"}
        near = Recorder(await dial(url, tls=tls)).start()
        stack.push_async_callback(end, near)
        control = near.open(Priority.CONTROL)
        control.write(b"control")
        assert await control.received(7) == b"control"
        block = bytes(range(256)) * 2_000
        opened = [near.open() for _ in range(30)]
        for substream in opened:
            substream.write(block, end=True)
        for substream in opened:
            assert await substream.ended() == block
        theirs = await near.substream(0)
        assert await theirs.received(6) == b"opened"
        theirs.write(b"answer", end=True)
        await theirs.happens("end")
        near.send_datagram(b"datagram")
        await near.until(lambda: near.datagrams)
        assert near.datagrams == [b"margatad"]
        given_up = near.open()
        given_up.write(b"x")
        await given_up.received(1)
        given_up.reset(29)
        await given_up.happens("reset")
        assert given_up.reset_code == 33
        near.close(123, "done")
        assert await near.ended() is None
        assert await result(process) == {
            "path": "some/path",
            "answer": "answer",
            "reset": 29,
            "closed": ["SessionClosedByPeer", 123, "done"],
        }
