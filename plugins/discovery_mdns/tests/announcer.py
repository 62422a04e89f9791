"""A program of the tests: announces or watches until its standard input ends. ``announcer.py OPTIONS SERVICE …``.

It prints ``announced NAME`` for each instance, ``seen INSTANCE URL …`` for each snapshot, and ``closed``.
"""

from __future__ import annotations

import asyncio
import json
import sys

from echostream_core.discovery import Endpoint
from echostream_core.kernel import Kernel


async def main() -> None:
    spec = Kernel().discovery("mdns")
    backend = spec.factory(spec.options(**json.loads(sys.argv[1])))
    service, *instances = sys.argv[2:]
    try:
        for instance in instances:
            urls = ("quic://0.0.0.0:4433", "tcp://[::]:4434")
            attributes = {"weight": "7", "Zone": "Büro"}
            made = await backend.announce(
                Endpoint(service=service, instance=instance, urls=urls, attributes=attributes)
            )
            print("announced", made.endpoint.instance, flush=True)
        watching = asyncio.get_running_loop().create_task(watch(service))
        await asyncio.to_thread(sys.stdin.read)
        watching.cancel()
    finally:
        await backend.close()
        print("closed", flush=True)


async def watch(service: str) -> None:
    spec = Kernel().discovery("mdns")
    backend = spec.factory(spec.options(**json.loads(sys.argv[1])))
    try:
        async for seen in backend.watch(service):
            found = [f"{endpoint.instance} {' '.join(endpoint.urls)} {dict(endpoint.attributes)}" for endpoint in seen]
            print("seen", " | ".join(found), flush=True)
    finally:
        await backend.close()


if __name__ == "__main__":
    asyncio.run(main())
