"""The calculator: handlers and a service, which know nothing of transports, codecs or addresses.

`echostream.toml` beside this file serves them; `server.py` and `client.py` say how to run them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from echostream_core import Context, RpcError, StatusCode, handler, service


@handler("math.add")
async def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


@handler("math.divide")
def divide(a: float, b: float) -> float:
    """Divide ``a`` by ``b``; the caller chooses what to do about zero."""
    if b == 0:
        raise RpcError(StatusCode.INVALID_ARGUMENT, "division by zero")
    return a / b


@service("calc")
class Calc:
    """Its methods are called ``calc.square``, ``calc.primes`` and ``calc.sum_of_yours``."""

    @handler
    async def square(self, x: int) -> int:
        """Multiply a number by itself."""
        return x * x

    @handler
    async def primes(self, upto: int) -> AsyncIterator[int]:
        """Yield the primes up to a limit, one by one."""
        for candidate in range(2, upto + 1):
            if all(candidate % divisor for divisor in range(2, int(candidate**0.5) + 1)):
                yield candidate

    @handler
    async def sum_of_yours(self, ctx: Context) -> int:
        """Ask the caller for its numbers, then add them up: a call in each direction."""
        numbers = await ctx.session.request("my.numbers", returns=list[int])
        return sum(numbers)
