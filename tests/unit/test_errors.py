"""The tree of errors: what is caught with what, and the facts that each one carries."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest

import echostream_core
from echostream_core import errors
from echostream_core.errors import (
    CapabilityError,
    CloseCode,
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    DecodeError,
    Disconnected,
    EchoStreamError,
    EncodeError,
    LimitExceeded,
    PluginError,
    PluginNotFound,
    RemoteError,
    RemoteProtocolError,
    RpcError,
    StatusCode,
    StreamReset,
    TransportError,
)

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__]
ERRORS = [item for item in CLASSES if issubclass(item, Exception)]


def drawn() -> dict[str, str]:
    """Class → parent, from the tree at the top of the module."""
    assert errors.__doc__ is not None
    tree: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.partition("::")[2].splitlines():
        match = re.match(r"( +)([A-Z]\w+)", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        while path and path[-1][0] >= depth:
            path.pop()
        if path:
            tree[name] = path[-1][1]
        path.append((depth, name))
    return tree


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    tree = drawn()
    assert set(tree) == {item.__name__ for item in ERRORS} - {"EchoStreamError"}
    for name, parent in tree.items():
        assert issubclass(getattr(errors, name), getattr(errors, parent)), name
        assert getattr(errors, parent) in getattr(errors, name).__bases__, name


def test_every_error_is_public_and_documented() -> None:
    assert {item.__name__ for item in CLASSES} == set(errors.__all__)
    assert set(errors.__all__) <= set(echostream_core.__all__)
    for item in CLASSES:
        assert item.__doc__


def test_errors_that_are_two_things_at_once() -> None:
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(Disconnected, ConnectionLost)
    assert issubclass(Disconnected, TransportError)
    for item in ERRORS:
        assert issubclass(item, EchoStreamError)


MADE = [
    RpcError(StatusCode.ABORTED, "why", details=[("D", {"a": 1})], retryable=True, not_processed=True, retry_after=1.5),
    RemoteError(StatusCode.NOT_FOUND, "who"),
    DeadlineExceeded("late", not_processed=True),
    Disconnected("gone", not_processed=True, close_code=7),
    LimitExceeded("too much", limit="max_streams", value=5, maximum=4),
    StreamReset("given up", code=9),
    RemoteProtocolError("nonsense", close_code=CloseCode.LIMIT),
    CapabilityError("cannot", capability="datagrams"),
    ConfigError("wrong", key="a.b"),
    EncodeError("no", path="$.a"),
    DecodeError("no", offset=3),
    PluginNotFound("nobody", kind="codec", name="x", known=["json"], closest="json", fix="Install it"),
    PluginError("broken", plugin="p", fix="Mend it"),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_errors_can_be_copied_and_cross_a_process_border(error: Exception) -> None:
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_the_text_names_code_message_and_details() -> None:
    assert str(RpcError(StatusCode.ABORTED)) == "ABORTED"
    assert str(RpcError(StatusCode.ABORTED, "why")) == "ABORTED: why"
    assert str(RpcError(StatusCode.ABORTED, "why", details=[("A", 1), ("B", 2)])) == "ABORTED: why [A, B]"


def test_defaults_claim_nothing() -> None:
    error = RpcError(StatusCode.ABORTED)
    assert (error.details, error.retryable, error.not_processed, error.retry_after) == ((), False, False, 0.0)
    assert not Disconnected("x").retryable
    assert Disconnected("x", not_processed=True).retryable
    assert not DeadlineExceeded("x", not_processed=True).retryable, "there is no time left to try again"
    assert LimitExceeded("x", limit="l", value=1, maximum=0).not_processed


def test_plugin_errors_show_their_code_and_their_fix() -> None:
    error = PluginNotFound("nobody offers x", fix="Install y")
    assert str(error) == "E-NO-PROVIDER: nobody offers x. Install y"
    assert error.problem == "nobody offers x"


def test_the_numbers_are_grpcs() -> None:
    assert [code.name for code in sorted(StatusCode)] == [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ]
    assert sorted(StatusCode) == list(range(17))


def test_plugin_codes_are_unique() -> None:
    codes = [item.code for item in ERRORS if issubclass(item, PluginError) and item is not PluginError]
    assert len(set(codes)) == len(codes)
    assert all(code.startswith("E-") for code in codes)
