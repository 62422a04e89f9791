"""For each case a listener that is wrong in just the way which the case is there to notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import Any

from echostream_core import Context, RpcError, StatusCode, Stream, handler, service, stream_handler
from echostream_testkit.interop.services import InteropServices

__all__ = ["BROKEN", "InteropServices"]


@service("interop")
class EchoesSomethingElse(InteropServices):
    @handler
    def echo(self, value: Any) -> Any:
        return "something else"


@service("interop")
class MakesFloatsOfIntegers(InteropServices):
    @handler
    def echo(self, value: Any) -> Any:
        return float(value) if type(value) is int else value


@service("interop")
class LosesAByte(InteropServices):
    @handler
    def echo_bytes(self, value: bytes) -> bytes:
        return value[:-1]


@service("interop")
class CutsLongTexts(InteropServices):
    @handler
    def echo(self, value: Any) -> Any:
        return value[:65_536]


@service("interop")
class MixesAnswersUp(InteropServices):
    def __init__(self) -> None:
        super().__init__()
        self.last: Any = None

    @handler
    def echo(self, value: Any) -> Any:
        value, self.last = self.last, value
        return value


@service("interop")
class AddsOne(InteropServices):
    @handler
    def sum(self, numbers: list[int]) -> int:
        return sum(numbers) + 1

    @stream_handler
    async def total(self, stream: Stream) -> int:
        numbers: list[int] = [number async for number in stream]
        return sum(numbers) + 1


@service("interop")
class SumsAnything(InteropServices):
    @handler
    def sum(self, numbers: Any) -> int:
        return 0


@service("interop")
class ReleasesNothing(InteropServices):
    @handler
    def release(self, tag: str) -> None:
        return None


@service("interop")
class FailsInOneWay(InteropServices):
    @handler
    def fail(self, code: int, message: str = "", details: Any = None, retryable: Any = 0, retry_after: Any = 0) -> None:
        raise RpcError(StatusCode.INTERNAL, message)


@service("interop")
class ForgetsDetails(InteropServices):
    @handler
    def fail(self, code: int, message: str = "", details: Any = None, retryable: Any = 0, retry_after: Any = 0) -> None:
        raise RpcError(StatusCode(code), message)


@service("interop")
class TellsSecrets(InteropServices):
    @handler
    def crash(self, secret: str) -> None:
        raise RpcError(StatusCode.INTERNAL, f"RuntimeError: {secret}")


@service("nobody.has")
class OffersTooMuch:
    @handler
    def this(self) -> int:
        return 1


@service("interop")
class CannotBeCancelled(InteropServices):
    @handler
    async def slow(self, seconds: float, tag: str = "") -> str:
        self._tally(tag).started += 1
        await self._released[tag].wait()
        return tag


@service("interop")
class KnowsNoDeadline(InteropServices):
    @handler
    def remaining(self, ctx: Context) -> int | None:
        return None


@service("interop")
class SortsMetadata(InteropServices):
    @handler
    def metadata(self, ctx: Context) -> list[tuple[str, str]]:
        return sorted(super().metadata(ctx))


@service("interop")
class CountsWrongly(InteropServices):
    @handler
    async def count(self, upto: int, tag: str = "") -> AsyncIterator[int]:
        for number in range(upto):
            yield number ^ 1

    @handler
    async def count_and_fail(self, upto: int, code: int, message: str = "") -> AsyncIterator[int]:
        yield 0
        raise RpcError(StatusCode(code), message)


@service("interop")
class ChangesItems(InteropServices):
    @stream_handler
    async def chat(self, stream: Stream) -> None:
        async for item in stream:
            await stream.send([item])


@service("interop")
class DamagesBytes(InteropServices):
    @stream_handler
    async def upload(self, stream: Stream, tag: str) -> dict[str, object]:
        data = b"".join([chunk async for chunk in stream])
        return {"bytes": len(data), "sha256": sha256(data + b"!").hexdigest()}

    @handler
    async def download(self, size: int, seed: int, chunk: int = 65_536) -> AsyncIterator[bytes]:
        async for piece in super().download(size, seed, chunk):
            yield piece[::-1]


@service("interop")
class CallsNobody(InteropServices):
    @handler
    async def call_back(self, method: str, ctx: Context, payload: Any = None) -> dict[str, object]:
        return {"ok": True, "answer": None}

    @handler
    async def call_back_stream(self, method: str, ctx: Context, payload: Any = None) -> list[Any]:
        return []


@service("echostream.health")
class IsIll:
    @handler
    def status(self, service: str = "") -> dict[str, str]:
        return {"status": "NOT_SERVING"}


@service("interop")
class ClosesAtOnce(InteropServices):
    @handler
    async def drain(self, ctx: Context) -> None:
        asyncio.get_running_loop().call_soon(ctx.session.close_now)


BROKEN: dict[str, Callable[[], object]] = {
    "connect": EchoesSomethingElse,
    "echo_values": MakesFloatsOfIntegers,
    "echo_bytes": LosesAByte,
    "message_sizes": CutsLongTexts,
    "sums": AddsOne,
    "concurrent_calls": MixesAnswersUp,
    "answers_out_of_order": ReleasesNothing,
    "statuses": FailsInOneWay,
    "typed_details": ForgetsDetails,
    "crashing_handler": TellsSecrets,
    "unknown_method": OffersTooMuch,
    "wrong_payload": SumsAnything,
    "deadline": CannotBeCancelled,
    "deadline_travels": KnowsNoDeadline,
    "cancellation": CannotBeCancelled,
    "metadata": SortsMetadata,
    "server_stream": CountsWrongly,
    "server_stream_given_up": CountsWrongly,
    "server_stream_failure": CountsWrongly,
    "stream_first": CountsWrongly,
    "client_stream": AddsOne,
    "bidirectional_stream": ChangesItems,
    "raw_upload": DamagesBytes,
    "raw_download": DamagesBytes,
    "calls_beside_bulk": MixesAnswersUp,
    "slow_reader": DamagesBytes,
    "upload_given_up": DamagesBytes,
    "many_streams": CountsWrongly,
    "call_back": CallsNobody,
    "call_back_nested": CallsNobody,
    "call_back_failure": CallsNobody,
    "call_back_stream": CallsNobody,
    "several_connections": CallsNobody,
    "health": IsIll,
    "abrupt_end": CannotBeCancelled,
    "drain": ClosesAtOnce,
}
"""Case → the listener's services."""
