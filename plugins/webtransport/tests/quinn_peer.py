"""Runs in another Python, under web-transport-quinn: one end of a session, which says in JSON what it saw.

``quinn_peer.py client URL HASH`` or ``quinn_peer.py server``; the server first prints its port and certificate's hash.
It imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import web_transport  # type: ignore[import-not-found]  # it is there in the Python that runs this

BLOCK = bytes(range(256)) * 800


async def echo(session: Any, size: int) -> bool:
    """Send ``size`` bytes over a new stream and compare what comes back."""
    send, receive = await session.open_bi()
    data = BLOCK[:size]

    async def write() -> None:
        await send.write(data)
        await send.finish()

    writing = asyncio.ensure_future(write())
    same: bool = await receive.readexactly(size) == data
    await writing
    return same


async def client(url: str, certificate_hash: str) -> dict[str, Any]:
    """Everything a session can do, against a server that echoes."""
    saw: dict[str, Any] = {}
    async with web_transport.Client(server_certificate_hashes=[bytes.fromhex(certificate_hash)]) as peer:
        session = await peer.connect(url)
        send, receive = await session.open_bi()
        await send.write(b"control")
        saw["control"] = (await receive.readexactly(7)).decode()
        saw["echoed"] = await asyncio.gather(*(echo(session, 1_000 * number) for number in range(1, 40)))
        saw["large"] = await echo(session, len(BLOCK))
        session.send_datagram(b"datagram")
        saw["datagram"] = (await session.receive_datagram()).decode()

        await send.write(b"open")
        theirs, ours = await session.accept_bi()
        saw["opened"] = (await ours.readexactly(6)).decode()
        await theirs.write(b"answer")
        saw["answered"] = (await ours.readexactly(6)).decode()
        theirs.reset(31)
        ours.stop(32)

        for word in (b"reset", b"stop!"):
            to, back = await session.open_bi()
            await to.write(word)
            try:
                while True:
                    await back.read(10) if word == b"reset" else await to.write(b"x")
                    await asyncio.sleep(0.01)
            except web_transport.StreamClosedByPeer as error:
                saw[word.decode()] = [error.kind, error.code]

        one_way = await session.open_uni()
        try:
            while True:
                await one_way.write(b"nobody reads this")
                await asyncio.sleep(0.01)
        except web_transport.StreamClosedByPeer as error:
            saw["one_way"] = [error.kind, error.code]

        await send.write(b"close")
        await session.wait_closed()
        reason = session.close_reason
        saw["closed"] = [type(reason).__name__, getattr(reason, "code", None), getattr(reason, "reason", None)]

        again = await peer.connect(url)
        send, receive = await again.open_bi()
        await send.write(b"x")
        await receive.readexactly(1)
        again.close(4_242, "so long")
        await again.wait_closed()
    return saw


async def serve() -> dict[str, Any]:
    """Accept one session, echo, open a stream, and see how it is closed."""
    certificate, key = web_transport.generate_self_signed(["localhost", "127.0.0.1"])
    saw: dict[str, Any] = {}
    async with web_transport.Server(certificate_chain=[certificate], private_key=key, bind="127.0.0.1:0") as server:
        print(json.dumps([server.local_addr[1], web_transport.certificate_hash(certificate).hex()]), flush=True)
        request = await server.accept()
        saw["path"] = request.url.partition("127.0.0.1")[2].partition("/")[2]
        session = await request.accept()
        echoing: set[asyncio.Task[None]] = set()

        async def answer(send: Any, receive: Any) -> None:
            try:
                while data := await receive.read(65_536):
                    await send.write(data)
                await send.finish()
            except web_transport.StreamClosedByPeer as error:
                saw[error.kind] = error.code
                send.reset(33)
            except web_transport.SessionError:
                return

        async def accept() -> None:
            while True:
                echoing.add(asyncio.ensure_future(answer(*await session.accept_bi())))

        async def reflect() -> None:
            while True:
                session.send_datagram((await session.receive_datagram())[::-1])

        async def opened() -> None:
            send, receive = await session.open_bi()
            await send.write(b"opened")
            saw["answer"] = (await receive.readexactly(6)).decode()
            await send.finish()

        working = [asyncio.ensure_future(work()) for work in (accept, reflect, opened)]
        await session.wait_closed()
        await asyncio.gather(*working, *echoing, return_exceptions=True)
        reason = session.close_reason
        saw["closed"] = [type(reason).__name__, getattr(reason, "code", None), getattr(reason, "reason", None)]
    return saw


if __name__ == "__main__":
    print(json.dumps(asyncio.run(client(*sys.argv[2:]) if sys.argv[1] == "client" else serve())), flush=True)
    os._exit(0)  # its threads sometimes abort the process when the interpreter is taken down under them
