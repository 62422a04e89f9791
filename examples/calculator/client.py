"""Use the calculator: calls, a stream of items, an error, and a call back from the server.

    python examples/calculator/client.py                          # [client.calculator] of echostream.toml
    python examples/calculator/client.py tcp://127.0.0.1:9000     # another URL, the same program

Without touching program or file, one variable of the environment chooses the transport, another the codecs:

    ECHOSTREAM__CLIENT__CALCULATOR__URL=unix:///tmp/calc.sock python examples/calculator/client.py
    ECHOSTREAM__CLIENT__CALCULATOR__CODECS=cbor python examples/calculator/client.py

`memory://` stays within one process, so with that URL the server is started here too:

    python examples/calculator/client.py memory://calculator
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path

from echostream_core import EchoStreamError, RemoteError, RpcClient, RpcServer, handler, run

CONFIGURATION = Path(__file__).with_name("echostream.toml")


@handler("my.numbers")
def my_numbers() -> list[int]:
    """Give the server what it asks us for."""
    return [1, 2, 3, 4]


async def use(client: RpcClient) -> None:
    """Everything here is the same on every transport."""
    print("2 + 3 =", await client.request("math.add", {"a": 2, "b": 3}))
    print("4 squared =", await client.request("calc.square", 4, returns=int))
    print("primes:", *[prime async for prime in client.stream("calc.primes", 20)])
    print("sum of my numbers =", await client.request("calc.sum_of_yours"))
    try:
        await client.request("math.divide", {"a": 1, "b": 0}, timeout=2.0)
    except RemoteError as error:
        print("1 / 0:", error)


async def main(url: str | None) -> None:
    """Connect, use, close."""
    async with AsyncExitStack() as stack:
        if url is not None and url.startswith("memory:"):
            server = RpcServer.from_config(CONFIGURATION, overrides={"server.calculator.listen": url})
            await stack.enter_async_context(server)
        overrides = {"client.calculator.url": url} if url else {}
        connecting = RpcClient.from_config(CONFIGURATION, "calculator", my_numbers, overrides=overrides)
        await use(await stack.enter_async_context(connecting))


if __name__ == "__main__":
    try:
        run(main(sys.argv[1] if len(sys.argv) > 1 else None))
    except EchoStreamError as error:
        sys.exit(f"error: {error}")
