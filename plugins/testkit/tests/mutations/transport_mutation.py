"""What a mutation is: one fault planted in a correct transport, and the checks that must find it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from echostream_core.builtin.memory import MemoryOptions
from echostream_core.builtin.memory_connection import CAPABILITIES
from echostream_core.capabilities import Capabilities
from echostream_core.transport import TransportSpec
from plugins.testkit.tests.mutations.transport_native import (
    LayeredConnection,
    LayeredListener,
    LayeredSubstream,
    LayeredTransport,
    native_spec,
)
from plugins.testkit.tests.mutations.transport_pipe import (
    PLAIN_CAPABILITIES,
    PlainListener,
    PlainOptions,
    PlainPipe,
    PlainTransport,
    plain_spec,
)

__all__ = ["Mutation", "native", "pipe"]


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One fault."""

    name: str
    """What the faulty transport does, in a few words: the test's id."""
    spec: TransportSpec
    caught_by: tuple[str, ...]
    """The checks whose business this is: each of them must fail."""


def native(
    name: str,
    *caught_by: str,
    substream: type[LayeredSubstream] = LayeredSubstream,
    connection: type[LayeredConnection] = LayeredConnection,
    listener: type[LayeredListener] = LayeredListener,
    transport: type[LayeredTransport] = LayeredTransport,
    capabilities: Capabilities = CAPABILITIES,
    options: type[msgspec.Struct] = MemoryOptions,
) -> Mutation:
    """A fault in the native transport: what is faulty is given, the rest is correct."""

    connections = type("FaultyConnection", (connection,), {"substream_class": substream})
    parts = {"connection_class": connections, "listener_class": listener, "capabilities": capabilities}
    factory = type("FaultyTransport", (transport,), parts)
    return Mutation(name=name, spec=native_spec(factory, capabilities, options), caught_by=caught_by)


def pipe(
    name: str,
    *caught_by: str,
    pipe: type[PlainPipe] = PlainPipe,
    listener: type[PlainListener] = PlainListener,
    transport: type[PlainTransport] = PlainTransport,
    capabilities: Capabilities = PLAIN_CAPABILITIES,
    options: type[msgspec.Struct] = PlainOptions,
) -> Mutation:
    """A fault in the pipe transport, likewise."""

    pipes = type("FaultyPipe", (pipe,), {"capabilities": capabilities})
    factory = type("FaultyTransport", (transport,), {"pipe_class": pipes, "listener_class": listener})
    return Mutation(name=name, spec=plain_spec(factory, capabilities, options), caught_by=caught_by)
