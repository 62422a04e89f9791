"""Faults of what a transport says of itself: its spec, its options, and what importing it costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import msgspec

from echostream_core.capabilities import Capabilities
from echostream_core.transport import Transport
from plugins.testkit.tests.mutations.transport_crowded import CrowdedTransport
from plugins.testkit.tests.mutations.transport_heavy import HeavyTransport
from plugins.testkit.tests.mutations.transport_mutation import Mutation, native
from plugins.testkit.tests.mutations.transport_native import LayeredTransport, native_spec

__all__ = ["OPENED", "SPEC_FAULTS"]


class LaxOptions(msgspec.Struct, frozen=True):
    """A misspelt option has no effect, and nobody is told."""

    max_streams: int = 100


class DemandingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """There is no default for what could have one."""

    max_streams: int


class WrongDefaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The default is refused by the check that it must pass."""

    max_streams: int = 0

    def __post_init__(self) -> None:
        if self.max_streams < 1:
            raise ValueError("max_streams must be at least 1")


class Opaque:
    """A type that no file can hold."""


class OpaqueOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An option that no schema can describe."""

    context: Opaque | None = None


class OpenSecret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A secret under a name that does not say so to ``config show``."""

    psk: str = ""


class ClaimsMoreThanItsSpec(LayeredTransport):
    """With these options it claims what the spec rules out."""

    def configured(self, options: msgspec.Struct, capabilities: Capabilities) -> Capabilities:
        return replace(capabilities, migration=True)


OPENED: Final[list[int]] = []
"""Descriptors that a factory has opened; whoever runs a mutation closes them."""


def opens_a_descriptor() -> Transport:
    """A factory that prepares itself for the worst."""
    OPENED.append(os.open(os.devnull, os.O_RDONLY))
    return LayeredTransport()


def makes_no_transport() -> Transport:
    """A factory that gives the class and not an instance."""
    return LayeredTransport  # type: ignore[return-value]  # the fault


def _spec(name: str, caught_by: str, **changes: Any) -> Mutation:
    return Mutation(name=name, spec=replace(native_spec(), **changes), caught_by=(caught_by,))


def _factory(name: str, caught_by: str, factory: Callable[[], Transport]) -> Mutation:
    return Mutation(name=name, spec=native_spec(factory), caught_by=(caught_by,))


def _options(name: str, caught_by: str, options: type[msgspec.Struct]) -> Mutation:
    return Mutation(name=name, spec=native_spec(options=options), caught_by=(caught_by,))


def _disagrees(field: str, negotiated: bool | str) -> Mutation:
    """The connections' record says of one field what the spec does not."""
    record = replace(native_spec().capabilities, **{field: negotiated})  # type: ignore[arg-type]  # a field's value
    check = "test_peer_identity_absent_is_none" if field == "peer_identity" else f"test_{field}_claim_is_negotiated"
    made = native(f"negotiates {field} {negotiated}", check, capabilities=record)
    return replace(made, spec=replace(made.spec, capabilities=native_spec().capabilities))


DISAGREEMENTS: Final = (
    _disagrees("streams", "muxed"),
    _disagrees("datagrams", "emulated"),
    _disagrees("reset", False),
    _disagrees("half_close", False),
    _disagrees("flow_control", False),
    _disagrees("early_data", "replayable"),
    _disagrees("migration", True),
    _disagrees("peer_identity", True),
    _disagrees("encrypted", False),
    _disagrees("socket_handover", True),
    _disagrees("in_process", False),
    _disagrees("priorities", True),
)

SPEC_FAULTS: Final[tuple[Mutation, ...]] = (
    *DISAGREEMENTS,
    _factory("imports its library with its entry module", "test_import_budget", HeavyTransport),
    _factory("imports half of the standard library", "test_import_budget", CrowdedTransport),
    _options("takes unknown options", "test_options_unknown_is_a_config_error", LaxOptions),
    _options("demands an option", "test_options_defaults_are_valid", DemandingOptions),
    _options("has a default that it refuses", "test_options_defaults_are_valid", WrongDefaults),
    _options("has an option without a schema", "test_options_json_schema_can_be_made", OpaqueOptions),
    _options("shows a secret", "test_options_secrets_are_redacted", OpenSecret),
    _spec("has no summary", "test_spec_describes_itself", summary=" "),
    _spec("has a summary of two lines", "test_spec_describes_itself", summary="memory\nwith a layer"),
    _spec("has another scheme than its URL", "test_spec_describes_itself", scheme="Native"),
    _spec("notes what is no capability", "test_spec_describes_itself", notes={"speed": "it is quick"}),
    _factory("opens a descriptor in its factory", "test_spec_describes_itself", opens_a_descriptor),
    _factory("makes no transport", "test_spec_describes_itself", makes_no_transport),
    _factory("claims more than its spec", "test_spec_describes_itself", ClaimsMoreThanItsSpec),
)
