"""A middleware that keeps the contract: it counts what passes, by outcome, and changes nothing."""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec

from echostream_core.middleware import Call, Handler, Middleware, MiddlewareSpec, Reply

__all__ = ["SPEC", "ReferenceMiddleware", "ReferenceOptions", "make_spec"]


class ReferenceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of the reference middleware."""

    count: Literal["all", "failures"] = "all"


class ReferenceMiddleware:
    """See the module's docstring. Mutations override one method."""

    def __init__(self) -> None:
        self.outcomes = {"replies": 0, "errors": 0, "cancelled": 0}

    async def __call__(self, call: Call, following: Handler) -> Reply:
        try:
            reply = await following(call)
        except asyncio.CancelledError:
            self.outcomes["cancelled"] += 1
            raise
        except Exception:
            self.outcomes["errors"] += 1
            raise
        self.outcomes["replies"] += 1
        return reply


def make_spec(middleware: type[ReferenceMiddleware]) -> MiddlewareSpec:
    """A spec that makes ``middleware``."""

    def make(options: msgspec.Struct) -> Middleware:
        assert isinstance(options, ReferenceOptions)
        return middleware()

    return MiddlewareSpec(
        name="reference",
        factory=make,
        options=ReferenceOptions,
        summary="The middleware that the suite is tested with",
    )


SPEC = make_spec(ReferenceMiddleware)
