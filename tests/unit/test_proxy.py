"""The typed stand-in for a service: what a class may look like, and what others ask of every object."""

from __future__ import annotations

import copy
from typing import Any

from echostream_core import RpcClient, RpcServer, handler, service
from tests.support.pairs import memory_url

LOOPS = ("virtual",)


@service("calc")
class Calc:
    @staticmethod
    @handler
    async def square(x: int) -> int:
        return x * x

    @handler
    async def greet(self, name: str = "world") -> str:
        return f"hello {name}"


async def test_static_methods_and_defaults_are_called_as_the_class_has_them() -> None:
    async with RpcServer(memory_url(), Calc()) as server, RpcClient.connect(server.addresses[0]) as client:
        calc: Any = client.proxy(Calc)
        assert await calc.square(3) == 9
        assert await calc.greet() == "hello world"
        assert await calc.greet("ada") == "hello ada"


async def test_a_stand_in_can_be_copied() -> None:
    async with RpcServer(memory_url(), Calc()) as server, RpcClient.connect(server.addresses[0]) as client:
        calc: Any = copy.copy(client.proxy(Calc))
        assert await calc.square(3) == 9
