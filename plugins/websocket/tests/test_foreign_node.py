"""Node with the package ``ws`` as an independent peer: its client at our listener, our dialer at its server.

What Node does stands in node_peer.mjs.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from echostream_core import Context, RpcServer, handler
from echostream_core.errors import ConnectFailed, ConnectionLost, EchoStreamError, EndOfStream, RemoteProtocolError
from plugins.tcp.tests.recording import Recorder
from plugins.websocket.tests.foreign import ROOT, program
from plugins.websocket.tests.peers import dial, gone, listen, payload_of

MODULE = ROOT / ".venv-peers" / "node-ws" / "node_modules" / "ws" / "wrapper.mjs"
PEER = ROOT / "plugins" / "websocket" / "tests" / "node_peer.mjs"
CLIENT = ROOT / "examples" / "hello_browser" / "page" / "echostream" / "echostream.js"
PATIENCE_S = 30


@pytest.fixture(scope="module", autouse=True)
def node() -> str:
    return program("node", needs=MODULE.parent)


def started(node: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    environment = {"WS": MODULE.as_uri(), "ECHOSTREAM_JS": CLIENT.as_uri(), **environment}
    return subprocess.Popen(
        [node, PEER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


async def run(node: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Let Node be a client; what it tells."""
    with started(node, *arguments, **environment) as process:
        try:
            output, errors = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, errors.decode()
    result: dict[str, Any] = json.loads(output)
    return result


async def listening(stack: AsyncExitStack, **options: object) -> tuple[str, asyncio.Future[Recorder]]:
    """A listener of ours that echoes what comes, and its first end."""
    accepted: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()

    def accept(recorder: Recorder) -> None:
        def echo(recorder: Recorder) -> None:
            recorder.pipe.write((bytes(recorder.data),))
            recorder.data.clear()

        recorder.on_data_hook = echo
        accepted.set_result(recorder)

    listener = await listen(stack, "ws://127.0.0.1:0/node", accept, **options)
    return listener.addresses[0], accepted


# Node dials.


async def test_messages_fragments_and_pings_of_node_come_back_the_same(node: str, stack: AsyncExitStack) -> None:
    address, accepted = await listening(stack)
    told = await run(node, "talk", address)
    sizes = ["1", "125", "126", "65535", "65536", "1048576", "fragments"]
    assert told == {
        "protocol": "echostream.v1",
        "extensions": "",  # compression was offered
        "same": dict.fromkeys(sizes, True),
        "pong": "in between",
        "code": 1_000,
        "reason": "",
    }
    assert isinstance(await (await accepted).ended(), EndOfStream)


@pytest.mark.parametrize(("how", "code", "said"), [("text", 1_003, "texts"), ("large", 1_009, "max_message_bytes")])
async def test_node_is_told_what_it_did_wrong(node: str, stack: AsyncExitStack, how: str, code: int, said: str) -> None:
    address, accepted = await listening(stack)
    told = await run(node, "offend", address, how)
    assert told["code"] == code
    assert said in told["reason"]
    assert isinstance(await (await accepted).ended(), RemoteProtocolError)


@pytest.mark.parametrize(
    ("code", "error", "echoed"),
    [
        ((), EndOfStream, 1_005),
        (("1000",), EndOfStream, 1_000),
        (("1001", "leaving"), EndOfStream, 1_001),
        (("1008", "no thanks"), ConnectionLost, 1_008),
        (("4999", "of its own"), ConnectionLost, 4_999),
    ],
    ids=["none", "1000", "1001", "1008", "4999"],
)
async def test_a_close_code_of_node_is_answered_and_told(
    node: str, stack: AsyncExitStack, code: tuple[str, ...], error: type[EchoStreamError], echoed: int
) -> None:
    address, accepted = await listening(stack)
    assert (await run(node, "close", address, *code))["code"] == echoed
    ended = await (await accepted).ended()
    assert type(ended) is error
    if error is ConnectionLost:
        assert f"code {echoed} " in str(ended) and repr(code[1]) in str(ended)


async def test_node_without_a_close_frame_is_a_lost_connection(node: str, stack: AsyncExitStack) -> None:
    address, accepted = await listening(stack)
    await run(node, "cut", address)
    assert isinstance(await (await accepted).ended(), ConnectionLost)


async def test_our_close_is_1000_to_node(node: str, stack: AsyncExitStack) -> None:
    address, accepted = await listening(stack)
    told = asyncio.ensure_future(run(node, "offend", address, "silent"))
    recorder = await accepted
    recorder.close()
    assert await told == {"code": 1_000, "reason": ""}
    assert await recorder.ended() is None


@handler("echo")
async def echo(value: object) -> object:
    """What it was given."""
    return value


@handler("ask_back")
async def ask_back(value: int, ctx: Context) -> object:
    """What the caller itself makes of it."""
    return await ctx.session.request("node.double", value)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_session_in_node_calls_and_is_called(node: str, scheme: str, certificate: dict[str, str]) -> None:
    tls = {"certificate": certificate["leaf"], "private_key": certificate["leaf"]} if scheme == "wss" else None
    async with RpcServer(f"{scheme}://127.0.0.1:0/rpc", echo, ask_back, tls=tls) as server:
        told = await run(node, "call", server.addresses[0], NODE_EXTRA_CA_CERTS=certificate["ca"])
    expected = [{"text": "grüße", "list": [1, 2.5, None, True]}, True, 42, "UNIMPLEMENTED", *range(50)]
    assert told == {"results": expected, "code": 0, "byPeer": False}


# Node listens.


@pytest.fixture(scope="module")
def served(node: str) -> Iterator[str]:
    """A server in Node: its address without a path. It ends with its standard input, so it cannot outlive us."""
    with started(node, "serve") as process:
        assert process.stdout is not None
        try:
            yield f"ws://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
            _, errors = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, b"")


async def dialled(stack: AsyncExitStack, address: str, **options: object) -> Recorder:
    recorder = Recorder(await dial(address, **options)).start()
    stack.push_async_callback(gone, recorder)
    return recorder


@pytest.mark.parametrize("path", ["/echo", "/fragments"])
async def test_what_we_send_to_node_comes_back(served: str, stack: AsyncExitStack, path: str) -> None:
    near = await dialled(stack, served + path)
    payload = payload_of(1 << 20)
    for begin in range(0, len(payload), 100_000):
        near.write(payload[begin : begin + 100_000])
    assert await near.received(len(payload)) == payload
    near.close()
    assert await near.ended() is None


async def test_a_ping_of_node_is_answered(served: str, stack: AsyncExitStack) -> None:
    near = await dialled(stack, f"{served}/ping")
    assert await near.received(14) == b"are you there?"


async def test_a_text_of_node_is_refused(served: str, stack: AsyncExitStack) -> None:
    near = await dialled(stack, f"{served}/text")
    ended = await near.ended()
    assert isinstance(ended, RemoteProtocolError)
    assert await (await dialled(stack, f"{served}/code")).received(4) == b"1003"


@pytest.mark.parametrize(
    ("code", "error"), [(1_000, EndOfStream), (1_001, EndOfStream), (1_011, ConnectionLost), (3_000, ConnectionLost)]
)
async def test_what_node_said_last_comes_before_its_close_code(
    served: str, stack: AsyncExitStack, code: int, error: type[EchoStreamError]
) -> None:
    near = await dialled(stack, f"{served}/close-{code}")
    ended = await near.ended()
    assert near.data == b"last words"
    assert type(ended) is error
    if error is ConnectionLost:
        assert f"code {code} " in str(ended) and "'so long'" in str(ended)


async def test_a_server_in_node_that_is_gone_is_a_lost_connection(served: str, stack: AsyncExitStack) -> None:
    assert isinstance(await (await dialled(stack, f"{served}/cut")).ended(), ConnectionLost)


@pytest.mark.parametrize(
    ("path", "said"), [("/foreign", "not the subprotocol echostream.v1"), ("/forbidden", "refuses us")]
)
async def test_a_server_in_node_that_is_none_of_ours_is_named(served: str, path: str, said: str) -> None:
    with pytest.raises(ConnectFailed, match=said):
        await dial(served + path)
