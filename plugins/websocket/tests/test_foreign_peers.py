"""The library ``websockets`` as an independent peer: its client at our listener, our dialer at its server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.typing import Subprotocol

from echostream_core.errors import ConnectFailed, ConnectionLost, EndOfStream
from plugins.tcp.tests.recording import Recorder
from plugins.websocket.tests.peers import dial, gone, listen, payload_of

OURS = [Subprotocol("echostream.v1")]


async def accepted(stack: AsyncExitStack, **options: object) -> tuple[str, asyncio.Future[Recorder]]:
    ours: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()
    listener = await listen(stack, "ws://127.0.0.1:0/x", ours.set_result, **options)
    return listener.addresses[0], ours


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_their_client_and_our_listener_understand_each_other(
    stack: AsyncExitStack, compression: str | None
) -> None:
    address, ours = await accepted(stack)
    async with connect(address, subprotocols=OURS, proxy=None, compression=compression) as theirs:
        assert theirs.subprotocol == "echostream.v1"
        assert theirs.protocol.extensions == []
        far = await ours
        payload = payload_of(200_000)
        await theirs.send(payload)
        assert await far.received(len(payload)) == payload
        await theirs.send([payload[:10], payload[10:50_000], payload[50_000:]])  # fragments
        assert await far.received(2 * len(payload)) == payload * 2
        far.write(payload)
        got = b""
        while len(got) < len(payload):
            message = await theirs.recv()
            assert isinstance(message, bytes)
            got += message
        assert got == payload
        assert await (await theirs.ping()) >= 0
    assert isinstance(await far.ended(), EndOfStream)


async def test_our_close_is_orderly_to_their_client(stack: AsyncExitStack) -> None:
    address, ours = await accepted(stack)
    async with connect(address, subprotocols=OURS, proxy=None) as theirs:
        far = await ours
        far.write(b"last words")
        far.close()
        assert await theirs.recv() == b"last words"
        with pytest.raises(ConnectionClosedOK):
            await theirs.recv()
        assert theirs.close_code == 1_000
    assert await far.ended() is None


@pytest.mark.parametrize(("message", "code"), [("text", 1_003), (b"x" * 1_001, 1_009)])
async def test_their_client_is_told_what_it_did_wrong(stack: AsyncExitStack, message: str | bytes, code: int) -> None:
    address, ours = await accepted(stack, max_message_bytes=1_000)
    async with connect(address, subprotocols=OURS, proxy=None) as theirs:
        await theirs.send(message)
        with pytest.raises(ConnectionClosedError):
            await theirs.recv()
        assert theirs.close_code == code
    await (await ours).ended()


async def test_their_client_without_our_subprotocol_is_refused(stack: AsyncExitStack) -> None:
    from websockets.exceptions import InvalidStatus

    address, _ = await accepted(stack)
    with pytest.raises(InvalidStatus) as caught:
        await connect(address, proxy=None)
    assert caught.value.response.status_code == 400
    assert b"echostream.v1" in caught.value.response.body


async def test_our_dialer_and_their_server_understand_each_other(stack: AsyncExitStack) -> None:
    async def echo(theirs: ServerConnection) -> None:
        async for message in theirs:
            await theirs.send(message)

    server = await stack.enter_async_context(serve(echo, "127.0.0.1", 0, subprotocols=OURS))
    address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    near = Recorder(await dial(address)).start()
    payload = payload_of(300_000)
    near.write(payload)
    assert await near.received(len(payload)) == payload
    near.close()
    assert await near.ended() is None


@pytest.mark.parametrize(("code", "kind"), [(1_000, EndOfStream), (1_001, EndOfStream), (1_011, ConnectionLost)])
async def test_their_servers_close_is_told_for_what_it_is(
    stack: AsyncExitStack, code: int, kind: type[Exception]
) -> None:
    async def leave(theirs: ServerConnection) -> None:
        await theirs.send(b"bye")
        await theirs.close(code, "why not")

    server = await stack.enter_async_context(serve(leave, "127.0.0.1", 0, subprotocols=OURS))
    address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    near = Recorder(await dial(address)).start()
    error = await near.ended()
    assert type(error) is kind
    assert bytes(near.data) == b"bye"


async def test_their_server_without_our_subprotocol_is_told(stack: AsyncExitStack) -> None:
    async def nothing(theirs: ServerConnection) -> None:
        await theirs.wait_closed()

    server = await stack.enter_async_context(serve(nothing, "127.0.0.1", 0))
    address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(ConnectFailed, match=r"speaks WebSocket but not the subprotocol echostream\.v1"):
        await dial(address)


async def test_both_ends_of_ours_through_tls_with_a_verified_name(
    stack: AsyncExitStack, certificate: dict[str, str]
) -> None:
    ours: asyncio.Future[Recorder] = asyncio.get_running_loop().create_future()
    tls = {"certificate": certificate["leaf"], "private_key": certificate["leaf"]}
    listener = await listen(stack, "wss://127.0.0.1:0", ours.set_result, tls=tls)
    near = Recorder(await dial(listener.addresses[0], tls={"ca": certificate["ca"]})).start()
    assert near.pipe.capabilities.encrypted
    assert near.pipe.peer_identity == "localhost"
    assert (await ours).pipe.peer_identity is None
    await gone(near)
